"""WebSockets over HTTP/2 (RFC 8441): an extended CONNECT becomes a tunnel, and each way that it ends."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_client import GET, Http2Client
from tests.integration.h2_frames import (
    CANCEL,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PROTOCOL_ERROR,
    data_frame,
    rst_stream,
    window_update,
)
from tests.unit.support import Server

from txgateway.errors import Draining
from txgateway.transport.http2.server import STREAM_WINDOW
from txgateway.transport.http2.stream import MAX_QUEUED
from txgateway.transport.http2.streams import LINGER_S

EXTENDED = ((b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:], (b"sec-websocket-version", b"13"))
ANSWER = [
    (b"connection", b"Connection", b"upgrade"),
    (b"upgrade", b"Upgrade", b"websocket"),
    (b"sec-websocket-accept", b"Sec-WebSocket-Accept", b"x"),
    (b"sec-websocket-protocol", b"Sec-WebSocket-Protocol", b"chat"),
]


class Far:
    """The tunnel's other end: keeps what it is told."""

    def __init__(self, request: Any) -> None:
        self.request = request
        self.channel = request.channel
        self.events: list[Any] = []
        self.data = b""
        self.early = request.switch_protocols(list(ANSWER), self)

    def from_client(self, data: bytes) -> None:
        assert "lost" not in self.events
        self.data += data

    def client_lost(self) -> None:
        self.events.append("lost")
        self.request.tunnel_ended(None)

    def client_blocked(self) -> None:
        self.events.append("blocked")

    def client_drained(self) -> None:
        self.events.append("drained")

    def from_target(self, data: bytes) -> None: ...
    def target_lost(self) -> None: ...
    def target_blocked(self) -> None: ...
    def target_drained(self) -> None: ...

    def cut(self, reason: str) -> None:
        self.events.append(("cut", reason))
        self.channel.tunnel_close()
        self.request.tunnel_ended(reason)

    def going_away(self) -> None:
        self.events.append("going away")


def opened(settings: dict[int, int] | None = None, *early: bytes) -> tuple[Server, Http2Client, Far]:
    server = Server()
    client = Http2Client(server, settings or {}).request(1, EXTENDED, ends=False)
    client.send(*early)
    return server, client, Far(server.request)


def test_upgrade_is_answered_with_200_and_without_what_http_1_1_needs() -> None:
    server, client, _ = opened()
    assert server.request.upgrade == b"websocket"
    assert server.request.body_complete
    assert client.head() == {b":status": b"200", b"sec-websocket-protocol": b"chat"}
    assert not client.has_ended()
    assert client.connection.in_progress


def test_bytes_pass_both_ways() -> None:
    _, client, far = opened(None, data_frame(1, b"ear") + data_frame(1, b"ly"))
    assert far.early == b"early"
    client.send(data_frame(1, b"more"))
    far.channel.tunnel_write(b"answer")
    assert (far.data, client.body()) == (b"more", b"answer")
    assert not far.events


def test_bytes_before_the_answer_are_held_within_the_window() -> None:
    _, client, far = opened(None, *[data_frame(1, bytes(16_384))] * (STREAM_WINDOW // 16_384))
    assert len(far.early) == STREAM_WINDOW
    assert client.credited(1) == STREAM_WINDOW
    assert client.connection.streams[1]._held_bytes == 0


def test_slow_other_end_stops_the_client() -> None:
    _, client, far = opened()
    far.channel.tunnel_pause()
    client.send(*[data_frame(1, bytes(16_384))] * (STREAM_WINDOW // 16_384))
    assert not far.data
    assert not client.credited(1)
    far.channel.tunnel_resume()
    assert len(far.data) == STREAM_WINDOW
    assert client.credited(1) == STREAM_WINDOW


def test_slow_client_stops_the_other_end() -> None:
    _, client, far = opened({INITIAL_WINDOW_SIZE: 10})
    far.channel.tunnel_write(bytes(10 + MAX_QUEUED))
    assert not far.events
    far.channel.tunnel_write(b"x")
    assert far.events == ["blocked"]
    client.send(window_update(MAX_QUEUED, 1))
    assert far.events == ["blocked"]
    client.send(window_update(1, 1))
    assert far.events == ["blocked", "drained"]
    assert len(client.body()) == 11 + MAX_QUEUED


@pytest.mark.parametrize("last", [b"", b"last"])
def test_end_of_the_client_ends_the_tunnel(last: bytes) -> None:
    server, client, far = opened()
    client.send(data_frame(1, last, ends=True))
    assert (far.data, far.events) == (last, ["lost"])
    assert client.has_ended()
    assert not client.resets()
    assert not client.connection.streams
    assert server.request.ended


def test_early_end_of_the_client_comes_a_turn_later() -> None:
    server, client, far = opened(None, data_frame(1, b"early", ends=True))
    assert (far.early, far.data, far.events) == (b"early", b"", [])
    server.clock.advance(0)
    assert (far.data, far.events) == (b"", ["lost"])
    assert client.has_ended()


def test_other_end_closes() -> None:
    _, client, far = opened()
    far.channel.tunnel_write(b"bye")
    far.channel.tunnel_close()
    assert client.body() == b"bye"
    assert client.has_ended()
    client.send(data_frame(1, b"late"))
    far.channel.tunnel_close()
    assert far.data == b""
    assert client.connection.streams
    client.send(data_frame(1, b"later", ends=True))
    assert not client.connection.streams
    assert client.resets() == {}
    far.channel.tunnel_write(b"x")
    far.channel.tunnel_close()
    assert client.is_open


def test_client_that_does_not_end_its_half_of_a_tunnel_is_not_waited_for_for_ever() -> None:
    server, client, far = opened()
    far.channel.tunnel_pause()
    client.send(*[data_frame(1, bytes(16_384))] * (STREAM_WINDOW // 16_384))
    far.channel.tunnel_close()
    assert client.credited(1) == STREAM_WINDOW  # what nobody hears takes no room
    server.wait(LINGER_S - 1)
    assert client.resets() == {}
    server.wait(3)
    assert client.resets() == {1: CANCEL}
    assert not client.connection.streams
    assert (far.data, far.events) == (b"", [])


def test_slow_client_is_not_given_more_time_for_its_half_of_a_tunnel() -> None:
    server, client, far = opened({INITIAL_WINDOW_SIZE: 1})
    far.channel.tunnel_write(b"abc")
    far.channel.tunnel_close()
    server.wait(80)
    client.send(window_update(2, 1))
    assert client.has_ended()
    server.wait(LINGER_S + 3)
    assert client.resets() == {1: CANCEL}


def test_tunnel_that_is_cut_is_cancelled() -> None:
    _, client, far = opened()
    far.channel.reset()
    assert client.resets() == {1: CANCEL}


def test_refused_tunnel_ends_at_once() -> None:
    server = Server()
    client = Http2Client(server).request(1, EXTENDED, ends=False)
    server.request.respond(403, b"", [], 0)
    server.request.end([])
    assert client.status() == 403
    assert client.resets() == {1: NO_ERROR}
    assert not client.connection.streams


@pytest.mark.parametrize("how", ["reset", "lost"])
def test_client_is_gone(how: str) -> None:
    server, client, far = opened()
    if how == "reset":
        client.send(rst_stream(1, CANCEL))
        assert client.is_open
    else:
        client.transport.reset()
    assert far.events == ["lost"]
    assert server.request.ended
    far.channel.tunnel_write(b"x")
    far.channel.tunnel_close()


def test_fault_of_the_client_cuts_the_tunnel() -> None:
    _, client, far = opened()
    client.send(window_update(0, 1))
    assert client.resets() == {1: PROTOCOL_ERROR}
    assert far.events == [("cut", "BAD_REQUEST")]
    assert client.is_open


def test_tunnel_is_told_that_we_go_and_cut_in_the_end() -> None:
    _, client, far = opened()
    client.connection.close_when_idle()
    assert far.events == ["going away"]
    assert client.connection.in_progress
    client.connection.shut_down(Draining())
    assert far.events == ["going away", ("cut", Draining.reason)]
    client.assert_ended(NO_ERROR, 1)
    assert client.has_ended()


def test_tunnel_is_told_that_we_go_even_if_the_client_said_so_first() -> None:
    _, client, far = opened()
    client.send(b"\0\0\x08\x07\0\0\0\0\0" + bytes(8))
    client.connection.close_when_idle()
    assert far.events == ["going away"]


@pytest.mark.parametrize("who", ["client", "target"])
def test_what_is_left_of_a_tunnel_that_closed_does_not_wait_for_ever(who: str) -> None:
    server, client, far = opened({INITIAL_WINDOW_SIZE: 1})
    far.channel.tunnel_write(b"abc")
    if who == "client":
        client.send(data_frame(1, ends=True))
    else:
        far.channel.tunnel_close()
    assert not client.has_ended()
    server.wait(70)
    assert client.connection.streams
    server.wait(90)
    assert client.resets() == {1: CANCEL}
    assert not client.connection.streams


def test_tunnel_without_traffic_is_not_idle() -> None:
    server, client, far = opened()
    server.wait(300)
    assert client.is_open
    assert not far.events


def test_tunnels_are_counted_as_long_as_they_are_open() -> None:
    opened_counts: list[tuple[str, int]] = []
    server = Server()

    class Counts:
        def connection_opened(self, protocol: str) -> None:
            opened_counts.append((protocol, 1))

        def connection_closed(self, protocol: str) -> None:
            opened_counts.append((protocol, -1))

        def connection_refused(self) -> None: ...

    server.factory.counts = Counts()
    client = Http2Client(server).request(1, EXTENDED, ends=False)
    far = Far(server.request)
    assert sum(step for protocol, step in opened_counts if protocol == "tunnel") == 1
    far.channel.tunnel_close()
    assert sum(step for protocol, step in opened_counts if protocol == "tunnel") == 0
    assert sum(step for protocol, step in opened_counts if protocol == "h2") == 1
    client.transport.reset()
    assert sum(step for _, step in opened_counts) == 0


@pytest.mark.parametrize("ends", [True, False])
def test_head_of_a_tunnel_that_repeats_begins_another(ends: bool) -> None:
    server = Server()
    client = Http2Client(server)
    for stream in (1, 3, 5, 7):
        client.request(stream, EXTENDED, ends=ends)
        assert (server.request.method, server.request.upgrade) == (b"GET", b"websocket")
    keys = {request.fields[b"sec-websocket-key"] for request in server.requests}
    assert len(keys) == 4
    assert not client.of(HEADERS)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("is_over", [True, False])
def test_headers_in_a_tunnel_are_a_fault(ends: bool, is_over: bool) -> None:
    _, client, far = opened()
    if is_over:
        far.channel.tunnel_close()
    client.send(client.headers(1, [(b"x", b"1")], ends=ends))
    assert client.resets() == {1: PROTOCOL_ERROR}
    assert far.events == ([] if is_over else [("cut", "BAD_REQUEST")])
    assert client.is_open


def test_trailers_of_a_connect_that_was_refused_are_none_of_a_tunnel() -> None:
    server = Server()
    client = Http2Client(server, {INITIAL_WINDOW_SIZE: 0}).request(1, EXTENDED, ends=False)
    server.request.answer(403, [], b"no")
    client.send(client.headers(1, [(b"x", b"1")]), window_update(2, 1))
    assert (client.status(), client.body(), client.resets()) == (403, b"no", {})


def test_end_with_the_head_is_the_end_of_a_tunnel() -> None:
    server = Server()
    client = Http2Client(server).request(1, EXTENDED)
    far = Far(server.request)
    assert far.events == []
    server.clock.advance(0)
    assert far.events == ["lost"]
    assert client.has_ended()
    assert not client.connection.streams


def test_end_with_a_head_that_is_refused_is_no_tunnel() -> None:
    server = Server()
    client = Http2Client(server).request(1, EXTENDED)
    server.request.answer(403, [], b"no")
    assert (client.status(), client.body(), client.has_ended()) == (403, b"no", True)
    assert not client.resets()
    assert not client.connection.streams
