"""Turns, as many for each target as it weighs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import cycle
from math import gcd
from typing import Generic, TypeVar

from txgateway.proxy.balancing.policy import Weighted

T = TypeVar("T", bound=Weighted)


class RoundRobin(Generic[T]):
    """Smooth weighted round robin.

    In every run of sum(weights) picks each target gets exactly its weight, and a heavy one is not picked in a burst
    (the algorithm is nginx's). The order repeats, so it is worked out once (bounded by MAX_CYCLE; larger weights are
    scaled down). Where not all targets are usable it is worked out pick by pick, with the same shares among those
    that are: they may change at any time.

    Args:
        targets: at least one, weights of at least 1.
    """

    MAX_CYCLE = 10_000

    __slots__ = ("_current", "_cycle", "_targets")

    def __init__(self, targets: Sequence[T]) -> None:
        self._targets = tuple(targets)
        self._current = [0] * len(targets)
        self._cycle = cycle(self.order(targets))

    @classmethod
    def order(cls, targets: Sequence[T]) -> list[T]:
        """The order that repeats, from its beginning."""
        divisor = reduce(gcd, (target.weight for target in targets))
        weights = [target.weight // divisor for target in targets]
        total = sum(weights)
        if total > cls.MAX_CYCLE:
            weights = [max(1, weight * cls.MAX_CYCLE // total) for weight in weights]
            total = sum(weights)
        if total == len(targets):
            return list(targets)
        current = [0] * len(targets)
        return [targets[_next(current, weights, range(len(targets)))] for _ in range(total)]

    def pick(self, key: bytes = b"", is_usable: Callable[[T], bool] | None = None) -> T | None:
        """The target whose turn it is."""
        if is_usable is None:
            return next(self._cycle)
        targets = self._targets
        usable = [index for index, target in enumerate(targets) if is_usable(target)]
        if len(usable) == len(targets):
            return next(self._cycle)
        if not usable:
            return None
        return targets[_next(self._current, [target.weight for target in targets], usable)]


def _next(current: list[int], weights: Sequence[int], indices: Sequence[int]) -> int:
    """Each of ``indices`` earns its weight, and the richest pays for all: whose turn it is."""
    total, best = 0, indices[0]
    for index in indices:
        weight = weights[index]
        total += weight
        current[index] += weight
        if current[index] > current[best]:
            best = index
    current[best] -= total
    return best
