"""A ``/status`` of one worker, as plain data."""

from __future__ import annotations

from typing import Any

from txgateway.telemetry.cells import BUCKETS_S

BUCKETS = len(BUCKETS_S) + 1


def activity(requests: int = 0, errors: dict[str, int] | None = None) -> dict[str, Any]:
    """All of them took very long."""
    return {
        "requests": requests,
        "client_errors": requests // 2,
        "server_errors": requests // 3,
        "errors": errors or {},
        "buckets": [0] * (BUCKETS - 1) + [requests],
    }


def route(name: str, requests: int = 0, in_flight: int = 0, errors: dict[str, int] | None = None) -> dict[str, Any]:
    """A route's row."""
    return {"name": name, "path": "/", "in_flight": in_flight, "activity": activity(requests, errors)}


def target(label: str, address: str = "", **members: Any) -> dict[str, Any]:
    """A target's row."""
    usual = {"weight": 1, "health": "healthy", "breaker": "closed", "in_flight": 0, "active": 0, "idle": 0}
    return {"target": label, "address": address or label, **usual, "pending": 0, "outcomes": {}, **members}


def backend(name: str, *targets: dict[str, Any]) -> dict[str, Any]:
    """A backend's."""
    return {"name": name, "load_balancer": "round_robin", "targets": list(targets)}


def totals(requests: int = 0, in_flight: int = 0, connections: int = 0, at_s: float = 1.0) -> dict[str, Any]:
    """One sample."""
    return {"at_s": at_s, "in_flight": in_flight, "connections": connections, **activity(requests)}


def status(**members: Any) -> dict[str, Any]:
    """The whole."""
    usual = {
        "version": "0", "state": "ready", "uptime_s": 1.0, "in_flight": 0, "routes": [], "backends": [],
        "totals": totals(), "bounds_s": list(BUCKETS_S), "connections": {"h1": 0, "h2": 0, "tunnel": 0},
        "connections_refused": 0, "log_lines_dropped": 0, "rate_limit_degraded": False, "warnings": [],
    }  # fmt: skip
    return {**usual, **members}
