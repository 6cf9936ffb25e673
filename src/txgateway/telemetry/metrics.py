"""The numbers behind ``/metrics``: plain cells on the hot path, families of lines only when somebody asks.

Labels are of fixed sets (routes, known methods, statuses, reasons, targets): nothing a client sends ever becomes one.
There are at most :data:`MAX_SERIES` lines; see :mod:`txgateway.telemetry.cells` for what happens to the rest.

Several processes: each makes a plain snapshot of its families, and whoever is asked merges them and writes the result
(:mod:`txgateway.telemetry.snapshots`). Counters and histograms are summed, with what dead processes had counted; gauges
are those of the living.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from attrs import frozen
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

import txgateway
from txgateway.telemetry.cells import (
    BUCKETS_S,
    HISTOGRAM_LINES,
    METHODS,
    OTHER,
    OTHER_METHOD,
    ROUTE_LINES,
    RouteMetrics,
    Series,
    Tally,
    TargetMetrics,
)
from txgateway.telemetry.exposition import Family, Row, negotiate, render
from txgateway.telemetry.process import process_families
from txgateway.telemetry.user_metrics import UserMetrics

__all__ = [
    "BUCKETS_S",
    "MAX_SERIES",
    "METHODS",
    "NO_ROUTE",
    "OTHER",
    "OTHER_METHOD",
    "PROTOCOLS",
    "RequestMetrics",
    "RouteMetrics",
    "Tally",
    "TargetMetrics",
    "TargetState",
]

#: Lines of ``/metrics`` at most, a histogram's all counted.
MAX_SERIES = 50_000
#: Label of requests that match no route.
NO_ROUTE = "none"
#: Certificates that are shown: those that end first.
MAX_CERTIFICATES = 32
#: What speaks on a client's connection.
PROTOCOLS = ("h1", "h2", "tunnel")

#: Decisions of a rate limit, and outcomes of retries.
_TALLY_LINES = 4
#: A histogram, four outcomes, three kinds of connections, health and breaker.
_TARGET_LINES = HISTOGRAM_LINES + 9
#: The target and the tallies that are called ``other``.
_OTHER_LINES = _TARGET_LINES + 2 * _TALLY_LINES
#: What is there once, results of token checks, and the process's.
_FIXED_LINES = 100

_CellsT = TypeVar("_CellsT")
_KeyT = TypeVar("_KeyT", bound=Hashable)


@frozen
class TargetState:
    """A target at one moment: all addresses of a name together.

    Attributes:
        active, idle: connections.
        pending: requests that wait for one.
        healthy: share of its addresses that may be used, as far as active checks know.
        breaker: 0 closed, 1 half-open, 2 open; of several addresses the highest.
    """

    backend: str
    target: str
    active: int
    idle: int
    pending: int
    healthy: float
    breaker: int


class RequestMetrics:
    """All metrics of the process.

    Args:
        targets: every target's state at this moment.
        log_lines_dropped: log lines lost so far.
        rate_limit_degraded: whether rate limits are kept without their store at this moment.
        spans_dropped: spans lost so far.
        epoch_s: Unix time, for exemplars; None leaves it out.
        max_series: bound of the lines.
        certificate_expiries: by name, when each of the listeners' certificates ends, in Unix seconds.
        reloads: whether the last one was a success, and the Unix time of the last that was; the start counts as one.

    Attributes:
        tokens: outcomes of token checks: ``ok``, ``cached``, or a reason.
        connections_refused: accepted and closed at once, at the limit.
        handshakes_failed: of clients that spoke TLS, or should have.
        proxy_headers_refused: on listeners that expect the PROXY protocol, those that did not come too.
        middlewares: metrics of users' middlewares.
    """

    def __init__(
        self,
        targets: Callable[[], Iterable[TargetState]] = tuple,
        log_lines_dropped: Callable[[], int] = int,
        rate_limit_degraded: Callable[[], bool] = bool,
        spans_dropped: Callable[[], int] = int,
        epoch_s: Callable[[], float] | None = None,
        max_series: int = MAX_SERIES,
        certificate_expiries: Callable[[], Mapping[str, float]] = dict,
        reloads: Callable[[], tuple[bool, float]] = lambda: (True, 0.0),
    ) -> None:
        self._reloads = reloads
        self._target_states = targets
        self._log_lines_dropped = log_lines_dropped
        self._rate_limit_degraded = rate_limit_degraded
        self._spans_dropped = spans_dropped
        self._series = Series(max_series - _FIXED_LINES - _OTHER_LINES, epoch_s)
        self.middlewares = UserMetrics(self._series.take)
        self._routes: dict[str, RouteMetrics] = {}
        self._late_routes: dict[str, RouteMetrics] = {}
        self.tokens = Tally()
        self._rate_limits: dict[str, Tally] = {}
        self._targets: dict[tuple[str, str], TargetMetrics] = {}
        self._late_targets: set[tuple[str, str]] = set()
        self._retries: dict[str, Tally] = {}
        self._connections = dict.fromkeys(PROTOCOLS, 0)
        self.connections_refused = 0
        self.handshakes_failed = 0
        self.proxy_headers_refused = 0
        self._certificate_expiries = certificate_expiries
        self._python = CollectorRegistry(auto_describe=False)
        PlatformCollector(registry=self._python)
        GCCollector(registry=self._python)

    # --- counting -------------------------------------------------------------------------------------------------

    def route(self, name: str = NO_ROUTE) -> RouteMetrics:
        """The cells of a route, made on the first call; keep them rather than asking per request."""
        found = self._routes.get(name) or self._late_routes.get(name)
        if found is not None:
            return found
        if name == OTHER:
            made = self._routes[name] = self._series.others
        elif self._series.take(ROUTE_LINES):
            made = self._routes[name] = RouteMetrics(self._series)
        else:
            made = self._late_routes[name] = RouteMetrics(self._series, has_lines=False)
        return made

    def routes(self) -> list[RouteMetrics]:
        """The cells of all routes, those included that all that came too late is counted in."""
        routes = [*self._routes.values(), *self._late_routes.values()]
        return routes if OTHER in self._routes else [*routes, self._series.others]

    def target(self, backend: str, label: str) -> TargetMetrics:
        """The cells of a target, made on the first call; all addresses of a name have the same."""
        cells = self._made(self._targets, (backend, label), (OTHER, OTHER), _TARGET_LINES, TargetMetrics)
        if (backend, label) not in self._targets:
            self._late_targets.add((backend, label))
        return cells

    def retries(self, backend: str) -> Tally:
        """Outcomes of a backend's retries: ``success``, ``failure``, ``budget``, ``body_too_large``."""
        return self._made(self._retries, backend, OTHER, _TALLY_LINES, Tally)

    def rate_limit(self, route: str) -> Tally:
        """Outcomes of a route's rate limit (``allowed``, ``limited``, ``store_error``), made on the first call."""
        return self._made(self._rate_limits, route, OTHER, _TALLY_LINES, Tally)

    def connection_opened(self, protocol: str) -> None:
        """A client's connection begins to speak one of :data:`PROTOCOLS`."""
        self._connections[protocol] += 1

    def connection_closed(self, protocol: str) -> None:
        """It ended, or speaks another from now on."""
        self._connections[protocol] -= 1

    def connection_refused(self) -> None:
        """A connection was accepted and closed at once, at the limit."""
        self.connections_refused += 1

    def handshake_failed(self) -> None:
        """A client's TLS handshake failed."""
        self.handshakes_failed += 1

    def proxy_header_refused(self) -> None:
        """A connection was closed for want of a PROXY header that is accepted."""
        self.proxy_headers_refused += 1

    def connections(self) -> dict[str, int]:
        """Open connections of clients, by :data:`PROTOCOLS`."""
        return dict(self._connections)

    def _made(
        self, cells: dict[_KeyT, _CellsT], key: _KeyT, other: _KeyT, lines: int, make: Callable[[], _CellsT]
    ) -> _CellsT:
        found = cells.get(key)
        if found is None:
            if key != other and not self._series.take(lines):
                key = other
            found = cells.setdefault(key, make())
        return found

    # --- telling --------------------------------------------------------------------------------------------------

    def exposition(self, accept: bytes) -> tuple[bytes, Iterator[bytes]]:
        """Content type and body of ``/metrics``: OpenMetrics if ``Accept`` asks for it, else Prometheus text.

        The body is made piece by piece, each in a fraction of a millisecond.
        """
        content_type, is_openmetrics = negotiate(accept)
        return content_type, self._pieces(is_openmetrics)

    def _pieces(self, is_openmetrics: bool) -> Iterator[bytes]:
        yield from render(self.families(), is_openmetrics=is_openmetrics)
        if is_openmetrics:
            yield generate_openmetrics(self._python)  # which ends with the end
        else:
            yield generate_latest(self._python)

    def families(self) -> Iterator[Family]:
        """All families but the interpreter's. Their rows are of the moment in which they are taken, in this order."""
        yield from self._per_method()
        yield from self._per_route()
        yield from self._per_connection()
        yield from self._per_target_state()
        yield from self._per_target()
        yield from self._per_decision()
        yield from self._per_process()
        yield from self.middlewares.families()

    def _per_method(self) -> Iterator[Family]:
        labels = ("route", "method")
        yield Family(
            "gateway_requests", "counter", "Requests answered, by status.", (*labels, "status"), self._statuses()
        )
        text = "Time from a request's first byte to the end of its answer."
        durations = self._durations()
        yield Family("gateway_request_duration_seconds", "histogram", text, labels, durations, "seconds")

    def _statuses(self) -> Iterator[Row]:
        for name, route in self._shown_routes():
            for method, cells in route.methods():
                for status, count in list(cells.statuses.items()):
                    yield (name, method, str(status)), count
                if cells.late_statuses:
                    yield (name, method, OTHER), cells.late_statuses

    def _durations(self) -> Iterator[Row]:
        for name, route in self._shown_routes():
            for method, cells in route.methods():
                yield (name, method), cells

    def _per_route(self) -> Iterator[Family]:
        labels = ("route",)
        rows = self._sums(lambda route: route.in_flight)
        yield Family("gateway_requests_in_flight", "gauge", "Requests that have begun and not ended.", labels, rows)
        rows = self._sums(lambda route: route.bytes_in)
        text = "Bytes of request bodies received from clients."
        yield Family("gateway_request_bytes", "counter", text, labels, rows, "bytes")
        rows = self._sums(lambda route: route.bytes_out)
        text = "Bytes of response bodies sent to clients."
        yield Family("gateway_response_bytes", "counter", text, labels, rows, "bytes")
        text = "Requests that ended with a reason of the gateway's own."
        yield Family("gateway_errors", "counter", text, ("route", "reason"), self._reasons())

    def _sums(self, value: Callable[[RouteMetrics], int]) -> Iterator[Row]:
        for name, route in self._shown_routes():
            late = sum(map(value, self._late_routes.values())) if name == OTHER else 0
            yield (name,), value(route) + late

    def _reasons(self) -> Iterator[Row]:
        for name, route in self._shown_routes():
            for reason, count in list(route.errors.items()):
                yield (name, reason), count

    def _shown_routes(self) -> list[tuple[str, RouteMetrics]]:
        routes = list(self._routes.items())
        if self._series.refused and OTHER not in self._routes:
            routes.append((OTHER, self._series.others))
        return routes

    def _per_connection(self) -> Iterator[Family]:
        rows: list[Row] = [((protocol,), count) for protocol, count in self._connections.items()]
        yield Family("gateway_connections", "gauge", "Open connections of clients.", ("protocol",), rows)
        text = "Connections closed at once because there were too many."
        yield _single("gateway_connections_refused", text, self.connections_refused)
        yield _single(
            "gateway_tls_handshake_failures", "TLS handshakes of clients that failed.", self.handshakes_failed
        )
        yield _single("gateway_proxy_headers_refused", "PROXY headers that were refused.", self.proxy_headers_refused)
        ends = sorted(self._certificate_expiries().items(), key=lambda item: item[1])
        rows = [((name,), end) for name, end in ends[:MAX_CERTIFICATES]]
        text = "When the certificate of this name ends, in Unix time."
        yield Family("gateway_tls_certificate_expiry_seconds", "gauge", text, ("name",), rows, "seconds", merged="min")

    def _per_target_state(self) -> Iterator[Family]:
        states: list[TargetState] = []  # filled by the first of the three, for all of them
        labels = ("backend", "target")
        text = "Connections to targets by state, and requests pending for one."
        rows = self._upstream_connections(states)
        yield Family("gateway_upstream_connections", "gauge", text, (*labels, "state"), rows)
        text = "Share of a target's addresses that checks find healthy."
        rows = (((state.backend, state.target), state.healthy) for state in states)
        yield Family("gateway_target_healthy", "gauge", text, labels, rows, merged="min")
        rows = (((state.backend, state.target), state.breaker) for state in states)
        yield Family("gateway_breaker_state", "gauge", "0 closed, 1 half-open, 2 open.", labels, rows, merged="max")

    def _upstream_connections(self, states: list[TargetState]) -> Iterator[Row]:
        late: TargetState | None = None
        for state in self._target_states():
            if (state.backend, state.target) in self._late_targets:
                late = _together(late, state)
                yield None
            else:
                states.append(state)
                yield from _connections(state)
        if late is not None:
            states.append(late)
            yield from _connections(late)

    def _per_target(self) -> Iterator[Family]:
        labels = ("backend", "target")
        targets = list(self._targets.items())
        text = "Attempts at targets, by outcome."
        rows: Iterator[Row] = (
            ((*key, outcome), count) for key, cells in targets for outcome, count in list(cells.outcomes.items())
        )
        yield Family("gateway_upstream_requests", "counter", text, (*labels, "outcome"), rows)
        text = "Time from an attempt's start to its response head, or to where it failed."
        yield Family("gateway_upstream_duration_seconds", "histogram", text, labels, targets, "seconds")
        text = "Retries by how they ended, or why they were not made."
        rows = _tallied(self._retries)
        yield Family("gateway_upstream_retries", "counter", text, ("backend", "outcome"), rows)

    def _per_decision(self) -> Iterator[Family]:
        rows: Iterator[Row] = (((result,), count) for result, count in self.tokens.rows())
        yield Family("gateway_jwt", "counter", "Bearer tokens checked, by result.", ("result",), rows)
        rows = _tallied(self._rate_limits)
        text = "Decisions of rate limits."
        yield Family("gateway_rate_limit_decisions", "counter", text, ("route", "decision"), rows)
        text = "1 while rate limits are kept without their store."
        degraded: list[Row] = [((), int(self._rate_limit_degraded()))]
        yield Family("gateway_rate_limit_degraded", "gauge", text, (), degraded, merged="max")

    def _per_process(self) -> Iterator[Family]:
        text = "Log lines lost to a slow reader or a full disk."
        yield _single("gateway_log_lines_dropped", text, self._log_lines_dropped())
        text = "Spans lost to a slow collector or none."
        yield _single("gateway_spans_dropped", text, self._spans_dropped())
        text = "What was counted as other because there are too many series."
        yield _single("gateway_metric_series_dropped", text, self._series.refused)
        is_success, succeeded_at = self._reloads()
        text = "Whether the last configuration that was read is in force."
        yield Family("gateway_config_reload_success", "gauge", text, (), [((), int(is_success))], merged="min")
        text = "When a configuration was put in force last, in Unix time."
        name = "gateway_config_reload_timestamp_seconds"
        yield Family(name, "gauge", text, (), [((), succeeded_at)], "seconds", merged="min")
        version: list[Row] = [((txgateway.__version__,), 1)]
        yield Family("gateway_build_info", "gauge", "The gateway's version.", ("version",), version, merged="max")
        yield from process_families()


def _single(name: str, text: str, count: int) -> Family:
    return Family(name, "counter", text, (), [((), count)])


def _tallied(tallies: dict[str, Tally]) -> Iterator[Row]:
    for name, tally in list(tallies.items()):
        for outcome, count in tally.rows():
            yield (name, outcome), count


def _connections(state: TargetState) -> Iterator[Row]:
    for label, count in (("active", state.active), ("idle", state.idle), ("pending", state.pending)):
        yield (state.backend, state.target, label), count


def _together(sum_so_far: TargetState | None, state: TargetState) -> TargetState:
    """The states of targets that have no lines of their own, as one."""
    one = sum_so_far or TargetState(OTHER, OTHER, 0, 0, 0, 1.0, 0)
    return TargetState(
        OTHER,
        OTHER,
        one.active + state.active,
        one.idle + state.idle,
        one.pending + state.pending,
        min(one.healthy, state.healthy),
        max(one.breaker, state.breaker),
    )
