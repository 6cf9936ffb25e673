"""WebSockets of HTTP/1.1 clients to targets that speak HTTP/2: by extended CONNECT where they take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme
from tests.integration.client import Client
from tests.integration.h2_backend import H2Backend, echo, server_context
from tests.integration.harness import ONE_ATTEMPT, Gateway, routes
from tests.integration.problems import assert_problem


@pytest.fixture(scope="module")
def backends(authority: trustme.CA) -> Iterator[dict[str, H2Backend]]:
    """By the name of their route."""
    with ExitStack() as stack:
        made = {
            "chat": H2Backend(takes_connect=True),
            "mute": H2Backend(),
            "tls": H2Backend(tls=server_context(authority, "h2", "http/1.1")),
        }
        for backend in made.values():
            stack.enter_context(backend)
        yield made
        assert not any(backend.faults for backend in made.values())


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, backends: dict[str, H2Backend], authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    ca_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    tls = {"tls": {"ca_file": str(ca_file)}}
    document = {
        "backends": {
            name: {"targets": [backend.url], **(tls if name == "tls" else {})} for name, backend in backends.items()
        },
        "routes": [{"name": name, "path": f"/{name}", "backend": name, "upgrades": ["websocket"]} for name in backends],
    }
    with Gateway(directory, {**ONE_ATTEMPT, **routes(document)}) as running:
        yield running


def upgrade(client: Client, path: str) -> None:
    client.send(
        f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )


def test_websocket_is_an_extended_connect(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    backend = backends["chat"]
    backend.handler = echo
    with gateway.client() as client:
        upgrade(client, "/chat/room")
        head = client.read_head()
        assert (head.status, head.header("Upgrade"), head.header("Connection")) == (101, "websocket", "Upgrade")
        assert head.header("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert head.header("Via") == "2 txgateway"
        client.send(b"\x81\x83\0\0\0\0one")
        assert client.read_exactly(9) == b"\x81\x83\0\0\0\0one"
    received = backend.received()
    assert (received.pseudo[":protocol"], received.method, received.target) == ("websocket", "CONNECT", b"/chat/room")
    assert received.header("sec-websocket-version") == "13"
    assert received.header("sec-websocket-key") is None
    gateway.wait_until_free()


def test_websocket_that_is_refused(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    backends["chat"].handler = lambda exchange: exchange.answer(b"not here", 403)
    with gateway.client() as client:
        upgrade(client, "/chat")
        response = client.read_response()
    assert (response.status, response.body) == (403, b"not here")


def test_websocket_to_a_target_that_takes_none(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    with gateway.client() as client:
        upgrade(client, "/mute")
        response = client.read_response()
    assert_problem(gateway, response, 502, "UPSTREAM_PROTOCOL_ERROR", proxy_error="http_protocol_error")
    assert gateway.get("/mute").status == 200


def test_websocket_falls_back_to_http1(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    tls = backends["tls"]
    assert gateway.get("/tls").status == 200  # over HTTP/2, which cannot do it here
    tls.received()
    with gateway.client() as client:
        upgrade(client, "/tls/chat")
        assert client.read_response().status == 200  # whatever the answer: it was asked
    received = tls.received_over_http1()
    assert (received.target, received.header("Upgrade")) == (b"/tls/chat", "websocket")
