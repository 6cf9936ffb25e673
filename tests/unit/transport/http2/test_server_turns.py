"""Many requests at once: what shares a turn, a write, or a head."""

from __future__ import annotations

from collections.abc import Callable

from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import PROTOCOL_ERROR, ping, window_update
from tests.unit.support import Server

from txgateway.transport.http2.floods import FIELDS_A_FRAME, REQUEST_FRAMES, TURN_FRAMES
from txgateway.transport.http2.header_decoder import MAX_KNOWN_BYTES
from txgateway.transport.http2.sending import WRITE_BYTES
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH

# --- many at once ----------------------------------------------------------------------------------------------------------------


def test_requests_of_one_read_are_answered_in_one_write() -> None:
    server = Server(lambda request: request.answer(200, [], b"ok"))
    client = Http2Client(server)
    before = client.transport.writes
    client.send(b"".join(client.headers(stream) for stream in range(1, 21, 2)))
    assert client.transport.writes == before + 1
    assert all(client.body(stream) == b"ok" and client.has_ended(stream) for stream in range(1, 21, 2))


def test_one_read_gets_a_share_of_a_turn_and_the_rest_the_next() -> None:
    server = Server(lambda request: request.answer(200, [], b""))
    client = Http2Client(server)
    decoded = 2 * (len(GET) // FIELDS_A_FRAME)  # until the head is known
    share = -(-(TURN_FRAMES - decoded) // (REQUEST_FRAMES + 1))
    client.transport.send(b"".join(client.headers(2 * number + 1) for number in range(2 * share)))
    assert len(server.requests) == share
    assert not client.transport.is_reading
    client.send()
    assert len(server.requests) == 2 * share
    assert client.transport.is_reading
    assert client.transport.taken
    assert client.connection._buffer == b""


def test_known_head_means_the_same_every_time_and_is_nobodys_to_change() -> None:
    server = Server(lambda request: request.answer(200, [], b""))
    client = Http2Client(server)
    fields = [*GET, (b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2")]
    for stream in (1, 3, 5, 7):
        client.request(stream, fields)
        server.request.fields[b"x-mine"] = b"1"
        server.request.headers = ()
    assert len(client.connection._decoder._known) == 1
    client.request(9, [*fields, (b"x-new", b"1")])  # the table is another one now
    assert not client.connection._decoder._known
    client.request(11, fields)
    server.request.fields[b"x-mine"] = b"1"
    client.request(13, fields)
    request = server.request
    assert [header[0] for header in request.headers] == [b"host", b"x-a", b"cookie"]
    assert request.fields == {b"host": b"a", b"x-a": b"1", b"cookie": b"a=1; b=2"}
    assert request.body_complete
    assert (request.method, request.length) == (b"GET", NO_BODY)


def test_known_head_with_a_body_is_one_with_a_body() -> None:
    server = Server()
    client = Http2Client(server)
    client.request(1, POST)
    for stream, ends in ((3, True), (5, False), (7, False), (9, True), (11, False), (13, True)):
        client.request(stream, POST, ends=ends)
        request = server.request
        assert (request.method, request.length, request.body_complete) == (
            b"POST", NO_BODY if ends else UNKNOWN_LENGTH, ends,
        )  # fmt: skip


def test_known_head_is_no_trailers() -> None:
    server = Server()
    client = Http2Client(server)
    for stream in (1, 3):
        client.request(stream, GET, ends=True)
    client.request(5, GET, ends=False)
    client.request(5, GET, ends=True)
    assert client.resets()[5] == PROTOCOL_ERROR


def test_known_heads_are_bounded() -> None:
    server = Server(lambda request: request.answer(200, [], b""))
    client = Http2Client(server)
    fields = [(b"x-%d" % number, b"1") for number in range(8)]
    client.request(1, [*GET, *fields])
    for number in range(2**8):
        chosen = [field for at, field in enumerate(fields) if number >> at & 1]
        client.request(2 * number + 3, [*GET, *chosen])
    known = client.connection._decoder._known
    assert 1 < sum(len(block) + 128 * len(heads[True].headers) for block, heads in known.items()) <= MAX_KNOWN_BYTES


# --- a reactor that says when all events of a turn were served -----------------------------------------------------------------------


def at_turn_ends() -> tuple[Server, Http2Client, list[Callable[[], None]]]:
    """A server whose clock keeps what is to be done at the end of a turn."""
    server = Server()
    ends: list[Callable[[], None]] = []
    vars(server.clock)["at_turn_end"] = ends.append
    client = Http2Client(server)
    for stream in (1, 3, 5):
        client.request(stream)
    return server, client, ends


def test_what_streams_write_in_one_turn_leaves_in_one_write() -> None:
    server, client, ends = at_turn_ends()
    writes = client.transport.writes
    for request in server.requests:
        request.answer(200, [], b"ok")
    assert client.transport.writes == writes
    (flush,) = ends
    flush()
    assert client.transport.writes == writes + 1
    assert all(client.body(stream) == b"ok" and client.has_ended(stream) for stream in (1, 3, 5))
    ends.clear()
    server.requests[0].flush()
    client.request(7)
    server.request.answer(200, [], b"later")
    while ends:
        ends.pop()()
    assert client.body(7) == b"later"


def test_large_answers_do_not_wait_for_the_end_of_a_turn() -> None:
    server, client, ends = at_turn_ends()
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    size = 0
    while size <= WRITE_BYTES - 16_384:
        request.send_body(bytes(16_384))
        size += 16_384
        request.flush()
    client.send(window_update(100_000) + window_update(100_000, 5))
    assert len(client.body(5)) == size
    for _ in range(WRITE_BYTES // 16_384 + 1):
        request.send_body(bytes(16_384))
        request.flush()
    assert len(client.body(5)) == size + WRITE_BYTES + 16_384
    assert len(ends) == 1


def test_end_of_a_turn_after_the_connections_end_writes_nothing() -> None:
    server, client, ends = at_turn_ends()
    server.request.respond(200, b"", [], UNKNOWN_LENGTH)
    server.request.send_body(b"part")
    server.request.flush()
    client.send(ping()[:-1] + b"x" + ping()[:5] + b"\0\0\0\x01" + bytes(8))
    client.assert_ended(PROTOCOL_ERROR, 5)
    for end in ends:
        end()
    assert not client.look()


def test_end_of_one_stream_is_not_put_on_a_frame_of_another() -> None:
    server, client, ends = at_turn_ends()
    first, second, _ = server.requests
    first.respond(200, b"", [], UNKNOWN_LENGTH)
    first.flush()
    ends.pop()()
    second.respond(200, b"", [], UNKNOWN_LENGTH)
    second.send_body(b"more")
    first.end([])
    ends.pop()()
    assert client.has_ended(1)
    assert client.body(3) == b"more"
    assert not client.has_ended(3)
    second.end([])
    ends.pop()()
    assert client.has_ended(3)


def test_head_that_was_of_a_request_with_a_body_is_known_for_none_without() -> None:
    server = Server()
    client = Http2Client(server)
    for stream in (1, 3, 5):
        client.request(stream, POST, ends=False)
    client.request(7, POST)
    assert (server.request.length, server.request.body_complete) == (NO_BODY, True)
