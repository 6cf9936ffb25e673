from __future__ import annotations

from txgateway.telemetry.activity import activity
from txgateway.telemetry.cells import BUCKETS_S
from txgateway.telemetry.metrics import RequestMetrics


def test_nothing_is_zeros_and_as_many_buckets_as_there_are() -> None:
    assert activity([]) == {
        "requests": 0,
        "client_errors": 0,
        "server_errors": 0,
        "errors": {},
        "buckets": [0] * (len(BUCKETS_S) + 1),
    }


def test_routes_methods_and_statuses_are_added_up() -> None:
    metrics = RequestMetrics()
    one, other = metrics.route("one"), metrics.route("other")
    one.observe(b"GET", 200, 0.0001, 0, 0, None)
    one.observe(b"POST", 399, 0.003, 0, 0, None)
    one.observe(b"GET", 400, 0.003, 0, 0, "BAD_REQUEST")
    other.observe(b"GET", 499, 99.0, 0, 0, "CLIENT_GONE")
    other.observe(b"GET", 500, 0.003, 0, 0, None)
    other.observe(b"GET", 400, 0.003, 0, 0, "BAD_REQUEST")
    found = activity([one, other])
    assert (found["requests"], found["client_errors"], found["server_errors"]) == (6, 3, 1)
    assert found["errors"] == {"BAD_REQUEST": 2, "CLIENT_GONE": 1}
    assert found["buckets"] == [1, 0, 4, *[0] * 11, 1]
    assert activity([one])["errors"] == {"BAD_REQUEST": 1}
    assert one.errors == {"BAD_REQUEST": 1}


def test_what_comes_too_late_for_a_line_of_its_own_is_counted_too() -> None:
    metrics = RequestMetrics(max_series=300)
    routes = [metrics.route(str(number)) for number in range(100)]
    for route in routes:
        for status in (200, 404, 503):
            route.observe(b"GET", status, 0.01, 0, 0, None)
    assert activity(metrics.routes())["requests"] == 300
