from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from tests.unit.proxy.balancing.targets import Loaded, targets_of

from txgateway.proxy.balancing.draw import Urn, WeightedRandom


def test_every_lot_belongs_to_the_target_that_weighs_it() -> None:
    urn = Urn(targets_of([2, 1, 3]), Loaded(*(lot / 6 + 0.01 for lot in range(6))))
    assert [urn.one().address for _ in range(6)] == ["t0", "t0", "t1", "t2", "t2", "t2"]


def test_second_of_two_is_drawn_from_what_the_first_left() -> None:
    seconds = {}
    for first in range(6):
        draws = []
        for lot in range(6):
            one, two = Urn(targets_of([2, 1, 3]), Loaded(first / 6 + 0.01, lot / 6 + 0.01)).two()
            assert one is not two
            draws.append(two.address)
        seconds[one.address] = Counter(draws)
    assert seconds == {"t0": {"t1": 2, "t2": 4}, "t1": {"t0": 3, "t2": 3}, "t2": {"t0": 4, "t1": 2}}


@pytest.mark.parametrize("draw", [0.0, 1 - 2**-53])
def test_ends_of_the_range_are_drawn_too(draw: float) -> None:
    assert Urn(targets_of([1, 65535, 1]), Loaded(draw)).one().address == ("t0" if draw == 0 else "t2")
    assert len(set(Urn(targets_of([1, 65535, 1]), Loaded(draw)).two())) == 2


def test_shares_are_the_weights() -> None:
    policy = WeightedRandom(targets_of([1, 2, 7]), Random(5))
    counted = Counter(target.address for _ in range(10_000) if (target := policy.pick()))
    # Four standard deviations.
    for name, share in (("t0", 0.1), ("t1", 0.2), ("t2", 0.7)):
        assert abs(counted[name] - 10_000 * share) < 4 * (10_000 * share * (1 - share)) ** 0.5


def test_shares_without_a_target_are_the_others_weights() -> None:
    policy = WeightedRandom(targets_of([1, 2, 7]), Random(5))
    counted = Counter(
        target.address for _ in range(3000) if (target := policy.pick(b"", lambda target: target.weight < 7))
    )
    assert counted.keys() == {"t0", "t1"}
    assert abs(counted["t0"] - 1000) < 4 * (3000 * 2 / 9) ** 0.5
