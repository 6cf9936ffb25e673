"""What was done so far, as plain data: the counters behind ``/metrics``, added up for people.

Everything here only grows: a rate is the difference of two looks, and who looks twice makes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import add
from typing import TypedDict

from txgateway.telemetry.cells import BUCKETS_S, RouteMetrics


class Activity(TypedDict):
    """The work of one route, or of several together.

    Keys:
        requests: answered.
        client_errors, server_errors: of these, with a status of 4xx and of 5xx, whoever made the answer.
        errors: by reason, those that the gateway answered itself.
        buckets: durations, by the bounds of :data:`BUCKETS_S` and one more for what is longer; not cumulative.
    """

    requests: int
    client_errors: int
    server_errors: int
    errors: dict[str, int]
    buckets: list[int]


def activity(routes: Iterable[RouteMetrics]) -> Activity:
    """The activity of these routes together."""
    requests = client_errors = server_errors = 0
    errors: dict[str, int] = {}
    buckets = [0] * (len(BUCKETS_S) + 1)
    for route in routes:
        for reason, count in route.errors.items():
            errors[reason] = errors.get(reason, 0) + count
        for _, cells in route.methods():
            buckets = list(map(add, buckets, cells.buckets))
            requests += cells.late_statuses
            for status, count in cells.statuses.items():
                requests += count
                if status >= 500:
                    server_errors += count
                elif status >= 400:
                    client_errors += count
    return {
        "requests": requests,
        "client_errors": client_errors,
        "server_errors": server_errors,
        "errors": errors,
        "buckets": buckets,
    }
