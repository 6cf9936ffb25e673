from __future__ import annotations

import gzip
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_twisted
import treq
from tests.helpers.backend import BackendConnection, RawBackend
from tests.helpers.upstream import FakeDialer
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock, deferLater
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH as UNKNOWN
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txgateway.config.groups import Pool as PoolSettings
from txgateway.errors import UpstreamConnectFailed, UpstreamProtocolError, UpstreamReset
from txgateway.proxy.agent import MAX_UNREAD_BYTES, UNREAD_TIMEOUT_S, PoolAgent
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.dial import Dialer, TcpAddress
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.wheel import TimerWheel

URL = "http://target/x?y=1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Bench:
    def __init__(self, reactor: PosixReactorBase, backend: RawBackend) -> None:
        self.reactor = reactor
        self.backend = backend
        self.clock = Clock()
        wheel = TimerWheel(self.clock)
        address = TcpAddress("127.0.0.1", backend.listen(reactor))
        dialer = Dialer(reactor, wheel, address, 3.0, Http1ClientConnection)
        self.pool = ConnectionPool("t", dialer, self.clock, wheel, PoolSettings(max_connections=2))
        self.agent = PoolAgent(self.pool)
        self.client = HTTPClient(self.agent)

    async def turns_until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor work until the condition holds; its turns are counted, not timed."""
        for _ in range(10_000):
            if condition():
                return
            await deferLater(self.reactor, 0)
        raise AssertionError("the condition never held")

    async def until_held(self) -> None:
        """Until reading has paused, which is when the wheel begins to turn again."""
        self.clock.advance(1)
        assert not self.clock.getDelayedCalls()
        await self.turns_until(lambda: bool(self.clock.getDelayedCalls()))

    async def requested(self, *arguments: Any, **more: Any) -> tuple[Deferred[Any], BackendConnection, bytes]:
        """``(result, backend's connection, head it received)`` of a request made with treq."""
        result = self.client.request(*arguments, **more)
        peer = await self.backend.accepted()
        return result, peer, await peer.head()


@asynccontextmanager
async def serving(reactor: PosixReactorBase) -> AsyncIterator[Bench]:
    backend = RawBackend()
    bench = Bench(reactor, backend)
    try:
        yield bench
    finally:
        bench.pool.close()
        await backend.stop()
        await bench.turns_until(lambda: bench.pool.active == 0)
        bench.clock.advance(1)
        assert bench.clock.getDelayedCalls() == []


class Collector(Protocol):
    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.over: Deferred[type[BaseException] | None] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over.callback(None if reason.check(ResponseDone) else reason.type)


@implementer(IBodyProducer)
class Pieces:
    """Produces when told to."""

    def __init__(self, length: Any) -> None:
        self.length = length
        self.done: Deferred[None] = Deferred()
        self.calls: list[str] = []

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        self.consumer = consumer
        return self.done

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


# --- with treq ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_get_goes_out_as_asked_and_its_connection_is_reused(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, head = await bench.requested("GET", URL, headers={"X-A": "b", "Connection": "close"})
        lines = head.split(b"\r\n")
        assert lines[:2] == [b"GET /x?y=1 HTTP/1.1", b"Host: target"]
        assert b"X-A: b" in lines
        assert not any(line.lower().startswith(b"connection") for line in lines)
        peer.send(b"HTTP/1.1 200 Fine\r\nX-B: c\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
        response = await result
        verifyObject(IResponse, response.original.original)
        assert (response.code, response.phrase) == (200, b"Fine")
        assert response.headers.getRawHeaders("x-b") == ["c"]
        assert response.request.absoluteURI == URL.encode()
        assert await response.content() == b"ok"
        assert repr(bench.pool) == "<pool t: 0 active, 1 idle, 0 pending>"
        result = bench.client.get(URL)
        await peer.head()
        peer.send(OK)
        assert await (await result).text() == "ok"


@pytest_twisted.ensureDeferred
async def test_post_json(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, head = await bench.requested("POST", URL, json={"a": 1})
        assert b"\r\nContent-Length: 7\r\n" in head
        assert json.loads(await peer.until(b"}")) == {"a": 1}
        peer.send(b'HTTP/1.1 201 Created\r\nContent-Length: 8\r\n\r\n{"b": 2}')
        assert await treq.json_content(await result) == {"b": 2}
        assert bench.pool.idle == 1


@pytest_twisted.ensureDeferred
async def test_gzip_decoded_by_treq(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, head = await bench.requested("GET", URL)
        assert b"gzip" in head
        body = gzip.compress(b"hello" * 100)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert await (await result).content() == b"hello" * 100


@pytest_twisted.ensureDeferred
async def test_head_and_no_content_have_no_body(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("HEAD", URL)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        response = await result
        assert response.length == 0
        assert await response.content() == b""
        result = bench.client.get(URL)
        await peer.head()
        peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await result).code == 204
        assert bench.pool.idle == 1


@pytest_twisted.ensureDeferred
async def test_cancelled_while_waiting_for_the_head_gives_up_the_connection(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL)
        result.cancel()
        with pytest.raises(CancelledError):
            await result
        assert repr(bench.pool) == "<pool t: 0 active, 0 idle, 0 pending>"
        await peer.lost


@pytest_twisted.ensureDeferred
async def test_small_unread_body_releases_the_connection(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL, unbuffered=True)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % MAX_UNREAD_BYTES + b"x" * MAX_UNREAD_BYTES)
        await result
        await bench.turns_until(lambda: bench.pool.idle == 1)


@pytest_twisted.ensureDeferred
async def test_large_unread_body_given_up_after_a_while(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL, unbuffered=True)
        size = MAX_UNREAD_BYTES * 100
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        response = await result
        await bench.until_held()
        bench.clock.pump([0.1] * int(10 * UNREAD_TIMEOUT_S - 1))
        assert bench.pool.active == 1
        bench.clock.pump([0.1] * 20)
        assert bench.pool.active == 0
        await peer.lost
        collector = Collector()
        response.original.deliverBody(collector)
        assert await collector.over is ResponseFailed
        assert 0 < len(collector.received) < size


@pytest_twisted.ensureDeferred
async def test_large_body_read_late_arrives_whole(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL, unbuffered=True)
        size = MAX_UNREAD_BYTES * 20
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        response = await result
        await bench.until_held()
        assert len(await readBody(response.original)) == size
        assert bench.pool.idle == 1


@pytest_twisted.ensureDeferred
async def test_reader_that_pauses_gets_nothing_until_it_resumes(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL, unbuffered=True)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
        response = await result
        collector = Collector()
        response.original.deliverBody(collector)
        collector.transport.pauseProducing()
        peer.send(b"hello")
        for _ in range(20):
            await deferLater(reactor, 0)
        assert collector.received == b""
        collector.transport.resumeProducing()
        assert await collector.over is None
        assert collector.received == b"hello"


@pytest_twisted.ensureDeferred
async def test_reader_that_aborts_gives_up_the_connection(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL, unbuffered=True)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        response = await result
        collector = Collector()
        response.original.deliverBody(collector)
        collector.transport.abortConnection()
        assert await collector.over is ResponseFailed
        assert bench.pool.active == 0
        await peer.lost


@pytest_twisted.ensureDeferred
async def test_response_that_breaks_off_fails_its_body(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
        response = await result
        peer.close()
        with pytest.raises(ResponseFailed):
            await response.content()


@pytest_twisted.ensureDeferred
async def test_malformed_answer_fails_the_request(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("GET", URL)
        peer.send(b"garbage\r\n\r\n")
        with pytest.raises(UpstreamProtocolError):
            await result


@pytest_twisted.ensureDeferred
async def test_dead_reused_connection_replayed_once_without_a_body_only(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        for method, is_replayed in (("GET", True), ("POST", False)):
            result = bench.client.request(method, URL)
            if method == "GET":
                peer = await bench.backend.accepted()
            await peer.head()
            peer.send(OK)
            await (await result).content()
            result = bench.client.request(method, URL)
            await peer.head()
            peer.close()
            if is_replayed:
                peer = await bench.backend.accepted()
                await peer.head()
                peer.send(OK)
                assert await (await result).content() == b"ok"
            else:
                with pytest.raises(UpstreamReset):
                    await result


@pytest_twisted.ensureDeferred
async def test_connection_seen_dead_before_use_is_not_used(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        result, peer, _ = await bench.requested("POST", URL)
        peer.send(OK)
        await (await result).content()
        peer.transport.getHandle().shutdown(socket.SHUT_WR)  # the reactor has had no turn to read it
        result, peer, _ = await bench.requested("POST", URL)
        peer.send(OK)
        assert await (await result).content() == b"ok"


# --- body producers -------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_body_of_unknown_length_goes_out_chunked_at_the_targets_pace(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        body = Pieces(UNKNOWN)
        result = bench.agent.request(b"PUT", URL.encode(), None, body)
        peer = await bench.backend.accepted()
        assert b"Transfer-Encoding: chunked" in await peer.head()
        peer.transport.pauseProducing()
        body.consumer.write(b"x" * 8_000_000)
        assert body.calls == ["pause"]
        peer.transport.resumeProducing()
        await bench.turns_until(lambda: body.calls == ["pause", "resume"])
        body.done.callback(None)
        await peer.until(b"\r\n0\r\n\r\n")
        peer.send(OK)
        assert (await result).code == 200


@pytest_twisted.ensureDeferred
async def test_body_that_is_there_at_once(reactor: PosixReactorBase) -> None:
    class Instant(Pieces):
        def startProducing(self, consumer: IConsumer) -> Deferred[None]:
            consumer.write(b"12345")
            return succeed(None)

    async with serving(reactor) as bench:
        result = bench.agent.request(b"PUT", URL.encode(), None, Instant(5))
        peer = await bench.backend.accepted()
        await peer.until(b"12345")
        peer.send(OK)
        assert await readBody(await result) == b"ok"
        assert bench.pool.idle == 1


@pytest.mark.parametrize("sent", [b"1234", b"123456"])
@pytest_twisted.ensureDeferred
async def test_body_that_does_not_keep_to_its_length_fails(reactor: PosixReactorBase, sent: bytes) -> None:
    async with serving(reactor) as bench:
        body = Pieces(5)
        result = bench.agent.request(b"PUT", URL.encode(), None, body)
        peer = await bench.backend.accepted()
        await peer.head()
        body.consumer.write(sent)
        body.done.callback(None)
        with pytest.raises(RequestTransmissionFailed):
            await result
        await peer.lost
        assert len(peer.received) <= 5


@pytest_twisted.ensureDeferred
async def test_body_producer_that_fails_fails_the_request(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        body = Pieces(5)
        result = bench.agent.request(b"PUT", URL.encode(), None, body)
        peer = await bench.backend.accepted()
        body.done.errback(OSError("disk"))
        with pytest.raises(RequestTransmissionFailed):
            await result
        await peer.lost


@pytest_twisted.ensureDeferred
async def test_answer_before_the_body_is_sent_stops_the_producer(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        body = Pieces(5)
        result = bench.agent.request(b"PUT", URL.encode(), None, body)
        peer = await bench.backend.accepted()
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        assert await readBody(await result) == b"no"
        assert body.calls == ["stop"]
        assert bench.pool.active == bench.pool.idle == 0


@pytest_twisted.ensureDeferred
async def test_cancelled_upload_stops_the_producer(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as bench:
        body = Pieces(5)
        result = bench.agent.request(b"PUT", URL.encode(), None, body)
        await bench.backend.accepted()
        await bench.turns_until(lambda: hasattr(body, "consumer"))
        result.cancel()
        assert body.calls == ["stop"]
        with pytest.raises(CancelledError):
            await result


# --- without sockets ------------------------------------------------------------------------------------------------


def offline_agent() -> tuple[PoolAgent, FakeDialer, ConnectionPool]:
    clock, dialer = Clock(), FakeDialer()
    pool = ConnectionPool("t", dialer, clock, TimerWheel(clock), PoolSettings())
    return PoolAgent(pool), dialer, pool


def test_is_an_agent() -> None:
    verifyObject(IAgent, offline_agent()[0])
    verifyObject(IBodyProducer, Pieces(0))


@pytest.mark.parametrize(
    ("method", "uri"),
    [
        (b"GE T", b"http://a/"),
        (b"GET", b"/x"),
        (b"GET", b"http://a/x y"),
        (b"GET", b"http://a/\r\nX: y"),
        (b"GET", b"http:///x"),
        (b"GET", b"http://a/\xff"),
    ],
)
def test_what_cannot_be_sent_safely_is_not(method: bytes, uri: bytes) -> None:
    agent, dialer, _ = offline_agent()
    failures: list[Failure] = []
    agent.request(method, uri).addErrback(failures.append)
    assert failures[0].type is ValueError
    assert dialer.dials == []


def test_field_that_cannot_be_sent_safely_is_not() -> None:
    agent, dialer, _ = offline_agent()
    failures: list[Failure] = []
    agent.request(b"GET", b"http://a/", Headers({b"X-A": [b"b\x00"]})).addErrback(failures.append)
    assert failures[0].type is ValueError
    assert dialer.dials == []


def test_failed_dial_fails_the_request() -> None:
    agent, dialer, _ = offline_agent()
    failures: list[Failure] = []
    agent.request(b"GET", b"http://a/").addErrback(failures.append)
    dialer.dials[0].fail(UpstreamConnectFailed())
    assert failures[0].type is UpstreamConnectFailed


def test_cancelled_while_waiting_for_a_connection_leaves_the_pool() -> None:
    agent, dialer, pool = offline_agent()
    failures: list[Failure] = []
    result = agent.request(b"GET", b"http://a/")
    result.addErrback(failures.append)
    result.cancel()
    assert failures[0].type is CancelledError
    assert dialer.dials == []
    assert repr(pool) == "<pool t: 0 active, 0 idle, 0 pending>"
