"""``python -m bench routes``: what the number of routes costs, per match in process and per request end to end."""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import click

from bench.backends import Backend, fixed_body_backend
from bench.load import Load, measure
from bench.options import gateway_env_option, json_option
from bench.peers import CONFIGS, GATEWAY, running
from bench.processes import BenchError
from bench.report import Range, print_table, write_json

SIZES = (10, 1_000, 10_000)
MATCHES = 20_000
REPETITIONS = 5
#: Paths that one end-to-end run goes through; the same number for each size, so that wrk's own work is the same.
PATHS = 1_000

_Match = Callable[[bytes, bytes, bytes, Mapping[bytes, bytes]], object]


@attrs.frozen
class RouteCost:
    """One table size."""

    routes: int
    build_ms: float
    match_us: Range
    request_cpu_us: Range


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Turns of each size.")
@click.option("--seconds", type=click.IntRange(1, 600), default=5, show_default=True, help="Length of a run.")
@gateway_env_option
@json_option
def routes(rounds: int, seconds: int, gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """Route tables of 10, 1,000 and 10,000 routes."""
    in_process = {size: match_cost(size) for size in SIZES}
    end_to_end: dict[int, list[float]] = {size: [] for size in SIZES}
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with fixed_body_backend(directory) as backend:
            for _ in range(rounds):
                for size, figures in end_to_end.items():
                    figures.append(request_cost_us(size, backend, directory, seconds, gateway_env))
                    click.echo(f"{size} routes: {figures[-1]:.1f} µs", err=True)
    costs = [RouteCost(size, *in_process[size], Range.of(end_to_end[size])) for size in SIZES]
    print_table(
        ["routes", "table built in ms", "µs/match", "CPU µs/request"],
        [
            [
                f"{cost.routes:,}",
                f"{cost.build_ms:.1f}",
                f"{cost.match_us.min:.2f} / {cost.match_us.median:.2f} / {cost.match_us.max:.2f}",
                f"{cost.request_cpu_us.min:.1f} / {cost.request_cpu_us.median:.1f} / {cost.request_cpu_us.max:.1f}",
            ]
            for cost in costs
        ],
    )
    if json_path is not None:
        write_json(json_path, benchmark="routes", gateway_env=gateway_env, rounds=rounds, seconds=seconds, costs=costs)


def route_path(number: int) -> str:
    """A third each of prefixes, exact paths and templates, several segments long as in real services."""
    service = f"/api/v1/service-{number}"
    return (f"{service}/items", f"={service}/items/all", f"{service}/users/{{id}}/orders")[number % 3]


def request_path(number: int) -> str:
    """A path that only route ``number`` matches."""
    service = f"/api/v1/service-{number}"
    return (f"{service}/items/17/parts", f"{service}/items/all", f"{service}/users/4711/orders")[number % 3]


def request_numbers(size: int, count: int) -> list[int]:
    """``count`` route numbers out of ``size``, the same at each call."""
    chance = random.Random(size)
    return [chance.randrange(size) for _ in range(count)]


def match_cost(size: int) -> tuple[float, Range]:
    """Milliseconds to build a table, and microseconds per match in it.

    Raises:
        BenchError: a path led to the wrong route.
    """
    from txgateway.routing.table import RouteRule, RouteTable  # here: the peers can be measured without the gateway

    rules = [(RouteRule(name=f"r{number}", path=route_path(number)), number) for number in range(size)]
    started_at = time.perf_counter()
    table = RouteTable(rules)
    build_ms = (time.perf_counter() - started_at) * 1000
    numbers = request_numbers(size, MATCHES)
    paths = [request_path(number).encode("ascii") for number in numbers]
    for number, path in zip(numbers, paths, strict=True):
        if (found := table.match(b"", path, b"GET", {})[0]) != number:
            raise BenchError(f"{path!r} led to route {found}, not {number}")
    figures = [_time_matches_us(table.match, paths) for _ in range(REPETITIONS)]
    click.echo(f"{size} routes: {statistics.median(figures):.2f} µs a match in process", err=True)
    return build_ms, Range.of(figures)


def _time_matches_us(match: _Match, paths: list[bytes]) -> float:
    headers: dict[bytes, bytes] = {}
    started_s = time.process_time()
    for path in paths:
        match(b"", path, b"GET", headers)
    return (time.process_time() - started_s) / len(paths) * 1e6


def request_cost_us(
    size: int, backend: Backend, directory: Path, seconds: int, gateway_env: Mapping[str, str]
) -> float:
    """CPU microseconds of a gateway with ``size`` routes, per request to paths of all of them."""
    document = directory / f"routes-{size}.json"
    document.write_text(json.dumps(routes_document(size, backend.port)), "utf-8")
    script = directory / f"paths-{size}.lua"
    script.write_text(paths_script(size), "utf-8")
    env = {"GATEWAY_ROUTES_FILE": str(document)} | dict(gateway_env)
    with running(GATEWAY, backend.port, directory, gateway_env=env) as proxy:
        return measure(proxy, backend, seconds=seconds, load=Load(script=script)).cpu_us


def routes_document(size: int, backend_port: int) -> dict[str, Any]:
    """A routes document of ``size`` routes, and one more for ``/``, which the check before a run asks for."""
    paths = ["=/", *(route_path(number) for number in range(size))]
    return {
        "backends": {"fixed": {"targets": [f"http://127.0.0.1:{backend_port}"]}},
        "routes": [{"name": f"r{index}", "path": path, "backend": "fixed"} for index, path in enumerate(paths)],
    }


def paths_script(size: int) -> str:
    """The wrk script that asks for :data:`PATHS` paths in turn, and prints the result."""
    paths = ",".join(f'"{request_path(number)}"' for number in request_numbers(size, PATHS))
    lines = [
        f"local paths = {{{paths}}}",
        "local next_path = 0",
        "request = function()",
        "  next_path = next_path % #paths + 1",
        '  return wrk.format("GET", paths[next_path])',
        "end",
        (CONFIGS / "result.lua").read_text("utf-8"),
    ]
    return "\n".join(lines)
