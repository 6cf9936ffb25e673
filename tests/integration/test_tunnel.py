"""Upgrades: WebSocket through the gateway to the demo backend, and opaque bytes to a scripted one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from tests.integration.backend import Exchange, ScriptedBackend, answer, answer_and_close
from tests.integration.client import Client
from tests.integration.harness import Gateway, routes
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Pong, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\nX-More: 1\r\n\r\n"
MIB = 2**20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    document = {
        "backends": {"main": {"targets": [module_backend.url]}, "demo": {"targets": ["demo"]}},
        "routes": [
            {"name": "demo", "path": "/", "backend": "demo", "upgrades": ["websocket"]},
            {"name": "echo", "path": "/echo", "backend": "main", "upgrades": ["echo", "websocket"]},
            {"name": "hasty", "path": "/hasty", "backend": "main", "upgrades": ["echo"], "timeout": {"idle": "300ms"}},
            {"name": "plain", "path": "/plain", "backend": "main"},
        ],
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), routes(document)) as running:
        yield running


def ask(path: str, *, upgrade: str = "echo", more: bytes = b"") -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: %b\r\n\r\n%b" % (
        path.encode(), upgrade.encode(), more,
    )  # fmt: skip


def shout(exchange: Exchange) -> None:
    """Switch, then send everything back in capitals until the gateway leaves."""
    exchange.send(SWITCH)
    while data := exchange.read_some():
        exchange.send(data.upper())
    exchange.close()


def opened(gateway: Gateway, path: str) -> Client:
    client = gateway.client()
    client.send(ask(path))
    assert client.read_head().status == 101
    return client


# --- WebSocket -------------------------------------------------------------------------------------------------------------


class WebSocket:
    """A client of a real WebSocket library."""

    def __init__(self, gateway: Gateway, path: str, extensions: list[PerMessageDeflate] | None = None) -> None:
        self.client = gateway.client()
        self.connection = WSConnection(ConnectionType.CLIENT)
        request = Request(host="x", target=path, extensions=list(extensions or []))
        self.client.send(self.connection.send(request))
        self.accepted = self.event(AcceptConnection)

    def send(self, event: TextMessage | BytesMessage | Ping | CloseConnection) -> None:
        self.client.send(self.connection.send(event))

    def event(self, *kinds: type[Event]) -> Event:
        while True:
            for event in self.connection.events():
                assert isinstance(event, kinds), event
                return event
            self.connection.receive_data(self.client.read_some() or None)

    def message(self) -> str | bytes:
        whole: Any = None
        while True:
            event = self.event(TextMessage, BytesMessage)
            assert isinstance(event, TextMessage | BytesMessage)
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                assert isinstance(whole, str | bytes | bytearray)
                return whole if isinstance(whole, str) else bytes(whole)


def test_web_socket_to_the_demo_echoes(gateway: Gateway) -> None:
    socket = WebSocket(gateway, "/ws")
    for text in ("grüß", "x" * 200_000, ""):
        socket.send(TextMessage(data=text))
        assert socket.message() == text
    sent = os.urandom(MIB // 4)
    socket.send(BytesMessage(data=sent))
    assert socket.message() == sent
    socket.send(Ping(payload=b"p"))
    assert isinstance(socket.event(Pong), Pong)
    assert gateway.metric("gateway_connections", protocol="tunnel") == 1
    socket.send(CloseConnection(code=1000))
    socket.event(CloseConnection)
    socket.client.close()
    line = gateway.access_line_at("/ws")
    assert (line["status"], line["reason"], line["level"], line["route"]) == (101, None, "INFO", "demo")
    assert line["bytes_in"] > len(sent)
    assert line["bytes_out"] > len(sent)
    gateway.wait_for_metric("gateway_connections", 0, protocol="tunnel")
    gateway.wait_until_free()


def test_handshake_passes_untouched_both_ways(gateway: Gateway, backend: ScriptedBackend) -> None:
    extension = "permessage-deflate; client_max_window_bits"
    backend.script = lambda exchange: exchange.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: abc\r\nSec-WebSocket-Extensions: permessage-deflate\r\nServer: s\r\n\r\n"
    )
    fields = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13",
              "Sec-WebSocket-Protocol": "chat, superchat", "Sec-WebSocket-Extensions": extension,
              "Origin": "http://example.com"}  # fmt: skip
    with gateway.client() as client:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
        client.send(
            b"GET /echo/hs HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n%b\r\n"
            % lines
        )
        head = client.read_head()
    received = backend.received()
    assert {name: received.header(name) for name in fields} == fields
    assert (received.header("Connection") or "").lower() == "upgrade"
    assert (received.header("Upgrade") or "").lower() == "websocket"
    assert head.status == 101
    assert (head.header("Upgrade"), head.header("Connection")) == ("websocket", "Upgrade")
    assert (head.header("Sec-WebSocket-Accept"), head.header("Sec-WebSocket-Extensions")) == (
        "abc",
        "permessage-deflate",
    )
    assert head.header("X-Request-ID") == received.header("X-Request-ID")
    assert head.header("Content-Length") is head.header("Transfer-Encoding") is None


# --- bytes -------------------------------------------------------------------------------------------------------------------


def test_early_bytes_of_both_sides_are_kept(gateway: Gateway, backend: ScriptedBackend) -> None:
    def hello(exchange: Exchange) -> None:
        exchange.send(SWITCH + b"hello")
        assert exchange.read_exactly(5) == b"early"
        exchange.send(b"bye")
        exchange.close()

    backend.script = hello
    with gateway.client() as client:
        client.send(ask("/echo/early", more=b"early"))
        head = client.read_head()
        assert (head.status, head.header("X-More")) == (101, "1")
        assert client.read_to_end() == b"hellobye"
    line = gateway.access_line_at("/echo/early")
    assert (line["status"], line["bytes_in"], line["bytes_out"]) == (101, 5, 8)


def test_many_bytes_pass_both_ways_in_order(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = shout
    data = bytes(range(97, 123)) * (8 * MIB // 26)
    with opened(gateway, "/echo/many") as client:
        got = b""
        for at in range(0, len(data), MIB):
            piece = data[at : at + MIB]
            client.send(piece)
            got += client.read_exactly(len(piece))
    assert got == data.upper()


def test_slow_reader_of_a_tunnel_slows_the_other_side_down(gateway: Gateway, backend: ScriptedBackend) -> None:
    taken: list[int] = []

    def pour(exchange: Exchange) -> None:
        exchange.send(SWITCH)
        taken.append(exchange.send_while_taken(b"x" * 65536, 128 * MIB, 0.7))
        exchange.close()

    backend.script = pour
    with Client(gateway.port, receive_bytes=4096) as client:
        client.send(ask("/echo/slow"))
        client.read_until(b"\r\n\r\n")
        backend.wait_until_closed()
        assert len(client.read_to_end()) == taken[0] < 40 * MIB


def test_end_of_either_side_ends_the_other(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = shout
    with opened(gateway, "/echo/left"):
        pass
    backend.wait_until_closed()
    assert gateway.access_line_at("/echo/left")["reason"] is None
    client = opened(gateway, "/echo/reset")
    client.reset()
    backend.wait_until_closed()
    backend.script = answer_and_close(SWITCH + b"bye")
    with opened(gateway, "/echo/ended") as client:
        assert client.read_to_end() == b"bye"
    gateway.wait_until_free()


def test_silent_tunnel_is_closed(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = shout
    with opened(gateway, "/hasty/tunnel") as client:
        for _ in range(3):  # what moves is kept
            client.send(b"a")
            assert client.read_exactly(1) == b"A"
        assert client.is_gone()
    backend.wait_until_closed()
    line = gateway.access_line_at("/hasty/tunnel")
    assert (line["status"], line["reason"]) == (101, "UPSTREAM_TIMEOUT")
    gateway.wait_until_free()


# --- no tunnel -----------------------------------------------------------------------------------------------------------------


def test_answer_other_than_101_is_relayed_and_the_connection_kept(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    with gateway.client() as client:
        client.send(ask("/echo/no"))
        response = client.read_response()
        assert (response.status, response.body) == (403, b"no")
        backend.script = answer()
        client.send(b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_response().body == b"ok"


@pytest.mark.parametrize(("path", "upgrade"), [("/plain", "websocket"), ("/echo", "h2c")])
def test_upgrade_that_is_not_allowed_becomes_an_ordinary_request(
    gateway: Gateway, backend: ScriptedBackend, path: str, upgrade: str
) -> None:
    with gateway.client() as client:
        client.send(ask(path, upgrade=upgrade))
        assert client.read_response().body == b"ok"
        client.send(b"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_response().body == b"ok"
    received = backend.received()
    assert received.headers("Upgrade") + received.headers("Connection") == []


def test_upgrade_of_an_http_1_0_client_is_ignored(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.ask(b"GET /echo HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert response.body == b"ok"
    assert backend.received().headers("Upgrade") == []


def test_switch_that_nobody_asked_for_is_no_tunnel(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(SWITCH)
    response = gateway.get("/plain")
    assert (response.status, response.json()["reason"]) == (502, "UPSTREAM_PROTOCOL_ERROR")
