"""One ``/status`` of many: plain data in, plain data out.

What is counted is summed, what is a state is the worst one, and lists are joined by what their members are called.
Members that are not known here are those of the first worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import add
from typing import Any, Final, TypeAlias

from txgateway.telemetry.cells import BUCKETS_S

Status: TypeAlias = Mapping[str, Any]
Totals: TypeAlias = Mapping[str, Any]

#: From best to worst.
_HEALTH: Final = ("healthy", "unknown", "unhealthy")
_BREAKER: Final = ("closed", "half-open", "open")
#: Of totals: what is going on at this moment, which ends with the process.
_MOMENTARY: Final = ("in_flight", "connections")
_COUNTED: Final = ("requests", "client_errors", "server_errors")
_SUMMED: Final = ("in_flight", "connections_refused", "log_lines_dropped")


def merged_status(parts: Sequence[Status], dead: Status | None = None) -> dict[str, Any]:
    """The status of several workers as one.

    Args:
        parts: of those that answered, at least one.
        dead: what :func:`dead_status` made of those that have ended.
    """
    merged = dict(parts[0])
    for name in _SUMMED:
        merged[name] = sum(part[name] for part in parts)
    merged["uptime_s"] = max(part["uptime_s"] for part in parts)
    merged["connections"] = _sums(part["connections"] for part in parts)
    merged["rate_limit_degraded"] = any(part["rate_limit_degraded"] for part in parts)
    merged["warnings"] = list(dict.fromkeys(warning for part in parts for warning in part["warnings"]))
    merged["routes"] = _joined((part["routes"] for part in parts), _route_name, _route)
    merged["backends"] = _joined((part["backends"] for part in parts), _backend_name, _backend)
    if dead is not None:
        _add_dead(merged, dead)
    return merged


def merged_totals(parts: Iterable[Totals], dead: Totals | None, at_s: float) -> dict[str, Any]:
    """The totals of several workers as one sample.

    Args:
        dead: what :func:`dead_totals` made of those that have ended.
        at_s: its moment.
    """
    every = [*parts, *(() if dead is None else (dead,))]
    merged: dict[str, Any] = {"errors": {}, "buckets": [0] * (len(BUCKETS_S) + 1)}
    for name in (*_MOMENTARY, *_COUNTED):
        merged[name] = sum(part[name] for part in every)
    for part in every:
        merged.update(_work(merged, part))
    return {**merged, "at_s": at_s}


def dead_totals(before: Totals | None, last: Totals) -> Totals:
    """What a process had counted when it ended, with all that ended before it."""
    merged = merged_totals([last], before, 0.0)
    return {**merged, **dict.fromkeys(_MOMENTARY, 0)}


def dead_status(before: Status | None, last: Status) -> Status:
    """Of a process that has ended, with all before it: only what was counted, by route and target."""
    routes = {} if before is None else dict(before["routes"])
    targets = {} if before is None else dict(before["targets"])
    counts = {} if before is None else dict(before["counts"])
    for route in last["routes"]:
        name = route["name"]
        routes[name] = _activity(routes[name], route["activity"]) if name in routes else route["activity"]
    for backend in last["backends"]:
        for target in backend["targets"]:
            key = (backend["name"], *_target_name(target))
            targets[key] = _sums([targets.get(key, {}), target["outcomes"]])
    for name in ("connections_refused", "log_lines_dropped"):
        counts[name] = counts.get(name, 0) + last[name]
    return {"routes": routes, "targets": targets, "counts": counts}


def _add_dead(merged: dict[str, Any], dead: Status) -> None:
    for name, count in dead["counts"].items():
        merged[name] += count
    merged["routes"] = [
        {**route, "activity": _activity(route["activity"], dead["routes"][route["name"]])}
        if route["name"] in dead["routes"]
        else route
        for route in merged["routes"]
    ]
    for backend in merged["backends"]:
        backend["targets"] = [
            {
                **target,
                "outcomes": _sums(
                    [target["outcomes"], dead["targets"].get((backend["name"], *_target_name(target)), {})]
                ),
            }
            for target in backend["targets"]
        ]


# --- the parts ----------------------------------------------------------------------------------------------------


def _joined(
    lists: Iterable[Iterable[Mapping[str, Any]]],
    name_of: Callable[[Mapping[str, Any]], Any],
    merge: Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """All members in the order in which they come first, those of one name merged."""
    found: dict[Any, dict[str, Any]] = {}
    for members in lists:
        for member in members:
            name = name_of(member)
            found[name] = merge(found[name], member) if name in found else dict(member)
    return list(found.values())


def _route_name(route: Mapping[str, Any]) -> Any:
    return route["name"]


def _route(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **one,
        "in_flight": one["in_flight"] + other["in_flight"],
        "activity": _activity(one["activity"], other["activity"]),
    }


def _backend_name(backend: Mapping[str, Any]) -> Any:
    return backend["name"]


def _backend(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {**one, "targets": _joined([one["targets"], other["targets"]], _target_name, _target)}


def _target_name(target: Mapping[str, Any]) -> tuple[Any, Any]:
    return target["target"], target["address"]


def _target(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **one,
        **{name: one[name] + other[name] for name in ("in_flight", "active", "idle", "pending")},
        "health": max(one["health"], other["health"], key=_HEALTH.index),
        "breaker": max(one["breaker"], other["breaker"], key=_BREAKER.index),
        "outcomes": _sums([one["outcomes"], other["outcomes"]]),
    }


def _activity(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    counted = {name: one[name] + other[name] for name in _COUNTED}
    return {**one, **counted, **_work(one, other)}


def _work(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    buckets = list(map(add, one["buckets"], other["buckets"]))
    return {"errors": _sums([one["errors"], other["errors"]]), "buckets": buckets}


def _sums(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            sums[name] = sums.get(name, 0) + count
    return sums
