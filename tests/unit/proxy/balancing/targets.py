"""Targets without any address, for policies to pick from."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from attrs import define


@define(eq=False)
class FakeTarget:
    """What policies look at; ``in_flight`` is the test's to count."""

    address: str
    weight: int = 1
    in_flight: int = 0


def targets_of(weights: Iterable[int]) -> list[FakeTarget]:
    """Targets ``t0``, ``t1``, … of these weights."""
    return [FakeTarget(f"t{number}", weight) for number, weight in enumerate(weights)]


class Loaded(Random):
    """Draws what the test says, in a circle."""

    def __init__(self, *draws: float) -> None:
        super().__init__(0)
        self._draws = draws
        self._at = 0

    def random(self) -> float:
        draw = self._draws[self._at % len(self._draws)]
        self._at += 1
        return draw
