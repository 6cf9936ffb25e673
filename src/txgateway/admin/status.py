"""What ``GET /status`` tells, as values: routes, backends and their targets at one moment.

Who has the live objects fills these in; here they only become one JSON object.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

import txgateway


@attrs.frozen(kw_only=True)
class RouteStatus:
    """One route: its match rule, where it leads, and its requests at this moment."""

    name: str
    hosts: tuple[str, ...] = ()
    path: str
    methods: tuple[str, ...] = ()
    backend: str | None
    in_flight: int


@attrs.frozen(kw_only=True)
class TargetStatus:
    """One target: ``health`` (healthy, unhealthy, unknown), ``breaker`` (closed, half-open, open), its pool."""

    target: str
    weight: int = 1
    health: str = "unknown"
    breaker: str = "closed"
    active: int = 0
    idle: int = 0
    pending: int = 0


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
    route_list = [attrs.asdict(route) for route in routes]
    return {
        "version": txgateway.__version__,
        "state": state,
        "uptime_s": round(uptime_s, 3),
        "in_flight": sum(route["in_flight"] for route in route_list),
        "routes": route_list,
        "backends": [attrs.asdict(backend) for backend in backends],
    }
