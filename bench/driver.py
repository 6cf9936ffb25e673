"""``python -m bench driver``: the real pipeline in one process, over in-memory transports.

No sockets and no kernel: what is left is our own Python, to within a fraction of a microsecond. For differences that
the whole-process figures cannot show: run two checkouts alternately with ``--against``, in pairs.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from bench import multiplexed, users
from bench.in_memory import COMBINATIONS, CONNECTIONS, Built, build
from bench.load import SHAPES

#: Stands among the settings of a side for all those of the policies.
SECURED = "SECURED"
#: Among those of a side whose requests and attempts nobody counts.
UNCOUNTED = "UNCOUNTED"
#: Among those of a side whose spans go to a collector at this port, all of them, before the clock is read.
EXPORTED_TO = "EXPORTED_TO"
#: Among those of a side that is charged for the reactor's thread only.
REACTOR_ONLY = "REACTOR_ONLY"
#: Among those of a side: what is spoken in front of the gateway and behind it, as ``h2-h1``.
SPOKEN = "SPOKEN"
ANSWER = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sun, 22 Nov 2026 21:55:20 GMT\r\n"
    b"Content-Type: application/json\r\nContent-Length: 132\r\nConnection: keep-alive\r\n\r\n" + b"x" * 132
)


#: Requests of the ``varied`` shape: more than anybody remembers, and no divisor shared with the clients.
VARIANTS = 4099
#: Requests between two looks at the clock.
SLICE = 16 * CONNECTIONS


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
    spoken = environment.pop(SPOKEN, COMBINATIONS[0])
    if environment.pop(SECURED, None):
        environment = {**users.settings(), **environment}
    built = build(environment, is_counted=is_counted, is_exported=collector is not None, spoken=spoken)
    clients = built.clients
    asks, answers = _far_ends(built, shape, spoken)
    for ask in asks:
        ask()
    built.turn_ends.end()
    built.dialer.connect()
    built.turn_ends.end()
    answers()
    built.turn_ends.end()
    for client in clients:
        if b"xxx" not in b"".join(client.transport.written):
            raise click.ClickException(f"unexpected answer {client.transport.written!r}")
    transports = [connection.transport for connection in (*clients, *built.dialer.connections)]
    for transport in transports:
        transport.written.clear()
    in_turn = CONNECTIONS if spoken.startswith("h1") else multiplexed.CONNECTIONS * multiplexed.STREAMS
    gc.collect()
    gc.freeze()
    slices = []
    begun = clock()
    for _ in range(max(requests // SLICE, 1)):
        started = clock()
        for _ in range(SLICE // in_turn):
            # In turns, as the poller would report them.
            for ask in asks:
                ask()
            built.turn_ends.end()
            answers()
            built.turn_ends.end()
            for transport in transports:
                transport.written.clear()
        built.log.flush()
        slices.append((clock() - started) / (SLICE // in_turn * in_turn) * 1e6)
    if collector is not None:
        built.tracing._queue.shutdown()  # noqa: SLF001 -- waits until all is sent
        return (clock() - begun) / (len(slices) * (SLICE // in_turn * in_turn)) * 1e6
    # Whatever else the machine does only ever adds: the lower slices are nearest to the truth.
    return sorted(slices)[len(slices) // 10]


def _far_ends(built: Built, shape: str, spoken: str) -> tuple[list[Callable[[], None]], Callable[[], None]]:
    """What each client asks in a turn, and what all connections of the target then answer."""
    own = _own_lines(shape)
    if spoken.startswith("h2"):
        cut = [line.partition(":") for line in own if line]
        fields = itertools.cycle([(name.lower().encode(), b"", value.strip().encode()) for name, _, value in cut])
        asks = [multiplexed.Client(connection, shape, fields if cut else None).ask for connection in built.clients]
    else:
        lines = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "127.0.0.1:8000"), *SHAPES[shape]))
        head = f"GET /api/v1/resumes?page=1 HTTP/1.1\r\n{lines}"
        turns = itertools.cycle([f"{head}{line}\r\n".encode("ascii") for line in own])
        asks = [partial(_say_next, connection, turns) for connection in built.clients]
    connections = built.dialer.connections  # which grow
    if spoken.endswith("h2"):

        def answer_streams() -> None:
            for connection, target in zip(connections, built.dialer.targets, strict=True):
                target.answer(connection.transport.written)

        return asks, answer_streams
    said = itertools.cycle(_answers(shape))

    def answer() -> None:
        for connection in connections:
            connection.dataReceived(next(said))

    return asks, answer


def _say_next(connection: Any, messages: Iterator[bytes]) -> None:
    connection.dataReceived(next(messages))


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
@click.option(
    "--spoken", type=click.Choice(COMBINATIONS), default=COMBINATIONS[0], show_default=True, help="Front, behind."
)
@click.option("--gateway-env", multiple=True, metavar="NAME=VALUE", help="Settings of this side.")
@click.option("--against-env", multiple=True, metavar="NAME=VALUE", help="Settings of the other side.")
def driver(
    shape: str,
    requests: int,
    pairs: int,
    against: Path | None,
    secured: bool,
    spoken: str,
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
            figures.append(_in_checkout(checkout, [shape, str(requests), f"{SPOKEN}={spoken}", *settings]))
    show("this", ours)
    if compares:
        show("other", theirs)
        show("difference, pair by pair", [mine - other for mine, other in zip(ours, theirs, strict=True)])


def show(name: str, figures: list[float]) -> None:
    low, middle, high = statistics.quantiles(figures, n=4) if len(figures) > 1 else (figures[0],) * 3
    click.echo(f"{name}: median {middle:.2f} µs, quartiles {low:.2f} and {high:.2f}, {len(figures)} runs")
