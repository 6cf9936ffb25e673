"""What a backend counts, and what becomes of a request that no target may have."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support import MemoryGateway, message

from txgateway.proxy.target import Health, Target

GET = message(b"/")
TWO = {
    "backends": {"b": {"targets": ["http://one", "http://two"]}},
    "routes": [{"name": "r", "path": "/", "backend": "b", "upgrades": ["echo"], "timeout": {"idle": "20s"}}],
}


class BalancedGateway(MemoryGateway):
    """Whose loads can be seen."""

    @property
    def loads(self) -> list[int]:
        """Of the first backend's targets."""
        return [target.in_flight for target in next(iter(self.backends.values())).targets]


def balanced(load_balancer: str = "round_robin", **environment: str) -> BalancedGateway:
    return BalancedGateway({"GATEWAY_LOAD_BALANCER": load_balancer, **environment}, TWO)


def target_at(gateway: MemoryGateway, label: str) -> Any:
    """The newest connection to a target."""
    return gateway.dialers[f"{label}:80"].target


def test_request_counts_from_its_pick_to_the_end_of_the_body() -> None:
    gateway = balanced()
    gateway.get()
    assert gateway.loads == [1, 0]
    target = target_at(gateway, "one")
    target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b"o")
    assert gateway.loads == [1, 0]
    target.send(b"k")
    assert gateway.loads == [0, 0]


def test_chunked_answer_counts_until_its_last_chunk() -> None:
    gateway = balanced()
    gateway.get()
    target = target_at(gateway, "one")
    target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n")
    assert gateway.loads == [1, 0]
    target.send(b"0\r\n\r\n")
    assert gateway.loads == [0, 0]


def test_requests_in_the_queue_count() -> None:
    gateway = balanced(GATEWAY_POOL_MAX_CONNECTIONS="1")
    for _ in range(4):
        gateway.get()
    assert gateway.loads == [2, 2]
    gateway.wait(1.1)  # GATEWAY_POOL_PENDING_TIMEOUT
    assert gateway.loads == [1, 1]


def test_full_queue_leaves_nothing_behind() -> None:
    gateway = balanced(GATEWAY_POOL_MAX_CONNECTIONS="1", GATEWAY_POOL_MAX_PENDING="1")
    clients = [gateway.get() for _ in range(6)]
    assert gateway.loads == [2, 2]
    assert [client.response().problem["reason"] for client in clients[4:]] == ["POOL_EXHAUSTED"] * 2


@pytest.mark.parametrize("end", ["end", "reset"])
@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", b"rubbish\r\n\r\n"])
def test_failed_attempt_does_not_count(end: str, sent: bytes) -> None:
    gateway = balanced()
    gateway.get()
    target = target_at(gateway, "one")
    target.send(sent)
    getattr(target, end)()
    assert gateway.loads == [0, 0]
    gateway.assert_clean()


def test_client_that_leaves_takes_its_request_along() -> None:
    gateway = balanced()
    client = gateway.get()
    client.leave()
    assert gateway.loads == [0, 0]


def test_deadline_ends_the_count() -> None:
    gateway = balanced(GATEWAY_TIMEOUT_TOTAL="5s")
    gateway.get()
    gateway.wait(5.2)
    assert gateway.loads == [0, 0]


def test_replay_keeps_its_target_and_counts_once() -> None:
    gateway = balanced()
    client = gateway.connect()
    for name in ("one", "two"):
        client.send(GET)
        target_at(gateway, name).answer()
    client.received()
    client.send(GET)  # at one, on the connection that is there
    dead = target_at(gateway, "one")
    assert gateway.loads == [1, 0]
    dead.end()
    assert gateway.loads == [1, 0]
    assert target_at(gateway, "one") is not dead
    target_at(gateway, "one").answer()
    assert gateway.loads == [0, 0]
    assert (gateway.log[-1].attempts, gateway.log[-1].target_label) == (2, "one:80")
    gateway.assert_clean()


def test_tunnel_counts_until_it_is_closed() -> None:
    gateway = balanced()
    client = gateway.get(b"/", b"Connection: Upgrade", b"Upgrade: echo")
    target = target_at(gateway, "one")
    target.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n", b"hello")
    assert client.received().endswith(b"hello")
    assert gateway.loads == [1, 0]
    target.end()
    client.end()
    gateway.wait(1)
    assert gateway.loads == [0, 0]


def test_busy_target_gets_no_more_by_least_request() -> None:
    gateway = balanced("least_request")
    gateway.get()
    slow = gateway.loads.index(1)
    for _ in range(20):
        gateway.get()
        assert gateway.loads[1 - slow] == 1
        target_at(gateway, ("two", "one")[slow]).answer()
        assert gateway.loads[slow] == 1


def test_same_key_same_target_over_connections() -> None:
    gateway = balanced("hash:header:X-User")
    labels = set()
    for number in range(8):
        gateway.get(b"/", b"X-User: joe", peer=f"10.0.0.{number}")
        labels.add(gateway.loads.index(1))
        target_at(gateway, ("one", "two")[gateway.loads.index(1)]).answer()
    assert len(labels) == 1


def test_unhealthy_target_gets_nothing() -> None:
    gateway = balanced(GATEWAY_PANIC_PERCENT="0")
    backend = gateway.backends["b"]
    backend.set_health(backend.targets[0], Health.UNHEALTHY, "test")
    for _ in range(3):
        gateway.get()
    assert gateway.loads == [0, 3]


def test_no_healthy_target_is_told_at_once() -> None:
    gateway = balanced()
    backend = gateway.backends["b"]
    for target in backend.targets:
        backend.set_health(target, Health.UNHEALTHY, "test")
    response = gateway.get().response()
    assert (response.status, response.problem["reason"]) == (503, "NO_HEALTHY_TARGET")
    assert (gateway.log[-1].backend_name, gateway.log[-1].target_label) == ("b", None)
    assert gateway.loads == [0, 0]
    gateway.assert_clean()


def test_targets_are_told_apart_by_identity() -> None:
    part: Any = object()
    assert Target("a:1", b"a", 1, part, part, part) != Target("a:1", b"a", 1, part, part, part)
