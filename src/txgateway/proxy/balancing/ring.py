"""The same target for the same key, as far as it can bear it."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final, Generic, TypeVar

from txgateway.proxy.balancing.policy import Addressed

T = TypeVar("T", bound=Addressed)

_POINT_BYTES: Final = 8
_POINTS_PER_DIGEST: Final = 8  # of 64 bytes, the largest that BLAKE2b makes


class HashRing(Generic[T]):
    """A consistent hash ring with bounded load.

    Each target has points on a ring, as many as it weighs; a key belongs to the target of the next point behind its
    own. A target's points depend on its address only, so that when one leaves, or is not usable, its keys go to others
    and no other key moves.

    A target that has more than its share of the requests under way by LOAD_PERCENT is passed over, and so is the key's
    next one (V. Mirrokni, M. Thorup and M. Zadimoghaddam, "Consistent Hashing with Bounded Loads"). A few requests
    are never too many: without ``spare`` two requests of one client at the same time would part in a quiet hour.

    Args:
        targets: at least one, weights of at least 1, no two with the same address.
        spare: requests that may be under way at any target, whatever there is at the others.
    """

    POINTS_PER_WEIGHT = 160
    #: Of all targets; with more weight than that there are fewer for each unit of it.
    MAX_POINTS = 32_768
    #: Of one target, so that the walk from a point to a usable target has an end.
    MIN_POINTS = 16
    LOAD_PERCENT = 125

    __slots__ = ("_owners", "_points", "_spare", "_targets")

    def __init__(self, targets: Sequence[T], spare: int = 8) -> None:
        self._targets = tuple(targets)
        self._spare = spare
        total = sum(target.weight for target in targets)
        # Halved, not divided: a target more or less seldom changes how many points the others have.
        halvings = 0
        while total * self.POINTS_PER_WEIGHT >> halvings > self.MAX_POINTS:
            halvings += 1
        ring = sorted(
            (point, target.address, index)
            for index, target in enumerate(targets)
            for point in _points(
                target.address, max(self.MIN_POINTS, target.weight * self.POINTS_PER_WEIGHT >> halvings)
            )
        )
        self._points = array("Q", [point for point, _, _ in ring])
        self._owners = array("L", [index for _, _, index in ring])

    def pick(self, key: bytes = b"", is_usable: Callable[[T], bool] | None = None) -> T | None:
        """The key's target, or the next one that is usable and not too busy."""
        targets, owners = self._targets, self._owners
        at = bisect_right(self._points, _hash(key)) % len(owners)
        if is_usable is None:
            home = targets[owners[at]]
            if home.in_flight < self._spare:
                return home
            free = self._not_too_busy(targets)
            if free(home):
                return home
            usable: Sequence[T] = targets
        else:
            usable = [target for target in targets if is_usable(target)]
            if not usable:
                return None
            free = self._not_too_busy(usable)
        accepted = {id(target) for target in usable if free(target)}
        while id(target := targets[owners[at]]) not in accepted:
            at = at + 1 if at + 1 < len(owners) else 0
        return target

    def _not_too_busy(self, usable: Sequence[T]) -> Callable[[T], bool]:
        """Who can take one more; somebody always can, since the limits add up to more than all of them have."""
        in_flight, weight = 1, 0  # the new one counts
        for target in usable:
            in_flight += target.in_flight
            weight += target.weight
        spare, allowed, divisor = self._spare, in_flight * self.LOAD_PERCENT, weight * 100
        return lambda target: target.in_flight < spare or target.in_flight * divisor < allowed * target.weight


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=_POINT_BYTES).digest())


def _points(address: str, count: int) -> list[int]:
    points: list[int] = []
    name = address.encode()
    for number in range(-(-count // _POINTS_PER_DIGEST)):
        digest = blake2b(name, salt=number.to_bytes(16), person=b"ring").digest()
        points += [
            int.from_bytes(digest[start : start + _POINT_BYTES]) for start in range(0, len(digest), _POINT_BYTES)
        ]
    return points[:count]
