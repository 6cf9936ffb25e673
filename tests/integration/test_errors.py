"""Errors that are the client's fault, or ours: what the client sees of it, and what the log says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from tests.integration.backend import ScriptedBackend, answer, hang
from tests.integration.client import Client
from tests.integration.harness import Gateway, free_port, routes
from tests.integration.problems import assert_problem

BROKEN_MODULE = """
from twisted.web.resource import Resource


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
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    (directory / "broken_pages.py").write_text(BROKEN_MODULE, encoding="utf-8")
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
            {"name": "main", "path": "/main", "backend": "main"},
            {"name": "refused", "path": "/refused", "backend": "refused"},
            {"name": "get", "path": "/get", "methods": ["GET"], "backend": "main"},
            {"name": "broken", "path": "/broken", "resource": "broken_pages:broken"},
            {"name": "small", "path": "/small", "backend": "main", "max_body_bytes": 10},
        ],
    }
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


# --- gRPC ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "code", "reason", "status"),
    [("/unknown", "12", "NO_ROUTE", 404), ("/refused", "14", "UPSTREAM_CONNECT_FAILED", 502),
     ("/small", "8", "BODY_TOO_LARGE", 413), ("/%00", "13", "BAD_PATH", 400), ("/get", "2", "METHOD_NOT_ALLOWED", 405)],
)  # fmt: skip
def test_grpc_request_gets_a_grpc_status(gateway: Gateway, path: str, code: str, reason: str, status: int) -> None:
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
