"""Every error that the gateway can answer with now: what the client sees of it, and what the log says."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.integration.backend import ScriptedBackend, answer, answer_and_close, answer_and_reset, hang
from tests.integration.client import Client
from tests.integration.harness import Gateway, free_port, routes
from tests.integration.problems import assert_problem

BROKEN_MODULE = """
from twisted.internet.defer import fail
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET


class Broken(Resource):
    isLeaf = True

    def render_GET(self, request):
        raise ZeroDivisionError("the secret of 127.0.0.1")

    def render_POST(self, request):
        request.setHeader(b"content-length", b"10")
        request.write(b"abc")
        raise ZeroDivisionError("too late")


broken = Broken()
"""


@pytest.fixture(scope="module")
def silent_port() -> Iterator[int]:
    """A port of which connections are never accepted: its backlog is full, so that the kernel drops further ones."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        yield port
        for filler in fillers:
            filler.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls_backend(authority: trustme.CA) -> Iterator[ScriptedBackend]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("other.test").configure_cert(context)
    with ScriptedBackend(tls=context) as backend:
        yield backend


@pytest.fixture(scope="module")
def mail_backend() -> Iterator[ScriptedBackend]:
    with ScriptedBackend(greeting=b"220 mail.test ESMTP\r\n") as backend:
        yield backend


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory,
    module_backend: ScriptedBackend,
    tls_backend: ScriptedBackend,
    mail_backend: ScriptedBackend,
    authority: trustme.CA,
    silent_port: int,
) -> Iterator[Gateway]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    (directory / "broken_pages.py").write_text(BROKEN_MODULE, encoding="utf-8")
    authority_file = directory / "ca.pem"
    authority.cert_pem.write_to_path(os.fspath(authority_file))

    def backend(url: str, **keys: Any) -> dict[str, Any]:
        return {"targets": [url], **keys}

    document = {
        "backends": {
            "main": backend(module_backend.url),
            "refused": backend(f"http://127.0.0.1:{free_port()}"),
            "nowhere": backend("http://name-that-is-not.invalid:80"),
            "silent": backend(f"http://127.0.0.1:{silent_port}", timeout={"connect": "300ms"}),
            "wrong-name": backend(tls_backend.url, tls={"ca_file": str(authority_file)}),
            "unknown-ca": backend(tls_backend.url, tls={"server_name": "other.test"}),
            "right": backend(tls_backend.url, tls={"ca_file": str(authority_file), "server_name": "other.test"}),
            "not-tls": backend(mail_backend.url.replace("http:", "https:")),
            "one": backend(module_backend.url, pool={"max_connections": 1, "max_pending": 0}),
            "queue": backend(
                module_backend.url, pool={"max_connections": 1, "max_pending": 5, "pending_timeout": "300ms"}
            ),
        },
        "routes": [
            *({"name": name, "path": f"/{name}", "backend": name} for name in (
                "main", "refused", "nowhere", "silent", "wrong-name", "unknown-ca", "right", "not-tls", "one", "queue",
            )),
            {"name": "get", "path": "/get", "methods": ["GET"], "backend": "main"},
            {"name": "broken", "path": "/broken", "resource": "broken_pages:broken"},
            {"name": "idle", "path": "/idle", "backend": "main", "timeout": {"idle": "300ms"}},
            {"name": "total", "path": "/total", "backend": "main", "timeout": {"total": "300ms"}},
            {"name": "small", "path": "/small", "backend": "main", "max_body_bytes": 10},
        ],
    }  # fmt: skip
    with Gateway(directory, {"PYTHONPATH": os.fspath(directory), **routes(document)}) as running:
        yield running


# --- what the client did wrong ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET /main HTTP/1.1\r\nHost: x\r\nBad Name: 1\r\n\r\n",
        b"GET /main HTTP/1.1\r\nHost: x\r\nName : 1\r\n\r\n",
        b"GET /main HTTP/1.1\r\nHost: x\r\nName: 1\r\n folded\r\n\r\n",
        b"GET /main HTTP/1.1\r\nHost: x\r\nName: a\x00b\r\n\r\n",
        b"GET /main HTTP/1.1\nHost: x\n\n",
        b"GET main HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET ftp://x/main HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /main HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
        b"POST /main HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /main HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"POST /main HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /main HTTP/1.1\r\nHost: x\r\nContent-Length: +1\r\n\r\na",
        b"POST /main HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_malformed_message_is_a_bad_request_and_ends_the_connection(
    gateway: Gateway, backend: ScriptedBackend, request_bytes: bytes
) -> None:
    with gateway.client() as client:
        client.send(request_bytes)
        response = client.read_response()
        assert client.is_at_end()
    line = assert_problem(gateway, response, 400, "BAD_REQUEST", closes=True)
    assert line["client_ip"] == "127.0.0.1"
    assert not backend.has_received()


def test_message_that_never_became_a_request_is_logged_with_what_is_known(gateway: Gateway) -> None:
    response = gateway.ask(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client on a plain port\r\n\r\n")
    line = assert_problem(gateway, response, 400, "BAD_REQUEST", closes=True)
    unknown = ("method", "path", "host", "route", "backend", "target", "user_agent", "subject", "upstream_ms")
    assert {name: line[name] for name in unknown} == dict.fromkeys(unknown)


@pytest.mark.parametrize(
    "target",
    ["/main/../secret", "/main/%2e%2E/secret", "/main/.", "/a%00", "/a%0d%0a", "/a%5cb", "/a\\b", "/a%zz", "/%ff",
     "/a;%2fb"],
)  # fmt: skip
def test_path_that_backends_read_differently_is_refused(
    gateway: Gateway, backend: ScriptedBackend, target: str
) -> None:
    line = assert_problem(gateway, gateway.get(target), 400, "BAD_PATH")
    assert line["path"] == target
    assert not backend.has_received()


@pytest.mark.parametrize(
    "host_lines",
    [b"", b"Host: a\r\nHost: a\r\n", b"Host: a b\r\n", b"Host: user@a\r\n", b"Host:\r\n", b"Host: a:99999\r\n",
     b"Host: a/b\r\n"],
)  # fmt: skip
def test_missing_repeated_or_malformed_host_is_refused(
    gateway: Gateway, backend: ScriptedBackend, host_lines: bytes
) -> None:
    response = gateway.ask(b"GET /main HTTP/1.1\r\n" + host_lines + b"\r\n")
    assert_problem(gateway, response, 400, "BAD_HOST", closes=True)
    assert not backend.has_received()


@pytest.mark.parametrize(("path", "status"), [(b"/unknown", 404), (b"/get", 405)])
def test_request_without_route_is_not_asked_for_its_body(gateway: Gateway, path: bytes, status: int) -> None:
    with gateway.client() as client:
        client.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n" % path)
        response = client.read_response()
        assert (response.status, response.informational, response.header("Connection")) == (status, [], "close")
        assert client.is_at_end()


def test_no_route(gateway: Gateway) -> None:
    line = assert_problem(gateway, gateway.get("/unknown?token=secret"), 404, "NO_ROUTE")
    assert (line["route"], line["path"], line["attempts"]) == (None, "/unknown", 0)


@pytest.mark.parametrize("method", ["POST", "BREW", "DELETE"])
def test_method_that_the_route_does_not_take(gateway: Gateway, method: str) -> None:
    response = gateway.get("/get", method=method)
    if method == "BREW":  # unknown to HTTP at all
        assert_problem(gateway, response, 501, "METHOD_NOT_IMPLEMENTED", closes=True, proxy_error="http_request_denied")
    else:
        assert_problem(gateway, response, 405, "METHOD_NOT_ALLOWED")
        assert response.header("Allow") == "GET, HEAD"


def test_trace_and_connect_are_not_allowed(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert_problem(gateway, gateway.get("/main", method="TRACE"), 405, "METHOD_NOT_ALLOWED")
    with gateway.client() as client:
        client.send(b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n\x16\x03\x01")
        response = client.read_response("GET")
        assert client.is_gone()
    assert_problem(gateway, response, 405, "METHOD_NOT_ALLOWED", closes=True)
    assert response.header("Allow") is not None
    assert not backend.has_received()


def test_declared_body_that_is_too_large_is_refused_at_the_head(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n")
        response = client.read_response()
    assert_problem(gateway, response, 413, "BODY_TOO_LARGE", closes=True)
    assert not backend.has_received()


def test_streamed_body_that_grows_too_large_is_refused_and_the_target_released(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    backend.script = hang
    with gateway.client() as client:
        client.send(b"POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n01234\r\n")
        backend.received()
        client.send(b"6\r\n56789a\r\n0\r\n\r\n")
        response = client.read_response()
        backend.wait_until_closed()
    line = assert_problem(gateway, response, 413, "BODY_TOO_LARGE", closes=response.header("Connection") == "close")
    assert line["bytes_in"] == 11
    gateway.wait_until_free()


def test_target_that_is_too_long(gateway: Gateway) -> None:
    response = gateway.get("/" + "a" * 9000)
    assert_problem(gateway, response, 414, "URI_TOO_LONG", closes=True)


def test_expectation_that_is_unknown(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert_problem(gateway, gateway.get("/main", "Expect: the-unexpected"), 417, "EXPECTATION_FAILED")
    assert not backend.has_received()


@pytest.mark.parametrize(
    "fields", [["X-Large: " + "a" * 17_000], [f"X-{number}: 1" for number in range(100)]], ids=["bytes", "count"]
)
def test_header_section_that_is_too_large(gateway: Gateway, fields: list[str]) -> None:
    assert_problem(gateway, gateway.get("/main", *fields), 431, "HEADERS_TOO_LARGE", closes=True)


def test_header_section_at_its_limits_passes(gateway: Gateway, backend: ScriptedBackend) -> None:
    fields = [f"X-{number}: {'a' * 150}" for number in range(99)]
    assert gateway.get("/main/" + "a" * 8000, *fields).status == 200


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9", b"HTTP/3.0"])
def test_other_version_of_http(gateway: Gateway, version: bytes) -> None:
    response = gateway.ask(b"GET /main " + version + b"\r\nHost: x\r\n\r\n")
    assert_problem(gateway, response, 505, "VERSION_NOT_SUPPORTED", proxy_error="http_request_denied", closes=True)


def test_http2_preface_on_a_plain_port(gateway: Gateway) -> None:
    response = gateway.ask(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    assert response.status in {400, 505}
    assert response.header("Connection") == "close"


# --- what is wrong with us -------------------------------------------------------------------------------------------


def test_resource_that_raises_is_an_internal_error_told_in_the_log_only(gateway: Gateway) -> None:
    response = gateway.get("/broken")
    assert_problem(gateway, response, 500, "INTERNAL_ERROR", proxy_error="proxy_internal_error")
    told = [line for line in gateway.lines if "ZeroDivisionError" in line.get("traceback", "")]
    assert told[-1]["request_id"] == response.header("X-Request-ID")


def test_resource_that_raises_after_its_head_breaks_off_visibly(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.send(b"POST /broken/late HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_head().status == 200
        assert client.is_cut()
    line = gateway.access_line_at("/broken/late")
    assert (line["status"], line["reason"]) == (200, "INTERNAL_ERROR")


# --- what is wrong with the backend ------------------------------------------------------------------------------------


def test_target_that_refuses_connections(gateway: Gateway) -> None:
    line = assert_problem(
        gateway, gateway.get("/refused"), 502, "UPSTREAM_CONNECT_FAILED", proxy_error="connection_refused"
    )
    assert (line["route"], line["backend"]) == ("refused", "refused")
    assert line["target"].startswith("127.0.0.1:")


def test_target_whose_name_does_not_resolve(gateway: Gateway) -> None:
    response = gateway.get("/nowhere")
    assert_problem(gateway, response, 502, "UPSTREAM_CONNECT_FAILED", proxy_error="connection_refused")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
@pytest.mark.parametrize("end", [answer_and_reset, answer_and_close])
def test_target_that_goes_away_before_the_head_is_complete(
    gateway: Gateway, backend: ScriptedBackend, sent: bytes, end: Any
) -> None:
    backend.script = end(sent)
    response = gateway.ask(b"POST /main HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
    line = assert_problem(gateway, response, 502, "UPSTREAM_RESET", proxy_error="connection_terminated")
    assert line["attempts"] == 1
    gateway.wait_until_free()


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc",
    ],
)
@pytest.mark.parametrize("end", [answer_and_reset, answer_and_close])
def test_target_that_goes_away_after_the_head_breaks_the_answer_off_visibly(
    gateway: Gateway, backend: ScriptedBackend, sent: bytes, end: Any, request: pytest.FixtureRequest
) -> None:
    backend.script = end(sent)
    path = f"/main/{abs(hash(request.node.name))}"
    with gateway.client() as client:
        client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode())
        assert client.read_head().status == 200
        assert client.is_cut()
    line = gateway.access_line_at(path)
    assert (line["status"], line["reason"], line["level"]) == (200, "UPSTREAM_RESET", "INFO")


def test_body_that_is_ended_by_a_reset_is_not_taken_for_whole(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer_and_reset(b"HTTP/1.1 200 OK\r\n\r\nabc")
    with gateway.client() as client:
        client.send(b"GET /main/until-reset HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_head().status == 200
        assert client.is_cut()
    assert gateway.access_line_at("/main/until-reset")["reason"] == "UPSTREAM_RESET"


@pytest.mark.parametrize(
    "sent",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: surprise\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 20,
    ],
)
def test_answer_that_is_not_proper_http(gateway: Gateway, backend: ScriptedBackend, sent: bytes) -> None:
    backend.script = answer_and_close(sent)
    response = gateway.get("/main")
    assert_problem(gateway, response, 502, "UPSTREAM_PROTOCOL_ERROR", proxy_error="http_protocol_error")
    backend.wait_until_closed()
    gateway.wait_until_free()


def test_malformed_chunk_breaks_the_answer_off_visibly(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer_and_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcX\r\n")
    with gateway.client() as client:
        client.send(b"GET /main/bad-chunk HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.is_cut()
    assert gateway.access_line_at("/main/bad-chunk")["reason"] == "UPSTREAM_PROTOCOL_ERROR"


@pytest.mark.parametrize("name", ["wrong-name", "unknown-ca", "not-tls"])
def test_target_whose_certificate_or_handshake_is_wrong(gateway: Gateway, backend: ScriptedBackend, name: str) -> None:
    response = gateway.get(f"/{name}")
    assert_problem(gateway, response, 502, "UPSTREAM_TLS_ERROR", proxy_error="tls_protocol_error")


def test_target_with_the_right_certificate_is_served(gateway: Gateway, tls_backend: ScriptedBackend) -> None:
    tls_backend.renew()
    assert [gateway.get("/right").body for _ in range(2)] == [b"ok", b"ok"]
    first, second = tls_backend.received(), tls_backend.received()
    assert first.connection == second.connection
    assert first.header("Host") == f"127.0.0.1:{tls_backend.port}"


def test_pool_whose_queue_is_full(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    with gateway.client() as client:
        client.send(b"GET /one HTTP/1.1\r\nHost: x\r\n\r\n")
        backend.received()
        response = gateway.get("/one")
        assert_problem(gateway, response, 503, "POOL_EXHAUSTED", proxy_error="connection_limit_reached")
    gateway.wait_until_free()


def test_pool_whose_queue_is_too_slow(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    with gateway.client() as client:
        client.send(b"GET /queue HTTP/1.1\r\nHost: x\r\n\r\n")
        backend.received()
        response = gateway.get("/queue")
        line = assert_problem(gateway, response, 503, "POOL_EXHAUSTED", proxy_error="connection_limit_reached")
        assert 300 <= line["duration_ms"]
    gateway.wait_until_free()


def test_pool_lends_a_connection_to_who_waits(gateway: Gateway, backend: ScriptedBackend) -> None:
    def one_at_a_time(exchange: Any) -> None:
        exchange.read_body()
        if exchange.request.target == b"/one/first":
            assert go_on.recv(1)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    backend.script = one_at_a_time
    go_on, told = socket.socketpair()
    with closing(go_on), closing(told), gateway.client() as first, gateway.client() as second:
        first.send(b"GET /queue/first HTTP/1.1\r\nHost: x\r\n\r\n")
        backend.received()
        second.send(b"GET /queue/second HTTP/1.1\r\nHost: x\r\n\r\n")
        told.send(b"x")
        assert first.read_response().status == 200
        assert second.read_response().status == 200


def test_target_that_does_not_accept(gateway: Gateway) -> None:
    response = gateway.get("/silent")
    assert_problem(gateway, response, 504, "UPSTREAM_TIMEOUT", proxy_error="connection_timeout")
    gateway.wait_until_free()


def test_target_that_is_silent_for_too_long(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    line = assert_problem(
        gateway, gateway.get("/idle"), 504, "UPSTREAM_TIMEOUT", proxy_error="connection_timeout"
    )
    assert line["target"] == f"127.0.0.1:{backend.port}"
    backend.wait_until_closed()
    gateway.wait_until_free()


def test_target_that_uses_the_total_time_up(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    response = gateway.get("/total")
    assert_problem(gateway, response, 504, "DEADLINE_EXCEEDED", proxy_error="http_response_timeout")
    backend.wait_until_closed()


def test_total_time_begins_with_the_last_byte_of_the_request(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(b"POST /total HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        for byte in (b"a", b"b", b"c"):
            client.send(byte)
            client.socket.settimeout(0.3)  # nothing is answered in the meantime
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
        client.socket.settimeout(10)
        client.send(b"d")
        assert client.read_response().status == 200
    assert backend.received().body == b"abcd"


def test_total_time_ends_with_the_response_head(gateway: Gateway, backend: ScriptedBackend) -> None:
    def slow_body(exchange: Any) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        assert go_on.recv(1)
        exchange.send(b"ok")

    backend.script = slow_body
    go_on, told = socket.socketpair()
    with closing(go_on), closing(told), gateway.client() as client:
        client.send(b"GET /total HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.read_head()
        client.socket.settimeout(0.6)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(10)
        told.send(b"x")
        assert client.read_body(head) == (b"ok", [])


# --- gRPC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code", "reason", "status"),
    [("/unknown", "12", "NO_ROUTE", 404), ("/refused", "14", "UPSTREAM_CONNECT_FAILED", 502),
     ("/small", "8", "BODY_TOO_LARGE", 413), ("/%00", "13", "BAD_PATH", 400), ("/get", "2", "METHOD_NOT_ALLOWED", 405)],
)  # fmt: skip
def test_grpc_request_gets_a_grpc_status(
    gateway: Gateway, path: str, code: str, reason: str, status: int
) -> None:
    response = gateway.ask(
        b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/grpc+proto\r\nContent-Length: 11\r\n\r\n0123456789a"
        % path.encode()
    )
    assert (response.status, response.body) == (200, b"")
    assert response.header("Content-Type") == "application/grpc"
    assert (response.header("grpc-status"), response.header("grpc-message")) == (code, reason)
    assert gateway.access_line(response)["reason"] == reason


# --- all of them ---------------------------------------------------------------------------------------------------------


def test_errors_are_counted_by_route_and_reason(gateway: Gateway) -> None:
    before = gateway.metric("gateway_errors_total", route="none", reason="NO_ROUTE")
    gateway.get("/unknown")
    assert gateway.metric("gateway_errors_total", route="none", reason="NO_ROUTE") == before + 1
    before = gateway.metric("gateway_requests_total", route="refused", method="GET", status="502")
    gateway.get("/refused")
    assert gateway.metric("gateway_requests_total", route="refused", method="GET", status="502") == before + 1


def test_answer_to_head_has_no_body(gateway: Gateway) -> None:
    response = gateway.get("/unknown", method="HEAD")
    assert (response.status, response.body) == (404, b"")
    length = response.header("Content-Length")
    assert length is not None
    assert int(length) > 50


def test_connection_lives_on_after_an_error_that_is_not_about_framing(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    backend.script = answer()
    with Client(gateway.port) as client:
        for target, status in ((b"/unknown", 404), (b"/%00", 400), (b"/refused", 502), (b"/main", 200)):
            client.send(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % target)
            assert client.read_response().status == status


def test_no_secret_gets_into_the_log(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get(
        "/main/x?token=s3cr3t", "Authorization: Bearer s3cr3t", "Cookie: session=s3cr3t", "X-Api-Key: s3cr3t"
    )
    line = gateway.access_line(response)
    assert "s3cr3t" not in json.dumps(line)
    assert "s3cr3t" not in gateway.output_text
