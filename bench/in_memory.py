"""The real pipeline in one process, with clients and a target over in-memory transports."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from bench import multiplexed

#: Clients of HTTP/1.1 at once, as in the whole-process measurements.
CONNECTIONS = 32
#: What is spoken in front of the gateway and behind it.
COMBINATIONS = ("h1-h1", "h1-h2", "h2-h1", "h2-h2")


class _Address:
    host = "127.0.0.1"
    port = 8000


class MemoryTransport:
    """Takes writes; the far end is whoever reads :attr:`written`."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def loseConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def setTcpNoDelay(self, enabled: bool) -> None: ...
    def getPeer(self) -> _Address:
        return _Address()

    getHost = getPeer


class MemoryDialer:
    """Answers each dial with a connection over memory.

    Args:
        make_connection: what speaks over it.
        make_target: what stands at its other end, if anything does.

    Attributes:
        connections, targets: both ends of each.
    """

    def __init__(self, make_connection: Callable[[], Any], make_target: Callable[[Any], Any] | None = None) -> None:
        self.connections: list[Any] = []
        self.targets: list[Any] = []
        self._make_connection = make_connection
        self._make_target = make_target
        self._receivers: list[Any] = []

    def dial(self, receiver: Any) -> Any:
        self._receivers.append(receiver)
        return self

    def connect(self) -> None:
        """Complete the dials begun so far."""
        receivers, self._receivers = self._receivers, []
        for receiver in receivers:
            connection = self._make_connection()
            connection.makeConnection(MemoryTransport())
            self.connections.append(connection)
            receiver.dialed(connection)
            if self._make_target is not None:
                self.targets.append(self._make_target(connection))

    def cancel(self) -> None: ...


class _Null:
    dropped = 0

    def put(self, lines: bytes) -> None: ...


class _Uncounted:
    """Cells that keep nothing, of a route or of a target."""

    def observe(self, *_: Any) -> None: ...
    def exemplify(self, *_: Any) -> None: ...
    def started(self) -> None: ...
    def ended(self) -> None: ...


class _Threads:
    """What tracing asks of a reactor; nothing comes of it here."""

    def callFromThread(self, call: Any, *arguments: Any) -> None: ...


def _tracing(configuration: Any, *, is_exported: bool) -> Any:
    """If the settings ask for it; unless told so without the exporting itself, which is another thread's work."""
    settings = getattr(configuration, "tracing", None)
    if settings is None:
        return None
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    from txgateway.telemetry.tracing import Tracing

    class Nowhere(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    routes = {route.name: route.path for route in configuration.routes}
    exporter = () if is_exported else (lambda _: Nowhere(),)
    tracing = Tracing(settings, routes, _Threads(), time.time, *exporter)
    tracing.start()
    return tracing


def _pool(behind: str, clock: Any, wheel: Any, settings: Any) -> tuple[MemoryDialer, Any]:
    """Connections to the target, and what opens them."""
    from txgateway.proxy.multiplexed_pool import MultiplexedPool
    from txgateway.proxy.pool import ConnectionPool
    from txgateway.transport.http1_client import Http1ClientConnection
    from txgateway.transport.http2.client import Http2ClientConnection

    if behind == "h1":
        dialer = MemoryDialer(Http1ClientConnection)
        return dialer, ConnectionPool("127.0.0.1:9", dialer, clock, wheel, settings)
    dialer = MemoryDialer(lambda: Http2ClientConnection(wheel, clock, b"http"), multiplexed.Target)
    return dialer, MultiplexedPool("127.0.0.1:9", dialer, clock, wheel, settings)


@attrs.frozen
class Built:
    """The pipeline of a configuration, with client connections and a target in memory."""

    clients: list[Any]
    dialer: MemoryDialer
    log: Any
    tracing: Any
    turn_ends: multiplexed.TurnEnds


def build(
    environment: Mapping[str, str], *, is_counted: bool = True, is_exported: bool = False, spoken: str = COMBINATIONS[0]
) -> Built:
    """Build one."""
    from twisted.internet.task import Clock

    from txgateway.config import load
    from txgateway.ids import random_ids
    from txgateway.pipeline import Collaborators, Pipeline
    from txgateway.proxy.backend import Backend
    from txgateway.proxy.breaker import CircuitBreaker
    from txgateway.proxy.target import Target
    from txgateway.request import GatewayRequest
    from txgateway.security import Security
    from txgateway.telemetry.access_log import AccessLog
    from txgateway.telemetry.metrics import RequestMetrics
    from txgateway.transport.http1_factory import Http1ServerFactory
    from txgateway.transport.http2.server import Http2ServerConnection
    from txgateway.transport.interfaces import ServerLimits
    from txgateway.transport.wheel import TimerWheel

    configuration = load({"GATEWAY_BACKEND_TARGET": "http://127.0.0.1:9", **environment})
    clock = Clock()
    clock.seconds = time.monotonic  # type: ignore[method-assign]
    wheel = TimerWheel(clock)
    turn_ends = multiplexed.TurnEnds(clock)
    settings = configuration.backends["default"]
    front, _, behind = spoken.partition("-")
    dialer, pool = _pool(behind, clock, wheel, settings.pool)
    chance = random.Random(1)
    breaker = CircuitBreaker(settings.breaker, chance)
    cells: tuple[Any, ...] = () if is_counted else (_Uncounted(),)
    target = Target("127.0.0.1:9", b"127.0.0.1:9", 1, pool, dialer, breaker, *cells)
    backend = Backend(settings, [target], clock.seconds, chance)
    metrics = RequestMetrics()
    log = AccessLog(_Null(), time.time, clock, "json")  # type: ignore[arg-type]
    tracing = _tracing(configuration, is_exported=is_exported)
    pipeline = Pipeline(
        configuration,
        Collaborators(
            wheel=wheel,
            clock=clock,
            epoch_s=time.time,
            chance=chance,
            backends={"default": backend},
            security=Security(configuration.settings, clock, time.time, metrics.tokens.count, random.Random(1)),
            cells=metrics.route if is_counted else lambda _: cells[0],
            tallies=metrics.rate_limit,
            access_log=log if configuration.settings.access_log else None,
            probes={},
            new_request_id=random_ids(16),
            tracing=tracing,
        ),
    )
    factory = Http1ServerFactory(
        GatewayRequest, pipeline.dispatch, pipeline.refuse, ServerLimits(), 100, wheel, clock, time.time, metrics
    )
    connections: list[Any] = []
    for _ in range(CONNECTIONS if front == "h1" else multiplexed.CONNECTIONS):
        connection: Any = factory.buildProtocol(None) if front == "h1" else Http2ServerConnection(factory)
        connection.makeConnection(MemoryTransport())
        connections.append(connection)
    return Built(connections, dialer, log, tracing, turn_ends)
