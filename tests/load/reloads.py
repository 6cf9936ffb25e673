"""Reloads and the drain while requests come at a steady rate: nobody may notice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import define, frozen
from bench.report import print_table
from tests.integration.harness import Gateway
from tests.load.client import Load, Sent, run
from tests.load.gateways import bound_log, gateway
from tests.load.report import Report, bound_rate, lost_of, quantile
from tests.load.targets import Target, running

NAMES = "ab"
#: Of load before anything is measured, before the first event, and behind each.
RAMP_S = 2.0
PAUSE_S = 3.0
#: reload: routes, backends, and what a reload may add to a request's latency.
ROUTES = 10_000
BACKENDS = 20
ADDED_P999_MS = 25.0
ADDED_MAX_MS = 60.0
RELOAD_LIMIT_S = 60.0
LOOK_EVERY_S = 0.02
#: hangups: how many, how far apart, the factor of the rate, and the reloads that must come of them: the others are
#: asked for while one is under way.
HANGUPS = 20
HANGUPS_EVERY_S = 0.5
QUICK_FACTOR = 2
LEAST_RELOADS = 3
#: drain: how long the gateway takes requests after SIGTERM, and how long they come.
DRAIN_DELAY_S = 4.0
DRAIN_LOAD_S = 2.0

#: A try that takes long is to be seen as that, not as two.
NO_LIMIT = {"GATEWAY_TIMEOUT_PER_TRY": "0"}
COLUMNS = [
    "requests due",
    "requests",
    "lost",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "max ms",
    "client late ms",
    "reload s",
    "waited %",
]


@frozen
class Event:
    """A reload.

    Attributes:
        name: what has changed.
        begin: when the signal was sent.
        end: when it was over.
        seconds: that the gateway tells.
        waited: the share of this time in which the gateway was ready to run and had no core.
    """

    name: str
    begin: float
    end: float
    seconds: float
    waited: float


@define
class Documents:
    """The document that the gateway reads.

    Attributes:
        path: of the file.
        targets: of its backends, in turns.
        count: of its routes.
    """

    path: Path
    targets: list[Target]
    count: int

    def write(self, *, one: int = 0, every: int = 0) -> None:
        """Replace it.

        Args:
            one: another number is another first route.
            every: another number is another document but for names and paths.
        """
        backends = {f"b{n}": {"targets": [self.targets[n % len(self.targets)].url]} for n in range(BACKENDS)}
        routes = [self._route(number, one if not number else 0, every) for number in range(self.count)]
        routes.append({"name": "rest", "path": "/n", "backend": "b0"})
        new = self.path.with_suffix(".new")
        new.write_text(json.dumps({"backends": backends, "routes": routes}), encoding="ascii")
        new.replace(self.path)

    def _route(self, number: int, one: int, every: int) -> dict[str, Any]:
        return {
            "name": f"route-{number}",
            "path": f"/n/{number}",
            "backend": f"b{number % BACKENDS}",
            "timeout": {"total": f"{20 + one + every}s"},
            "rate_limit": {"rate": "1000000/s"},
            "request_headers": {"set": {"X-Route": str(number)}},
        }


# --- reload ------------------------------------------------------------------------------------------------------


def reload(rate: float, directory: Path, env: Mapping[str, str]) -> Report:
    """10,000 routes, read again: none changed, one, all."""
    with running(NAMES) as targets:
        documents = Documents(directory / "routes.json", targets, ROUTES)
        documents.write()
        with gateway(directory, {"GATEWAY_ROUTES_FILE": str(documents.path), **NO_LIMIT}, env) as front:
            load, events = run(_reload(front, rate, documents))
    report = Report("reload", len(load.sent), lost_of(load))
    outside = [sent for sent in load.sent if sent.due_at >= load.began_at + RAMP_S and not _is_within(sent, events)]
    within = [sent for sent in load.sent if _is_within(sent, events)]
    usual_ms = _latency_ms(outside, 0.5)
    print_table(
        COLUMNS,
        [
            _row("outside", outside),
            *(_row(event.name, [sent for sent in within if _is_within(sent, [event])], event) for event in events),
            _row("in all reloads", within),
        ],
    )
    report.bound_lost()
    for name, share, bar_ms in (("p99.9", 0.999, ADDED_P999_MS), ("most", 1.0, ADDED_MAX_MS)):
        added_ms = _latency_ms(within, share) - usual_ms
        report.bound(f"added by reloads, {name}: below {bar_ms:.0f} ms", added_ms < bar_ms, f"{added_ms:.2f} ms")
    bound_rate(report, load, rate)
    bound_log(report, front)
    return report


async def _reload(front: Gateway, rate: float, documents: Documents) -> tuple[Load, list[Event]]:
    events: list[Event] = []
    async with Load(front.port, "/n", rate) as load:
        await load.until(load.began_at + RAMP_S + PAUSE_S)
        for name, changes in (
            ("unchanged", {}),
            ("one", {"one": 1}),
            ("all", {"every": 1}),
            ("all again", {"every": 2}),
        ):
            await asyncio.to_thread(documents.write, **changes)
            await load.until(load.now() + PAUSE_S)  # writing takes time of this process
            after = len(front.raw_lines())
            begin, waited_s = load.now(), _waited_s(front.pid)
            os.kill(front.pid, signal.SIGHUP)
            seconds = await _reloaded(front, load, after)
            end = load.now()
            events.append(Event(name, begin, end, seconds, (_waited_s(front.pid) - waited_s) / (end - begin)))
            await load.until(load.now() + PAUSE_S)
    return load, events


def _waited_s(pid: int) -> float:
    _, waited_ns, _ = Path(f"/proc/{pid}/schedstat").read_text("ascii").split()
    return int(waited_ns) / 1e9


async def _reloaded(front: Gateway, load: Load, after: int) -> float:
    """Wait for the line that tells of it; only new lines are looked at, which are many.

    Raises:
        AssertionError: it did not come, or another one did.
    """
    deadline = load.now() + RELOAD_LIMIT_S
    while load.now() < deadline:
        await load.until(load.now() + LOOK_EVERY_S)
        lines = front.raw_lines(after)
        after += len(lines)
        for line in lines:
            assert '"event":"reload failed' not in line, line
            if '"event":"reloaded"' in line:
                return float(json.loads(line)["seconds"])
    raise AssertionError("the reload took too long")


def _is_within(sent: Sent, events: list[Event]) -> bool:
    return any(event.begin <= sent.due_at < event.end for event in events)


def _latency_ms(requests: list[Sent], share: float) -> float:
    return quantile([sent.latency_ms for sent in requests], share)


def _row(name: str, requests: list[Sent], event: Event | None = None) -> list[str]:
    late_ms = quantile([(sent.sent_at - sent.due_at) * 1000 for sent in requests], 1.0)
    return [
        name,
        f"{len(requests):,}",
        f"{sum(sent.outcome != 'ok' for sent in requests):,}",
        *(f"{_latency_ms(requests, share):.2f}" for share in (0.5, 0.99, 0.999, 1.0)),
        f"{late_ms:.2f}",
        *(("", "") if event is None else (f"{event.seconds:.2f}", f"{100 * event.waited:.0f}")),
    ]


# --- hangups -----------------------------------------------------------------------------------------------------


def hangups(rate: float, directory: Path, env: Mapping[str, str]) -> Report:
    """Few routes, changed and read again twice a second, at twice the rate."""
    rate *= QUICK_FACTOR
    with running(NAMES) as targets:
        documents = Documents(directory / "routes.json", targets, 20)
        documents.write()
        with gateway(directory, {"GATEWAY_ROUTES_FILE": str(documents.path)}, env) as front:
            load = run(_hang_up(front, rate, documents))
    report = Report("hangups", len(load.sent), lost_of(load))
    count = sum(line.get("event") == "reloaded" for line in front.lines)
    print_table(COLUMNS, [_row("all", load.sent)])
    report.bound_lost()
    report.bound(f"reloads: at least {LEAST_RELOADS}", count >= LEAST_RELOADS, f"{count}")
    bound_rate(report, load, rate)
    bound_log(report, front)
    return report


async def _hang_up(front: Gateway, rate: float, documents: Documents) -> Load:
    async with Load(front.port, "/n", rate) as load:
        await load.until(load.began_at + RAMP_S)
        for number in range(HANGUPS):
            documents.write(every=number % 3)
            os.kill(front.pid, signal.SIGHUP)
            await load.until(load.now() + HANGUPS_EVERY_S)
        await load.until(load.now() + PAUSE_S)
    return load


# --- drain -------------------------------------------------------------------------------------------------------


def drain(rate: float, directory: Path, env: Mapping[str, str]) -> Report:
    """SIGTERM at twice the rate; requests come on for a while, as balancers need time to notice."""
    rate *= QUICK_FACTOR
    with running(NAMES) as targets:
        settings = {
            "GATEWAY_BACKEND_TARGET": ",".join(target.url for target in targets),
            "GATEWAY_DRAIN_DELAY": f"{DRAIN_DELAY_S:g}s",
            "GATEWAY_DRAIN_TIMEOUT": "10s",
        }
        with gateway(directory, settings, env) as front:
            load, told_at = run(_drain(front, rate))
            status = front.stop()
    report = Report("drain", len(load.sent), lost_of(load))
    before = [sent for sent in load.sent if sent.due_at < told_at]
    behind = [sent for sent in load.sent if sent.due_at >= told_at]
    print_table(COLUMNS, [_row("before", before), _row("from SIGTERM on", behind)])
    report.bound_lost()
    report.bound("exit status 0", status == 0, f"{status}")
    bound_rate(report, load, rate)
    bound_log(report, front)
    return report


async def _drain(front: Gateway, rate: float) -> tuple[Load, float]:
    async with Load(front.port, "/n", rate) as load:
        await load.until(load.began_at + RAMP_S)
        told_at = load.now()
        os.kill(front.pid, signal.SIGTERM)
        await load.until(told_at + DRAIN_LOAD_S)
    return load, told_at
