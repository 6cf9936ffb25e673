"""Clients that ask for much and take nothing: what is held for them is bounded, and they are not read from any more."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import POST, Http2Client
from tests.integration.h2_frames import (
    INITIAL_WINDOW_SIZE,
    data_frame,
    ping,
    settings_frame,
)
from tests.unit.support import Body, Server

from txgateway.transport.http2.floods import (
    EMPTY_FRAMES,
    EMPTY_FRAMES_PER_S,
    TURN_FRAMES,
    UNSENT_BYTES,
    Allowance,
)
from txgateway.transport.http2.server import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW
from txgateway.transport.http2.stream import MAX_QUEUED
from txgateway.transport.interfaces import UNKNOWN_LENGTH


def wanting() -> Server:
    return Server(lambda request: request.want_body(Body()))


def fresh() -> tuple[Server, Http2Client]:
    """A connection that has all that it is allowed still before it."""
    server = wanting()
    client = Http2Client(server)
    client.connection._empty_frames = Allowance(EMPTY_FRAMES, EMPTY_FRAMES_PER_S, server.wheel.now)
    return server, client


# --- who does not take what it asks for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wire", [ping(), settings_frame()])
def test_client_that_takes_no_answers_is_not_read_from_any_more(wire: bytes) -> None:
    server, client = fresh()
    client.transport.takes = False
    sent = 0
    while client.transport.is_reading:
        server.clock.advance(5)
        client.transport.send(wire * 200)
        sent += 1
        assert sent < 1000
    one_read = 200 * 17
    assert UNSENT_BYTES < len(client.transport.unsent) <= UNSENT_BYTES + one_read
    assert client.connection.write_blocked
    client.transport.take(len(client.transport.unsent) - 1)
    assert not client.transport.is_reading
    client.transport.take()
    assert client.transport.is_reading
    assert len(client.connection._buffer) == 0


def test_client_that_asks_for_more_heads_than_it_takes_is_not_read_from_any_more() -> None:
    head = [(b"x-a", b"X-A", b"v" * 4000)]
    server = Server(lambda request: request.answer(200, head, b""))
    client = Http2Client(server, {1: 0})
    client.transport.takes = False
    stream = 1
    while client.transport.is_reading and stream < 10_000:
        client.transport.send(b"".join(client.headers(stream + 2 * number) for number in range(10)))
        stream += 20
    assert not client.transport.is_reading
    assert len(client.transport.unsent) <= UNSENT_BYTES + 50_000
    client.transport.take()
    client.send()
    assert client.transport.is_reading
    assert len(client.connection.streams) == 0


def test_zero_window_holds_at_most_a_little_of_each_answer() -> None:
    server = Server()
    client = Http2Client(server, {INITIAL_WINDOW_SIZE: 0})
    for number in range(MAX_STREAMS):
        client.request(2 * number + 1)
        request = server.request
        request.respond(200, b"", [], UNKNOWN_LENGTH)
        produced = _Blockable()
        request.producer = produced
        while not produced.is_paused:
            request.send_body(bytes(1000))
            request.flush()
    waiting = [stream.queued for stream in client.connection.streams.values()]
    assert len(waiting) == MAX_STREAMS
    assert max(waiting) <= MAX_QUEUED + 1000
    assert not client.connection._out
    assert client.is_open


class _Blockable:
    def __init__(self) -> None:
        self.is_paused = False

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def stopProducing(self) -> None:
        pass


def test_uploads_that_nobody_takes_hold_at_most_the_connections_window() -> None:
    client = Http2Client(Server())
    for stream in (1, 3, 5, 7):
        client.request(stream, POST, ends=False)
        client.send(*[data_frame(stream, bytes(16_384))] * (STREAM_WINDOW // 16_384))
    assert sum(stream._held_bytes for stream in client.connection.streams.values()) == CONNECTION_WINDOW
    assert client.is_open


def test_readful_of_small_frames_is_held_and_not_more_is_read() -> None:
    _, client = fresh()
    client.transport.send(ping() * (TURN_FRAMES + 100))
    assert len(client.look()) == TURN_FRAMES
    assert len(client.connection._buffer) == 100 * 17
    assert not client.transport.is_reading
    client.send()
    assert len(client.look()) == 100
    assert client.transport.is_reading


def test_connection_that_is_not_read_from_is_read_to_its_end_when_it_ends() -> None:
    server, client = fresh()
    client.transport.takes = False
    while client.transport.is_reading:
        server.clock.advance(5)
        client.transport.send(ping() * 200)
    client.connection.close_when_idle()
    assert client.transport.is_reading
    client.transport.end()
    assert client.transport.closed
