from __future__ import annotations

import ssl
from typing import Any

import pytest
import trustme
from tests.helpers.logs import logged_events
from tests.helpers.tls import MemoryTlsClient, TlsServer, client_context, key_pair
from tests.unit.support import Body, message, read_responses
from twisted.internet.interfaces import IPushProducer, ITransport
from zope.interface.verify import verifyObject

from txgateway.errors import Draining
from txgateway.transport.framing import CHUNKS_A_FEED
from txgateway.transport.interfaces import UNKNOWN_LENGTH, ServerLimits
from txgateway.transport.server_contexts import ServerContexts, TlsPolicy
from txgateway.transport.server_tls import ALERT_S, LOG_EVERY_S, HandshakeFailures

GET = message(b"/")
GET_10 = b"GET / HTTP/1.0\r\n\r\n"
POST = message(b"/", b"Content-Length: 100000", method=b"POST")
CHUNKED = message(b"/", b"Transfer-Encoding: chunked", method=b"POST")
LIMITS = ServerLimits(header_timeout_s=10, keepalive_timeout_s=75)
BOTH = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@pytest.fixture(scope="module")
def contexts(authority: trustme.CA) -> ServerContexts:
    return ServerContexts([key_pair("a", authority.issue_cert("a.example"))], TlsPolicy())


def answer(request: Any) -> None:
    request.answer(200, [], b"ok")


@pytest.fixture
def server(contexts: ServerContexts) -> TlsServer:
    """Keeps requests for the test to answer."""
    return TlsServer(contexts, limits=LIMITS)


@pytest.fixture
def client(server: TlsServer, authority: trustme.CA) -> MemoryTlsClient:
    return MemoryTlsClient(server, client_context(authority))


def statuses(data: bytes, count: int = 1) -> list[int]:
    return [response.status for response in read_responses(data, [b"GET"] * count)]


def test_provides_what_twisted_expects(client: MemoryTlsClient) -> None:
    verifyObject(ITransport, client.protocol)
    verifyObject(IPushProducer, client.connection)


# --- the handshake -------------------------------------------------------------------------------------------------------


@BOTH
def test_request_is_answered_over_tls(contexts: ServerContexts, authority: trustme.CA, version: ssl.TLSVersion) -> None:
    server = TlsServer(contexts, dispatch=answer)
    context = client_context(authority)
    context.minimum_version = context.maximum_version = version
    client = MemoryTlsClient(server, context)
    client.send(GET)
    assert statuses(client.received()) == [200]
    assert (client.connection.scheme, client.connection.client_certificate) == (b"https", b"")
    assert server.failed == 0
    assert client.protocol not in server.wheel._fine


def test_handshake_that_stalls_is_cut_after_the_time_of_a_head(server: TlsServer, authority: trustme.CA) -> None:
    client = MemoryTlsClient(server, client_context(authority), shakes_hands=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.exchange()
    server.wait(9.9)
    assert not client.transport.aborted
    server.wait(0.4)
    assert client.transport.aborted
    assert client.transport.closed
    assert server.failed == 1
    assert not server.factory.connections
    assert not server.wheel._fine
    assert not server.wheel._coarse


def test_handshake_after_a_long_silence_has_all_of_its_time(server: TlsServer, authority: trustme.CA) -> None:
    server.clock.advance(1000.0)  # nothing was watched, so that the wheel has stood still
    client = MemoryTlsClient(server, client_context(authority), shakes_hands=False)
    server.wait(9.9)
    assert not client.transport.aborted
    server.wait(0.4)
    assert client.transport.aborted


def test_client_that_says_nothing_is_cut_too(server: TlsServer) -> None:
    _, transport = server.open()
    server.wait(10.3)
    assert transport.closed
    assert server.failed == 1


def test_client_that_says_nothing_and_leaves_has_not_failed(server: TlsServer) -> None:
    protocol, transport = server.open()
    transport.end()
    assert transport.closed
    assert server.failed == 0
    assert not server.factory.connections
    assert protocol not in server.wheel._fine


def test_client_that_leaves_amid_its_hello_has_failed(server: TlsServer, authority: trustme.CA) -> None:
    client = MemoryTlsClient(server, client_context(authority), shakes_hands=False)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.transport.send(client._outgoing.read()[:40])
    client.transport.end()
    assert server.failed == 1


def test_idle_time_begins_with_the_end_of_the_handshake(contexts: ServerContexts, authority: trustme.CA) -> None:
    server = TlsServer(contexts, limits=ServerLimits(header_timeout_s=10, keepalive_timeout_s=2))
    client = MemoryTlsClient(server, client_context(authority), shakes_hands=False)
    server.wait(5)
    assert not client.transport.closed
    client.shake_hands()
    server.wait(1.9)
    assert not client.transport.closed
    server.wait(1.5)
    assert client.transport.closed
    assert client.received() == b""
    assert client.ended == "clean"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"x" * 70000, b"\0" * 100, b"\x80" * 5]
)
def test_what_is_no_handshake_gets_an_alert_at_most_and_an_end(server: TlsServer, data: bytes) -> None:
    _, transport = server.open()
    transport.send(data)
    assert transport.half_closed
    assert len(transport.received()) <= 7
    transport.send(data)  # nobody looks
    server.wait(ALERT_S - 0.2)
    assert not transport.aborted
    server.wait(0.5)
    assert transport.aborted
    assert server.failed == 1
    assert not server.requests
    assert not server.refused
    assert not server.factory.connections


def test_client_that_takes_its_alert_and_leaves_is_forgotten(server: TlsServer) -> None:
    protocol, transport = server.open()
    transport.send(b"GET / HTTP/1.1\r\n\r\n")
    transport.end()
    assert (transport.closed, server.failed) == (True, 1)
    assert protocol not in server.wheel._fine


def test_limit_of_connections_counts_those_that_shake_hands(contexts: ServerContexts) -> None:
    server = TlsServer(contexts)
    server.factory.max_connections = 2
    server.open()
    server.open()
    assert server.tls_factory.buildProtocol(None) is None
    assert server.metrics.connections_refused == 1


def test_shutdown_closes_handshakes_and_idle_connections(server: TlsServer, client: MemoryTlsClient) -> None:
    _, young = server.open()
    for connection in list(server.factory.connections):
        connection.shut_down(Draining())
    server.clock.advance(0)
    assert young.aborted
    assert client.transport.closed
    assert client.received() == b""
    assert client.ended == "clean"


# --- failures are counted, and logged now and then -------------------------------------------------------------------------


def test_failures_are_logged_at_a_bounded_rate() -> None:
    now = [0.0]
    counted = []
    failures = HandshakeFailures(lambda: counted.append(1), lambda: now[0])
    with logged_events() as events:
        for number in range(1000):
            failures.failed("192.0.2.1", f"problem {number}")
        now[0] = LOG_EVERY_S
        failures.failed("192.0.2.2", "another")
        now[0] += LOG_EVERY_S
        failures.failed("192.0.2.2", "last")
    told = [(event["client_ip"], event["problem"], event["unsaid"]) for event in events]
    assert told == [("192.0.2.1", "problem 0", 0), ("192.0.2.2", "another", 999), ("192.0.2.2", "last", 0)]
    assert len(counted) == 1002


def test_log_says_what_was_wrong_without_a_traceback(server: TlsServer) -> None:
    with logged_events() as events:
        _, transport = server.open()
        transport.send(b"GET / HTTP/1.1\r\n\r\n")
        transport.end()
    (event,) = events
    assert (event["log_format"], event["client_ip"]) == ("TLS handshake failed", "127.0.0.1")
    assert event["problem"] == "http request"
    assert "log_failure" not in event


# --- reading -----------------------------------------------------------------------------------------------------------------


def test_records_of_one_read_are_one_delivery(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(POST)
    body = Body()
    server.request.want_body(body)
    client.transport.send(client.records(b"x" * 60_000, size=100)[:40_000])
    assert body.pieces == 1
    assert 0 < len(body.data) < 40_000


def test_record_in_pieces_is_put_together(server: TlsServer, client: MemoryTlsClient) -> None:
    for byte in client.records(GET):
        client.transport.send(bytes((byte,)))
    assert len(server.requests) == 1


def test_reading_stops_and_goes_on_at_the_socket(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(POST)
    assert not client.transport.is_reading  # nobody wants the body yet
    body = Body()
    server.request.want_body(body)
    assert client.transport.is_reading
    for _ in range(2):
        client.send(b"x" * 50_000)
    assert len(body.data) == 100_000
    assert body.trailers == []


def test_pipelined_requests_are_answered_in_order(contexts: ServerContexts, authority: trustme.CA) -> None:
    server = TlsServer(contexts, dispatch=answer)
    client = MemoryTlsClient(server, client_context(authority))
    client.send(GET * 3)
    for _ in range(5):
        server.clock.advance(0)
    assert statuses(client.received(), 3) == [200, 200, 200]


def test_many_small_chunks_take_turns(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(CHUNKED)
    body = Body()
    server.request.want_body(body)
    client.transport.send(client.records(b"3;x=y\r\nabc\r\n" * (CHUNKS_A_FEED + 500)))
    taken = len(body.data)
    assert 0 < taken < 3 * (CHUNKS_A_FEED + 500)
    for _ in range(5):
        server.clock.advance(0)
    assert len(body.data) == 3 * (CHUNKS_A_FEED + 500)


# --- writing -----------------------------------------------------------------------------------------------------------------


def test_an_answer_is_one_write(contexts: ServerContexts, authority: trustme.CA) -> None:
    server = TlsServer(contexts, dispatch=lambda request: request.answer(200, [], b"x" * 60_000))
    client = MemoryTlsClient(server, client_context(authority))
    before = client.transport.writes
    client.send(GET)
    assert client.transport.writes == before + 1
    assert read_responses(client.received(), [b"GET"])[0].body == b"x" * 60_000


def test_long_answer_is_whole(contexts: ServerContexts, authority: trustme.CA) -> None:
    body = bytes(range(256)) * 8192
    server = TlsServer(contexts, dispatch=lambda request: request.answer(200, [], body))
    client = MemoryTlsClient(server, client_context(authority))
    client.send(GET)
    assert read_responses(client.received(), [b"GET"])[0].body == body


def test_slow_client_makes_the_producer_wait(server: TlsServer, client: MemoryTlsClient) -> None:
    client.send(GET)
    request, calls = server.request, []

    class Producer:
        def pauseProducing(self) -> None:
            calls.append("pause")

        def resumeProducing(self) -> None:
            calls.append("resume")

    request.producer = Producer()
    request.respond(200, b"", [], UNKNOWN_LENGTH)
    client.transport.takes = False
    request.send_body(b"x" * 100_000)
    request.flush()
    assert calls == ["pause"]
    assert client.connection.unsent_bytes() > 100_000
    client.transport.take()
    assert calls == ["pause", "resume"]
    request.end([])
    client.transport.take()
    assert read_responses(client.received(), [b"GET"])[0].body == b"x" * 100_000
