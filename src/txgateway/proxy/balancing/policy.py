"""What a policy is, and what it may know of the targets that it picks from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar


class Weighted(Protocol):
    """Something with a share of the traffic."""

    @property
    def weight(self) -> int: ...


class Loaded(Weighted, Protocol):
    """Something that is told how many requests are under way at it: counted by others, looked at by policies."""

    @property
    def in_flight(self) -> int: ...


class Addressed(Loaded, Protocol):
    """Something that is known by its address, too, which stays the same when others come and go."""

    @property
    def address(self) -> str: ...


T_co = TypeVar("T_co", covariant=True)


class Policy(Protocol[T_co]):
    """Picks a target for each request."""

    def pick(self, key: bytes = b"", is_usable: Callable[[T_co], bool] | None = None) -> T_co | None:
        """The target for the next request; None if none is usable.

        Args:
            key: requests with the same one belong together, for policies that care.
            is_usable: says which targets may be picked now; asked at most once about each. None: all of them, which
                is the case that costs nothing.
        """
