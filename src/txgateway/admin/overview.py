"""One look at the whole gateway, for the admin port: ``/status`` and the samples of ``/status/history``."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReactorTime

from txgateway.admin.history import History
from txgateway.admin.status import BackendStatus, RouteStatus, status_report
from txgateway.config import Configuration
from txgateway.health.probes import Readiness
from txgateway.telemetry.activity import activity
from txgateway.telemetry.cells import BUCKETS_S
from txgateway.telemetry.metrics import RequestMetrics


class Overview:
    """Gathers what the parts of the gateway know.

    Args:
        clock: since when it is up is counted from here on.
        configuration: the one in force.
        metrics: what was counted so far.
        readiness: has the word for the gateway's state.
        backends: every backend at this moment.
        log_lines_dropped: log lines lost so far.
        rate_limit_degraded: whether rate limits are kept without their store at this moment.

    Attributes:
        history: totals of the last minutes, once it is started.
    """

    def __init__(
        self,
        clock: IReactorTime,
        configuration: Callable[[], Configuration],
        metrics: RequestMetrics,
        readiness: Readiness,
        backends: Callable[[], Iterable[BackendStatus]],
        *,
        log_lines_dropped: Callable[[], int],
        rate_limit_degraded: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._configuration = configuration
        self._metrics = metrics
        self._readiness = readiness
        self._backends = backends
        self._log_lines_dropped = log_lines_dropped
        self._rate_limit_degraded = rate_limit_degraded
        self._started_at = clock.seconds()
        self.history = History(clock, self.totals)

    def status(self) -> dict[str, object]:
        """The members of ``/status``."""
        configuration, metrics = self._configuration(), self._metrics
        routes = []
        for route in configuration.routes:
            cells = metrics.route(route.name)
            names = tuple(backend.name for backend in route.backends)
            routes.append(
                RouteStatus(
                    name=route.name,
                    hosts=route.hosts,
                    path=route.path,
                    methods=route.methods,
                    backend=names[0] if names else None,
                    backends=names,
                    middlewares=route.middlewares,
                    in_flight=cells.in_flight,
                    activity=activity([cells]),
                )
            )
        report = status_report(self._readiness.verdict().status, self._uptime_s(), routes, self._backends())
        report["totals"] = self.totals()
        report["bounds_s"] = BUCKETS_S
        report["connections"] = metrics.connections()
        report["connections_refused"] = metrics.connections_refused
        report["log_lines_dropped"] = self._log_lines_dropped()
        report["rate_limit_degraded"] = self._rate_limit_degraded()
        report["warnings"] = configuration.warnings
        report["middlewares"] = [
            {"name": called, "class": found.use, "position": found.position}
            for called, found in configuration.middlewares.named.items()
        ]
        return report

    def totals(self) -> dict[str, object]:
        """What all routes did so far, and requests without one, with the uptime at which that was: one sample."""
        metrics = self._metrics
        return {
            "at_s": round(self._uptime_s(), 3),
            "in_flight": sum(cells.in_flight for cells in metrics.routes()),
            "connections": sum(metrics.connections().values()),
            **activity(metrics.routes()),
        }

    def _uptime_s(self) -> float:
        return self._clock.seconds() - self._started_at
