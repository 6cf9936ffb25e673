"""``python -m bench limits``: two gateways that share one limit through Redis, and how exactly they keep it."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from bench.backends import SERVERS, Backend, fixed_body_backend, redis_server
from bench.options import gateway_env_option, json_option
from bench.peers import GATEWAY_REDIS, running
from bench.processes import LOAD_CORE, BenchError, PinnedProcess, free_port, get
from bench.report import print_table, write_json

GATEWAYS = 2
CLIENTS = 200
RATE = 500
#: The default: a bucket holds what comes in one period.
BURST = RATE
OFFERED = 1500
#: The share by which what is admitted may differ from what the limit allows.
TOLERANCE = 0.02
#: Long enough for a bucket to be full after the requests that the start takes.
REFILL_S = 1.5
#: More than the limit must be offered in every slice of this length, or the run says nothing.
SLICE_S = 0.1
START_PATIENCE_S = 10.0
#: For the interpreter, the connections and the answers that are late.
CLIENTS_PATIENCE_S = 30.0
ADMITTED, LIMITED = 200, 429


@attrs.frozen
class Request:
    """One request of the paced clients, in seconds of the monotonic clock.

    Attributes:
        due_at: when it had to be sent.
        begun_at: when the pacer came to it; it may have waited for a connection from then on.
        done_at: when the answer was complete.
        status: of the answer; 0 if the connection failed.
    """

    due_at: float
    begun_at: float
    done_at: float
    status: int


@attrs.frozen
class Limits:
    """What the gateways admitted.

    Attributes:
        window_s: from the first request to the last answer.
        offered: requests.
        least_offered_per_s: in the slice with the fewest.
        admitted: answered 200.
        limited: answered 429.
        others: all other ends, by status; 0 is a failed connection.
        allowed: burst and rate of the window together.
        without_store: decisions that Redis had no part in: it was late, for once, on a machine that is busy.
    """

    window_s: float
    offered: int
    least_offered_per_s: float
    admitted: int
    limited: int
    others: Mapping[int, int]
    allowed: float
    without_store: int

    @property
    def off(self) -> float:
        """How much more than allowed was admitted, as a share of it; negative if less was."""
        return self.admitted / self.allowed - 1


@attrs.frozen
class PacedClients:
    """The load generator, a process of its own."""

    process: PinnedProcess
    result: Path
    patience_s: float

    def requests(self) -> list[Request]:
        """All requests, in the order of their answers, once the generator has ended.

        Raises:
            BenchError: it failed, or a request was never answered.
        """
        give_up_at = time.monotonic() + self.patience_s
        while self.process.is_running() and time.monotonic() < give_up_at:
            time.sleep(0.05)
        try:
            document = json.loads(self.result.read_bytes())
        except ValueError:
            raise BenchError(f"the load generator failed\n{self.process.output_tail()}") from None
        if document["unanswered"]:
            raise BenchError(f"{document['unanswered']} requests were never answered")
        return [Request(*record) for record in document["records"]]


@contextmanager
def paced_clients(
    directory: Path, ports: Sequence[int], *, connections: int, rate: int, seconds: float, start_at: float = 0.0
) -> Iterator[PacedClients]:
    """Start the clients of ``paced_clients.py`` on the load's core; see there for the arguments."""
    numbers = [connections, rate, seconds, start_at, *ports]
    argv = [sys.executable, str(SERVERS / "paced_clients.py"), *map(str, numbers)]
    result = directory / "paced.json"
    errors = directory / "paced.err"
    with PinnedProcess(argv, core=LOAD_CORE, output=result, errors=errors) as process:
        yield PacedClients(process, result, seconds + CLIENTS_PATIENCE_S)


def metric(admin_port: int, name: str, *labels: str) -> float:
    """The sum of all samples of a metric that have these labels, from a gateway's admin port."""
    total = 0.0
    for line in get(admin_port, "/metrics").decode("utf-8").splitlines():
        if line.partition("{")[0].partition(" ")[0] == name and all(label in line for label in labels):
            total += float(line.split()[-1])
    return total


def is_degraded(admin_port: int) -> bool:
    """Whether a gateway keeps its limits without Redis at this moment."""
    return metric(admin_port, "gateway_rate_limit_degraded") != 0


def wait_for_redis(admin_port: int) -> None:
    """Return once a gateway uses its Redis.

    Raises:
        BenchError: it does not, after 10 s.
    """
    give_up_at = time.monotonic() + START_PATIENCE_S
    while is_degraded(admin_port):
        if time.monotonic() > give_up_at:
            raise BenchError("the gateway does not use its Redis")
        time.sleep(0.05)


@click.command()
@click.option("--seconds", type=click.IntRange(2, 600), default=10, show_default=True, help="Length of the run.")
@gateway_env_option
@json_option
def limits(seconds: int, gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """What two gateways on one Redis admit of 1,500/s at a limit of 500/s; exit 1 if it is 2 % off."""
    result = measure(seconds, gateway_env)
    click.echo(f"gateways {GATEWAYS}, clients {CLIENTS}, limit {RATE}/s, burst {BURST}, offered {OFFERED}/s")
    print_table(
        ["window s", "offered", "least offered/s", "admitted", "allowed", "off", "429", "others", "without Redis"],
        [
            [
                f"{result.window_s:.3f}",
                f"{result.offered:,}",
                f"{result.least_offered_per_s:,.0f}",
                f"{result.admitted:,}",
                f"{result.allowed:,.1f}",
                f"{result.off:+.2%}",
                f"{result.limited:,}",
                f"{sum(result.others.values()):,}",
                f"{result.without_store:,}",
            ]
        ],
    )
    if json_path is not None:
        write_json(json_path, benchmark="limits", gateway_env=gateway_env, off=result.off, result=result)
    if result.others:
        ends = ", ".join(f"{count} × {status or 'failed connection'}" for status, count in result.others.items())
        raise BenchError(f"not every answer was 200 or 429: {ends}")
    if result.least_offered_per_s <= RATE:
        raise BenchError(f"at times no more than {result.least_offered_per_s:.0f}/s was offered; is the machine busy?")
    if abs(result.off) > TOLERANCE:
        raise BenchError(
            f"what was admitted is {result.off:+.2%} off what the limit allows; "
            f"{result.without_store} decisions were made without Redis"
        )


def measure(seconds: int, gateway_env: Mapping[str, str]) -> Limits:
    """One run.

    Raises:
        BenchError: something did not start, or an answer did not come from the backend.
    """
    limit = {"GATEWAY_RATE_LIMIT": f"{RATE}/s", "GATEWAY_RATE_LIMIT_KEY": "route"}
    admin_ports = []
    ports = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        fixed_body_backend(Path(name)) as backend,
        redis_server(Path(name)) as redis_port,
        _gateways(Path(name), backend, redis_port, {**limit, **gateway_env}) as gateways,
    ):
        for port, admin_port in gateways:
            wait_for_redis(admin_port)
            ports.append(port)
            admin_ports.append(admin_port)
        time.sleep(REFILL_S)
        asked_before = backend.requests()
        without_store = -_without_store(admin_ports)
        with paced_clients(Path(name), ports, connections=CLIENTS, rate=OFFERED, seconds=seconds) as clients:
            requests = clients.requests()
        reached_backend = backend.requests() - asked_before - 1  # the second question
        without_store += _without_store(admin_ports)
    result = _result(requests, without_store)
    if reached_backend < result.admitted:
        raise BenchError(f"{result.admitted} answers, but the backend saw only {reached_backend}")
    return result


def _without_store(admin_ports: Sequence[int]) -> int:
    name, label = "gateway_rate_limit_decisions_total", 'decision="store_error"'
    return int(sum(metric(port, name, label) for port in admin_ports))


@contextmanager
def _gateways(
    directory: Path, backend: Backend, redis_port: int, env: Mapping[str, str]
) -> Iterator[list[tuple[int, int]]]:
    """The ports of the two gateways, for requests and for administration."""
    admin_ports = [free_port() for _ in range(GATEWAYS)]
    homes = [directory / f"gateway-{number}" for number in range(GATEWAYS)]
    for home in homes:
        home.mkdir()
    first, second = (
        running(
            GATEWAY_REDIS,
            backend.port,
            home,
            gateway_env={**env, "GATEWAY_ADMIN_PORT": str(admin_port)},
            redis_port=redis_port,
        )
        for home, admin_port in zip(homes, admin_ports, strict=True)
    )
    with first as one, second as other:
        yield [(one.port, admin_ports[0]), (other.port, admin_ports[1])]


def _result(requests: Sequence[Request], without_store: int) -> Limits:
    begun_at = [request.begun_at for request in requests]
    start_at = min(begun_at)
    window_s = max(request.done_at for request in requests) - start_at
    slices = Counter(int((at - start_at) / SLICE_S) for at in begun_at)
    # The last slice is cut off by the end.
    least = min(slices[number] for number in range(max(slices)))
    statuses = Counter(request.status for request in requests)
    return Limits(
        window_s=window_s,
        offered=len(requests),
        least_offered_per_s=least / SLICE_S,
        admitted=statuses.pop(ADMITTED, 0),
        limited=statuses.pop(LIMITED, 0),
        others=dict(statuses),
        allowed=BURST + RATE * window_s,
        without_store=without_store,
    )
