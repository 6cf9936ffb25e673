"""How a connection of a client ends: in order, idle, too slow, or at once."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    INTERNAL_ERROR,
    LARGEST_STREAM,
    NO_ERROR,
    PING,
    PREFACE,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    RST_STREAM,
    data_frame,
    frame,
    goaway,
    literal_block,
    ping,
    settings_frame,
    window_update,
)
from tests.unit.support import Body, Server

from txgateway.errors import Draining
from txgateway.transport.http2.server import GOODBYE_S
from txgateway.transport.interfaces import UNKNOWN_LENGTH, ServerLimits

LIMITS = ServerLimits(header_timeout_s=10, keepalive_timeout_s=75)


def waiting(*streams: int) -> tuple[Server, Http2Client]:
    """Requests of these streams wait for their answers."""
    server = Server(limits=LIMITS)
    client = Http2Client(server)
    for stream in streams:
        client.request(stream)
    client.look()
    return server, client


def answering() -> tuple[Server, Http2Client]:
    server = Server(lambda request: request.answer(200, [], b"ok"), LIMITS)
    return server, Http2Client(server)


def said(client: Http2Client) -> list[tuple[int, int]]:
    """Last stream and code of each GOAWAY so far."""
    return [(one.last_stream, one.error_code) for one in client.of(GOAWAY)]


def is_gone(server: Server, client: Http2Client) -> bool:
    """The client closes too, and nothing is left."""
    client.transport.end()
    server.clock.advance(0)
    return client.transport.closed and not (server.factory.connections or server.wheel._fine or server.wheel._coarse)


# --- in order (section 6.8) -------------------------------------------------------------------------------------------------------


def test_idle_connection_is_closed_with_one_goaway() -> None:
    server, client = waiting()
    client.connection.close_when_idle()
    client.assert_ended(NO_ERROR, 0)
    assert is_gone(server, client)


@pytest.mark.parametrize("knows", [True, False])
def test_connection_in_use_is_left_in_two_steps(knows: bool) -> None:
    server, client = waiting(1)
    client.connection.close_when_idle()
    client.connection.close_when_idle()
    announced, question = client.look()
    assert (announced.kind, announced.last_stream, announced.error_code) == (GOAWAY, LARGEST_STREAM, NO_ERROR)
    assert (question.kind, question.is_ack) == (PING, False)
    client.request(3)  # was on its way
    assert len(server.requests) == 2
    if knows:
        client.send(ping(b"another1", is_ack=True))
        assert len(said(client)) == 1
        client.send(ping(question.payload, is_ack=True))
    else:
        server.wait(GOODBYE_S + 0.1)
    assert said(client) == [(LARGEST_STREAM, NO_ERROR), (3, NO_ERROR)]
    client.request(5)
    assert client.resets() == {5: REFUSED_STREAM}
    assert len(server.requests) == 2
    for request in server.requests:
        assert client.connection.in_progress
        request.answer(200, [], b"ok")
        client.send()
    assert client.body(1) == client.body(3) == b"ok"
    client.assert_ended(NO_ERROR, 3)
    server.wait(GOODBYE_S + 0.1)
    assert len(said(client)) == 3
    assert is_gone(server, client)


def test_last_number_that_was_said_never_grows() -> None:
    _, client = waiting(1)
    client.connection.close_when_idle()
    client.send(ping(client.of(PING)[-1].payload, is_ack=True))
    client.request(3).request(5)
    assert client.resets() == {3: REFUSED_STREAM, 5: REFUSED_STREAM}
    client.send(frame(PING))
    client.assert_ended(6, 1)
    assert [last for last, _ in said(client)] == [LARGEST_STREAM, 1, 1]


def test_answer_while_the_gateway_drains_takes_the_connection_along() -> None:
    server, client = waiting(1, 3)
    server.factory.draining = True
    server.requests[0].answer(200, [], b"ok")
    assert said(client) == [(LARGEST_STREAM, NO_ERROR)]
    assert client.body(1) == b"ok"
    server.requests[1].answer(200, [], b"ok")
    client.send()
    assert client.body(3) == b"ok"
    client.assert_ended(NO_ERROR, 3)


def test_draining_waits_for_an_answer_that_the_client_takes_slowly() -> None:
    server = Server()
    client = Http2Client(server, {INITIAL_WINDOW_SIZE: 1}).request(1)
    server.request.answer(200, [], b"slow")
    client.connection.close_when_idle()
    client.send()
    assert client.connection.in_progress
    client.send(window_update(100, 1))
    assert client.body() == b"slow"
    assert client.has_ended()
    client.assert_ended(NO_ERROR, 1)


def test_client_that_goes_away_gets_what_it_waits_for() -> None:
    server, client = waiting(1)
    client.send(goaway())
    assert not client.look()
    server.request.answer(200, [], b"ok")
    client.send()
    assert client.body() == b"ok"
    client.assert_ended(NO_ERROR, 1)


def test_idle_client_that_goes_away_is_let_go() -> None:
    _, client = waiting()
    client.send(goaway(0, PROTOCOL_ERROR, b"debug"))
    client.assert_ended(NO_ERROR, 0)


def test_client_that_goes_away_is_still_told_that_we_do() -> None:
    _, client = waiting(1)
    client.send(goaway())
    client.connection.close_when_idle()
    assert said(client) == [(LARGEST_STREAM, NO_ERROR)]


# --- at once ------------------------------------------------------------------------------------------------------------------------


def test_shut_down_answers_what_waits_and_cuts_what_has_begun() -> None:
    server, client = waiting(1, 3)
    server.requests[1].respond(200, b"", [], UNKNOWN_LENGTH)
    server.requests[1].send_body(b"part")
    client.connection.shut_down(Draining())
    assert client.status(1) == 503
    assert client.has_ended(1)
    assert client.body(3) == b"part"
    assert client.resets() == {3: INTERNAL_ERROR}
    client.assert_ended(NO_ERROR, 3)
    assert all(request.reason == Draining.reason for request in server.requests)
    client.connection.shut_down(Draining())
    assert is_gone(server, client)


@pytest.mark.parametrize("greets", [True, False])
def test_shut_down_of_an_idle_connection_is_its_end(greets: bool) -> None:
    client = Http2Client(Server(), greets=greets)
    client.connection.shut_down(Draining())
    client.assert_ended(NO_ERROR, 0)


def test_lost_connection_ends_all_requests() -> None:
    server, client = waiting(1, 3)
    client.transport.reset()
    assert [request.reason for request in server.requests] == ["CLIENT_GONE"] * 2
    assert not server.factory.connections
    assert not server.wheel._fine | server.wheel._coarse
    server.wait(100)


def test_connection_that_was_lost_while_a_read_waits_for_its_turn_is_left_alone() -> None:
    server, client = waiting()
    client.transport.send(ping() * 600 + client.headers(1))
    client.transport.reset()
    server.clock.advance(0)
    assert not server.requests


# --- idle, or too slow -----------------------------------------------------------------------------------------------------------


def test_idle_connection_is_closed_after_a_while_and_pings_do_not_keep_it() -> None:
    server, client = answering()
    server.wait(70)
    client.request(1)
    for _ in range(7):
        server.wait(10)
        client.send(ping()[:5], ping()[5:])
    assert client.is_open
    server.wait(7)
    client.assert_ended(NO_ERROR, 1)


def test_connection_with_a_stream_is_never_idle() -> None:
    server, client = waiting(1)
    for _ in range(30):
        server.wait(20)
    assert client.is_open
    server.request.answer(200, [], b"ok")
    assert client.body() == b"ok"
    server.wait(70)
    assert client.is_open
    server.wait(7)
    client.assert_ended(NO_ERROR, 1)


def test_request_with_the_preface_is_no_idle_connection() -> None:
    server = Server(limits=LIMITS)
    client = Http2Client(server, greets=False)
    client.send(PREFACE + settings_frame() + client.headers(1))
    server.wait(100)
    assert client.is_open
    server.request.answer(200, [], b"late")
    assert client.body() == b"late"


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + settings_frame({4: 5})[:12]])
def test_client_that_says_nothing_is_cut_off(said: bytes) -> None:
    server = Server(limits=LIMITS)
    client = Http2Client(server, greets=False).send(said)
    server.wait(9.5)
    assert not client.transport.aborted
    server.wait(2)
    assert client.transport.closed
    assert not server.factory.connections


BLOCK = literal_block(GET)
SLOW = {
    "HEADERS": frame(HEADERS, END_STREAM | END_HEADERS, 3, BLOCK)[:-1],
    "a block": frame(HEADERS, END_STREAM, 3, BLOCK),
    "a block and more of it": frame(HEADERS, END_STREAM, 3, BLOCK) + frame(9, 0, 3, b"")[:6],
    "PING": ping()[:-1],
}


@pytest.mark.parametrize("begun", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("is_busy", [True, False])
def test_head_that_does_not_come_to_its_end_ends_the_connection(begun: bytes, is_busy: bool) -> None:
    server, client = waiting(1)
    if not is_busy:
        server.request.answer(200, [], b"")
    client.send(begun)
    server.wait(9)
    assert client.is_open
    server.wait(1.3)
    client.assert_ended(ENHANCE_YOUR_CALM, 1)


def test_end_of_the_last_stream_gives_a_slow_head_no_more_time() -> None:
    server, client = waiting(1)
    client.send(frame(HEADERS, END_STREAM, 3, BLOCK))
    server.wait(5)
    server.request.answer(200, [], b"")
    server.wait(5.3)
    client.assert_ended(ENHANCE_YOUR_CALM, 1)


def test_continuations_give_a_slow_head_no_more_time() -> None:
    server, client = waiting(1)
    client.send(frame(HEADERS, END_STREAM, 3, BLOCK))
    server.wait(5)
    client.send(frame(9, 0, 3))
    server.wait(5.3)
    client.assert_ended(ENHANCE_YOUR_CALM, 1)


def test_head_that_comes_in_time_is_served_and_time_starts_anew() -> None:
    server, client = answering()
    wire = b"".join(frame(HEADERS, END_STREAM | END_HEADERS, stream, BLOCK) for stream in range(1, 11, 2))
    for at in range(5):
        cut = len(wire) // 5
        client.send(wire[at * cut : (at + 1) * cut - 1])
        server.wait(6)
        client.send(wire[(at + 1) * cut - 1 : (at + 1) * cut])
    assert len(server.requests) == 5
    assert client.is_open


def test_reads_that_each_end_within_a_frame_are_no_slow_head() -> None:
    server, client = waiting(1)
    wire = ping() * 20
    client.send(wire[:10])
    for at in range(10, len(wire) - 17, 17):  # never at the end of a frame
        client.send(wire[at : at + 17])
        server.wait(2)
    assert client.is_open


def test_slow_data_are_not_the_connections_business() -> None:
    server, client = waiting()
    client.request(1, POST, ends=False)
    body = Body()
    server.request.want_body(body)
    client.send(data_frame(1, b"slow")[:-1])
    server.wait(100)
    client.send(b"w")
    assert body.data == b"slow"
    assert client.is_open


def test_client_that_does_not_read_its_last_answer_is_cut_off() -> None:
    server, client = waiting(1)
    client.transport.takes = False
    server.request.answer(200, [], b"x" * 1000)
    assert not client.connection.streams
    server.wait(70)
    client.transport.take(10)
    server.wait(70)
    client.transport.take(10)
    server.wait(70)
    assert not client.transport.aborted
    server.wait(160)
    assert client.transport.closed


def test_goaway_is_not_lost_on_a_client_that_reads_slowly() -> None:
    server, client = waiting(1)
    client.transport.takes = False
    server.request.answer(200, [], b"x" * 1000)
    client.send(frame(PING))
    assert not client.transport.half_closed
    client.transport.take()
    client.assert_ended(6, 1)
    assert client.body() == b"x" * 1000


def test_request_that_fails_as_its_connection_ends_harms_nobody() -> None:
    server = Server()
    seen: list[Any] = []
    client = Http2Client(server).request(1)
    server.request.on_finish(lambda request: seen.append(request.reason))
    server.request.producer = None
    client.send(frame(RST_STREAM, 0, 1, bytes(3)))
    assert seen == ["CLIENT_GONE"]
    server.request.end([])
    server.request.abort()
    server.request.flush()
    client.assert_ended(6, 1)
