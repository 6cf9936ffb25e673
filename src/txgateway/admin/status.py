"""What ``GET /status`` tells, as values: routes, backends and their targets at one moment.

Who has the live objects fills these in; here they only become one JSON object.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import attrs

import txgateway
from txgateway.telemetry.activity import Activity


@attrs.frozen(kw_only=True)
class RouteStatus:
    """One route: its match rule, the users' middlewares on it, the (first of the) backends it leads to, and its requests."""

    name: str
    hosts: tuple[str, ...] = ()
    path: str
    methods: tuple[str, ...] = ()
    backend: str | None
    backends: tuple[str, ...] = ()
    middlewares: tuple[str, ...] = ()
    in_flight: int
    activity: Activity


@attrs.frozen(kw_only=True)
class TargetStatus:
    """One target: ``health`` (healthy, unhealthy, unknown), ``breaker`` (closed, half-open, open), its pool.

    ``target`` is as configured; a name with several addresses is several targets, told apart by ``address``.
    ``outcomes`` counts the attempts at all of them together: ``ok``, ``error``, ``timeout``, ``cancelled``.
    """

    target: str
    address: str = ""
    weight: int = 1
    health: str = "unknown"
    breaker: str = "closed"
    in_flight: int = 0
    active: int = 0
    idle: int = 0
    pending: int = 0
    outcomes: Mapping[str, int] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class BackendStatus:
    """One backend and its targets."""

    name: str
    load_balancer: str
    targets: tuple[TargetStatus, ...]


def status_report(
    state: str, uptime_s: float, routes: Iterable[RouteStatus], backends: Iterable[BackendStatus]
) -> dict[str, object]:
    """The members of ``/status``, as plain JSON data.

    Args:
        state: the readiness verdict's word, such as ``ready``.
        uptime_s: seconds since the gateway started.
    """
    route_list = [_members(route) for route in routes]
    return {
        "version": txgateway.__version__,
        "state": state,
        "uptime_s": round(uptime_s, 3),
        "in_flight": sum(route["in_flight"] for route in route_list),
        "routes": route_list,
        "backends": [
            {
                "name": backend.name,
                "load_balancer": backend.load_balancer,
                "targets": [_members(target) for target in backend.targets],
            }
            for backend in backends
        ],
    }


def _members(part: RouteStatus | TargetStatus) -> dict[str, Any]:
    """What ``attrs.asdict`` makes of plain members, in less time: there may be a thousand routes."""
    names, values_of = _MEMBERS[type(part)]
    return dict(zip(names, values_of(part), strict=True))


def _getter(kind: type[attrs.AttrsInstance]) -> tuple[tuple[str, ...], attrgetter[Any]]:
    names = tuple(field.name for field in attrs.fields(kind))
    return names, attrgetter(*names)


_MEMBERS = {kind: _getter(kind) for kind in (RouteStatus, TargetStatus)}
