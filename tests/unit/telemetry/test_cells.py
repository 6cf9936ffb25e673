"""There are never more lines than allowed, and nothing that is counted gets lost."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from txgateway.telemetry.cells import METHODS
from txgateway.telemetry.metrics import MAX_SERIES, RequestMetrics, TargetState

STATUSES = range(100, 1000)


class Scraped:
    def __init__(self, metrics: RequestMetrics) -> None:
        text = b"".join(metrics.exposition(b"")[1]).decode("utf-8")
        self.lines = [line for line in text.splitlines() if not line.startswith(("#", "python_"))]
        self.samples = [one for family in parse_text(text) for one in family.samples]
        names = [(one.name, *sorted(one.labels.items())) for one in self.samples]
        assert len(names) == len(set(names)), "a label set twice"

    def sum(self, name: str, **labels: str) -> float:
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())


def test_a_backend_with_all_statuses_on_all_routes_and_methods_ends_at_the_cap() -> None:
    metrics = RequestMetrics()
    routes = [metrics.route(f"r{number}") for number in range(10)]
    for route in routes:
        for method in METHODS:
            for status in STATUSES:
                route.observe(method, status, 0.01, 1, 2, None)
    scraped = Scraped(metrics)
    total = len(routes) * len(METHODS) * len(STATUSES)
    assert total > MAX_SERIES
    assert MAX_SERIES - 200 <= len(scraped.lines) <= MAX_SERIES
    assert scraped.sum("gateway_requests_total") == total
    assert scraped.sum("gateway_request_duration_seconds_count") == total
    late = scraped.sum("gateway_requests_total", status="other")
    assert late == scraped.sum("gateway_metric_series_dropped_total") > 0
    # Those that came in time go on as if nothing had happened.
    routes[0].observe(b"CONNECT", 100, 0.01, 0, 0, None)
    assert Scraped(metrics).sum("gateway_requests_total", route="r0", method="CONNECT", status="100") == 2


@pytest.mark.parametrize("max_series", [300, 317, 330, 400, 1000])
def test_nothing_is_lost_at_any_size(max_series: int) -> None:
    states: list[TargetState] = []
    metrics = RequestMetrics(targets=lambda: states, max_series=max_series)
    for number in range(50):
        route = metrics.route(f"r{number}")
        assert metrics.route(f"r{number}") is route
        for method in (b"GET", b"POST", b"X"):
            for status in (200, 404):
                route.started()
                route.observe(method, status, 0.01, 1, 2, f"REASON{status}")
        metrics.rate_limit(f"r{number}").count("allowed")
        metrics.retries(f"b{number}").count("success")
        for target in range(3):
            metrics.target(f"b{number}", f"t{target}").observe("ok", 0.01)
            healthy = float(number != 40)
            states.append(TargetState(f"b{number}", f"t{target}", 1, 2, 3, healthy, breaker=2 * (number == 41)))
    scraped = Scraped(metrics)
    assert len(scraped.lines) <= max_series
    assert scraped.sum("gateway_requests_total") == 300
    assert scraped.sum("gateway_request_duration_seconds_count") == 300
    assert scraped.sum("gateway_errors_total") == 300
    assert scraped.sum("gateway_requests_in_flight") == 300
    assert scraped.sum("gateway_request_bytes_total") == 300
    assert scraped.sum("gateway_response_bytes_total") == 600
    assert scraped.sum("gateway_rate_limit_decisions_total") == 50
    assert scraped.sum("gateway_upstream_retries_total") == 50
    assert scraped.sum("gateway_upstream_requests_total") == 150
    assert scraped.sum("gateway_upstream_duration_seconds_count") == 150
    assert scraped.sum("gateway_upstream_connections", state="pending") == 450
    assert scraped.sum("gateway_target_healthy", backend="other") == 0
    assert scraped.sum("gateway_breaker_state", backend="other") == 2
    assert scraped.sum("gateway_metric_series_dropped_total") > 0
    assert sum(route.in_flight for route in metrics.routes()) == 300


@pytest.mark.parametrize("is_first", [True, False])
def test_a_route_that_is_called_other_shares_its_cells_with_the_rest(is_first: bool) -> None:
    metrics = RequestMetrics(max_series=300)
    names = [f"r{number}" for number in range(200)]
    names.insert(0 if is_first else 200, "other")
    for name in names:
        metrics.route(name).observe(b"GET", 200, 0.01, 1, 0, None)
    scraped = Scraped(metrics)
    assert scraped.sum("gateway_requests_total") == 201
    assert scraped.sum("gateway_request_bytes_total") == 201
    assert len(scraped.lines) <= 300
    assert len(metrics.routes()) == 201


def test_nothing_is_called_other_while_there_is_room() -> None:
    metrics = RequestMetrics()
    metrics.route("r").observe(b"GET", 200, 0.01, 0, 0, "X")
    metrics.target("b", "t").observe("ok", 0.01)
    assert not [line for line in Scraped(metrics).lines if '"other"' in line]


def test_counters_never_fall_while_series_run_out() -> None:
    metrics = RequestMetrics(max_series=400)
    before: dict[tuple[str, ...], float] = {}
    for number in range(60):
        route = metrics.route(f"r{number % 20}")
        route.observe(METHODS[number % 9], 200 + number, 0.01 * number, 1, 1, f"R{number % 7}")
        now = {
            (one.name, *(value for pair in sorted(one.labels.items()) for value in pair)): one.value
            for one in Scraped(metrics).samples
            if one.name.startswith("gateway_") and one.name.endswith(("_total", "_bucket", "_count", "_sum"))
        }
        assert before.keys() <= now.keys()
        assert all(now[key] >= value for key, value in before.items())
        before = now
