"""What is explained is what happens: the same request, asked about and then really made."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.helpers.explained import DOCUMENT, ENVIRONMENT, token
from tests.property.test_routing import requests, rules
from tests.unit.support import MemoryGateway

from txgateway.errors import MethodNotAllowed, NoRoute
from txgateway.explain import Asked, explain, lines, still_pipeline
from txgateway.health.probes import Readiness, probe_resources
from txgateway.routing.table import RouteRule, RouteTable

TOKEN = token()
LIVE = ("health", "breaker", "in_flight", "connections")


@given(st.lists(rules(), max_size=8), st.lists(requests, max_size=8))
@settings(deadline=None, max_examples=300)
def test_first_candidate_that_lacks_nothing_is_the_match(
    drawn: list[RouteRule], asked: list[tuple[str, list[str], str, dict[str, str]]]
) -> None:
    named = [RouteRule(str(at), rule.hosts, rule.path, rule.methods, rule.headers) for at, rule in enumerate(drawn)]
    try:
        table = RouteTable((rule, rule.name) for rule in named)
    except ValueError:
        assume(False)
    for host, segments, method, headers in asked:
        path = b"/" + "/".join(segments).encode()
        fields = {name.encode(): value.encode() for name, value in headers.items()}
        found = list(table.candidates(host.encode(), path, method.encode(), fields))
        fitting = [(one.value, one.parameters) for one in found if not one.lacks]
        assert all(one.lacks[0] == "host" for one in found if one.host == "other")
        try:
            match = table.match(host.encode(), path, method.encode(), fields)
        except NoRoute:
            assert not fitting
            assert not [one for one in found if one.lacks == ("methods",)]
        except MethodNotAllowed:
            assert not fitting
            assert [one for one in found if one.lacks == ("methods",)]
        else:
            assert fitting[0] == match


hosts = st.sampled_from([
    "api.example.com", "API.example.com:80", "x.example.org", "x.y.example.org", "old.example.com", "localhost", "a b",
    "",
])  # fmt: skip
paths = st.sampled_from([
    "/api", "/api/", "/api/v1/x", "/api//x", "//api/x", "/%61pi/x", "/api/../x", "/api;v=1/x", "/users", "/users/7/cv",
    "/users/%C3%A9/cv", "/users/public/cv", "/users/7", "/office/x", "/officer", "/", "/health/live", "/health/live/x",
    "/api/x#y", "/api/%zz", "/api%2Fx", "x", "http://api.example.com/api/y", "/a b", "//users/7/cv",
])  # fmt: skip
methods = st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW", "get", "CONNECT"])
header_lines = st.lists(
    st.sampled_from([
        "Origin: https://app.example.com", "Origin: https://evil.example", "Access-Control-Request-Method: POST",
        "Access-Control-Request-Method: PUT", "Content-Type: application/json", "Content-Type: text/plain",
        "Content-Length: 3", "Transfer-Encoding: chunked", f"Authorization: Bearer {TOKEN}", "Authorization: Basic eA==",
        "X-Api-Key: k1", "X-Beta: 1", "X-Beta: 2", "X-Shard: s1", "X-Shard: s2", "X_User: eve", "X-User: eve",
        "Expect: 200-ok", "Expect: 100-continue", "X-Forwarded-For: 192.0.2.9", "Broken", "Sp ace: x", "Max-Forwards: 0",
        "Max-Forwards: 1",
    ]),
    max_size=4,
)  # fmt: skip
clients = st.sampled_from(["127.0.0.1", "192.0.2.7", "10.0.0.1", "2001:db8::1"])


def wire(asked: Asked) -> bytes:
    """The same request, as a client sends it; the body that it declares with it."""
    head = "\r\n".join((f"{asked.method} {asked.target} HTTP/1.1", f"Host: {asked.host}", *asked.header_lines, "", ""))
    declared = "".join(asked.header_lines)
    body = "3\r\nabc\r\n0\r\n\r\n" if "chunked" in declared else "abc" if "Content-Length" in declared else ""
    return (head + body).encode("utf-8")


def forwarded(gateway: MemoryGateway) -> list[tuple[str, bytes]]:
    """What targets got, by label."""
    return [
        (label, target.transport.taken)
        for label, dialer in gateway.dialers.items()
        for target in dialer.targets
        if target.transport.taken
    ]


@example(host="x", path="/office/x", method="POST", lines_=[], client="192.0.2.7")
@example(host="x", path="/users/7/cv", method="GET", lines_=[f"Authorization: Bearer {TOKEN}"], client="127.0.0.1")
@example(host="api.example.com", path="/api", method="GET", lines_=["X-Api-Key: k1"] * 2, client="127.0.0.1")
@given(host=hosts, path=paths, method=methods, lines_=header_lines, client=clients)
@settings(deadline=None, max_examples=600)
def test_what_is_explained_happens(host: str, path: str, method: str, lines_: list[str], client: str) -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT, probe_resources("/health", Readiness()))
    asked = Asked(
        method, path if "://" in path else f"http://{host}{path}" if path[0] == "/" else path, tuple(lines_), client
    )
    assume("://" in path or (" " not in host and host) or path[0] == "/")
    calls = len(gateway.clock.getDelayedCalls())
    told = explain(gateway.configuration, gateway.pipeline, asked, is_live=True)
    assert list(lines(told))
    assert_untouched(gateway, calls)

    client_end = gateway.connect(client).send(wire(asked))
    gateway.clock.advance(0)
    compare(told, gateway, client_end.transport.taken, method)


def assert_untouched(gateway: MemoryGateway, calls: int) -> None:
    """Nobody was asked, nothing counted, nothing waits."""
    assert not gateway.log
    assert not any(dialer.targets or dialer.waiting for dialer in gateway.dialers.values())
    assert len(gateway.clock.getDelayedCalls()) == calls
    assert not any(cells.in_flight for cells in gateway.metrics.routes())
    assert not gateway.wheel._fine
    assert not gateway.wheel._coarse
    for target in (target for backend in gateway.backends.values() for target in backend.targets):
        assert target.in_flight == 0


def compare(told: dict[str, Any], gateway: MemoryGateway, answer: bytes, method: str) -> None:
    outcome, sent = told["outcome"], forwarded(gateway)
    status = int(answer.split(b" ")[1]) if answer else None
    if outcome["is"] == "refused":
        assert not sent
        assert status == outcome["status"], told
        assert method == "HEAD" or outcome["reason"].encode() in answer
    elif outcome["is"] == "answered":
        assert not sent
        if told["end"] is not None:
            assert status == told["end"]["status"]
            for name, value in told["end"]["headers"]:
                assert f"{name}: {value}\r\n".encode() in answer
        else:
            assert outcome["by"] in {"Probes", "Sanitize"}
    else:
        assert sent, (told, answer)
        ((label, taken),) = sent
        end = told["end"]
        backend = next(one for one in end["backends"] if label in [target["target"] for target in one["targets"]])
        target = next(one for one in backend["targets"] if one["target"] == label)
        assert taken.startswith(f"{end['method']} {end['target']} HTTP/1.1\r\n".encode())
        assert f"Host: {target['host']}\r\n".encode() in taken
        assert backend["chosen"] in {None, label}
    routed = {request.route_name for request in gateway.log} | set(running(gateway))
    assert (told["route"] or {"name": None})["name"] in (routed or {None})


def running(gateway: MemoryGateway) -> list[str]:
    """Names of routes with a request under way."""
    return [route.name for route in gateway.configuration.routes if gateway.metrics.route(route.name).in_flight]


@given(host=hosts, path=paths, method=methods, lines_=header_lines, client=clients)
@settings(deadline=None, max_examples=100)
def test_still_pipeline_tells_the_same(host: str, path: str, method: str, lines_: list[str], client: str) -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT, probe_resources("/health", Readiness()))
    asked = Asked(method, f"http://{host}{path}" if path[0] == "/" else path, tuple(lines_), client)
    told = explain(gateway.configuration, gateway.pipeline, asked)
    still = explain(gateway.configuration, still_pipeline(gateway.configuration), asked)
    for one in (told, still):
        for backend in (one["end"] or {}).get("backends", ()):
            for target in backend["targets"]:
                assert not target.keys() & set(LIVE)
                del target["host"]  # the memory gateway's targets leave the port out
    assert told == still
