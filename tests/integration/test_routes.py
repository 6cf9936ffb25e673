"""Every key of the routes document that is built, on the wire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import OK, ScriptedBackend, answer
from tests.integration.harness import Gateway, routes
from tests.integration.problems import assert_problem

RESOURCE_MODULE = """
from twisted.internet import reactor
from twisted.web.resource import Resource
from twisted.web.static import Data


class Form(Resource):
    isLeaf = True

    def render_POST(self, request):
        request.setHeader(b"content-type", b"text/plain")
        request.addCookie(b"seen", b"yes")
        name = request.args[b"name"][0]
        return b"|".join([name, request.getHeader(b"x-one"), request.path, b"/".join(request.postpath)])


class Cookies(Resource):
    isLeaf = True

    def render_GET(self, request):
        return request.getCookie(b"seen") or b"none"


root = Resource()
root.putChild(b"form", Form())
root.putChild(b"cookies", Cookies())
root.putChild(b"data", Data(b"x" * 300_000, "application/x-data"))
"""


def document(backend: ScriptedBackend, others: list[ScriptedBackend]) -> dict[str, Any]:
    def route(name: str, path: str, **keys: Any) -> dict[str, Any]:
        if not {"redirect", "response", "resource", "backend"} & keys.keys():
            keys["backend"] = "one"
        return {"name": name, "path": path, **keys}

    return {
        "backends": {
            "one": {"targets": [backend.url]},
            "three": {"targets": [others[0].url, {"url": others[1].url, "weight": 2}]},
            "socket": {"targets": [others[2].url]},
        },
        "routes": [
            route("everywhere", "/"),
            route("prefix", "/pre/fix"),
            route("exact", "=/pre/exact"),
            route("template", "/users/{id}/cv", rewrite="/cv/{id}/latest"),
            route("template-plain", "/users/{id}/{what}"),
            route("literal", "/users/me/cv"),
            route("host", "/", hosts=["API.example.com"]),
            route("wildcard", "/", hosts=["*.example.com"]),
            route("ipv6", "/", hosts=["[::1]"]),
            route("get", "/methods", methods=["GET", "POST"]),
            route("put", "/methods", methods=["PUT"]),
            route("trace", "/trace", methods=["TRACE"]),
            route("canary", "/canary", headers={"X-Canary": "1"}),
            route("stable", "/canary"),
            route("only-canary", "/only-canary", headers={"x-canary": "1", "x-more": "2"}),
            route("weights", "/weights", backend="three"),
            route("socket", "/socket", backend="socket"),
            route("redirect", "/old", redirect={"to": "https://new.example.com", "status": 301}),
            route("moved", "/moved", redirect={"to": "/here"}),
            route("gone", "/gone", response={"status": 410, "body": "göne", "content_type": "text/x-gone"}),
            route("nothing", "/nothing", response={"status": 204}),
            route("pages", "/pages", resource="pages_of_a_user:root"),
            route("strip", "/strip/me", strip_prefix=True),
            route("fixed-path", "/rewritten", rewrite="/a%20b/%C3%A9"),
            route("own-host", "/own-host", preserve_host=True),
            route("small", "/small", max_body_bytes="10"),
            route("unlimited", "/unlimited", max_body_bytes=0),
            route(
                "fields",
                "/fields",
                request_headers={"set": {"X-Env": "prod", "X-Theirs": "ours"}, "remove": ["x-debug"]},
                response_headers={"set": {"X-Set": "set", "Cache-Control": "no-store"}, "remove": ["server"]},
            ),
            route("no-slash", "/no-slash", sanitize={"encoded_slash": "reject"}),
            route("underscores", "/underscores", sanitize={"underscore_headers": "keep"}),
            route("no-underscores", "/no-underscores", sanitize={"underscore_headers": "reject"}),
        ],
    }


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ScriptedBackend]]:
    path = tmp_path_factory.mktemp("socket") / "backend.sock"
    assert len(os.fspath(path)) < 100
    with ScriptedBackend() as first, ScriptedBackend() as second, ScriptedBackend(path=os.fspath(path)) as third:
        yield [first, second, third]


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, others: list[ScriptedBackend]
) -> Iterator[Gateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    (directory / "pages_of_a_user.py").write_text(RESOURCE_MODULE, encoding="utf-8")
    environment = {"PYTHONPATH": os.fspath(directory), **routes(document(module_backend, others))}
    with Gateway(directory, environment) as running:
        yield running


def route_of(gateway: Gateway, target: str, *fields: str, **how: str) -> str | None:
    """The route that the access log says was taken."""
    response = gateway.get(target, *fields, **how)
    name: str | None = gateway.access_line(response)["route"]
    return name


# --- which route ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/", "everywhere"),
        ("/pre/fix", "prefix"),
        ("/pre/fix/", "prefix"),
        ("/pre/fix/more?x=/", "prefix"),
        ("/pre/fixed", "everywhere"),
        ("/pre/exact", "exact"),
        ("/pre/exact/more", "everywhere"),
        ("/users/7/cv", "template"),
        ("/users/me/cv", "literal"),
        ("/users/7/cv/more", "everywhere"),
        ("/%70re//fix", "prefix"),
        ("/pre%2Ffix;v=1/x", "prefix"),
    ],
)
def test_path_picks_the_most_specific_route(gateway: Gateway, backend: ScriptedBackend, target: str, name: str) -> None:
    assert route_of(gateway, target) == name
    assert backend.received().target == b"/cv/7/latest" if name == "template" else target.encode()


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("api.example.com", "host"),
        ("aPi.EXAMPLE.com:8443", "host"),
        ("api.example.com.", "host"),
        ("www.example.com", "wildcard"),
        ("a.b.example.com", "everywhere"),
        ("example.com", "everywhere"),
        ("[0:0::1]:80", "ipv6"),
        ("127.0.0.1", "everywhere"),
    ],
)
def test_host_picks_the_route_whatever_its_case_port_and_final_dot(
    gateway: Gateway, backend: ScriptedBackend, host: str, name: str
) -> None:
    assert route_of(gateway, "/", host=host) == name


@pytest.mark.parametrize(("method", "name"), [("GET", "get"), ("HEAD", "get"), ("POST", "get"), ("PUT", "put")])
def test_method_picks_the_route_and_get_implies_head(
    gateway: Gateway, backend: ScriptedBackend, method: str, name: str
) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert route_of(gateway, "/methods", method=method) == name


def test_allow_is_the_union_over_routes_of_host_and_path(tmp_path: Path) -> None:
    document = {
        "routes": [
            {"name": "a", "path": "/x", "methods": ["GET"], "response": {"body": "a"}},
            {"name": "b", "path": "/x", "methods": ["POST", "PUT"], "response": {"body": "b"}},
            {"name": "c", "path": "/x", "methods": ["PATCH"], "hosts": ["c.test"], "response": {"body": "c"}},
        ]
    }
    with Gateway(tmp_path, routes(document)) as gateway:
        here = gateway.get("/x", method="DELETE")
        there = gateway.get("/x", method="DELETE", host="c.test")
        elsewhere = gateway.get("/y", method="DELETE")
    assert (here.status, here.header("Allow")) == (405, "GET, HEAD, POST, PUT")
    assert (there.status, there.header("Allow")) == (405, "GET, HEAD, PATCH, POST, PUT")
    assert (elsewhere.status, elsewhere.header("Allow")) == (404, None)


def test_trace_is_forwarded_only_where_a_route_lists_it(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert gateway.get("/trace", method="TRACE").status == 200
    assert backend.received().method == "TRACE"
    assert gateway.get("/other", method="TRACE").status == 405


@pytest.mark.parametrize(("fields", "name"), [(["X-Canary: 1"], "canary"), (["x-canary: 2"], "stable"), ([], "stable")])
def test_header_picks_the_route(gateway: Gateway, backend: ScriptedBackend, fields: list[str], name: str) -> None:
    assert route_of(gateway, "/canary", *fields) == name


def test_route_wants_all_of_its_headers(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert route_of(gateway, "/only-canary", "X-Canary: 1") == "everywhere"
    assert route_of(gateway, "/only-canary", "X-Canary: 1", "X-More: 2") == "only-canary"


# --- where it leads --------------------------------------------------------------------------------------------------


def test_targets_get_their_weights(gateway: Gateway, others: list[ScriptedBackend]) -> None:
    for backend in others:
        backend.renew()
    targets = [gateway.access_line(gateway.get("/weights"))["target"] for _ in range(6)]
    assert [targets.count(f"127.0.0.1:{backend.port}") for backend in others[:2]] == [2, 4]
    assert targets[:3] == targets[3:]


def test_target_may_be_a_unix_socket(gateway: Gateway, others: list[ScriptedBackend]) -> None:
    others[2].renew()
    response = gateway.get("/socket/x")
    assert (response.status, response.body) == (200, b"ok")
    received = others[2].received()
    assert (received.target, received.header("Host")) == (b"/socket/x", "localhost")
    assert gateway.access_line(response)["target"] == others[2].url


def test_redirect_to_another_site_keeps_path_and_query(gateway: Gateway) -> None:
    response = gateway.get("/old/page?a=1&b=%20")
    assert (response.status, response.header("Location")) == (301, "https://new.example.com/old/page?a=1&b=%20")


def test_redirect_to_a_path_goes_just_there(gateway: Gateway) -> None:
    response = gateway.get("/moved/page?a=1")
    assert (response.status, response.header("Location"), response.body) == (308, "/here", b"")


def test_fixed_response_is_as_written(gateway: Gateway) -> None:
    response = gateway.get("/gone/at/all")
    assert (response.status, response.header("Content-Type")) == (410, "text/x-gone")
    assert response.body == "göne".encode()
    assert gateway.get("/gone", method="HEAD").header("Content-Length") == str(len("göne".encode()))
    assert gateway.get("/nothing").status == 204


def test_resource_gets_form_headers_and_the_path_behind_its_route(gateway: Gateway) -> None:
    response = gateway.ask(
        b"POST /pages/form/a%20b/c HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nContent-Length: 8\r\n"
        b"Content-Type: application/x-www-form-urlencoded\r\n\r\nname=a+b"
    )
    assert (response.status, response.body) == (200, b"a b|1|/pages/form/a%20b/c|a b/c")
    assert response.header("Set-Cookie") == "seen=yes"
    assert gateway.access_line(response)["route"] == "pages"


def test_resource_gets_a_multipart_form_in_pieces(gateway: Gateway) -> None:
    body = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + b"v" * 300_000 + b"\r\n--b--\r\n"
    with gateway.client() as client:
        client.send(
            b"POST /pages/form HTTP/1.1\r\nHost: x\r\nX-One: 1\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        )
        for start in range(0, len(body), 50_000):
            piece = body[start : start + 50_000]
            client.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        response = client.read_response()
    assert response.body.partition(b"|")[0] == b"v" * 300_000


def test_resource_that_is_large_arrives_whole_and_cookies_are_read(gateway: Gateway) -> None:
    response = gateway.get("/pages/data")
    assert (response.header("Content-Type"), len(response.body)) == ("application/x-data", 300_000)
    assert gateway.get("/pages/cookies", "Cookie: seen=so").body == b"so"
    assert gateway.get("/pages/missing").status == 404


# --- what is changed on the way ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "seen"),
    [
        (b"/strip/me", b"/"),
        (b"/strip/me/", b"/"),
        (b"/strip/me/a%2Fb/?q=%7E", b"/a%2Fb/?q=%7E"),
        (b"/strip/me?q", b"/?q"),
        (b"//strip//%6De/x", b"/x"),
        (b"/rewritten/x?q=1", b"/a%20b/%C3%A9?q=1"),
        (b"/users/a%20b%C3%A9/cv?q", b"/cv/a%20b%C3%A9/latest?q"),
    ],
)
def test_path_is_rewritten_and_the_query_kept(
    gateway: Gateway, backend: ScriptedBackend, target: bytes, seen: bytes
) -> None:
    response = gateway.get(target.decode())
    assert response.status == 200
    assert backend.received().target == seen
    assert gateway.access_line(response)["path"] == target.partition(b"?")[0].decode()


def test_host_is_the_targets_own_unless_preserved(gateway: Gateway, backend: ScriptedBackend) -> None:
    gateway.get("/x", host="Client.test:81")
    assert backend.received().headers("Host") == [f"127.0.0.1:{backend.port}"]
    gateway.get("/own-host", host="Client.test:81")
    assert backend.received().headers("Host") == ["Client.test:81"]


def test_fields_are_set_and_removed_in_both_directions(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(
        b"HTTP/1.1 200 OK\r\nServer: theirs\r\nX-Kept: kept\r\ncache-control: public\r\nContent-Length: 0\r\n\r\n"
    )
    response = gateway.get("/fields", "X-Debug: 1", "x-theirs: theirs", "X-Mine: mine")
    received = backend.received()
    assert received.headers("X-Env") == ["prod"]
    assert received.headers("X-Theirs") == ["ours"]
    assert received.headers("X-Mine") == ["mine"]
    assert received.headers("X-Debug") == []
    assert response.headers("Server") == []
    assert response.headers("X-Set") == ["set"]
    assert response.headers("X-Kept") == ["kept"]
    assert response.headers("Cache-Control") == ["no-store"]


# --- what is admitted --------------------------------------------------------------------------------------------------


def test_body_up_to_the_limit_passes_and_one_byte_more_does_not(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert gateway.ask(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n0123456789").status == 200
    assert backend.received().body == b"0123456789"
    response = gateway.ask(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n0123456789a")
    assert_problem(gateway, response, 413, "BODY_TOO_LARGE", closes=response.header("Connection") == "close")
    assert not backend.has_received()


def test_limit_of_zero_is_none(gateway: Gateway, backend: ScriptedBackend) -> None:
    size = 11 * 2**20
    with gateway.client() as client:
        client.send(b"POST /unlimited HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size)
        client.send(b"x" * size)
        assert client.read_response().status == 200
    assert len(backend.received().body) == size


def test_encoded_slash_is_refused_where_the_route_says_so(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert_problem(gateway, gateway.get("/no-slash/a%2fb"), 400, "BAD_PATH")
    assert gateway.get("/other/a%2fb").status == 200
    assert backend.received().target == b"/other/a%2fb"


def test_header_names_with_underscores_are_dropped_kept_or_refused(gateway: Gateway, backend: ScriptedBackend) -> None:
    gateway.get("/x", "X_User: root", "X-User: me")
    dropped = backend.received()
    assert (dropped.headers("X_User"), dropped.headers("X-User")) == ([], ["me"])
    gateway.get("/underscores", "X_User: root")
    assert backend.received().headers("X_User") == ["root"]
    response = gateway.get("/no-underscores", "X_User: root")
    assert (response.status, response.json()["reason"]) == (400, "BAD_REQUEST")


def test_backend_with_several_targets_from_the_environment(tmp_path: Path, others: list[ScriptedBackend]) -> None:
    for other in others:
        other.renew()
        other.script = answer(OK)
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": f"{others[0].url}, {others[1].url}"}) as gateway:
        assert [gateway.get("/").status for _ in range(4)] == [200] * 4
    for other in others[:2]:
        assert [other.received().target for _ in range(2)] == [b"/", b"/"]
        assert not other.has_received()
