"""Requests and answers over HTTP/2 (RFC 9113 section 8): what a request is told, and what its answer looks like."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import GET, POST, Field, Http2Client
from tests.integration.h2_frames import (
    DATA,
    END_STREAM,
    HEADERS,
    INTERNAL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    RST_STREAM,
    data_frame,
)
from tests.unit.support import DATE, Body, Server, logged_failures
from twisted.internet.interfaces import IProtocol, IPushProducer
from zope.interface.verify import verifyObject

from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH

HEAD = ((b":method", b"HEAD"), *GET[1:])


def opened(*fields: Field, ends: bool = True) -> tuple[Server, Http2Client]:
    """A request with POST's fields, or GET's if it ends, and some more."""
    server = Server()
    return server, Http2Client(server).request(1, [*(GET if ends else POST), *fields], ends=ends)


def wanted(server: Server) -> Body:
    body = Body()
    server.request.want_body(body)
    return body


def test_provides_what_twisted_expects() -> None:
    connection = Http2Client(Server()).connection
    verifyObject(IProtocol, connection)
    verifyObject(IPushProducer, connection)


# --- answers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "status", "length", "body", "declared", "got"),
    [
        (GET, 200, 2, b"ok", b"2", b"ok"),
        (GET, 200, 0, b"", b"0", b""),
        (GET, 200, NO_BODY, b"", None, b""),
        (GET, 200, UNKNOWN_LENGTH, b"ok", None, b"ok"),
        (GET, 200, UNKNOWN_LENGTH, b"", None, b""),
        (GET, 204, NO_BODY, b"", None, b""),
        (GET, 204, 5, b"hello", None, b""),
        (GET, 304, 7, b"ignored", b"7", b""),
        (HEAD, 200, 7, b"ignored", b"7", b""),
        (HEAD, 200, UNKNOWN_LENGTH, b"ignored", None, b""),
        (GET, 299, 2, b"ok", b"2", b"ok"),
    ],
)
def test_answer_is_framed_for_its_request(
    head: tuple[Field, ...], status: int, length: int, body: bytes, declared: bytes | None, got: bytes
) -> None:
    server = Server()
    client = Http2Client(server).request(1, head)
    server.request.respond(status, b"Reason", [(b"x-a", b"X-A", b"1")], length)
    if body:
        server.request.send_body(body)
    server.request.end([])
    fields = {b":status": b"%d" % status, b"x-a": b"1", b"date": DATE}
    assert client.head() == (fields if declared is None else {**fields, b"content-length": declared})
    assert client.body() == got
    assert client.has_ended()
    assert client.transport.writes == 3  # the greeting's two, and one
    # END_STREAM needs no frame of its own.
    assert [(one.kind, one.flags & END_STREAM) for one in client.log[-2:] if one.stream] == (
        [(HEADERS, 0), (DATA, 1)] if got else [(HEADERS, 1)]
    )
    assert not client.connection.streams


def test_date_of_the_backend_is_kept() -> None:
    server, client = opened()
    server.request.answer(200, [(b"date", b"Date", b"then")], b"")
    assert client.head()[b"date"] == b"then"


def test_trailers_end_the_stream() -> None:
    server, client = opened()
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    request.send_body(b"a")
    request.send_body(b"bc")
    request.end([(b"x-t", b"X-T", b"1")])
    client.look()
    assert client.fields[1][1:] == [{b"x-t": b"1"}]
    assert client.body() == b"abc"
    assert client.log[-1].kind == HEADERS
    assert client.has_ended()


def test_answer_in_several_turns_ends_with_an_empty_frame() -> None:
    server, client = opened()
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    request.flush()
    assert client.kinds() == [(HEADERS, 1)]
    request.send_body(b"ab")
    request.flush()
    assert client.kinds() == [(DATA, 1)]
    request.end([])
    assert client.kinds() == [(DATA, 1)]
    assert client.log[-1].payload == b""
    assert client.has_ended()


def test_empty_pieces_are_not_sent_and_the_others_are_seen() -> None:
    server, client = opened()
    request, seen, ends = server.request, [], []
    request.on_body(lambda _, data: seen.append(data))
    request.on_finish(lambda request: ends.append(request.is_whole))
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    for piece in (b"", b"ab", b""):
        request.send_body(piece)
        request.flush()
    assert client.kinds() == [(HEADERS, 1), (DATA, 1)]
    request.end([])
    assert client.has_ended()
    assert (seen, ends) == ([b"ab"], [True])


def test_answer_whose_stream_is_reset_is_not_whole() -> None:
    server, _ = opened()
    server.request.respond(200, b"", [], 5)
    server.request.send_body(b"ab")
    with logged_failures():
        server.request.end([])
    assert not server.request.is_whole


@pytest.mark.parametrize("body", [b"too long", b"shor"])
def test_body_of_another_length_than_declared_resets_the_stream(body: bytes) -> None:
    server, client = opened()
    request = server.request
    with logged_failures() as failures:
        request.respond(200, b"", [], 5)
        request.send_body(body)
        request.end([])
    assert len(failures) == 1
    assert client.resets() == {1: INTERNAL_ERROR}
    assert not client.has_ended()
    assert request.ended
    assert request.reason == "INTERNAL_ERROR"
    assert client.is_open


def test_informational_answers_come_before_the_final_one() -> None:
    server, client = opened()
    server.request.channel.send_informational(103, [(b"link", b"Link", b"</a>")])
    server.request.flush()
    assert client.head() == {b":status": b"103", b"link": b"</a>"}
    server.request.channel.send_informational(102, [])
    server.request.answer(200, [], b"ok")
    client.look()
    assert [fields[b":status"] for fields in client.fields[1]] == [b"103", b"102", b"200"]
    assert client.has_ended()


def test_continue_is_said_when_the_body_is_wanted() -> None:
    server, client = opened((b"expect", b"100-continue"), ends=False)
    assert not client.look()
    body = wanted(server)
    assert client.status() == 100
    client.send(data_frame(1, b"hi", ends=True))
    assert body.data == b"hi"


# --- requests ------------------------------------------------------------------------------------------------------------------


def test_request_is_what_http_1_1_would_make_of_it() -> None:
    server, _ = opened((b"x-a", b"1"), (b"cookie", b"a=1"), (b"cookie", b"b=2"))
    request = server.request
    assert (request.method, request.uri, request.clientproto) == (b"GET", b"/", b"HTTP/2")
    assert request.headers == (
        (b"host", b"host", b"a"),
        (b"x-a", b"x-a", b"1"),
        (b"cookie", b"cookie", b"a=1; b=2"),
    )
    assert request.fields == {b"host": b"a", b"x-a": b"1", b"cookie": b"a=1; b=2"}
    assert (request.length, request.body_complete) == (NO_BODY, True)
    assert request.client_ip == "127.0.0.1"
    assert request.channel.local_port == 8000
    assert request.channel.scheme == b"http"


def test_body_and_trailers_are_delivered() -> None:
    server, client = opened(ends=False)
    assert (server.request.length, server.request.body_complete) == (UNKNOWN_LENGTH, False)
    body = wanted(server)
    client.send(data_frame(1, b"he") + data_frame(1, b"llo"), data_frame(1))
    assert (body.data, body.trailers) == (b"hello", None)
    client.send(client.headers(1, [(b"x-t", b"1"), (b"host", b"evil"), (b"te", b"x")]))
    assert body.trailers == [(b"x-t", b"1")]


def test_body_waits_until_it_is_wanted() -> None:
    server, client = opened((b"content-length", b"5"), ends=False)
    client.send(data_frame(1, b"he"), data_frame(1, b"llo", ends=True))
    assert server.request.bytes_in == 0
    assert client.connection.streams[1]._held_bytes == 5
    body = wanted(server)
    assert (body.data, body.trailers) == (b"hello", [])
    assert client.connection.streams[1]._held is None


def test_trailers_wait_behind_a_body_that_is_not_wanted_yet() -> None:
    server, client = opened(ends=False)
    client.send(data_frame(1, b"he"), client.headers(1, [(b"x-t", b"1")]))
    body = wanted(server)
    assert (body.data, body.trailers) == (b"he", [(b"x-t", b"1")])


@pytest.mark.parametrize("pause", ["before", "within"])
def test_body_that_is_paused_waits(pause: str) -> None:
    class Pausing(Body):
        def body_received(self, data: bytes) -> None:
            super().body_received(data)
            server.request.pause_body()

    server, client = opened(ends=False)
    body = Pausing() if pause == "within" else Body()
    server.request.want_body(body)
    if pause == "before":
        server.request.pause_body()
    client.send(data_frame(1, b"1") + data_frame(1, b"2"), data_frame(1, b"3", ends=True))
    pieces = 0 if pause == "before" else 1
    assert (body.pieces, body.trailers) == (pieces, None)
    while body.trailers is None:
        server.request.resume_body()
        assert body.pieces == (3 if pause == "before" else pieces + 1) or body.trailers is not None
        pieces = body.pieces
    assert body.data == b"123"


# --- bodies of another length than was declared (section 8.1.1) ------------------------------------------------------------------


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.parametrize(
    "reads",
    [
        [data_frame(1, b"too long")],
        [data_frame(1, b"hell"), data_frame(1, b"o!")],
        [data_frame(1, b"shor", ends=True)],
        [data_frame(1, ends=True)],
        [data_frame(1, b"shor"), data_frame(1, ends=True)],
    ],
)
def test_length_that_is_not_kept_is_a_fault_of_the_stream(reads: list[bytes], is_wanted: bool) -> None:
    server, client = opened((b"content-length", b"5"), ends=False)
    if is_wanted:
        body = wanted(server)
    client.send(*reads)
    assert client.resets() == {1: PROTOCOL_ERROR}
    assert not client.of(HEADERS)
    assert server.request.reason == "BAD_REQUEST"
    assert not is_wanted or body.trailers is None
    assert client.is_open


def test_length_is_kept_by_trailers_too() -> None:
    _, client = opened((b"content-length", b"5"), ends=False)
    client.send(data_frame(1, b"shor"), client.headers(1, [(b"x-t", b"1")]))
    assert client.resets() == {1: PROTOCOL_ERROR}
    server, client = opened((b"content-length", b"4"), ends=False)
    body = wanted(server)
    client.send(data_frame(1, b"shor"), client.headers(1, [(b"x-t", b"1")]))
    assert body.trailers == [(b"x-t", b"1")]


def test_padding_is_no_part_of_the_length() -> None:
    server, client = opened((b"content-length", b"2"), ends=False)
    body = wanted(server)
    client.send(b"\0\0\x06\0\x09\0\0\0\x01\x03hi\0\0\0")
    assert (body.data, body.trailers) == (b"hi", [])


# --- heads that are no requests ----------------------------------------------------------------------------------------------


def test_malformed_head_resets_its_stream_and_is_logged() -> None:
    server = Server()
    client = Http2Client(server).request(1, [*GET, (b"Upper", b"1")], ends=False)
    client.send(data_frame(1, b"late"))
    assert client.resets() == {1: PROTOCOL_ERROR}
    assert not client.of(HEADERS)
    assert not server.requests
    (refused,) = server.refused
    assert (refused.status, refused.reason, refused.ended) == (400, "BAD_REQUEST", True)
    server.factory.dispatch = lambda request: request.answer(200, [], b"ok")
    client.request(3)
    assert client.body(3) == b"ok"


@pytest.mark.parametrize("ends", [True, False])
def test_refused_head_is_answered_and_the_connection_lives_on(ends: bool) -> None:
    server = Server()
    client = Http2Client(server).request(1, [*GET[:3], (b":path", b"/" + b"x" * 9000)], ends=ends)
    assert client.status() == 414
    assert client.has_ended()
    assert client.resets() == ({} if ends else {1: NO_ERROR})
    assert [request.status for request in server.refused] == [414]
    client.request(3)
    assert server.request.uri == b"/"
    assert client.is_open


def test_answer_to_connect_never_begins_a_tunnel_by_chance() -> None:
    server = Server()
    fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
    client = Http2Client(server).request(1, fields, ends=False)
    with logged_failures() as failures:
        server.request.answer(200, [], b"ok")
    assert len(failures) == 1
    assert client.resets() == {1: INTERNAL_ERROR}
    assert not client.of(HEADERS)
    assert client.log[-1].kind == RST_STREAM


def test_refused_upgrade_is_answered_like_any_request() -> None:
    server = Server()
    fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]]
    client = Http2Client(server).request(1, fields, ends=False)
    server.request.answer(403, [], b"no")
    assert (client.status(), client.body(), client.has_ended()) == (403, b"no", True)
    assert client.resets() == {1: NO_ERROR}
