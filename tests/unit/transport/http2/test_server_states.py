"""What a client may say of a stream in each of its states (RFC 9113 section 5.1), and how many it may open."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    CANCEL,
    CONTINUATION,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEADERS,
    INTERNAL_ERROR,
    LARGEST_STREAM,
    NO_ERROR,
    PING,
    PRIORITY,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    STREAM_CLOSED,
    data_frame,
    frame,
    literal_block,
    ping,
    rst_stream,
    window_update,
)
from tests.unit.support import Body, Server, logged_failures

from txgateway.transport.http2.server import CONNECTION_WINDOW, MAX_STREAMS
from txgateway.transport.http2.streams import KNOWN_CLOSED
from txgateway.transport.interfaces import UNKNOWN_LENGTH

WINDOW = 65_535


def wanting() -> Server:
    """Takes all bodies, answers nothing."""
    return Server(lambda request: request.want_body(Body()))


def is_alive(client: Http2Client) -> bool:
    """A PING is answered."""
    client.send(ping(b"sentinel"))
    return client.of(PING)[-1].payload == b"sentinel" and client.is_open


# --- what ends a stream, and nothing else -----------------------------------------------------------------------------------

_BEGUN = b"open"
_WHOLE = b"half-closed by the client"
_STREAM_FAULTS: dict[str, tuple[bytes, bytes, int]] = {
    "5.1 DATA behind the end": (_WHOLE, data_frame(1, b"x"), STREAM_CLOSED),
    "5.1 empty DATA behind the end": (_WHOLE, data_frame(1, ends=True), STREAM_CLOSED),
    "5.1 HEADERS behind the end": (
        _WHOLE, frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b"x", b"1")])), STREAM_CLOSED,
    ),
    "6.3 PRIORITY of another size": (_BEGUN, frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of nothing": (_BEGUN, window_update(0, 1), PROTOCOL_ERROR),
    "6.9 the same behind the end": (_WHOLE, window_update(0, 1), PROTOCOL_ERROR),
    "6.9.1 window too large": (_BEGUN, window_update(2**31 - WINDOW, 1), FLOW_CONTROL_ERROR),
    "8.1 trailers without an end": (
        _BEGUN, frame(HEADERS, END_HEADERS, 1, literal_block([(b"x", b"1")])), PROTOCOL_ERROR,
    ),
    "8.1 trailers with a pseudo-header field": (
        _BEGUN, frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b":path", b"/")])), PROTOCOL_ERROR,
    ),
    "8.1 trailers with a letter in upper case": (
        _BEGUN, frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b"X", b"1")])), PROTOCOL_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("state", "wire", "code"), _STREAM_FAULTS.values(), ids=_STREAM_FAULTS)
def test_fault_of_a_stream_resets_it_and_the_others_go_on(state: bytes, wire: bytes, code: int) -> None:
    server = wanting()
    client = Http2Client(server).request(1, POST if state is _BEGUN else GET, ends=state is _WHOLE)
    client.request(3)
    with logged_failures() as failures:
        client.send(wire)
    first, second = server.requests
    assert client.resets() == {1: code}
    assert (first.ended, first.reason, first.status) == (True, "BAD_REQUEST", 400)
    assert not client.of(HEADERS, 1)  # RST_STREAM says it all
    second.answer(200, [], b"ok")
    assert client.body(3) == b"ok"
    assert is_alive(client)
    assert not failures


@pytest.mark.parametrize("ends", [True, False])
def test_fault_after_the_answer_began_cuts_it(ends: bool) -> None:
    server = wanting()
    client = Http2Client(server).request(1, ends=ends)
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    request.send_body(b"some")
    request.flush()
    client.send(window_update(0, 1))
    assert client.resets() == {1: PROTOCOL_ERROR}
    assert not client.has_ended()
    assert request.reason == "BAD_REQUEST"
    assert is_alive(client)


def test_priority_of_another_size_for_a_stream_that_has_ended_is_said_to_that() -> None:
    client = Http2Client(wanting()).request(3).send(frame(PRIORITY, 0, 1, bytes(6)))
    assert client.resets() == {1: FRAME_SIZE_ERROR}
    assert is_alive(client)


# --- closed streams --------------------------------------------------------------------------------------------------------


def answered(how: str) -> Http2Client:
    """Stream 1 has ended: ``well``, by ``our`` RST_STREAM or by ``theirs``."""
    server = wanting()
    client = Http2Client(server).request(1, POST if how == "ours" else GET, ends=how != "ours")
    if how == "theirs":
        client.send(rst_stream(1))
    else:
        server.request.answer(200, [], b"ok")
        assert client.resets() == ({1: NO_ERROR} if how == "ours" else {})
    assert not client.connection.streams
    client.look()
    return client


_TRAILERS = frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b"x", b"1")]))


@pytest.mark.parametrize("how", ["well", "ours", "theirs"])
@pytest.mark.parametrize(
    "wire", [frame(PRIORITY, 0, 1, bytes(5)), window_update(1, 1), window_update(0, 1), rst_stream(1)]
)
def test_frames_that_may_cross_the_end_of_a_stream_are_ignored(how: str, wire: bytes) -> None:
    client = answered(how).send(wire)
    assert not client.look()
    assert is_alive(client)


@pytest.mark.parametrize("wire", [data_frame(1, b"x"), data_frame(1, b"x", ends=True), _TRAILERS])
def test_what_comes_after_our_reset_is_ignored(wire: bytes) -> None:
    client = answered("ours").send(wire)
    assert not client.look()
    assert is_alive(client)


@pytest.mark.parametrize("wire", [data_frame(1, b"x"), _TRAILERS])
def test_what_comes_after_their_reset_is_a_fault_of_the_stream(wire: bytes) -> None:
    client = answered("theirs").send(wire)
    assert client.resets() == {1: STREAM_CLOSED}
    assert is_alive(client)


@pytest.mark.parametrize("wire", [data_frame(1, b"x"), _TRAILERS])
def test_what_comes_after_a_proper_end_is_a_fault_of_the_connection(wire: bytes) -> None:
    answered("well").send(wire).assert_ended(STREAM_CLOSED, 1)


def test_ignored_head_is_decoded_all_the_same() -> None:
    server = wanting()
    client = Http2Client(server).request(1, POST, ends=False)
    server.request.answer(200, [], b"")
    client.request(1, [(b"x-late", b"1")])
    client.request(3, [*GET, (b"x-late", b"1")])  # by the index that the late one has made
    assert server.request.fields[b"x-late"] == b"1"


@pytest.mark.parametrize("stream", [1, 2, 3, 4])
def test_number_of_a_new_stream_is_odd_and_larger_than_all_before(stream: int) -> None:
    client = Http2Client(wanting()).request(5).request(stream)
    client.assert_ended(PROTOCOL_ERROR, 5)


def test_skipped_number_is_a_closed_stream() -> None:
    client = Http2Client(wanting()).request(5).send(window_update(1, 3), rst_stream(3))
    assert is_alive(client)
    client.send(data_frame(3, b"x")).assert_ended(STREAM_CLOSED, 5)


def test_largest_number_is_one_and_there_is_none_behind() -> None:
    server = wanting()
    client = Http2Client(server).request(LARGEST_STREAM)
    server.request.answer(200, [], b"ok")
    assert client.body(LARGEST_STREAM) == b"ok"
    client.request(1)
    client.look()
    assert client.goaway == (LARGEST_STREAM, PROTOCOL_ERROR)


def test_what_is_known_of_closed_streams_is_bounded() -> None:
    server = Server(lambda request: request.answer(200, [], b""))
    client = Http2Client(server)
    for number in range(KNOWN_CLOSED + 50):
        client.request(2 * number + 1)
    assert len(client.connection._closed) == KNOWN_CLOSED
    assert is_alive(client)


# --- as many as there may be (section 5.1.2) ---------------------------------------------------------------------------------


def test_streams_beyond_the_limit_are_refused_and_the_connection_lives_on() -> None:
    server = wanting()
    client = Http2Client(server)
    for number in range(MAX_STREAMS):
        client.request(2 * number + 1, POST, ends=False)
    assert len(server.requests) == MAX_STREAMS
    client.request(201, POST, ends=False).request(203)
    assert client.resets() == {201: REFUSED_STREAM, 203: REFUSED_STREAM}
    assert len(server.requests) == MAX_STREAMS
    client.send(data_frame(201, b"crosses"), _trailers(client, 201))
    server.requests[0].answer(200, [], b"ok")  # whose request was not complete
    assert client.resets() == {201: REFUSED_STREAM, 203: REFUSED_STREAM, 1: NO_ERROR}
    client.request(205)
    server.request.answer(200, [], b"room")
    assert client.body(205) == b"room"
    assert len(server.requests) == MAX_STREAMS + 1
    assert is_alive(client)


def _trailers(client: Http2Client, stream: int) -> bytes:
    return client.headers(stream, [(b"x-t", b"1")])


def test_head_that_is_refused_counts_for_the_table() -> None:
    server = wanting()
    client = Http2Client(server)
    for number in range(MAX_STREAMS):
        client.request(2 * number + 1)
    client.request(201, [*GET, (b"x-new", b"1")])
    client.send(rst_stream(1))
    client.request(203, [*GET, (b"x-new", b"1")])
    assert server.request.fields[b"x-new"] == b"1"
    assert client.resets() == {201: REFUSED_STREAM}


def test_streams_that_were_refused_are_remembered_in_bounded_number() -> None:
    server = wanting()
    client = Http2Client(server)
    for number in range(MAX_STREAMS + 400):
        client.request(2 * number + 1)
    assert len(client.connection._closed) == KNOWN_CLOSED
    assert client.is_open


# --- ends from either side ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_begun", [False, True])
def test_reset_of_the_client_ends_the_request(has_begun: bool) -> None:
    server = wanting()
    client = Http2Client(server).request(1)
    request = server.request
    finished: list[Any] = []
    request.on_finish(finished.append)
    if has_begun:
        request.respond(200, b"", [], UNKNOWN_LENGTH)
        request.send_body(b"x")
        request.flush()
    client.send(rst_stream(1, CANCEL))
    assert finished == [request]
    assert request.reason == "CLIENT_GONE"
    assert request.status == (200 if has_begun else 499)
    assert not client.resets()
    assert is_alive(client)
    assert not client.has_ended()


def test_answer_that_is_cut_never_looks_whole() -> None:
    server = wanting()
    client = Http2Client(server).request(1)
    server.request.respond(200, b"", [], UNKNOWN_LENGTH)
    server.request.send_body(b"part")
    server.request.flush()
    server.request.abort()
    assert client.body() == b"part"
    assert client.resets() == {1: INTERNAL_ERROR}
    assert not client.has_ended()
    assert is_alive(client)


def test_answer_that_is_cut_with_its_head_in_hand_never_looks_whole() -> None:
    def serve(request: Any) -> None:
        request.respond(200, b"", [], UNKNOWN_LENGTH)
        request.send_body(b"part")
        request.abort()

    client = Http2Client(Server(serve)).request(1)
    assert client.resets() == {1: INTERNAL_ERROR}
    assert not client.has_ended()


def test_early_answer_is_whole_and_then_the_rest_of_the_body_is_not_wanted() -> None:
    server = wanting()
    client = Http2Client(server).request(1, POST, ends=False).send(data_frame(1, b"some"))
    server.request.answer(413, [], b"no")
    assert client.status() == 413
    assert client.body() == b"no"
    assert client.has_ended()
    assert client.log[-1].kind == RST_STREAM
    assert client.resets() == {1: NO_ERROR}
    client.send(data_frame(1, b"x" * 16_384), data_frame(1, b"rest", ends=True))
    assert is_alive(client)


def test_bytes_of_refused_and_reset_streams_are_credited_to_the_connection() -> None:
    server = Server(lambda request: request.answer(200, [], b""))
    client = Http2Client(server).request(1, POST, ends=False)
    for _ in range(3 * CONNECTION_WINDOW // 16_384):
        client.send(data_frame(1, b"x" * 16_384))
    assert is_alive(client)
    assert client.credited() >= 2 * CONNECTION_WINDOW
    assert not client.credited(1)


@pytest.mark.parametrize("fault", ["length", "window", "behind the end"])
def test_bytes_of_streams_that_end_by_a_fault_are_credited_to_the_connection(fault: str) -> None:
    server = wanting()
    client = Http2Client(server)
    rounds = 3 * CONNECTION_WINDOW // 16_384
    for number in range(rounds):
        stream = 2 * number + 1
        if fault == "length":
            client.request(stream, [*POST, (b"content-length", b"1")], ends=False)
            client.send(data_frame(stream, b"x" * 16_384))
            assert client.resets()[stream] == PROTOCOL_ERROR
        elif fault == "window":
            client.request(stream, POST, ends=False)
            client.connection.streams[stream].receive_left = 16_383
            client.send(data_frame(stream, b"x" * 16_384))
            assert client.resets()[stream] == FLOW_CONTROL_ERROR
        else:
            client.request(stream, POST)
            client.send(data_frame(stream, b"x" * 16_384))
            assert client.resets()[stream] == STREAM_CLOSED
    assert is_alive(client)
    assert client.credited() >= 2 * CONNECTION_WINDOW


def test_continuation_of_a_refused_head_is_read_like_any_other() -> None:
    server = wanting()
    client = Http2Client(server)
    for number in range(MAX_STREAMS):
        client.request(2 * number + 1)
    block = literal_block(GET)
    client.send(frame(HEADERS, END_STREAM, 201, block[:9]), frame(CONTINUATION, END_HEADERS, 201, block[9:]))
    assert client.resets() == {201: REFUSED_STREAM}
    assert is_alive(client)
