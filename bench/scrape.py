"""``python -m bench scrape``: how long ``/metrics`` of many series takes, and how long it holds up requests.

A gateway of 1,000 routes over 10 backends of 10 targets each is asked for every route with five methods and five
statuses, by wrk, until it has all the series that it ever has: the bound on them is reached. Then paced clients go on
at a fixed rate, and it is scraped once a second, as Prometheus would. What a request takes while a scrape is under way
is compared with what it takes half a second later, in windows of the same length: that is what the machine does alone.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from bench.limits import Request, paced_clients
from bench.options import gateway_env_option, json_option
from bench.peers import CONFIGS, GATEWAY, RunningProxy, nginx_program, program, running, write_config
from bench.processes import LOAD_CORE, BenchError, PinnedProcess, free_port, wait_until_ready
from bench.report import print_table, write_json

ROUTES, BACKENDS, TARGETS = 1_000, 10, 10
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
STATUSES = (200, 201, 202, 404, 409)
COMBINATIONS = ROUTES * len(METHODS) * len(STATUSES)
LOAD_CONNECTIONS = 32
CONNECTIONS = 8
RATE = 500
WARM_UP_S = 2.0
BETWEEN_S = 1.0
#: A scrape and a request may take so much, and so much longer.
MAX_SCRAPE_S = 1.0
MAX_DELAY_MS = 10.0
FORMATS: Mapping[str, str] = {
    "text": "Accept: text/plain;version=0.0.4\r\n",
    "text, gzip": "Accept: text/plain;version=0.0.4\r\nAccept-Encoding: gzip\r\n",
    "OpenMetrics": "Accept: application/openmetrics-text;version=1.0.0\r\n",
    "OpenMetrics, gzip": "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n",
}


@attrs.frozen
class Scrape:
    """One scrape; times are of the monotonic clock, and the answer is as it came.

    Attributes:
        ran_s: how long the gateway had its core meanwhile.
        waited_s: how long it was ready, and others of the machine had it.
    """

    begun_at: float
    done_at: float
    answer: bytes
    ran_s: float
    waited_s: float

    @property
    def seconds(self) -> float:
        """From the connection to the last byte."""
        return self.done_at - self.begun_at


@attrs.frozen
class Result:
    """All scrapes of one format.

    Attributes:
        seconds: of each scrape.
        requests: that were under way during scrapes.
        delay_ms: by how much the slowest of them was slower than the median without scrapes.
        control_ms: the same of the slowest request in the windows without scrapes.
        ran_ms: CPU time of the gateway in the middle one of the scrapes, its requests included.
        waited_ms: how long it had to wait for its core in a scrape, at most.
    """

    format: str
    lines: int
    transferred_bytes: int
    seconds: Sequence[float]
    requests: int
    p50_ms: float
    delay_ms: float
    control_ms: float
    ran_ms: float
    waited_ms: float

    @property
    def is_good(self) -> bool:
        """Whether both bounds are kept."""
        return max(self.seconds) < MAX_SCRAPE_S and self.delay_ms <= MAX_DELAY_MS


@click.command()
@click.option("--scrapes", type=click.IntRange(1, 1000), default=5, show_default=True, help="Of each format.")
@click.option("--realtime", is_flag=True, help="Before all other work of the machine (SCHED_FIFO); for root.")
@gateway_env_option
@json_option
def scrape(scrapes: int, realtime: bool, gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """Scrapes of as many series as there may be; exit 1 if one takes 1 s, or delays a request by more than 10 ms."""
    results = measure(scrapes, realtime, gateway_env)
    print_table(
        [
            "format",
            "lines",
            "KiB sent",
            "scrape ms, median / max",
            "CPU ms",
            "waited ms",
            "requests",
            "p50 ms",
            "largest delay ms",
            "without",
        ],
        [
            [
                one.format,
                f"{one.lines:,}",
                f"{one.transferred_bytes / 1024:,.0f}",
                f"{statistics.median(one.seconds) * 1000:.0f} / {max(one.seconds) * 1000:.0f}",
                f"{one.ran_ms:.0f}",
                f"{one.waited_ms:.0f}",
                f"{one.requests:,}",
                f"{one.p50_ms:.2f}",
                f"{one.delay_ms:.1f}",
                f"{one.control_ms:.1f}",
            ]
            for one in results
        ],
    )
    if json_path is not None:
        write_json(json_path, benchmark="scrape", gateway_env=gateway_env, results=results)
    if any(max(one.control_ms, one.waited_ms) > MAX_DELAY_MS for one in results):
        click.echo(
            "the gateway waits for its core, or requests are late without scrapes: the machine is busy", err=True
        )
    if not all(one.is_good for one in results):
        sys.exit(1)


def measure(scrapes: int, realtime: bool, gateway_env: Mapping[str, str]) -> list[Result]:
    """Scrape one gateway in all formats.

    Raises:
        BenchError: it did not count what was sent, or a scrape was cut.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        admin_port = free_port()
        with status_backend(directory) as (backend_port, backend):
            document = directory / "routes.json"
            document.write_text(json.dumps(routes_document(backend_port)), "utf-8")
            env = {
                "GATEWAY_ROUTES_FILE": str(document),
                "GATEWAY_ADMIN_HOST": "127.0.0.1",
                "GATEWAY_ADMIN_PORT": str(admin_port),
                **gateway_env,
            }
            with running(GATEWAY, backend_port, directory, gateway_env=env) as proxy:
                touch_all(proxy.port, directory)
                counted = sum_of(
                    body_of(read_metrics(proxy.process, admin_port, FORMATS["text"]).answer), "gateway_requests_total"
                )
                if counted < COMBINATIONS:
                    raise BenchError(f"{counted} requests were counted, not all {COMBINATIONS} combinations")
                if realtime:  # not before: the load of before would leave nothing to others
                    proxy.process.run_first()
                    backend.run_first()
                    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))  # and the clients that this one starts
                return [scrape_under_load(label, proxy, admin_port, scrapes) for label in FORMATS]


@contextmanager
def status_backend(directory: Path) -> Iterator[tuple[int, PinnedProcess]]:
    """An nginx that listens on all of 127.0.0.0/8: its port and its process."""
    port = free_port()
    config = write_config("nginx-statuses.conf", directory / "nginx-statuses.conf", port=port, dir=directory)
    argv = [nginx_program(), "-p", str(directory), "-c", str(config)]
    with PinnedProcess(argv, core=LOAD_CORE, output=directory / "nginx-statuses.out") as process:
        wait_until_ready(process, port)
        yield port, process


def routes_document(backend_port: int) -> dict[str, object]:
    """1,000 routes and one for ``/``, which the paced clients ask for."""
    backends = {
        f"b{backend}": {
            "targets": [f"http://127.0.0.{backend * TARGETS + target + 1}:{backend_port}" for target in range(TARGETS)]
        }
        for backend in range(BACKENDS)
    }
    routes = [
        {"name": f"route-{number}", "path": f"/r{number}/", "backend": f"b{number % BACKENDS}"}
        for number in range(ROUTES)
    ]
    return {"backends": backends, "routes": [{"name": "root", "path": "=/", "backend": "b0"}, *routes]}


def touch_all(port: int, directory: Path) -> None:
    """Ask for every route with every method and every status.

    Raises:
        BenchError: wrk failed.
    """
    methods = ",".join(f'"{method}"' for method in METHODS)
    script = directory / "touch.lua"
    lines = [
        f"local methods, statuses = {{{methods}}}, {{{','.join(map(str, STATUSES))}}}",
        'local n = os.getenv("BENCH_FIRST") - 1',
        "request = function()",
        "  n = n + 1",
        f"  local route, rest = n % {ROUTES}, math.floor(n / {ROUTES})",
        "  local status, method = statuses[rest % #statuses + 1], methods[math.floor(rest / #statuses) % #methods + 1]",
        '  return wrk.format(method, "/r" .. route .. "/" .. status)',
        "end",
        (CONFIGS / "result.lua").read_text("utf-8"),
    ]
    script.write_text("\n".join(lines), "utf-8")
    argv = [program("wrk"), "-t1", f"-c{LOAD_CONNECTIONS}", "-d3s", "-s", str(script), f"http://127.0.0.1:{port}/"]
    done = 0
    while done < COMBINATIONS:
        env = {**os.environ, "BENCH_FIRST": str(done)}
        output = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env=env)
        _, found, result = output.stdout.partition("RESULT ")
        if not found or not (requests := json.loads(result)["requests"]):
            raise BenchError(f"wrk failed: {output.stdout}{output.stderr}")
        done += requests
        click.echo(f"{done:,} requests of {COMBINATIONS:,}", err=True)


def scrape_under_load(label: str, proxy: RunningProxy, admin_port: int, scrapes: int) -> Result:
    """Scrape a few times while paced clients are at work."""
    start_at = time.monotonic() + 1.0
    seconds = WARM_UP_S + (scrapes + 1) * BETWEEN_S
    taken = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        paced_clients(
            Path(name), [proxy.port], connections=CONNECTIONS, rate=RATE, seconds=seconds, start_at=start_at
        ) as clients,
    ):
        for number in range(scrapes):
            time.sleep(max(start_at + WARM_UP_S + number * BETWEEN_S - time.monotonic(), 0))
            taken.append(read_metrics(proxy.process, admin_port, FORMATS[label]))
        requests = clients.requests()
    if any(request.status != 200 for request in requests):
        raise BenchError("a request was not answered 200")
    windows = [(one.begun_at, one.done_at) for one in taken]
    controls = [(begun_at + BETWEEN_S / 2, done_at + BETWEEN_S / 2) for begun_at, done_at in windows]
    during, without = latencies_ms(requests, windows), latencies_ms(requests, controls)
    if not during or not without:
        raise BenchError("no request was under way during a scrape")
    p50_ms = statistics.median(without)
    click.echo(f"{label}: {len(taken)} scrapes", err=True)
    return Result(
        format=label,
        lines=min(body_of(one.answer).count(b"\n") for one in taken),
        transferred_bytes=len(taken[-1].answer),
        seconds=[one.seconds for one in taken],
        requests=len(during),
        p50_ms=p50_ms,
        delay_ms=max(during) - p50_ms,
        control_ms=max(without) - p50_ms,
        ran_ms=statistics.median(one.ran_s for one in taken) * 1000,
        waited_ms=max(one.waited_s for one in taken) * 1000,
    )


def latencies_ms(requests: Sequence[Request], windows: Sequence[tuple[float, float]]) -> list[float]:
    """How long the requests took that were under way in one of the windows."""
    return [
        (request.done_at - request.begun_at) * 1000
        for request in requests
        if any(request.begun_at < end and request.done_at > begin for begin, end in windows)
    ]


def read_metrics(gateway: PinnedProcess, admin_port: int, fields: str) -> Scrape:
    """One scrape on a connection of its own; reads as fast as it comes, and looks at nothing yet.

    The paced clients are on the same core: what is done here while they are at work is found in their latencies.
    """
    ran_before_s, waited_before_s = gateway.ran_and_waited_s()
    begun_at = time.monotonic()
    with socket.create_connection(("127.0.0.1", admin_port), timeout=30) as connection:
        head = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n"
        connection.sendall(head.encode("ascii"))
        parts = []
        while data := connection.recv(1 << 20):
            parts.append(data)
    done_at = time.monotonic()
    ran_s, waited_s = gateway.ran_and_waited_s()
    return Scrape(begun_at, done_at, b"".join(parts), ran_s - ran_before_s, waited_s - waited_before_s)


def body_of(answer: bytes) -> bytes:
    """The text of an answer.

    Raises:
        BenchError: it is not 200, or not complete.
    """
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0] or not rest.endswith(b"\r\n0\r\n\r\n"):
        raise BenchError(f"/metrics was not answered: {answer[:200]!r}")
    chunks = []
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    body = b"".join(chunks)
    return zlib.decompress(body, 31) if b"gzip" in head else body


def sum_of(body: bytes, name: str) -> float:
    """The sum of all samples of a metric."""
    return sum(float(line.split()[-1]) for line in body.decode("utf-8").splitlines() if line.startswith(name + "{"))
