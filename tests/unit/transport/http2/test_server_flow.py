"""Windows and backpressure, both ways: nobody is sent more than it asked for, and nothing is made that nobody takes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_client import POST, Http2Client
from tests.integration.h2_frames import (
    CANCEL,
    DATA,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    data_frame,
    frame,
    settings_frame,
    window_update,
)
from tests.unit.support import Server

from txgateway.transport.http2.sending import TURN_BYTES, WRITE_BYTES
from txgateway.transport.http2.stream import MAX_QUEUED
from txgateway.transport.interfaces import UNKNOWN_LENGTH

WINDOW = 65_535
LARGEST = 2**31 - 1


class Producer:
    """Makes an answer's body, as long as it is asked to."""

    def __init__(self, request: Any, size: int, piece: int = 4096) -> None:
        self.request = request
        self.left = size
        self.piece = piece
        self.is_paused = self.is_stopped = False
        self.made = 0
        self.pauses = 0
        request.producer = self
        request.respond(200, b"", [], UNKNOWN_LENGTH)
        self.go_on()

    def go_on(self) -> None:
        while self.left and not self.is_paused and not self.is_stopped:
            piece = min(self.piece, self.left)
            self.left -= piece
            self.made += piece
            self.request.send_body(bytes(piece))
            self.request.flush()
        if not self.left and not self.request.ended:
            self.request.end([])

    def pauseProducing(self) -> None:
        self.is_paused = True
        self.pauses += 1

    def resumeProducing(self) -> None:
        self.is_paused = False
        self.go_on()

    def stopProducing(self) -> None:
        self.is_stopped = True


def opened(settings: dict[int, int] | None = None, streams: int = 1) -> tuple[Server, Http2Client]:
    server = Server()
    client = Http2Client(server, settings or {})
    for number in range(streams):
        client.request(2 * number + 1)
    return server, client


# --- what we send ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_384, 16_385, WINDOW])
def test_answer_within_all_windows_goes_out_at_once(size: int) -> None:
    server, client = opened()
    server.request.answer(200, [], bytes(size))
    assert client.body() == bytes(size)
    assert client.has_ended()
    assert max([len(one.payload) for one in client.of(DATA)] or [0]) <= 16_384
    assert not any(one.ends_stream for one in client.of(DATA)[:-1])


@pytest.mark.parametrize("stream", [0, 1])
def test_not_a_byte_more_than_a_window_goes_out_and_the_end_is_on_the_last(stream: int) -> None:
    settings = {INITIAL_WINDOW_SIZE: LARGEST} if stream == 0 else {}
    server, client = opened(settings)
    if stream:
        client.send(window_update(1_000_000))
    server.request.answer(200, [], bytes(WINDOW + 3))
    assert len(client.body()) == WINDOW
    assert not client.has_ended()
    for _ in range(2):
        client.send(window_update(1, stream))
    assert len(client.body()) == WINDOW + 2
    assert not client.has_ended()
    client.send(window_update(1, stream))
    assert len(client.body()) == WINDOW + 3
    assert client.log[-1].ends_stream
    assert client.log[-1].payload
    assert not client.connection.streams


def test_window_of_a_single_byte_and_none_at_all() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 1})
    server.request.answer(200, [], b"abc")
    assert client.body() == b"a"
    client.send(settings_frame({INITIAL_WINDOW_SIZE: 0}))
    client.send(window_update(1, 1))  # which only makes good for what was taken back
    assert client.body() == b"a"
    client.send(window_update(1, 1))
    assert client.body() == b"ab"


def test_answer_without_a_body_needs_no_window() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 0})
    server.request.answer(204, [], b"")
    assert client.has_ended()


def test_end_and_trailers_need_no_window_once_the_body_is_out() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 2})
    server.request.respond(200, b"", [], UNKNOWN_LENGTH)
    server.request.send_body(b"ok")
    server.request.flush()
    server.request.end([(b"x-t", b"X-T", b"1")])
    client.look()
    assert client.fields[1][-1] == {b"x-t": b"1"}
    assert client.has_ended()


def test_trailers_wait_behind_a_body_that_waits() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 1})
    server.request.respond(200, b"", [], UNKNOWN_LENGTH)
    server.request.send_body(b"ok")
    server.request.end([(b"x-t", b"X-T", b"1")])
    assert not client.has_ended()
    client.send(window_update(1, 1))
    assert client.body() == b"ok"
    assert client.log[-1].kind == HEADERS
    assert client.has_ended()


def test_smaller_initial_window_may_make_windows_negative() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 100})
    server.request.answer(200, [], bytes(200))
    assert len(client.body()) == 100
    client.send(settings_frame({INITIAL_WINDOW_SIZE: 30}))  # 70 below nothing
    assert client.connection.streams[1].send_window == -70
    client.send(window_update(70, 1))
    assert len(client.body()) == 100
    client.send(window_update(1, 1))
    assert len(client.body()) == 101
    client.send(settings_frame({INITIAL_WINDOW_SIZE: 40}))
    assert len(client.body()) == 111
    assert len(client.connection._out) == 0


def test_window_that_is_taken_back_stops_a_stream_that_waits_for_its_turn() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 200_000})
    server.request.answer(200, [], bytes(100_000))
    assert len(client.body()) == WINDOW  # the connection's
    client.send(settings_frame({INITIAL_WINDOW_SIZE: 0}) + window_update(100_000))
    assert len(client.body()) == WINDOW
    client.send(window_update(WINDOW + 7, 1))
    assert len(client.body()) == WINDOW + 7


def test_settings_change_the_windows_of_streams_and_not_the_connections() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 10}, streams=2)
    for request in server.requests:
        request.answer(200, [], bytes(WINDOW))
    client.send(settings_frame({INITIAL_WINDOW_SIZE: 2 * WINDOW}))
    assert len(client.body(1)) + len(client.body(3)) == WINDOW
    client.request(5)
    assert client.connection.streams[5].send_window == 2 * WINDOW
    client.send(window_update(2 * WINDOW))
    assert client.has_ended(1)
    assert client.has_ended(3)


def test_streams_take_turns() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: LARGEST}, streams=3)
    for request in server.requests:
        request.answer(200, [], bytes(10 * 16_384))
    client.look()
    seen = len(client.log)
    client.send(window_update(LARGEST - WINDOW))
    turns = [one.stream for one in client.of(DATA) and client.log[seen:] if one.kind == DATA]
    for at in range(0, 18, 3):
        assert sorted(turns[at : at + 3]) == [1, 3, 5]
    for _ in range(10):
        client.send()
    assert all(client.has_ended(stream) for stream in (1, 3, 5))


def test_small_answer_overtakes_large_ones() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: LARGEST}, streams=2)
    server.requests[0].answer(200, [], bytes(1_000_000))
    server.requests[1].answer(200, [], b"small")
    client.send(window_update(40_000))
    assert client.body(3) == b"small"
    assert not client.has_ended(1)


def test_one_turn_sends_a_bounded_share_in_writes_of_bounded_size() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: LARGEST})
    client.transport.send(window_update(LARGEST - WINDOW))
    writes = client.transport.writes
    server.request.answer(200, [], bytes(3 * TURN_BYTES))
    assert len(client.body()) == TURN_BYTES
    assert client.transport.writes - writes in range(TURN_BYTES // WRITE_BYTES, TURN_BYTES // WRITE_BYTES + 2)
    next_turn: Any
    (next_turn,) = [call for call in server.clock.getDelayedCalls() if call.getTime() == server.clock.seconds()]
    go_on = next_turn.func
    next_turn.cancel()
    go_on()
    assert len(client.body()) == 2 * TURN_BYTES
    client.send()
    assert client.has_ended()


# --- backpressure ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [0, 1])
def test_producer_stops_at_a_closed_window_and_goes_on_when_it_opens(stream: int) -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: LARGEST} if stream == 0 else {})
    producer = Producer(server.request, 1_000_000)
    if stream:
        client.send(window_update(10_000_000))
    assert producer.is_paused
    assert producer.made - len(client.body()) in range(MAX_QUEUED, MAX_QUEUED + producer.piece + 1)
    for _ in range(5):
        made = producer.made
        client.send(window_update(100_000, stream))
        assert producer.made > made
        waiting = client.connection.streams[1].queued
        assert producer.made - len(client.body()) == waiting <= MAX_QUEUED + producer.piece
    client.send(window_update(1_000_000, stream))
    assert client.body() == bytes(1_000_000)
    assert client.has_ended()
    assert server.request.ended


def test_producer_stops_while_the_client_does_not_read_and_goes_on_when_it_does() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: LARGEST})
    client.send(window_update(LARGEST - WINDOW))
    client.transport.takes = False
    producer = Producer(server.request, 1_000_000)
    assert producer.is_paused
    assert client.connection.write_blocked
    assert producer.made < 65_536 + MAX_QUEUED + 2 * producer.piece
    while client.transport.unsent:
        client.transport.take()
        client.send()
        assert len(client.transport.unsent) < 65_536 + MAX_QUEUED + 2 * producer.piece
    assert client.body() == bytes(1_000_000)
    assert client.has_ended()


def test_one_blocked_stream_does_not_block_another() -> None:
    server, client = opened(streams=2)
    client.send(window_update(1_000_000))
    stuck, free = (Producer(request, 200_000) for request in server.requests)
    client.send(window_update(1_000_000, 3))
    assert client.has_ended(3)
    assert free.request.ended
    assert stuck.is_paused
    assert len(client.body(1)) == WINDOW


def test_reset_of_a_blocked_stream_drops_what_waits() -> None:
    server, client = opened()
    producer = Producer(server.request, 200_000)
    stream = client.connection.streams[1]
    client.send(frame(3, 0, 1, CANCEL.to_bytes(4, "big")))
    assert producer.is_stopped
    assert stream.queued == 0
    assert stream._queue is None
    assert not client.connection._ready
    client.send(window_update(100_000) + window_update(100_000, 1))
    assert len(client.body()) == WINDOW


def test_empty_piece_of_a_body_changes_nothing() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 1})
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    for piece in (b"", b"ab", b"", b"c", b""):
        request.send_body(piece)
    request.end([])
    client.send(window_update(1, 1), window_update(100, 1))
    assert client.body() == b"abc"
    assert client.has_ended()
    assert not client.connection._ready


def test_client_that_stops_taking_a_complete_answer_loses_it_after_a_while() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 10})
    server.request.answer(200, [], bytes(100))
    assert server.request.ended
    server.wait(70)
    client.send(window_update(1, 1))
    server.wait(70)
    assert not client.resets()
    server.wait(30)
    assert client.resets() == {1: CANCEL}
    assert not client.of(GOAWAY)
    assert not client.connection.streams
    server.wait(80)
    assert client.goaway == (1, NO_ERROR)
    assert not client.of(GOAWAY)[1:]


def test_slow_client_of_a_complete_answer_may_still_upload() -> None:
    server, client = opened({INITIAL_WINDOW_SIZE: 10}, streams=0)
    client.request(1, POST, ends=False)
    server.request.answer(200, [], bytes(100))
    for _ in range(3):
        server.wait(60)
        client.send(window_update(1, 1), data_frame(1, bytes(200)))
    assert not client.resets()
    client.send(window_update(100, 1))
    assert client.has_ended()
    assert client.resets() == {1: NO_ERROR}
