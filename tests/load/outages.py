"""Three targets, one of which (or two) goes away and comes back, while requests come at a steady rate."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import define, frozen
from tests.load.client import Load, run
from tests.load.gateways import attempts_of, bound_log, gateway
from tests.load.report import Part, Report, between, bound_rate, lost_of, print_parts
from tests.load.targets import Target, running

NAMES = "abc"
#: Of load before anything is measured, for connections and caches; then what is compared with.
RAMP_S = 1.0
BEFORE_S = 5.0
AWAY_S = 10
#: From so long after the event on, it is to be felt no more than this.
SETTLED_S = 2
P99_FACTOR = 2.0
#: A p99 below this is taken for this: so little is the machine's noise.
P99_FLOOR_MS = 5.0
#: The share that a target gets back, as part of an equal one, over how long, and within what time.
FULL = 0.9
FULL_FOR_S = 3.0
FULL_WITHIN_S = 45.0
LOOK_EVERY_S = 0.25
FLAP_S = 20
FLAP_EVERY_S = 2.0
FREEZE_EVERY_S = 5.0
FREEZE_S = 1.0


@frozen
class Event:
    """What happens to the first target, and what brings it back."""

    begin: Callable[[Target], object]
    end: Callable[[Target], object]


EVENTS = {
    "kill": Event(Target.kill, Target.start),
    "freeze": Event(Target.freeze, Target.thaw),
    "errors": Event(lambda target: target.tell("503"), lambda target: target.tell("ok")),
}


@define
class Times:
    """When it happened, by the loop's clock; ``full_at`` None: not in time."""

    begun_at: float = 0.0
    back_at: float = 0.0
    full_at: float | None = None


def outage(name: str, rate: float, directory: Path, env: Mapping[str, str]) -> Report:
    """``kill``, ``freeze`` or ``errors``."""
    with running(NAMES) as targets:
        settings = {"GATEWAY_BACKEND_TARGET": ",".join(target.url for target in targets)}
        with gateway(directory, settings, env) as front:
            load, times = run(_go_through(front.port, rate, targets[0], EVENTS[name]))
    report = Report(name, len(load.sent), lost_of(load))
    before = between("before", load, load.began_at + RAMP_S, times.begun_at)
    away = _seconds("+", load, times.begun_at, times.back_at)
    back = _seconds("back +", load, times.back_at, load.ended_at)
    print_parts([before, *away, *back], NAMES, attempts_of(front))
    report.bound_lost()
    _bound_p99(report, before, [*away[SETTLED_S:], *back])
    wanted = FULL / len(NAMES)
    report.bound(
        f"share of {NAMES[0]} at least {wanted:.0%} over {FULL_FOR_S:.0f} s, within {FULL_WITHIN_S:.0f} s of its return",
        times.full_at is not None,
        "never" if times.full_at is None else f"after {times.full_at - times.back_at:.1f} s",
    )
    bound_rate(report, load, rate)
    bound_log(report, front)
    return report


async def _go_through(port: int, rate: float, target: Target, event: Event) -> tuple[Load, Times]:
    times = Times()
    async with Load(port, "/n", rate) as load:
        await load.until(load.began_at + RAMP_S + BEFORE_S)
        times.begun_at = load.now()
        await asyncio.to_thread(event.begin, target)
        await load.until(times.begun_at + AWAY_S)
        times.back_at = load.now()
        await asyncio.to_thread(event.end, target)
        await load.until(times.back_at + FULL_FOR_S)
        while (now := load.now()) < times.back_at + FULL_WITHIN_S:
            if load.share(target.name, now - FULL_FOR_S) >= FULL / len(NAMES):
                times.full_at = now
                await load.until(times.back_at + math.ceil(now - times.back_at))
                break
            await load.until(now + LOOK_EVERY_S)
    return load, times


def flap(rate: float, directory: Path, env: Mapping[str, str]) -> Report:
    """One target is killed and started in turns while another freezes now and then."""
    with running(NAMES) as targets:
        settings = {"GATEWAY_BACKEND_TARGET": ",".join(target.url for target in targets)}
        with gateway(directory, settings, env) as front:
            load, begun_at = run(_flap(front.port, rate, targets))
    report = Report("flap", len(load.sent), lost_of(load))
    before = between("before", load, load.began_at + RAMP_S, begun_at)
    print_parts([before, *_seconds("+", load, begun_at, load.ended_at)], NAMES, attempts_of(front))
    report.bound_lost()
    bound_rate(report, load, rate)
    bound_log(report, front)
    return report


async def _flap(port: int, rate: float, targets: list[Target]) -> tuple[Load, float]:
    async with Load(port, "/n", rate) as load:
        await load.until(load.began_at + RAMP_S + BEFORE_S)
        begun_at = load.now()
        end_at = begun_at + FLAP_S

        async def in_turns(event: Event, target: Target, first_s: float, away_s: float, every_s: float) -> None:
            at = begun_at + first_s
            while at + away_s < end_at:
                await load.until(at)
                await asyncio.to_thread(event.begin, target)
                await load.until(at + away_s)
                await asyncio.to_thread(event.end, target)
                at += every_s

        await asyncio.gather(
            in_turns(EVENTS["kill"], targets[0], 0.0, FLAP_EVERY_S / 2, FLAP_EVERY_S),
            in_turns(EVENTS["freeze"], targets[1], FREEZE_EVERY_S / 2, FREEZE_S, FREEZE_EVERY_S),
        )
        await load.until(end_at)
    return load, begun_at


def _seconds(prefix: str, load: Load, begin: float, end: float) -> list[Part]:
    """A phase for each second."""
    count = round(end - begin)
    limits = [begin + second for second in range(count)] + [end]
    return [between(f"{prefix}{second} s", load, limits[second], limits[second + 1]) for second in range(count)]


def _bound_p99(report: Report, before: Part, after: list[Part]) -> None:
    before_ms = before.latency_ms(0.99)
    bar_ms = P99_FACTOR * max(before_ms, P99_FLOOR_MS)
    worst = max(after, key=lambda part: part.latency_ms(0.99))
    report.bound(
        f"p99 of each second, from {SETTLED_S} s after the event on: below {bar_ms:.1f} ms",
        worst.latency_ms(0.99) < bar_ms,
        f"{worst.latency_ms(0.99):.2f} ms in '{worst.name}'; before: {before_ms:.2f} ms,"
        f" taken as {max(before_ms, P99_FLOOR_MS):.2f}",
    )
