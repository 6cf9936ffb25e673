"""The gateway in memory, in virtual time: real transports, pipeline and proxy between scripted clients and targets."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import count
from random import Random
from typing import Any

import orjson
from attrs import frozen
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from txgateway.config import load
from txgateway.errors import GatewayError, UpstreamConnectFailed
from txgateway.pipeline import Collaborators, Pipeline
from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import CircuitBreaker
from txgateway.proxy.pool import ConnectionPool
from txgateway.proxy.target import Target
from txgateway.request import GatewayRequest
from txgateway.security import Security
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.telemetry.tracing import Tracing
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.http1_factory import Http1ServerFactory
from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.interfaces import RequestHead, ServerLimits
from txgateway.transport.wheel import TICK_S, TimerWheel

#: Of every ``Date`` field that the gateway makes here.
EPOCH_S = 1_800_000_000.0
DATE = b"Fri, 15 Jan 2027 08:00:00 GMT"
_BUFFER_BYTES = 65536


def address(host: str, port: int) -> IAddress:
    """A TCP address of the right family."""
    return (IPv4Address if ip_address(host).version == 4 else IPv6Address)("TCP", host, port)


class MemoryTransport:
    """A TCP transport without a socket; the test is the far end.

    As with Twisted's, losing a connection is reported later, a registered producer holds up an orderly close, and
    bytes for a paused protocol wait.

    Attributes:
        taken: what the far end has received.
        unsent: what waits in the send buffer, while the far end is slow.
        takes: the far end reads as fast as it can.
        is_reading: the protocol is not paused.
        half_closed: our sending side is closed.
        closed: the connection is gone, in whichever way.
        aborted: by ``abortConnection``.
        writes: number of non-empty writes.
    """

    def __init__(self, clock: Clock, peer: str = "127.0.0.1", port: int = 8000) -> None:
        self.clock = clock
        self.taken = b""
        self.unsent = b""
        self.takes = True
        # Any: mypy takes an attribute that was asserted once for unchanged by what happens next.
        self.is_reading: Any = True
        self.half_closed: Any = False
        self.closed: Any = False
        self.aborted: Any = False
        self.writes = 0
        self.protocol: Any = None
        self.producer: Any = None
        self._peer, self._host = address(peer, 50000), address("127.0.0.1", port)
        self._incoming: list[bytes | Exception] = []
        self._disconnecting = self._half_closing = self._producer_paused = False

    # --- the protocol's side ---

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.closed or self.half_closed or self.aborted or not data:
            return
        self.writes += 1
        if self.takes and not self.unsent:
            self.taken += data
            return
        self.unsent += data
        if len(self.unsent) > _BUFFER_BYTES and self.producer is not None:
            self._producer_paused = True
            self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        self._close_if_done()

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True
        self.clock.callLater(0, self._deliver)

    def loseConnection(self) -> None:
        self._disconnecting = True
        self.is_reading = False
        self._close_if_done()

    def loseWriteConnection(self) -> None:
        self._half_closing = True
        self._close_if_done()

    def abortConnection(self) -> None:
        if not self.aborted and not self.closed:
            self.aborted = True
            self.unsent = b""
            self.clock.callLater(0, self._lose, ConnectionAborted())

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return self._host

    def getHandle(self) -> None:
        return None

    def unsent_bytes(self) -> int:
        return len(self.unsent)

    # --- the far end ---

    def send(self, data: bytes) -> None:
        """The far end sends ``data``."""
        if data:
            self._incoming.append(data)
            self._deliver()

    def end(self, reason: Exception | None = None) -> None:
        """The far end closes (or resets, with another ``reason`` than ConnectionDone)."""
        self._incoming.append(reason or ConnectionDone())
        self._deliver()

    def reset(self) -> None:
        """The far end resets the connection; noticed at once."""
        self._lose(ConnectionLost())

    def take(self, size: int | None = None) -> None:
        """A slow far end receives up to ``size`` bytes of what waits for it."""
        size = len(self.unsent) if size is None else size
        self.taken += self.unsent[:size]
        self.unsent = self.unsent[size:]
        if not self.unsent:
            if self._producer_paused and self.producer is not None:
                self._producer_paused = False
                self.producer.resumeProducing()
            self._close_if_done()

    def received(self) -> bytes:
        """What came since the last call."""
        data, self.taken = self.taken, b""
        return data

    def _deliver(self) -> None:
        while self._incoming and self.is_reading and not self.closed and not self.aborted:
            item = self._incoming.pop(0)
            if isinstance(item, bytes):
                self.protocol.dataReceived(item)
            else:
                self._lose(item)

    def _close_if_done(self) -> None:
        if self.unsent or self.closed:
            return
        if self._half_closing:
            self.half_closed = True
        if self._disconnecting and self.producer is None:
            self.clock.callLater(0, self._lose, ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(reason))


class MemoryTarget:
    """A connection as the target sees it."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.transport = MemoryTransport(clock)
        self.connection = _CheckableConnection()
        self.transport.protocol = self.connection
        self.connection.makeConnection(self.transport)

    def send(self, *reads: bytes) -> None:
        """Bytes arrive at the gateway, one read each."""
        for data in reads:
            self.transport.send(data)
        self.clock.advance(0)

    def answer(self, body: bytes = b"ok", *fields: bytes, status: bytes = b"200 OK") -> None:
        """A whole response with Content-Length."""
        lines = (b"HTTP/1.1 " + status, *fields, b"Content-Length: %d" % len(body))
        self.send(b"\r\n".join(lines) + b"\r\n\r\n" + body)

    def end(self) -> None:
        self.transport.end()
        self.clock.advance(0)

    def reset(self) -> None:
        self.transport.reset()
        self.clock.advance(0)

    def received(self) -> bytes:
        return self.transport.received()

    @property
    def closed(self) -> bool:
        return bool(self.transport.closed or self.transport.aborted)


class _CheckableConnection(Http1ClientConnection):
    """The real one, but for the look at a socket that it does not have."""

    looks_alive = True

    def is_alive(self) -> bool:
        return super().is_alive() and self.looks_alive


class MemoryDialer:
    """Connects at the next turn of the clock, unless it is told to wait or to fail.

    Attributes:
        targets: all connections so far.
        waiting: dials that wait because :attr:`holds` is set.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.targets: list[MemoryTarget] = []
        self.waiting: list[Any] = []
        self.holds = self.fails = False
        self.cancelled = 0

    def dial(self, receiver: Any) -> _Dial:
        if self.holds:
            self.waiting.append(receiver)
        else:
            self.clock.callLater(0, self.finish, receiver)
        return _Dial(self, receiver)

    def finish(self, receiver: Any) -> None:
        """The dial of ``receiver`` comes to its end."""
        if receiver is None:
            return
        if self.fails:
            receiver.dial_failed(UpstreamConnectFailed("refused"))
            return
        target = MemoryTarget(self.clock)
        self.targets.append(target)
        receiver.dialed(target.connection)

    @property
    def target(self) -> MemoryTarget:
        """The newest connection."""
        return self.targets[-1]


class _Dial:
    def __init__(self, dialer: MemoryDialer, receiver: Any) -> None:
        self.dialer = dialer
        self.receiver = receiver

    def cancel(self) -> None:
        self.dialer.cancelled += 1
        if self.receiver in self.dialer.waiting:
            self.dialer.waiting.remove(self.receiver)
        call: Any
        for call in self.dialer.clock.getDelayedCalls():
            if call.args == (self.receiver,):
                call.cancel()


class MemoryClient:
    """A connection as the client sees it."""

    def __init__(self, clock: Clock, factory: Http1ServerFactory, peer: str = "127.0.0.1") -> None:
        self.clock = clock
        self.transport = MemoryTransport(clock, peer)
        connection = factory.buildProtocol(None)
        assert isinstance(connection, Http1ServerConnection)
        self.connection = connection
        self.transport.protocol = connection
        connection.makeConnection(self.transport)

    def send(self, *reads: bytes) -> MemoryClient:
        """Bytes arrive at the gateway, one read each."""
        for data in reads:
            self.transport.send(data)
        self.clock.advance(0)
        return self

    def leave(self) -> None:
        """Reset the connection."""
        self.transport.reset()
        self.clock.advance(0)

    def end(self) -> None:
        self.transport.end()
        self.clock.advance(0)

    def received(self) -> bytes:
        return self.transport.received()

    def response(self, method: bytes = b"GET") -> Response:
        """The one response that came since the last look."""
        (response,) = read_responses(self.received(), [method])
        return response


class Records(list[Any]):
    """An access log that keeps the requests."""

    def record(self, request: Any) -> None:
        self.append(request)


class MemoryGateway:
    """The whole of it, from a configuration.

    Args:
        environment: variables; without routing among them, there is one backend with one target; without retries
            among them there are none.
        document: a routes document.
        probes: path to resource.
    """

    def __init__(
        self,
        environment: Mapping[str, str] | None = None,
        document: Mapping[str, Any] | None = None,
        probes: Mapping[bytes, IResource] | None = None,
        limits: ServerLimits | None = None,
    ) -> None:
        routing = (
            {"GATEWAY_BACKEND_TARGET": "http://target"}
            if document is None
            else {"GATEWAY_ROUTES": orjson.dumps(document).decode()}
        )
        self.https_port = 0
        self.configuration = load({**routing, "GATEWAY_RETRY_MAX_ATTEMPTS": "1", **(environment or {})})
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.metrics = RequestMetrics()
        self.chance = Random(1)
        self.log = Records()
        self.dialers: dict[str, MemoryDialer] = {}
        self.backends = {name: self._backend(name) for name in self.configuration.backends}
        ids = count(1)
        self.security = Security(
            self.configuration.settings,
            self.clock,
            lambda: EPOCH_S + self.clock.seconds(),
            self.metrics.tokens.count,
            Random(1),
        )
        self.pipeline = Pipeline(
            self.configuration,
            Collaborators(
                wheel=self.wheel,
                clock=self.clock,
                epoch_s=lambda: EPOCH_S + self.clock.seconds(),
                chance=self.chance,
                backends=self.backends,
                security=self.security,
                cells=self.metrics.route,
                tallies=self.metrics.rate_limit,
                access_log=self.log,
                probes=probes or {},
                new_request_id=lambda: f"id-{next(ids)}",
                tracing=self._tracing(),
                https_port=lambda: self.https_port,
            ),
        )
        self.factory = server_factory(
            self.clock, self.wheel, self.pipeline.dispatch, self.pipeline.refuse, self.metrics, limits
        )

    def _tracing(self) -> Tracing | None:
        """If the variables ask for it, without a thread: spans are in :attr:`spans` when they are over."""
        self.spans = InMemorySpanExporter()
        settings = self.configuration.tracing
        if settings is None:
            return None
        routes = {route.name: route.path for route in self.configuration.routes}
        tracing = Tracing(settings, routes, self.clock, lambda: EPOCH_S + self.clock.seconds())
        tracing._spans.send_to(SimpleSpanProcessor(self.spans))
        return tracing

    def _backend(self, name: str) -> Backend:
        settings = self.configuration.backends[name]
        targets = []
        for target in settings.targets:
            label = target.label
            dialer = self.dialers[label] = MemoryDialer(self.clock)
            pool = ConnectionPool(label, dialer, self.clock, self.wheel, settings.pool)
            breaker = CircuitBreaker(settings.breaker, self.chance)
            metrics = self.metrics.target(name, label)
            host = target.host.encode()
            targets.append(Target(label, host, target.weight, pool, dialer, breaker, metrics, scheme=target.scheme))
        return Backend(settings, targets, self.clock.seconds, self.chance, self.metrics.retries(name))

    @property
    def dialer(self) -> MemoryDialer:
        """Of the first target."""
        return next(iter(self.dialers.values()))

    @property
    def target(self) -> MemoryTarget:
        """The newest connection to the first target."""
        return self.dialer.target

    @property
    def pool(self) -> ConnectionPool:
        """Of the first target."""
        return next(iter(self.backends.values())).targets[0].pool

    def connect(self, peer: str = "127.0.0.1") -> MemoryClient:
        """A client comes."""
        return MemoryClient(self.clock, self.factory, peer)

    def get(self, path: bytes = b"/", *fields: bytes, method: bytes = b"GET", peer: str = "127.0.0.1") -> MemoryClient:
        """A client that sends one request without a body."""
        return self.connect(peer).send(message(path, *fields, method=method))

    def wait(self, seconds: float) -> None:
        """Let time pass, tick by tick."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)

    def assert_clean(self) -> None:
        """Nothing is left over: no lent connection, no waiter, no deadline but those of clients' connections."""
        for backend in self.backends.values():
            for target in backend.targets:
                assert (target.pool.active, target.pool.pending) == (0, 0), target.pool
        assert not [item for item in self.wheel._fine if not isinstance(item, Http1ServerConnection)]


def server_factory(
    clock: Clock,
    wheel: TimerWheel,
    dispatch: Callable[[Any], None],
    refuse: Callable[[Any, GatewayError], None] | None = None,
    metrics: RequestMetrics | None = None,
    limits: ServerLimits | None = None,
    max_connections: int = 100,
) -> Http1ServerFactory:
    """A listener's factory around ``dispatch``."""
    return Http1ServerFactory(
        GatewayRequest,
        dispatch,
        refuse or (lambda request, error: request.fail(error)),
        limits or ServerLimits(),
        max_connections,
        wheel,
        clock,
        lambda: EPOCH_S,
        metrics or RequestMetrics(),
    )


class Server:
    """A server transport alone: what it dispatches is kept, and answered by the test.

    Args:
        dispatch: further treatment of each request.
    """

    def __init__(self, dispatch: Callable[[Any], None] | None = None, limits: ServerLimits | None = None) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.requests: list[GatewayRequest] = []
        self._dispatch = dispatch
        self.metrics = RequestMetrics()
        self.refused: list[GatewayRequest] = []
        self.factory = server_factory(
            self.clock, self.wheel, self._dispatched, self._refused, metrics=self.metrics, limits=limits
        )

    def _refused(self, request: GatewayRequest, error: GatewayError) -> None:
        self.refused.append(request)
        request.fail(error)

    def _dispatched(self, request: GatewayRequest) -> None:
        self.requests.append(request)
        if self._dispatch is not None:
            self._dispatch(request)

    @property
    def request(self) -> GatewayRequest:
        """The newest."""
        return self.requests[-1]

    def connect(self) -> MemoryClient:
        return MemoryClient(self.clock, self.factory)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)


class Body:
    """A body consumer that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.pieces = 0
        self.trailers: list[tuple[bytes, bytes]] | None = None

    def body_received(self, data: bytes) -> None:
        assert self.trailers is None
        self.data += data
        self.pieces += 1

    def body_ended(self, trailers: Any) -> None:
        assert self.trailers is None
        self.trailers = [(name, value) for _, name, value in trailers]


class StubChannel:
    """A server channel that keeps what a request tells it."""

    def __init__(self, seconds: Callable[[], float] = lambda: 0.0) -> None:
        self.seconds = seconds
        self.peer_ip = "192.0.2.1"
        self.scheme = b"http"
        self.local_port = 80
        self.client_certificate = b""
        self.forwarded: dict[bytes, Any] = {}
        self.write_blocked = False
        self.events: list[tuple[Any, ...]] = []
        self.ends_well = True
        self.factory = self
        self.clock = Clock()
        self.transport = MemoryTransport(self.clock)

    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    def send_head(self, status: int, reason: bytes, headers: Any, length: int) -> None:
        self.events.append(("head", status, reason, [(name, value) for _, name, value in headers], length))

    def send_body(self, data: bytes) -> None:
        self.events.append(("body", data))

    def send_end(self, trailers: Any) -> bool:
        self.events.append(("end",))
        return self.ends_well

    def send_informational(self, status: int, headers: Any) -> None:
        self.events.append(("informational", status))

    def send_switching(self, headers: Any) -> None:
        self.events.append(("switching", [(name, value) for _, name, value in headers]))

    def become_tunnel(self, tunnel: Any) -> bytes:
        self.events.append(("tunnel", tunnel))
        return b"early"

    def send_continue(self) -> None:
        self.events.append(("continue",))

    def pause_body(self) -> None:
        self.events.append(("pause",))

    def resume_body(self) -> None:
        self.events.append(("resume",))

    def close_when_idle(self) -> None:
        self.events.append(("close when idle",))

    def reset(self) -> None:
        self.events.append(("reset",))

    def flush(self) -> None:
        pass


def stub_request(
    method: bytes = b"GET",
    target: bytes = b"/",
    fields: Mapping[bytes, bytes] | None = None,
    length: int = -1,
    version: bytes = b"HTTP/1.1",
    channel: StubChannel | None = None,
) -> GatewayRequest:
    """A request over a :class:`StubChannel`, as it comes from the transport."""
    headers = tuple((name.lower(), name, value) for name, value in (fields or {b"Host": b"a"}).items())
    head = RequestHead(method, target, version, headers, {low: value for low, _, value in headers}, length, True, b"")
    request = GatewayRequest(channel or StubChannel(), head)
    request.body_complete = length in {-1, 0}
    return request


class Inner:
    """What a middleware wraps: keeps the request, answers 204."""

    def __init__(self) -> None:
        self.requests: list[GatewayRequest] = []

    def render(self, request: GatewayRequest) -> int:
        self.requests.append(request)
        return 1


def message(
    path: bytes = b"/", *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1", body: bytes = b""
) -> bytes:
    """A request as bytes, with ``Host: a`` first."""
    return b"\r\n".join((method + b" " + path + b" " + version, b"Host: a", *fields, b"", body))


# --- reading responses ----------------------------------------------------------------------------------------------

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) [\t\x20-\x7e]*")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")


@frozen
class Response:
    """A response as a strict reader understands it."""

    status: int
    fields: list[tuple[bytes, bytes]]
    body: bytes
    trailers: list[tuple[bytes, bytes]]

    def get(self, name: bytes) -> bytes | None:
        """The value of the one field of this lowered name."""
        values = [value for field, value in self.fields if field.lower() == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def problem(self) -> Any:
        """The problem document in the body."""
        assert self.get(b"content-type") == b"application/problem+json"
        return orjson.loads(self.body)


def read_responses(data: bytes, methods: list[bytes] | None = None) -> list[Response]:
    """All responses in ``data``, which must hold whole ones only; informational ones included.

    Args:
        methods: of the requests, in order; GET where missing.
    """
    responses: list[Response] = []
    methods = list(methods or [])
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, f"no whole head in {head!r}"
        line, *lines = head.split(b"\r\n")
        found = _STATUS_LINE.fullmatch(line)
        assert found is not None, line
        status = int(found[1])
        fields = _read_fields(lines)
        response = Response(status, fields, b"", [])
        if status < 200:
            responses.append(response)
            continue
        method = methods.pop(0) if methods else b"GET"
        body = b""
        trailers: list[tuple[bytes, bytes]] = []
        if method != b"HEAD" and status not in {204, 304}:
            body, trailers, data = _read_body(response, data)
        responses.append(Response(status, fields, body, trailers))
    return responses


def _read_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    found = [_FIELD.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(match[1], match[2]) for match in found if match is not None]


def _read_body(response: Response, data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    length = response.get(b"content-length")
    if response.get(b"transfer-encoding") is not None:
        assert length is None
        return _read_chunked(data)
    if length is None:
        return data, [], b""
    assert len(data) >= int(length), "body is cut off"
    return data[: int(length)], [], data[int(length) :]


def _read_chunked(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes]:
    body = b""
    while True:
        line, end, data = data.partition(b"\r\n")
        assert end, "chunked body is cut off"
        size = int(line, 16)
        if not size:
            break
        assert data[size : size + 2] == b"\r\n", "chunked body is cut off"
        body, data = body + data[:size], data[size + 2 :]
    if data.startswith(b"\r\n"):
        return body, [], data[2:]
    section, end, data = data.partition(b"\r\n\r\n")
    assert end, "trailers are cut off"
    return body, _read_fields(section.split(b"\r\n")), data


@contextmanager
def logged_failures() -> Iterator[list[LogEvent]]:
    """What is logged at level error or worse meanwhile."""
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in {LogLevel.error, LogLevel.critical}:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observe)
