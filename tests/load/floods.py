"""Floods of HTTP/2 frames from a process of their own, and what an honest client on HTTP/1.1 notices of each."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from attrs import Factory, define, frozen
from bench.report import print_table
from tests.integration.harness import PATIENCE_S, Gateway, clean_environment, routes
from tests.load.client import Load, run
from tests.load.flooder import CONNECTIONS, FLOODS, STREAMS, Tally
from tests.load.gateways import bound_log, gateway
from tests.load.report import Bound, Part, Report, between, bound_rate, lost_of
from tests.load.targets import running

#: Honest requests per second, and seconds: before anything is measured, and of a flood.
RATE = 200.0
RAMP_S = 1.5
FLOOD_S = 4.0
#: What a flood may do.
MAX_P99_MS = 25.0
MAX_GROWTH_MIB = 32
#: Nothing but the honest load, to compare with.
CONTROL = "control"
NAMES = (CONTROL, *FLOODS)
#: These do nothing that is forbidden: they wait, or send what has something in it.
WAITING = ("zero-window", "slow-read")
ALLOWED = ("hpack-fields", "one-byte-data")
#: For those that wait, so that the end of the gateway's patience is seen.
WAITING_S = 18.0
IMPATIENT = {"GATEWAY_TIMEOUT_IDLE": "2s", "GATEWAY_KEEPALIVE_TIMEOUT": "2s"}

CALM = "ENHANCE_YOUR_CALM"


@frozen
class Process:
    """What the system says of a process."""

    pid: int

    def reset_peak(self) -> None:
        """Start a new peak at the present size (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5", "ascii")

    def peak_mib(self) -> float:
        """The most resident memory since then."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii").splitlines()
        return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) / 1024

    def ran_and_waited_s(self) -> tuple[float, float]:
        """How long its first thread had a core so far, and was ready but had none."""
        ran_ns, waited_ns, _ = Path(f"/proc/{self.pid}/schedstat").read_text("ascii").split()
        return int(ran_ns) / 1e9, int(waited_ns) / 1e9


@define
class Seen:
    """What became of one flood.

    Attributes:
        growth_mib: of the gateway's resident memory, at its peak over before.
        ran, waited: share of the time that the gateway's first thread had a core, and was ready but had none.
        tally: of the attacker.
    """

    name: str
    load: Load
    begun_at: float = 0.0
    ended_at: float = 0.0
    growth_mib: float = 0.0
    ran: float = 0.0
    waited: float = 0.0
    tally: Tally = Factory(Tally)

    @property
    def part(self) -> Part:
        """The honest requests that were due during it."""
        return between(self.name, self.load, self.begun_at, self.ended_at)


def floods(names: Sequence[str], directory: Path, env: Mapping[str, str]) -> Report:
    """These floods, in turns, each at a gateway of its own."""
    report = Report("floods" if len(names) > 1 else f"flood-{names[0]}", lost=Counter())
    found: list[Seen] = []
    checks: dict[str, list[tuple[str, Bound]]] = {}
    for name in names:
        seen, bounds = _at_a_gateway(name, directory, env)
        found.append(seen)
        report.requests += len(seen.load.sent)
        report.lost = (report.lost or Counter()) + lost_of(seen.load)
        for bound in bounds:
            checks.setdefault(bound.name, []).append((name, bound))
    _print(found)
    for title, seen_of in checks.items():
        missed = [f"{name}: {bound.seen}" for name, bound in seen_of if not bound.is_kept]
        report.bound(title, not missed, "; ".join(missed) or (seen_of[0][1].seen if len(names) == 1 else "always"))
    report.bound_lost()
    return report


def _at_a_gateway(name: str, directory: Path, env: Mapping[str, str]) -> tuple[Seen, list[Bound]]:
    with running("ab") as (honest, flooded):
        # What attackers reach is apart, and takes all of their streams: how targets are shared is not the matter here.
        document = {
            "backends": {
                "honest": {"targets": [honest.url]},
                "flooded": {
                    "targets": [flooded.url],
                    "pool": {"max_connections": CONNECTIONS * STREAMS},
                    "breaker": {"enabled": False},
                },
            },
            "routes": [
                {"name": "honest", "path": "/n", "backend": "honest", "timeout": {"per_try": "0"}},
                {"name": "flooded", "path": "/flood", "backend": "flooded", "timeout": {"per_try": "0"}},
            ],
        }
        settings = IMPATIENT if name in WAITING else {}
        with gateway(directory, settings, routes(document), env) as front, _attacker(front, name) as attacker:
            seen = run(_flooded(front, name, attacker))
    report = Report(name)
    report.bound("attackers are ended as they should", _is_as_expected(seen), _ends(seen))
    report.bound(
        f"the gateway grows by {MAX_GROWTH_MIB} MiB at most",
        seen.growth_mib <= MAX_GROWTH_MIB,
        f"{seen.growth_mib:.1f} MiB",
    )
    p99_ms = seen.part.latency_ms(0.99)
    report.bound(f"p99 of the honest load at most {MAX_P99_MS:.0f} ms", p99_ms <= MAX_P99_MS, f"{p99_ms:.2f} ms")
    bound_rate(report, seen.load, RATE)
    bound_log(report, front)
    return seen, report.bounds


@contextmanager
def _attacker(front: Gateway, name: str) -> Iterator[subprocess.Popen[str] | None]:
    """An attacker that is ready to begin; none for the control."""
    if name == CONTROL:
        yield None
        return
    arguments = (f"{front.port}", name, f"{_length_s(name)}")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.load.flooder", *arguments],
        env=clean_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the attacker did not start"
        yield process
    finally:
        process.kill()
        process.communicate()


def _length_s(name: str) -> float:
    return WAITING_S if name in WAITING else FLOOD_S


async def _flooded(front: Gateway, name: str, attacker: subprocess.Popen[str] | None) -> Seen:
    process = Process(front.pid)
    async with Load(front.port, "/n", RATE) as load:
        await load.until(load.began_at + RAMP_S)
        seen = Seen(name, load, begun_at=load.now())
        process.reset_peak()
        before_mib, before = process.peak_mib(), process.ran_and_waited_s()
        if attacker is not None:
            assert attacker.stdin is not None
            attacker.stdin.write("go\n")
            attacker.stdin.flush()
        await load.until(seen.begun_at + _length_s(name))
        seen.ended_at = load.now()
        seen.growth_mib = process.peak_mib() - before_mib
        took_s = seen.ended_at - seen.begun_at
        seen.ran, seen.waited = (
            (now - then) / took_s for then, now in zip(before, process.ran_and_waited_s(), strict=True)
        )
        if attacker is not None:
            said, _ = await asyncio.to_thread(attacker.communicate, timeout=PATIENCE_S)
            found = json.loads(said)
            found |= {kind: Counter(found[kind]) for kind in ("goaways", "resets")}
            seen.tally = Tally(**found)
    return seen


def _is_as_expected(seen: Seen) -> bool:
    tally = seen.tally
    if seen.name in (CONTROL, *ALLOWED):
        return not tally.ended
    if seen.name in WAITING:  # each connection, or all of its streams
        return tally.ended >= CONNECTIONS or tally.resets.total() >= CONNECTIONS * STREAMS
    return set(tally.goaways) == {CALM} and not tally.unheard


def _ends(seen: Seen) -> str:
    tally = seen.tally
    return f"GOAWAY {_counted(tally.goaways)}, RST_STREAM {_counted(tally.resets)}, unheard {tally.unheard}"


def _counted(codes: Counter[str]) -> str:
    return ", ".join(f"{count:,} × {code}" for code, count in codes.items()) or "none"


def _print(found: Sequence[Seen]) -> None:
    click.echo(f"{CONNECTIONS} connections at once of each attacker, {RATE:.0f} honest requests/s")
    click.echo()
    head = [
        "flood",
        "connections",
        "GOAWAY",
        "unheard",
        "RST_STREAM",
        "left open",
        "sent MiB",
        "growth MiB",
        "ran %",
        "waited %",
    ]
    head += ["p50 ms", "p99 ms", "max ms", "client's own p99 ms", "lost"]
    print_table(head, [_row(seen) for seen in found])


def _row(seen: Seen) -> list[str]:
    tally, part = seen.tally, seen.part
    late = sorted((sent.sent_at - sent.due_at) * 1000 for sent in part.sent)
    return [
        seen.name,
        f"{tally.connections:,}",
        _counted(tally.goaways),
        f"{tally.unheard:,}",
        _counted(tally.resets),
        f"{tally.left_open}",
        f"{tally.sent_bytes / 2**20:,.1f}",
        f"{seen.growth_mib:.1f}",
        *(f"{100 * share:.0f}" for share in (seen.ran, seen.waited)),
        *(f"{part.latency_ms(share):.2f}" for share in (0.5, 0.99, 1.0)),
        f"{late[math.ceil(len(late) * 0.99) - 1]:.2f}",
        f"{part.lost:,}",
    ]
