from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.helpers.upstream import RecordingHandler, RecordingOwner
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocol, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txgateway.transport.http1_client import MAX_HEAD_BYTES, MAX_INFORMATIONAL, Http1ClientConnection
from txgateway.transport.http1_response import MAX_RESPONSE_FIELDS
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, ClientConnection, HeaderList, Tunnel

HOST: HeaderList = [(b"host", b"Host", b"a")]
OK = b"HTTP/1.1 200 OK\r\n"


class Exchange:
    """A connection with recorders around it, and a request already under way."""

    def __init__(
        self,
        method: bytes = b"GET",
        length: int = NO_BODY,
        first: bytes = b"",
        ended: bool = True,
        upgrade: bytes = b"",
        handler: RecordingHandler | None = None,
    ) -> None:
        self.transport = StringTransport()
        self.owner = RecordingOwner()
        self.connection = Http1ClientConnection()
        self.connection.owner = self.owner
        self.connection.makeConnection(self.transport)
        self.handler = handler or RecordingHandler()
        self.start(method, length, first, ended, upgrade)

    def start(
        self,
        method: bytes = b"GET",
        length: int = NO_BODY,
        first: bytes = b"",
        ended: bool = True,
        upgrade: bytes = b"",
    ) -> None:
        self.connection.start(self.handler, method, b"/x", HOST, length, first, ended, upgrade)

    def receive(self, *reads: bytes) -> Exchange:
        for data in reads:
            self.connection.dataReceived(data)
        return self

    def lose(self, reason: Exception | None = None) -> None:
        self.connection.connectionLost(Failure(reason or ConnectionDone()))

    @property
    def is_reusable(self) -> bool:
        return self.owner.released == 1 and not self.is_closed

    @property
    def is_closed(self) -> bool:
        return bool(self.transport.disconnecting or self.transport.disconnected)


def head_of(exchange: Exchange) -> tuple[int, bytes, list[tuple[bytes, bytes]], int]:
    (head,) = [event[1:] for event in exchange.handler.events if event[0] == "head"]
    return head


def test_provides_what_twisted_and_the_gateway_expect() -> None:
    connection = Http1ClientConnection()
    verifyObject(IProtocol, connection)
    verifyObject(IPushProducer, connection)
    checked: ClientConnection = connection
    assert checked.reused is False


# --- requests -------------------------------------------------------------------------------------------------------


class OneWriteTransport(StringTransport):
    writes = 0

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)


@pytest.mark.parametrize(
    ("start", "upgrade", "wire"),
    [
        ((b"GET", NO_BODY, b"", True), b"", b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ((b"POST", 0, b"", True), b"", b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"),
        ((b"POST", 5, b"hel", False), b"", b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhel"),
        (
            (b"POST", UNKNOWN_LENGTH, b"hello", True),
            b"",
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        ),
        (
            (b"POST", UNKNOWN_LENGTH, b"", False),
            b"",
            b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            (b"GET", NO_BODY, b"", True),
            b"websocket",
            b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        ),
    ],
)
def test_request_head_and_first_bytes_go_out_in_one_write(
    start: tuple[bytes, int, bytes, bool], upgrade: bytes, wire: bytes
) -> None:
    transport = OneWriteTransport()
    connection = Http1ClientConnection()
    connection.makeConnection(transport)
    method, length, first, ended = start
    connection.start(RecordingHandler(), method, b"/x", HOST, length, first, ended, upgrade)
    assert transport.value() == wire
    assert transport.writes == 1


def test_chunked_request_frames_each_piece_and_sends_trailers() -> None:
    exchange = Exchange(b"POST", UNKNOWN_LENGTH, b"", ended=False)
    exchange.transport.clear()
    exchange.connection.send_body(b"hello")
    exchange.connection.send_body(b"")  # would end the body
    exchange.connection.send_end([(b"x-a", b"X-A", b"1")])
    assert exchange.transport.value() == b"5\r\nhello\r\n0\r\nX-A: 1\r\n\r\n"


def test_request_of_known_length_has_no_framing_and_no_trailers() -> None:
    exchange = Exchange(b"POST", 5, b"", ended=False)
    exchange.transport.clear()
    exchange.connection.send_body(b"hello")
    exchange.connection.send_end([(b"x-a", b"X-A", b"1")])
    assert exchange.transport.value() == b"hello"


def test_full_send_buffer_told_to_handler_and_emptied_too() -> None:
    exchange = Exchange(b"POST", UNKNOWN_LENGTH, ended=False)
    assert exchange.transport.producer is exchange.connection
    assert exchange.transport.streaming
    exchange.connection.pauseProducing()
    exchange.connection.pauseProducing()  # Twisted says it at each write
    exchange.connection.resumeProducing()
    assert exchange.handler.names == ["blocked", "drained"]


# --- responses ------------------------------------------------------------------------------------------------------


def test_whole_response_in_one_read_delivered_flushed_and_released() -> None:
    exchange = Exchange().receive(OK + b"Content-Length: 5\r\nX-A: b\r\n\r\nhello")
    assert exchange.handler.events == [
        ("head", 200, b"OK", [(b"X-A", b"b")], 5),
        ("body", b"hello"),
        ("end", []),
        ("flush",),
    ]
    assert exchange.is_reusable
    assert exchange.connection.reused


def test_one_flush_for_each_read() -> None:
    exchange = Exchange().receive(OK + b"Content-Length: 5\r\n\r\n", b"hel", b"lo")
    assert [event[0] for event in exchange.handler.events] == [
        "head", "flush", "body", "flush", "body", "end", "flush",
    ]  # fmt: skip


def test_response_byte_by_byte_same_as_whole() -> None:
    wire = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
    exchange = Exchange().receive(*(bytes([byte]) for byte in wire))
    assert exchange.handler.names[0] == "head"
    assert exchange.handler.body == b"hello"
    assert exchange.handler.events[-2:] == [("end", [(b"X-Sum", b"1")]), ("flush",)]
    assert exchange.is_reusable


def test_second_exchange_on_the_same_connection_starts_clean() -> None:
    exchange = Exchange().receive(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX-Sum: 1\r\n\r\n")
    exchange.start(b"GET")
    exchange.receive(OK + b"Content-Length: 2\r\n\r\nhi")
    assert exchange.owner.released == 2
    assert exchange.handler.names == ["head", "end", "head", "body", "end"]
    assert exchange.handler.events[-2] == ("end", [])


def test_chunks_of_one_read_delivered_as_one_piece() -> None:
    exchange = Exchange().receive(OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n")
    assert ("body", b"abc") in exchange.handler.events


@pytest.mark.parametrize(
    ("method", "wire", "length"),
    [
        (b"HEAD", OK + b"Content-Length: 5\r\n\r\n", 5),
        (b"HEAD", OK + b"Transfer-Encoding: chunked\r\n\r\n", NO_BODY),
        (b"HEAD", OK + b"\r\n", NO_BODY),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", 5),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n", NO_BODY),
        (b"GET", OK + b"Content-Length: 0\r\n\r\n", 0),
    ],
)
def test_response_without_body_ends_with_its_head(method: bytes, wire: bytes, length: int) -> None:
    exchange = Exchange(method).receive(wire)
    assert head_of(exchange)[3] == length
    assert exchange.handler.names == ["head", "end"]
    assert exchange.is_reusable


def test_no_content_that_declares_a_body_not_reused() -> None:
    exchange = Exchange().receive(b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n")
    assert exchange.handler.names == ["head", "end"]
    assert exchange.is_closed


def test_response_until_close_ends_with_a_clean_end() -> None:
    exchange = Exchange().receive(OK + b"\r\nhel", b"lo")
    assert head_of(exchange)[3] == UNKNOWN_LENGTH
    exchange.lose()
    assert exchange.handler.body == b"hello"
    assert exchange.handler.events[-2:] == [("end", []), ("flush",)]
    assert exchange.owner.released == 0


def test_response_until_close_cut_by_a_reset_fails() -> None:
    exchange = Exchange().receive(OK + b"\r\nhello")
    exchange.lose(ConnectionLost())
    assert exchange.handler.names == ["head", "body", "failed"]


def test_hop_by_hop_and_nominated_fields_removed_and_trailer_kept() -> None:
    exchange = Exchange().receive(
        OK + b"Connection: X-Hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X-Sum\r\nX-End: 2\r\n"
        b"Proxy-Authenticate: x\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n"
    )
    assert head_of(exchange)[2] == [(b"Trailer", b"X-Sum"), (b"X-End", b"2")]


@pytest.mark.parametrize(
    ("wire", "is_reusable"),
    [
        (OK + b"Connection: Close\r\nContent-Length: 0\r\n\r\n", False),
        (OK + b"Connection: foo, close\r\nContent-Length: 0\r\n\r\n", False),
        (OK + b"Connection: foo\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", False),
        (OK + b"Connection: KEEP-ALIVE\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 0\r\n\r\n", False),
        (OK + b"Content-Length: 0\r\n\r\nX", False),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nX", False),
    ],
)
def test_connection_reused_only_after_a_clean_end(wire: bytes, is_reusable: bool) -> None:
    exchange = Exchange().receive(wire)
    assert exchange.handler.names == ["head", "end"]
    assert exchange.is_reusable == is_reusable
    assert exchange.is_closed != is_reusable


def test_informational_responses_relayed_in_order() -> None:
    exchange = Exchange().receive(
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
        + OK
        + b"Content-Length: 0\r\n\r\n"
    )
    assert exchange.handler.events[:2] == [("informational", 103, [(b"Link", b"</a>")]), ("informational", 100, [])]
    assert exchange.handler.names == ["informational", "informational", "head", "end"]


@pytest.mark.parametrize(
    "wire",
    [
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        OK + b"Transfer-Encoding: identity\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        OK + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        OK + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        OK + b"Content-Length: 3, 3\r\n\r\nabc",
        OK + b"Content-Length: +3\r\n\r\nabc",
        OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 600 High\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x01K\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"\r\n\r\n",
        b"garbage\r\n\r\n",
        OK + b"A : b\r\n\r\n",
        OK + b"A: b\r\n c\r\n\r\n",
        OK + b"A: b\nC: d\r\n\r\n",
        OK + b"A: b\x00\r\n\r\n",
        OK + b"A: b\r\n" * (MAX_RESPONSE_FIELDS + 1) + b"\r\n",
        OK + b"A: " + b"b" * MAX_HEAD_BYTES,
        b"HTTP/1.1 102 Processing\r\n\r\n" * (MAX_INFORMATIONAL + 1),
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcX",
    ],
)
def test_response_that_breaks_a_rule_fails_and_closes(wire: bytes) -> None:
    exchange = Exchange().receive(wire)
    assert exchange.handler.events[-2:] == [("failed", "UpstreamProtocolError"), ("flush",)]
    assert exchange.handler.error is not None
    assert exchange.handler.error.response_started
    assert exchange.is_closed
    assert exchange.owner.released == 0
    before = list(exchange.handler.events)
    exchange.receive(OK + b"\r\n")
    exchange.lose()
    assert exchange.handler.events == before


def test_fields_at_limit_accepted() -> None:
    exchange = Exchange().receive(OK + b"A: b\r\n" * MAX_RESPONSE_FIELDS + b"Content-Length: 0\r\n\r\n")
    assert len(head_of(exchange)[2]) == MAX_RESPONSE_FIELDS


# --- the end of the connection --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "started"),
    [
        ([], False),
        ([b"HTTP/1.1 2"], True),
        ([OK + b"Content-Length: 5\r\n\r\nhell"], True),
        ([OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"], True),
    ],
)
def test_connection_lost_in_mid_response_is_a_reset(reads: list[bytes], started: bool) -> None:
    exchange = Exchange().receive(*reads)
    exchange.lose()
    error = exchange.handler.error
    assert error is not None
    assert error.reason == "UPSTREAM_RESET"
    assert (error.bytes_written, error.response_started, error.on_reused_connection) == (True, started, False)
    assert exchange.handler.events[-1] == ("flush",)
    assert exchange.owner.forgotten


def test_reset_on_a_reused_connection_says_so() -> None:
    exchange = Exchange().receive(OK + b"Content-Length: 0\r\n\r\n")
    exchange.start()
    exchange.lose()
    error = exchange.handler.error
    assert error is not None
    assert error.on_reused_connection
    assert not error.response_started


def test_byte_while_idle_closes() -> None:
    exchange = Exchange().receive(OK + b"Content-Length: 0\r\n\r\n", b"H")
    assert exchange.is_closed
    assert exchange.owner.forgotten == 1
    assert exchange.transport.producer is None  # unregistered before closing


def test_end_while_idle_forgotten_by_owner() -> None:
    exchange = Exchange().receive(OK + b"Content-Length: 0\r\n\r\n")
    exchange.lose()
    assert exchange.owner.forgotten == 1
    assert exchange.handler.names == ["head", "end"]


def test_response_complete_before_the_request_is_delivered_and_closes() -> None:
    exchange = Exchange(b"POST", 10, b"abc", ended=False)
    exchange.receive(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    assert exchange.handler.names == ["head", "body", "end"]
    assert exchange.is_closed
    assert exchange.owner.released == 0
    sent = exchange.transport.value()
    exchange.connection.send_body(b"more")
    exchange.connection.send_end([])
    assert exchange.transport.value() == sent


def test_response_complete_while_the_send_buffer_is_full_closes() -> None:
    exchange = Exchange(b"POST", 10, b"abc", ended=False)
    exchange.connection.pauseProducing()
    exchange.connection.send_end([])
    exchange.receive(OK + b"Content-Length: 0\r\n\r\n")
    assert exchange.is_closed


def test_cancelled_exchange_hears_nothing_more() -> None:
    exchange = Exchange().receive(OK + b"Content-Length: 5\r\n\r\nhe")
    before = list(exchange.handler.events)
    exchange.connection.cancel()
    assert exchange.is_closed
    assert exchange.owner.forgotten
    exchange.receive(b"llo")
    exchange.lose()
    assert exchange.handler.events == before


def test_release_comes_before_end_so_that_the_next_request_can_start_there() -> None:
    class NextRequest(RecordingHandler):
        def on_end(self, trailers: HeaderList) -> None:
            super().on_end(trailers)
            assert exchange.owner.released == 1
            exchange.connection.start(after, b"GET", b"/next", HOST, NO_BODY, b"", True)

    after = RecordingHandler()
    exchange = Exchange(handler=NextRequest())
    exchange.transport.clear()
    exchange.receive(OK + b"Content-Length: 0\r\n\r\n")
    assert exchange.transport.value() == b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"
    assert after.events == []
    exchange.receive(OK + b"Content-Length: 2\r\n\r\nhi")
    assert after.names == ["head", "body", "end"]
    assert exchange.handler.names == ["head", "end"]


# --- pausing --------------------------------------------------------------------------------------------------------


class PausingHandler(RecordingHandler):
    """Pauses whenever it is told the named event."""

    connection: Http1ClientConnection

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        super().on_head(status, reason, headers, length)
        if self.at == "head":
            self.connection.pause_reading()

    def on_body(self, data: bytes) -> None:
        super().on_body(data)
        if self.at == "body":
            self.connection.pause_reading()


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
@pytest.mark.parametrize(("at", "told"), [("head", ["head"]), ("body", ["head", "body"])])
def test_nothing_delivered_while_paused(framing: bytes, at: str, told: list[str]) -> None:
    handler = PausingHandler(at)
    exchange = Exchange(handler=handler)
    handler.connection = exchange.connection
    exchange.receive(OK + framing)
    assert handler.names == told
    assert exchange.transport.producerState == "paused"
    assert exchange.owner.released == 0
    handler.at = ""
    exchange.connection.resume_reading()
    assert handler.names == ["head", "body", "end"]
    assert exchange.transport.producerState == "producing"
    assert exchange.is_reusable


def test_bytes_and_end_that_come_while_paused_delivered_after() -> None:
    exchange = Exchange().receive(OK + b"\r\nhel")
    exchange.connection.pause_reading()
    exchange.receive(b"lo")
    exchange.lose()
    assert exchange.handler.names == ["head", "body"]
    exchange.connection.resume_reading()
    assert exchange.handler.body == b"hello"
    assert exchange.handler.names[-1] == "end"


def test_cancel_after_the_connection_was_lost_while_paused() -> None:
    exchange = Exchange().receive(OK + b"\r\nhel")
    exchange.connection.pause_reading()
    exchange.lose(ConnectionLost())
    exchange.connection.cancel()
    exchange.connection.resume_reading()
    assert not exchange.is_closed  # there is nothing left to close, and TLS would trip over trying
    assert exchange.handler.names == ["head", "body"]


# --- a handler that fails -------------------------------------------------------------------------------------------


@pytest.fixture
def logged() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        events.append(event)

    globalLogPublisher.addObserver(observe)
    yield events
    globalLogPublisher.removeObserver(observe)


class FailingHandler(RecordingHandler):
    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        super().on_head(status, reason, headers, length)
        if self.at == "head":
            raise RuntimeError("handler's fault")

    def on_end(self, trailers: HeaderList) -> None:
        super().on_end(trailers)
        if self.at == "end":
            raise RuntimeError("handler's fault")


def test_failing_handler_is_logged_and_told_of_the_loss(logged: list[LogEvent]) -> None:
    exchange = Exchange(handler=FailingHandler("head")).receive(OK + b"Content-Length: 5\r\n\r\nhello")
    assert [event["log_format"] for event in logged] == ["response handler failed"]
    assert exchange.is_closed
    exchange.lose(ConnectionLost())
    assert exchange.handler.names == ["head", "failed"]


def test_handler_that_fails_at_the_end_does_not_cost_the_connection(logged: list[LogEvent]) -> None:
    exchange = Exchange(handler=FailingHandler("end")).receive(OK + b"Content-Length: 0\r\n\r\n")
    assert len(logged) == 1
    assert exchange.is_reusable


# --- tunnels --------------------------------------------------------------------------------------------------------


class RecordingTunnel:
    def __init__(self) -> None:
        self.events: list[object] = []

    def from_target(self, data: bytes) -> None:
        self.events.append(data)

    def target_lost(self) -> None:
        self.events.append("lost")

    def target_blocked(self) -> None:
        self.events.append("blocked")

    def target_drained(self) -> None:
        self.events.append("drained")

    def from_client(self, data: bytes) -> None: ...
    def client_lost(self) -> None: ...
    def client_blocked(self) -> None: ...
    def client_drained(self) -> None: ...
    def cut(self, reason: str) -> None: ...
    def going_away(self) -> None: ...


SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade, X-Hop\r\nUpgrade: ws\r\nX-Hop: 1\r\nX-A: b\r\n\r\n"
)


def tunnelling() -> tuple[Exchange, RecordingTunnel]:
    tunnel = RecordingTunnel()
    checked: Tunnel = tunnel

    class Upgrading(RecordingHandler):
        def on_upgraded(self, connection: ClientConnection, headers: HeaderList, early: bytes) -> None:
            super().on_upgraded(connection, headers, early)
            assert isinstance(connection, Http1ClientConnection)
            connection.become_tunnel(checked)

    exchange = Exchange(upgrade=b"ws", handler=Upgrading())
    exchange.receive(SWITCHING + b"early")
    exchange.transport.clear()
    return exchange, tunnel


def test_upgrade_hands_over_the_connection_and_the_early_bytes() -> None:
    exchange, _ = tunnelling()
    assert exchange.handler.events == [("upgraded", [(b"Upgrade", b"ws"), (b"X-A", b"b")], b"early"), ("flush",)]
    assert exchange.owner.released == 0


def test_tunnel_passes_bytes_pressure_and_the_end() -> None:
    exchange, tunnel = tunnelling()
    exchange.receive(b"\x00\r\n\r\n")
    exchange.connection.pauseProducing()
    exchange.connection.resumeProducing()
    exchange.connection.write_raw(b"raw")
    exchange.lose()
    assert tunnel.events == [b"\x00\r\n\r\n", "blocked", "drained", "lost"]
    assert exchange.transport.value() == b"raw"
    assert exchange.owner.forgotten == 1


def test_tunnel_closed_by_us_flushes_and_hears_nothing_more() -> None:
    exchange, tunnel = tunnelling()
    exchange.connection.write_raw(b"bye")
    exchange.connection.close_tunnel()
    assert exchange.transport.disconnecting
    assert exchange.transport.producer is None
    exchange.lose()
    assert tunnel.events == []


def test_upgrade_refused_is_an_ordinary_response() -> None:
    exchange = Exchange(upgrade=b"ws").receive(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    assert exchange.handler.names == ["head", "body", "end"]
    assert exchange.is_reusable


def test_upgrade_that_names_no_protocol_fails() -> None:
    exchange = Exchange(upgrade=b"ws").receive(b"HTTP/1.1 101 Switching\r\n\r\n")
    assert exchange.handler.names == ["failed"]
