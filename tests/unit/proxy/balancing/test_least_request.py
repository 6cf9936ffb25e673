from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from tests.unit.proxy.balancing.targets import FakeTarget, Loaded, targets_of

from txgateway.proxy.balancing.least_request import LeastRequest


def loaded(*weights_and_loads: tuple[int, int]) -> list[FakeTarget]:
    return [FakeTarget(f"t{number}", weight, load) for number, (weight, load) in enumerate(weights_and_loads)]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (loaded((1, 3), (1, 2)), "t1"),
        (loaded((1, 2), (1, 3)), "t0"),
        (loaded((2, 3), (1, 2)), "t0"),  # 4/2 < 3/1
        (loaded((3, 9), (1, 2)), "t1"),  # 10/3 > 3/1
        (loaded((3, 0), (1, 0)), "t0"),  # at rest, the heavy one
        (loaded((3, 3), (1, 0)), "t1"),  # until it has its share
    ],
)
def test_less_busy_of_two_for_its_weight_is_picked(targets: list[FakeTarget], expected: str) -> None:
    policy = LeastRequest(targets, Random(1))
    for _ in range(20):
        picked = policy.pick()
        assert picked is not None
        assert picked.address == expected


@pytest.mark.parametrize(("draw", "expected"), [(0.1, "t0"), (0.9, "t1")])
def test_chance_decides_between_equally_busy_ones(draw: float, expected: str) -> None:
    picked = LeastRequest(loaded((3, 2), (1, 0)), Loaded(draw)).pick()
    assert picked is not None
    assert picked.address == expected


def test_one_target_or_one_that_is_usable_needs_no_second() -> None:
    only = targets_of([1])
    assert LeastRequest(only, Random(1)).pick() is only[0]
    three = loaded((1, 0), (1, 99), (1, 0))
    assert LeastRequest(three, Random(1)).pick(b"", lambda target: target is three[1]) is three[1]


def test_requests_that_last_are_spread_by_weight() -> None:
    """Weight counts where it matters: where all are busy."""
    targets = targets_of([1, 1, 1, 1, 6])
    policy = LeastRequest(targets, Random(3))
    for _ in range(1000):
        picked = policy.pick()
        assert picked is not None
        picked.in_flight += 1
    for target in targets:
        assert abs(target.in_flight - 100 * target.weight) <= 15 * target.weight


def test_idle_targets_of_equal_weight_get_equal_shares() -> None:
    policy = LeastRequest(targets_of([1, 1, 1]), Random(7))
    counted = Counter(target.address for _ in range(3000) if (target := policy.pick()))
    assert all(abs(count - 1000) < 4 * (3000 * 2 / 9) ** 0.5 for count in counted.values())
