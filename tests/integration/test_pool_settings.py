"""How long connections to a backend live."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.backend import ScriptedBackend
from tests.integration.client import Client
from tests.integration.harness import Gateway


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("plain"), {"GATEWAY_BACKEND_TARGET": module_backend.url}) as running:
        yield running


@pytest.fixture(scope="module")
def short_lived(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url,
        "GATEWAY_POOL_IDLE_TIMEOUT": "200ms",
        "GATEWAY_POOL_MAX_AGE": "500ms",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


def test_connection_is_reused(plain: Gateway, backend: ScriptedBackend) -> None:
    plain.get("/")
    before = backend.received().connection
    plain.get("/")
    assert backend.received().connection == before


def test_idle_connection_is_closed_after_its_time(short_lived: Gateway, backend: ScriptedBackend) -> None:
    short_lived.get("/")
    first = backend.received().connection
    backend.wait_until_closed()
    short_lived.get("/")
    assert backend.received().connection != first


def test_connection_is_not_reused_beyond_its_age(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_POOL_MAX_AGE": "1ms"}
    with Gateway(tmp_path, environment) as gateway, Client(gateway.port) as client:
        numbers = []
        for _ in range(2):
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            client.read_response()
            numbers.append(backend.received().connection)
            backend.wait_until_closed()
    assert numbers[0] != numbers[1]


def test_pool_is_bounded_for_each_target(tmp_path: Path, backend: ScriptedBackend) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_POOL_MAX_CONNECTIONS": "2"}
    with Gateway(tmp_path, environment) as gateway:
        before = backend.connections  # the check's is one of its own
        clients = [gateway.client() for _ in range(6)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 5)
        for client in clients:
            assert [client.read_response().status for _ in range(5)] == [200] * 5
            client.close()
    assert backend.connections - before <= 2
