"""The numbers behind ``/metrics``: plain cells on the hot path, Prometheus families only when somebody asks.

Labels are of fixed sets (routes, known methods, statuses, reasons, targets): nothing a client sends ever becomes one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

#: Upper bounds of the duration histogram, in seconds; a last bucket holds what is longer.
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
#: The methods of RFC 9110 section 9.3 and PATCH (RFC 5789); every other is counted as ``other``.
METHODS = (b"CONNECT", b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT", b"TRACE")
OTHER_METHOD = b"other"
#: Label of requests that match no route.
NO_ROUTE = "none"
#: What speaks on a client's connection.
PROTOCOLS = ("h1", "h2", "tunnel")

_BOUNDS = (*(repr(bound_s) for bound_s in BUCKETS_S), "+Inf")

#: ``(backend, target, active, idle, pending)`` of one pool.
PoolCounts: TypeAlias = tuple[str, str, int, int, int]


class _MethodCells:
    """What is counted per route and method."""

    __slots__ = ("buckets", "statuses", "sum_s")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)  # not cumulative: one addition per request
        self.sum_s = 0.0


class RouteMetrics:
    """The cells of one route; lives as long as the process, so that counters never fall."""

    __slots__ = ("_methods", "bytes_in", "bytes_out", "errors", "in_flight")

    def __init__(self) -> None:
        self._methods: dict[bytes, _MethodCells] = {}
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
        cells = self._methods.get(method)
        if cells is None:
            cells = self._cells(method)
        statuses = cells.statuses
        statuses[status] = statuses.get(status, 0) + 1
        cells.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        cells.sum_s += seconds
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        if reason is not None:
            self.errors[reason] = self.errors.get(reason, 0) + 1

    def methods(self) -> Iterator[tuple[str, _MethodCells]]:
        """The methods seen so far, as labels, with their cells."""
        for method, cells in self._methods.items():
            yield method.decode("ascii"), cells

    def _cells(self, method: bytes) -> _MethodCells:
        # An unknown method is never a key, or a client could fill the memory with them.
        return self._methods.setdefault(method if method in METHODS else OTHER_METHOD, _MethodCells())


class Tally:
    """How often each of a few outcomes came; the caller sees to it that they are of a fixed set."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def count(self, outcome: str) -> None:
        """One more of this outcome."""
        self.counts[outcome] = self.counts.get(outcome, 0) + 1


class RequestMetrics(Collector):
    """All request metrics of the process, in a registry of its own with the process's metrics.

    Args:
        pools: the connection pools' counts at this moment.
        log_lines_dropped: log lines lost so far.
        rate_limit_degraded: whether rate limits are kept without their store at this moment.

    Attributes:
        tokens: outcomes of token checks: ``ok``, ``cached``, or a reason.
    """

    def __init__(
        self,
        pools: Callable[[], Iterable[PoolCounts]] = tuple,
        log_lines_dropped: Callable[[], int] = int,
        rate_limit_degraded: Callable[[], bool] = bool,
    ) -> None:
        self._pools = pools
        self._log_lines_dropped = log_lines_dropped
        self._rate_limit_degraded = rate_limit_degraded
        self._routes: dict[str, RouteMetrics] = {}
        self.tokens = Tally()
        self._rate_limits: dict[str, Tally] = {}
        self._connections = dict.fromkeys(PROTOCOLS, 0)
        self._connections_refused = 0
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    def route(self, name: str = NO_ROUTE) -> RouteMetrics:
        """The cells of a route, made on the first call; keep them rather than asking per request."""
        metrics = self._routes.get(name)
        if metrics is None:
            metrics = self._routes[name] = RouteMetrics()
        return metrics

    def rate_limit(self, route: str) -> Tally:
        """Outcomes of a route's rate limit (``allowed``, ``limited``, ``store_error``), made on the first call."""
        return self._rate_limits.setdefault(route, Tally())

    def connection_opened(self, protocol: str) -> None:
        """A client's connection begins to speak one of :data:`PROTOCOLS`."""
        self._connections[protocol] += 1

    def connection_closed(self, protocol: str) -> None:
        """It ended, or speaks another from now on."""
        self._connections[protocol] -= 1

    def connection_refused(self) -> None:
        """A connection was accepted and closed at once, at the limit."""
        self._connections_refused += 1

    def exposition(self, accept: bytes) -> tuple[bytes, bytes]:
        """Content type and body of ``/metrics``: OpenMetrics if ``Accept`` asks for it, else Prometheus text."""
        try:
            encoder, content_type = choose_encoder(accept.decode("latin-1"))
        except (TypeError, ValueError):  # a version that is none
            encoder, content_type = choose_encoder("")
        return content_type.encode("ascii", "replace"), encoder(self.registry)

    def collect(self) -> Iterator[Metric]:
        """The families of this moment."""
        yield from self._per_method()
        yield from self._per_route()
        yield from self._per_connection()
        yield from self._per_decision()
        dropped = CounterMetricFamily("gateway_log_lines_dropped", "Log lines lost to a slow reader or a full disk.")
        dropped.add_metric([], self._log_lines_dropped())
        yield dropped

    def _per_method(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "gateway_requests", "Requests answered, by status.", labels=["route", "method", "status"]
        )
        durations = HistogramMetricFamily(
            "gateway_request_duration_seconds",
            "Time from a request's first byte to the end of its answer.",
            labels=["route", "method"],
        )
        for name, route in self._routes.items():
            for method, cells in route.methods():
                for status, count in cells.statuses.items():
                    requests.add_metric([name, method, str(status)], count)
                durations.add_metric([name, method], _cumulative(cells.buckets), cells.sum_s)
        yield requests
        yield durations

    def _per_route(self) -> Iterator[Metric]:
        in_flight = GaugeMetricFamily(
            "gateway_requests_in_flight", "Requests that have begun and not ended.", labels=["route"]
        )
        bytes_in = CounterMetricFamily(
            "gateway_request_bytes", "Bytes of request bodies received from clients.", labels=["route"]
        )
        bytes_out = CounterMetricFamily(
            "gateway_response_bytes", "Bytes of response bodies sent to clients.", labels=["route"]
        )
        errors = CounterMetricFamily(
            "gateway_errors", "Requests that ended with a reason of the gateway's own.", labels=["route", "reason"]
        )
        for name, route in self._routes.items():
            in_flight.add_metric([name], route.in_flight)
            bytes_in.add_metric([name], route.bytes_in)
            bytes_out.add_metric([name], route.bytes_out)
            for reason, count in route.errors.items():
                errors.add_metric([name, reason], count)
        yield from (in_flight, bytes_in, bytes_out, errors)

    def _per_connection(self) -> Iterator[Metric]:
        clients = GaugeMetricFamily("gateway_connections", "Open connections of clients.", labels=["protocol"])
        for protocol, count in self._connections.items():
            clients.add_metric([protocol], count)
        refused = CounterMetricFamily(
            "gateway_connections_refused", "Connections closed at once because there were too many."
        )
        refused.add_metric([], self._connections_refused)
        upstream = GaugeMetricFamily(
            "gateway_upstream_connections",
            "Connections to targets by state, and requests pending for one.",
            labels=["backend", "target", "state"],
        )
        for backend, target, active, idle, pending in self._pools():
            upstream.add_metric([backend, target, "active"], active)
            upstream.add_metric([backend, target, "idle"], idle)
            upstream.add_metric([backend, target, "pending"], pending)
        yield from (clients, refused, upstream)

    def _per_decision(self) -> Iterator[Metric]:
        tokens = CounterMetricFamily("gateway_jwt", "Bearer tokens checked, by result.", labels=["result"])
        for result, count in self.tokens.counts.items():
            tokens.add_metric([result], count)
        decisions = CounterMetricFamily(
            "gateway_rate_limit_decisions", "Decisions of rate limits.", labels=["route", "decision"]
        )
        for route, tally in self._rate_limits.items():
            for decision, count in tally.counts.items():
                decisions.add_metric([route, decision], count)
        degraded = GaugeMetricFamily("gateway_rate_limit_degraded", "1 while rate limits are kept without their store.")
        degraded.add_metric([], self._rate_limit_degraded())
        yield from (tokens, decisions, degraded)


def _cumulative(buckets: list[int]) -> list[tuple[str, float]]:
    total = 0
    pairs: list[tuple[str, float]] = []
    for bound, count in zip(_BOUNDS, buckets, strict=True):
        total += count
        pairs.append((bound, total))
    return pairs
