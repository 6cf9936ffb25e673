"""What browsers are told over sockets: whose pages may use a route, and to be careful with every answer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import Exchange, ScriptedBackend, answer, hang
from tests.integration.client import Head, Response
from tests.integration.harness import Gateway, free_port, routes
from tests.integration.peers import get_from
from tests.integration.problems import assert_problem
from tests.integration.tokens import SECRET, bearer, key

TOKEN = bearer(key("HS256").token())
APP, EDGE, EVIL = "https://app.example.com", "https://edge.example.com", "https://evil.test"
#: A loopback address that is a trusted proxy's; 127.0.0.1 is nobody's.
PROXY = "127.0.0.9"

HSTS = "Strict-Transport-Security"
CSP = "Content-Security-Policy"
#: What routes add when nothing is said, and what the environment of the gateway below says.
ROUTE_FIELDS = {
    CSP: "default-src 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": None,
    "Permissions-Policy": "camera=()",
    HSTS: None,
}
CORS_FIELDS = (
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Allow-Credentials",
    "Access-Control-Expose-Headers",
    "Access-Control-Max-Age",
)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    def route(name: str, *, origins: list[str] | None = None, **keys: Any) -> dict[str, Any]:
        cors = {"allow_origins": [APP] if origins is None else origins, **keys.pop("cors", {})}
        end = {} if {"response", "redirect"} & keys.keys() else {"backend": "main"}
        return {"name": name, "path": f"/{name}", "auth": "none", "cors": cors, **end, **keys}

    document = {
        "backends": {
            "main": {"targets": [module_backend.url]},
            "refused": {
                # It is to be asked each time, however often it failed.
                "targets": [f"http://127.0.0.1:{free_port()}"],
                "breaker": {"enabled": False},
                "health_check": {"interval": "1h"},
            },
        },
        "routes": [
            route("app"),
            route("guarded", auth="jwt", rate_limit={"rate": "1/h"}, max_body_bytes=10),
            route("limited", rate_limit={"rate": "1/h"}),
            route("refused", backend="refused"),
            route("slow", timeout={"total": "200ms"}),
            route("methods", methods=["GET", "POST"], cors={"allow_methods": ["GET", "PUT"]}),
            route("methods-delete", path="/methods", methods=["DELETE"], origins=[]),
            route("inner-methods", allowed_methods=["GET"]),
            route("plain", origins=[]),
            route("plain-guarded", origins=[], auth="jwt"),
            {"name": "inherits", "path": "/inherits", "auth": "none", "backend": "main"},
            route("no-origin", request_headers={"remove": ["Origin"]}),
            route("wild", origins=["https://*.example.com", "http://*.dev.test:8080"]),
            route("null", origins=["null"]),
            route("all", origins=["*"]),
            route("rich", cors={"allow_credentials": True, "expose_headers": ["X-Total", "ETag"], "max_age": "1h"}),
            route("any-header", cors={"allow_headers": ["*"]}),
            route("no-csp", csp="", hsts="", permissions_policy="", frame_options=""),
            route("own-csp", csp="default-src 'self'", referrer_policy="origin"),
            route("up", upgrades=["echo"]),
            route("renamed", response_headers={"set": {"X-Frame-Options": "ALLOW", "X-Set": "1"}, "remove": [CSP]}),
            route("fixed", response={"body": "fixed"}),
            route("moved", redirect={"to": "/here"}),
        ],
    }
    environment = {
        "GATEWAY_JWT_SECRET": SECRET,
        "GATEWAY_TRUSTED_PROXIES": PROXY,
        "GATEWAY_CORS_ALLOW_ORIGINS": EDGE,
        "GATEWAY_FRAME_OPTIONS": "SAMEORIGIN",
        "GATEWAY_REFERRER_POLICY": "",
        "GATEWAY_PERMISSIONS_POLICY": "camera=()",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), {**environment, **routes(document)}) as running:
        yield running


def assert_careful(response: Head, **others: str | None) -> None:
    """The security headers of the gateway above, each once."""
    expected = {**ROUTE_FIELDS, **{name.replace("_", "-"): value for name, value in others.items()}}
    assert {name: response.header(name) for name in expected} == expected


def opened_to(response: Head) -> str | None:
    """The origin whose pages may read an answer."""
    return response.header("Access-Control-Allow-Origin")


def varies_by(response: Head) -> set[str]:
    return {part.strip().lower() for value in response.headers("Vary") for part in value.split(",")}


def preflight(
    gateway: Gateway, path: str, origin: str = APP, method: str = "GET", *fields: str, source: str = "127.0.0.1"
) -> Response:
    asked = [f"Origin: {origin}", f"Access-Control-Request-Method: {method}", *fields]
    return get_from(gateway, source, path, *asked, method="OPTIONS")


# --- preflights ----------------------------------------------------------------------------------------------------


def test_preflight_needs_no_token_and_costs_nothing(gateway: Gateway, backend: ScriptedBackend) -> None:
    for _ in range(3):
        response = preflight(gateway, "/guarded/x", APP, "POST", "Access-Control-Request-Headers: authorization")
        assert (response.status, response.reason, response.body) == (204, "No Content", b"")
        assert opened_to(response) == APP
        assert response.header("Access-Control-Allow-Methods") == "GET, HEAD, POST, PUT, PATCH, DELETE"
        assert response.header("Access-Control-Allow-Headers") == "Authorization, Content-Type, X-Request-ID"
        assert response.header("Access-Control-Max-Age") == "600"
        assert response.headers("Access-Control-Allow-Credentials") == []
        assert "origin" in varies_by(response)
        assert response.headers("RateLimit") == response.headers("WWW-Authenticate") == []
        assert_careful(response)
        line = gateway.access_line(response)
        assert (line["status"], line["route"], line["backend"]) == (204, "guarded", None)
    assert not backend.has_received()
    assert gateway.get("/guarded", TOKEN, f"Origin: {APP}").header("X-RateLimit-Remaining") == "0"
    assert gateway.get("/guarded", TOKEN).status == 429
    assert preflight(gateway, "/guarded").status == 204


def test_preflight_of_another_origin_is_refused(gateway: Gateway, backend: ScriptedBackend) -> None:
    for origin in (EVIL, EDGE, "null", "https://app.example.com.evil.test", "http://app.example.com",
                   "https://app.example.com:8443", "https://app.example.com/", "*"):  # fmt: skip
        response = preflight(gateway, "/guarded", origin)
        assert_problem(gateway, response, 403, "ORIGIN_NOT_ALLOWED")
        assert [response.headers(name) for name in CORS_FIELDS] == [[]] * len(CORS_FIELDS)
        assert "origin" in varies_by(response)
        assert response.headers("WWW-Authenticate") == []
        assert_careful(response)
    assert not backend.has_received()


@pytest.mark.parametrize("method", ["TRACE", "get", "BREW", "CONNECT", "OPTIONS"])
def test_method_that_is_not_allowed_is_left_out(gateway: Gateway, backend: ScriptedBackend, method: str) -> None:
    response = preflight(gateway, "/app", APP, method)
    assert (response.status, opened_to(response)) == (204, APP)
    assert response.headers("Access-Control-Allow-Methods") == []
    assert not backend.has_received()


@pytest.mark.parametrize(
    ("asked", "is_allowed"),
    [("content-type", True), ("Content-Type, x-request-id", True), ("", True), ("x-evil", False),
     ("content-type,x-evil", False), ("*", False)],
)  # fmt: skip
def test_header_that_is_not_allowed_is_left_out(gateway: Gateway, asked: str, is_allowed: bool) -> None:
    response = preflight(gateway, "/app", APP, "PUT", f"Access-Control-Request-Headers: {asked}")
    assert (response.status, opened_to(response)) == (204, APP)
    assert bool(response.headers("Access-Control-Allow-Headers")) is is_allowed
    assert response.headers("Access-Control-Allow-Methods")


def test_any_header_is_allowed_by_name_where_the_asterisk_says_so(gateway: Gateway) -> None:
    response = preflight(gateway, "/any-header", APP, "PUT", "Access-Control-Request-Headers: authorization,x-any")
    assert response.header("Access-Control-Allow-Headers") == "authorization, x-any"


def test_preflight_is_matched_by_the_method_that_it_asks_for(gateway: Gateway, backend: ScriptedBackend) -> None:
    allowed = preflight(gateway, "/methods", APP, "GET")
    assert (allowed.status, allowed.header("Access-Control-Allow-Methods")) == (204, "GET, PUT")
    assert gateway.access_line(allowed)["route"] == "methods"
    assert preflight(gateway, "/methods", APP, "POST").headers("Access-Control-Allow-Methods") == []
    # The route for DELETE has no CORS, and no route is for OPTIONS.
    refused = preflight(gateway, "/methods", APP, "DELETE")
    assert_problem(gateway, refused, 405, "METHOD_NOT_ALLOWED")
    assert refused.header("Allow") == "DELETE, GET, HEAD, POST"
    assert not backend.has_received()


def test_preflight_on_a_route_without_cors_is_an_ordinary_request(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: theirs\r\nContent-Length: 0\r\n\r\n")
    response = preflight(gateway, "/plain", APP, "PUT")
    assert (response.status, response.headers("Access-Control-Allow-Origin")) == (200, ["theirs"])
    assert (backend.received().method, response.headers("Vary")) == ("OPTIONS", [])
    assert preflight(gateway, "/plain-guarded").status == 401
    assert preflight(gateway, "/nowhere").status == 404


@pytest.mark.parametrize(
    "fields", [[f"Origin: {APP}"], ["Access-Control-Request-Method: GET"], ["Access-Control-Request-Headers: x"]]
)
def test_other_options_are_ordinary_requests(gateway: Gateway, backend: ScriptedBackend, fields: list[str]) -> None:
    assert gateway.get("/app", *fields, method="OPTIONS").status == 200
    assert backend.received().method == "OPTIONS"


def test_preflight_with_two_origins_is_refused(gateway: Gateway) -> None:
    assert preflight(gateway, "/app", APP, "GET", f"Origin: {APP}").status == 400
    assert preflight(gateway, "/app", APP, "GET", "Access-Control-Request-Method: GET").status == 400


def test_preflight_with_a_body_leaves_no_bytes_behind(gateway: Gateway, backend: ScriptedBackend) -> None:
    asked = f"OPTIONS /app HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\nAccess-Control-Request-Method: GET\r\n"
    smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    with gateway.client() as client:
        client.send(f"{asked}Content-Length: {len(smuggled)}\r\n\r\n{smuggled}".encode())
        assert client.read_response().status == 204
        client.send(b"GET /app HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        rest = client.read_to_end()
    assert rest.count(b"HTTP/1.1 ") <= 1
    assert not backend.has_received() or backend.received().target == b"/app"
    assert not backend.has_received()


def test_rich_preflight_says_all(gateway: Gateway) -> None:
    response = preflight(gateway, "/rich")
    assert response.header("Access-Control-Allow-Credentials") == "true"
    assert response.header("Access-Control-Max-Age") == "3600"


# --- ordinary answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "origin", "expected"),
    [
        ("/app", APP, APP),
        ("/app", EDGE, None),
        ("/app", EVIL, None),
        ("/app", "", None),
        ("/app", "https://APP.example.com", "https://APP.example.com"),
        ("/inherits", EDGE, EDGE),
        ("/inherits", APP, None),
        ("/plain", EDGE, None),
        ("/wild", "https://a.example.com", "https://a.example.com"),
        ("/wild", "https://a.b.example.com", "https://a.b.example.com"),
        ("/wild", "http://x.dev.test:8080", "http://x.dev.test:8080"),
        ("/wild", "https://example.com", None),
        ("/wild", "http://a.example.com", None),
        ("/wild", "https://a.example.com:8443", None),
        ("/wild", "https://evilexample.com", None),
        ("/wild", "https://a.example.com.evil.test", None),
        ("/wild", "https://evil.test/.example.com", None),
        ("/wild", "https://evil.test#.example.com", None),
        ("/wild", "https://evil.test?.example.com", None),
        ("/wild", "https://a@b.example.com", None),
        ("/wild", "https://.example.com", None),
        ("/wild", "https://aXexample.com", None),
        ("/wild", "https://a.exampleXcom", None),
        ("/wild", "http://x.dev.test", None),
        ("/wild", "null", None),
        ("/null", "null", "null"),
        ("/null", APP, None),
        ("/app", "null", None),
        ("/all", EVIL, "*"),
        ("/all", "null", "*"),
        ("/all", "", "*"),
    ],
)
def test_answer_is_opened_to_listed_origins_only(
    gateway: Gateway, backend: ScriptedBackend, path: str, origin: str, expected: str | None
) -> None:
    response = gateway.get(path, *([f"Origin: {origin}"] if origin else []))
    assert (response.status, opened_to(response)) == (200, expected)
    assert backend.received().header("Origin") == (origin or None)  # forwarded, whoever's it is
    # Whether it depends on the origin does not depend on the origin.
    assert varies_by(response) == (set() if path in {"/all", "/plain"} else {"origin"})


def test_rich_answer_says_all_to_the_origin_and_nothing_to_others(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/rich", f"Origin: {APP}")
    assert response.header("Access-Control-Allow-Credentials") == "true"
    assert response.header("Access-Control-Expose-Headers") == "X-Total, ETag"
    assert response.headers("Access-Control-Allow-Methods") == response.headers("Access-Control-Max-Age") == []
    response = gateway.get("/rich", f"Origin: {EVIL}")
    assert [response.headers(name) for name in CORS_FIELDS] == [[]] * len(CORS_FIELDS)


@pytest.mark.parametrize(
    ("theirs", "expected"),
    [([], ["Origin"]), (["Accept"], ["Accept, Origin"]), (["origin"], ["origin"]), (["*"], ["*"]),
     (["Accept", "ORIGIN"], ["Accept", "ORIGIN"]), (["Accept", "Cookie"], ["Accept, Origin", "Cookie"])],
)  # fmt: skip
def test_backends_vary_is_kept_and_completed(
    gateway: Gateway, backend: ScriptedBackend, theirs: list[str], expected: list[str]
) -> None:
    fields = "".join(f"Vary: {value}\r\n" for value in theirs)
    backend.script = answer(f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode())
    assert gateway.get("/app", f"Origin: {EVIL}").headers("Vary") == expected
    assert gateway.get("/app").headers("Vary") == expected
    assert gateway.get("/all", f"Origin: {EVIL}").headers("Vary") == theirs
    assert gateway.get("/plain", f"Origin: {EVIL}").headers("Vary") == theirs


def test_origin_that_the_backend_does_not_get_counts_all_the_same(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/no-origin", f"Origin: {APP}")
    assert (opened_to(response), backend.received().headers("Origin")) == (APP, [])


# --- whatever the backend sends ----------------------------------------------------------------------------------------

THEIRS = (
    "X-Content-Type-Options: sniff\r\nX-Frame-Options: ALLOWALL\r\nx-frame-options: DENY\r\n"
    "Content-Security-Policy: default-src 'self'\r\nPermissions-Policy: camera=(self)\r\n"
    "Strict-Transport-Security: max-age=1\r\nReferrer-Policy: unsafe-url\r\n"
    "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Origin: https://evil.test\r\n"
    "Access-Control-Allow-Credentials: true\r\nAccess-Control-Expose-Headers: X-Secret\r\n"
    "Access-Control-Allow-Methods: BREW\r\nAccess-Control-Allow-Headers: X-Secret\r\nAccess-Control-Max-Age: 1\r\n"
    "Access-Control-Allow-Private-Network: true\r\nVary: Accept\r\n"
)
SHAPES = {
    "length": ("GET", "200 OK", "Content-Length: 2\r\n", "ok"),
    "chunked": ("GET", "200 OK", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\n\r\n"),
    "chunked with trailers": (
        "GET", "200 OK", "Transfer-Encoding: chunked\r\n", "2\r\nok\r\n0\r\nX-Sum: 1\r\n\r\n",
    ),
    "HEAD": ("HEAD", "200 OK", "Content-Length: 2\r\n", ""),
    "204": ("GET", "204 No Content", "", ""),
    "304": ("GET", "304 Not Modified", "ETag: x\r\n", ""),
    "404": ("GET", "404 Not Found", "Content-Length: 2\r\n", "no"),
    "500": ("GET", "500 Oh", "Content-Length: 2\r\n", "no"),
    "redirect": ("GET", "302 Found", "Location: /x\r\nContent-Length: 0\r\n", ""),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_backends_fields_are_replaced_and_not_doubled(gateway: Gateway, backend: ScriptedBackend, shape: str) -> None:
    method, status, framing, body = SHAPES[shape]
    backend.script = answer(f"HTTP/1.1 {status}\r\n{THEIRS}{framing}\r\n{body}".encode())
    for origin, opened in ((APP, APP), (EVIL, None), (APP, APP), (APP, APP), (EVIL, None)):
        response = gateway.get("/app", f"Origin: {origin}", method=method)
        assert response.status == int(status[:3])
        assert_careful(response, Content_Security_Policy="default-src 'self'", Referrer_Policy="unsafe-url")
        assert [response.header(name) for name in CORS_FIELDS] == [opened, None, None, None, None, None]
        assert response.headers("Access-Control-Allow-Private-Network") == []
        assert response.headers("Vary") == ["Accept, Origin"]


def test_switch_of_protocols_is_told_about_once_too(gateway: Gateway, backend: ScriptedBackend) -> None:
    def switch(exchange: Exchange) -> None:
        exchange.send(
            f"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n{THEIRS}\r\n".encode()
        )
        exchange.close()

    backend.script = switch
    with gateway.client() as client:
        client.send(
            f"GET /up HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\nOrigin: {APP}\r\n\r\n".encode()
        )
        head = client.read_head()
    assert head.status == 101
    assert_careful(head, Content_Security_Policy="default-src 'self'", Referrer_Policy="unsafe-url")
    assert (opened_to(head), head.headers("Vary")) == (APP, ["Accept, Origin"])


def test_upgrade_needs_a_token_where_the_route_does(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/plain-guarded", "Connection: Upgrade", "Upgrade: websocket", f"Origin: {APP}")
    assert (response.status, backend.has_received()) == (401, False)


def test_routes_own_response_headers_are_not_stronger(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/renamed")
    assert response.header("X-Set") == "1"
    assert_careful(response)


# --- the gateway's own answers -----------------------------------------------------------------------------------------


def test_routes_refusals_carry_its_fields(gateway: Gateway, backend: ScriptedBackend) -> None:
    def checked(response: Response, status: int, reason: str) -> None:
        assert (response.status, response.json()["reason"]) == (status, reason)
        assert opened_to(response) == APP
        assert varies_by(response) == {"origin"}
        assert_careful(response)

    origin = f"Origin: {APP}"
    elsewhere = (origin, "X-Forwarded-For: 192.0.2.77")  # where nobody has used the limit up
    checked(get_from(gateway, PROXY, "/guarded", *elsewhere), 401, "TOKEN_MISSING")
    checked(get_from(gateway, PROXY, "/guarded", *elsewhere), 429, "RATE_LIMITED")
    checked(gateway.get("/inner-methods", origin, method="PUT"), 405, "METHOD_NOT_ALLOWED")
    checked(gateway.get("/refused", origin), 502, "UPSTREAM_CONNECT_FAILED")
    large = f"POST /guarded HTTP/1.1\r\nHost: x\r\n{origin}\r\nContent-Length: 11\r\n\r\n"
    checked(gateway.ask(large.encode()), 413, "BODY_TOO_LARGE")
    backend.script = hang
    checked(gateway.get("/slow", origin), 504, "DEADLINE_EXCEEDED")
    backend.script = answer(b"nonsense\r\n\r\n")
    checked(gateway.get("/app", origin), 502, "UPSTREAM_PROTOCOL_ERROR")


@pytest.mark.parametrize("path", ["/fixed", "/moved"])
def test_routes_own_answers_carry_its_fields_each_time(gateway: Gateway, path: str) -> None:
    for _ in range(2):
        response = gateway.get(path, f"Origin: {APP}")
        assert (opened_to(response), response.headers("Vary")) == (APP, ["Origin"])
        assert_careful(response)


def test_refusal_is_not_opened_to_other_origins(gateway: Gateway) -> None:
    for origin in (EVIL, EDGE):
        response = gateway.get("/plain-guarded", f"Origin: {origin}")
        assert (response.status, opened_to(response), response.headers("Vary")) == (401, None, [])
        response = gateway.get("/refused", f"Origin: {origin}")
        assert (response.status, opened_to(response), varies_by(response)) == (502, None, {"origin"})


@pytest.mark.parametrize(
    ("target", "method", "fields", "status"),
    [("/nowhere", "GET", [], 404), ("/methods", "PUT", [], 405), ("/a/../b", "GET", [], 400),
     ("/app", "GET", ["Expect: x"], 417), ("/app", "GET", ["Origin: x"], 400), ("/health/live", "GET", [], 200),
     ("/health/ready", "GET", [], 200), ("/app", "TRACE", [], 405)],
)  # fmt: skip
def test_answers_that_no_route_makes_carry_the_environments_fields(
    gateway: Gateway, target: str, method: str, fields: list[str], status: int
) -> None:
    response = gateway.get(target, f"Origin: {EDGE}", *fields, method=method)
    assert response.status == status
    assert_careful(response)
    if "Origin: x" not in fields:
        assert (opened_to(response), response.headers("Vary")) == (EDGE, ["Origin"])
    response = gateway.get(target, f"Origin: {APP}", *fields, method=method)
    assert (opened_to(response), response.headers("Vary")) == (None, ["Origin"])


@pytest.mark.parametrize(
    ("raw", "status"),
    [(b"garbage\r\n\r\n", 400), (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 17000, 431),
     (b"GET / HTTP/3.0\r\nHost: x\r\n\r\n", 505), (b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
     (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414), (b"GET / HTTP/1.1\r\n\r\n", 400),
     (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 204), (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 405)],
)  # fmt: skip
def test_what_never_reached_a_route_carries_the_environments_fields(gateway: Gateway, raw: bytes, status: int) -> None:
    response = gateway.ask(raw)
    assert (response.status, response.headers("Vary")) == (status, ["Origin"])
    assert_careful(response)


# --- security headers as they are set ----------------------------------------------------------------------------------


def test_routes_settings_go_before_the_environments(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = get_from(gateway, PROXY, "/no-csp", "X-Forwarded-Proto: https")
    assert_careful(response, Content_Security_Policy=None, X_Frame_Options=None, Permissions_Policy=None)
    assert_careful(gateway.get("/own-csp"), Content_Security_Policy="default-src 'self'", Referrer_Policy="origin")


def test_routes_to_one_target_do_not_mix_their_fields(gateway: Gateway, backend: ScriptedBackend) -> None:
    expected = {
        "/app": ("default-src 'none'; frame-ancestors 'none'", "SAMEORIGIN", APP),
        "/no-csp": (None, None, APP),
        "/own-csp": ("default-src 'self'", "SAMEORIGIN", APP),
        "/plain": ("default-src 'none'; frame-ancestors 'none'", "SAMEORIGIN", None),
        "/all": ("default-src 'none'; frame-ancestors 'none'", "SAMEORIGIN", "*"),
    }
    with gateway.client() as client:  # and on one connection
        for path in (*expected, *reversed(expected), "/app", "/app", "/plain", "/app", "/no-csp"):
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\n\r\n".encode())
            response = client.read_response()
            found = (response.header(CSP), response.header("X-Frame-Options"), opened_to(response))
            assert found == expected[path]
            assert response.headers("Vary") == ([] if path in {"/plain", "/all"} else ["Origin"])


def test_header_that_is_turned_off_leaves_the_backends_own(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(f"HTTP/1.1 200 OK\r\n{THEIRS}Content-Length: 0\r\n\r\n".encode())
    response = gateway.get("/no-csp")
    assert response.headers("X-Frame-Options") == ["ALLOWALL", "DENY"]
    assert response.header(CSP) == "default-src 'self'"
    assert response.header(HSTS) == "max-age=1"


@pytest.mark.parametrize("path", ["/app", "/nowhere", "/guarded", "/refused", "/a/../b", "/health/live"])
def test_hsts_is_sent_when_a_trusted_proxy_says_https_only(
    gateway: Gateway, backend: ScriptedBackend, path: str
) -> None:
    secure = "max-age=31536000; includeSubDomains"
    for field in ("X-Forwarded-Proto: https", "x-forwarded-proto: HTTPS", "Forwarded: for=192.0.2.1;proto=https"):
        assert get_from(gateway, PROXY, path, field).header(HSTS) == secure
        assert get_from(gateway, "127.0.0.1", path, field).header(HSTS) is None
    for field in ("X-Forwarded-Proto: http", "X-Forwarded-Proto: x", "X-Forwarded-Ssl: on", "X-A: b"):
        assert get_from(gateway, PROXY, path, field).header(HSTS) is None


def test_preflight_over_https_carries_hsts(gateway: Gateway) -> None:
    response = preflight(gateway, "/app", APP, "GET", "X-Forwarded-Proto: https", source=PROXY)
    assert response.header(HSTS) == "max-age=31536000; includeSubDomains"


def test_without_any_setting_the_defaults_are_sent_and_no_cors(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_TRUSTED_PROXIES": PROXY, "GATEWAY_HSTS": ""}
    with Gateway(tmp_path, environment) as gateway:
        for target in ("/", "/../x", "/health/live"):
            response = get_from(gateway, PROXY, target, "X-Forwarded-Proto: https", f"Origin: {APP}")
            expected = {"X_Frame_Options": "DENY", "Referrer_Policy": "no-referrer", "Permissions_Policy": None}
            assert_careful(response, **expected)
            assert (opened_to(response), response.headers("Vary")) == (None, [])
        assert preflight(gateway, "/").status == 200
        assert backend.received().method == "GET"
        assert backend.received().method == "OPTIONS"


RESOURCE_MODULE = """
from twisted.web.resource import Resource


class Page(Resource):
    isLeaf = True

    def render_GET(self, request):
        request.setHeader(b"x-frame-options", b"ALLOWALL")
        request.setHeader(b"access-control-allow-origin", b"*")
        request.setHeader(b"vary", b"Cookie")
        if request.postpath == [b"broken"]:
            raise ZeroDivisionError
        return b"page"


page = Page()
"""


def test_mounted_resources_carry_the_routes_fields_too(tmp_path: Path) -> None:
    (tmp_path / "a_page.py").write_text(RESOURCE_MODULE, encoding="utf-8")
    route = {"name": "page", "path": "/page", "resource": "a_page:page", "cors": {"allow_origins": [APP]}}
    with Gateway(tmp_path, {"PYTHONPATH": os.fspath(tmp_path), **routes({"routes": [route]})}) as gateway:
        for path, status, vary in (("/page", 200, ["Cookie, Origin"]), ("/page/broken", 500, ["Origin"])):
            response = gateway.get(path, f"Origin: {APP}")
            assert response.status == status
            assert (opened_to(response), response.header("X-Frame-Options")) == (APP, "DENY")
            assert response.headers("Vary") == vary


def test_fields_are_on_the_second_answer_with_the_same_head_too(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nVary: Origin\r\nContent-Type: text/plain\r\nContent-Length: 0\r\n\r\n")
    for _ in range(3):
        response = gateway.get("/app", f"Origin: {APP}")
        assert response.headers("Access-Control-Allow-Origin") == [APP]
        assert response.headers("X-Content-Type-Options") == ["nosniff"]
        assert response.headers("Vary") == ["Origin"]
