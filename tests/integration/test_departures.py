"""Either side leaves, at every stage: the other is told, everything is released, and the log says what happened."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count

import pytest
from tests.integration.backend import OK, Exchange, ScriptedBackend, answer, hang
from tests.integration.client import Client
from tests.integration.harness import ONE_ATTEMPT, Gateway, routes, wait_until
from tests.integration.problems import assert_problem

_numbers = count()

LEAVE: list[Callable[[Client], None]] = [Client.close, Client.reset]


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, silent_port: int
) -> Iterator[Gateway]:
    document = {
        "backends": {
            "main": {"targets": [module_backend.url]},
            "one": {"targets": [module_backend.url], "pool": {"max_connections": 1, "pending_timeout": "30s"}},
            "silent": {"targets": [f"http://127.0.0.1:{silent_port}"], "timeout": {"connect": "30s"}},
        },
        "routes": [
            {"name": "main", "path": "/", "backend": "main"},
            {"name": "one", "path": "/one", "backend": "one"},
            {"name": "silent", "path": "/silent", "backend": "silent"},
            {"name": "large", "path": "/large", "backend": "main", "max_body_bytes": 0},
            {"name": "hasty", "path": "/hasty", "backend": "main", "timeout": {"idle": "300ms"}, "max_body_bytes": 0},
        ],
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), {**ONE_ATTEMPT, **routes(document)}) as running:
        yield running


@pytest.fixture
def path() -> str:
    """A path that no other test uses, by which the log's line is found."""
    return f"/unique-{next(_numbers)}"


def get(path: str) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path.encode()


def assert_gone(gateway: Gateway, path: str, status: int = 499) -> None:
    line = gateway.access_line_at(path)
    assert (line["status"], line["reason"]) == (status, "CLIENT_GONE")
    gateway.wait_until_free()


# --- the client leaves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET /unique HTTP/1.1\r\nHos"])
@pytest.mark.parametrize("leave", LEAVE)
def test_client_leaves_before_its_head_is_complete(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None], sent: bytes
) -> None:
    client = gateway.client()
    if sent:
        client.send(sent)
    gateway.wait_for_metric("gateway_connections", 1, protocol="h1")
    leave(client)
    gateway.wait_for_metric("gateway_connections", 0, protocol="h1")
    assert not backend.has_received()


@pytest.mark.parametrize("leave", LEAVE)
def test_client_leaves_during_its_upload(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None], path: str
) -> None:
    backend.script = hang
    client = gateway.client()
    client.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc" % path.encode())
    backend.received()
    leave(client)
    backend.wait_until_closed()
    assert_gone(gateway, path)
    assert gateway.access_line_at(path)["bytes_in"] == 3


@pytest.mark.parametrize("leave", LEAVE)
def test_client_leaves_while_it_waits_for_the_answer(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None], path: str
) -> None:
    backend.script = hang
    client = gateway.client()
    client.send(get(path))
    backend.received()
    assert gateway.in_use() == {"in_flight": 1, "active": 1, "pending": 0}
    leave(client)
    backend.wait_until_closed()
    assert_gone(gateway, path)


@pytest.mark.parametrize("leave", LEAVE)
def test_client_leaves_during_the_answer(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None], path: str
) -> None:
    def begin(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n")
        exchange.wait_until_left()

    backend.script = begin
    client = gateway.client()
    client.send(get(path))
    client.read_head()
    assert client.read_chunk() == b"ab"
    leave(client)
    backend.wait_until_closed()
    assert_gone(gateway, path, 200)


@pytest.mark.parametrize("leave", LEAVE)
def test_client_leaves_behind_a_request_that_has_to_wait(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None], path: str
) -> None:
    """Nothing is read from it then, so that nothing tells of its end."""
    backend.script = hang
    client = gateway.client()
    client.send(get(path) + get("/second"))
    backend.received()
    leave(client)
    backend.wait_until_closed()
    assert_gone(gateway, path)


def test_client_breaks_off_an_upload_that_nobody_takes(gateway: Gateway, backend: ScriptedBackend, path: str) -> None:
    """By a reset: that it has closed in good order would be told behind all that it has sent."""
    path = f"/large{path}"
    begun, is_over = threading.Event(), threading.Event()

    def stall(exchange: Exchange) -> None:
        begun.set()
        assert is_over.wait(20)
        exchange.close()

    backend.script = stall
    client = gateway.client()
    client.send(b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n" % path.encode())
    try:
        assert begun.wait(10)
        assert client.send_while_taken(bytes(65536), 80_000_000, 0.3) < 80_000_000
        client.reset()
        assert_gone(gateway, path)
    finally:
        is_over.set()


@pytest.mark.parametrize("leave", LEAVE)
def test_client_leaves_while_the_gateway_is_blocked_on_it(
    gateway: Gateway, backend: ScriptedBackend, leave: Callable[[Client], None], path: str
) -> None:
    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 90000000\r\n\r\n")
        exchange.send_while_taken(b"x" * 65536, 80_000_000, 0.5)
        stuck.send(b"x")
        exchange.wait_until_left()

    backend.script = pour
    stuck, told = socket.socketpair()
    told.settimeout(10)
    with closing(stuck), closing(told):
        client = Client(gateway.port, receive_bytes=4096)
        client.send(get(path))
        assert told.recv(1)
        leave(client)
    backend.wait_until_closed()
    assert_gone(gateway, path, 200)


def test_client_leaves_in_the_queue(gateway: Gateway, backend: ScriptedBackend, path: str) -> None:
    backend.script = hang
    with gateway.client() as first:
        first.send(get("/one/first"))
        backend.received()
        second = gateway.client()
        second.send(get(f"/one{path}"))
        wait_until(lambda: gateway.in_use()["pending"] == 1, "one waits")
        second.close()
        assert gateway.access_line_at(f"/one{path}")["reason"] == "CLIENT_GONE"
        assert gateway.in_use() == {"in_flight": 1, "active": 1, "pending": 0}
    assert_gone(gateway, "/one/first")


def test_client_leaves_while_a_connection_is_being_opened(gateway: Gateway, path: str) -> None:
    client = gateway.client()
    client.send(get(f"/silent{path}"))
    wait_until(lambda: gateway.in_use()["pending"] == 1, "one waits")
    client.close()
    assert_gone(gateway, f"/silent{path}")


def test_client_that_vanishes_behind_a_blocked_upload_is_freed_by_the_idle_timeout(
    gateway: Gateway, backend: ScriptedBackend, path: str
) -> None:
    def never_read(exchange: Exchange) -> None:
        assert released.wait(10)

    released = threading.Event()
    backend.script = never_read
    client = gateway.client()
    client.send(b"POST /hasty%b HTTP/1.1\r\nHost: x\r\nContent-Length: 90000000\r\n\r\n" % path.encode())
    client.send_while_taken(b"x" * 65536, 80_000_000, 0.2)
    client.reset()
    line = gateway.access_line_at(f"/hasty{path}")
    assert line["reason"] in {"UPSTREAM_TIMEOUT", "CLIENT_GONE"}
    gateway.wait_until_free()
    released.set()


# --- the backend leaves ------------------------------------------------------------------------------------------------------


def test_backend_leaves_during_the_upload(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = Exchange.reset
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
        response = client.read_response()
        assert client.is_at_end()
    assert_problem(gateway, response, 502, "UPSTREAM_RESET", proxy_error="connection_terminated", closes=True)
    gateway.wait_until_free()


def test_backend_answers_and_leaves_during_the_upload(gateway: Gateway, backend: ScriptedBackend) -> None:
    def refuse(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        exchange.close()

    backend.script = refuse
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\nabc")
        response = client.read_response()
        assert (response.status, response.body) == (401, b"no")
        assert client.is_at_end()


def test_idle_connection_that_the_backend_closes_is_not_used(gateway: Gateway, backend: ScriptedBackend) -> None:
    def last(exchange: Exchange) -> None:
        exchange.send(OK)  # and nothing said of closing
        exchange.close()

    for _ in range(5):
        backend.script = last
        assert gateway.get("/").status == 200
        backend.script = answer()
        backend.wait_until_closed()
        response = gateway.ask(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
        assert response.status == 200
        while backend.has_received():
            backend.received()


@pytest.mark.parametrize(("method", "status", "attempts"), [("GET", 200, 2), ("PUT", 200, 2), ("POST", 502, 1)])
def test_reused_connection_that_dies_under_a_request_is_replaced_once_if_the_method_allows(
    gateway: Gateway, backend: ScriptedBackend, method: str, status: int, attempts: int
) -> None:
    def die_if_reused(exchange: Exchange) -> None:
        exchange.read_body()
        if exchange.request.connection in used:
            exchange.reset()
        else:
            used.add(exchange.request.connection)
            exchange.send(OK)

    used: set[int] = set()
    backend.script = die_if_reused
    with gateway.client() as client:
        client.send(get("/"))
        assert client.read_response().status == 200
        client.send(b"%b / HTTP/1.1\r\nHost: x\r\n\r\n" % method.encode())
        response = client.read_response()
    assert response.status == status
    line = gateway.access_line(response)
    assert line["attempts"] == attempts
    assert line["reason"] == (None if status == 200 else "UPSTREAM_RESET")


def test_fresh_connection_that_dies_is_not_tried_again(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = Exchange.reset
    gateway.get("/")  # uses up what the pool may have kept
    while backend.has_received():
        backend.received()
    assert gateway.get("/").status == 502
    backend.received()
    assert not backend.has_received()


def test_bytes_behind_an_answer_are_not_taken_for_the_next(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert gateway.get("/").body == b"ok"
    backend.script = answer()
    assert gateway.get("/").body == b"ok"
    assert backend.received().connection != backend.received().connection


def test_unsolicited_bytes_on_an_idle_connection_close_it(gateway: Gateway, backend: ScriptedBackend) -> None:
    def add_later(exchange: Exchange) -> None:
        exchange.send(OK)
        assert go_on.recv(1)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        exchange.wait_until_left()

    backend.script = add_later
    go_on, told = socket.socketpair()
    with closing(go_on), closing(told):
        assert gateway.get("/").body == b"ok"
        backend.script = answer()
        told.send(b"x")
        backend.wait_until_closed()
    assert gateway.get("/").body == b"ok"


def test_body_behind_an_answer_to_head_is_not_taken_for_the_next(gateway: Gateway, backend: ScriptedBackend) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
    assert gateway.get("/", method="HEAD").status == 200
    backend.script = answer()
    assert [gateway.get("/").body for _ in range(2)] == [b"ok", b"ok"]
