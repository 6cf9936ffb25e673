"""``PYTHONPATH=. pytest``; needs ``pip install 'txgateway[testing]'``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from gateway_signature import NotSigned, sign, verify
from signing import Signing
from txgateway.testing import GatewayHarness, Received, Refuse, Response
from txgateway.testing.laws import assert_middleware_laws
from txgateway.testing.plugin import MakeHarness

ROUTES = Path(__file__).parent / "routes.toml"
SECRET = "0123456789abcdef0123456789abcdef"
NAMES = ("X-User-Id", "Content-Type")
FIELDS = {"X-User-Id": "alice", "Content-Type": "text/plain", "X-Other": "1"}


def test_laws() -> None:
    settings = {"secret": SECRET, "headers": ["X-A", "Cookie"]}
    assert_middleware_laws(Signing, settings=settings, changes_request_headers=["X-Signature", "X-Signature-Timestamp"])


@pytest.fixture
def gateway(gateway_harness: MakeHarness) -> GatewayHarness:
    return gateway_harness(routes_file=ROUTES, environment={"GATEWAY_MIDDLEWARE_SIGNING_SECRET": SECRET})


def sent(gateway: GatewayHarness, **headers: str) -> Received:
    """What the backend gets of an ordinary request."""
    assert gateway.ask("POST", "/orders?of=7", FIELDS | headers, b"body").status == 200
    return gateway.backends["orders"].received[-1]


def judge(gateway: GatewayHarness, received: Received, **others: Any) -> None:
    """What the backend does."""
    options: dict[str, Any] = {"now_s": gateway.epoch_s(), "names": NAMES} | others
    secrets = options.pop("secrets", [SECRET.encode()])
    verify(secrets, received.method, received.target, received.headers, **options)


def test_what_the_gateway_sends_is_good(gateway: GatewayHarness) -> None:
    received = sent(gateway)
    judge(gateway, received)
    judge(gateway, received, secrets=[b"the next one, which is not in use yet", SECRET.encode()])
    text = {name.decode(): value.decode() for name, value in received.headers}
    verify([SECRET.encode()], "POST", "/orders?of=7", text.items(), now_s=gateway.epoch_s(), names=NAMES)


def test_every_attempt_is_signed(gateway: GatewayHarness) -> None:
    gateway.backends["orders"].script = [Refuse(), Response(200)]
    answer = gateway.ask("GET", "/orders", FIELDS)
    assert (answer.status, answer.attempts) == (200, 2)
    judge(gateway, gateway.backends["orders"].received[-1])


def test_prefix_that_the_route_strips_is_signed(gateway_harness: MakeHarness) -> None:
    document = tomllib.loads(ROUTES.read_text("utf-8"))
    document["routes"][0] |= {"path": "/orders", "strip_prefix": True}
    gateway = gateway_harness(document, environment={"GATEWAY_MIDDLEWARE_SIGNING_SECRET": SECRET})
    gateway.ask("GET", "/orders/7?x=1")
    received = gateway.backends["orders"].received[-1]
    assert received.target == b"/7?x=1"
    received.target = b"/orders" + received.target
    judge(gateway, received)


def change(received: Received, what: str) -> None:
    if what == "method":
        received.method = b"DELETE"
    elif what in {"path", "query"}:
        received.target = {"path": b"/orderz?of=7", "query": b"/orders?of=8"}[what]
    elif what == "another":
        received.headers.append((b"x-user-id", b"bob"))
    elif what.startswith("no "):
        received.headers = [field for field in received.headers if field[0].lower() != what[3:].encode()]
    else:
        name, _, value = what.partition("=")
        changed = [field for field in received.headers if field[0].lower() != name.encode()]
        assert len(changed) == len(received.headers) - 1
        received.headers = [*changed, (name.encode(), value.encode())]


@pytest.mark.parametrize(
    "what",
    ["method", "path", "query", "another", "no x-user-id", "no content-type", "no x-signature", "no x-signature-timestamp",
     "no x-request-id", "x-user-id=bob", "content-type=", "x-request-id=1", "x-signature=0", "x-signature=é",
     "x-signature-timestamp=1799999999", "x-signature-timestamp=soon"],
)  # fmt: skip
def test_tampered_request_is_refused(gateway: GatewayHarness, what: str) -> None:
    received = sent(gateway)
    change(received, what)
    with pytest.raises(NotSigned):
        judge(gateway, received)


def test_body_and_other_headers_are_not_signed(gateway: GatewayHarness) -> None:
    received = sent(gateway)
    received.body = b"another"
    change(received, "x-other=2")
    judge(gateway, received)


def test_other_secret_or_names_are_refused(gateway: GatewayHarness) -> None:
    received = sent(gateway)
    wrong: list[dict[str, Any]] = [{"secrets": [SECRET[::-1].encode()]}, {"names": NAMES[:1]}, {"secrets": []}]
    for others in wrong:
        with pytest.raises(NotSigned):
            judge(gateway, received, **others)
    with pytest.raises(NotSigned, match="latin-1"):
        verify([SECRET.encode()], "POST", "/\u2603", received.headers, now_s=gateway.epoch_s(), names=NAMES)


def test_window(gateway: GatewayHarness) -> None:
    received = sent(gateway)
    signed_at = int(received.header(b"x-signature-timestamp") or b"0")
    assert signed_at == int(gateway.epoch_s())
    for offset_s in (-300, 300):
        judge(gateway, received, now_s=signed_at + offset_s)
    for offset_s in (-301, 301):
        with pytest.raises(NotSigned, match="too long ago"):
            judge(gateway, received, now_s=signed_at + offset_s)


@pytest.mark.parametrize("name", ["X-Signature", "x-signature", "X.Signature"])
def test_clients_own_is_dropped(gateway: GatewayHarness, name: str) -> None:
    received = sent(gateway, **{name: "forged", "X-Signature-Timestamp": "1"})
    judge(gateway, received)
    assert b"forged" not in [value for _, value in received.headers]


def test_client_cannot_have_it_dropped(gateway: GatewayHarness) -> None:
    judge(gateway, sent(gateway, Connection="X-Signature, X-Signature-Timestamp"))


def test_lines_cannot_be_mistaken_for_each_other() -> None:
    made = {
        sign(b"k", "GET", target, 1, "id", fields, names)
        for target, fields, names in (
            ("/", [("a", "b")], ["a"]),
            ("/", [("a", "")], ["a"]),
            ("/", [], ["a"]),
            ("/a:b", [], ["a"]),
            ("/", [("a", "1"), ("a", "2")], ["a"]),
            ("/", [("a", "1"), ("b", "2")], ["a", "b"]),
        )
    }
    assert len(made) == 6


def test_settings() -> None:
    assert SECRET not in repr(Signing.Settings.model_validate({"secret": SECRET}))
    for wrong in (
        {},
        {"secret": "x" * 31},
        {"secret": SECRET, "headers": ["Host"]},
        {"secret": SECRET, "headers": ["a b"]},
    ):
        with pytest.raises(ValidationError):
            Signing.Settings.model_validate(wrong)
