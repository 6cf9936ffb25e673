"""A gateway at work for a while: what it adds to each request, how far it goes, and whether it grows."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from shutil import which

import click
from bench.backends import fixed_body_backend
from bench.processes import LOAD_CORE, PROXY_CORE
from bench.report import print_table
from tests.integration.harness import Gateway
from tests.load.client import Load, run
from tests.load.gateways import bound_log, gateway
from tests.load.report import Report, between, bound_rate, lost_of, quantile
from tests.load.targets import running

#: Requests per second of the comparison with the direct way, and how long each side has; the sides take turns.
LATENCY_RATE = 1000
LATENCY_CLIENTS = 8
LATENCY_S = 5
LATENCY_TURNS = 3
ADDED_P50_MS = 0.5
ADDED_P99_MS = 3.0
#: Steps of the ramp, in requests per second, and how long each takes.
RAMP = (250, 500, 1000, 1500, 2000)
RAMP_S = 4.0
RAMP_P99_MS = 50.0
SOAK_GROWTH_MIB = 8.0
#: How many descriptors more at the end than after the first tenth of a soak.
SOAK_DESCRIPTORS = 5


def rss_mib(gateway: Gateway) -> float:
    """Its resident memory."""
    for line in Path(f"/proc/{gateway.pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def descriptors(gateway: Gateway) -> int:
    """How many it has open."""
    return sum(1 for _ in Path(f"/proc/{gateway.pid}/fd").iterdir())


# --- latency ---------------------------------------------------------------------------------------------------------


def _h2load(directory: Path, port: int, *, is_spread: bool) -> list[float]:
    """Latencies in milliseconds of a constant rate over HTTP/1.1.

    Args:
        is_spread: one request each millisecond, from clients whose connections began so far apart; else all clients ask
            at the same moment, and each waits for those before it.
    """
    log = directory / "h2load.log"
    program = which("h2load")
    assert program is not None, "h2load is not installed (Debian: nghttp2-client)"
    command = [program, "--h1", f"-c{LATENCY_CLIENTS}", f"--rps={LATENCY_RATE / LATENCY_CLIENTS}", f"--log-file={log}"]
    command.append(f"-n{LATENCY_RATE * LATENCY_S}")
    if is_spread:
        command += ["--rate=1", f"--rate-period={1000 // LATENCY_RATE}ms"]
    command = ["taskset", "-c", str(LOAD_CORE), *command, f"http://127.0.0.1:{port}/x"]
    subprocess.run(command, check=True, capture_output=True, timeout=LATENCY_S + 30)
    lines = [line.split() for line in log.read_text(encoding="ascii").splitlines()]
    log.unlink()
    assert all(status == "200" for _, status, _ in lines), "an answer other than 200"
    return [int(micros) / 1000 for _, _, micros in lines]


def latency(directory: Path, env: Mapping[str, str]) -> Report:
    """What the gateway, on one core, adds to the latency of a constant rate, against the same target asked directly.

    The bounds are for requests that are spread evenly; bursts of eight are shown beside.
    """
    report = Report("latency")
    found: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    with ExitStack() as stack:
        target = stack.enter_context(fixed_body_backend(directory))
        url = f"http://127.0.0.1:{target.port}"
        front = stack.enter_context(gateway(directory, {"GATEWAY_BACKEND_TARGET": url}, env))
        os.sched_setaffinity(front.pid, {PROXY_CORE})
        for _ in range(LATENCY_TURNS):
            for is_spread in (True, False):
                for name, port in (("direct", target.port), ("gateway", front.port)):
                    values = _h2load(directory, port, is_spread=is_spread)
                    report.requests += len(values)
                    pair = (quantile(values, 0.5), quantile(values, 0.99))
                    found.setdefault((name, is_spread), []).append(pair)
    rows = [
        [
            name,
            "spread" if is_spread else f"{LATENCY_CLIENTS} at once",
            *(f"{p50:.2f} / {p99:.2f}" for p50, p99 in turns),
        ]
        for (name, is_spread), turns in found.items()
    ]
    print_table(["p50 / p99 ms", "requests", *(f"turn {turn + 1}" for turn in range(LATENCY_TURNS))], rows)
    click.echo()
    both = list(zip(found["direct", True], found["gateway", True], strict=True))
    added = [quantile([ours[index] - direct[index] for direct, ours in both], 0.5) for index in (0, 1)]
    report.bound(f"added p50 < {ADDED_P50_MS} ms (median of turns)", added[0] < ADDED_P50_MS, f"{added[0]:.2f} ms")
    report.bound(f"added p99 < {ADDED_P99_MS} ms (median of turns)", added[1] < ADDED_P99_MS, f"{added[1]:.2f} ms")
    return report


# --- ramp ------------------------------------------------------------------------------------------------------------


def ramp(directory: Path, env: Mapping[str, str]) -> Report:
    """Ever more requests per second, on ever more connections; none may be lost."""
    report = Report("ramp", lost=Counter())
    rows = []
    with ExitStack() as stack:
        targets = stack.enter_context(running("ab"))
        urls = ",".join(target.url for target in targets)
        front = stack.enter_context(gateway(directory, {"GATEWAY_BACKEND_TARGET": urls}, env))
        for rate in RAMP:
            load = run(_steady(front.port, f"/r{rate}", rate, RAMP_S))
            step = between(str(rate), load, load.began_at, load.ended_at)
            report.requests += len(load.sent)
            assert report.lost is not None
            report.lost += lost_of(load)
            late_ms = quantile([(sent.sent_at - sent.due_at) * 1000 for sent in load.sent], 0.99)
            row = [f"{step.latency_ms(share):.2f}" for share in (0.5, 0.99, 1.0)]
            rows.append([f"{rate}/s", f"{len(step.sent):,}", f"{step.lost}", *row, f"{late_ms:.2f}"])
            if rate == RAMP[2]:
                p99 = step.latency_ms(0.99)
                report.bound(f"p99 at {rate}/s < {RAMP_P99_MS:.0f} ms", p99 < RAMP_P99_MS, f"{p99:.2f} ms")
    print_table(["rate", "requests", "lost", "p50 ms", "p99 ms", "max ms", "client late, p99 ms"], rows)
    click.echo()
    report.bound_lost()
    bound_log(report, front)
    return report


async def _steady(port: int, path: str, rate: float, seconds: float) -> Load:
    async with Load(port, path, rate) as load:
        await load.until(load.began_at + seconds)
    return load


# --- soak ------------------------------------------------------------------------------------------------------------


def soak(rate: float, minutes: float, directory: Path, env: Mapping[str, str]) -> Report:
    """Minutes of a steady load with every policy on: memory and descriptors stay as they are after the first tenth."""
    report = Report("soak")
    settings = {
        "GATEWAY_RATE_LIMIT": "1000000/s",
        "GATEWAY_CORS_ALLOW_ORIGINS": "*",
        "GATEWAY_POOL_MAX_AGE": "20s",
        "GATEWAY_SERVER_TIMING": "all",
    }
    seen: list[tuple[float, float, int]] = []
    with ExitStack() as stack:
        targets = stack.enter_context(running("ab"))
        urls = ",".join(target.url for target in targets)
        front = stack.enter_context(gateway(directory, {"GATEWAY_BACKEND_TARGET": urls}, settings, env))
        load = run(_soaked(front, rate, minutes * 60, seen))
    report.requests = len(load.sent)
    report.lost = lost_of(load)
    print_table(
        ["second", "RSS MiB", "descriptors"], [[f"{at:.0f}", f"{mib:.1f}", f"{count}"] for at, mib, count in seen]
    )
    click.echo()
    base = seen[len(seen) // 10]
    growth, more = seen[-1][1] - base[1], seen[-1][2] - base[2]
    report.bound_lost()
    bound_rate(report, load, rate)
    report.bound(f"growth < {SOAK_GROWTH_MIB:.0f} MiB", growth < SOAK_GROWTH_MIB, f"{growth:.1f} MiB")
    report.bound(f"descriptors at most {SOAK_DESCRIPTORS} more", more <= SOAK_DESCRIPTORS, f"{more}")
    bound_log(report, front)
    return report


async def _soaked(front: Gateway, rate: float, seconds: float, seen: list[tuple[float, float, int]]) -> Load:
    async with Load(front.port, "/soak", rate) as load:
        steps = 20
        for step in range(1, steps + 1):
            await load.until(load.began_at + seconds * step / steps)
            seen.append((seconds * step / steps, rss_mib(front), descriptors(front)))
    return load
