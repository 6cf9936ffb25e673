from __future__ import annotations

import json

import orjson
import pytest
from twisted.internet.task import Clock

from txgateway.admin.overview import Overview
from txgateway.admin.status import BackendStatus, TargetStatus
from txgateway.config import load
from txgateway.health.probes import Readiness
from txgateway.telemetry.cells import BUCKETS_S
from txgateway.telemetry.metrics import RequestMetrics

DOCUMENT = {
    "backends": {"b": {"targets": ["http://10.0.0.1:80"]}, "c": {"targets": ["http://10.0.0.2:80"]}},
    "routes": [
        {"name": "split", "path": "/", "backends": [{"name": "b", "weight": 1}, {"name": "c", "weight": 1}]},
        {"name": "itself", "path": "/hello", "response": {"body": "hello"}},
    ],
}


class Parts:
    """An overview with what it looks at."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = RequestMetrics()
        self.readiness = Readiness()
        self.dropped = 0
        self.degraded = False
        self.backends = [BackendStatus(name="b", load_balancer="random", targets=(TargetStatus(target="10.0.0.1:80"),))]
        self.clock.advance(100)
        self.configuration = load({"GATEWAY_ROUTES": json.dumps(DOCUMENT)})
        self.overview = Overview(
            self.clock,
            lambda: self.configuration,
            self.metrics,
            self.readiness,
            lambda: self.backends,
            log_lines_dropped=lambda: self.dropped,
            rate_limit_degraded=lambda: self.degraded,
        )


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_status_has_the_state_the_routes_and_what_each_did(parts: Parts) -> None:
    parts.clock.advance(2.5)
    route = parts.metrics.route("split")
    route.started()
    route.observe(b"GET", 503, 0.01, 0, 0, "DRAINING")
    status = orjson.loads(orjson.dumps(parts.overview.status()))
    assert (status["state"], status["uptime_s"], status["in_flight"]) == ("starting", 2.5, 1)
    split, itself = status["routes"]
    assert (split["backend"], split["backends"], split["in_flight"]) == ("b", ["b", "c"], 1)
    assert (split["activity"]["requests"], split["activity"]["errors"]) == (1, {"DRAINING": 1})
    assert (itself["backend"], itself["activity"]["requests"]) == (None, 0)
    assert status["bounds_s"] == list(BUCKETS_S)
    assert status["backends"][0]["targets"][0]["outcomes"] == {}
    parts.readiness.started()
    parts.readiness.draining()
    assert parts.overview.status()["state"] == "draining"


def test_totals_have_requests_without_a_route_too(parts: Parts) -> None:
    parts.metrics.route("split").observe(b"GET", 200, 0.01, 0, 0, None)
    parts.metrics.route().observe(b"GET", 404, 0.01, 0, 0, "NO_ROUTE")
    parts.metrics.route("gone since the last reload").observe(b"GET", 200, 0.01, 0, 0, None)
    parts.metrics.connection_opened("h1")
    parts.metrics.connection_opened("tunnel")
    parts.clock.advance(7)
    totals = parts.overview.totals()
    assert (totals["at_s"], totals["requests"], totals["client_errors"]) == (7.0, 3, 1)
    assert (totals["in_flight"], totals["connections"]) == (0, 2)
    assert parts.overview.status()["connections"] == {"h1": 1, "h2": 0, "tunnel": 1}


def test_what_needs_attention_is_told(parts: Parts) -> None:
    status = parts.overview.status()
    assert (status["log_lines_dropped"], status["rate_limit_degraded"], status["connections_refused"]) == (0, False, 0)
    parts.dropped, parts.degraded = 3, True
    parts.metrics.connection_refused()
    status = parts.overview.status()
    assert (status["log_lines_dropped"], status["rate_limit_degraded"], status["connections_refused"]) == (3, True, 1)
    assert status["warnings"] == parts.configuration.warnings


def test_history_takes_totals_that_do_not_grow_with_the_routes(parts: Parts) -> None:
    for number in range(1000):
        parts.metrics.route(str(number)).observe(b"GET", 200, 0.01, 0, 0, None)
    parts.overview.history.start()
    report = orjson.loads(orjson.dumps(parts.overview.history.report()))
    (sample,) = report["samples"]
    assert sample == orjson.loads(orjson.dumps(parts.overview.totals()))
    assert sample["requests"] == 1000
    assert len(orjson.dumps(sample)) < 400
    parts.overview.history.stop()
