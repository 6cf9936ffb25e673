"""The gateway in memory does what the gateway does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from txgateway.config import ConfigurationError
from txgateway.middleware import Context, Inner, Middleware
from txgateway.testing import GatewayHarness, Received, Refuse, Reset, Response, Stall

DOCUMENT: dict[str, Any] = {
    "backends": {"resumes": {"targets": ["http://a.test:9000", "http://10.0.0.2:9000"]}},
    "routes": [
        {"name": "api", "path": "/api", "backend": "resumes", "retry": {"max_attempts": 3}},
        {"name": "narrow", "path": "/narrow", "backend": "resumes", "bulkhead": {"max_concurrent": 1, "max_queue": 1}},
    ],
}


@pytest.fixture
def gateway() -> Iterator[GatewayHarness]:
    with GatewayHarness(DOCUMENT, environment={"GATEWAY_MAX_BODY_BYTES": "10"}) as gateway:
        yield gateway
        gateway.send_clients_home()
        gateway.assert_quiet()


def test_answer_comes_from_the_backend_as_it_was_scripted(gateway: GatewayHarness) -> None:
    backend = gateway.backends["resumes"]
    backend.script = Response(201, [(b"x-Odd", b"1"), (b"X-Odd", b"2")], b"made")
    answer = gateway.ask("POST", "/api/x?y", [("X-A", "1"), ("x-a", "2")], b"body")
    assert (answer.status, answer.phrase, answer.body) == (201, b"Created", b"made")
    assert [pair for pair in answer.headers if pair[0].lower() == b"x-odd"] == [(b"x-Odd", b"1"), (b"X-Odd", b"2")]
    assert answer.values("X-ODD") == [b"1", b"2"]
    assert (answer.route, answer.reason, answer.attempts, answer.log["status"]) == ("api", None, 1, 201)
    (received,) = backend.received
    assert (received.method, received.target, received.body) == (b"POST", b"/api/x?y", b"body")
    assert [pair for pair in received.headers if pair[0].lower() == b"x-a"] == [(b"X-A", b"1"), (b"x-a", b"2")]


def test_chunks_and_trailers_pass_both_ways(gateway: GatewayHarness) -> None:
    backend = gateway.backends["resumes"]
    backend.script = Response(200, chunks=[b"a", b"bc"], trailers=[(b"X-T", b"1")])
    answer = gateway.ask("POST", "/api", body=[b"x", b"", b"yz"])
    assert (answer.body, answer.trailers) == (b"abc", [(b"X-T", b"1")])
    assert backend.received[0].body == b"xyz"
    assert backend.received[0].header(b"transfer-encoding") == b"chunked"


def test_script_may_be_made_of_what_was_received(gateway: GatewayHarness) -> None:
    def echo(received: Received) -> Response:
        return Response(200, body=received.body[::-1])

    gateway.backends["resumes"].script = echo
    assert gateway.ask("PUT", "/api", body=b"abc").body == b"cba"


def test_failed_attempts_are_repeated(gateway: GatewayHarness) -> None:
    backend = gateway.backends["resumes"]
    backend.script = [Refuse(), Reset(), Response(200, body=b"third")]
    answer = gateway.ask("GET", "/api")
    assert (answer.body, answer.attempts) == (b"third", 3)
    assert len(backend.received) == 2
    assert gateway.metric("gateway_requests_total", route="api") == 1
    assert gateway.ask("GET", "/api").body == b"third"  # the last of a list goes on


def test_time_is_virtual(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = Stall()
    answer = gateway.ask("GET", "/api")
    assert answer.reason == "DEADLINE_EXCEEDED"
    assert answer.problem["reason"] == "DEADLINE_EXCEEDED"
    assert 30.0 <= gateway.clock.seconds() < 31.0


def test_answer_that_breaks_off_is_told(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = Reset(after_bytes=3)
    with pytest.raises(AssertionError, match="broken off"):
        gateway.ask("GET", "/api")
    assert gateway.log[-1]["reason"] == "UPSTREAM_RESET"


def test_answer_that_does_not_come_is_told(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = Stall()
    with pytest.raises(AssertionError, match="no answer within 5"):
        gateway.ask("GET", "/api", limit_s=5.0)


def test_target_that_is_down_is_avoided(gateway: GatewayHarness) -> None:
    down, up = gateway.backends["resumes"].targets.values()
    down.is_up = False
    assert {gateway.ask("GET", "/api").status for _ in range(6)} == {200}
    assert not down.received
    assert len(up.received) == 6


def test_target_may_have_a_script_of_its_own(gateway: GatewayHarness) -> None:
    targets = gateway.backends["resumes"].targets
    targets["a.test:9000"].script = Response(200, body=b"a")
    targets["10.0.0.2:9000"].script = [Response(200, body=b"b"), Response(200, body=b"c")]
    assert {gateway.ask("GET", "/api").body for _ in range(6)} == {b"a", b"b", b"c"}


def test_call_goes_step_by_step(gateway: GatewayHarness) -> None:
    backend = gateway.backends["resumes"]
    call = gateway.start("POST", "/api", length=4)
    call.send(b"ab")
    gateway.advance(1.0)
    assert not backend.received[0].is_whole
    assert backend.received[0].body == b"ab"
    with pytest.raises(AssertionError, match="in flight"):
        gateway.assert_quiet()
    call.send(b"cd")
    assert gateway.wait_for(call).body == b"ok"


def test_client_that_leaves_is_logged(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = Stall()
    call = gateway.start("GET", "/api")
    gateway.advance(2.0)
    call.leave()
    assert (call.answer, gateway.log[-1]["status"], gateway.log[-1]["duration_ms"]) == (None, 499, 2000.0)
    gateway.assert_quiet()


def test_client_that_takes_nothing_holds_up_the_answer(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = Response(200, body=b"m" * 200_000, after_s=1.0)
    call = gateway.start("GET", "/api")
    call.stall()
    gateway.advance(2.0)
    assert not call.is_over
    call.resume()
    assert len(gateway.wait_for(call).body) == 200_000


def test_permit_that_is_held_is_told(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = Stall()
    first, second = (gateway.start("GET", "/narrow") for _ in range(2))
    assert gateway.ask("GET", "/narrow").reason == "BULKHEAD_FULL"
    with pytest.raises(AssertionError, match="Bulkhead of route narrow: <bulkhead <permits: 0 free, 1 waiting>>"):
        gateway.assert_quiet()
    first.leave()
    second.leave()
    gateway.assert_quiet()


def test_early_answer_does_not_wait_for_the_request(gateway: GatewayHarness) -> None:
    gateway.backends["resumes"].script = [Response(403, at_head=True), Response(200)]
    assert gateway.wait_for(gateway.start("POST", "/api", length=8).send(b"1")).status == 403
    assert gateway.ask("GET", "/api").status == 200


def test_limits_of_the_configuration_hold(gateway: GatewayHarness) -> None:
    assert gateway.ask("POST", "/api", body=b"x" * 11).reason == "BODY_TOO_LARGE"
    assert gateway.ask("GET", "/nowhere").reason == "NO_ROUTE"


def test_unknown_metric_is_an_error(gateway: GatewayHarness) -> None:
    with pytest.raises(KeyError):
        gateway.metric("gateway_nothing_total")


def test_health_checks_go_on() -> None:
    backend = {"targets": ["http://a.test:9000"], "health_check": {"path": "/health", "interval": "5s", "fall": 2}}
    document = {"backends": {"a": backend}, "routes": [{"name": "a", "path": "/", "backend": "a"}]}
    with GatewayHarness(document) as gateway:
        scripted = gateway.backends["a"]
        assert scripted.targets["a.test:9000"].checks
        scripted.health = Response(503)
        gateway.advance(20.0)
        assert gateway.ask("GET", "/").reason == "NO_HEALTHY_TARGET"
        scripted.health = Response(200)
        gateway.advance(30.0)
        assert gateway.ask("GET", "/").status == 200
        assert len(scripted.received) == 1
        gateway.assert_quiet()


def test_routes_come_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "routes.toml"
    file.write_text('[[routes]]\nname = "fixed"\npath = "/"\nresponse = { status = 204 }\n')
    with GatewayHarness(routes_file=file) as gateway:
        assert gateway.ask().status == 204


def test_without_routing_there_is_one_backend() -> None:
    with GatewayHarness() as gateway:
        assert gateway.ask("GET", "/any").body == b"ok"
        assert gateway.backends["default"].received[0].target == b"/any"


class Stamp(Middleware):
    """Says its name."""

    def render(self, request: Any) -> Any:
        request.remove_headers(frozenset({b"x-seen-by"}))
        seen = request.header(b"x-seen") or b""
        request.headers = (*request.headers, (b"x-seen-by", b"X-Seen-By", seen + self.context.name.encode()))
        return self.inner.render(request)


class Telling(Middleware):
    """Counts, and tells of it in the log."""

    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.count = context.metrics.counter("seen_total", "Requests.")
        self.tell = context.log_field("tenant")

    def render(self, request: Any) -> Any:
        self.count.inc()
        self.tell(request, b"acme")
        return self.inner.render(request)


def test_metrics_and_log_fields_of_a_middleware_show() -> None:
    with GatewayHarness(middlewares={"telling": lambda inner, context: Telling(inner, None, context)}) as gateway:
        assert gateway.ask().log["tenant"] == "acme"
        assert gateway.metric("gateway_middleware_telling_seen_total") == 1


class Forgetful(Middleware):
    """Leaves a timer behind."""

    def render(self, request: Any) -> Any:
        self.context.clock.callLater(60.0, int)
        return self.inner.render(request)


def forgetful(inner: Inner, context: Context) -> Inner:
    return Forgetful(inner, None, context)


def test_middlewares_stand_in_every_route() -> None:
    def stamp(inner: Inner, context: Context) -> Inner:
        return Stamp(inner, None, context)

    with GatewayHarness(DOCUMENT, middlewares={"first": stamp, "second": stamp}) as gateway:
        for path in ("/api", "/narrow"):
            gateway.ask("GET", path)
        assert [one.header(b"x-seen-by") for one in gateway.backends["resumes"].received] == [b"second"] * 2


def test_middlewares_of_the_document_are_made() -> None:
    table = {"stamp": {"use": "tests.unit.testing.test_harness:Stamp"}}
    routes = [{**route, "middlewares": ["stamp"]} for route in DOCUMENT["routes"]]
    with GatewayHarness({**DOCUMENT, "routes": routes, "middlewares": table}) as gateway:
        gateway.ask("GET", "/api")
        assert gateway.backends["resumes"].received[0].header(b"x-seen-by") == b"stamp"


def test_further_middlewares_stand_below_those_of_the_document() -> None:
    def stamp(inner: Inner, context: Context) -> Inner:
        return Noting(inner, None, context)

    table = {"own": {"use": "tests.unit.testing.test_harness:Noting"}}
    routes = [{**DOCUMENT["routes"][0], "middlewares": ["own"]}, *DOCUMENT["routes"][1:]]
    document = {**DOCUMENT, "routes": routes, "middlewares": table}
    with GatewayHarness(document, middlewares={"first": stamp, "second": stamp}) as gateway:
        for path in ("/api", "/narrow"):
            gateway.ask("GET", path)
        seen = [one.header(b"x-path") for one in gateway.backends["resumes"].received]
    assert seen == [b"own first second", b"first second"]
    with pytest.raises(ValueError, match="'own'"):
        GatewayHarness(document, middlewares={"own": stamp})


class Noting(Middleware):
    """Notes the way that a request has come."""

    def render(self, request: Any) -> Any:
        way = b" ".join(filter(None, (request.header(b"x-path"), self.context.name.encode())))
        request.remove_headers(frozenset({b"x-path"}))
        request.headers = (*request.headers, (b"x-path", b"X-Path", way))
        request.fields = request.fields | {b"x-path": way}
        return self.inner.render(request)


def test_timer_that_is_left_is_told() -> None:
    with GatewayHarness(middlewares={"forgetful": forgetful}) as gateway:
        gateway.ask()
        with pytest.raises(AssertionError, match="timer: int"):
            gateway.assert_quiet()
        gateway.advance(60.0)
        gateway.assert_quiet()


def test_same_calls_have_the_same_outcome() -> None:
    def run() -> list[tuple[Any, ...]]:
        with GatewayHarness(DOCUMENT) as gateway:
            gateway.backends["resumes"].script = [Response(503), Reset(), Stall(), Response(200)]
            answers = [gateway.ask("GET", "/api") for _ in range(4)]
            return [(one.status, one.attempts, one.log["target"], one.log["duration_ms"]) for one in answers]

    assert run() == run()


def test_what_is_not_here_is_refused() -> None:
    with pytest.raises(ValueError, match="memory"):
        GatewayHarness(environment={"GATEWAY_REDIS_URL": "redis://a"})
    with pytest.raises(ValueError, match="h2c"):
        GatewayHarness(environment={"GATEWAY_BACKEND_TARGET": "h2c://a"})
    with pytest.raises(ConfigurationError):
        GatewayHarness({"routes": [{"name": "a"}]})
