"""Which target gets the next request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar


class Weighted(Protocol):
    """Something with a share of the traffic."""

    @property
    def weight(self) -> int: ...


T = TypeVar("T", bound=Weighted)


class RoundRobin(Generic[T]):
    """Smooth weighted round robin.

    In every run of sum(weights) picks each target gets exactly its weight, and a heavy one is not picked in a burst
    (the algorithm is nginx's). The order repeats, so it is worked out once (bounded by MAX_CYCLE; larger weights are scaled down).

    Args:
        targets: at least one, weights of at least 1.
    """

    MAX_CYCLE = 10_000

    __slots__ = ("_cycle", "_next")

    def __init__(self, targets: Sequence[T]) -> None:
        weights = [target.weight for target in targets]
        total = sum(weights)
        if total > self.MAX_CYCLE:
            weights = [max(1, weight * self.MAX_CYCLE // total) for weight in weights]
            total = sum(weights)
        if len(set(weights)) == 1:
            self._cycle = list(targets)
        else:
            self._cycle = _smooth(targets, weights, total)
        self._next = 0

    def pick(self) -> T:
        """The next target."""
        position = self._next
        self._next = position + 1 if position + 1 < len(self._cycle) else 0
        return self._cycle[position]


def _smooth(targets: Sequence[T], weights: list[int], total: int) -> list[T]:
    current = [0] * len(targets)
    cycle = []
    for _ in range(total):
        for index, weight in enumerate(weights):
            current[index] += weight
        best = max(range(len(targets)), key=current.__getitem__)
        current[best] -= total
        cycle.append(targets[best])
    return cycle
