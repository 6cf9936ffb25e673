"""What the supervisor's admin port tells: the workers' numbers as those of one gateway, and a few of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime

from txgateway.admin.history import History
from txgateway.admin.status import status_report
from txgateway.config import Configuration
from txgateway.health.probes import Readiness
from txgateway.telemetry.cells import BUCKETS_S
from txgateway.telemetry.exposition import Family, negotiate, render
from txgateway.telemetry.snapshots import families_of, merge
from txgateway.workers.child import Child
from txgateway.workers.crew import Crew
from txgateway.workers.merging import Status, merged_status, merged_totals

#: States of workers that are counted.
_STATES = ("ready", "starting")


class Telling:
    """The pages' content. Before a page is made, :attr:`asks` has to ask the workers for it.

    Args:
        crew: the workers.
        configuration: what the supervisor was started with.
        readiness: has the word for the gateway's state.
        clock: since when it is up is counted from here on.

    Attributes:
        history: totals of the last minutes, once it is started.
    """

    def __init__(self, crew: Crew, configuration: Configuration, readiness: Readiness, clock: IReactorTime) -> None:
        self._crew = crew
        self._configuration = configuration
        self._readiness = readiness
        self._clock = clock
        self._started_at = clock.seconds()
        self._answered: dict[str, list[Child]] = {"snapshot": [], "status": []}
        self._config: Mapping[str, object] | None = None
        self.history = History(clock, self._totals)

    @property
    def asks(self) -> dict[bytes, Callable[[], Deferred[Any]]]:
        """By path, what has to be over before the page is made."""
        return {
            b"/metrics": lambda: self._ask_all("snapshot"),
            b"/status": lambda: self._ask_all("status"),
            b"/config": self._ask_for_config,
        }

    def _ask_all(self, what: str) -> Deferred[Any]:
        children = list(self._crew.connected())

        def take(answers: list[tuple[bool, Any]]) -> None:
            self._answered[what] = [
                child for child, (_, answer) in zip(children, answers, strict=True) if answer is not None
            ]

        return DeferredList([child.ask(what) for child in children]).addCallback(take)

    def _ask_for_config(self) -> Deferred[Any]:
        def take(answers: list[tuple[bool, Any]]) -> None:
            self._config = next((answer for _, answer in answers if answer is not None), None)

        ready = [child for child in self._crew.connected() if child.state == "ready"]
        return DeferredList([child.ask("config") for child in ready[:1]]).addCallback(take)

    def explain(self, query: str) -> Deferred[Any]:
        """What a ready worker tells of ``/explain``; fires with None if there is none."""
        ready = [child for child in self._crew.connected() if child.state == "ready"]
        return ready[0].ask(f"explain {query}") if ready else succeed(None)

    # --- the pages ----------------------------------------------------------------------------------------------------

    def config(self) -> Mapping[str, object]:
        """The members of ``/config``, as a worker has it."""
        return self._configuration.effective() if self._config is None else self._config

    def status(self) -> dict[str, object]:
        """The members of ``/status``."""
        answered = [child for child in self._answered["status"] if child.status is not None]
        parts: list[Status] = [child.status for child in answered if child.status is not None]
        report = merged_status(parts, self._crew.dead_status) if parts else self._empty_status()
        report["state"] = self._readiness.verdict().status
        report["uptime_s"] = max(report["uptime_s"], round(self._uptime_s(), 3))
        report["totals"] = self._totals()
        report["workers"] = [child.describe() for child in self._crew.children]
        return report

    def _empty_status(self) -> dict[str, Any]:
        report: dict[str, Any] = status_report("starting", self._uptime_s(), (), ())
        report["bounds_s"] = BUCKETS_S
        report["connections"] = {}
        report["connections_refused"] = report["log_lines_dropped"] = 0
        report["rate_limit_degraded"] = False
        report["warnings"] = self._configuration.warnings
        return report

    def _totals(self) -> dict[str, object]:
        parts = [child.totals for child in self._crew.children if child.totals is not None]
        return merged_totals(parts, self._crew.dead_totals, round(self._uptime_s(), 3))

    def _uptime_s(self) -> float:
        return self._clock.seconds() - self._started_at

    # --- metrics ------------------------------------------------------------------------------------------------------

    def exposition(self, accept: bytes) -> tuple[bytes, Iterator[bytes]]:
        """Content type and body of ``/metrics``."""
        content_type, is_openmetrics = negotiate(accept)
        return content_type, self._pieces(is_openmetrics)

    def _pieces(self, is_openmetrics: bool) -> Iterator[bytes]:
        answered = self._answered["snapshot"]
        live = [child.snapshot for child in answered if child.snapshot is not None]
        # One that did not answer still has counted what it said before.
        silent = [child.snapshot for child in self._crew.children if child not in answered and child.snapshot]
        merged = merge(live, [self._crew.dead, *silent])
        yield from render(chain(families_of(merged), self._families()), is_openmetrics=is_openmetrics)
        if is_openmetrics:
            yield generate_openmetrics(CollectorRegistry())  # the end

    def _families(self) -> Iterable[Family]:
        crew = self._crew
        states = [((state,), crew.count(state)) for state in _STATES]
        yield Family("gateway_workers", "gauge", "Worker processes by state.", ("state",), states)
        text = "Worker processes started in the place of one that ended."
        yield Family("gateway_worker_restarts", "counter", text, (), [((), crew.restarts)])
        text = "Questions that a worker process did not answer in time."
        yield Family("gateway_worker_unanswered", "counter", text, (), [((), crew.unanswered)])
