"""Errors that are the backend's fault: what the client sees of them, and what the log says."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.integration.backend import (
    OK,
    Exchange,
    Script,
    ScriptedBackend,
    answer_and_close,
    answer_and_reset,
    hang,
)
from tests.integration.harness import ONE_ATTEMPT, Gateway, free_port, routes
from tests.integration.problems import assert_problem


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
            {"name": "idle", "path": "/idle", "backend": "main", "timeout": {"idle": "300ms"}},
            {"name": "total", "path": "/total", "backend": "main", "timeout": {"total": "300ms"}},
            {"name": "patient", "path": "/patient", "backend": "main", "timeout": {"total": "1s"}},
        ],
    }  # fmt: skip
    with Gateway(directory, {**ONE_ATTEMPT, **routes(document)}) as running:
        yield running


# --- connecting, answering ----------------------------------------------------------------------------------------


def test_target_that_refuses_connections(gateway: Gateway) -> None:
    line = assert_problem(
        gateway, gateway.get("/refused"), 502, "UPSTREAM_CONNECT_FAILED", proxy_error="connection_refused"
    )
    assert (line["route"], line["backend"]) == ("refused", "refused")
    assert line["target"].startswith("127.0.0.1:")


def test_target_whose_name_does_not_resolve(gateway: Gateway) -> None:
    response = gateway.get("/nowhere")
    assert_problem(gateway, response, 502, "UPSTREAM_CONNECT_FAILED", proxy_error="dns_error")


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-"])
@pytest.mark.parametrize("end", [answer_and_reset, answer_and_close])
def test_target_that_goes_away_before_the_head_is_complete(
    gateway: Gateway, backend: ScriptedBackend, sent: bytes, end: Callable[[bytes], Script]
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
    gateway: Gateway,
    backend: ScriptedBackend,
    sent: bytes,
    end: Callable[[bytes], Script],
    request: pytest.FixtureRequest,
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


# --- TLS, the pool, time ------------------------------------------------------------------------------------------


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
        assert line["duration_ms"] >= 300
    gateway.wait_until_free()


def test_pool_lends_a_connection_to_who_waits(gateway: Gateway, backend: ScriptedBackend) -> None:
    def one_at_a_time(exchange: Exchange) -> None:
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
    line = assert_problem(gateway, gateway.get("/idle"), 504, "UPSTREAM_TIMEOUT", proxy_error="http_response_timeout")
    assert line["target"] == f"127.0.0.1:{backend.port}"
    backend.wait_until_closed()
    gateway.wait_until_free()


def test_target_that_uses_the_total_time_up(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = hang
    response = gateway.get("/total")
    assert_problem(gateway, response, 504, "DEADLINE_EXCEEDED", proxy_error="http_response_timeout")
    backend.wait_until_closed()


def test_total_time_begins_with_the_last_byte_of_the_request(gateway: Gateway, backend: ScriptedBackend) -> None:
    def answer_after_a_while(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):  # the gateway stays
            exchange.socket.recv(1)
        exchange.send(OK)

    backend.script = answer_after_a_while
    with gateway.client() as client:
        client.send(b"POST /patient HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        client.socket.settimeout(0.4)
        for byte in (b"a", b"b", b"c"):
            client.send(byte)
            with pytest.raises(TimeoutError):  # nothing is answered in the meantime
                client.socket.recv(1)
        client.socket.settimeout(10)
        client.send(b"d")
        assert client.read_response().status == 200
    assert backend.received().body == b"abcd"


def test_total_time_ends_with_the_response_head(gateway: Gateway, backend: ScriptedBackend) -> None:
    def slow_body(exchange: Exchange) -> None:
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
