from __future__ import annotations

from collections import Counter

import pytest
from tests.unit.proxy.balancing.targets import FakeTarget, targets_of

from txgateway.proxy.balancing.ring import HashRing

KEYS = [b"user-%d" % number for number in range(4000)]
#: Where the first of them belong, among three equal targets.
PLACES = ["t2", "t1", "t0", "t1", "t1", "t2", "t1", "t1", "t0", "t2", "t1", "t0"]


def homes(ring: HashRing[FakeTarget], *unusable: str) -> list[str]:
    is_usable = (lambda target: target.address not in unusable) if unusable else None
    return [target.address for key in KEYS if (target := ring.pick(key, is_usable))]


def test_places_are_the_same_in_every_process_and_version() -> None:
    """Gateways side by side must agree, so no place may change without a word in the changelog."""
    ring = HashRing(targets_of([1, 1, 1]))
    assert homes(ring)[:12] == PLACES


def test_order_of_the_targets_does_not_matter() -> None:
    targets = targets_of([1, 2, 3])
    assert homes(HashRing(targets)) == homes(HashRing(targets[::-1]))


@pytest.mark.parametrize("weights", [[1, 1, 1], [1, 2, 5], [10, 30]])
def test_share_of_keys_is_the_weight(weights: list[int]) -> None:
    counted = Counter(homes(HashRing(targets_of(weights))))
    for number, weight in enumerate(weights):
        assert counted[f"t{number}"] == pytest.approx(len(KEYS) * weight / sum(weights), rel=0.25)


@pytest.mark.parametrize("leaver", ["t0", "t1", "t2"])
def test_only_the_keys_of_a_target_that_leaves_move(leaver: str) -> None:
    targets = targets_of([1, 2, 3])
    before = homes(HashRing(targets))
    after = homes(HashRing([target for target in targets if target.address != leaver]))
    assert all(old in (new, leaver) for old, new in zip(before, after, strict=True))
    assert homes(HashRing(targets), leaver) == after  # whether it is gone or only not usable
    assert leaver not in after


def test_keys_of_a_target_that_leaves_go_to_all_others() -> None:
    before, after = homes(HashRing(targets_of([1] * 4))), homes(HashRing(targets_of([1] * 4)), "t3")
    moved = Counter(new for old, new in zip(before, after, strict=True) if old == "t3")
    assert all(moved[name] > sum(moved.values()) / 6 for name in ("t0", "t1", "t2"))


def test_busy_target_is_passed_over_and_its_keys_come_back() -> None:
    targets = targets_of([1, 1, 1])
    ring = HashRing(targets)
    home = ring.pick(b"somebody")
    assert home is not None
    home.in_flight = 8
    other = ring.pick(b"somebody")
    assert other not in (home, None)
    home.in_flight = 7  # a few are never too many
    assert ring.pick(b"somebody") is home
    home.in_flight = 100
    for target in targets:
        target.in_flight = max(target.in_flight, 90)  # (280 + 1) * 1.25 / 3 = 117.08
    assert ring.pick(b"somebody") is home
    home.in_flight = 118 + 5  # (303 + 1) * 1.25 / 3 = 126.7
    assert ring.pick(b"somebody") is home
    home.in_flight = 135  # (315 + 1) * 1.25 / 3 = 131.7
    assert ring.pick(b"somebody") is other


def test_load_of_unusable_targets_is_no_measure() -> None:
    targets = targets_of([1, 1, 1])
    ring = HashRing(targets, spare=0)
    targets[0].in_flight = 1000
    for _ in range(100):
        picked = ring.pick(b"k", lambda target: target is not targets[0])
        assert picked is not None
        picked.in_flight += 1
    assert max(targets[1].in_flight, targets[2].in_flight) <= 63  # 100 * 1.25 / 2


@pytest.mark.parametrize("weights", [[65535, 1], [65535] * 40, [1] * 300])
def test_ring_is_bounded_and_every_target_is_on_it(weights: list[int]) -> None:
    ring = HashRing(targets_of(weights))
    assert len(ring._points) <= HashRing.MAX_POINTS + HashRing.MIN_POINTS * len(weights)
    assert len(set(ring._owners)) == len(weights)


def test_empty_key_has_a_place_too() -> None:
    assert HashRing(targets_of([1, 1])).pick() is not None
