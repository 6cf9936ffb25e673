"""A gateway that is told to stop: what is under way ends in order, and the exit status says so."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from tests.integration.backend import Exchange, ScriptedBackend, answer
from tests.integration.harness import Gateway, wait_until

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Held:
    """A backend's script that answers when it is let go."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, exchange: Exchange) -> None:
        exchange.read_body()
        self.begun.set()
        assert self.go_on.wait(10)
        exchange.send(OK)


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:  # refused, or reset in the queue of a listener that closes just now
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_request_under_way_is_finished_before_the_end(
    tmp_path: Path, backend: ScriptedBackend, number: signal.Signals
) -> None:
    backend.script = held = Held()
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_DRAIN_TIMEOUT": "10s"}
    with Gateway(tmp_path, environment) as gateway:
        with gateway.client() as busy, gateway.client() as idle:
            busy.send(GET)
            assert held.begun.wait(10)
            os.kill(gateway.pid, number)
            assert idle.is_gone()
            wait_until(lambda: is_refused(gateway.port), "the listener is closed")
            held.go_on.set()
            response = busy.read_response()
            assert (response.status, response.body, response.header("Connection")) == (200, b"ok", "close")
            assert busy.is_gone()
        assert gateway.stop() == 0
    assert gateway.access_line_at("/")["status"] == 200


def test_delay_gives_others_time_to_notice(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.script = answer()
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_DRAIN_DELAY": "1h", "GATEWAY_DRAIN_TIMEOUT": "10s"}
    with Gateway(tmp_path, environment) as gateway:
        with gateway.client() as kept:
            kept.send(GET)
            assert kept.read_response().header("Connection") is None
            os.kill(gateway.pid, signal.SIGTERM)
            wait_until(lambda: gateway.admin("/health/ready").status == 503, "readiness says no")
            assert gateway.admin("/health/ready").json()["status"] == "draining"
            kept.send(GET)  # on the connection of before
            assert kept.read_response().header("Connection") == "close"
            assert gateway.get("/").status == 200  # and on a new one
        os.kill(gateway.pid, signal.SIGTERM)  # whoever does not want to wait
        assert gateway.stop() == 0


def test_what_does_not_end_in_time_is_refused_or_cut(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.script = held = Held()
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_DRAIN_TIMEOUT": "200ms"}
    with Gateway(tmp_path, environment) as gateway:
        with gateway.client() as client:
            client.send(GET)
            assert held.begun.wait(10)
            os.kill(gateway.pid, signal.SIGTERM)
            response = client.read_response()
            assert (response.status, response.json()["reason"]) == (503, "DRAINING")
            assert client.is_gone()
        held.go_on.set()
        assert gateway.stop() == 0
    (cut,) = [line for line in gateway.lines if line["event"] == "cut off"]
    assert cut["count"] == 1
    assert gateway.access_line_at("/")["reason"] == "DRAINING"


def test_websocket_client_is_told_to_leave_between_two_frames(tmp_path: Path, backend: ScriptedBackend) -> None:
    go_on = threading.Event()
    received: list[bytes] = []
    message = b"\x82\x05hello"
    farewell = b"\x88\x02\x03\xe9"
    masked_farewell = b"\x88\x82\x00\x00\x00\x00\x03\xe9"

    def speak(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        exchange.send(message[:4])
        assert go_on.wait(10)
        exchange.send(message[4:] + b"\x81\x07ignored")
        received.append(exchange.read_exactly(len(masked_farewell)))
        exchange.close()

    backend.script = speak
    route = {"name": "r", "path": "/", "backend": "b", "upgrades": ["websocket"]}
    document = {"backends": {"b": {"targets": [backend.url]}}, "routes": [route]}
    environment = {"GATEWAY_ROUTES": json.dumps(document), "GATEWAY_DRAIN_TIMEOUT": "1m"}
    with Gateway(tmp_path, environment) as gateway:
        with gateway.client() as client:
            client.send(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
            assert client.read_head().status == 101
            assert client.read_exactly(4) == message[:4]  # the gateway is within the frame, too
            os.kill(gateway.pid, signal.SIGTERM)
            # Not by asking the port: another process may have it by now, for longer than the drain waits.
            gateway.wait_for_line(message=f"(TCP Port {gateway.port} Closed)")
            go_on.set()
            assert client.read_exactly(len(message + farewell) - 4) == message[4:] + farewell
            client.send(masked_farewell)
            assert client.is_gone()
        assert gateway.stop() == 0
    assert received == [masked_farewell]
