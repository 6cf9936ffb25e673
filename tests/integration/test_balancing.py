"""Every load balancer over real sockets, three targets behind each, and routes that share their requests."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import Exchange, Script, ScriptedBackend, answer
from tests.integration.harness import Gateway, routes

NAMES = ("a", "b", "c")
POLICIES = {
    "round": "round_robin",
    "least": "least_request",
    "random": "random",
    "ip": "hash:client_ip",
    "header": "hash:header:X-User",
    "cookie": "hash:cookie:Session",
}
#: Enough that all belong to one target once in a thousand million runs.
USERS = [f"user-{number}" for number in range(20)]


def saying(name: str) -> Script:
    return answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name.encode())


@pytest.fixture(scope="module")
def started() -> Iterator[dict[str, ScriptedBackend]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(ScriptedBackend()) for name in NAMES}


@pytest.fixture
def targets(started: dict[str, ScriptedBackend]) -> Iterator[dict[str, ScriptedBackend]]:
    """Each answers with its name."""
    for name, backend in started.items():
        backend.renew()
        backend.script = saying(name)
    yield started
    for backend in started.values():
        assert not backend.faults, backend.faults


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, started: dict[str, ScriptedBackend]) -> Iterator[Gateway]:
    urls = [backend.url for backend in started.values()]
    backends: dict[str, Any] = {
        name: {"targets": urls, "load_balancer": load_balancer} for name, load_balancer in POLICIES.items()
    }
    backends["weighted"] = {"targets": [{"url": urls[0], "weight": 3}, urls[1], urls[2]]}
    backends |= {f"only-{name}": {"targets": [backend.url]} for name, backend in started.items()}
    ends: list[dict[str, Any]] = [
        {"name": name, "path": f"/{name}", "backend": name} for name in (*POLICIES, "weighted")
    ]
    split = [
        {"name": "only-a", "weight": 95},
        {"name": "only-b", "weight": 5},
        {"name": "only-c", "weight": 0},
    ]
    ends.append({"name": "canary", "path": "/canary", "backends": split})
    environment = {**routes({"backends": backends, "routes": ends}), "GATEWAY_TRUSTED_PROXIES": "127.0.0.1"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        assert not [line for line in running.lines if line["event"] == "configuration"]
        yield running


def who_answers(gateway: Gateway, path: str, *fields: str) -> str:
    response = gateway.get(path, *fields)
    assert response.status == 200
    return response.body.decode()


def test_round_robin_takes_turns(gateway: Gateway, targets: dict[str, ScriptedBackend]) -> None:
    found = [who_answers(gateway, "/round") for _ in range(9)]
    assert found[:3] * 3 == found
    assert set(found) == set(NAMES)


def test_round_robin_gives_each_its_weight_in_every_cycle(
    gateway: Gateway, targets: dict[str, ScriptedBackend]
) -> None:
    for _ in range(4):
        assert Counter(who_answers(gateway, "/weighted") for _ in range(5)) == {"a": 3, "b": 1, "c": 1}


def test_random_reaches_all(gateway: Gateway, targets: dict[str, ScriptedBackend]) -> None:
    assert {who_answers(gateway, "/random") for _ in range(80)} == set(NAMES)


@pytest.mark.parametrize(
    ("path", "field"),
    [("/header", "X-User: {}"), ("/cookie", "Cookie: theme=dark; Session={}"), ("/ip", "X-Forwarded-For: {}")],
)
def test_hash_keeps_whoever_comes_back_at_one_target(
    gateway: Gateway, targets: dict[str, ScriptedBackend], path: str, field: str
) -> None:
    users = [f"198.51.100.{number}" for number in range(20)] if path == "/ip" else USERS
    first = [who_answers(gateway, path, field.format(user)) for user in users]
    assert len(set(first)) > 1
    for _ in range(2):
        assert [who_answers(gateway, path, field.format(user)) for user in users] == first


def test_hash_looks_at_the_whole_ipv6_address(gateway: Gateway, targets: dict[str, ScriptedBackend]) -> None:
    found = {
        address: who_answers(gateway, "/ip", f"X-Forwarded-For: {address}")
        for address in (f"2001:db8:1:2::{number:x}" for number in range(1, 21))
    }
    assert len(set(found.values())) > 1
    # One address, however it is spelled.
    assert who_answers(gateway, "/ip", 'X-Forwarded-For: "[2001:DB8:1:2:0::0001]:443"') == found["2001:db8:1:2::1"]


@pytest.mark.parametrize("path", ["/header", "/cookie"])
def test_without_header_or_cookie_the_address_decides(
    gateway: Gateway, targets: dict[str, ScriptedBackend], path: str
) -> None:
    for number in range(12):
        proxied = f"X-Forwarded-For: 203.0.113.{number}"
        homes = {who_answers(gateway, path, proxied, *more) for more in ((), ("Cookie: Other=1",), ("X-User:",))}
        assert len(homes) == 1
    assert len({who_answers(gateway, path, f"X-Forwarded-For: 203.0.113.{number}") for number in range(20)}) > 1


def test_least_request_leaves_a_slow_target_alone_until_its_body_has_ended(
    gateway: Gateway, targets: dict[str, ScriptedBackend]
) -> None:
    finish = threading.Event()

    def slow(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nslo")
        assert finish.wait(10)
        exchange.send(b"w")

    for backend in targets.values():
        backend.script = slow
    with gateway.client() as client:
        client.send(b"GET /least HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        head = client.read_head()
        (busy,) = [name for name, backend in targets.items() if backend.has_received()]
        for name, backend in targets.items():
            backend.script = saying(name)
        found = {who_answers(gateway, "/least") for _ in range(60)}
        finish.set()
        assert client.read_body(head)[0] == b"slow"
    assert found == set(NAMES) - {busy}
    assert {who_answers(gateway, "/least") for _ in range(80)} == set(NAMES)


def test_canary_gets_exactly_its_share_and_the_log_says_who_answered(
    gateway: Gateway, targets: dict[str, ScriptedBackend]
) -> None:
    before = len(gateway.lines)
    found = []
    with gateway.client() as client:
        for _ in range(200):
            client.send(b"GET /canary HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
            found.append((response := client.read_response()).body.decode())
    for run in (found[:100], found[100:], found[37:137]):
        assert Counter(run) == {"a": 95, "b": 5}
    canaries = [at for at, name in enumerate(found) if name == "b"]
    assert {later - earlier for earlier, later in pairwise(canaries)} == {20}
    gateway.access_line(response)
    logged = [line for line in gateway.lines[before:] if line.get("route") == "canary"]
    assert [line["backend"] for line in logged] == [f"only-{name}" for name in found]
    ports = {name: backend.url.removeprefix("http://") for name, backend in targets.items()}
    assert [line["target"] for line in logged] == [ports[name] for name in found]


def test_variable_is_the_default_and_claims_of_a_stranger_do_not_choose(
    tmp_path: Path, targets: dict[str, ScriptedBackend]
) -> None:
    environment = {
        "GATEWAY_BACKEND_TARGET": ",".join(backend.url for backend in targets.values()),
        "GATEWAY_LOAD_BALANCER": "hash:client_ip",
    }
    with Gateway(tmp_path, environment) as gateway:
        found = {who_answers(gateway, "/", f"X-Forwarded-For: 198.51.100.{number}") for number in range(20)}
        assert len(found) == 1
        (backend,) = gateway.status()["backends"]
        assert backend["load_balancer"] == "hash:client_ip"
