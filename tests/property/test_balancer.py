"""Policies against what they promise: shares, who is never picked, and which keys move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from math import ceil, sqrt
from random import Random

from hypothesis import example, given
from hypothesis import strategies as st
from tests.unit.proxy.balancing.targets import FakeTarget, targets_of

from txgateway.proxy.balancer import policy_named
from txgateway.proxy.balancing.draw import Urn, WeightedRandom
from txgateway.proxy.balancing.least_request import LeastRequest
from txgateway.proxy.balancing.ring import HashRing
from txgateway.proxy.balancing.round_robin import RoundRobin

POLICIES = ("round_robin", "least_request", "random", "hash:client_ip")

weights = st.lists(st.integers(1, 12), min_size=1, max_size=6)
several_weights = st.lists(st.integers(1, 12), min_size=2, max_size=6)
loads = st.lists(st.integers(0, 30), min_size=6, max_size=6)
seeds = st.integers(0, 2**32)
keys = st.lists(st.binary(max_size=16), min_size=1, max_size=40)


def addresses_of(pick: Callable[[], FakeTarget | None], count: int) -> list[str]:
    found = [pick() for _ in range(count)]
    return [target.address for target in found if target is not None]


# --- all of them ------------------------------------------------------------------------------------------------------


@given(
    name=st.sampled_from(POLICIES),
    weights=weights,
    loads=loads,
    masks=st.lists(st.integers(0, 63), min_size=1, max_size=40),
    seed=seeds,
)
@example(name="least_request", weights=[1] * 6, loads=[0] * 6, masks=[0b011110] * 40, seed=0)
@example(name="random", weights=[1] * 6, loads=[0] * 6, masks=[0b011110] * 40, seed=0)
@example(name="hash:client_ip", weights=[1] * 6, loads=[0] * 6, masks=[0b011110] * 40, seed=0)
@example(name="round_robin", weights=[1, 1], loads=[100, 0, 0, 0, 0, 0], masks=[1, 0, 3], seed=0)
@example(name="least_request", weights=[1, 1], loads=[100, 0, 0, 0, 0, 0], masks=[1, 0, 3], seed=0)
@example(name="random", weights=[1, 1], loads=[100, 0, 0, 0, 0, 0], masks=[1, 0, 3], seed=0)
@example(name="hash:client_ip", weights=[1, 1], loads=[100, 0, 0, 0, 0, 0], masks=[1, 0, 3], seed=0)
def test_unusable_target_is_never_picked_and_none_is_none(
    name: str, weights: list[int], loads: list[int], masks: list[int], seed: int
) -> None:
    targets = targets_of(weights)
    policy = policy_named(name, targets, Random(seed))
    for target, load in zip(targets, loads, strict=False):
        target.in_flight = load
    for number, mask in enumerate(masks):
        asked: list[FakeTarget] = []
        usable = {id(target) for index, target in enumerate(targets) if mask >> index & 1}

        def is_usable(target: FakeTarget) -> bool:
            asked.append(target)  # noqa: B023 -- called in this turn only
            return id(target) in usable  # noqa: B023

        picked = policy.pick(b"%d" % number, is_usable)
        assert (picked is None) == (not usable)
        if picked is not None:
            assert id(picked) in usable
            picked.in_flight += 1
        assert len(asked) == len({id(target) for target in asked})
        picked = policy.pick(b"%d" % number)
        assert picked is not None
        assert any(picked is target for target in targets)


# --- round robin ------------------------------------------------------------------------------------------------------


@given(weights=weights, skipped=st.integers(0, 200))
def test_every_run_of_the_sum_of_weights_gives_each_its_weight(weights: list[int], skipped: int) -> None:
    policy = RoundRobin(targets_of(weights))
    addresses_of(policy.pick, skipped)
    counted = Counter(addresses_of(policy.pick, sum(weights)))
    assert [counted[f"t{number}"] for number in range(len(weights))] == weights


@given(weights=several_weights, length=st.integers(1, 60))
def test_no_target_is_ever_far_ahead_of_its_share(weights: list[int], length: int) -> None:
    total = sum(weights)
    counted = Counter(addresses_of(RoundRobin(targets_of(weights)).pick, length))
    for number, weight in enumerate(weights):
        assert abs(counted[f"t{number}"] - length * weight / total) < len(weights)


@given(weights=several_weights, mask=st.integers(1, 63), rounds=st.integers(1, 3))
def test_every_run_among_the_usable_gives_each_its_weight(weights: list[int], mask: int, rounds: int) -> None:
    targets = targets_of(weights)
    usable = {target.address: target.weight for index, target in enumerate(targets) if mask >> index & 1}
    policy = RoundRobin(targets)
    for _ in range(rounds if usable else 0):
        found = addresses_of(lambda: policy.pick(b"", lambda target: target.address in usable), sum(usable.values()))
        assert Counter(found) == usable


@given(weights=several_weights, masks=st.lists(st.integers(1, 63), min_size=1, max_size=300))
def test_whatever_comes_and_goes_nobody_saves_up_turns(weights: list[int], masks: list[int]) -> None:
    targets = targets_of(weights)
    policy = RoundRobin(targets)
    for mask in masks:
        usable = {target.address for index, target in enumerate(targets) if mask >> index & 1}
        policy.pick(b"", lambda target: target.address in usable)  # noqa: B023 -- called in this turn only
    # What one has saved it has earned by waiting, which is never more than a few rounds.
    assert all(abs(saved) <= sum(weights) * len(weights) for saved in policy._current)


# --- chance -----------------------------------------------------------------------------------------------------------


@given(weights=several_weights, seed=seeds)
def test_random_gives_each_its_share_within_what_chance_explains(weights: list[int], seed: int) -> None:
    count, total = 2000, sum(weights)
    counted = Counter(addresses_of(WeightedRandom(targets_of(weights), Random(seed)).pick, count))
    for number, weight in enumerate(weights):
        share = weight / total
        assert abs(counted[f"t{number}"] - count * share) < 5 * sqrt(count * share * (1 - share))


class _Watched(Urn[FakeTarget]):
    """An urn that remembers the two it gave last."""

    last: tuple[FakeTarget, FakeTarget]

    def two(self) -> tuple[FakeTarget, FakeTarget]:
        self.last = super().two()
        return self.last


@given(weights=several_weights, loads=loads, seed=seeds, endings=st.lists(st.integers(0, 5), max_size=60))
def test_least_request_never_takes_the_busier_of_the_two(
    weights: list[int], loads: list[int], seed: int, endings: list[int]
) -> None:
    targets = targets_of(weights)
    for target, load in zip(targets, loads, strict=False):
        target.in_flight = load
    policy = LeastRequest(targets, Random(seed))
    policy._urn = watched = _Watched(targets, Random(seed))
    for ending in endings:
        picked = policy.pick()
        assert picked is not None
        first, second = watched.last
        assert first is not second
        assert picked in (first, second)
        other = second if picked is first else first
        assert Fraction(picked.in_flight + 1, picked.weight) <= Fraction(other.in_flight + 1, other.weight)
        picked.in_flight += 1
        ended = targets[ending % len(targets)]
        ended.in_flight = max(0, ended.in_flight - 1)


@given(weights=several_weights, seed=seeds)
def test_requests_that_last_are_shared_by_weight(weights: list[int], seed: int) -> None:
    """Where two choices end up: within a few requests of the share, however many there are."""
    targets = targets_of(weights)
    policy = LeastRequest(targets, Random(seed))
    count = 100 * len(weights)
    for _ in range(count):
        picked = policy.pick()
        assert picked is not None
        picked.in_flight += 1
    busy = [Fraction(target.in_flight, target.weight) for target in targets]
    fair = Fraction(count, sum(weights))
    assert max(busy) <= fair * Fraction(5, 4) + 2


# --- the ring ---------------------------------------------------------------------------------------------------------


@given(weights=several_weights, keys=keys, leaver=st.integers(0, 5))
def test_key_stays_while_its_target_does(weights: list[int], keys: list[bytes], leaver: int) -> None:
    targets = targets_of(weights)
    gone = targets[leaver % len(targets)]
    ring, smaller = HashRing(targets), HashRing([target for target in targets if target is not gone])
    for key in keys:
        home = ring.pick(key)
        assert home is ring.pick(key)
        assert ring.pick(key, lambda _: True) is home
        without = ring.pick(key, lambda target: target is not gone)
        assert without is smaller.pick(key)
        if home is not gone:
            assert without is home


@given(weights=several_weights, keys=keys, spare=st.integers(0, 10), endings=st.lists(st.integers(0, 5), max_size=40))
def test_load_is_bounded_and_only_what_is_too_busy_is_passed_over(
    weights: list[int], keys: list[bytes], spare: int, endings: list[int]
) -> None:
    targets = targets_of(weights)
    ring = HashRing(targets, spare)
    quiet = HashRing(targets_of(weights))
    for turn in range(150):
        key = keys[turn % len(keys)]
        total = sum(target.in_flight for target in targets) + 1
        limits = [max(spare, ceil(Fraction(5, 4) * total * target.weight / sum(weights))) for target in targets]
        picked, home = ring.pick(key), quiet.pick(key)
        assert picked is not None
        assert home is not None
        index = targets.index(picked)
        picked.in_flight += 1
        assert picked.in_flight <= limits[index]
        average = Fraction(total * picked.weight, sum(weights))
        assert picked.in_flight <= spare or picked.in_flight <= average * Fraction(5, 4) + 1
        if picked.address != home.address:
            at_home = next(number for number, target in enumerate(targets) if target.address == home.address)
            assert targets[at_home].in_flight >= limits[at_home]
        if endings and turn % 3 == 0:
            ended = targets[endings[turn % len(endings)] % len(targets)]
            ended.in_flight = max(0, ended.in_flight - 1)


@given(weights=st.lists(st.integers(1, 5), min_size=2, max_size=5), salt=st.integers(0, 2**32))
def test_share_of_keys_is_about_the_weight(weights: list[int], salt: int) -> None:
    ring = HashRing(targets_of(weights))
    count = 2000
    counted = Counter(target.address for number in range(count) if (target := ring.pick(b"%d-%d" % (salt, number))))
    for number, weight in enumerate(weights):
        share = weight / sum(weights)
        # Points lie by chance (160 a weight unit: 8% for one), and so do the keys.
        allowed = 5 * share * count * sqrt(1 / (160 * weight) + (1 - share) / (share * count))
        assert abs(counted[f"t{number}"] - share * count) < allowed
