"""Which of a backend's targets may be used, and how much a target gets that has come back."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from tests.unit.proxy.retrying import RetryingGateway, problem
from tests.unit.support import MemoryGateway, stub_request

from txgateway.errors import BreakerOpen, NoHealthyTarget
from txgateway.proxy.backend import SLOW_START_FLOOR, Backend
from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.target import Health

UNKNOWN, HEALTHY, UNHEALTHY = Health.UNKNOWN, Health.HEALTHY, Health.UNHEALTHY
POLICIES = ["round_robin", "random", "least_request", "hash:header:X-Key"]


def many(count: int, load_balancer: str = "round_robin", **keys: Any) -> MemoryGateway:
    """So many targets of one backend ``b``."""
    backend = {"targets": [f"http://t{number}" for number in range(count)], "load_balancer": load_balancer, **keys}
    return MemoryGateway(None, {"backends": {"b": backend}, "routes": [{"name": "r", "path": "/", "backend": "b"}]})


def used(backend: Backend, picks: int = 400, avoid: tuple[int, ...] = ()) -> dict[int, int]:
    """How often each target is picked."""
    numbers = {target: number for number, target in enumerate(backend.targets)}
    avoided = tuple(backend.targets[number] for number in avoid)
    found: Counter[int] = Counter()
    for pick in range(picks):
        request = stub_request(fields={b"Host": b"a", b"X-Key": b"%d" % pick})
        found[numbers[backend.pick(request, avoided)]] += 1
    return dict(found)


def sicken(backend: Backend, *numbers: int) -> None:
    for number in numbers:
        backend.set_health(backend.targets[number], UNHEALTHY, "test")


def trip(backend: Backend, *numbers: int) -> None:
    """Their breakers open."""
    for number in numbers:
        for _ in range(5):
            backend.targets[number].breaker.failed(backend._seconds())


# --- health -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_all_are_used_while_nothing_is_known(policy: str) -> None:
    backend = many(3, policy).backends["b"]
    assert {target.health for target in backend.targets} == {UNKNOWN}
    assert set(used(backend)) == {0, 1, 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_unhealthy_ones_get_nothing_and_unknown_ones_count_as_usable(policy: str) -> None:
    backend = many(4, policy).backends["b"]
    backend.set_health(backend.targets[1], HEALTHY, "test")
    sicken(backend, 0, 2)
    assert set(used(backend)) == {1, 3}


@pytest.mark.parametrize(
    ("percent", "healthy", "is_panic"),
    [
        (50, 5, False),
        (50, 4, True),
        (50, 1, True),
        (30, 3, False),
        (30, 2, True),
        (31, 3, True),
        (0, 1, False),
        (100, 10, False),
        (100, 9, True),
        (100, 1, True),
    ],
)
def test_panic_begins_below_the_share(percent: int, healthy: int, is_panic: bool) -> None:
    backend = many(10, panic_percent=percent).backends["b"]
    sicken(backend, *range(healthy, 10))
    assert set(used(backend)) == set(range(10 if is_panic else healthy))


def test_share_of_an_odd_number_is_exact() -> None:
    backend = many(3, panic_percent=67).backends["b"]
    sicken(backend, 2)  # 66.7 percent
    assert set(used(backend)) == {0, 1, 2}
    backend = many(3, panic_percent=66).backends["b"]
    sicken(backend, 2)
    assert set(used(backend)) == {0, 1}


@pytest.mark.parametrize("percent", [0, 50, 100])
def test_nobody_panics_when_none_is_healthy(percent: int) -> None:
    backend = many(3, panic_percent=percent).backends["b"]
    sicken(backend, 0, 1, 2)
    with pytest.raises(NoHealthyTarget):
        backend.pick(stub_request())
    assert not backend.is_usable()
    backend.set_health(backend.targets[1], HEALTHY, "test")
    assert backend.is_usable()


def test_open_breakers_are_believed_in_a_panic() -> None:
    backend = many(4, panic_percent=100).backends["b"]
    sicken(backend, 0, 1, 2)
    trip(backend, 0, 3)
    assert set(used(backend)) == {1, 2}


# --- breakers and health together -------------------------------------------------------------------------------------


def test_sick_ones_and_open_ones_together_are_breaker_open() -> None:
    gateway = many(4)
    backend = gateway.backends["b"]
    sicken(backend, 0, 1)
    trip(backend, 2)
    assert set(used(backend)) == {3}
    gateway.clock.advance(5)
    trip(backend, 3)
    with pytest.raises(BreakerOpen) as caught:
        backend.pick(stub_request())
    assert caught.value.retry_after_s == backend.targets[2].breaker.wait_s(5.0)
    assert 22 <= caught.value.retry_after_s <= 25
    assert not backend.is_usable()
    sicken(backend, 2, 3)
    with pytest.raises(NoHealthyTarget):
        backend.pick(stub_request())


def test_mixed_refusals_as_clients_see_them() -> None:
    gateway = RetryingGateway(2)
    gateway.set_health("one", UNHEALTHY)
    gateway.fail("two")
    assert problem(gateway.get()) == (503, "BREAKER_OPEN")
    gateway.set_health("two", UNHEALTHY)
    assert problem(gateway.get()) == (503, "NO_HEALTHY_TARGET")
    gateway.set_health("two", HEALTHY)
    assert gateway.state_of("two") is BreakerState.HALF_OPEN
    gateway.get()
    assert gateway.loads == [0, 1]
    gateway.at("two").answer()
    assert gateway.state_of("two") is BreakerState.CLOSED


def test_health_that_returns_from_unknown_leaves_the_breaker_alone() -> None:
    gateway = RetryingGateway(2)
    gateway.fail("one")
    gateway.set_health("one", HEALTHY)
    assert gateway.state_of("one") is BreakerState.OPEN


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_what_was_tried_is_avoided(policy: str) -> None:
    backend = many(3, policy).backends["b"]
    assert set(used(backend, avoid=(0,))) == {1, 2}
    assert set(used(backend, avoid=(0, 1))) == {2}
    assert set(used(backend, avoid=(2, 1, 0))) == {1, 2}  # not the last one again
    assert set(used(backend, avoid=(2, 1, 0, 1))) == {0, 2}
    sicken(backend, 2)
    assert set(used(backend, avoid=(0, 1))) == {0}
    assert set(used(backend, avoid=(0,))) == {1}
    trip(backend, 1)
    assert set(used(backend, avoid=(0,))) == {0}
    assert set(used(backend, avoid=(0, 1))) == {0}


# --- slow start -------------------------------------------------------------------------------------------------------

PICKS = 4000


@pytest.mark.parametrize("policy", ["round_robin", "random"])
@pytest.mark.parametrize(("after_s", "share"), [(0, SLOW_START_FLOOR), (2, 0.2), (5, 0.5), (8, 0.8), (10, 1), (99, 1)])
def test_share_grows_with_time(policy: str, after_s: int, share: float) -> None:
    gateway = many(2, policy, slow_start="10s", panic_percent=0)
    backend = gateway.backends["b"]
    sicken(backend, 0)
    assert used(backend) == {1: 400}
    backend.set_health(backend.targets[0], HEALTHY, "test")
    gateway.clock.advance(after_s)
    gateway.chance.seed(7)
    found = used(backend, PICKS)
    assert found[0] / PICKS == pytest.approx(share / 2, abs=0.02)
    assert backend._is_all_well is (after_s >= 10)


def test_target_that_comes_back_through_its_breaker_starts_slowly_too() -> None:
    gateway = many(2, slow_start="10s")
    backend = gateway.backends["b"]
    trip(backend, 0)
    gateway.clock.advance(30)
    assert used(backend) == {0: 200, 1: 200}
    assert backend.targets[0].begin(30.0)
    assert used(backend) == {1: 400}
    backend.targets[0].breaker.succeeded(30.0, is_probe=True)
    gateway.chance.seed(7)
    assert used(backend, PICKS)[0] / PICKS == pytest.approx(SLOW_START_FLOOR / 2, abs=0.02)
    gateway.clock.advance(10)
    assert used(backend) == {0: 200, 1: 200}


def test_warming_target_that_is_alone_gets_everything() -> None:
    backend = many(2, slow_start="10s", panic_percent=0).backends["b"]
    sicken(backend, 0, 1)
    backend.set_health(backend.targets[0], HEALTHY, "test")
    assert used(backend) == {0: 400}


def test_all_that_warm_share_alike() -> None:
    backend = many(2, slow_start="10s", panic_percent=0).backends["b"]
    sicken(backend, 0, 1)
    for target in backend.targets:
        backend.set_health(target, HEALTHY, "test")
    found = used(backend, PICKS)
    assert found[0] / PICKS == pytest.approx(0.5, abs=0.03)


def test_retry_may_go_to_a_warming_target() -> None:
    backend = many(2, slow_start="10s", panic_percent=0).backends["b"]
    sicken(backend, 0)
    backend.set_health(backend.targets[0], HEALTHY, "test")
    assert used(backend, avoid=(1,)) == {0: 400}


def test_first_targets_start_at_full_share() -> None:
    backend = many(2, slow_start="10s").backends["b"]
    backend.set_health(backend.targets[0], HEALTHY, "test")
    assert used(backend) == {0: 200, 1: 200}


def test_without_slow_start_the_share_is_there_at_once() -> None:
    backend = many(2).backends["b"]
    sicken(backend, 0)
    backend.set_health(backend.targets[0], HEALTHY, "test")
    assert used(backend) == {0: 200, 1: 200}


# --- other targets ----------------------------------------------------------------------------------------------------


def test_breakers_of_new_targets_are_watched() -> None:
    gateway = many(3)
    backend = gateway.backends["b"]
    first, second, third = backend.targets
    backend.set_targets([second, third])
    assert used(backend) == {0: 200, 1: 200}
    trip(backend, 0)
    assert used(backend) == {1: 400}
    first.breaker.failed(0.0)  # of what is under way at one that is gone
    assert used(backend) == {1: 400}
