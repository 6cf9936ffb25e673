"""What a route takes at all, over sockets: addresses, methods, media types, sizes, and one spelling of everything."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import ScriptedBackend, answer, hang
from tests.integration.client import Client, Response
from tests.integration.harness import Gateway, routes
from tests.integration.peers import from_address, get_from, get_through, over_unix
from tests.integration.problems import assert_problem
from tests.integration.tokens import SECRET, bearer, key

HS256 = key("HS256")
#: A trusted proxy, a client of the allowed network, and one that is denied within it.
PROXY, FRIEND, TRAITOR = "127.0.0.9", "127.0.5.1", "127.0.5.66"


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("socket") / "g.sock"


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, socket_path: Path
) -> Iterator[Gateway]:
    def route(name: str, **keys: Any) -> dict[str, Any]:
        return {"name": name, "path": f"/{name}", "backend": "main", "auth": "none", **keys}

    document = {
        "backends": {"main": {"targets": [module_backend.url]}},
        "routes": [
            route("open", path="/"),
            route("allow", allow_ips=["127.0.5.0/24", "192.0.2.0/24", "2001:db8:5::/48"]),
            route("deny", deny_ips=["127.0.5.66", "192.0.2.66/32", "2001:db8:5::/48"]),
            route("mapped", allow_ips=["::ffff:127.0.5.0/120"]),
            route("both", allow_ips=["127.0.5.0/24"], deny_ips=["127.0.5.66"]),
            route("locked", allow_ips=["127.0.5.0/24"], auth="jwt", rate_limit={"rate": "1/h"}),
            route("types", allowed_content_types=["application/json", "image/*"]),
            route("typed", allowed_content_types=["application/json"], auth="jwt"),
            route("methods", allowed_methods=["GET", "POST"]),
            route("small", max_body_bytes=10),
            route("small-guarded", max_body_bytes=10, auth="jwt"),
            route("unlimited", max_body_bytes=0),
            route("keep", sanitize={"underscore_headers": "keep"}),
            route("reject", sanitize={"underscore_headers": "reject"}),
            route("no-slash", sanitize={"encoded_slash": "reject"}),
            route("secret", path="/api/secret", auth="jwt"),
            route("public", path="/api/public"),
            route("user", path="/users/{id}/key", auth="jwt"),
            route("exact", path="=/only/this", auth="jwt"),
        ],
    }
    environment = {
        "GATEWAY_JWT_SECRET": SECRET,
        "GATEWAY_TRUSTED_PROXIES": PROXY,
        "GATEWAY_LISTEN": f"tcp:0:interface=127.0.0.1 unix:{socket_path}",
        **routes(document),
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


def post(path: str, *fields: str, body: str = "", expects: bool = False) -> bytes:
    expectation = ("Expect: 100-continue",) if expects else ()
    lines = (f"POST {path} HTTP/1.1", "Host: x", *expectation, *fields, "", body)
    return "\r\n".join(lines).encode("latin-1")


# --- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "source", "is_admitted"),
    [("/allow", FRIEND, True), ("/allow", TRAITOR, True), ("/allow", "127.0.0.1", False),
     ("/deny", FRIEND, True), ("/deny", TRAITOR, False), ("/deny", "127.0.0.1", True),
     ("/both", FRIEND, True), ("/both", TRAITOR, False), ("/both", "127.0.0.1", False),
     ("/mapped", FRIEND, True), ("/mapped", "127.0.0.1", False)],
)  # fmt: skip
def test_address_of_the_peer_decides(
    gateway: Gateway, backend: ScriptedBackend, path: str, source: str, is_admitted: bool
) -> None:
    for claim in ("X-A: b", f"X-Forwarded-For: {FRIEND}", "X-Forwarded-For: 192.0.2.1", f"X-Real-IP: {FRIEND}"):
        response = get_from(gateway, source, path, claim)
        assert (response.status, backend.has_received()) == (200 if is_admitted else 403, is_admitted)
        if is_admitted:
            backend.received()
        else:
            line = assert_problem(gateway, response, 403, "IP_DENIED")
            assert (line["client_ip"], response.headers("WWW-Authenticate")) == (source, [])


@pytest.mark.parametrize(
    ("path", "chain", "is_admitted"),
    [
        ("/allow", "192.0.2.1", True),
        ("/allow", "::ffff:192.0.2.1", True),
        ("/allow", "[2001:db8:5:1::1]:443", True),
        ("/allow", "2001:db8:6::1", False),
        ("/allow", "198.51.100.1", False),
        ("/allow", "192.0.2.1, 198.51.100.1", False),
        ("/allow", "198.51.100.1, 192.0.2.1", True),
        ("/allow", "unknown", False),
        ("/allow", "", False),
        ("/deny", "192.0.2.66", False),
        ("/deny", "::ffff:c000:242", False),
        ("/deny", "2001:DB8:5::1", False),
        ("/deny", "192.0.2.67", True),
        ("/deny", "192.0.2.66, 198.51.100.1", True),
    ],
)
def test_behind_a_trusted_proxy_the_clients_address_decides(
    gateway: Gateway, backend: ScriptedBackend, path: str, chain: str, is_admitted: bool
) -> None:
    response = get_from(gateway, PROXY, path, f"X-Forwarded-For: {chain}")
    assert response.status == (200 if is_admitted else 403)


def test_peer_of_a_unix_socket_is_in_no_network(gateway: Gateway, backend: ScriptedBackend, socket_path: Path) -> None:
    def ask(path: str) -> Response:
        return get_through(over_unix(socket_path), path, f"X-Forwarded-For: {FRIEND}")

    assert ask("/open").status == 200
    response = ask("/allow")
    assert assert_problem(gateway, response, 403, "IP_DENIED")["client_ip"] is None
    assert [ask(path).status for path in ("/both", "/deny")] == [403, 200]


def test_address_is_looked_at_before_limits_and_tokens(gateway: Gateway, backend: ScriptedBackend) -> None:
    for _ in range(3):
        response = gateway.get("/locked")
        assert (response.status, response.headers("RateLimit")) == (403, [])
    assert get_from(gateway, FRIEND, "/locked", bearer(HS256.token())).status == 200


def test_grpc_call_from_a_denied_address(gateway: Gateway) -> None:
    response = gateway.get("/allow", "Content-Type: application/grpc", method="POST")
    assert (response.header("grpc-status"), response.header("grpc-message")) == ("7", "IP_DENIED")


# --- uploads that are refused at the head ------------------------------------------------------------------------------

LENGTHS = ["Content-Length: 1000000", "Transfer-Encoding: chunked"]


@pytest.mark.parametrize("expects", [False, True], ids=["", "expects"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [("/allow", 403, "IP_DENIED"), ("/types", 415, "CONTENT_TYPE_NOT_ALLOWED"), ("/typed", 415, "CONTENT_TYPE_NOT_ALLOWED"),
     ("/no-slash/a%2fb", 400, "BAD_PATH"), ("/locked", 403, "IP_DENIED")],
)  # fmt: skip
def test_refusal_reaches_a_client_whose_upload_is_not_over(
    gateway: Gateway, backend: ScriptedBackend, path: str, status: int, reason: str, length: str, expects: bool
) -> None:
    with gateway.client() as client:
        client.send(post(path, length, "Content-Type: text/plain", expects=expects))
        if not expects:
            client.send(b"5\r\nabcde\r\n")
        response = client.read_response()
        assert response.informational == []
        assert client.is_at_end()
    assert_problem(gateway, response, status, reason, closes=True)
    assert not backend.has_received()


@pytest.mark.parametrize("path", ["/allow", "/types"])
def test_refusal_reaches_a_client_that_sends_on(gateway: Gateway, backend: ScriptedBackend, path: str) -> None:
    with gateway.client() as client:
        client.send(post(path, f"Content-Length: {4 * 2**20}", "Content-Type: text/plain"))
        client.send(b"x" * 4 * 2**20)  # a reset would break this, or lose the answer
        assert client.read_response().status in {403, 415}
        assert client.is_at_end()
    assert not backend.has_received()


def test_refused_request_without_body_leaves_its_connection(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        for path, status in (("/allow", 403), ("/methods", 200), ("/secret", 200), ("/api/secret", 401), ("/x", 200)):
            client.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.read_response().status == status


# --- media types and methods -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/json ;x=y", 200),
        ("image/png", 200),
        ("IMAGE/svg+xml", 200),
        ("text/plain", 415),
        ("application/jsonp", 415),
        ("application/json, text/plain", 415),
        ("text/plain; application/json", 415),
        ("images/png", 415),
        ("image", 415),
        ("image/", 415),
        ("", 415),
        (None, 415),
    ],
)
def test_body_must_be_of_an_allowed_type(
    gateway: Gateway, backend: ScriptedBackend, content_type: str | None, status: int
) -> None:
    fields = [] if content_type is None else [f"Content-Type: {content_type}"]
    assert gateway.ask(post("/types", *fields, "Content-Length: 2", body="{}")).status == status
    chunked = post("/types", *fields, "Transfer-Encoding: chunked", body="2\r\n{}\r\n0\r\n\r\n")
    assert gateway.ask(chunked).status == status
    assert gateway.ask(post("/types", *fields, "Content-Length: 0")).status == 200
    assert gateway.get("/types", *fields).status == 200


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 200), ("PUT", 405),
                                                ("DELETE", 405), ("PATCH", 405), ("OPTIONS", 405)])  # fmt: skip
def test_method_must_be_allowed(gateway: Gateway, backend: ScriptedBackend, method: str, status: int) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    response = gateway.get("/methods", "Content-Length: 0", method=method)
    assert response.status == status
    if status == 405:
        line = assert_problem(gateway, response, 405, "METHOD_NOT_ALLOWED")
        assert (line["route"], response.header("Allow")) == ("methods", "GET, HEAD, POST")
        assert not backend.has_received()


@pytest.mark.parametrize(
    "field",
    ["X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-Original-URL: /api/secret",
     "X-Rewrite-URL: /api/secret"],
)  # fmt: skip
def test_field_that_some_backends_obey_changes_nothing_here(
    gateway: Gateway, backend: ScriptedBackend, field: str
) -> None:
    response = gateway.get("/methods", field)
    assert (response.status, gateway.access_line(response)["route"]) == (200, "methods")
    if "URL" in field:  # replaces the path behind the route's back
        assert backend.received().headers(field.partition(":")[0]) == []


# --- sizes -----------------------------------------------------------------------------------------------------------


def test_body_at_the_limit_passes(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert gateway.ask(post("/small", "Content-Length: 10", body="0123456789")).status == 200
    assert backend.received().body == b"0123456789"
    chunks = "5\r\n01234\r\n5\r\n56789\r\n0\r\n\r\n"
    assert gateway.ask(post("/small", "Transfer-Encoding: chunked", body=chunks)).status == 200
    assert backend.received().body == b"0123456789"
    large = 11 * 2**20
    assert gateway.ask(post("/unlimited", f"Content-Length: {large}", body="x" * large)).status == 200


@pytest.mark.parametrize("expects", [False, True], ids=["", "expects"])
def test_declared_body_over_the_limit_is_refused_at_the_head(
    gateway: Gateway, backend: ScriptedBackend, expects: bool
) -> None:
    for path, size in (("/small", 11), ("/small-guarded", 11), ("/open", 10 * 2**20 + 1)):
        with gateway.client() as client:
            client.send(post(path, f"Content-Length: {size}", expects=expects))
            response = client.read_response()
            assert response.informational == []
            assert client.is_at_end()
        assert_problem(gateway, response, 413, "BODY_TOO_LARGE", closes=True)
    assert not backend.has_received()


def test_streamed_body_over_the_limit_is_refused_as_soon_as_it_is(gateway: Gateway, backend: ScriptedBackend) -> None:
    whole = post("/small", "Transfer-Encoding: chunked", body="b\r\n0123456789a\r\n")  # and not over yet
    with gateway.client() as client:
        client.send(whole)
        response = client.read_response()
        assert client.is_at_end()
    assert_problem(gateway, response, 413, "BODY_TOO_LARGE", closes=True)
    backend.renew()
    backend.script = hang
    with gateway.client() as client:
        client.send(post("/small", "Transfer-Encoding: chunked", body="5\r\n01234\r\n"))
        backend.received()
        client.send(b"6\r\n56789a\r\n")
        assert_problem(gateway, client.read_response(), 413, "BODY_TOO_LARGE", closes=True)
        backend.wait_until_closed()
    gateway.wait_until_free()


def test_guarded_stream_over_the_limit_is_refused_with_a_token_too(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    with gateway.client() as client:
        client.send(post("/small-guarded", "Transfer-Encoding: chunked", bearer(HS256.token()), body="5\r\n01234\r\n"))
        backend.received()
        client.send(b"6\r\n56789a\r\n")
        assert client.read_response().status == 413


# --- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    ["Authorization: Basic YTpi", "Content-Type: text/plain", "Origin: https://a.test", "If-Modified-Since: x",
     "If-Unmodified-Since: x", "If-Range: x", "Range: bytes=0-1", "Max-Forwards: 1", "Content-Range: x",
     "Proxy-Authorization: Basic YTpi", "Access-Control-Request-Method: GET"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/open", "/api/secret"])
def test_field_with_one_value_must_not_come_twice(
    gateway: Gateway, backend: ScriptedBackend, field: str, path: str
) -> None:
    name, _, value = field.partition(": ")
    for second in (field, f"{name.upper()}: {value}", f"{name}: other", f"{name}:"):
        assert_problem(gateway, gateway.get(path, field, "X-Between: 1", second), 400, "BAD_REQUEST", closes=True)
    assert not backend.has_received()


def test_field_with_several_values_may_come_twice(gateway: Gateway, backend: ScriptedBackend) -> None:
    fields = ["Accept: a/b", "Accept: c/d", "Cookie: a=1", "Cookie: b=2", "X-Any: 1", "X-Any: 1"]
    assert gateway.get("/open", *fields).status == 200
    assert [field for field in backend.received().fields if field[0] in {"Accept", "Cookie", "X-Any"}] == [
        ("Accept", "a/b"), ("Accept", "c/d"), ("Cookie", "a=1"), ("Cookie", "b=2"), ("X-Any", "1"), ("X-Any", "1"),
    ]  # fmt: skip


@pytest.mark.parametrize(("path", "kept"), [("/open", []), ("/keep", ["1", "2"])])
def test_underscore_headers_are_dropped_or_kept(
    gateway: Gateway, backend: ScriptedBackend, path: str, kept: list[str]
) -> None:
    fields = ["X_Under_Score: 1", "x_under_score: 2", "_: 3", "X-Dash: 4", "Content_Length: 5", "Transfer_Encoding: x"]
    response = gateway.get(path, *fields)
    received = backend.received()
    assert (response.status, received.headers("X_Under_Score")) == (200, kept)
    assert received.headers("X-Dash") == ["4"]
    assert any("_" in name for name, _ in received.fields) is bool(kept)


def test_underscore_headers_are_refused_where_the_route_says_so(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert_problem(gateway, gateway.get("/reject", "X_A: 1"), 400, "BAD_REQUEST", closes=True)
    assert gateway.get("/reject", "X-A: _1").status == 200
    assert backend.received().header("X-A") == "_1"


@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "in pieces"])
def test_underscore_trailers_are_dropped_like_headers(
    gateway: Gateway, backend: ScriptedBackend, is_whole: bool
) -> None:
    head = post("/open", "Transfer-Encoding: chunked", "Trailer: X_Sum, X-Sum", body="1\r\na\r\n")
    end = b"0\r\nX_Sum: 1\r\nX-Sum: 2\r\n\r\n"
    with gateway.client() as client:
        client.send(head + end if is_whole else head)
        received = backend.received()
        if not is_whole:
            client.send(end)
        assert client.read_response().status == 200
    assert received.trailers == [("X-Sum", "2")]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/no-slash/a%2Fb", 400), ("/no-slash/a%2fb", 400), ("/no-slash%2Fa", 400), ("/no-slash/a?b=%2F", 200),
     ("/no-slash/a%252Fb", 200), ("/no-slash/a", 200), ("/open/a%2Fb", 200)],
)  # fmt: skip
def test_encoded_slash_is_kept_or_refused(gateway: Gateway, backend: ScriptedBackend, path: str, status: int) -> None:
    response = gateway.get(path)
    assert response.status == status
    if status == 200:
        assert backend.received().target == path.encode()
    else:
        assert_problem(gateway, response, 400, "BAD_PATH")


# --- no spelling reaches a weaker route ------------------------------------------------------------------------------

SPELLINGS = [
    ("/api/secret", "secret"),
    ("/api/secret/", "secret"),
    ("/api/secret/more", "secret"),
    ("/api/secret?x=/api/public", "secret"),
    ("//api/secret", None),  # "/secret" for a backend that takes "api" for an authority
    ("//x/api/secret", None),
    ("///api/secret", None),
    ("/api//secret", "secret"),
    ("/api///secret//", "secret"),
    ("/api/secre%74", "secret"),
    ("/%61%70%69/%73%65%63%72%65%74", "secret"),
    ("/api%2Fsecret", "secret"),
    ("/api%2fsecret", "secret"),
    ("/api%2F%2Fsecret", "secret"),
    ("%2Fapi/secret", None),
    ("/%2Fapi/secret", None),  # the same, for one that decodes first
    ("/api;v=1/secret", "secret"),
    ("/api/secret;jsessionid=1", "secret"),
    ("/api/secret;/../public", None),
    ("/api/secret%3Bx", "secret"),
    ("/api/;x/secret", "secret"),
    ("/;/api/secret", "secret"),
    ("http://gateway.test/api/secret", "secret"),
    ("HTTP://other.test:1/api//secret", "secret"),
    ("http://other.test//api/secret", None),
    ("/api/./secret", None),
    ("/api/%2e/secret", None),
    ("/api/.;x/secret", None),
    ("/api/public/../secret", None),
    ("/api/public/%2e%2e/secret", None),
    ("/api/public/..%2fsecret", None),
    ("/api/public%2f..%2fsecret", None),
    ("/api/public/.%2e;a=b/secret", None),
    ("/api/public/..\\secret", None),
    ("/api/public/..%5csecret", None),
    ("/api\\secret", None),
    ("/api%5Csecret", None),
    ("/api/secret%00", None),
    ("/api/secret%0a", None),
    ("/api/secret%0D%0Ax", None),
    ("/api/secret%zz", None),
    ("/api/secret%", None),
    ("/api%c0%afsecret", None),
    ("/api/%e0%80%afsecret", None),
    ("/api/s%c1%a5cret", None),
    ("/api/secret#x", None),
    ("/api;%2fpublic/../secret", None),
    ("/api/public;%2f..%2f..%2fapi/secret", None),
    ("/users/7/key", "user"),
    ("/users/7/%6bey", "user"),
    ("/users/7;a/key;b", "user"),
    ("/users/7%2Fkey", "user"),
    ("/users//7/key/", "user"),
    ("/only/this", "exact"),
    ("/only//this/", "exact"),
    ("/only/th%69s;x", "exact"),
]


@pytest.mark.parametrize(("target", "route"), SPELLINGS)
def test_no_spelling_of_a_protected_path_reaches_another_route(
    gateway: Gateway, backend: ScriptedBackend, target: str, route: str | None
) -> None:
    response = gateway.get(target)
    line = gateway.access_line(response)
    assert (response.status, line["route"]) == (401 if route else 400, route)
    assert not backend.has_received()
    if route:
        assert gateway.get(target, bearer(HS256.token())).status == 200
        # The client's own bytes, for the backend to read as it does.
        own = target.partition("://")[2].partition("/")
        assert backend.received().target == (("/" + own[2]) if own[0] else target).encode()


@pytest.mark.parametrize("target", ["/api/public", "/api/secrets", "/api/secre", "/api%252fsecret", "/API/SECRET"])
def test_other_paths_are_not_protected_by_it(gateway: Gateway, backend: ScriptedBackend, target: str) -> None:
    assert gateway.get(target).status == 200


def test_absolute_forms_authority_is_the_host_that_counts(tmp_path: Path, backend: ScriptedBackend) -> None:
    document = {
        "backends": {"main": {"targets": [backend.url]}},
        "routes": [
            {"name": "inner", "hosts": ["inner.test"], "path": "/", "backend": "main", "auth": "jwt"},
            {"name": "outer", "path": "/", "backend": "main", "auth": "none"},
        ],
    }
    with Gateway(tmp_path, {"GATEWAY_JWT_SECRET": SECRET, **routes(document)}) as gateway:
        for host in ("inner.test", "INNER.test.", "inner.test:99", "inner.test..:1"):
            assert gateway.get("/", host=host).status == 401
        assert gateway.get("http://inner.test/", host="outer.test").status == 401
        assert gateway.get("http://outer.test/", host="inner.test").status == 200
        for host in ("inner.test/", "inner.test@outer.test", "inner%2etest", "inner.test,outer.test ", "inner.test\\"):
            assert gateway.get("/", host=host).status in {400, 200}
        assert gateway.get("/", "Host: outer.test", host="inner.test").status == 400


# --- all keys at once ------------------------------------------------------------------------------------------------

DOCUMENT = """
[backends.resumes]
targets = ["{url}"]

[[routes]]
name = "resumes"
hosts = ["api.example.com"]
path = "/api/v1/resumes"
methods = ["GET", "POST"]
headers = {{ x-canary = "1" }}
backend = "resumes"
upgrades = ["websocket"]
auth = "jwt"
timeout.total = "5s"
max_body_bytes = "1KiB"
rate_limit = {{ rate = "6/h", burst = 3, key = "subject", on_store_error = "closed" }}
jwt.required_scopes = ["resumes:read"]
jwt.claim_headers = {{ sub = "X-User" }}
jwt.forward_token = false
cors.allow_origins = ["https://app.example.com"]
cors.allow_headers = ["X-Canary"]
cors.expose_headers = ["X-Total"]
cors.allow_credentials = true
cors.max_age = "5m"
hsts = "max-age=60"
csp = ""
frame_options = "SAMEORIGIN"
referrer_policy = "origin"
permissions_policy = "camera=()"
sanitize = {{ encoded_slash = "reject", underscore_headers = "reject" }}
allowed_methods = ["GET", "POST"]
allowed_content_types = ["application/json"]
allow_ips = ["127.0.0.0/8"]
deny_ips = ["127.0.0.66"]
request_headers = {{ set = {{ X-Env = "prod" }}, remove = ["X-Debug"] }}
response_headers = {{ remove = ["Server"] }}
"""


def test_document_with_every_security_key_does_all_of_it(tmp_path: Path, backend: ScriptedBackend) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(DOCUMENT.format(url=backend.url), encoding="utf-8")
    environment = {
        "GATEWAY_ROUTES_FILE": os.fspath(file),
        "GATEWAY_JWT_SECRET": SECRET,
        "GATEWAY_TRUSTED_PROXIES": PROXY,
    }
    host, path = "api.example.com", "/api/v1/resumes/7"
    good = bearer(HS256.token(sub="ann", scope="resumes:read"))
    canary, origin = "X-Canary: 1", "Origin: https://app.example.com"
    backend.script = answer(b"HTTP/1.1 200 OK\r\nServer: s\r\nX-Total: 9\r\nContent-Length: 0\r\n\r\n")
    with Gateway(tmp_path, environment) as gateway:

        def get(*fields: str, target: str = path, method: str = "GET") -> Response:
            return gateway.get(target, canary, *fields, method=method, host=host)

        asked = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-canary")
        preflight = get(origin, *asked, method="OPTIONS")
        assert (preflight.status, preflight.header("Access-Control-Max-Age")) == (204, "300")
        assert preflight.header("Access-Control-Allow-Headers") == "X-Canary"
        assert get(origin).json()["reason"] == "TOKEN_MISSING"
        assert get(bearer(HS256.token(sub="ann"))).json()["reason"] == "SCOPE_MISSING"
        assert get(good, target=f"{path}%2fcv").json()["reason"] == "BAD_PATH"
        assert get(good, "X_A: 1").json()["reason"] == "BAD_REQUEST"
        assert get(good, method="PUT").json()["reason"] == "METHOD_NOT_ALLOWED"
        assert get(good, "Content-Type: text/plain", "Content-Length: 1", method="POST").status == 415
        assert get(good, "Content-Type: application/json", "Content-Length: 1025", method="POST").status == 413
        assert get_from(gateway, "127.0.0.66", path, canary, good).status == 404  # gateway.test is no host of it
        denied = gateway_get_from(gateway, "127.0.0.66", path, host, canary, good)
        assert denied.json()["reason"] == "IP_DENIED"
        response = get(origin, good, "X-User: root", "X-Debug: 1")
        assert (response.status, response.headers("Server")) == (200, [])
        expected = {
            "RateLimit-Policy": '"resumes";q=3;w=1800',
            "RateLimit": '"resumes";r=2;t=600',
            "Access-Control-Allow-Origin": "https://app.example.com",
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Expose-Headers": "X-Total",
            "Strict-Transport-Security": None,
            "Content-Security-Policy": None,
            "X-Frame-Options": "SAMEORIGIN",
            "Referrer-Policy": "origin",
            "Permissions-Policy": "camera=()",
            "Vary": "Origin",
        }
        assert {name: response.header(name) for name in expected} == expected
        received = backend.received()
        told = {name: received.header(name) for name in ("X-User", "Authorization", "X-Env", "X-Debug")}
        assert told == {"X-User": "ann", "Authorization": None, "X-Env": "prod", "X-Debug": None}
        secure = gateway_get_from(gateway, PROXY, path, host, canary, good, "X-Forwarded-Proto: https")
        assert secure.header("Strict-Transport-Security") == "max-age=60"
        assert [get(good).status for _ in range(2)] == [200, 429]
        bob = bearer(HS256.token(sub="bob", scope="resumes:read"))
        assert get(bob).status == 200
        lines = [line for line in gateway.lines if line["event"] == "configuration"]
    assert [line["message"] for line in lines if "no effect" in line["message"]] == []


def gateway_get_from(gateway: Gateway, source: str, path: str, host: str, *fields: str) -> Response:
    with from_address(gateway, source) as client:
        return _ask(client, f"GET {path} HTTP/1.1", f"Host: {host}", *fields)


def _ask(client: Client, *lines: str) -> Response:
    client.send("\r\n".join((*lines, "", "")).encode())
    return client.read_response()
