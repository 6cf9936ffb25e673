"""``python -m bench driver``: the real pipeline in one process, over in-memory transports.

No sockets and no kernel: what is left is our own Python, to within a fraction of a microsecond. For differences that
the whole-process figures cannot show: run two checkouts alternately with ``--against``, in pairs.
"""

from __future__ import annotations

import gc
import itertools
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench import users
from bench.load import SHAPES

#: Stands among the settings of a side for all those of the policies.
SECURED = "SECURED"
#: Among those of a side whose requests and attempts nobody counts.
UNCOUNTED = "UNCOUNTED"
#: Among those of a side whose spans go to a collector at this port, all of them, before the clock is read.
EXPORTED_TO = "EXPORTED_TO"
#: Among those of a side that is charged for the reactor's thread only.
REACTOR_ONLY = "REACTOR_ONLY"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 21:55:20 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 132\r\nConnection: keep-alive\r\n\r\n" + b"x" * 132
)


#: Clients at once, as in the whole-process measurements.
CONNECTIONS = 32
#: Requests of the ``varied`` shape: more than anybody remembers, and no divisor shared with the clients.
VARIANTS = 4099
#: Requests between two looks at the clock.
SLICE = 16 * CONNECTIONS


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
    def abortConnection(self) -> None: ...
    def setTcpNoDelay(self, enabled: bool) -> None: ...
    def getPeer(self) -> _Address:
        return _Address()

    getHost = getPeer


class _Dialer:
    """Answers each dial with a connection over memory."""

    def __init__(self) -> None:
        self.connections: list[Any] = []
        self._receivers: list[Any] = []

    def dial(self, receiver: Any) -> Any:
        self._receivers.append(receiver)
        return self

    def connect(self) -> None:
        """Complete the dials begun so far."""
        from txgateway.transport.http1_client import Http1ClientConnection

        receivers, self._receivers = self._receivers, []
        for receiver in receivers:
            connection = Http1ClientConnection()
            connection.makeConnection(MemoryTransport())
            self.connections.append(connection)
            receiver.dialed(connection)

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


def build(
    environment: Mapping[str, str], *, is_counted: bool = True, is_exported: bool = False
) -> tuple[list[Any], _Dialer, Any, Any]:
    """The pipeline of a configuration, with client connections and a target in memory."""
    from twisted.internet.task import Clock

    from txgateway.config import load
    from txgateway.ids import random_ids
    from txgateway.pipeline import Collaborators, Pipeline
    from txgateway.proxy.backend import Backend
    from txgateway.proxy.breaker import CircuitBreaker
    from txgateway.proxy.pool import ConnectionPool
    from txgateway.proxy.target import Target
    from txgateway.request import GatewayRequest
    from txgateway.security import Security
    from txgateway.telemetry.access_log import AccessLog
    from txgateway.telemetry.metrics import RequestMetrics
    from txgateway.transport.http1_factory import Http1ServerFactory
    from txgateway.transport.interfaces import ServerLimits
    from txgateway.transport.wheel import TimerWheel

    configuration = load({"GATEWAY_BACKEND_TARGET": "http://127.0.0.1:9", **environment})
    clock = Clock()
    clock.seconds = time.monotonic  # type: ignore[method-assign]
    wheel = TimerWheel(clock)
    dialer = _Dialer()
    settings = configuration.backends["default"]
    pool = ConnectionPool("127.0.0.1:9", dialer, clock, wheel, settings.pool)
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
    connections = []
    for _ in range(CONNECTIONS):
        connection: Any = factory.buildProtocol(None)
        connection.makeConnection(MemoryTransport())
        connections.append(connection)
    return connections, dialer, log, tracing


def _own_lines(shape: str) -> list[str]:
    """What differs from request to request."""
    if shape == "users":
        return [f"Authorization: Bearer {token}\r\n" for token in users.users().tokens]
    if shape == "varied":
        return [
            f"X-Trace: {number:04d}-7c5993887d599cfa24f18b1149d2d328-{number:016d}\r\n" for number in range(VARIANTS)
        ]
    return [""]


def _answers(shape: str) -> list[bytes]:
    """What the target says, in turn."""
    if shape != "varied":
        return [ANSWER]
    return [ANSWER.replace(b"Connection:", b"X-Trace: %d\r\nConnection:" % number) for number in range(VARIANTS)]


def measure(environment: dict[str, str], shape: str, requests: int) -> float:
    """CPU microseconds per request."""
    is_counted = environment.pop(UNCOUNTED, None) is None
    clock = time.thread_time if environment.pop(REACTOR_ONLY, None) else time.process_time
    collector = environment.pop(EXPORTED_TO, None)
    if collector is not None:
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
            "OTEL_BSP_MAX_QUEUE_SIZE": str(4 * requests),  # none of them is to be dropped
        }
    if environment.pop(SECURED, None):
        environment = {**users.settings(), **environment}
    clients, dialer, log, tracing = build(environment, is_counted=is_counted, is_exported=collector is not None)
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "127.0.0.1:8000"), *SHAPES[shape]))
    messages = [f"GET /api/v1/resumes?page=1 HTTP/1.1\r\n{lines}{own}\r\n".encode("ascii") for own in _own_lines(shape)]
    turns = itertools.cycle(messages)
    answers = itertools.cycle(_answers(shape))
    for client in clients:
        client.dataReceived(next(turns))
    dialer.connect()
    targets = dialer.connections
    for target in targets:
        target.dataReceived(next(answers))
    for client in clients:
        if [answer.split(b"\r\n")[0] for answer in client.transport.written] != [b"HTTP/1.1 200 OK"]:
            raise click.ClickException(f"unexpected answer {client.transport.written!r}")
    transports = [connection.transport for connection in (*clients, *targets)]
    gc.collect()
    gc.freeze()
    slices = []
    begun = clock()
    for _ in range(max(requests // SLICE, 1)):
        started = clock()
        for _ in range(SLICE // CONNECTIONS):
            # In turns, as the poller would report them.
            for client in clients:
                client.dataReceived(next(turns))
            for target in targets:
                target.dataReceived(next(answers))
            for transport in transports:
                transport.written.clear()
        log.flush()
        slices.append((clock() - started) / SLICE * 1e6)
    if collector is not None:
        tracing._queue.shutdown()  # noqa: SLF001 -- waits until all is sent
        return (clock() - begun) / (len(slices) * SLICE) * 1e6
    # Whatever else the machine does only ever adds: the lower slices are nearest to the truth.
    return sorted(slices)[len(slices) // 10]


def _in_checkout(checkout: Path, arguments: list[str]) -> float:
    """One measurement in a process of its own, with the sources of ``checkout``."""
    command = [sys.executable, "-c", "from bench.driver import run_once; run_once()", *arguments]
    environment = {"PYTHONPATH": f"{checkout / 'src'}:{checkout}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    return float(done.stdout)


def compare_settings(
    checkout: Path, requests: int, pairs: int, ours: tuple[str, ...], theirs: tuple[str, ...]
) -> tuple[list[float], list[float]]:
    """Microseconds per request with the one and with the other settings, taken in turns."""
    mine: list[float] = []
    others: list[float] = []
    for turn in range(pairs):
        sides = [(mine, ours), (others, theirs)]
        for figures, settings in sides if turn % 2 else reversed(sides):
            figures.append(_in_checkout(checkout, ["token", str(requests), *settings]))
    return mine, others


def run_once() -> None:
    """Entry of the child process: shape, number of requests, then ``NAME=VALUE`` settings."""
    shape, requests, *settings = sys.argv[1:]
    environment = dict(setting.split("=", 1) for setting in settings)
    sys.stdout.write(f"{measure(environment, shape, int(requests))}\n")


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="token", show_default=True)
@click.option("--requests", type=click.IntRange(1000, 10_000_000), default=30_000, show_default=True)
@click.option("--pairs", type=click.IntRange(1, 200), default=20, show_default=True)
@click.option("--against", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Another checkout.")
@click.option("--secured/--bare", help="This side checks tokens, limits rates, adds CORS and security headers.")
@click.option("--gateway-env", multiple=True, metavar="NAME=VALUE", help="Settings of this side.")
@click.option("--against-env", multiple=True, metavar="NAME=VALUE", help="Settings of the other side.")
def driver(
    shape: str,
    requests: int,
    pairs: int,
    against: Path | None,
    secured: bool,
    gateway_env: tuple[str, ...],
    against_env: tuple[str, ...],
) -> None:
    """CPU per request of the pipeline alone; with --against, --against-env or --secured, in alternating pairs."""
    here = Path(__file__).resolve().parent.parent
    ours: list[float] = []
    theirs: list[float] = []
    compares = against is not None or bool(against_env) or secured
    ours_env = (f"{SECURED}=yes", *gateway_env) if secured else gateway_env
    for turn in range(pairs):
        sides = [(ours, here, ours_env)]
        if compares:
            sides.append((theirs, against or here, against_env or gateway_env))
        for figures, checkout, settings in sides if turn % 2 else reversed(sides):
            figures.append(_in_checkout(checkout, [shape, str(requests), *settings]))
    show("this", ours)
    if compares:
        show("other", theirs)
        show("difference, pair by pair", [mine - other for mine, other in zip(ours, theirs, strict=True)])


def show(name: str, figures: list[float]) -> None:
    low, middle, high = statistics.quantiles(figures, n=4) if len(figures) > 1 else (figures[0],) * 3
    click.echo(f"{name}: median {middle:.2f} µs, quartiles {low:.2f} and {high:.2f}, {len(figures)} runs")
