"""Which target gets the next request: the policy, and the key it goes by, that a ``load_balancer`` setting names."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from txgateway.proxy.balancing import keys
from txgateway.proxy.balancing.draw import WeightedRandom
from txgateway.proxy.balancing.least_request import LeastRequest
from txgateway.proxy.balancing.policy import Addressed, Policy
from txgateway.proxy.balancing.ring import HashRing
from txgateway.proxy.balancing.round_robin import RoundRobin

T = TypeVar("T", bound=Addressed)


def policy_named(name: str, targets: Sequence[T], chance: Random) -> Policy[T]:
    """The policy of a setting that was validated.

    Args:
        name: such as ``least_request`` or ``hash:header:X-User``.
        targets: at least one, weights of at least 1.
        chance: for those that leave something to it.

    Raises:
        ValueError: it names none.
    """
    if name == "round_robin":
        return RoundRobin(targets)
    if name == "least_request":
        return LeastRequest(targets, chance)
    if name == "random":
        return WeightedRandom(targets, chance)
    if name.startswith("hash:"):
        return HashRing(targets)
    raise ValueError(f"there is no load balancer {name!r}")


def key_named(name: str) -> keys.KeyOf | None:
    """What a validated setting's policy goes by; None if by nothing in the request.

    Raises:
        ValueError: it hashes by something unknown.
    """
    if not name.startswith("hash:"):
        return None
    kind, _, argument = name.removeprefix("hash:").partition(":")
    if kind == "client_ip":
        return keys.client_ip
    if kind == "header":
        return keys.header(argument)
    if kind == "cookie":
        return keys.cookie(argument)
    raise ValueError(f"there is no load balancer {name!r}")
