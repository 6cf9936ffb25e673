from __future__ import annotations

import txgateway
from txgateway.admin.status import BackendStatus, RouteStatus, TargetStatus, status_report
from txgateway.telemetry.activity import activity


def test_the_report_is_plain_data_with_totals() -> None:
    nothing = activity([])
    routes = [
        RouteStatus(name="a", path="/a", backend="b", backends=("b",), in_flight=2, activity=nothing),
        RouteStatus(
            name="c", path="/c", hosts=("x.org",), methods=("GET",), backend=None, in_flight=1, activity=nothing
        ),
    ]
    target = TargetStatus(target="10.0.0.1:80", address="10.0.0.1:80", in_flight=1, active=1)
    backends = [BackendStatus(name="b", load_balancer="round_robin", targets=(target,))]
    report = status_report("ready", 1.23456, routes, backends)
    assert report == {
        "version": txgateway.__version__,
        "state": "ready",
        "uptime_s": 1.235,
        "in_flight": 3,
        "routes": [
            {
                "name": "a",
                "hosts": (),
                "path": "/a",
                "methods": (),
                "backend": "b",
                "backends": ("b",),
                "middlewares": (),
                "in_flight": 2,
                "activity": nothing,
            },
            {
                "name": "c",
                "hosts": ("x.org",),
                "path": "/c",
                "methods": ("GET",),
                "backend": None,
                "backends": (),
                "middlewares": (),
                "in_flight": 1,
                "activity": nothing,
            },
        ],
        "backends": [
            {
                "name": "b",
                "load_balancer": "round_robin",
                "targets": [
                    {
                        "target": "10.0.0.1:80",
                        "address": "10.0.0.1:80",
                        "weight": 1,
                        "health": "unknown",
                        "breaker": "closed",
                        "in_flight": 1,
                        "active": 1,
                        "idle": 0,
                        "pending": 0,
                        "outcomes": {},
                    },
                ],
            }
        ],
    }
