"""The gateway in memory, in virtual time: real transports, pipeline and proxy between scripted clients and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from random import Random
from typing import Any

import orjson
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from twisted.internet.task import Clock
from twisted.web.resource import IResource

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
from txgateway.testing.clients import DATE, EPOCH_S, MemoryClient, message, server_factory
from txgateway.testing.doubles import RecordingBody as Body
from txgateway.testing.doubles import RecordingInner as Inner
from txgateway.testing.doubles import StubChannel, logged_failures, stub_request
from txgateway.testing.memory import MemoryTransport, address
from txgateway.testing.reading import WireResponse as Response
from txgateway.testing.reading import read_responses
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.interfaces import ServerLimits
from txgateway.transport.wheel import TICK_S, TimerWheel

__all__ = [
    "DATE",
    "EPOCH_S",
    "Body",
    "Inner",
    "MemoryClient",
    "MemoryDialer",
    "MemoryGateway",
    "MemoryTarget",
    "MemoryTransport",
    "Records",
    "Response",
    "Server",
    "StubChannel",
    "address",
    "logged_failures",
    "message",
    "read_responses",
    "server_factory",
    "stub_request",
]


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
