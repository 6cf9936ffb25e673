"""Traces of a whole gateway, as a real collector gets them, and what a collector that is not well does to traffic."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.backend import OK, Exchange, ScriptedBackend, answer, answer_and_reset
from tests.integration.client import Client
from tests.integration.collector import Collector, Span
from tests.integration.harness import Gateway, free_port, routes, run, wait_until

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"traceparent: 00-{TRACE}-{SPAN}-01"
BUSY = b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"
#: Far below what the spans of the test would take, had they been kept.
GROWTH_BYTES = 8 * 2**20


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running
        running.hold.set()
    assert not running.faults, running.faults


def tracing(collector: Collector | int, **variables: str) -> dict[str, str]:
    port = collector if isinstance(collector, int) else collector.port
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "300",
        **variables,
    }


def by_kind(spans: list[Span]) -> tuple[list[Span], Span]:
    (own,) = [span for span in spans if span.kind == "server"]
    return [span for span in spans if span.kind == "client"], own


def ask(gateway: Gateway, count: int) -> None:
    with gateway.client() as client:
        for _ in range(count):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 200


def states(gateway: Gateway) -> list[str]:
    return [line["state"] for line in gateway.lines if line["event"] == "tracing"]


def test_sampled_request_is_the_exemplar_of_its_bucket(
    tmp_path: Path, backend: ScriptedBackend, collector: Collector
) -> None:
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **tracing(collector)}) as gateway:
        gateway.get("/", PARENT)
        told = gateway.admin("/metrics", "Accept: application/openmetrics-text; version=1.0.0").body.decode()
    examples = [line for line in told.splitlines() if line.startswith("gateway_request_duration_seconds_bucket")]
    (example,) = [line for line in examples if "#" in line]
    assert f'# {{trace_id="{TRACE}"}} 0.' in example


# --- spans ------------------------------------------------------------------------------------------------------------


def test_a_trace_goes_through_the_gateway(tmp_path: Path, backend: ScriptedBackend, collector: Collector) -> None:
    document = {
        "backends": {"b": {"targets": [backend.url]}},
        "routes": [{"name": "item", "path": "/api/{id}", "backend": "b"}],
    }
    variables = tracing(
        collector,
        OTEL_SERVICE_NAME="edge",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        OTEL_EXPORTER_OTLP_HEADERS="x-key=secret",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )
    with Gateway(tmp_path, {**routes(document), **variables}) as gateway:
        response = gateway.get(
            "/api/7?token=secret", PARENT, "tracestate: a=1, b=2", "baggage: c=3", "User-Agent: ua/1", host="a.test:81"
        )
        (attempt,), own = by_kind(collector.wait_for(2))
        line = gateway.access_line(response)
    received = backend.received()
    assert received.header("traceparent") == f"00-{TRACE}-{attempt.span_id}-01"
    assert (received.header("tracestate"), received.header("baggage")) == ("a=1,b=2", "c=3")
    assert (own.trace_id, own.parent_id, own.trace_state) == (TRACE, SPAN, "a=1,b=2")
    assert (attempt.trace_id, attempt.parent_id) == (TRACE, own.span_id)
    assert (line["trace_id"], line["span_id"]) == (TRACE, own.span_id)
    assert (own.name, attempt.name) == ("GET /api/{id}", "GET")
    assert own.attributes == {
        "http.request.method": "GET",
        "http.route": "/api/{id}",
        "http.response.status_code": 200,
        "url.path": "/api/7",
        "url.scheme": "http",
        "server.address": "a.test",
        "server.port": 81,
        "client.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "ua/1",
        "txgateway.route": "item",
        "txgateway.backend": "b",
        "txgateway.request_id": line["request_id"],
    }
    assert attempt.attributes == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": backend.port,
        "url.full": f"{backend.url}/api/7",
        "txgateway.backend": "b",
    }
    assert not own.is_error
    assert not attempt.is_error
    assert own.start_ns <= attempt.start_ns <= attempt.end_ns <= own.end_ns
    assert own.resource["service.name"] == "edge"
    assert own.resource["deployment.environment"] == "test"
    assert collector.received().header("x-key") == "secret"
    assert collector.targets == {b"/v1/traces"}


def test_each_attempt_is_a_span(tmp_path: Path, backend: ScriptedBackend, collector: Collector) -> None:
    variables = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_RETRY_BACKOFF": "1ms", "GATEWAY_RETRY_ON": "reset,503"}
    scripts = iter([answer(BUSY), answer_and_reset(), answer(OK)])

    def script(exchange: Exchange) -> None:
        next(scripts)(exchange)

    backend.script = script
    with Gateway(tmp_path, {**variables, **tracing(collector)}) as gateway:
        assert gateway.get("/").status == 200
        attempts, own = by_kind(collector.wait_for(4))
    sent = [backend.received().header("traceparent") for _ in range(3)]
    assert sent == [f"00-{own.trace_id}-{attempt.span_id}-03" for attempt in attempts]
    assert [attempt.parent_id for attempt in attempts] == [own.span_id] * 3
    assert [attempt.attributes.get("error.type") for attempt in attempts] == ["503", "UPSTREAM_RESET", None]
    assert [attempt.attributes.get("http.request.resend_count") for attempt in attempts] == [None, 1, 2]
    assert [attempt.is_error for attempt in attempts] == [True, True, False]
    assert (own.parent_id, own.is_error) == ("", False)


def test_an_error_of_the_gateways_own(tmp_path: Path, collector: Collector) -> None:
    port = free_port()
    variables = {"GATEWAY_BACKEND_TARGET": f"http://127.0.0.1:{port}", "GATEWAY_RETRY_MAX_ATTEMPTS": "1"}
    with Gateway(tmp_path, {**variables, **tracing(collector)}) as gateway:
        assert gateway.get("/").status == 502
        (attempt,), own = by_kind(collector.wait_for(2))
    assert (attempt.attributes["error.type"], attempt.is_error) == ("UPSTREAM_CONNECT_FAILED", True)
    assert own.attributes["txgateway.reason"] == own.attributes["error.type"] == "UPSTREAM_CONNECT_FAILED"
    assert (own.attributes["http.response.status_code"], own.is_error) == (502, True)


def test_what_is_not_sampled_is_not_exported(tmp_path: Path, backend: ScriptedBackend, collector: Collector) -> None:
    variables = tracing(collector, OTEL_TRACES_SAMPLER="parentbased_always_off")
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **variables}) as gateway:
        line = gateway.access_line(gateway.get("/one"))
        gateway.get("/two", PARENT)
        spans = collector.wait_for(2)
    assert {span.attributes.get("url.path") for span in spans} == {"/two", None}
    assert backend.received().header("traceparent") == f"00-{line['trace_id']}-{line['span_id']}-02"


def test_a_bad_variable_stops_the_start(tmp_path: Path) -> None:
    variables = {"GATEWAY_BACKEND_TARGET": "demo", **tracing(4318, OTEL_TRACES_SAMPLER="sometimes")}
    ended = run("twistd", "-n", "--pidfile=", "gateway", env=variables, cwd=tmp_path)
    assert ended.returncode == 78
    assert "OTEL_TRACES_SAMPLER: 'sometimes' is not accepted: expected always_on, " in ended.stderr


# --- a collector that is not well -------------------------------------------------------------------------------------


def test_without_a_collector_traffic_goes_on_and_what_is_lost_is_counted(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    port = free_port()
    variables = tracing(port, OTEL_BSP_MAX_QUEUE_SIZE="64", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="32")
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **variables}) as gateway:
        ask(gateway, 500)
        before = gateway.resident_bytes()
        ask(gateway, 2000)
        assert gateway.resident_bytes() - before < GROWTH_BYTES
        gateway.wait_for_metric("gateway_spans_dropped_total", 5000)
        told = states(gateway)
    assert "Traceback" not in gateway.output_text
    (state,) = [state for state in told if state.startswith("spans are not exported")]
    assert state.startswith(f"spans are not exported to http://127.0.0.1:{port}/v1/traces: ")


def test_a_collector_that_comes_back_is_used_again(
    tmp_path: Path, backend: ScriptedBackend, collector: Collector
) -> None:
    collector.status = b"503 Busy"
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **tracing(collector)}) as gateway:
        ask(gateway, 1)
        gateway.wait_for_metric("gateway_spans_dropped_total", 2)
        ask(gateway, 1)
        gateway.wait_for_metric("gateway_spans_dropped_total", 4)
        collector.status = b"200 OK"
        ask(gateway, 1)
        assert len(collector.wait_for(2)) == 2
        gateway.wait_for_line(event="tracing", state="spans are exported again")
        told = states(gateway)
        assert gateway.metric("gateway_spans_dropped_total") == 4
    assert len(told) == 2
    assert told[0].startswith("spans are not exported to ")


def test_a_collector_that_hangs_holds_up_nothing_but_spans(
    tmp_path: Path, backend: ScriptedBackend, collector: Collector
) -> None:
    collector.hold.clear()
    variables = tracing(
        collector,
        OTEL_BSP_SCHEDULE_DELAY="2000",
        OTEL_BSP_MAX_QUEUE_SIZE="10",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="2",
        OTEL_EXPORTER_OTLP_TIMEOUT="60000",
        OTEL_BSP_EXPORT_TIMEOUT="60000",
    )
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **variables}) as gateway:
        ask(gateway, 1)
        collector.wait_for_posts(1)
        ask(gateway, 20)
        lost = 42 - len(collector.spans) - 10
        gateway.wait_for_metric("gateway_spans_dropped_total", lost)
        assert states(gateway) == ["spans are dropped: 10 wait for the collector already"]
        collector.hold.set()
        collector.wait_for(42 - lost)
        ask(gateway, 1)
        collector.wait_for(44 - lost)
        assert gateway.metric("gateway_spans_dropped_total") == lost


# --- the end ----------------------------------------------------------------------------------------------------------


def test_what_waits_is_exported_at_the_end(tmp_path: Path, backend: ScriptedBackend, collector: Collector) -> None:
    variables = tracing(collector, OTEL_BSP_SCHEDULE_DELAY="600000")
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **variables}) as gateway:
        ask(gateway, 30)
        assert collector.posts == 0
        gateway.stop()
        assert len(collector.wait_for(60)) == 60


def test_a_collector_that_hangs_does_not_hold_up_the_end(
    tmp_path: Path, backend: ScriptedBackend, collector: Collector
) -> None:
    collector.hold.clear()
    variables = tracing(collector, OTEL_EXPORTER_OTLP_TIMEOUT="60000", OTEL_BSP_EXPORT_TIMEOUT="60000")
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": backend.url, **variables}) as gateway:
        ask(gateway, 3)
        collector.wait_for_posts(1)
        gateway.stop()
        line = gateway.wait_for_line(event="spans are lost: the collector did not take")
        assert (line["level"], line["spans"]) == ("WARN", 6)


def test_the_exporter_lives_in_the_process_that_serves(
    tmp_path: Path, backend: ScriptedBackend, collector: Collector
) -> None:
    """A daemon forks after it has read its configuration, and threads do not survive that."""
    log = tmp_path / "log"
    pid = tmp_path / "pid"
    port = free_port()
    variables = {
        "GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": str(port),
        "GATEWAY_ADMIN_PORT": "0", **tracing(collector),
    }  # fmt: skip
    started = run("twistd", f"--logfile={log}", f"--pidfile={pid}", "gateway", env=variables, cwd=tmp_path)
    assert started.returncode == 0, started.stderr
    number = int(pid.read_text(encoding="ascii"))
    try:
        with Client(port) as client:
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 200
        assert len(collector.wait_for(2)) == 2
    finally:
        os.kill(number, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{number}").exists(), "the daemon is gone")
