"""A backend at run time: its targets, each with its pool, and the order in which they are picked."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from txgateway.proxy.balancer import RoundRobin
from txgateway.proxy.pool import ConnectionPool


@frozen
class Target:
    """One address of a backend.

    Attributes:
        label: ``host:port`` or ``unix:/path``, as configured.
        authority: what ``Host`` says, unless the route keeps the client's.
        weight: its share.
        pool: connections to it.
    """

    label: str
    authority: bytes
    weight: int
    pool: ConnectionPool


class Backend:
    """A named set of targets.

    Args:
        name: the metric label.
        targets: at least one.
    """

    __slots__ = ("balancer", "name", "targets")

    def __init__(self, name: str, targets: Sequence[Target]) -> None:
        self.name = name
        self.targets = tuple(targets)
        self.balancer = RoundRobin(self.targets)

    def close(self) -> None:
        """Close what is idle and lend nothing more."""
        for target in self.targets:
            target.pool.close()
