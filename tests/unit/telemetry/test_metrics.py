"""What Prometheus would read after some requests."""

from __future__ import annotations

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from txgateway.telemetry.metrics import BUCKETS_S, RequestMetrics


def sample(metrics: RequestMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_requests_are_counted_by_route_method_and_status() -> None:
    metrics = RequestMetrics()
    route = metrics.route("resumes")
    for status in (200, 200, 404):
        route.observe(b"GET", status, 0.01, 1, 10, None)
    route.observe(b"POST", 503, 0.01, 100, 0, "DRAINING")
    assert sample(metrics, "gateway_requests_total", route="resumes", method="GET", status="200") == 2
    assert sample(metrics, "gateway_requests_total", route="resumes", method="GET", status="404") == 1
    assert sample(metrics, "gateway_requests_total", route="resumes", method="POST", status="503") == 1
    assert sample(metrics, "gateway_errors_total", route="resumes", reason="DRAINING") == 1
    assert sample(metrics, "gateway_request_bytes_total", route="resumes") == 103
    assert sample(metrics, "gateway_response_bytes_total", route="resumes") == 30


@pytest.mark.parametrize("index", range(len(BUCKETS_S)))
def test_a_duration_on_a_bound_is_within_it(index: int) -> None:
    metrics = RequestMetrics()
    bound_s = BUCKETS_S[index]
    metrics.route("r").observe(b"GET", 200, bound_s, 0, 0, None)
    labels = {"route": "r", "method": "GET"}
    assert sample(metrics, "gateway_request_duration_seconds_bucket", le=str(bound_s), **labels) == 1
    if index:
        below = str(BUCKETS_S[index - 1])
        assert sample(metrics, "gateway_request_duration_seconds_bucket", le=below, **labels) == 0
    assert sample(metrics, "gateway_request_duration_seconds_count", **labels) == 1
    assert sample(metrics, "gateway_request_duration_seconds_sum", **labels) == bound_s


def test_a_duration_beyond_all_bounds_is_counted() -> None:
    metrics = RequestMetrics()
    metrics.route("r").observe(b"GET", 200, 99.0, 0, 0, None)
    labels = {"route": "r", "method": "GET"}
    assert sample(metrics, "gateway_request_duration_seconds_bucket", le="30.0", **labels) == 0
    assert sample(metrics, "gateway_request_duration_seconds_bucket", le="+Inf", **labels) == 1


def test_invented_methods_are_one_label() -> None:
    metrics = RequestMetrics()
    route = metrics.route()
    for number in range(100):
        route.observe(b"X%d" % number, 501, 0.0, 0, 0, "METHOD_NOT_IMPLEMENTED")
    assert sample(metrics, "gateway_requests_total", route="none", method="other", status="501") == 100
    assert len(list(route.methods())) == 1


def test_in_flight_goes_up_and_down() -> None:
    metrics = RequestMetrics()
    route = metrics.route("r")
    route.started()
    route.started()
    route.ended()
    assert sample(metrics, "gateway_requests_in_flight", route="r") == 1


def test_a_route_keeps_its_cells() -> None:
    metrics = RequestMetrics()
    assert metrics.route("r") is metrics.route("r")


def test_connections_pools_and_dropped_lines() -> None:
    metrics = RequestMetrics(pools=lambda: [("b", "10.0.0.1:80", 3, 2, 1)], log_lines_dropped=lambda: 7)
    metrics.connection_opened("h1")
    metrics.connection_opened("h1")
    metrics.connection_closed("h1")
    metrics.connection_opened("tunnel")
    metrics.connection_refused()
    assert sample(metrics, "gateway_connections", protocol="h1") == 1
    assert sample(metrics, "gateway_connections", protocol="h2") == 0
    assert sample(metrics, "gateway_connections", protocol="tunnel") == 1
    assert sample(metrics, "gateway_connections_refused_total") == 1
    assert sample(metrics, "gateway_log_lines_dropped_total") == 7
    labels = {"backend": "b", "target": "10.0.0.1:80"}
    states = {
        state: sample(metrics, "gateway_upstream_connections", state=state, **labels)
        for state in ("active", "idle", "pending")
    }
    assert states == {"active": 3, "idle": 2, "pending": 1}


def test_two_processes_worth_of_metrics_do_not_share_a_registry() -> None:
    RequestMetrics()
    RequestMetrics()


def test_exposition_in_both_formats_can_be_parsed() -> None:
    metrics = RequestMetrics()
    metrics.route('odd "name"\n').observe(b"GET", 200, 0.01, 0, 0, "X")
    content_type, body = metrics.exposition(b"")
    assert content_type == b"text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in parse_text(body.decode("utf-8"))}
    assert {"gateway_requests", "gateway_errors", "process_cpu_seconds"} <= names
    content_type, body = metrics.exposition(b"application/openmetrics-text; version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith(b"application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    assert "gateway_requests" in {family.name for family in parse_openmetrics(body.decode("utf-8"))}


@pytest.mark.parametrize(
    "accept", [b"application/openmetrics-text; version=x.y", b"\xff\x00,;=", b"text/plain;version=..;q="]
)
def test_an_accept_that_makes_no_sense_gets_text(accept: bytes) -> None:
    content_type, _ = RequestMetrics().exposition(accept)
    assert content_type.startswith(b"text/plain")


def test_decisions_are_counted_by_outcome() -> None:
    is_degraded = False
    metrics = RequestMetrics(rate_limit_degraded=lambda: is_degraded)
    metrics.tokens.count("ok")
    for decision in ("allowed", "limited", "allowed"):
        metrics.rate_limit("resumes").count(decision)
    assert sample(metrics, "gateway_jwt_total", result="ok") == 1
    assert sample(metrics, "gateway_rate_limit_decisions_total", route="resumes", decision="allowed") == 2
    assert sample(metrics, "gateway_rate_limit_decisions_total", route="resumes", decision="limited") == 1
    assert sample(metrics, "gateway_rate_limit_degraded") == 0
    is_degraded = True
    assert sample(metrics, "gateway_rate_limit_degraded") == 1
