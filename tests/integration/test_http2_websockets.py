"""WebSockets of HTTP/1.1 clients to targets that speak HTTP/2: by extended CONNECT where they take it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme
from tests.integration.backend import Exchange
from tests.integration.client import Client
from tests.integration.h2_backend import H2Backend, H2Exchange, echo, server_context
from tests.integration.h2_frames import (
    DATA,
    HEADERS,
    PING,
    RST_STREAM,
    FrameWire,
    connected,
    data_frame,
    ping,
    request_fields,
)
from tests.integration.harness import ONE_ATTEMPT, Gateway, routes, wait_until
from tests.integration.problems import assert_problem


@pytest.fixture(scope="module")
def backends(authority: trustme.CA) -> Iterator[dict[str, H2Backend]]:
    """By the name of their route."""
    with ExitStack() as stack:
        made = {
            "chat": H2Backend(takes_connect=True),
            "mute": H2Backend(),
            "tls": H2Backend(tls=server_context(authority, "h2", "http/1.1")),
            "one": H2Backend(tls=server_context(authority, "h2", "http/1.1")),
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
            "chat": {"targets": [backends["chat"].url]},
            "mute": {"targets": [backends["mute"].url]},
            "tls": {"targets": [backends["tls"].url], **tls},
            "one": {
                "targets": [backends["one"].url],
                "pool": {"max_connections": 1, "pending_timeout": "200ms"},
                **tls,
            },
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


@pytest.mark.parametrize("who", ["client", "target"])
def test_websocket_ends_with_the_end_of_both_streams(
    gateway: Gateway, backends: dict[str, H2Backend], who: str
) -> None:
    """RFC 8441 section 5: what TCP says with FIN is END_STREAM, and nobody resets anything."""
    seen: list[tuple[bytes, int | None]] = []

    def serve(exchange: H2Exchange) -> None:
        exchange.send_head(200)
        if who == "target":
            exchange.send_data(b"bye", ends=True)
        body = exchange.read_body()
        if who == "client":
            exchange.send_data(b"bye", ends=True)
        seen.append((body, exchange.reset_code))

    backends["chat"].handler = serve
    with FrameWire(connected(gateway.port)) as wire:
        wire.greet()
        connect = [(":method", "CONNECT"), (":protocol", "websocket"), *request_fields("GET", "/chat")[1:]]
        wire.send_headers(1, [*connect, ("sec-websocket-version", "13")], ends=False)
        assert dict(wire.fields_of(wire.read_kind(HEADERS, 1)))[":status"] == "200"
        if who == "client":
            wire.send(data_frame(1, b"hello", ends=True))
        last = wire.read_frames_until(lambda one: one.stream == 1 and one.ends_stream)[-1]
        assert last.kind == DATA
        if who == "target":
            wire.send(data_frame(1, ends=True))
        wire.send(ping())
        frames = wire.read_frames_until(lambda one: one.kind == PING and one.is_ack)
        assert RST_STREAM not in {one.kind for one in frames}
    wait_until(lambda: bool(seen), "the target's end")
    assert seen == [(b"hello" if who == "client" else b"", None)]
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


def test_websockets_and_requests_have_one_limit(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    one = backends["one"]

    def switch(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        exchange.wait_until_left()

    one.script = switch
    assert gateway.get("/one").status == 200
    with gateway.client() as client:
        upgrade(client, "/one/chat")  # in the place of the connection that is idle
        assert client.read_head().status == 101
        assert_problem(gateway, gateway.get("/one"), 503, "POOL_EXHAUSTED", proxy_error="connection_limit_reached")
    gateway.wait_until_free()
    assert gateway.get("/one").status == 200
    assert [one.received().version, one.received_over_http1().version] == ["HTTP/2", "HTTP/1.1"]
    assert one.received().version == "HTTP/2"
