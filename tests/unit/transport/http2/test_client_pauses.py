"""Responses that come faster over HTTP/2 than their client takes them: windows, what is held, and whom it holds up."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_target import Exchange, Http2Target
from tests.helpers.upstream import RecordingHandler
from tests.integration.h2_frames import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, data_frame

from txgateway.transport.http2.client import CONNECTION_WINDOW, STREAM_WINDOW


def paused() -> tuple[Http2Target, Exchange]:
    target = Http2Target()
    exchange = target.request()
    exchange.head(200)
    exchange.stream.pause_reading()
    return target, exchange


def room(target: Http2Target, exchange: Exchange) -> int:
    """What the target may send on the stream."""
    return target.link.connection.local_flow_control_window(exchange.id)


def test_paused_exchange_holds_a_window_and_no_more() -> None:
    target, exchange = paused()
    target.link.connection.max_outbound_frame_size = 10**6
    piece = STREAM_WINDOW // 8
    for _ in range(8):
        exchange.data(b"x" * piece)
    assert room(target, exchange) == 0
    assert exchange.handler.names == ["head"]
    target.raw(data_frame(1, b"!"))
    assert exchange.reset == FLOW_CONTROL_ERROR
    assert exchange.handler.names == ["head", "failed"]


def test_only_what_is_delivered_is_credited() -> None:
    target, exchange = paused()
    half = STREAM_WINDOW // 2
    exchange.data(b"x" * half)
    assert room(target, exchange) == half
    exchange.resume()
    assert room(target, exchange) == STREAM_WINDOW
    assert len(exchange.handler.body) == half
    exchange.data(b"y" * (half - 1))  # as much as is delivered without a word
    assert room(target, exchange) == half + 1
    exchange.data(b"z")
    assert room(target, exchange) == STREAM_WINDOW


def test_connection_gets_back_what_was_held_by_whoever_gives_up() -> None:
    target = Http2Target()
    for _ in range(CONNECTION_WINDOW // STREAM_WINDOW):
        exchange = target.request()
        exchange.head(200)
        exchange.stream.pause_reading()
        exchange.data(b"x" * STREAM_WINDOW)
        exchange.cancel()
    assert target.link.connection.outbound_flow_control_window > CONNECTION_WINDOW // 2
    assert not target.connection.streams


def test_connection_gets_back_what_was_malformed() -> None:
    target = Http2Target()
    for _ in range(CONNECTION_WINDOW // 16_384):
        exchange = target.request()
        exchange.head(200, ("content-length", "1"))
        exchange.data(b"x" * 16_384)
        assert exchange.reset == PROTOCOL_ERROR
    assert target.link.connection.outbound_flow_control_window > CONNECTION_WINDOW // 2


def test_others_go_on_while_all_but_one_are_paused() -> None:
    target = Http2Target()
    for _ in range(99):
        exchange = target.request()
        exchange.head(200)
        exchange.stream.pause_reading()
        exchange.data(b"x" * STREAM_WINDOW)
    quick = target.request()
    quick.head(200)
    for _ in range(20):
        quick.data(b"y" * STREAM_WINDOW)
    assert len(quick.handler.body) == 20 * STREAM_WINDOW


@pytest.mark.parametrize("empty", [True, False])
def test_end_waits_for_what_is_held(empty: bool) -> None:
    target, exchange = paused()
    exchange.data(b"one")
    exchange.data(b"two", ends=not empty)
    if empty:
        exchange.data(b"", ends=True)
    assert exchange.handler.names == ["head"]
    assert exchange.id in target.connection.streams
    exchange.resume()
    assert exchange.handler.events[-4:] == [("body", b"one"), ("body", b"two"), ("end", []), ("flush",)]
    assert not target.connection.streams


def test_nothing_is_never_delivered() -> None:
    target, exchange = paused()
    target.raw(data_frame(1, b""), data_frame(1, b"one"), data_frame(1, b""), data_frame(1, b"", ends=True))
    exchange.resume()
    assert [event for event in exchange.handler.events if event[0] == "body"] == [("body", b"one")]
    assert exchange.handler.names[-1] == "end"


def test_trailers_wait_for_what_is_held() -> None:
    _, exchange = paused()
    exchange.data(b"one")
    exchange.fields(("x", "1"), ends=True)
    assert exchange.handler.names == ["head"]
    exchange.resume()
    assert exchange.handler.transcript()[1:] == [("end", [(b"x", b"1")]), ("whole body", b"one")]


class Hesitant(RecordingHandler):
    """Pauses at each piece, as a client does whose buffer is full."""

    stream: Any = None

    def on_body(self, data: bytes) -> None:
        super().on_body(data)
        self.stream.pause_reading()


def test_pause_in_the_middle_of_what_is_held() -> None:
    target = Http2Target()
    handler = Hesitant()
    exchange = target.request(handler=handler)
    handler.stream = exchange.stream
    exchange.head(200)
    exchange.data(b"1")
    exchange.data(b"2")
    exchange.data(b"3", ends=True)
    for pieces in (1, 2, 3):
        assert [name for name in handler.names if name == "body"] == ["body"] * pieces
        exchange.resume()
    assert handler.names[-1] == "end"
    assert handler.body == b"123"


def test_resuming_what_is_not_paused_changes_nothing() -> None:
    _, exchange = paused()
    exchange.resume()
    exchange.resume()
    exchange.data(b"x", ends=True)
    assert exchange.handler.names == ["head", "body", "end"]
    exchange.stream.pause_reading()
    exchange.resume()
    assert exchange.handler.names == ["head", "body", "end"]
