"""A gateway in front of targets that fail: retries, breakers, checks and readiness, over real sockets."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import Exchange, Script, ScriptedBackend, answer, answer_and_reset, hang
from tests.integration.harness import Gateway, free_port, routes, wait_until

UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nX-Why: tired\r\nContent-Length: 4\r\n\r\nbusy"
#: No pause is longer than this, so that tests need not wait for chance.
QUICK = {"backoff": "1ms", "backoff_max": "1ms"}


def saying(name: str) -> Script:
    return answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())


@pytest.fixture
def two() -> Iterator[list[ScriptedBackend]]:
    with ExitStack() as stack:
        yield [stack.enter_context(ScriptedBackend()) for _ in range(2)]


def document(backends: list[ScriptedBackend], backend: dict[str, Any] | None = None, **route: Any) -> dict[str, str]:
    targets = [each.url for each in backends]
    return routes(
        {
            "backends": {"b": {"targets": targets, **(backend or {})}},
            "routes": [{"name": "r", "path": "/", "backend": "b", "retry": QUICK, **route}],
        }
    )


@pytest.mark.parametrize("failing", [answer_and_reset(), answer(UNAVAILABLE), answer(b"SSH-2.0-x\r\n\r\n"), hang])
def test_failed_attempt_is_repeated_at_the_other_target(
    two: list[ScriptedBackend], tmp_path: Path, failing: Script
) -> None:
    two[0].script, two[1].script = failing, saying("b")
    environment = document(two, timeout={"per_try": "200ms"})
    with Gateway(tmp_path, environment) as gateway:
        responses = [gateway.get(f"/{number}") for number in range(4)]
        assert [(response.status, response.body) for response in responses] == [(200, b"b")] * 4
        lines = [gateway.access_line(response) for response in responses]
        assert sorted(line["attempts"] for line in lines) == [1, 1, 2, 2]
        assert {line["target"] for line in lines} == {f"127.0.0.1:{two[1].port}"}
        gateway.wait_for_metric("gateway_upstream_retries_total", 2, backend="b", outcome="success")
        outcome = "timeout" if failing is hang else "error"
        target = f"127.0.0.1:{two[0].port}"
        assert gateway.metric("gateway_upstream_requests_total", backend="b", target=target, outcome=outcome) == 2
        first = [two[0].received().header("X-Request-ID") for _ in range(2)]
        assert set(first) <= {response.header("X-Request-ID") for response in responses}


def test_body_is_sent_again_to_the_byte(two: list[ScriptedBackend], tmp_path: Path) -> None:
    def failing(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(UNAVAILABLE)

    two[0].script, two[1].script = failing, saying("b")
    with Gateway(tmp_path, document(two)) as gateway:
        body = bytes(range(256)) * 64
        for _ in range(2):
            head = b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
            response = gateway.ask(head + body, "PUT")
            assert response.body == b"b"
        assert [two[1].received().body for _ in range(2)] == [body, body]


def test_post_is_not_repeated_once_it_was_sent(two: list[ScriptedBackend], tmp_path: Path) -> None:
    two[0].script, two[1].script = answer(UNAVAILABLE), answer(UNAVAILABLE)
    with Gateway(tmp_path, document(two)) as gateway:
        response = gateway.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "POST")
        assert (response.status, response.body, response.header("X-Why")) == (503, b"busy", "tired")
        assert gateway.access_line(response)["attempts"] == 1


def test_connection_that_cannot_be_made_is_repeated_for_every_method(tmp_path: Path) -> None:
    with ScriptedBackend() as backend:
        backend.script = saying("b")
        targets = [f"http://127.0.0.1:{free_port()}", backend.url]
        environment = routes(
            {
                "backends": {"b": {"targets": targets}},
                "routes": [{"name": "r", "path": "/", "backend": "b", "retry": QUICK}],
            }
        )
        with Gateway(tmp_path, environment) as gateway:
            for _ in range(3):
                response = gateway.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", "POST")
                assert (response.status, response.body) == (200, b"b")
                assert backend.received().body == b"hi"


def test_last_answer_is_passed_on_when_attempts_are_spent(two: list[ScriptedBackend], tmp_path: Path) -> None:
    for backend in two:
        backend.script = answer(UNAVAILABLE)
    with Gateway(tmp_path, document(two)) as gateway:
        response = gateway.get("/")
        assert (response.status, response.body, response.header("X-Why")) == (503, b"busy", "tired")
        line = gateway.access_line(response)
        assert (line["attempts"], line["reason"]) == (3, None)


def test_open_breaker_refuses_and_lets_one_probe_through(two: list[ScriptedBackend], tmp_path: Path) -> None:
    (backend,) = two[:1]
    backend.script = answer(UNAVAILABLE)
    breaker = {"failures": 2, "open_for": "500ms"}
    with Gateway(tmp_path, document([backend], {"breaker": breaker}, retry={"max_attempts": 1})) as gateway:
        target = f"127.0.0.1:{backend.port}"
        assert [gateway.get("/").status for _ in range(2)] == [503, 503]
        refused = gateway.get("/")
        assert (refused.status, refused.json()["reason"], refused.header("Retry-After")) == (503, "BREAKER_OPEN", "1")
        assert gateway.metric("gateway_breaker_state", backend="b", target=target) == 2
        assert gateway.status()["backends"][0]["targets"][0]["breaker"] == "open"
        backend.script = saying("b")
        wait_until(lambda: gateway.get("/").status == 200, "the probe")
        assert gateway.metric("gateway_breaker_state", backend="b", target=target) == 0
        assert gateway.get("/").body == b"b"


def test_budget_bounds_the_attempts(two: list[ScriptedBackend], tmp_path: Path) -> None:
    two[0].script = two[1].script = answer(UNAVAILABLE)
    environment = document(two, {"breaker": {"enabled": False}})
    with Gateway(tmp_path, environment) as gateway, gateway.client() as client:
        for _ in range(100):
            client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status == 503
        tried = 0
        for backend in two:
            while backend.has_received():
                backend.received()
                tried += 1
        assert 100 < tried <= 123
        assert gateway.metric("gateway_upstream_retries_total", backend="b", outcome="budget") > 0


def test_checks_take_a_target_out_and_bring_it_back(two: list[ScriptedBackend], tmp_path: Path) -> None:
    """By HTTP, while requests still succeed: checks and breakers go by different things."""
    is_well = True

    def scripted(name: str) -> Script:
        def script(exchange: Exchange) -> None:
            is_check = exchange.request.target == b"/healthz"
            exchange.read_body()
            if is_check and name == "a" and not is_well:
                exchange.send(UNAVAILABLE)
            else:
                exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())

        return script

    for backend, name in zip(two, "ab", strict=True):
        backend.script = scripted(name)
    checks = {"path": "/healthz", "interval": "100ms", "fall": 2, "rise": 2}
    with Gateway(tmp_path, document(two, {"health_check": checks, "panic_percent": 0})) as gateway:
        target = f"127.0.0.1:{two[0].port}"

        def answers() -> Counter[bytes]:
            return Counter(gateway.get("/").body for _ in range(6))

        assert answers() == {b"a": 3, b"b": 3}
        is_well = False
        gateway.wait_for_metric("gateway_target_healthy", 0, backend="b", target=target)
        assert answers() == {b"b": 6}
        ready = gateway.get("/health/ready")
        assert ready.status == 200
        assert ready.json()["sick_backends"] == [{"name": "b", "healthy": 1, "targets": 2}]
        is_well = True
        gateway.wait_for_metric("gateway_target_healthy", 1, backend="b", target=target)
        assert answers() == {b"a": 3, b"b": 3}
        requests = gateway.metric("gateway_requests_total", route="r", method="GET", status="200")
        assert requests == 18  # no check is counted as a request


def test_nobody_healthy_is_told_at_once_and_by_readiness(two: list[ScriptedBackend], tmp_path: Path) -> None:
    for backend in two:
        backend.script = answer(UNAVAILABLE)
    checks = {"path": "/healthz", "interval": "50ms", "fall": 1}
    with Gateway(tmp_path, document(two, {"health_check": checks})) as gateway:
        wait_until(lambda: gateway.get("/health/ready").json()["status"] == "no healthy target", "the verdict")
        response = gateway.get("/")
        assert (response.status, response.json()["reason"]) == (503, "NO_HEALTHY_TARGET")
        for backend in two:
            backend.script = saying("b")
        wait_until(lambda: gateway.get("/health/ready").status == 200, "readiness")
        assert gateway.get("/").body == b"b"


def test_dead_target_costs_no_request(tmp_path: Path) -> None:
    """While requests are under way at it, and after it is gone."""
    with ExitStack() as stack:
        backends = [stack.enter_context(ScriptedBackend()) for _ in range(3)]
        for backend, name in zip(backends, "abc", strict=True):
            backend.script = saying(name)
        with Gateway(tmp_path, document(backends)) as gateway, gateway.client() as client:
            answers: list[bytes] = []
            for number in range(90):
                if number == 30:  # no more connections, and those that are there break
                    backends[0].script = answer_and_reset()
                    backends[0].stop_listening()
                client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                response = client.read_response()
                assert response.status == 200
                answers.append(response.body)
            assert Counter(answers[:30]) == {b"a": 10, b"b": 10, b"c": 10}
            assert Counter(answers[60:]) == {b"b": 15, b"c": 15}


def test_retry_after_of_the_target_is_waited_for(two: list[ScriptedBackend], tmp_path: Path) -> None:
    (backend,) = two[:1]
    times: list[float] = []

    def script(exchange: Exchange) -> None:
        exchange.read_body()
        times.append(time.monotonic())
        later = b"HTTP/1.1 503 Later\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        exchange.send(later if len(times) == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    backend.script = script
    with Gateway(tmp_path, document([backend])) as gateway:
        assert gateway.get("/").status == 200
        assert len(times) == 2
        assert times[1] - times[0] >= 1
