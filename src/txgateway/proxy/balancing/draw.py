"""Drawing by chance, the heavy more often than the light; and the policy that does nothing else."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

from txgateway.proxy.balancing.policy import Weighted

T = TypeVar("T", bound=Weighted)


class Urn(Generic[T]):
    """Targets to draw from, each with a chance in proportion to its weight.

    Args:
        targets: at least one, weights of at least 1.
        chance: what the draws are made with.
    """

    __slots__ = ("_bounds", "_random", "_targets", "_total")

    def __init__(self, targets: Sequence[T], chance: Random) -> None:
        self._targets = targets
        self._bounds = list(accumulate(target.weight for target in targets))
        self._total = self._bounds[-1]
        self._random = chance.random

    def __len__(self) -> int:
        return len(self._targets)

    def one(self) -> T:
        """One of them."""
        return self._targets[bisect_right(self._bounds, int(self._random() * self._total))]

    def two(self) -> tuple[T, T]:
        """Two different ones, of at least two: the second is drawn from what the first has left."""
        bounds, targets = self._bounds, self._targets
        first = bisect_right(bounds, int(self._random() * self._total))
        weight = targets[first].weight
        lot = int(self._random() * (self._total - weight))
        if lot >= bounds[first] - weight:
            lot += weight  # past the first one's lots
        return targets[first], targets[bisect_right(bounds, lot)]


class WeightedRandom(Generic[T]):
    """Each request for itself, by chance.

    Args:
        targets: at least one, weights of at least 1.
        chance: what it is decided by.
    """

    __slots__ = ("_chance", "_targets", "_urn")

    def __init__(self, targets: Sequence[T], chance: Random) -> None:
        self._targets = tuple(targets)
        self._chance = chance
        self._urn = Urn(self._targets, chance)

    def pick(self, key: bytes = b"", is_usable: Callable[[T], bool] | None = None) -> T | None:
        """A target drawn among the usable."""
        if is_usable is None:
            return self._urn.one()
        usable = [target for target in self._targets if is_usable(target)]
        return Urn(usable, self._chance).one() if usable else None
