"""What a client may send in vain, to the number: one more ends the connection with ENHANCE_YOUR_CALM, and nothing grows.

Time stands still in most of these, so that nothing is forgiven.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    CANCEL,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    PADDED,
    PRIORITY,
    REFUSED_STREAM,
    RST_STREAM,
    STREAM_CLOSED,
    data_frame,
    frame,
    goaway,
    literal_block,
    ping,
    rst_stream,
    settings_ack,
    settings_frame,
    window_update,
)
from tests.unit.support import Body, Server

from txgateway.transport.http2.floods import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    EARNED,
    EMPTY_FRAMES,
    EMPTY_FRAMES_PER_S,
    FIELDS_A_FRAME,
    LIST_BYTES,
    REQUEST_FRAMES,
    RESETS,
    RESETS_PER_S,
    SETTINGS,
    TURN_FRAMES,
    Allowance,
)
from txgateway.transport.http2.server import MAX_STREAMS
from txgateway.transport.http2.streams import KNOWN_CLOSED
from txgateway.transport.interfaces import UNKNOWN_LENGTH


def wanting() -> Server:
    return Server(lambda request: request.want_body(Body()))


def is_calm(client: Http2Client) -> bool:
    """The connection ended with ENHANCE_YOUR_CALM."""
    client.look()
    return client.goaway is not None and client.goaway[1] == ENHANCE_YOUR_CALM and client.transport.half_closed


def fresh() -> tuple[Server, Http2Client]:
    """A connection that has all that it is allowed still before it."""
    server = wanting()
    client = Http2Client(server)
    client.connection._empty_frames = Allowance(EMPTY_FRAMES, EMPTY_FRAMES_PER_S, server.wheel.now)
    return server, client


# --- frames that bring nothing ---------------------------------------------------------------------------------------------------


def _on_open_stream(client: Http2Client) -> None:
    client.request(1, POST, ends=False)


def _on_stream_that_we_reset(client: Http2Client) -> None:
    client.request(1, POST, ends=False).send(window_update(0, 1))


def _nowhere(client: Http2Client) -> None:
    pass


EMPTY: dict[str, tuple[Callable[[Http2Client], None], bytes]] = {
    "PING": (_nowhere, ping()),
    "PING ack": (_nowhere, ping(is_ack=True)),
    "SETTINGS": (_nowhere, settings_frame()),
    "SETTINGS with something": (_nowhere, settings_frame({INITIAL_WINDOW_SIZE: 1})),
    "SETTINGS ack": (_nowhere, settings_ack()),
    "PRIORITY": (_nowhere, frame(PRIORITY, 0, 1, bytes(5))),
    "unknown": (_nowhere, frame(0x42, 0, 0, b"x")),
    "WINDOW_UPDATE": (_nowhere, window_update(1)),
    "WINDOW_UPDATE of a stream": (_on_open_stream, window_update(1, 1)),
    "empty DATA": (_on_open_stream, data_frame(1)),
    "DATA of padding": (_on_open_stream, frame(0, PADDED, 1, b"\x01\0")),
    "DATA behind our reset": (_on_stream_that_we_reset, data_frame(1, b"x")),
    "HEADERS behind our reset": (
        _on_stream_that_we_reset, frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b"x", b"1")])),
    ),
    "RST_STREAM behind our reset": (_on_stream_that_we_reset, rst_stream(1)),
    "WINDOW_UPDATE behind our reset": (_on_stream_that_we_reset, window_update(1, 1)),
    "GOAWAY": (_on_open_stream, goaway()),
}  # fmt: skip


@pytest.mark.parametrize(("prepare", "wire"), EMPTY.values(), ids=EMPTY)
def test_flood_of_frames_that_bring_nothing(prepare: Callable[[Http2Client], None], wire: bytes) -> None:
    server, client = fresh()
    prepare(client)
    client.connection._empty_frames = Allowance(EMPTY_FRAMES, EMPTY_FRAMES_PER_S, server.wheel.now)
    client.send(wire * EMPTY_FRAMES)
    assert client.is_open
    client.send(wire)
    assert is_calm(client)


@pytest.mark.parametrize("wire", [ping(), window_update(1), settings_frame()])
def test_time_forgives_frames_that_bring_nothing(wire: bytes) -> None:
    server, client = fresh()
    client.request(1)
    client.send(wire * EMPTY_FRAMES)
    for _ in range(10):
        server.wait(1)
        client.send(wire * (int(EMPTY_FRAMES_PER_S) - 5))
        assert client.is_open
    client.send(wire * 60)
    assert is_calm(client)


def test_allowance_is_never_more_than_it_was() -> None:
    allowance = Allowance(3, 1.0, 0.0)
    allowance.earn(100)
    assert [allowance.spend(0.0) for _ in range(4)] == [True, True, True, False]
    assert not allowance.spend(0.5)
    assert [allowance.spend(1.25), allowance.spend(1.25)] == [True, False]
    assert [allowance.spend(1000.0) for _ in range(4)] == [True, True, True, False]


def test_one_window_update_for_each_data_frame_is_honest() -> None:
    server = Server()
    client = Http2Client(server, {INITIAL_WINDOW_SIZE: 100}).request(1)
    server.request.respond(200, b"", [], UNKNOWN_LENGTH)
    for _ in range(2 * EMPTY_FRAMES):
        server.request.send_body(bytes(100))
        server.request.flush()
        client.send(window_update(100) + window_update(100, 1))
    assert len(client.body()) == 200 * EMPTY_FRAMES
    assert client.is_open


def test_upload_earns_its_pings() -> None:
    _, client = fresh()
    client.request(1, POST, ends=False)
    for _ in range(EMPTY_FRAMES):
        client.send(data_frame(1, b"x") + ping() * EARNED)
    assert client.is_open
    client.send((data_frame(1, b"x") + ping() * (EARNED + 1)) * (EMPTY_FRAMES + 1))
    assert is_calm(client)


def test_requests_earn_their_pings() -> None:
    server, client = fresh()
    server.factory.dispatch = lambda request: request.answer(204, [], b"")
    for number in range(EMPTY_FRAMES):
        client.send(client.headers(2 * number + 1) + ping() * EARNED)
    assert client.is_open


def test_pings_once_a_second_are_honest() -> None:
    server, client = fresh()
    client.request(1)
    for _ in range(2 * EMPTY_FRAMES):
        server.clock.advance(1)
        client.transport.send(ping())
    assert client.is_open


# --- streams that come to nothing ------------------------------------------------------------------------------------------------


def _reset(client: Http2Client, stream: int) -> bytes:
    return client.headers(stream) + rst_stream(stream, CANCEL)


def _malformed(client: Http2Client, stream: int) -> bytes:
    return client.headers(stream, [*GET, (b"X", b"1")])


def _then(
    *, ends: bool, wire: Callable[[int], bytes], fields: tuple[tuple[bytes, bytes], ...] = ()
) -> Callable[[Http2Client, int], bytes]:
    def make(client: Http2Client, stream: int) -> bytes:
        return client.headers(stream, [*POST, *fields], ends=ends) + wire(stream)

    return make


_FIELD = literal_block([(b":path", b"/")])
#: Every way to make us end a stream.
MADE_RESETS: dict[str, Callable[[Http2Client, int], bytes]] = {
    "their RST_STREAM": _reset,
    "malformed head": _malformed,
    "WINDOW_UPDATE of nothing": _then(ends=True, wire=lambda stream: window_update(0, stream)),
    "window too large": _then(ends=True, wire=lambda stream: window_update(2**31 - 1, stream)),
    "PRIORITY of another size": _then(ends=True, wire=lambda stream: frame(PRIORITY, 0, stream, bytes(4))),
    "DATA behind the end": _then(ends=True, wire=lambda stream: data_frame(stream, b"x")),
    "HEADERS behind the end": _then(
        ends=True, wire=lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, _FIELD)
    ),
    "trailers that do not end": _then(ends=False, wire=lambda stream: frame(HEADERS, END_HEADERS, stream, _FIELD)),
    "malformed trailers": _then(
        ends=False, wire=lambda stream: frame(HEADERS, END_HEADERS | END_STREAM, stream, _FIELD)
    ),
    "longer body": _then(
        ends=False, wire=lambda stream: data_frame(stream, b"xx"), fields=((b"content-length", b"1"),)
    ),
    "shorter body": _then(
        ends=False, wire=lambda stream: data_frame(stream, ends=True), fields=((b"content-length", b"1"),)
    ),
}


@pytest.mark.parametrize("make", MADE_RESETS.values(), ids=MADE_RESETS)
def test_flood_of_streams_that_come_to_nothing(make: Callable[[Http2Client, int], bytes]) -> None:
    server = wanting()
    client = Http2Client(server)
    for number in range(RESETS):
        client.send(make(client, 2 * number + 1))
    assert client.is_open
    assert not client.connection.streams
    assert all(request.ended for request in server.requests)
    client.send(make(client, 2 * RESETS + 1))
    assert is_calm(client)
    assert len(server.requests) <= RESETS + 1
    assert all(request.ended for request in server.requests + server.refused)


def test_flood_of_frames_behind_their_reset() -> None:
    client = Http2Client(wanting())
    client.send(_reset(client, 1))
    for _ in range(EMPTY_FRAMES + 1):  # the first of which is answered
        client.send(data_frame(1, b"x"))
    assert client.is_open
    assert client.resets() == {1: STREAM_CLOSED}
    assert len(client.of(RST_STREAM)) == 1
    client.send(*[data_frame(1, b"x")] * EARNED)
    assert is_calm(client)


def test_flood_of_streams_that_overflow_their_windows() -> None:
    client = Http2Client(wanting())
    for number in range(RESETS + 1):
        stream = 2 * number + 1
        client.request(stream, POST, ends=False)
        client.connection.streams[stream].receive_left = 0
        client.send(data_frame(stream, b"x"))
        assert client.is_open == (number < RESETS)
    assert is_calm(client)


def test_flood_of_refused_streams() -> None:
    server = wanting()
    client = Http2Client(server)
    for number in range(MAX_STREAMS + RESETS):
        client.request(2 * number + 1)
    assert client.is_open
    assert len(client.connection._closed) <= KNOWN_CLOSED
    assert list(client.resets().values()) == [REFUSED_STREAM] * RESETS
    client.request(2 * (MAX_STREAMS + RESETS) + 1)
    assert is_calm(client)
    assert len(server.requests) == MAX_STREAMS


def test_rapid_reset_in_one_read_stops_at_the_number_too() -> None:
    server = wanting()
    client = Http2Client(server)
    client.send(b"".join(_reset(client, 2 * number + 1) for number in range(2 * RESETS)))
    assert is_calm(client)
    assert len(server.requests) == RESETS + 1
    assert not client.connection.streams
    assert client.connection._buffer == b""


def test_hundred_resets_at_once_and_fifty_a_second_are_honest() -> None:
    server = wanting()
    client = Http2Client(server)
    streams = iter(range(1, 10**6, 2))
    for _ in range(4):
        client.send(b"".join(_reset(client, next(streams)) for _ in range(100)))
    for _ in range(60):
        server.wait(1)
        client.send(b"".join(_reset(client, next(streams)) for _ in range(int(RESETS_PER_S))))
    assert client.is_open
    client.send(b"".join(_reset(client, next(streams)) for _ in range(200)))
    assert is_calm(client)


# --- header blocks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b"", b"\x82"])
def test_flood_of_continuations(part: bytes) -> None:
    client = Http2Client(wanting())
    client.send(frame(HEADERS, END_STREAM, 1), *[frame(CONTINUATION, 0, 1, part)] * (BLOCK_FRAMES - 1))
    assert client.is_open
    client.send(frame(CONTINUATION, END_HEADERS, 1))
    assert is_calm(client)
    assert client.connection._block is None


def test_large_block_ends_where_it_is_too_large() -> None:
    client = Http2Client(wanting())
    limit = max(BLOCK_BYTES, LIST_BYTES // 2)
    assert client.connection._max_block_bytes == limit
    client.send(frame(HEADERS, 0, 1, bytes(16_384)), *[frame(CONTINUATION, 0, 1, bytes(16_384))] * 3)
    assert client.is_open
    assert client.connection._block is not None
    assert client.connection._block.size == limit
    client.send(frame(CONTINUATION, 0, 1, b"x"))
    assert is_calm(client)


def test_block_that_means_much_more_than_it_says() -> None:
    server = wanting()
    client = Http2Client(server)
    client.request(1, [*GET, (b"x-bomb", b"b" * 4000)])
    assert len(server.requests) == 1
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\xbe" * 16_000))
    assert is_calm(client)
    assert len(server.requests) + len(server.refused) == 1


def test_many_small_fields_are_refused_before_they_are_too_many() -> None:
    server = wanting()
    client = Http2Client(server)
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([*GET, *[(b"a", b"")] * 1900])))
    assert client.status() == 431
    client.send(frame(HEADERS, END_HEADERS | END_STREAM, 3, literal_block([*GET, *[(b"a", b"")] * 2000])))
    assert is_calm(client)


# --- little that takes long ----------------------------------------------------------------------------------------------------------


def test_settings_in_one_frame_are_as_many_as_anybody_needs() -> None:
    client = Http2Client(wanting())
    client.send(settings_frame([(INITIAL_WINDOW_SIZE, number) for number in range(SETTINGS)]))
    assert client.is_open
    assert client.connection.initial_send_window == SETTINGS - 1
    client.send(settings_frame([(0x42, 0)] * (SETTINGS + 1)))
    assert is_calm(client)


def test_heads_of_many_fields_count_for_more_work() -> None:
    server = Server(lambda request: request.answer(200, [], b""))
    client = Http2Client(server)
    client.request(1, [*GET, (b"a", b"b")])
    count = 1600
    heads = [
        frame(HEADERS, END_HEADERS | END_STREAM, 3 + 2 * number, client.block(GET) + b"\xbe" * count)
        for number in range(9)
    ]
    client.transport.send(b"".join(heads))
    assert len(server.refused) == -(-TURN_FRAMES // (1 + REQUEST_FRAMES + (count + 4) // FIELDS_A_FRAME))
    client.send()
    assert len(server.refused) == 9
    assert client.is_open
