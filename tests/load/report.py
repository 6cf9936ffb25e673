"""What a scenario saw: phases as a table, bounds and whether they were kept, and the lost requests by reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import click
from attrs import Factory, define, frozen
from bench.report import print_table
from tests.load.client import OK, Load, Sent

#: The least of a second's requests that the client has to have sent in it; otherwise the run says nothing.
ENOUGH = 0.95


@frozen
class Bound:
    """What has to be, and what was."""

    name: str
    is_kept: bool
    seen: str


@frozen
class Part:
    """A phase: the requests that were due in it."""

    name: str
    sent: Sequence[Sent]

    @property
    def lost(self) -> int:
        """Requests that were not answered 200 by a target."""
        return sum(sent.outcome != OK for sent in self.sent)

    def latency_ms(self, share: float) -> float:
        """A quantile of the latencies, lost requests included."""
        return quantile([sent.latency_ms for sent in self.sent], share)


@define
class Report:
    """All that is to be told of one scenario.

    Attributes:
        lost: by reason; None where a scenario expects failures.
    """

    scenario: str
    requests: int = 0
    lost: Counter[str] | None = None
    bounds: list[Bound] = Factory(list)

    def bound(self, name: str, is_kept: bool, seen: str) -> None:
        """Add a bound."""
        self.bounds.append(Bound(name, is_kept, seen))

    def bound_lost(self) -> None:
        """Add the bound that no request is lost."""
        count = 0 if self.lost is None else self.lost.total()
        self.bound("lost requests: 0", not count, f"{count:,} of {self.requests:,}")

    @property
    def missed(self) -> list[str]:
        """The bounds that were not kept."""
        return [bound.name for bound in self.bounds if not bound.is_kept]

    def print(self) -> None:
        """The bounds, and the lost requests."""
        for reason, count in (self.lost or Counter()).most_common():
            click.echo(f"lost: {count:,} × {reason}")
        click.echo()
        print_table(
            ["bound", "seen", ""], [[one.name, one.seen, "kept" if one.is_kept else "MISSED"] for one in self.bounds]
        )
        click.echo()


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that ``share`` of them do not exceed; NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)] if ordered else math.nan


def between(name: str, load: Load, begin: float, end: float) -> Part:
    """The requests that were due from ``begin`` to before ``end``."""
    return Part(name, [sent for sent in load.sent if begin <= sent.due_at < end])


def lost_of(load: Load) -> Counter[str]:
    """All lost requests of a load, by reason."""
    return Counter(sent.outcome for sent in load.sent if sent.outcome != OK)


def print_parts(parts: Sequence[Part], targets: str, attempts: Mapping[str, int]) -> None:
    """Print the phases, with the share of each target in the answers 200.

    Args:
        targets: their names, a letter each.
        attempts: of the requests to these paths, as the gateway's log tells.
    """
    print_table(
        ["phase", "requests", "lost", "p50 ms", "p99 ms", "max ms", *(f"% {name}" for name in targets), "attempts"],
        [_row(part, targets, attempts) for part in parts],
    )
    click.echo()


def _row(part: Part, targets: str, attempts: Mapping[str, int]) -> list[str]:
    by_target = Counter(sent.target for sent in part.sent if sent.outcome == OK)
    known = [attempts[sent.path] for sent in part.sent if sent.path in attempts]
    return [
        part.name,
        f"{len(part.sent):,}",
        f"{part.lost:,}",
        *(f"{part.latency_ms(share):.2f}" for share in (0.5, 0.99, 1.0)),
        *(f"{100 * by_target[name] / max(1, len(part.sent)):.1f}" for name in targets),
        f"{sum(known):,}" if len(known) == len(part.sent) else f"{sum(known):,} of {len(known):,}",
    ]


def bound_rate(report: Report, load: Load, rate: float) -> None:
    """Add the bound that the client kept its rate in every second, and what it saw of itself."""
    seconds = int(load.ended_at - load.began_at)
    per_second = Counter(int(sent.sent_at - load.began_at) for sent in load.sent)
    least = min((per_second[second] for second in range(seconds)), default=0)
    late = [(sent.sent_at - sent.due_at) * 1000 for sent in load.sent]
    achieved = len(load.sent) / (load.ended_at - load.began_at)
    report.bound(
        f"the client sends {rate:,.0f}/s, {ENOUGH:.0%} in each second",
        least >= ENOUGH * rate,
        f"{achieved:,.1f}/s, {least} in the least second; late by {quantile(late, 0.5):.2f} ms (median), "
        f"{quantile(late, 0.99):.2f} (p99), {max(late, default=0):.2f} (most)",
    )
    if load.surprises:
        report.bound("no surprises on connections", is_kept=False, seen=str(dict(load.surprises)))
