"""WebSockets to a target over HTTP/2: extended CONNECT (RFC 8441), which the gateway takes for a 101."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_target import ACCEPT, HOST, UPGRADE, Exchange, Http2Target, raw_headers
from tests.helpers.upstream import RecordingHandler
from tests.integration.h2_frames import (
    CANCEL,
    ENABLE_CONNECT_PROTOCOL,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    rst_stream,
)

from txgateway.errors import UpstreamProtocolError
from txgateway.transport.http2.client import STREAM_WINDOW
from txgateway.transport.http2.stream import MAX_QUEUED
from txgateway.transport.http2.streams import LINGER_S

WEBSOCKET = b"websocket"


class RecordingTunnel:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.data = b""

    def from_client(self, data: bytes) -> None:
        raise NotImplementedError

    def client_lost(self) -> None:
        raise NotImplementedError

    def client_blocked(self) -> None:
        raise NotImplementedError

    def client_drained(self) -> None:
        raise NotImplementedError

    def going_away(self) -> None:
        raise NotImplementedError

    def cut(self, reason: str) -> None:
        raise NotImplementedError

    def from_target(self, data: bytes) -> None:
        assert data
        self.data += data

    def target_lost(self) -> None:
        self.events.append("lost")

    def target_blocked(self) -> None:
        self.events.append("blocked")

    def target_drained(self) -> None:
        self.events.append("drained")


class Upgrading(RecordingHandler):
    """Makes a tunnel of what it gets."""

    def __init__(self, *, pauses: bool = False) -> None:
        super().__init__()
        self.tunnel = RecordingTunnel()
        self.pauses = pauses

    def on_upgraded(self, connection: Any, headers: Any, early: bytes) -> None:
        super().on_upgraded(connection, headers, early)
        connection.become_tunnel(self.tunnel)
        if self.pauses:
            connection.pause_reading()


def asked(*, connects: bool = True, handler: Upgrading | None = None) -> tuple[Http2Target, Exchange, RecordingTunnel]:
    """A target that is asked for a WebSocket."""
    target = Http2Target(settings={ENABLE_CONNECT_PROTOCOL: int(connects)})
    handler = handler or Upgrading()
    exchange = target.request(b"GET", b"/chat", UPGRADE, handler=handler, ended=True, upgrade=b"WebSocket")
    return target, exchange, handler.tunnel


def opened(handler: Upgrading | None = None) -> tuple[Http2Target, Exchange, RecordingTunnel]:
    target, exchange, tunnel = asked(handler=handler)
    exchange.head(200)
    return target, exchange, tunnel


# --- the handshake --------------------------------------------------------------------------------------------------------


def test_upgrade_is_an_extended_connect() -> None:
    _, exchange, _ = asked()
    assert exchange.seen.pseudo == {
        ":method": "CONNECT", ":protocol": "websocket", ":scheme": "http", ":authority": "a.test", ":path": "/chat",
    }  # fmt: skip
    assert exchange.seen.ordinary == [("sec-websocket-version", "13")]
    assert not exchange.seen.ended


@pytest.mark.parametrize("status", [200, 201])
def test_success_is_a_101_with_the_accept_of_the_key(status: int) -> None:
    target, exchange, tunnel = asked()
    exchange.head(103)
    exchange.head(status, ("sec-websocket-protocol", "chat"))
    accept = (b"sec-websocket-accept", ACCEPT)
    upgraded = ("upgraded", [(b"Upgrade", WEBSOCKET), (b"Sec-WebSocket-Accept", accept[1])], b"")
    _, (name, headers, early), *_ = [event for event in exchange.handler.events if event[0] != "flush"]
    assert (name, headers[:2], early) == upgraded
    assert headers[2:] == [(b"sec-websocket-protocol", b"chat")]
    assert exchange.handler.events[-1] == ("flush",)
    exchange.data(b"hello")
    assert tunnel.data == b"hello"
    assert exchange.handler.names == ["informational", "upgraded"]
    assert target.connection.is_busy


@pytest.mark.parametrize("status", [300, 403, 500])
def test_refusal_is_an_ordinary_response(status: int) -> None:
    target, exchange, tunnel = asked()
    exchange.answer(b"no", status)
    assert exchange.handler.names == ["head", "body", "end"]
    assert exchange.handler.body == b"no"
    assert tunnel.events == []
    assert exchange.reset == NO_ERROR  # our side was still open
    assert not target.connection.streams


@pytest.mark.parametrize(("connects", "upgrade"), [(False, WEBSOCKET), (True, b"h2c")])
def test_what_the_target_does_not_take_is_not_asked_for(connects: bool, upgrade: bytes) -> None:
    target = Http2Target(settings={ENABLE_CONNECT_PROTOCOL: int(connects)})
    handler = Upgrading()
    stream = target.connection.exchange()
    stream.start(handler, b"GET", b"/", UPGRADE, -1, b"", True, upgrade)
    assert handler.events == []  # not from within start
    target.turn()
    assert target.requests == {}
    assert handler.names == ["failed"]
    assert type(handler.error) is UpstreamProtocolError
    assert target.owner.spare == 1
    assert target.request().id == 1


def test_asking_in_vain_may_be_given_up() -> None:
    target = Http2Target()
    handler = Upgrading()
    stream = target.connection.exchange()
    stream.start(handler, b"GET", b"/", UPGRADE, -1, b"", True, WEBSOCKET)
    stream.cancel()
    target.turn()
    assert handler.events == []


def test_permission_may_come_later() -> None:
    target = Http2Target()
    assert not target.connection.peer_connects
    target.change({ENABLE_CONNECT_PROTOCOL: 1})
    assert target.connection.peer_connects


def test_giving_up_before_the_answer() -> None:
    target, exchange, _ = asked()
    exchange.cancel()
    assert exchange.reset == CANCEL
    target.raw(raw_headers(exchange.id, [(b":status", b"200")]))
    assert exchange.handler.events == []


# --- bytes ------------------------------------------------------------------------------------------------------------------


def test_bytes_go_both_ways() -> None:
    target, exchange, tunnel = opened()
    exchange.stream.write_raw(b"ping")
    target.turn()
    exchange.data(b"pong")
    assert (exchange.seen.body, tunnel.data) == (b"ping", b"pong")


def test_target_that_does_not_read_blocks_the_client() -> None:
    target, exchange, tunnel = opened()
    target.reads = False
    exchange.stream.write_raw(b"x" * 65_535)
    exchange.stream.write_raw(b"x" * (MAX_QUEUED + 1))
    target.turn()
    assert tunnel.events == ["blocked"]
    target.grant(MAX_QUEUED + 1)
    target.grant(MAX_QUEUED + 1, exchange.id)
    assert tunnel.events == ["blocked", "drained"]
    assert len(exchange.seen.body) == 65_536 + MAX_QUEUED


def test_client_that_does_not_read_stops_the_target() -> None:
    target, exchange, tunnel = opened()
    exchange.stream.pause_reading()
    exchange.data(b"x" * STREAM_WINDOW)
    assert tunnel.data == b""
    assert target.link.sendable(exchange.id) == 0
    exchange.resume()
    assert tunnel.data == b"x" * STREAM_WINDOW
    assert target.link.sendable(exchange.id) > 0


def test_pause_within_the_upgrade_holds() -> None:
    _, exchange, tunnel = opened(Upgrading(pauses=True))
    exchange.data(b"early")
    assert tunnel.data == b""
    exchange.resume()
    assert tunnel.data == b"early"


# --- the end ------------------------------------------------------------------------------------------------------------------


def test_target_ends_the_tunnel() -> None:
    target, exchange, tunnel = opened()
    exchange.data(b"bye", ends=True)
    assert (tunnel.data, tunnel.events) == (b"bye", ["lost"])
    assert (exchange.seen.ended, exchange.reset) == (True, None)
    assert not target.connection.streams
    assert target.owner.spare == 1
    exchange.stream.write_raw(b"late")
    exchange.stream.close_tunnel()
    target.turn()
    assert exchange.seen.body == b""


def test_target_ends_the_tunnel_at_once() -> None:
    _, exchange, tunnel = asked()
    exchange.head(200, ends=True)
    assert exchange.handler.names == ["upgraded"]
    assert tunnel.events == ["lost"]


def test_target_ends_the_tunnel_while_the_client_does_not_read() -> None:
    _, exchange, tunnel = opened()
    exchange.stream.pause_reading()
    exchange.data(b"bye", ends=True)
    assert (tunnel.data, tunnel.events) == (b"", [])
    exchange.resume()
    assert (tunnel.data, tunnel.events) == (b"bye", ["lost"])


def test_target_that_has_ended_the_tunnel_and_wants_no_more_gets_none() -> None:
    target, exchange, tunnel = opened()
    exchange.stream.pause_reading()
    exchange.data(b"bye", ends=True)
    target.link.connection.reset_stream(exchange.id, NO_ERROR)
    target.turn()
    exchange.stream.write_raw(b"late")
    assert target.transport.received() == b""
    exchange.resume()
    assert (tunnel.data, tunnel.events) == (b"bye", ["lost"])


def test_gateway_closes_the_tunnel_after_what_was_written() -> None:
    target, exchange, tunnel = opened()
    target.reads = False
    exchange.stream.write_raw(b"x" * 70_000)
    exchange.stream.close_tunnel()
    target.turn()
    assert not exchange.seen.ended
    exchange.data(b"nobody hears this")
    target.grant(70_000)
    target.grant(70_000, exchange.id)
    assert (len(exchange.seen.body), exchange.seen.ended) == (70_000, True)
    exchange.data(b"nor this", ends=True)
    assert exchange.reset is None
    assert tunnel.events == []
    assert tunnel.data == b""
    assert not target.connection.streams
    assert target.owner.spare == 1
    target.wait(LINGER_S + 2)
    assert target.owner.spare == 1


def test_target_that_does_not_end_its_half_of_the_tunnel_is_not_waited_for_for_ever() -> None:
    target, exchange, _ = opened()
    exchange.stream.pause_reading()
    exchange.data(b"x" * STREAM_WINDOW)
    exchange.stream.close_tunnel()
    target.turn()
    assert exchange.seen.ended
    assert target.link.sendable(exchange.id) > 0  # what nobody hears takes no room
    target.wait(LINGER_S - 1)
    assert (exchange.reset, target.owner.spare) == (None, 0)
    target.wait(3)
    assert exchange.reset == CANCEL
    assert not target.connection.streams
    assert (target.owner.spare, target.connection._lingering) == (1, {})


@pytest.mark.parametrize("who", ["gateway", "target"])
def test_rest_of_a_tunnel_is_sent_as_long_as_the_target_takes_some_of_it(who: str) -> None:
    target, exchange, tunnel = opened()
    target.reads = False
    exchange.stream.write_raw(b"x" * 70_000)
    if who == "gateway":
        exchange.stream.close_tunnel()
        target.turn()
    else:
        exchange.data(b"", ends=True)
        assert tunnel.events == ["lost"]
    for _ in range(3):
        target.wait(LINGER_S - 1)
        target.grant(1000)
        target.grant(1000, exchange.id)
    assert (len(exchange.seen.body), exchange.reset) == (68_535, None)
    target.wait(LINGER_S + 3)
    assert exchange.reset == CANCEL
    assert not target.connection.streams


def test_target_that_has_ended_the_tunnel_may_refuse_the_rest() -> None:
    target, exchange, _ = opened()
    target.reads = False
    exchange.stream.write_raw(b"x" * 70_000)
    exchange.data(b"", ends=True)
    assert target.connection.streams
    target.raw(rst_stream(exchange.id, CANCEL))
    assert not target.connection.streams
    assert target.owner.spare == 1


def test_gateway_cuts_the_tunnel() -> None:
    target, exchange, tunnel = opened()
    exchange.stream.abort()
    target.turn()
    assert exchange.reset == CANCEL
    assert tunnel.events == []


@pytest.mark.parametrize("how", ["reset", "lost", "trailers"])
def test_tunnel_that_breaks(how: str) -> None:
    target, exchange, tunnel = opened()
    if how == "reset":
        exchange.send_reset(INTERNAL_ERROR)
    elif how == "lost":
        target.transport.reset()
    else:
        exchange.raw_fields((b"x", b"1"), ends=True)
        assert exchange.reset == PROTOCOL_ERROR
    assert tunnel.events == ["lost"]
    assert exchange.handler.names == ["upgraded"]
    assert not target.connection.streams


def test_tunnel_counts_as_an_exchange() -> None:
    target, exchange, _ = opened()
    spare = target.connection.spare
    target.request(headers=HOST).answer()
    assert target.connection.spare == spare
    exchange.data(b"", ends=True)
    assert target.connection.spare == spare + 1
    assert target.owner.spare == 2
