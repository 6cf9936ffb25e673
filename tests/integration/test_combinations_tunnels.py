"""WebSockets, by Upgrade and by extended CONNECT, in all four combinations of versions."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from tests.integration.combinations import Combination
from tests.integration.combined_client import Call, Caller, H1Caller, H2Caller
from tests.integration.combined_target import H2Served, Served
from tests.integration.h2_backend import H2Backend
from tests.integration.h2_client import H2Client
from tests.integration.h2_link import StreamReset
from tests.integration.harness import Gateway, routes
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage

MIB = 2**20


def opened(combination: Combination, path: str, caller: Caller | None = None) -> tuple[Call, Served]:
    """Both ends of a tunnel."""
    call = (caller or combination.caller()).upgrade(path)
    served = combination.target.next()
    served.switch()
    assert call.head().status == (101 if combination.front == "h1" else 200)
    return call, served


def assert_over(combination: Combination, path: str, bytes_in: int, bytes_out: int) -> None:
    line = combination.line(path)
    assert (line["status"], line["reason"], line["level"]) == (101, None, "INFO")
    assert (line["bytes_in"], line["bytes_out"]) == (bytes_in, bytes_out)
    combination.gateway.wait_for_metric("gateway_connections", 0, protocol="tunnel")
    combination.assert_free()


# --- the handshake -------------------------------------------------------------------------------------------------------


def test_handshake(combination: Combination) -> None:
    fields = {
        "Sec-WebSocket-Protocol": "chat, superchat", "Sec-WebSocket-Extensions": "permessage-deflate",
        "Origin": "http://example.com", "Cookie": "a=1", "X-Mine": "1",
    }  # fmt: skip
    call = combination.caller().upgrade(path := combination.path("ws"), *fields.items())
    served = combination.target.next()
    assert {name: served.request.header(name) for name in fields} == fields
    assert served.request.header("Sec-WebSocket-Version") == "13"
    assert served.request.target == path.encode()
    if isinstance(served, H2Served):
        assert served.request.pseudo == {
            ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":path": path, ":authority": served.host,
        }  # fmt: skip
        assert not {"upgrade", "connection", "sec-websocket-key", "host"} & {name for name, _ in served.request.fields}
    else:
        assert served.request.method == "GET"
        assert (served.request.header("Upgrade") or "").lower() == "websocket"
        assert (served.request.header("Connection") or "").lower() == "upgrade"
        assert len(served.request.header("Sec-WebSocket-Key") or "") == 24
    served.switch(("Sec-WebSocket-Protocol", "chat"), ("X-Theirs", "2"))
    head = call.head()
    assert (head.header("Sec-WebSocket-Protocol"), head.header("X-Theirs")) == ("chat", "2")
    assert head.header("X-Request-ID") == served.request.header("X-Request-ID")
    assert head.header("Content-Length") is head.header("Transfer-Encoding") is None
    if combination.front == "h1":
        assert head.status == 101
        # Of the key in RFC 6455 section 1.3, which is the client's here.
        assert head.header("Sec-WebSocket-Accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (head.header("Upgrade"), head.header("Connection")) == ("websocket", "Upgrade")
    else:
        assert head.status == 200
        assert head.header("Sec-WebSocket-Accept") is head.header("Upgrade") is head.header("Connection") is None


def test_refusal_by_the_target_is_an_ordinary_answer(combination: Combination) -> None:
    path, caller = combination.path("ws"), combination.caller()
    call = caller.upgrade(path)
    served = combination.target.next()
    served.head(403, length=2)
    served.send(b"no")
    served.end()
    response = call.response()
    assert (response.status, response.body) == (403, b"no")
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (403, None)
    combination.target.handler = Served.answer
    assert caller.ask("GET", combination.path()).body == b"ok"  # the connection goes on
    combination.assert_free()


def test_route_without_upgrades(combination: Combination) -> None:
    """By HTTP/1.1 an Upgrade may be ignored; an extended CONNECT is nothing else."""
    path, caller = combination.path("plain"), combination.caller()
    combination.target.handler = Served.answer
    response = caller.upgrade(path).response()
    if combination.front == "h1":
        assert (response.status, response.body) == (200, b"ok")
        assert not combination.target.next().request.headers("Upgrade")
    else:
        assert (response.status, json.loads(response.body)["reason"]) == (501, "METHOD_NOT_IMPLEMENTED")
        assert not combination.target.has_next()
    assert combination.line(path)["status"] == response.status
    assert caller.ask("GET", combination.path()).body == b"ok"


def test_target_that_answers_200_has_not_switched(combination: Combination) -> None:
    path, caller = combination.path("ws"), combination.caller()
    call = caller.upgrade(path)
    served = combination.target.next()
    if combination.behind == "h2":  # there it is how one switches: a GET that follows is none of a tunnel
        served.switch()
        assert call.head().status == (101 if combination.front == "h1" else 200)
        return
    served.head_only(200, ("Content-Length", "0"))
    response = call.response()
    if combination.front == "h1":
        assert (response.status, response.body) == (200, b"")
    else:  # to whom 200 would be a tunnel
        assert (response.status, json.loads(response.body)["reason"]) == (502, "UPSTREAM_PROTOCOL_ERROR")
    combination.target.handler = Served.answer
    assert caller.ask("GET", combination.path()).body == b"ok"
    combination.gateway.wait_for_metric("gateway_connections", 0, protocol="tunnel")
    combination.assert_free()


def test_target_that_breaks_off_before_it_switches(combination: Combination) -> None:
    path, caller = combination.path("ws"), combination.caller()
    combination.target.handler = lambda served: served.cut()  # again, if the connection was not a new one
    response = caller.upgrade(path).response()
    assert (response.status, json.loads(response.body)["reason"]) == (502, "UPSTREAM_RESET")
    assert combination.line(path)["reason"] == "UPSTREAM_RESET"
    combination.assert_free()


# --- bytes ---------------------------------------------------------------------------------------------------------------


def test_bytes_pass_both_ways_as_they_come(combination: Combination) -> None:
    path = combination.path("ws")
    call, served = opened(combination, path)
    assert combination.gateway.metric("gateway_connections", protocol="tunnel") == 1
    for number in range(3):
        call.send(b"ping%d" % number)
        assert served.read(5) == b"ping%d" % number
        served.send(b"pong%d" % number)
        assert call.read(5) == b"pong%d" % number
    call.end()
    assert served.rest().endswith(b"ping2")
    assert_over(combination, path, 15, 15)


def test_target_may_speak_first(combination: Combination) -> None:
    call = combination.caller().upgrade(combination.path("ws"))
    served = combination.target.next()
    served.switch()
    served.send(b"welcome")
    assert call.read(7) == b"welcome"
    served.end()


def test_client_may_speak_before_it_has_an_answer(combination: Combination) -> None:
    """What it says is kept until there is a tunnel."""
    call = combination.caller().upgrade(combination.path("ws"))
    served = combination.target.next()
    call.send(b"hasty")
    served.switch()
    assert call.head().status in {101, 200}
    assert served.read(5) == b"hasty"
    call.send(b"later")
    assert served.read(5) == b"later"


def test_many_bytes_pass_both_ways_in_order(combination: Combination) -> None:
    size, count = 128 * 1024, 16

    def shout(served: Served) -> None:
        served.switch()
        for _ in range(count):
            served.send(served.read(size).upper())
        assert served.rest()

    combination.target.handler = shout
    call = combination.caller().upgrade(path := combination.path("ws"))
    assert call.head().status in {101, 200}
    for number in range(count):
        piece = bytes([97 + number]) * size
        call.send(piece)
        assert call.read(size) == piece.upper()
    call.end()
    assert_over(combination, path, size * count, size * count)


def test_client_that_does_not_read_pauses_the_target(combination: Combination) -> None:
    taken: list[int] = []
    is_stuck = threading.Event()

    def pour(served: Served) -> None:
        served.switch()
        taken.append(served.send_while_taken(64 * MIB))
        is_stuck.set()
        served.send(b"end")
        served.end()

    combination.target.handler = pour
    before = combination.gateway.resident_bytes()
    call = combination.caller(receive_bytes=64 * 1024).upgrade(combination.path("ws"))
    call.head()
    call.stall()
    assert is_stuck.wait(10)
    assert taken[0] < (8 * MIB if combination.behind == "h2" else 40 * MIB)
    assert combination.gateway.resident_bytes() - before < 8 * MIB
    call.resume()
    left = taken[0]
    while left:
        size = min(left, MIB)
        assert call.read(size).count(0) == size
        left -= size
    assert call.read(3) == b"end"
    combination.assert_free()


# --- the end -------------------------------------------------------------------------------------------------------------


def test_end_by_the_client(combination: Combination) -> None:
    """Of its half, so of both: what it wrote arrives, then the end."""
    path = combination.path("ws")
    call, served = opened(combination, path)
    call.send(b"x" * 100_000)
    call.end()
    assert served.rest() == b"x" * 100_000
    assert_over(combination, path, 100_000, 0)


def test_end_by_the_target(combination: Combination) -> None:
    path, caller = combination.path("ws"), combination.caller()
    call, served = opened(combination, path, caller)
    served.send(b"x" * 30_000)
    served.end()
    assert call.response().body == b"x" * 30_000
    caller.close()
    assert_over(combination, path, 0, 30_000)


@pytest.mark.parametrize("how", ["leave", "vanish"])
def test_client_leaves(combination: Combination, how: str) -> None:
    path, caller = combination.path("ws"), combination.caller()
    call, served = opened(combination, path, caller)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    call.leave() if how == "leave" else caller.vanish()
    assert served.rest() == b""
    assert_over(combination, path, 0, 3)


@pytest.mark.parametrize("how", ["cut", "vanish"])
def test_target_leaves(combination: Combination, how: str) -> None:
    path, caller = combination.path("ws"), combination.caller()
    call, served = opened(combination, path, caller)
    call.send(b"abc")
    assert served.read(3) == b"abc"
    served.cut_or_vanish(how)
    if combination.front == "h1":
        assert caller.is_gone()
        caller.close()
    else:
        wait_for_end(call)
        combination.target.handler = Served.answer
        assert caller.ask("GET", combination.path()).body == b"ok"  # other streams go on
    assert_over(combination, path, 3, 0)


def wait_for_end(call: Call) -> None:
    """Of a stream, in whatever way: there is no telling a whole tunnel from half of one."""
    with suppress(StreamReset):
        call.response()


def test_silent_tunnel_is_closed(combination: Combination) -> None:
    path, caller = combination.path("ws-idle"), combination.caller()
    call, served = opened(combination, path, caller)
    call.send(b"a")
    assert served.read(1) == b"a"
    assert call.is_cut()
    served.wait_until_left()
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (101, "UPSTREAM_TIMEOUT")
    combination.gateway.wait_for_metric("gateway_connections", 0, protocol="tunnel")
    combination.assert_free()


# --- real WebSockets -----------------------------------------------------------------------------------------------------


class WebSocket:
    """One end of a WebSocket by wsproto, over one end of a tunnel."""

    def __init__(self, end: Call | Served, kind: ConnectionType) -> None:
        self._end = end
        self._connection = Connection(kind)

    def send(self, event: Event) -> None:
        self._end.send(self._connection.send(event))

    def event(self) -> Event:
        """The next one, byte by byte."""
        while True:
            for event in self._connection.events():
                return event
            self._connection.receive_data(self._end.read(1))

    def message(self) -> str | bytes:
        whole: Any = None
        while True:
            event = self.event()
            assert isinstance(event, Message), event
            whole = event.data if whole is None else whole + event.data
            if event.message_finished:
                return whole if isinstance(whole, str) else bytes(whole)


def test_web_socket_between_two_libraries(combination: Combination) -> None:
    path = combination.path("ws")
    call, served = opened(combination, path)
    client, server = WebSocket(call, ConnectionType.CLIENT), WebSocket(served, ConnectionType.SERVER)
    client.send(TextMessage(data="gr\xfc\xdf dich"))
    assert server.message() == "gr\xfc\xdf dich"
    server.send(BytesMessage(data=bytes(range(256)) * 4))
    assert client.message() == bytes(range(256)) * 4
    client.send(Ping(payload=b"p"))
    assert server.event() == Ping(payload=b"p")
    server.send(Pong(payload=b"p"))
    assert client.event() == Pong(payload=b"p")
    client.send(CloseConnection(code=1000))
    assert isinstance(server.event(), CloseConnection)
    server.send(CloseConnection(code=1000))
    assert isinstance(client.event(), CloseConnection)
    call.end()
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (101, None)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    document = {
        "backends": {"demo": {"targets": ["demo"]}},
        "routes": [{"name": "demo", "path": "/", "backend": "demo", "upgrades": ["websocket"]}],
    }
    with Gateway(tmp_path_factory.mktemp("demo"), routes(document)) as running:
        yield running


@pytest.mark.parametrize("kind", [H1Caller, H2Caller])
def test_web_socket_to_the_demo_echoes(demo: Gateway, kind: type[H1Caller | H2Caller]) -> None:
    with kind(demo.port) as caller:
        call = caller.upgrade("/ws")
        call.head()
        client = WebSocket(call, ConnectionType.CLIENT)
        for text in ("gr\xfc\xdf", "x" * 5000, ""):
            client.send(TextMessage(data=text))
            assert client.message() == text
        client.send(CloseConnection(code=1000))
        assert isinstance(client.event(), CloseConnection)
    demo.wait_for_metric("gateway_connections", 0, protocol="tunnel")
    demo.wait_until_free()


def test_client_is_told_that_the_gateway_takes_web_sockets(demo: Gateway) -> None:
    with H2Client(demo.port) as client:
        assert client.may_connect


@pytest.mark.parametrize("kind", [H1Caller, H2Caller])
def test_target_that_takes_no_extended_connect(
    tmp_path_factory: pytest.TempPathFactory, kind: type[H1Caller | H2Caller]
) -> None:
    with ExitStack() as stack:
        backend = stack.enter_context(H2Backend())
        document = {
            "backends": {"b": {"targets": [backend.url]}},
            "routes": [{"name": "r", "path": "/", "backend": "b", "upgrades": ["websocket"]}],
        }
        gateway = stack.enter_context(Gateway(tmp_path_factory.mktemp("gateway"), routes(document)))
        caller = stack.enter_context(kind(gateway.port))
        response = caller.upgrade("/ws").response()
        assert (response.status, json.loads(response.body)["reason"]) == (502, "UPSTREAM_PROTOCOL_ERROR")
        assert caller.ask("GET", "/").body == b"ok"
        gateway.wait_until_free()
