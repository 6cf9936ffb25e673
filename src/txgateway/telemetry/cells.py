"""The cells that requests are counted in, and the bound on how many there may be.

A cell is made when something is counted for the first time, so what clients and backends do decides how many there are:
routes x methods x statuses, routes x reasons, backends x targets. Methods and reasons are of fixed sets and a status has
three digits, but a backend may send all of them, with each method, on each route. :class:`Series` has a number of lines
to give away; a label set that gets none is counted under ``other``:

- a status: of the same route and method, in a line that each method's cells bring with them;
- a method, and all methods of a route that came too late itself: route ``other``, method ``other``;
- a reason: route ``other``, reason ``other``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

#: Upper bounds of the duration histograms, in seconds; a last bucket holds what is longer.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: The methods of RFC 9110 section 9.3 and PATCH (RFC 5789); every other is counted as ``other``.
METHODS = (b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE")
#: Label value of whatever has no line of its own.
OTHER = "other"
OTHER_METHOD = OTHER.encode("ascii")
#: A histogram's: its buckets, its count and its sum.
HISTOGRAM_LINES = len(BUCKETS_S) + 3
#: Requests in flight, bytes in, bytes out.
ROUTE_LINES = 3
#: The histogram, and the statuses that come too late.
METHOD_LINES = HISTOGRAM_LINES + 1

#: Trace id, seconds, moment (Unix seconds) or None: an example of what a bucket has counted.
Exemplar = tuple[str, float, float | None]


class Series:
    """How many more lines there may be, and the cells of those that come too late.

    Args:
        lines: to give away.
        epoch_s: Unix time, for exemplars; None leaves it out.

    Attributes:
        refused: how often something was counted under ``other`` for want of lines.
        others: cells of route ``other``; they have their lines.
    """

    __slots__ = ("epoch_s", "left", "others", "refused")

    def __init__(self, lines: int, epoch_s: Callable[[], float] | None = None) -> None:
        self.left = lines
        self.epoch_s = epoch_s
        self.refused = 0
        self.left -= ROUTE_LINES + METHOD_LINES + 1
        self.others = RouteMetrics(self)
        self.others.cells[OTHER_METHOD] = MethodCells()

    def take(self, lines: int, may_have: bool = True) -> bool:
        """Whether there are so many left for who may have some; they are then taken."""
        if lines > self.left or not may_have:
            self.refused += 1
            return False
        self.left -= lines
        return True


class MethodCells:
    """What is counted per route and method.

    Attributes:
        late_statuses: how many requests had one that there is no line for.
    """

    __slots__ = ("buckets", "exemplars", "late_statuses", "statuses", "sum_s")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.late_statuses = 0
        self.buckets = [0] * (len(BUCKETS_S) + 1)  # not cumulative: one addition per request
        self.sum_s = 0.0
        self.exemplars: list[Exemplar | None] | None = None


class RouteMetrics:
    """The cells of one route; lives as long as the process, so that counters never fall.

    Args:
        series: gives lines away.
        has_lines: whether the route itself got some.
    """

    __slots__ = ("_series", "bytes_in", "bytes_out", "cells", "errors", "has_lines", "in_flight")

    def __init__(self, series: Series, has_lines: bool = True) -> None:
        self._series = series
        self.has_lines = has_lines
        self.cells: dict[bytes, MethodCells] = {}
        self.errors: dict[str, int] = {}
        self.in_flight = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def started(self) -> None:
        """One more request in flight."""
        self.in_flight += 1

    def ended(self) -> None:
        """One request less in flight."""
        self.in_flight -= 1

    def observe(
        self, method: bytes, status: int, seconds: float, bytes_in: int, bytes_out: int, reason: str | None
    ) -> None:
        """Count one finished request.

        Args:
            seconds: from its first byte to the end of its answer.
            bytes_in: of the request body.
            bytes_out: of the response body.
            reason: the error reason, None for an answer that is not the gateway's.
        """
        cells = self.cells.get(method)
        if cells is None:
            cells = self._new_method(method)
        try:
            cells.statuses[status] += 1
        except KeyError:
            self._new_status(cells, status)
        cells.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        cells.sum_s += seconds
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if reason is not None:
            self._count_reason(reason)

    def exemplify(self, method: bytes, seconds: float, trace_id: str) -> None:
        """Keep a request that :meth:`observe` has just counted as the example of its bucket.

        Args:
            trace_id: of its trace, which is sampled: nobody could find another.
        """
        series = self._series
        cells = self.cells.get(method if method in METHODS else OTHER_METHOD, series.others.cells[OTHER_METHOD])
        if cells.exemplars is None:
            cells.exemplars = [None] * len(cells.buckets)
        moment = None if series.epoch_s is None else series.epoch_s()
        cells.exemplars[bisect_left(BUCKETS_S, seconds)] = (trace_id, seconds, moment)

    def methods(self) -> Iterator[tuple[str, MethodCells]]:
        """The methods seen so far, as labels, with their cells."""
        for method, cells in list(self.cells.items()):
            yield method.decode("ascii"), cells

    def _new_method(self, method: bytes) -> MethodCells:
        # An unknown method is never a key, or a client could fill the memory with them.
        if method not in METHODS:
            method = OTHER_METHOD
        cells = self.cells.get(method)
        if cells is None:
            if not self._series.take(METHOD_LINES, self.has_lines):
                return self._series.others.cells[OTHER_METHOD]
            cells = self.cells[method] = MethodCells()
        return cells

    def _new_status(self, cells: MethodCells, status: int) -> None:
        series = self._series
        # What is here because its method came too late was refused once already.
        is_late = cells is series.others.cells[OTHER_METHOD] and not series.left
        if not is_late and series.take(1):
            cells.statuses[status] = 1
        else:
            cells.late_statuses += 1

    def _count_reason(self, reason: str) -> None:
        errors = self.errors
        if reason not in errors and not self._series.take(1, self.has_lines):
            errors, reason = self._series.others.errors, OTHER
        errors[reason] = errors.get(reason, 0) + 1


class TargetMetrics:
    """The cells of one target."""

    __slots__ = ("buckets", "outcomes", "sum_s")

    exemplars: list[Exemplar | None] | None = None

    def __init__(self) -> None:
        self.outcomes: dict[str, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, outcome: str, seconds: float) -> None:
        """Count one attempt.

        Args:
            outcome: ``ok``, ``error``, ``timeout`` or ``cancelled``.
            seconds: from its start to the response head, or to where it failed.
        """
        outcomes = self.outcomes
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


class Tally:
    """How often each of a few outcomes came; the caller sees to it that they are of a fixed set."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, outcome: str) -> None:
        """One more of this outcome."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def rows(self) -> Iterator[tuple[str, int]]:
        """Outcomes and their counts, as they are at this moment."""
        return iter(list(self.counts.items()))
