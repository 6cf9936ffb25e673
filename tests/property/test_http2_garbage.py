"""Frames that make no sense, to the server side of HTTP/2: it goes on, or ends with GOAWAY; and it holds no more for it."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    GOAWAY,
    PREFACE,
    frame,
    literal_block,
    settings_frame,
)
from tests.unit.support import Server, logged_failures

from txgateway.testing.strategies import splits
from txgateway.transport.http2.floods import EMPTY_FRAMES
from txgateway.transport.http2.server import CONNECTION_WINDOW, MAX_STREAMS
from txgateway.transport.http2.streams import KNOWN_CLOSED
from txgateway.transport.interfaces import UNKNOWN_LENGTH

# --- frames that make no sense ---------------------------------------------------------------------------------------------------

_streams = st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1, 2**31 + 1])
_blocks = st.one_of(
    st.just(literal_block(GET)),
    st.just(literal_block(POST)),
    st.just(literal_block([(b"x-t", b"1")])),
    st.just(literal_block([*POST, (b"content-length", b"5")])),
    st.just(literal_block([(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]])),
    st.binary(max_size=30),
)
_numbers = st.sampled_from([0, 1, 100, 2**16, 2**31 - 1, 2**32 - 1]).map(lambda number: number.to_bytes(4, "big"))
_payloads = st.one_of(st.binary(max_size=20), _numbers, _blocks, st.integers(0, 30).map(bytes))
_settings = st.lists(
    st.tuples(st.integers(0, 10), st.sampled_from([0, 1, 2, 100, 2**14, 2**16, 2**24, 2**31 - 1, 2**31])), max_size=3
).map(settings_frame)
_flags = st.one_of(st.sampled_from([0, 1, 4, 5, 0xC, 0x25, 0x2C]), st.integers(0, 255))
garbage = st.lists(
    st.one_of(
        st.builds(frame, st.integers(0, 11), _flags, _streams, _payloads),
        st.builds(frame, st.just(1), st.sampled_from([4, 5, 5, 0, 1]), _streams, _blocks),
        st.builds(frame, st.just(0), st.sampled_from([0, 1, 8, 9]), _streams, _payloads),
        st.builds(frame, st.sampled_from([3, 8]), st.just(0), _streams, _numbers),
        _settings,
    ),
    max_size=25,
)


class Careless:
    """Serves in one of several ways, by turns."""

    def __init__(self, ways: list[int]) -> None:
        self.ways = ways
        self.server = Server(self.serve)

    def body_received(self, data: bytes) -> None:
        pass

    def body_ended(self, trailers: Any) -> None:
        pass

    def serve(self, request: Any) -> None:
        way = self.ways[len(self.server.requests) % len(self.ways)]
        if way in {1, 3}:
            request.want_body(self)
        if way in {2, 3}:
            request.answer(403, [], bytes(100_000))
        elif way == 4:
            request.respond(200 if request.upgrade == b"" else 404, b"", [], UNKNOWN_LENGTH)
            request.send_body(b"some")
        elif way == 5:
            request.abort()


@given(
    frames=garbage,
    ways=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    is_split=st.booleans(),
    data=st.data(),
)
@example(frames=[frame(1, 5, 1, literal_block(GET))] * 2, ways=[2], is_split=False, data=None)
def test_frames_that_make_no_sense_harm_nobody(
    frames: list[bytes], ways: list[int], is_split: bool, data: st.DataObject | None
) -> None:
    careless = Careless(ways)
    server = careless.server
    with logged_failures() as failures:
        client = Http2Client(server, greets=False)
        wire = PREFACE + settings_frame() + b"".join(frames)
        for read in data.draw(splits(wire)) if is_split and data is not None else [wire]:
            client.send(read)
        assert_sane(client)
        if client.goaway is None:
            client.send(frame(6, 0, 0, b"sentinel"))
            assert_sane(client)
        client.transport.end()
        server.clock.advance(0)
        assert client.transport.closed
        assert all(request.ended for request in server.requests + server.refused)
        assert not server.factory.connections
        server.wait(3)
        assert not server.wheel._fine | server.wheel._coarse
    assert not failures


def assert_sane(client: Http2Client) -> None:
    """It is open, or ended with GOAWAY; and what it holds is bounded."""
    connection, transport = client.connection, client.transport
    client.look()
    assert not transport.aborted
    assert (client.goaway is not None and client.log[-1].kind == GOAWAY) == transport.half_closed
    assert len(connection.streams) <= MAX_STREAMS
    assert len(connection._closed) <= KNOWN_CLOSED
    assert connection._receive_left <= CONNECTION_WINDOW
    assert 0 <= connection._empty_frames._left <= EMPTY_FRAMES
    if transport.half_closed:
        assert not connection.streams
        assert connection._buffer == b""
        assert connection._block is None


@given(data=st.data(), raw=st.binary(max_size=300))
def test_garbage_harms_nobody(data: st.DataObject, raw: bytes) -> None:
    with logged_failures() as failures:
        client = Http2Client(Server(), greets=False)
        for read in data.draw(splits(PREFACE + raw)):
            client.send(read)
        assert_sane(client)
    assert not failures
