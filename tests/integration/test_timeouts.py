"""What the gateway does when one side takes its time; every limit is short here, and nothing is measured."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.client import Client
from tests.integration.harness import ONE_ATTEMPT, Gateway
from tests.integration.problems import assert_problem


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {
        **ONE_ATTEMPT,
        "GATEWAY_BACKEND_TARGET": module_backend.url,
        "GATEWAY_HEADER_TIMEOUT": "300ms",
        "GATEWAY_KEEPALIVE_TIMEOUT": "300ms",
        "GATEWAY_BODY_TIMEOUT": "300ms",
        "GATEWAY_TIMEOUT_IDLE": "500ms",
        "GATEWAY_TIMEOUT_TOTAL": "2s",
        "GATEWAY_MAX_BODY_BYTES": "0",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


def test_head_that_does_not_end_is_a_request_timeout(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.send(b"GET /never HTTP/1.1\r\nHost: x\r\nX-")
        response = client.read_response()
        assert client.is_at_end()
    line = assert_problem(gateway, response, 408, "REQUEST_TIMEOUT", closes=True)
    assert line["client_ip"] == "127.0.0.1"


def test_head_that_trickles_is_a_request_timeout(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        client.socket.settimeout(0.1)
        for _ in range(50):
            try:
                client.socket.recv(1, socket.MSG_PEEK)
                break
            except TimeoutError:
                client.send(b"a")
        client.socket.settimeout(10)
        response = client.read_response()
    assert (response.status, response.json()["reason"]) == (408, "REQUEST_TIMEOUT")


def test_idle_connection_is_closed_silently(gateway: Gateway, backend: ScriptedBackend) -> None:
    before = gateway.metric("gateway_errors_total", route="none", reason="REQUEST_TIMEOUT")
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_response().status == 200
        assert client.is_at_end()
    with gateway.client() as byteless:
        assert byteless.is_at_end()
    assert gateway.metric("gateway_errors_total", route="none", reason="REQUEST_TIMEOUT") == before


@pytest.mark.parametrize("begin", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n5\r\nabc"])
def test_upload_that_stalls_is_a_request_timeout_and_releases_the_target(
    gateway: Gateway, backend: ScriptedBackend, begin: bytes
) -> None:
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n" + begin)
        response = client.read_response()
        assert client.is_at_end()
    line = assert_problem(gateway, response, 408, "REQUEST_TIMEOUT", closes=True)
    assert line["target"] == f"127.0.0.1:{backend.port}"
    backend.wait_until_closed()
    gateway.wait_until_free()


def test_upload_that_never_begins_is_a_request_timeout(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        response = client.read_response()
    assert [head.status for head in response.informational] == [100]
    assert_problem(gateway, response, 408, "REQUEST_TIMEOUT", closes=True)


def test_upload_that_is_slow_but_moves_is_taken(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\n")
        client.socket.settimeout(0.15)
        for letter in (b"a", b"b", b"c", b"d", b"e"):
            client.send(letter)
            with pytest.raises(TimeoutError):
                client.socket.recv(1)
        client.socket.settimeout(10)
        client.send(b"f")
        assert client.read_response().status == 200
    assert backend.received().body == b"abcdef"


def test_answer_that_falls_silent_is_broken_off_visibly(gateway: Gateway, backend: ScriptedBackend) -> None:
    def stop_in_the_middle(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
        exchange.wait_until_left()

    backend.script = stop_in_the_middle
    with gateway.client() as client:
        client.send(b"GET /silent HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.read_head().status == 200
        assert client.is_cut()
    line = gateway.access_line_at("/silent")
    assert (line["status"], line["reason"], line["bytes_out"]) == (200, "UPSTREAM_TIMEOUT", 3)
    backend.wait_until_closed()
    gateway.wait_until_free()


def test_client_that_stops_reading_is_cut_off_and_the_target_released(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n")
        exchange.send(b"x" * 90_000_000)

    backend.script = pour
    with Client(gateway.port, receive_bytes=4096) as client:
        client.send(b"GET /unread HTTP/1.1\r\nHost: x\r\n\r\n")
        line = gateway.access_line_at("/unread")
        assert (line["status"], line["reason"]) == (200, "REQUEST_TIMEOUT")
        backend.wait_until_closed()
        assert client.is_cut()
    gateway.wait_until_free()


def test_target_that_stops_reading_the_request_is_a_timeout_of_its_own(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    def never_read(exchange: Exchange) -> None:
        released.wait(10)

    released = threading.Event()
    backend.script = never_read
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n")
        client.send_while_taken(b"x" * 65536, 80_000_000, 0.3)
        response = client.read_response()
    released.set()
    assert_problem(gateway, response, 504, "UPSTREAM_TIMEOUT", proxy_error="http_response_timeout", closes=True)
    gateway.wait_until_free()
