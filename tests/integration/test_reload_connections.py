"""Connections on both sides live through reloads; requests under way finish where they began."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.h2_client import H2Client
from tests.integration.harness import wait_until
from tests.integration.reloads import ReloadingGateway, document, fixed, route

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
UPGRADE = b"GET /a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


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


def shout(exchange: Exchange) -> None:
    """Switch, then send everything back in capitals until the gateway leaves."""
    exchange.send(SWITCH)
    while data := exchange.read_some():
        exchange.send(data.upper())
    exchange.close()


@pytest.fixture
def other() -> Any:
    with ScriptedBackend() as made:
        yield made
    assert not made.faults


# --- of clients ---------------------------------------------------------------------------------------------------


def test_kept_connection_lives_on_and_goes_by_the_new_routes(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one"))) as gateway, gateway.client() as client:
        for body in (b"one", b"two", b"three"):
            client.send(get("/a"))
            assert client.read_response().body == body
            gateway.reload(document(fixed("a", {b"one": "two"}.get(body, "three"))))
        client.send(get("/b"))
        assert client.read_response().status == 404


def test_http2_connection_lives_on_with_a_stream_under_way(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.script = held = Held()
    before = document(route("a", "b"), fixed("f", "one"), b=[backend.url])
    after = document(route("a", "b", timeout={"total": "9s"}), fixed("f", "two"), b=[backend.url])
    with ReloadingGateway(tmp_path, before) as gateway, H2Client(gateway.port) as client:
        assert client.get("/f").body == b"one"
        stream = client.request("GET", "/a")
        assert held.begun.wait(10)
        gateway.reload(after)
        assert client.get("/f").body == b"two"
        held.go_on.set()
        assert client.response(stream).body == b"ok"
        assert client.get("/a").body == b"ok"
        assert client.link.goaways == []


@pytest.mark.parametrize("changes", [{}, {"timeout": {"total": "9s"}}, None])
def test_websocket_lives_on(tmp_path: Path, backend: ScriptedBackend, changes: dict[str, Any] | None) -> None:
    """Also when its route, or all of it, is gone."""
    backend.script = shout
    before = document(route("a", "b", upgrades=["websocket"]), b=[backend.url])
    after = document(fixed("x", "x"))
    if changes is not None:
        after = document(route("a", "b", upgrades=["websocket"], **changes), b=[backend.url])
    with ReloadingGateway(tmp_path, before) as gateway, gateway.client() as client:
        client.send(UPGRADE)
        assert client.read_head().status == 101
        client.send(b"before")
        assert client.read_exactly(6) == b"BEFORE"
        gateway.reload(after)
        client.send(b"after")
        assert client.read_exactly(5) == b"AFTER"


def test_stream_of_events_lives_on_though_its_backend_is_gone(tmp_path: Path, backend: ScriptedBackend) -> None:
    more = threading.Event()

    def stream(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(HEAD + b"8\r\ndata: 1\n\r\n")
        assert more.wait(20)
        exchange.send(b"8\r\ndata: 2\n\r\n0\r\n\r\n")

    backend.script = stream
    with (
        ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway,
        gateway.client() as client,
    ):
        client.send(get("/a"))
        assert client.read_head().status == 200
        assert client.read_chunk() == b"data: 1\n"
        gateway.reload(document(fixed("x", "x")))
        wait_until(lambda: gateway.get("/a").status == 404, "the route is gone")
        wait_seconds(5)  # longer than targets that have left wait for late requests
        more.set()
        assert client.read_chunk() == b"data: 2\n"


def wait_seconds(seconds: float) -> None:
    threading.Event().wait(seconds)


# --- towards backends ---------------------------------------------------------------------------------------------


def connection_of(gateway: ReloadingGateway, backend: ScriptedBackend) -> int:
    """The number of the connection that a request goes by."""
    backend.renew()
    assert gateway.get("/a").status == 200
    return backend.received().connection


def test_connections_to_an_unchanged_backend_stay(tmp_path: Path, backend: ScriptedBackend) -> None:
    before = document(route("a", "b"), b=[backend.url])
    with ReloadingGateway(tmp_path, before) as gateway:
        number, opened = connection_of(gateway, backend), backend.connections
        gateway.reload()
        assert connection_of(gateway, backend) == number
        gateway.reload(document(route("a", "b", timeout={"total": "9s"}), fixed("x", "x"), b=[backend.url]))
        assert connection_of(gateway, backend) == number
        assert backend.connections == opened  # and nobody checks what was checked


def test_connections_to_the_unchanged_target_of_a_changed_backend_stay(
    tmp_path: Path, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    with ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway:
        number = connection_of(gateway, backend)
        for changed in (
            {"targets": [backend.url], "load_balancer": "random"},
            {"targets": [{"url": backend.url, "weight": 7}]},
        ):
            gateway.reload(document(route("a", "b"), b=changed))
            assert connection_of(gateway, backend) == number
        gateway.reload(document(route("a", "b"), b=[other.url, backend.url]))
        assert all(gateway.get("/a").status == 200 for _ in range(4))
        assert backend.received().connection == number


def test_connections_are_new_where_they_are_made_in_another_way(tmp_path: Path, backend: ScriptedBackend) -> None:
    with ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway:
        number = connection_of(gateway, backend)
        gateway.reload(document(route("a", "b"), b={"targets": [backend.url], "pool": {"max_connections": 7}}))
        assert connection_of(gateway, backend) > number


def test_traffic_goes_to_added_targets_and_by_new_weights(
    tmp_path: Path, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    with ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway:
        assert gateway.get("/a").status == 200
        gateway.reload(
            document(route("a", "b"), b=[{"url": backend.url, "weight": 1}, {"url": other.url, "weight": 3}])
        )
        targets = [gateway.access_line(gateway.get("/a"))["target"] for _ in range(8)]
        assert targets.count(f"127.0.0.1:{other.port}") == 6
        gateway.reload(
            document(route("a", "b"), b=[{"url": backend.url, "weight": 3}, {"url": other.url, "weight": 1}])
        )
        targets = [gateway.access_line(gateway.get("/a"))["target"] for _ in range(8)]
        assert targets.count(f"127.0.0.1:{other.port}") == 2


def removed_backend(removed: str, staying: str) -> dict[str, Any]:
    del removed
    return document(fixed("x", "x"), route("other", "c"), c=[staying])


def removed_target(removed: str, staying: str) -> dict[str, Any]:
    del removed
    return document(route("a", "b"), b=[staying])


def other_pool(removed: str, staying: str) -> dict[str, Any]:
    return document(route("a", "b"), b={"targets": [removed, staying], "pool": {"max_connections": 7}})


@pytest.mark.parametrize("after", [removed_backend, removed_target, other_pool])
def test_target_that_has_left_finishes_its_requests_and_then_its_connections_close(
    tmp_path: Path, backend: ScriptedBackend, other: ScriptedBackend, after: Callable[[str, str], dict[str, Any]]
) -> None:
    backend.script = held = Held()
    before = document(route("a", "b"), b=[{"url": backend.url, "weight": 1000}, {"url": other.url, "weight": 1}])
    with ReloadingGateway(tmp_path, before) as gateway, gateway.client() as client:
        client.send(get("/a"))
        assert held.begun.wait(10)
        gateway.reload(after(backend.url, other.url))
        wait_seconds(5)
        held.go_on.set()
        assert client.read_response().body == b"ok"
        assert gateway.access_line_at("/a")["target"] == f"127.0.0.1:{backend.port}"
        backend.wait_until_closed()
        client.send(get("/other" if after is removed_backend else "/a"))  # and the client's connection does not
        assert client.read_response().status == 200


def test_idle_connections_of_a_target_that_has_left_close(
    tmp_path: Path, backend: ScriptedBackend, other: ScriptedBackend
) -> None:
    with ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway:
        connection_of(gateway, backend)
        gateway.reload(document(route("a", "b"), b=[other.url]))
        assert gateway.get("/a").status == 200
        backend.wait_until_closed()
        assert not backend.has_received()


def test_request_that_waits_in_a_queue_finds_a_target_though_its_route_is_gone(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    backend.script = held = Held()
    narrow = {"max_concurrent": 1, "max_queue": 5, "queue_timeout": "9s"}
    before = document(route("a", "b", bulkhead=narrow), b=[backend.url])
    with (
        ReloadingGateway(tmp_path, before) as gateway,
        gateway.client() as first,
        gateway.client() as second,
    ):
        first.send(get("/a"))
        assert held.begun.wait(10)
        second.send(get("/a"))
        wait_until(lambda: gateway.status()["in_flight"] == 2, "both are there")
        gateway.reload(document(fixed("x", "x")))
        wait_seconds(4)
        held.go_on.set()
        assert (first.read_response().body, second.read_response().body) == (b"ok", b"ok")


def test_request_whose_body_comes_slowly_is_finished_on_the_old_routes(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    with (
        ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway,
        gateway.client() as client,
    ):
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")
        wait_until(lambda: gateway.status()["in_flight"] == 1, "it is there")
        gateway.reload(document(fixed("x", "x")))
        wait_seconds(4)
        client.send(b"world")
        assert client.read_response().body == b"ok"
