"""The less busy one of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Generic, TypeVar

from txgateway.proxy.balancing.draw import Urn
from txgateway.proxy.balancing.policy import Loaded

T = TypeVar("T", bound=Loaded)


class LeastRequest(Generic[T]):
    """Draws two targets and takes the one that would be less busy with the request, for its weight.

    Two are enough (M. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing"), and better than a look
    at all: gateways that know nothing of each other do not fall upon the same target at once. Both are drawn by
    weight, or a heavy target among many light ones would hardly ever be looked at; of equally busy ones the first
    drawn is taken, so that chance decides.

    Args:
        targets: at least one, weights of at least 1.
        chance: what the two are drawn with.
    """

    __slots__ = ("_chance", "_targets", "_urn")

    def __init__(self, targets: Sequence[T], chance: Random) -> None:
        self._targets = tuple(targets)
        self._chance = chance
        self._urn = Urn(self._targets, chance)

    def pick(self, key: bytes = b"", is_usable: Callable[[T], bool] | None = None) -> T | None:
        """The less busy one of two usable targets."""
        urn = self._urn
        if is_usable is not None:
            usable = [target for target in self._targets if is_usable(target)]
            if not usable:
                return None
            urn = Urn(usable, self._chance)
        if len(urn) == 1:
            return urn.one()
        first, second = urn.two()
        # (in flight + 1) / weight, compared without fractions.
        is_second_less_busy = (second.in_flight + 1) * first.weight < (first.in_flight + 1) * second.weight
        return second if is_second_less_busy else first
