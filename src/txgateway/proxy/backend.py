"""A backend at run time: its targets, each with its pool, and the policy by which they are picked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import define, field

from txgateway.errors import NoHealthyTarget
from txgateway.proxy.balancing.keys import KeyOf
from txgateway.proxy.balancing.policy import Policy
from txgateway.proxy.balancing.round_robin import RoundRobin
from txgateway.proxy.pool import ConnectionPool

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


@define(eq=False)
class Target:
    """One address of a backend.

    Attributes:
        label: ``host:port`` or ``unix:/path``, as configured.
        authority: what ``Host`` says, unless the route keeps the client's.
        weight: its share.
        pool: connections to it.
        in_flight: requests under way at it, each from its pick until its answer's body has ended or it failed. Who
            picks a target takes its own one off again.
    """

    label: str
    authority: bytes
    weight: int
    pool: ConnectionPool
    in_flight: int = field(default=0, init=False)


class Backend:
    """A named set of targets.

    Args:
        name: the metric label.
        targets: at least one.
        policy: picks among them; they take turns unless given.
        key_of: what of a request the policy goes by, if by anything.

    Attributes:
        is_usable: says of a target whether it may be picked now; None while all may.
    """

    __slots__ = ("_key_of", "_policy", "is_usable", "name", "targets")

    def __init__(
        self,
        name: str,
        targets: Sequence[Target],
        policy: Policy[Target] | None = None,
        key_of: KeyOf | None = None,
    ) -> None:
        self.name = name
        self.targets = tuple(targets)
        self.is_usable: Callable[[Target], bool] | None = None
        self._policy = RoundRobin(self.targets) if policy is None else policy
        self._key_of = key_of

    def pick(self, request: GatewayRequest) -> Target:
        """The target for a request, which counts as under way there: the caller takes it off ``in_flight`` once.

        Raises:
            NoHealthyTarget: none is usable.
        """
        key_of = self._key_of
        target = self._policy.pick(b"" if key_of is None else key_of(request), self.is_usable)
        if target is None:
            raise NoHealthyTarget
        target.in_flight += 1
        return target

    def close(self) -> None:
        """Close what is idle and lend nothing more."""
        for target in self.targets:
            target.pool.close()
