"""Four things that HTTP client libraries do for their users, and that a proxy must not do."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import pytest
from tests.integration.backend import ScriptedBackend, answer
from tests.integration.harness import Gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway"), {"GATEWAY_BACKEND_TARGET": module_backend.url}) as running:
        yield running


def test_cookies_of_one_client_are_not_sent_for_another(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(
        b"HTTP/1.1 200 OK\r\nSet-Cookie: session=alice; Path=/\r\nSet-Cookie: second=1\r\nContent-Length: 0\r\n\r\n"
    )
    response = gateway.get("/", "Cookie: mine=1; other=2")
    assert response.headers("Set-Cookie") == ["session=alice; Path=/", "second=1"]
    alice = backend.received()
    gateway.get("/")
    bob = backend.received()
    assert (alice.headers("Cookie"), bob.headers("Cookie")) == (["mine=1; other=2"], [])
    assert alice.connection == bob.connection


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_passed_on_and_not_followed(gateway: Gateway, backend: ScriptedBackend, status: int) -> None:
    location = f"{backend.url}/elsewhere"
    backend.script = answer(f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    response = gateway.get("/")
    assert (response.status, response.header("Location")) == (status, location)
    assert backend.received().target == b"/"
    assert not backend.has_received()


def test_coded_bodies_are_passed_on_as_they_are(gateway: Gateway, backend: ScriptedBackend) -> None:
    body = gzip.compress(b"hello" * 100)
    backend.script = answer(
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    response = gateway.get("/", "Accept-Encoding: gzip;q=0.5, br")
    assert (response.header("Content-Encoding"), response.body) == ("gzip", body)
    assert backend.received().headers("Accept-Encoding") == ["gzip;q=0.5, br"]
    gateway.get("/")
    plain = backend.received()
    assert plain.headers("Accept-Encoding") + plain.headers("User-Agent") + plain.headers("Accept") == []


@pytest.mark.parametrize(
    "target",
    [b"/a|b?x=%7E;y", b"/a?", b"//x", b"/a%2Fb", b"/a%2fb", b"/%61%C3%A9", b"/a;p=1/b;q", b"/a//b///", b"/?a=/../b",
     b"/?a=b?c=d", b"/a'()*,!$&=:@~", b"/a?%zz&%", b"/a?[]{}\"<>^`|", b"/a%20b+c?d+e%20f", b"/" + b"a" * 7000],
)  # fmt: skip
def test_target_reaches_the_backend_byte_for_byte(gateway: Gateway, backend: ScriptedBackend, target: bytes) -> None:
    assert gateway.get(target.decode()).status == 200
    assert backend.received().target == target
