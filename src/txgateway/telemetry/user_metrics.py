"""Metrics of users' middlewares: made once in a process, kept across reloads, written with all others.

Names begin with ``gateway_middleware_NAME_``. Label values are the middleware's own business, so their number is bounded:
what comes too late is counted under ``other``.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Final, Generic, Literal, TypeVar

from txgateway.telemetry.cells import BUCKETS_S, HISTOGRAM_LINES, OTHER, Exemplar
from txgateway.telemetry.exposition import Family, Row

PREFIX: Final = "gateway_middleware_"
#: Calls of middlewares that held up everybody, among those that were timed.
BLOCKED: Final = "gateway_middleware_blocked"

_NAME: Final = re.compile(r"[a-z][a-z0-9_]*")

Kind = Literal["counter", "gauge", "histogram"]
C = TypeVar("C", bound="_Cell")


class _Cell:
    """One line, or one histogram."""

    kind: ClassVar[Kind]
    lines: ClassVar[int] = 1

    def shown(self) -> Any:
        """What is written for it."""
        raise NotImplementedError


class Counter(_Cell):
    """Only rises."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        """Count so many more."""
        if amount < 0:
            raise ValueError("a counter does not fall")
        self.value += amount

    def shown(self) -> float:
        return self.value


class Gauge(_Cell):
    """Rises and falls."""

    __slots__ = ("value",)
    kind = "gauge"

    def __init__(self) -> None:
        self.value: float = 0

    def set(self, value: float) -> None:
        """It is this now."""
        self.value = value

    def inc(self, amount: float = 1) -> None:
        """It is so much more."""
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        """It is so much less."""
        self.value -= amount

    def shown(self) -> float:
        return self.value


class Histogram(_Cell):
    """Durations, in the buckets of the gateway's own histograms."""

    __slots__ = ("buckets", "sum_s")
    kind = "histogram"
    lines = HISTOGRAM_LINES
    exemplars: list[Exemplar | None] | None = None

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """One more, of so many seconds."""
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    def shown(self) -> Histogram:
        return self


class Labelled(Generic[C]):
    """A metric with labels.

    Args:
        kind: of its cells.
        names: of the labels.
        take: whether there may be so many more lines.
    """

    def __init__(self, kind: type[C], names: tuple[str, ...], take: Callable[[int], bool]) -> None:
        self.kind = kind
        self.names = names
        self.cells: dict[tuple[str, ...], C] = {}
        self._take = take

    def labels(self, *values: str) -> C:
        """The one of these label values, in order; keep it rather than asking for it with each request."""
        found = self.cells.get(values)
        if found is not None:
            return found
        if len(values) != len(self.names):
            raise ValueError(f"expected values of {', '.join(self.names)}")
        cell = self.kind()
        if not self._take(cell.lines):
            return self.cells.setdefault((OTHER,) * len(self.names), cell)
        self.cells[values] = cell
        return cell


class UserMetrics:
    """All of a process.

    Args:
        take: whether there may be so many more lines.
    """

    def __init__(self, take: Callable[[int], bool] = lambda _: True) -> None:
        self._take = take
        self._families: dict[str, tuple[str, str, Labelled[Any]]] = {}  # owner, help, cells
        text = "Calls of middlewares that held up the reactor; one in 100 is timed."
        self.blocked: Labelled[Counter] = self._made(Counter, "", BLOCKED, text, ("middleware",))

    def of(self, name: str) -> MiddlewareMetrics:
        """Those of one middleware, whose name is fit for a metric's."""
        return MiddlewareMetrics(self, name)

    def made(self, kind: type[C], owner: str, name: str, text: str, labels: Sequence[str]) -> Any:
        """A metric, or the one that is there already; without labels its only cell.

        Raises:
            ValueError: the name cannot be one, or belongs to a metric of another kind, or to another middleware.
        """
        if kind is Counter:
            name = name.removesuffix("_total")
        for word in (name, *labels):
            if not _NAME.fullmatch(word) or word in {"le", "worker"}:
                raise ValueError(f"{word!r} cannot be the name of a metric or label: a-z, 0-9 and _, a letter first")
        cells = self._made(kind, owner, f"{PREFIX}{owner}_{name}", text, tuple(labels))
        return cells if labels else cells.labels()

    def _made(self, kind: type[C], owner: str, name: str, text: str, labels: tuple[str, ...]) -> Labelled[C]:
        if name not in self._families:
            self._families[name] = (owner, text, Labelled(kind, labels, self._take))
            return self._families[name][2]
        before, _, cells = self._families[name]
        if (before, cells.names, cells.kind) != (owner, labels, kind):
            raise ValueError(f"there is another metric {name}")
        return cells

    def families(self) -> Iterator[Family]:
        """What is written of them; those of which nothing was counted are only named."""
        for name, (_, text, cells) in list(self._families.items()):
            if name == BLOCKED and not cells.cells:
                continue
            rows: list[Row] = [(values, cell.shown()) for values, cell in list(cells.cells.items())]
            yield Family(name, cells.kind.kind, text, cells.names, rows)


class MiddlewareMetrics:
    """Makes the metrics of one middleware.

    Args:
        metrics: all of the process.
        name: of the middleware, fit for a metric's name.
    """

    def __init__(self, metrics: UserMetrics, name: str) -> None:
        self._metrics = metrics
        self._name = name

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        """A :class:`Counter`; with labels, a :class:`Labelled` of them. ``_total`` is added to its name."""
        return self._metrics.made(Counter, self._name, name, text, labels)

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        """The same of :class:`Gauge`; several workers' are summed."""
        return self._metrics.made(Gauge, self._name, name, text, labels)

    def histogram(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        """The same of :class:`Histogram`; its name ends in ``_seconds``."""
        return self._metrics.made(Histogram, self._name, name, text, labels)
