from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.support import (
    DATE,
    Body,
    MemoryClient,
    MemoryTransport,
    Server,
    logged_failures,
    message,
    read_responses,
)
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IProtocol, IPushProducer
from zope.interface.verify import verifyObject

from txgateway.errors import Draining
from txgateway.transport.framing import CHUNKS_A_FEED
from txgateway.transport.http1_server import LINGER_BYTES, LINGER_S
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, ServerLimits

GET = message(b"/")
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
POST = message(b"/", b"Content-Length: 5", method=b"POST")
CHUNKED = message(b"/", b"Transfer-Encoding: chunked", method=b"POST")
LIMITS = ServerLimits(header_timeout_s=10, keepalive_timeout_s=75)


def answer(request: Any, body: bytes = b"ok", status: int = 200) -> None:
    request.answer(status, [], body)


def answering(body: bytes = b"ok") -> Server:
    """A server that answers at once."""
    return Server(lambda request: answer(request, body))


def opened(server: Server, *reads: bytes) -> MemoryClient:
    return server.connect().send(*reads)


def statuses(client: MemoryClient, *methods: bytes) -> list[int]:
    return [response.status for response in read_responses(client.received(), list(methods))]


def test_provides_what_twisted_expects() -> None:
    connection = Server().connect().connection
    verifyObject(IProtocol, connection)
    verifyObject(IPushProducer, connection)


# --- response framing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_head", "status", "length", "body", "wire"),
    [
        (GET, 200, 2, b"ok", b"Content-Length: 2\r\n\r\nok"),
        (GET, 200, 0, b"", b"Content-Length: 0\r\n\r\n"),
        (GET, 200, NO_BODY, b"", b"Content-Length: 0\r\n\r\n"),
        (GET, 200, UNKNOWN_LENGTH, b"ok", b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        (GET, 204, NO_BODY, b"", b"\r\n"),
        (GET, 204, 5, b"hello", b"\r\n"),
        (GET, 304, NO_BODY, b"", b"\r\n"),
        (GET, 304, 7, b"", b"Content-Length: 7\r\n\r\n"),
        (GET_10, 200, 2, b"ok", b"Content-Length: 2\r\nConnection: close\r\n\r\nok"),
        (GET_10, 200, UNKNOWN_LENGTH, b"ok", b"Connection: close\r\n\r\nok"),
        (
            b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, 2, b"ok",
            b"Content-Length: 2\r\nConnection: keep-alive\r\n\r\nok",
        ),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200, UNKNOWN_LENGTH, b"", b"Connection: close\r\n\r\n"),
        (message(b"/", method=b"HEAD"), 200, 7, b"ignored", b"Content-Length: 7\r\n\r\n"),
        (message(b"/", method=b"HEAD"), 200, UNKNOWN_LENGTH, b"ignored", b"\r\n"),
        (message(b"/", b"Connection: close"), 200, 2, b"ok", b"Content-Length: 2\r\nConnection: close\r\n\r\nok"),
    ],
)  # fmt: skip
def test_response_is_framed_for_its_request(
    request_head: bytes, status: int, length: int, body: bytes, wire: bytes
) -> None:
    server = Server()
    client = opened(server, request_head)
    server.request.respond(status, b"S", [(b"x-a", b"X-A", b"1")], length)
    if body:
        server.request.send_body(body)
    server.request.end([])
    assert client.received() == b"HTTP/1.1 %d S\r\nX-A: 1\r\nDate: %b\r\n%b" % (status, DATE, wire)


def test_date_of_the_backend_is_kept() -> None:
    server = Server()
    client = opened(server, GET)
    server.request.answer(200, [(b"date", b"Date", b"then")], b"")
    assert client.response().get(b"date") == b"then"


def test_whole_answer_is_one_write_and_trailers_close_a_chunked_one() -> None:
    server = Server()
    client = opened(server, GET)
    request = server.request
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    request.send_body(b"a")
    request.send_body(b"bc")
    request.end([(b"x-t", b"X-T", b"1")])
    assert client.transport.writes == 1
    assert client.response().trailers == [(b"X-T", b"1")]


@pytest.mark.parametrize("length", [UNKNOWN_LENGTH, 3])
def test_empty_pieces_end_no_body(length: int) -> None:
    server = Server()
    client = opened(server, GET)
    server.request.respond(200, b"", [], length)
    for piece in (b"", b"ab", b"", b"c", b""):
        server.request.send_body(piece)
    server.request.end([])
    (response,) = read_responses(client.received(), [b"GET"])
    assert response.body == b"abc"


def test_trailers_of_an_unchunked_response_are_dropped() -> None:
    server = Server()
    client = opened(server, GET)
    server.request.respond(200, b"", [], 2)
    server.request.send_body(b"ok")
    server.request.end([(b"x-t", b"X-T", b"1")])
    assert client.response().body == b"ok"


@pytest.mark.parametrize("body", [b"too long", b"shor"])
def test_body_of_another_length_than_declared_cuts_the_connection(body: bytes) -> None:
    server = Server()
    client = opened(server, GET)
    request = server.request
    with logged_failures() as failures:
        request.respond(200, b"", [], 5)
        request.flush()
        request.send_body(body)
        request.end([])
    assert len(failures) == 1
    assert client.transport.aborted
    assert request.ended
    assert request.reason == "INTERNAL_ERROR"


def test_informational_responses_go_to_1_1_only() -> None:
    server = Server()
    client = opened(server, GET)
    server.request.channel.send_informational(103, [(b"link", b"Link", b"</a>")])
    answer(server.request)
    assert statuses(client) == [103, 200]
    client = opened(server, GET_10)
    server.request.channel.send_informational(103, [])
    answer(server.request)
    assert statuses(client) == [200]


# --- persistence and pipelining --------------------------------------------------------------------------------------


def test_connection_serves_one_request_after_the_other() -> None:
    client = opened(answering(), GET, GET, GET_10)
    assert statuses(client) == [200, 200, 200]
    assert client.transport.closed


def test_pipelined_requests_wait_for_the_one_before_and_reading_stops() -> None:
    server = Server()
    client = opened(server, GET + message(b"/2") + message(b"/3"), message(b"/4"))
    assert len(server.requests) == 1
    assert not client.transport.is_reading
    for number in (1, 2, 3, 4):
        assert server.request.uri == (b"/" if number == 1 else b"/%d" % number)
        answer(server.request)
        server.clock.advance(0)
    assert statuses(client) == [200] * 4
    assert len(server.requests) == 4
    assert client.transport.is_reading


def test_pipelined_requests_answered_at_once_take_one_write_each() -> None:
    client = opened(answering(), GET * 10)
    assert client.transport.writes == 10
    assert statuses(client) == [200] * 10


def test_request_behind_close_is_never_served() -> None:
    server = answering()
    client = opened(server, message(b"/", b"Connection: close") + GET)
    assert len(server.requests) == 1
    assert statuses(client) == [200]
    assert client.transport.closed


def test_client_that_takes_no_answers_is_asked_no_further() -> None:
    server = answering(b"x" * 40_000)
    client = server.connect()
    client.transport.takes = False
    for _ in range(20):
        client.send(GET)
    served = len(server.requests)
    assert served == 2  # 64 KiB are full with the second
    assert not client.transport.is_reading
    while client.transport.unsent:
        client.transport.take()
        server.clock.advance(0)
    assert statuses(client) == [200] * 20


def test_many_requests_in_one_read_do_not_outgrow_the_buffer_either() -> None:
    def write(request: Any) -> None:
        request.respond(200, b"", [], 40_000)
        request.send_body(b"x" * 40_000)
        request.end([])

    server = Server(write)
    client = server.connect()
    client.transport.takes = False
    client.send(GET * 50)
    assert len(server.requests) == 2
    while client.transport.unsent:
        client.transport.take()
        server.clock.advance(0)
    assert statuses(client) == [200] * 50


# --- request bodies -------------------------------------------------------------------------------------------------


def wanted(server: Server) -> Body:
    body = Body()
    server.request.want_body(body)
    return body


def test_body_waits_until_it_is_wanted() -> None:
    server = Server()
    client = opened(server, POST + b"he", b"llo")
    assert not client.transport.is_reading
    assert server.request.bytes_in == 2
    body = wanted(server)
    server.clock.advance(0)
    assert (body.data, body.trailers) == (b"hello", [])


def test_chunked_body_and_its_trailers_are_delivered() -> None:
    server = Server()
    client = opened(server, CHUNKED + b"2\r\nhe\r\n3;x=y\r\n")
    body = wanted(server)
    client.send(b"llo\r\n0\r\nX-T: 1\r\nHost: evil\r\n\r\n" + GET)
    assert (body.data, body.trailers) == (b"hello", [(b"X-T", b"1")])
    answer(server.request)
    server.clock.advance(0)
    assert len(server.requests) == 2


@pytest.mark.parametrize("body", [b"hello", b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"])
def test_body_with_the_head_is_complete_before_the_request_is_dispatched(body: bytes) -> None:
    states = []
    server = Server(lambda request: states.append((request.body_complete, request.bytes_in)))
    opened(server, (POST if body == b"hello" else CHUNKED) + body)
    assert states == [(True, 5)]


@pytest.mark.parametrize("bad", [b"x\r\n", b"2\r\nhello"])
def test_malformed_chunk_is_refused_or_cuts_the_answer(bad: bytes) -> None:
    server = Server()
    client = opened(server, CHUNKED)
    body = wanted(server)
    client.send(bad)
    assert body.trailers is None
    assert client.response().status == 400
    assert client.transport.half_closed

    client = opened(server, CHUNKED)
    wanted(server)
    server.request.respond(200, b"", [], UNKNOWN_LENGTH)
    client.send(bad)
    assert client.transport.aborted


def test_malformed_chunk_with_the_head_is_never_dispatched() -> None:
    server = Server()
    client = opened(server, CHUNKED + b"5\r\nhello\r\nx\r\n")
    assert (server.requests, len(server.refused)) == ([], 1)
    assert client.response().status == 400


# --- a readful of small chunks ----------------------------------------------------------------------------------------

#: More chunks, each to be read by itself, than one turn takes.
MANY = 5 * CHUNKS_A_FEED
MANY_CHUNKS = b"1;a\r\nx\r\n" * MANY + b"0\r\n\r\n"


def test_small_chunks_of_two_clients_take_turns() -> None:
    server = Server()
    pieces: list[tuple[str, int]] = []

    class Noting(Body):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def body_received(self, data: bytes) -> None:
            super().body_received(data)
            pieces.append((self.name, len(data)))

    clients = [opened(server, CHUNKED) for _ in range(2)]
    bodies = [Noting("a"), Noting("b")]
    for request, body in zip(server.requests, bodies, strict=True):
        request.want_body(body)
    for client in clients:
        client.transport.send(MANY_CHUNKS + GET)
        assert not client.transport.is_reading
    server.clock.advance(0)
    assert [name for name, _ in pieces] == ["a", "b"] * (len(pieces) // 2)
    assert max(size for _, size in pieces) <= CHUNKS_A_FEED
    assert [(body.data, body.trailers) for body in bodies] == [(b"x" * MANY, [])] * 2
    for request in server.requests[:2]:
        answer(request)
    server.clock.advance(0)
    assert len(server.requests) == 4
    assert all(client.transport.is_reading for client in clients)


def test_small_chunks_with_the_head_wait_until_the_body_is_wanted() -> None:
    server = Server()
    client = opened(server, CHUNKED + MANY_CHUNKS)
    server.clock.advance(0)
    assert server.request.bytes_in < MANY
    body = Body()
    server.request.want_body(body)
    server.clock.advance(0)
    assert (body.data, body.trailers) == (b"x" * MANY, [])
    answer(server.request)
    assert client.transport.is_reading


def test_small_chunks_held_wait_while_the_body_is_paused() -> None:
    server = Server()
    body = Body()
    client = opened(server, CHUNKED)
    server.request.want_body(body)
    client.transport.send(MANY_CHUNKS)
    server.request.pause_body()
    before = len(body.data)
    server.clock.advance(0)
    assert len(body.data) == before < MANY
    server.request.resume_body()
    server.clock.advance(0)
    assert body.data == b"x" * MANY


def test_bytes_that_come_in_spite_of_the_pause_stay_behind_those_held() -> None:
    server = Server()
    body = Body()
    client = opened(server, CHUNKED)
    server.request.want_body(body)
    client.transport.send(MANY_CHUNKS.removesuffix(b"0\r\n\r\n"))
    client.connection.dataReceived(b"1\r\ny\r\n0\r\n\r\n")  # as TLS does, which has decrypted it already
    server.clock.advance(0)
    assert (body.data, body.trailers) == (b"x" * MANY + b"y", [])
    assert client.transport.is_reading


def test_malformed_chunk_behind_those_held_is_refused() -> None:
    server = Server()
    body = Body()
    client = opened(server, CHUNKED)
    server.request.want_body(body)
    client.send(MANY_CHUNKS.replace(b"0\r\n\r\n", b"oops\r\n") + GET)
    server.clock.advance(0)
    assert client.response().status == 400
    assert len(server.requests) == 1
    assert client.transport.half_closed


@pytest.mark.parametrize("body", [b"hello", b""])
def test_answer_before_the_end_of_the_body_ends_the_connection(body: bytes) -> None:
    server = Server()
    client = opened(server, message(b"/", b"Content-Length: 6", method=b"POST", body=body))
    answer(server.request, status=413)
    assert client.response().get(b"connection") == b"close"
    assert client.transport.half_closed
    client.send(b"x" * 100 + GET)  # read and dropped, so that no reset overtakes the answer
    assert len(server.requests) == 1
    client.end()
    assert client.transport.closed


def test_body_that_ends_while_the_answer_is_on_its_way_still_closes_as_announced() -> None:
    server = Server()
    client = opened(server, POST)
    wanted(server)
    server.request.respond(200, b"", [], 2)
    client.send(b"hello")
    server.request.send_body(b"ok")
    server.request.end([])
    assert client.response().get(b"connection") == b"close"
    assert client.transport.half_closed


def test_refused_last_piece_of_a_body_leaves_the_connection_alive() -> None:
    def dispatch(request: Any) -> None:
        request.limit_body(3)
        request.want_body(Body())

    server = Server(dispatch)
    client = opened(server, CHUNKED, b"5\r\nhello\r\n0\r\n\r\n")
    assert statuses(client) == [413]
    client.send(GET)
    assert len(server.requests) == 2


def test_paused_body_stops_reading() -> None:
    server = Server()
    client = opened(server, POST)
    body = wanted(server)
    assert client.transport.is_reading
    server.request.pause_body()
    client.send(b"hello")
    assert body.data == b""
    server.request.resume_body()
    server.clock.advance(0)
    assert body.data == b"hello"


# --- the end ----------------------------------------------------------------------------------------------------------


def test_lingering_close_drops_at_most_so_much() -> None:
    server = Server()
    client = opened(server, POST)
    answer(server.request, status=413)
    piece = b"x" * 2**20
    for _ in range(LINGER_BYTES // len(piece)):
        client.transport.send(piece)
    assert not client.transport.aborted
    client.transport.send(b"x")
    assert client.transport.aborted


def test_lingering_close_lasts_at_most_so_long() -> None:
    server = Server()
    client = opened(server, POST)
    answer(server.request, status=413)
    server.wait(LINGER_S)
    assert not client.transport.closed
    server.wait(0.5)
    assert client.transport.closed
    assert server.clock.getDelayedCalls() == []


def test_client_that_leaves_ends_its_request() -> None:
    server = Server()
    client = opened(server, GET)
    client.leave()
    assert server.request.ended
    assert (server.request.status, server.request.reason) == (499, "CLIENT_GONE")
    assert not server.factory.connections
    server.wait(0.2)
    assert server.clock.getDelayedCalls() == []


def test_fault_below_is_logged_and_cuts_the_connection() -> None:
    def fail(request: Any) -> None:
        raise ValueError("dispatch")

    server = Server(fail)
    with logged_failures() as failures:
        client = opened(server, GET)
    assert len(failures) == 1
    assert client.transport.aborted


# --- deadlines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", GET, b"\r\n"])
def test_idle_connection_is_closed_silently(sent: bytes) -> None:
    server = answering()
    client = opened(server, sent)
    client.received()
    server.wait(74)
    assert not client.transport.closed
    server.wait(3)
    assert client.transport.closed
    assert not client.transport.aborted
    assert client.received() == b""


def test_slow_head_is_refused_ten_seconds_after_its_first_byte() -> None:
    server = Server(limits=LIMITS)
    client = server.connect()
    server.wait(60)
    client.send(b"GET /")
    for _ in range(9):
        server.wait(1)
        client.send(b"x")
    assert client.received() == b""
    server.wait(1.5)
    response = client.response()
    assert (response.status, response.get(b"connection")) == (408, b"close")
    assert client.transport.half_closed
    assert [request.reason for request in server.refused] == ["REQUEST_TIMEOUT"]


def test_head_in_time_has_no_deadline_any_more() -> None:
    server = Server(limits=LIMITS)
    client = opened(server, b"GET / HT", b"TP/1.1\r\nHost: a\r\n\r\n")
    server.wait(200)  # whoever treats the request has deadlines of its own
    assert not client.transport.closed
    answer(server.request)
    assert statuses(client) == [200]


def test_pipelined_head_that_never_ends_is_refused_too() -> None:
    server = answering()
    client = opened(server, GET + b"GET / HT")
    server.wait(11)
    assert statuses(client) == [200, 408]


@pytest.mark.parametrize("head", [GET, GET_10])
def test_answer_that_nobody_takes_is_given_up(head: bytes) -> None:
    server = answering(b"x" * 100_000)
    client = server.connect()
    client.transport.takes = False
    client.send(head)
    server.wait(160)
    assert client.transport.closed
    assert client.transport.aborted


@pytest.mark.parametrize("head", [GET, GET_10])
def test_answer_that_is_taken_slowly_is_waited_for(head: bytes) -> None:
    server = answering(b"x" * 100_000)
    client = server.connect()
    client.transport.takes = False
    client.send(head)
    for _ in range(9):
        server.wait(60)
        client.transport.take(10_000)
        assert not client.transport.closed
    client.transport.take()
    assert client.response().body == b"x" * 100_000


def test_close_that_the_far_end_does_not_complete_is_forced() -> None:
    server = Server()
    client = server.connect()
    client.transport._close_if_done = lambda: None  # type: ignore[method-assign]  # as TLS without the other's alert
    server.wait(76)
    assert not client.transport.aborted
    server.wait(80)
    assert client.transport.aborted


# --- draining -------------------------------------------------------------------------------------------------------------


def test_draining_closes_idle_connections_and_ends_busy_ones_with_their_answer() -> None:
    server = Server()
    idle, busy, partial = server.connect(), opened(server, GET), opened(server, b"GET / ")
    server.factory.draining = True
    for connection in list(server.factory.connections):
        connection.close_when_idle()
    server.clock.advance(0)
    assert idle.transport.closed
    answer(server.request)
    assert busy.response().get(b"connection") == b"close"
    partial.send(b"HTTP/1.1\r\nHost: a\r\n\r\n")
    answer(server.request)
    assert partial.response().get(b"connection") == b"close"


def test_shut_down_answers_what_is_in_progress_and_closes_the_rest() -> None:
    server = Server()
    idle, busy, partial = server.connect(), opened(server, GET), opened(server, b"GET / ")
    for connection in list(server.factory.connections):
        connection.shut_down(Draining())
    server.clock.advance(0)
    assert idle.transport.closed
    assert partial.transport.closed
    assert busy.response().status == 503


def test_kept_alive_request_while_draining_is_served_and_closes() -> None:
    server = Server()
    client = server.connect()
    server.factory.draining = True
    client.send(GET)
    answer(server.request)
    assert client.response().get(b"connection") == b"close"
    assert client.transport.half_closed


# --- backpressure -----------------------------------------------------------------------------------------------------------


class Producer:
    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_slow_client_pauses_who_produces_the_answer() -> None:
    server = Server()
    client = server.connect()
    client.transport.takes = False
    client.send(GET)
    request, producer = server.request, Producer()
    request.producer = producer
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    request.send_body(b"x" * 60_000)
    request.flush()
    assert producer.told == []
    request.send_body(b"x" * 10_000)
    request.flush()
    assert producer.told == ["pause"]
    assert client.connection.write_blocked
    client.transport.take()
    assert producer.told == ["pause", "resume"]
    assert not client.connection.write_blocked


# --- tunnels ----------------------------------------------------------------------------------------------------------------


class TunnelDouble(Producer):
    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def from_client(self, data: bytes) -> None:
        self.data += data

    def client_blocked(self) -> None:
        self.told.append("blocked")

    def client_drained(self) -> None:
        self.told.append("drained")

    def client_lost(self) -> None:
        self.told.append("lost")


UPGRADE = message(b"/", b"Connection: upgrade", b"Upgrade: x")


def tunneled(*, early: bytes = b"") -> tuple[Server, MemoryClient, TunnelDouble]:
    server = Server()
    client = opened(server, UPGRADE + early)
    tunnel = TunnelDouble()
    assert server.request.upgrade == b"x"
    got = server.request.switch_protocols([(b"upgrade", b"Upgrade", b"x")], tunnel)  # type: ignore[arg-type]
    assert got == early
    assert client.received() == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"
    return server, client, tunnel


@pytest.mark.parametrize("early", [b"", b"GET / HTTP/1.1\r\n\r\n"])
def test_after_the_switch_all_is_bytes(early: bytes) -> None:
    _, client, tunnel = tunneled(early=early)
    assert client.transport.is_reading
    client.send(b"GET / HTTP/1.1\r\n\r\n")
    assert tunnel.data == b"GET / HTTP/1.1\r\n\r\n"
    client.connection.tunnel_write(b"any")
    assert client.received() == b"any"


def test_tunnel_is_counted_as_one() -> None:
    server, client, _ = tunneled()
    assert server.metrics._connections == {**dict.fromkeys(server.metrics._connections, 0), "tunnel": 1}
    client.leave()
    assert server.metrics._connections == dict.fromkeys(server.metrics._connections, 0)


def test_tunnel_hears_of_the_client_pace_and_end() -> None:
    _, client, tunnel = tunneled()
    client.transport.takes = False
    client.connection.tunnel_write(b"x" * 70_000)
    client.transport.take()
    assert tunnel.told == ["blocked", "drained"]
    client.connection.tunnel_pause()
    client.send(b"a")
    assert tunnel.data == b""
    client.connection.tunnel_resume()
    client.send()
    assert tunnel.data == b"a"
    client.leave()
    assert tunnel.told[-1] == "lost"


def test_tunnel_closed_by_the_target_half_closes_and_lingers() -> None:
    server, client, tunnel = tunneled()
    client.transport.takes = False
    client.connection.tunnel_write(b"last")
    client.connection.tunnel_close()
    assert not client.transport.half_closed
    client.transport.take()
    assert client.transport.half_closed
    client.send(b"dropped")
    assert tunnel.data == b""
    server.wait(LINGER_S + 1)
    assert client.transport.closed
    assert "lost" not in tunnel.told


# --- the factory ------------------------------------------------------------------------------------------------------------


def test_connections_beyond_the_limit_are_refused_and_counted() -> None:
    server = Server()
    server.factory.max_connections = 2
    first, _ = server.connect(), server.connect()
    assert server.factory.buildProtocol(None) is None
    assert server.metrics.connections_refused == 1
    first.leave()
    assert server.factory.buildProtocol(None) is not None


def test_date_is_made_once_a_second() -> None:
    times = iter([100.0, 100.9, 101.0])
    server = Server()
    server.factory._wall_clock = lambda: next(times)
    assert [server.factory.http_date() for _ in range(3)] == [
        b"Thu, 01 Jan 1970 00:01:40 GMT",
        b"Thu, 01 Jan 1970 00:01:40 GMT",
        b"Thu, 01 Jan 1970 00:01:41 GMT",
    ]


class OtherTransport(MemoryTransport):
    def getPeer(self) -> Any:
        return UNIXAddress(None)

    getHost = getPeer


@pytest.mark.parametrize(
    ("make", "peer_ip", "port"),
    [
        (lambda clock: MemoryTransport(clock, "192.0.2.7", 8443), "192.0.2.7", 8443),
        (lambda clock: MemoryTransport(clock, "::ffff:192.0.2.7"), "192.0.2.7", 8000),
        (lambda clock: MemoryTransport(clock, "2001:db8::1"), "2001:db8::1", 8000),
        (OtherTransport, "", 0),
    ],
)
def test_who_the_peer_is(make: Callable[[Any], MemoryTransport], peer_ip: str, port: int) -> None:
    server = Server()
    connection: Any = server.factory.buildProtocol(None)
    connection.makeConnection(make(server.clock))
    assert (connection.peer_ip, connection.local_port) == (peer_ip, port)
