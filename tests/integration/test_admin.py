"""Probes on both ports, and what the admin port tells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.harness import Gateway, routes

ANSWERS_ITSELF = routes({"routes": [{"name": "all", "path": "/", "response": {"body": "hello"}}]})
#: The families of the published list that are built.
FAMILIES = {
    "gateway_requests_total", "gateway_request_duration_seconds_bucket", "gateway_requests_in_flight",
    "gateway_request_bytes_total", "gateway_response_bytes_total", "gateway_errors_total",
    "gateway_upstream_connections", "gateway_connections", "process_resident_memory_bytes", "process_open_fds",
}  # fmt: skip


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {"GATEWAY_BACKEND_TARGET": module_backend.url, "GATEWAY_TIMEOUT_IDLE": "77s"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


def test_probes_answer_on_both_ports_and_leave_no_trace(gateway: Gateway, backend: ScriptedBackend) -> None:
    before = gateway.metric("gateway_requests_total", route="default", method="GET", status="200")
    count = len(gateway.lines)
    for path, status in (("/health/live", "live"), ("/health/ready", "ready")):
        response = gateway.get(path)
        assert (response.status, response.json()["status"]) == (200, status)
        assert response.header("X-Request-ID") is not None
        assert gateway.admin(path).json() == response.json()
    assert gateway.get("/health/live?x=1").status == 200
    assert gateway.get("/health/live", method="HEAD").status == 200
    assert gateway.get("/health/live", method="POST").status == 405
    gateway.access_line(gateway.get("/last"))
    requests = [line["path"] for line in gateway.lines[count:] if line["event"] == "request"]
    assert requests == ["/last"]
    assert gateway.metric("gateway_requests_total", route="default", method="GET", status="200") == before + 1
    assert backend.received().target == b"/last"
    gateway.get("/health/other")
    assert backend.received().target == b"/health/other"


def test_probe_prefix_can_be_changed_and_switched_off(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url}
    with Gateway(tmp_path, {**environment, "GATEWAY_PROBE_PREFIX": "/-/probe"}) as gateway:
        assert gateway.get("/-/probe/ready").json()["status"] == "ready"
        assert gateway.get("/health/ready").body == b"ok"
    with Gateway(tmp_path, {**environment, "GATEWAY_PROBE_PREFIX": ""}) as gateway:
        assert gateway.get("/health/live").body == b"ok"


def test_metrics_have_all_families_in_both_formats(gateway: Gateway, backend: ScriptedBackend) -> None:
    gateway.get("/")
    gateway.get("/%00")
    text = gateway.admin("/metrics")
    assert (text.header("Content-Type") or "").startswith("text/plain; version=0.0.4")
    samples = {line.partition("{")[0].partition(" ")[0] for line in text.body.decode().splitlines() if line[0] != "#"}
    assert samples >= FAMILIES
    openmetrics = gateway.admin("/metrics", "Accept: application/openmetrics-text; version=1.0.0")
    assert (openmetrics.header("Content-Type") or "").startswith("application/openmetrics-text")
    assert openmetrics.body.endswith(b"# EOF\n")


def test_metrics_count_requests_bytes_and_connections(gateway: Gateway, backend: ScriptedBackend) -> None:
    def numbers() -> list[float]:
        return [
            gateway.metric("gateway_requests_total", route="default", method="POST", status="200"),
            gateway.metric("gateway_request_bytes_total", route="default"),
            gateway.metric("gateway_response_bytes_total", route="default"),
            gateway.metric("gateway_request_duration_seconds_count", route="default", method="POST"),
        ]

    before = numbers()
    gateway.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
    assert [after - was for after, was in zip(numbers(), before, strict=True)] == [1, 5, 2, 1]
    labels = {"backend": "default", "target": f"127.0.0.1:{backend.port}"}
    assert gateway.metric("gateway_upstream_connections", state="idle", **labels) >= 1
    assert gateway.metric("gateway_upstream_connections", state="active", **labels) == 0


def test_unknown_methods_share_a_label(gateway: Gateway, backend: ScriptedBackend) -> None:
    before = gateway.metric("gateway_requests_total", route="default", method="other", status="200")
    assert gateway.get("/", method="PROPFIND").status == 200
    assert gateway.metric("gateway_requests_total", route="default", method="other", status="200") == before + 1


def test_status_tells_routes_backends_and_what_goes_on(gateway: Gateway, backend: ScriptedBackend) -> None:
    def look(exchange: Exchange) -> None:
        seen.append(gateway.status())
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    seen: list[dict[str, object]] = []
    backend.script = look
    gateway.get("/")
    (status,) = seen
    assert (status["state"], status["in_flight"]) == ("ready", 1)
    (target,) = status["backends"][0]["targets"]  # type: ignore[index]
    assert (target["target"], target["active"]) == (f"127.0.0.1:{backend.port}", 1)
    assert status["routes"][0]["path"] == "/"  # type: ignore[index]


def test_config_tells_values_and_sources(gateway: Gateway) -> None:
    response = gateway.admin("/config")
    assert response.status == 200
    settings = response.json()["settings"]
    assert settings["GATEWAY_TIMEOUT_IDLE"] == {"value": "77s", "source": "env GATEWAY_TIMEOUT_IDLE"}
    assert settings["GATEWAY_MAX_BODY_BYTES"] == {"value": "10MiB", "source": "default"}


def test_admin_page_is_there_and_nothing_else(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert b"/metrics" in gateway.admin("/").body
    assert gateway.admin("/nothing").status == 404
    assert gateway.get("/metrics").body == b"ok"  # not on the traffic port


def test_admin_port_can_be_switched_off(tmp_path: Path) -> None:
    with Gateway(tmp_path, {**ANSWERS_ITSELF, "GATEWAY_ADMIN_PORT": "0"}) as gateway:
        assert gateway.get("/").body == b"hello"
    assert [line["listener"] for line in gateway.lines if line["event"] == "listening"] == ["traffic"]
