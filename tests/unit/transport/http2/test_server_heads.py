"""Heads in several frames, padded, with a priority (RFC 9113 sections 6.2 and 6.10)."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HAS_PRIORITY,
    HEADERS,
    NO_ERROR,
    PADDED,
    data_frame,
    frame,
    literal_block,
)
from tests.unit.support import Body, Server

from txgateway.transport.interfaces import ServerLimits

BLOCK = literal_block(GET)


OPEN = frame(HEADERS, END_HEADERS, 1, literal_block(POST))


def answering() -> Server:
    return Server(lambda request: request.answer(200, [], b"ok"))


def wanting() -> Server:
    """Takes all bodies, answers nothing."""
    return Server(lambda request: request.want_body(Body()))


# --- heads in pieces (sections 6.2 and 6.10) --------------------------------------------------------------------------------


def test_padding_and_priority_are_taken_off() -> None:
    server = Server()
    client = Http2Client(server)
    client.send(
        frame(HEADERS, END_HEADERS | PADDED | HAS_PRIORITY, 1, b"\x03\x80\0\0\0\xff" + literal_block(POST) + bytes(3))
    )
    body = Body()
    server.request.want_body(body)
    client.send(frame(DATA, PADDED, 1, b"\x02hi\0\0") + frame(DATA, PADDED | END_STREAM, 1, b"\0!"))
    assert (body.data, body.trailers) == (b"hi!", [])


def _cut(block: bytes, parts: int) -> bytes:
    size = len(block) // parts + 1
    pieces = [block[at : at + size] for at in range(0, len(block), size)]
    wire = [frame(HEADERS, END_STREAM, 1, pieces[0])]
    wire += [frame(CONTINUATION, 0, 1, piece) for piece in pieces[1:-1]]
    return b"".join((*wire, frame(CONTINUATION, END_HEADERS, 1, pieces[-1])))


@pytest.mark.parametrize("parts", [2, 3, 16])
def test_head_in_several_frames_is_a_head(parts: int) -> None:
    client = Http2Client(answering()).send(_cut(literal_block([*GET, (b"x", b"y" * 1000)]), parts))
    assert client.status() == 200


def test_head_is_used_when_it_is_whole_and_not_before() -> None:
    server = answering()
    client = Http2Client(server)
    client.send(frame(HEADERS, END_STREAM, 1), frame(CONTINUATION, 0, 1, BLOCK), frame(CONTINUATION, 0, 1))
    assert not server.requests
    client.send(frame(CONTINUATION, END_HEADERS, 1))
    assert client.status() == 200


def test_large_answer_head_comes_in_continuations() -> None:
    value = b"v" * 40_000
    server = Server(lambda request: request.answer(200, [(b"x-a", b"X-A", value)], b""), ServerLimits())
    client = Http2Client(server).request(1)
    assert client.head()[b"x-a"] == value
    assert [(one.kind, one.flags) for one in client.log[-3:]] == [
        (HEADERS, END_STREAM),
        (CONTINUATION, 0),
        (CONTINUATION, END_HEADERS),
    ]


def test_connection_lost_in_the_middle_of_anything_leaves_nothing() -> None:
    server = wanting()
    client = Http2Client(server).send(OPEN + data_frame(1, b"x"), frame(HEADERS, 0, 3, BLOCK[:3]))
    client.transport.reset()
    assert server.request.reason == "CLIENT_GONE"
    assert not server.factory.connections
    assert not server.wheel._fine | server.wheel._coarse
    assert NO_ERROR not in client.resets().values()
