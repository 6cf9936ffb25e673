from __future__ import annotations

from collections import Counter

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

from txgateway.proxy.balancer import RoundRobin


@frozen
class Weighted:
    name: int
    weight: int


def balancer(*weights: int) -> RoundRobin[Weighted]:
    return RoundRobin([Weighted(name, weight) for name, weight in enumerate(weights)])


def picks(balancer: RoundRobin[Weighted], count: int) -> list[int]:
    return [balancer.pick().name for _ in range(count)]


def test_equal_targets_take_turns() -> None:
    assert picks(balancer(1, 1, 1), 7) == [0, 1, 2, 0, 1, 2, 0]
    assert picks(balancer(7, 7), 4) == [0, 1, 0, 1]
    assert picks(balancer(5), 3) == [0, 0, 0]


def test_heavy_target_is_not_picked_in_a_burst() -> None:
    assert picks(balancer(5, 1, 1), 7) == [0, 0, 1, 0, 2, 0, 0]  # the example in nginx's own commit


@given(weights=st.lists(st.integers(1, 20), min_size=1, max_size=6), skipped=st.integers(0, 200))
def test_every_run_of_the_sum_of_weights_gives_each_its_weight(weights: list[int], skipped: int) -> None:
    chooser = balancer(*weights)
    picks(chooser, skipped)
    counted = Counter(picks(chooser, sum(weights)))
    assert [counted[name] for name in range(len(weights))] == weights


@given(weights=st.lists(st.integers(1, 12), min_size=2, max_size=5), length=st.integers(1, 60))
def test_no_target_is_ever_far_ahead_of_its_share(weights: list[int], length: int) -> None:
    total = sum(weights)
    counted = Counter(picks(balancer(*weights), length))
    for name, weight in enumerate(weights):
        assert abs(counted[name] - length * weight / total) < len(weights)


@pytest.mark.parametrize("weights", [(1_000_000, 1), (100_000, 300_000, 600_000), (1, 1, 50_000)])
def test_large_weights_are_scaled_down_and_nobody_starves(weights: tuple[int, ...]) -> None:
    chooser = balancer(*weights)
    assert len(chooser._cycle) <= RoundRobin.MAX_CYCLE + len(weights)
    counted = Counter(picks(chooser, len(chooser._cycle)))
    for name, weight in enumerate(weights):
        assert counted[name] >= 1
        assert abs(counted[name] / len(chooser._cycle) - weight / sum(weights)) < 0.001
