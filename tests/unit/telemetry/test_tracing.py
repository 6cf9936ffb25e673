"""Traces of whole requests in virtual time: what goes to targets, and what spans tell."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode
from tests.unit.support import EPOCH_S, MemoryClient, MemoryGateway, message

from txgateway.config import load
from txgateway.config.tracing import TracingSettings
from txgateway.proxy.build import TargetMaker
from txgateway.telemetry.metrics import TargetMetrics
from txgateway.telemetry.span_maker import _peer, resource_of

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-00"
ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
OFF = {**ON, "OTEL_TRACES_SAMPLER": "always_off"}
RETRIES = {"GATEWAY_RETRY_MAX_ATTEMPTS": "3", "GATEWAY_RETRY_BACKOFF": "0"}


def traced(**variables: str) -> MemoryGateway:
    return MemoryGateway({**ON, **variables})


def sent(gateway: MemoryGateway) -> dict[str, str]:
    """The fields of the request that the newest connection has got, by lowered name; none of them twice."""
    head = gateway.target.received().partition(b"\r\n\r\n")[0].decode("latin-1")
    pairs = [line.split(": ", 1) for line in head.split("\r\n")[1:]]
    fields = {name.lower(): value for name, value in pairs}
    assert len(fields) == len(pairs)
    return fields


def ask(gateway: MemoryGateway, *fields: str, path: bytes = b"/") -> dict[str, str]:
    """A whole exchange; the fields that the target got."""
    client = gateway.get(path, *(field.encode() for field in fields))
    got = sent(gateway)
    gateway.target.answer()
    assert client.response().status == 200
    return got


def spans(gateway: MemoryGateway) -> tuple[list[ReadableSpan], ReadableSpan]:
    """The attempts, and the request itself."""
    *attempts, own = gateway.spans.get_finished_spans()
    assert [span.kind for span in attempts] == [SpanKind.CLIENT] * len(attempts)
    assert own.kind is SpanKind.SERVER
    return attempts, own


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Trace, span and parent."""
    context = span.get_span_context()
    assert context is not None
    parent = None if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{context.trace_id:032x}", f"{context.span_id:016x}", parent


def attributes(span: ReadableSpan) -> dict[str, Any]:
    assert span.attributes is not None
    return dict(span.attributes)


# --- what goes to targets ---------------------------------------------------------------------------------------------


def test_without_tracing_a_clients_fields_pass_unchanged() -> None:
    gateway = MemoryGateway()
    got = ask(gateway, f"traceparent: {SAMPLED}", "tracestate: a=1", "baggage: b = 2", "b3: 0", "X-B3-Flags: 1")
    assert (got["traceparent"], got["tracestate"], got["baggage"]) == (SAMPLED, "a=1", "b = 2")
    assert (got["b3"], got["x-b3-flags"]) == ("0", "1")
    assert gateway.log[0].trace is None
    assert (gateway.log[0].trace_id, gateway.log[0].span_id) == (None, None)


def test_a_new_trace_begins_where_the_client_has_none() -> None:
    gateway = traced()
    got = ask(gateway)
    (attempt,), own = spans(gateway)
    trace_id, span_id, parent = ids(own)
    assert parent is None
    assert ids(attempt)[::2] == (trace_id, span_id)
    assert got["traceparent"] == f"00-{trace_id}-{ids(attempt)[1]}-03"
    assert (gateway.log[0].trace_id, gateway.log[0].span_id) == (trace_id, span_id)
    assert "tracestate" not in got


def test_a_clients_trace_goes_on() -> None:
    gateway = traced()
    got = ask(gateway, f"traceparent: {SAMPLED}", "tracestate: a=1 ,b=2", "tracestate: c=3", "baggage: d=4")
    (attempt,), own = spans(gateway)
    assert ids(own)[::2] == (TRACE, SPAN)
    assert own.parent is not None
    assert own.parent.is_remote
    assert ids(attempt)[::2] == (TRACE, ids(own)[1])
    assert attempt.parent is not None
    assert not attempt.parent.is_remote
    assert got["traceparent"] == f"00-{TRACE}-{ids(attempt)[1]}-01"
    assert (got["tracestate"], got["baggage"]) == ("a=1,b=2,c=3", "d=4")
    context = attempt.get_span_context()
    assert context is not None
    assert dict(context.trace_state) == {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize("value", [SAMPLED.upper(), SAMPLED + "-x", f"ff-{TRACE}-{SPAN}-01", "", "garbage"])
def test_an_invalid_parent_begins_a_new_trace_without_its_state(value: str) -> None:
    gateway = traced()
    got = ask(gateway, f"traceparent: {value}", "tracestate: a=1")
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-03", got["traceparent"])
    assert TRACE not in got["traceparent"]
    assert "tracestate" not in got
    assert ids(spans(gateway)[1])[2] is None


def test_two_parents_are_none() -> None:
    got = ask(traced(), f"traceparent: {SAMPLED}", f"Traceparent: {SAMPLED}")
    assert TRACE not in got["traceparent"]


@pytest.mark.parametrize(("flags", "expected"), [("01", "01"), ("03", "03"), ("ff", "03"), ("05", "01")])
def test_of_the_flags_random_is_kept_and_unknown_ones_are_cleared(flags: str, expected: str) -> None:
    got = ask(traced(), f"traceparent: 00-{TRACE}-{SPAN}-{flags}")
    assert got["traceparent"].startswith(f"00-{TRACE}-")
    assert got["traceparent"].endswith(f"-{expected}")


def test_an_unsampled_parent_passes_as_it_is() -> None:
    gateway = traced()
    got = ask(gateway, f"traceparent: {UNSAMPLED}", "tracestate: a=1", "baggage: b=2")
    assert (got["traceparent"], got["tracestate"], got["baggage"]) == (UNSAMPLED, "a=1", "b=2")
    assert gateway.spans.get_finished_spans() == ()
    assert (gateway.log[0].trace_id, gateway.log[0].span_id) == (TRACE, None)


@pytest.mark.parametrize("value", [f"00-{TRACE}-{SPAN}-04", f"01-{TRACE}-{SPAN}-00-more"])
def test_an_unsampled_parent_that_is_not_wholly_understood_is_written_anew(value: str) -> None:
    gateway = traced()
    got = ask(gateway, f"traceparent: {value}")
    assert got["traceparent"] == f"00-{TRACE}-{gateway.log[0].span_id}-00"


def test_what_is_not_sampled_still_has_a_trace() -> None:
    gateway = MemoryGateway(OFF)
    got = ask(gateway)
    line = gateway.log[0]
    assert got["traceparent"] == f"00-{line.trace_id}-{line.span_id}-02"
    assert gateway.spans.get_finished_spans() == ()


def test_a_sampled_parent_is_unsampled_from_here_on_if_the_sampler_says_so() -> None:
    gateway = MemoryGateway(OFF)
    got = ask(gateway, f"traceparent: {SAMPLED}", "tracestate: a=1")
    assert got["traceparent"] == f"00-{TRACE}-{gateway.log[0].span_id}-00"
    assert got["tracestate"] == "a=1"


def test_an_unsampled_parent_is_sampled_from_here_on_if_the_sampler_says_so() -> None:
    gateway = traced(OTEL_TRACES_SAMPLER="always_on")
    got = ask(gateway, f"traceparent: {UNSAMPLED}")
    (attempt,), own = spans(gateway)
    assert got["traceparent"] == f"00-{TRACE}-{ids(attempt)[1]}-01"
    assert ids(own)[::2] == (TRACE, SPAN)


def test_each_request_of_a_connection_has_ids_of_its_own() -> None:
    for variables in (ON, OFF):
        gateway = MemoryGateway(variables)
        client = gateway.connect()
        seen = []
        for _ in range(4):
            client.send(message(b"/", b"Cookie: same"))
            seen.append(sent(gateway)["traceparent"])
            gateway.target.answer()
            client.received()
        assert len(set(seen)) == 4


def test_fields_of_propagators_that_are_not_named_pass_unchanged() -> None:
    fields = (f"traceparent: {SAMPLED}", "tracestate: A!", "baggage: b 2", "b3: x", "X-B3-Sampled: 7")
    got = ask(traced(), *fields)
    assert (got["b3"], got["x-b3-sampled"]) == ("x", "7")
    assert "tracestate" not in got
    assert "baggage" not in got
    got = ask(traced(OTEL_PROPAGATORS="b3"), *fields)
    assert (got["traceparent"], got["tracestate"], got["baggage"]) == (SAMPLED, "A!", "b 2")
    assert re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{16}-1", got["b3"])
    assert "x-b3-sampled" not in got
    got = ask(traced(OTEL_PROPAGATORS="none"), *fields)
    assert (got["traceparent"], got["b3"], got["x-b3-sampled"]) == (SAMPLED, "x", "7")


def test_b3_goes_on() -> None:
    gateway = traced(OTEL_PROPAGATORS="b3multi,b3")
    got = ask(gateway, f"b3: {TRACE[16:]}-{SPAN}-d")
    (attempt,), own = spans(gateway)
    assert ids(own)[::2] == ("0" * 16 + TRACE[16:], SPAN)
    assert got["b3"] == f"{ids(own)[0]}-{ids(attempt)[1]}-d"
    assert (got["x-b3-traceid"], got["x-b3-flags"]) == (ids(own)[0], "1")


def test_b3_that_only_denies_begins_an_unsampled_trace() -> None:
    gateway = traced(OTEL_PROPAGATORS="b3")
    got = ask(gateway, "b3: 0")
    assert re.fullmatch(r"[0-9a-f]{32}-[0-9a-f]{16}-0", got["b3"])
    assert gateway.spans.get_finished_spans() == ()


def test_b3_that_only_accepts_begins_a_sampled_trace() -> None:
    gateway = traced(OTEL_PROPAGATORS="b3", OTEL_TRACES_SAMPLER="parentbased_always_off")
    ask(gateway, "b3: 1")
    assert ids(spans(gateway)[1])[2] is None


def test_b3_that_leaves_the_decision_open_leaves_it_to_the_sampler() -> None:
    for sampler, state in (("parentbased_always_off", "0"), ("parentbased_always_on", "1")):
        gateway = traced(OTEL_PROPAGATORS="b3", OTEL_TRACES_SAMPLER=sampler)
        assert ask(gateway, f"b3: {TRACE}-{SPAN}")["b3"].endswith(f"-{state}")


def test_connection_does_not_take_our_fields_away() -> None:
    got = ask(traced(), f"traceparent: {SAMPLED}", "Connection: traceparent, keep-alive")
    assert got["traceparent"].startswith("00-")


# --- what spans tell --------------------------------------------------------------------------------------------------

DOCUMENT = {
    "backends": {"b": {"targets": ["http://one:9000", "https://two"]}},
    "routes": [
        {"name": "item", "path": "/api/{id}", "backend": "b", "strip_prefix": False},
        {"name": "new", "path": "/old", "backend": "b", "rewrite": "/new", "methods": ["GET"]},
        {"name": "gone", "path": "/gone", "response": {"status": 410, "body": "x"}},
        {"name": "tunnel", "path": "/tunnel", "backend": "b", "upgrades": ["echo"]},
    ],
}


def with_routes(**variables: str) -> MemoryGateway:
    return MemoryGateway({**ON, **variables}, DOCUMENT)


def test_a_request_and_its_attempt() -> None:
    gateway = with_routes()
    client = gateway.connect("192.0.2.7")
    gateway.clock.advance(1)
    client.send(
        b"POST /api/7?secret=1 HTTP/1.1\r\nHost: gateway.test:8000\r\nUser-Agent: ua/1\r\nContent-Length: 0\r\n\r\n"
    )
    gateway.clock.advance(0.25)
    gateway.target.answer(status=b"201 Created")
    assert client.response(b"POST").status == 201
    (attempt,), own = spans(gateway)
    assert own.name == "POST /api/{id}"
    assert attributes(own) == {
        "http.request.method": "POST",
        "txgateway.request_id": "id-1",
        "http.route": "/api/{id}",
        "url.path": "/api/7",
        "url.scheme": "http",
        "server.address": "gateway.test",
        "server.port": 8000,
        "client.address": "192.0.2.7",
        "network.protocol.version": "1.1",
        "user_agent.original": "ua/1",
        "txgateway.route": "item",
        "txgateway.backend": "b",
        "http.response.status_code": 201,
    }
    assert attempt.name == "POST"
    assert attributes(attempt) == {
        "http.request.method": "POST",
        "server.address": "one",
        "server.port": 9000,
        "url.full": "http://one/api/7",
        "txgateway.backend": "b",
        "http.response.status_code": 201,
    }
    assert {span.status.status_code for span in (attempt, own)} == {StatusCode.UNSET}
    for span in (attempt, own):
        assert span.start_time == pytest.approx((EPOCH_S + 1) * 1e9, abs=1000)
        assert span.end_time == pytest.approx((EPOCH_S + 1.25) * 1e9, abs=1000)
    assert own.instrumentation_scope is not None
    assert own.instrumentation_scope.name == "txgateway"


def test_url_is_the_one_that_the_target_is_asked_for() -> None:
    gateway = with_routes()
    gateway.get(b"/old?q=1")
    gateway.get(b"/old?q=1")
    for dialer in gateway.dialers.values():
        dialer.target.answer()
    urls = [attributes(span)["url.full"] for span in gateway.spans.get_finished_spans() if span.kind is SpanKind.CLIENT]
    assert sorted(urls) == ["http://one/new", "https://two/new"]


def test_an_answer_of_the_gateways_own_has_no_attempt() -> None:
    gateway = with_routes()
    assert gateway.get(b"/gone").response().status == 410
    attempts, own = spans(gateway)
    assert attempts == []
    assert (own.name, attributes(own)["http.response.status_code"]) == ("GET /gone", 410)
    assert own.status.status_code is StatusCode.UNSET
    assert "error.type" not in attributes(own)


def test_a_request_of_no_route_is_named_by_its_method() -> None:
    gateway = with_routes()
    assert gateway.get(b"/nowhere").response().status == 404
    _, own = spans(gateway)
    assert own.name == "GET"
    assert "http.route" not in attributes(own)
    assert attributes(own)["txgateway.reason"] == attributes(own)["error.type"] == "NO_ROUTE"
    assert own.status.status_code is StatusCode.UNSET


def test_an_unknown_method_is_one_of_few() -> None:
    gateway = with_routes()
    gateway.get(b"/api/7", method=b"PURGE")
    gateway.target.answer()
    (attempt,), own = spans(gateway)
    assert (attempt.name, own.name) == ("HTTP", "HTTP /api/{id}")
    for span in (attempt, own):
        assert attributes(span)["http.request.method"] == "_OTHER"
        assert attributes(span)["http.request.method_original"] == "PURGE"


def test_a_message_that_is_no_request_is_a_span_too() -> None:
    gateway = traced()
    gateway.connect().send(b"GET / HTTP/1.1\r\nHost: a\r\nBad Header: x\r\n\r\n")
    _, own = spans(gateway)
    assert attributes(own)["http.response.status_code"] == 400
    assert attributes(own)["error.type"] == gateway.log[0].reason


def test_a_bad_status_is_an_error_of_the_attempt_and_a_5xx_of_the_request() -> None:
    for status, of_own in ((b"404 Not Found", None), (b"500 Oops", "500"), (b"503 Busy", "503")):
        gateway = traced()
        gateway.get()
        gateway.target.answer(status=status)
        (attempt,), own = spans(gateway)
        assert attributes(attempt)["error.type"] == status[:3].decode()
        assert attempt.status.status_code is StatusCode.ERROR
        assert attributes(own).get("error.type") == of_own
        assert own.status.status_code is (StatusCode.UNSET if of_own is None else StatusCode.ERROR)
        assert "txgateway.reason" not in attributes(own)


def test_each_attempt_is_a_span_and_the_parent_of_what_its_target_does() -> None:
    gateway = traced(**RETRIES)
    client = gateway.get(b"/", f"traceparent: {SAMPLED}".encode())
    told = []
    for status in (b"503 Busy", b"502 Bad", b"200 OK"):
        told.append(sent(gateway)["traceparent"])
        gateway.target.answer(status=status)
        gateway.wait(0.1)
    assert client.response().status == 200
    attempts, own = spans(gateway)
    assert [f"00-{TRACE}-{ids(attempt)[1]}-01" for attempt in attempts] == told
    assert len(set(told)) == 3
    assert {ids(attempt)[2] for attempt in attempts} == {ids(own)[1]}
    assert [attributes(attempt).get("http.request.resend_count") for attempt in attempts] == [None, 1, 2]
    assert [attributes(attempt)["http.response.status_code"] for attempt in attempts] == [503, 502, 200]
    assert [attributes(attempt).get("error.type") for attempt in attempts] == ["503", "502", None]
    assert own.status.status_code is StatusCode.UNSET


def test_an_attempt_that_fails_says_of_what() -> None:
    gateway = traced(**{**RETRIES, "GATEWAY_RETRY_MAX_ATTEMPTS": "2"})
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nbroken\r\n\r\n")
    gateway.wait(0.1)
    gateway.target.reset()
    assert client.response().status == 502
    attempts, own = spans(gateway)
    reason = gateway.log[0].reason
    assert [attributes(attempt)["error.type"] for attempt in attempts] == ["UPSTREAM_PROTOCOL_ERROR", reason]
    assert all(attempt.status.status_code is StatusCode.ERROR for attempt in attempts)
    assert all("http.response.status_code" not in attributes(attempt) for attempt in attempts)
    assert attributes(own)["error.type"] == attributes(own)["txgateway.reason"] == reason
    assert own.status.status_code is StatusCode.ERROR


def test_an_attempt_without_an_answer_has_no_status_of_the_one_before() -> None:
    gateway = traced(**RETRIES)
    client = gateway.get()
    gateway.target.answer(status=b"503 Busy")
    gateway.wait(0.1)
    gateway.target.reset()
    gateway.wait(0.1)
    gateway.target.answer()
    assert client.response().status == 200
    attempts, _ = spans(gateway)
    assert [attributes(attempt).get("http.response.status_code") for attempt in attempts] == [503, None, 200]


def test_an_answer_that_breaks_off_is_an_error_of_both_whatever_its_status() -> None:
    gateway = traced()
    gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    gateway.target.reset()
    (attempt,), own = spans(gateway)
    assert attributes(attempt)["http.response.status_code"] == attributes(own)["http.response.status_code"] == 200
    assert attributes(attempt)["error.type"] == attributes(own)["error.type"] == gateway.log[0].reason
    assert (attempt.status.status_code, own.status.status_code) == (StatusCode.ERROR, StatusCode.ERROR)


def test_a_client_that_leaves_was_told_no_status() -> None:
    gateway = traced()
    gateway.get().leave()
    (attempt,), own = spans(gateway)
    assert attributes(attempt)["error.type"] == attributes(own)["error.type"] == "CLIENT_GONE"
    assert "http.response.status_code" not in attributes(own)
    assert own.status.status_code is StatusCode.UNSET


def test_a_client_that_leaves_in_the_middle_of_an_answer_is_no_error_of_ours() -> None:
    gateway = traced()
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    client.leave()
    _, own = spans(gateway)
    assert attributes(own)["error.type"] == "CLIENT_GONE"
    assert own.status.status_code is StatusCode.UNSET


def test_a_fragment_is_not_told() -> None:
    gateway = traced()
    assert gateway.get(b"/a#access_token=1").response().status == 400
    _, own = spans(gateway)
    assert attributes(own)["url.path"] == "/a"


def test_a_tunnels_spans_end_with_it() -> None:
    gateway = with_routes()
    client: MemoryClient = gateway.get(b"/tunnel", b"Connection: upgrade", b"Upgrade: echo")
    gateway.target.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n")
    gateway.wait(3)
    assert gateway.spans.get_finished_spans() == ()
    client.end()
    gateway.target.end()
    (attempt,), own = spans(gateway)
    for span in (attempt, own):
        assert attributes(span)["http.response.status_code"] == 101
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.end_time - span.start_time >= 3e9


def test_long_values_are_cut() -> None:
    gateway = MemoryGateway(ON)
    ask(gateway, "User-Agent: " + "x" * 5000, path=b"/" + b"p" * 5000)
    (attempt,), own = spans(gateway)
    assert attributes(own)["url.path"] == "/" + "p" * 1023
    assert attributes(own)["user_agent.original"] == "x" * 1024
    assert len(attributes(attempt)["url.full"]) < 1100


@pytest.mark.parametrize(
    ("target", "expected", "url"),
    [
        ("http://[::1]:90", {"server.address": "::1", "server.port": 90}, "http://[::1]:90/"),
        ("https://t.test", {"server.address": "t.test", "server.port": 443}, "https://t.test/"),
        ("http://t.test", {"server.address": "t.test", "server.port": 80}, "http://t.test/"),
        ("unix:/run/app.sock", {"server.address": "/run/app.sock"}, "http://localhost/"),
    ],
)
def test_a_target_by_its_address(target: str, expected: Mapping[str, Any], url: str) -> None:
    gateway = MemoryGateway({"GATEWAY_BACKEND_TARGET": target})
    configured = load({"GATEWAY_BACKEND_TARGET": target}).backends["default"]
    maker = TargetMaker(configured, gateway.clock, gateway.wheel, 0, gateway.chance, lambda _: TargetMetrics())
    found, base = _peer(maker.make(configured.targets[0]))
    assert found == expected
    assert base + "/" == url


def test_the_resource_says_who_made_the_spans() -> None:
    found = resource_of(TracingSettings("http://a/", service_name="edge", resource={"a": "b", "service.version": "9"}))
    assert found.attributes["service.name"] == "edge"
    assert found.attributes["a"] == "b"
    assert found.attributes["service.version"] == "9"
    assert found.attributes["telemetry.sdk.language"] == "python"
