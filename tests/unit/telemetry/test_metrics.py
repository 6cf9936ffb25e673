"""What Prometheus would read after some requests."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import txgateway
from txgateway.telemetry.metrics import BUCKETS_S, MAX_CERTIFICATES, RequestMetrics, TargetState


def body(metrics: RequestMetrics, accept: bytes = b"") -> str:
    return b"".join(metrics.exposition(accept)[1]).decode("utf-8")


def sample(metrics: RequestMetrics, name: str, **labels: str) -> float | None:
    samples = (sample for family in parse_text(body(metrics)) for sample in family.samples)
    return next((one.value for one in samples if one.name == name and one.labels == labels), None)


def busy_metrics() -> RequestMetrics:
    state = TargetState("b", "a:1", active=3, idle=2, pending=1, healthy=0.5, breaker=2)
    metrics = RequestMetrics(
        targets=lambda: [state], epoch_s=lambda: 1700000000.25, certificate_expiries=lambda: {"default": 2e9}
    )
    for method in (b"GET", b"PROPFIND"):
        route = metrics.route('a\\b "c"\nd')
        route.observe(method, 503, 0.25, 10, 20, "DRAINING")
        route.exemplify(method, 0.25, "ab" * 16)
    metrics.target("b", "a:1").observe("ok", 0.02)
    metrics.retries("b").count("success")
    metrics.rate_limit("r").count("allowed")
    metrics.tokens.count("ok")
    return metrics


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
    state = TargetState("b", "10.0.0.1:80", active=3, idle=2, pending=1, healthy=0.5, breaker=2)
    metrics = RequestMetrics(targets=lambda: [state], log_lines_dropped=lambda: 7)
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
    assert sample(metrics, "gateway_target_healthy", **labels) == 0.5
    assert sample(metrics, "gateway_breaker_state", **labels) == 2


def test_handshakes_and_certificates() -> None:
    ends = {f"n{number}": 2e9 - number for number in range(100)}
    metrics = RequestMetrics(certificate_expiries=lambda: ends)
    metrics.handshake_failed()
    metrics.handshake_failed()
    metrics.proxy_header_refused()
    assert sample(metrics, "gateway_tls_handshake_failures_total") == 2
    assert sample(metrics, "gateway_proxy_headers_refused_total") == 1
    assert 'gateway_tls_certificate_expiry_seconds{name="n99"} 1999999901.0\n' in body(metrics)
    (family,) = [family for family in metrics.families() if family.name == "gateway_tls_certificate_expiry_seconds"]
    assert [row[0][0] for row in family.rows if row] == [f"n{99 - number}" for number in range(MAX_CERTIFICATES)]


def test_attempts_and_retries() -> None:
    metrics = RequestMetrics()
    cells = metrics.target("b", "a:1")
    assert metrics.target("b", "a:1") is cells
    cells.observe("ok", 0.002)
    cells.observe("ok", 0.003)
    cells.observe("timeout", 0.3)
    metrics.retries("b").count("budget")
    labels = {"backend": "b", "target": "a:1"}
    assert sample(metrics, "gateway_upstream_requests_total", outcome="ok", **labels) == 2
    assert sample(metrics, "gateway_upstream_requests_total", outcome="timeout", **labels) == 1
    assert sample(metrics, "gateway_upstream_duration_seconds_count", **labels) == 3
    assert sample(metrics, "gateway_upstream_duration_seconds_bucket", le="0.0025", **labels) == 1
    assert sample(metrics, "gateway_upstream_duration_seconds_sum", **labels) == 0.305
    assert sample(metrics, "gateway_upstream_retries_total", backend="b", outcome="budget") == 1


def test_two_processes_worth_of_metrics_do_not_share_anything() -> None:
    one, other = RequestMetrics(), RequestMetrics()
    one.route("r").observe(b"GET", 200, 0.01, 0, 0, None)
    assert sample(other, "gateway_requests_total", route="r", method="GET", status="200") is None


def test_exposition_in_both_formats_can_be_parsed() -> None:
    metrics = RequestMetrics(spans_dropped=lambda: 3)
    metrics.route('odd "name"\n').observe(b"GET", 200, 0.01, 0, 0, "X")
    content_type, _ = metrics.exposition(b"")
    assert content_type == b"text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in parse_text(body(metrics))}
    assert {"gateway_requests", "gateway_errors", "process_cpu_seconds", "python_info"} <= families.keys()
    assert sample(metrics, "gateway_requests_total", route='odd "name"\n', method="GET", status="200") == 1
    assert sample(metrics, "gateway_spans_dropped_total") == 3
    assert sample(metrics, "gateway_build_info", version=txgateway.__version__) == 1
    accept = b"application/openmetrics-text; version=1.0.0,text/plain;q=0.5"
    content_type, _ = metrics.exposition(accept)
    assert content_type == b"application/openmetrics-text; version=1.0.0; charset=utf-8"
    text = body(metrics, accept)
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    parsed = {family.name: family for family in parse_openmetrics(text)}
    assert {"gateway_requests", "gateway_errors", "process_cpu_seconds", "python_info"} <= parsed.keys()
    assert parsed["gateway_request_duration_seconds"].unit == "seconds"
    assert {(name, family.type) for name, family in families.items()} == {
        (name, family.type) for name, family in parsed.items()
    }


def test_every_family_of_the_published_list_is_there_with_its_labels() -> None:
    metrics = busy_metrics()
    found = {
        (sample.name, *sorted(sample.labels.keys() - {"le"}))
        for family in parse_text(body(metrics))
        for sample in family.samples
        if sample.name.startswith("gateway_")
    }
    assert found == {
        ("gateway_requests_total", "method", "route", "status"),
        ("gateway_request_duration_seconds_bucket", "method", "route"),
        ("gateway_request_duration_seconds_count", "method", "route"),
        ("gateway_request_duration_seconds_sum", "method", "route"),
        ("gateway_requests_in_flight", "route"),
        ("gateway_request_bytes_total", "route"),
        ("gateway_response_bytes_total", "route"),
        ("gateway_errors_total", "reason", "route"),
        ("gateway_upstream_requests_total", "backend", "outcome", "target"),
        ("gateway_upstream_duration_seconds_bucket", "backend", "target"),
        ("gateway_upstream_duration_seconds_count", "backend", "target"),
        ("gateway_upstream_duration_seconds_sum", "backend", "target"),
        ("gateway_upstream_connections", "backend", "state", "target"),
        ("gateway_upstream_retries_total", "backend", "outcome"),
        ("gateway_target_healthy", "backend", "target"),
        ("gateway_breaker_state", "backend", "target"),
        ("gateway_rate_limit_decisions_total", "decision", "route"),
        ("gateway_rate_limit_degraded",),
        ("gateway_jwt_total", "result"),
        ("gateway_connections", "protocol"),
        ("gateway_connections_refused_total",),
        ("gateway_tls_handshake_failures_total",),
        ("gateway_proxy_headers_refused_total",),
        ("gateway_tls_certificate_expiry_seconds", "name"),
        ("gateway_log_lines_dropped_total",),
        ("gateway_spans_dropped_total",),
        ("gateway_metric_series_dropped_total",),
        ("gateway_config_reload_success",),
        ("gateway_config_reload_timestamp_seconds",),
        ("gateway_build_info", "version"),
    }


def test_requests_between_two_pieces_leave_every_histogram_whole() -> None:
    metrics = RequestMetrics()
    routes = [metrics.route(f"r{number}") for number in range(100)]
    for number, route in enumerate(routes):
        route.observe(b"GET", 200, 0.01, 0, 0, None)
        route.observe(b"POST", 200 + number, 5.0, 0, 0, "X")
    pieces = []
    for number, piece in enumerate(metrics.exposition(b"")[1]):
        pieces.append(piece)
        if number > 300:  # or it would go on until there can be no more series
            continue
        for route in routes:
            route.observe((b"GET", b"PUT")[number % 2], 200 + number, 0.01 * number, 1, 1, f"R{number}")
        metrics.route(f"new{number}").observe(b"GET", 200, 0.01, 0, 0, None)
        metrics.rate_limit(f"new{number}").count("allowed")
        metrics.target("b", f"t{number}").observe("ok", 0.01)
    (durations,) = (
        family for family in parse_text(b"".join(pieces).decode()) if family.name == "gateway_request_duration_seconds"
    )
    ends: dict[tuple[str, str], dict[str, float]] = {}
    for one in durations.samples:
        which = one.name.rpartition("_")[2] + one.labels.get("le", "")
        ends.setdefault((one.labels["route"], one.labels["method"]), {})[which] = one.value
    assert len(ends) >= 200
    assert all(lines["bucket+Inf"] == lines["count"] for lines in ends.values())
    assert max(lines["count"] for lines in ends.values()) > 1


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian package prometheus)")
def test_promtool_finds_nothing_to_complain_about() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=body(busy_metrics()), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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
