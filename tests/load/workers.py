"""Two workers beside one: how evenly they share what comes, and what a request costs.

The client is wrk, a closed loop of 64 connections, against a route that the gateway answers through one target. One
worker and two take turns, round after round, on gateways that both run all the time.
"""

from __future__ import annotations

import os
import statistics
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import click
from bench.report import print_table
from tests.integration.crew import Crew
from tests.integration.harness import Gateway, wait_until
from tests.load.report import Report
from tests.load.targets import running

ROUNDS = 5
ROUND_S = 4
CONNECTIONS = 64
SHARES = (0.35, 0.65)
COST_FACTOR = 1.1

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def workers(directory: Path, env: Mapping[str, str]) -> Report:
    """One worker, and two, in turns."""
    report = Report("workers")
    costs_us: dict[int, list[float]] = {1: [], 2: []}
    supervisor_us: list[float] = []
    shares: list[float] = []
    with running("a") as (target,), ExitStack() as stack:
        fronts: dict[int, Gateway] = {}
        for count in (1, 2):
            settings = {"GATEWAY_BACKEND_TARGET": target.url, "GATEWAY_WORKERS": str(count), **env}
            place = directory / str(count)
            place.mkdir()
            fronts[count] = stack.enter_context(Crew(place, settings) if count > 1 else Gateway(place, settings))
        for front in fronts.values():
            _wrk(front.port, 1)
        for number in range(2 * ROUNDS):
            count = 1 + (number + number // 2) % 2  # 1 2 2 1 1 2 …: whatever drifts does so for both
            front = fronts[count]
            before, cpu_before = _served(front), _cpu_s(front)
            _wrk(front.port, ROUND_S)
            served = {pid: requests - before.get(pid, 0) for pid, requests in _settled(front).items()}
            total = sum(served.values())
            report.requests += total
            spent = {pid: cpu_s - cpu_before[pid] for pid, cpu_s in _cpu_s(front).items()}
            costs_us[count].append(sum(spent[pid] for pid in served) / total * 1e6)
            if count > 1:
                shares.append(max(served.values()) / total)
                supervisor_us.append(spent[front.pid] / total * 1e6)
    _tell(costs_us, supervisor_us, shares)
    worst = max(shares)
    report.bound(f"each worker serves {SHARES[0]:.0%} to {SHARES[1]:.0%}", worst <= SHARES[1], f"{worst:.1%} at most")
    factor = statistics.median(costs_us[2]) / statistics.median(costs_us[1])
    report.bound(f"CPU of a request: at most {COST_FACTOR} times one worker's", factor <= COST_FACTOR, f"{factor:.3f}")
    return report


def _wrk(port: int, seconds: int) -> None:
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{port}/x"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _served(front: Gateway) -> dict[int, int]:
    """Requests so far, by process."""
    status = front.status()
    if "workers" not in status:
        return {front.pid: status["totals"]["requests"]}
    return {row["pid"]: row["requests"] for row in status["workers"]}


def _settled(front: Gateway) -> dict[int, int]:
    """The same, once nothing is under way and nothing more is counted."""
    front.wait_until_free()
    seen: list[dict[int, int]] = []

    def is_settled() -> bool:
        seen.append(_served(front))
        return len(seen) > 1 and seen[-1] == seen[-2]

    wait_until(is_settled, "nothing more is counted")
    return seen[-1]


def _cpu_s(front: Gateway) -> dict[int, float]:
    return {pid: _spent_s(pid) for pid in {front.pid, *_served(front)}}


def _spent_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _tell(costs_us: Mapping[int, list[float]], supervisor_us: list[float], shares: list[float]) -> None:
    def row(name: str, values: list[float]) -> list[str]:
        low, middle, high = min(values), statistics.median(values), max(values)
        return [name, f"{middle:.1f}", f"{low:.1f} - {high:.1f}"]

    rows = [row(f"CPU µs of a request, {count} worker(s)", costs) for count, costs in costs_us.items()]
    rows.append(row("CPU µs of the supervisor for each of them", supervisor_us))
    rows.append(row("share of the busier worker, %", [100 * share for share in shares]))
    print_table(["", "median", "from - to"], rows)
    click.echo()
