from __future__ import annotations

from collections import Counter

import pytest
from tests.unit.proxy.balancing.targets import targets_of

from txgateway.proxy.balancing.round_robin import RoundRobin


def picks(weights: list[int], count: int, *unusable: str) -> list[str]:
    policy = RoundRobin(targets_of(weights))
    is_usable = (lambda target: target.address not in unusable) if unusable else None
    found = [policy.pick(b"", is_usable) for _ in range(count)]
    return [target.address for target in found if target is not None]


def test_equal_targets_take_turns() -> None:
    assert picks([1, 1, 1], 7) == ["t0", "t1", "t2", "t0", "t1", "t2", "t0"]
    assert picks([7, 7], 4) == ["t0", "t1", "t0", "t1"]
    assert picks([5], 3) == ["t0", "t0", "t0"]


def test_heavy_target_is_not_picked_in_a_burst() -> None:
    # The example in nginx's own commit.
    assert picks([5, 1, 1], 7) == ["t0", "t0", "t1", "t0", "t2", "t0", "t0"]


def test_weights_with_a_common_divisor_have_the_order_of_the_smaller_ones() -> None:
    assert len(RoundRobin.order(targets_of([95, 5]))) == 20
    assert picks([500, 100, 100], 14) == picks([5, 1, 1], 14)


def test_order_without_a_target_is_that_of_the_others_alone() -> None:
    assert picks([5, 1, 2], 14, "t1") == [name.replace("t1", "t2") for name in picks([5, 2], 14)]


def test_all_usable_or_not_asked_for_is_the_same() -> None:
    policy = RoundRobin(targets_of([2, 1]))
    found = [policy.pick(), policy.pick(b"", lambda _: True), policy.pick()]
    assert [target.address for target in found if target] == ["t0", "t1", "t0"]


def test_target_that_came_back_is_not_flooded() -> None:
    targets = targets_of([1, 1, 1])
    policy = RoundRobin(targets)
    for _ in range(100):
        policy.pick(b"", lambda target: target is not targets[0])
    found = [policy.pick() for _ in range(30)]
    assert Counter(target.address for target in found if target) == {"t0": 10, "t1": 10, "t2": 10}


@pytest.mark.parametrize("weights", [(1_000_000, 1), (100_003, 300_000, 600_000), (1, 1, 50_000)])
def test_large_weights_are_scaled_down_and_nobody_starves(weights: tuple[int, ...]) -> None:
    order = RoundRobin.order(targets_of(weights))
    assert len(order) <= RoundRobin.MAX_CYCLE + len(weights)
    counted = Counter(target.address for target in order)
    for number, weight in enumerate(weights):
        assert counted[f"t{number}"] >= 1
        assert abs(counted[f"t{number}"] / len(order) - weight / sum(weights)) < 0.001
