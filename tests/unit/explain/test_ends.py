"""Backends, targets, retries: what is told of where a request goes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.explained import DOCUMENT, ENVIRONMENT, token
from tests.unit.support import MemoryGateway, message

from txgateway.explain import Asked, explain
from txgateway.proxy.target import Health

BEARER = f"Authorization: Bearer {token()}"


def tell(
    gateway: MemoryGateway, url: str, *lines: str, method: str = "GET", is_live: bool = False, ip: str = "127.0.0.1"
) -> Any:
    told = explain(gateway.configuration, gateway.pipeline, Asked(method, url, lines, ip), is_live=is_live)
    assert told["end"] is not None, told["outcome"]
    return told["end"]


def test_shares_of_a_split() -> None:
    end = tell(MemoryGateway(ENVIRONMENT, DOCUMENT), "/office", ip="192.0.2.1")
    assert [(one["backend"], one["share"]) for one in end["backends"]] == [("a", 0.75), ("b", 0.25)]


def test_target_of_a_hash_is_the_one_that_gets_the_request() -> None:
    chosen = set()
    for shard in range(30):
        gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
        (backend,) = tell(gateway, "/users/7", BEARER, f"X-Shard: {shard}")["backends"]
        chosen.add(backend["chosen"])
        assert backend["why"].startswith("by header X-Shard")
        gateway.connect().send(message(b"/users/7", BEARER.encode(), b"X-Shard: %d" % shard))
        assert [label for label, dialer in gateway.dialers.items() if dialer.targets] == [backend["chosen"]]
    assert chosen == {"10.1.2.1:80", "10.1.2.2:80", "10.1.2.3:80"}


def test_header_that_the_route_sets_is_hashed() -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
    found = {
        tell(gateway, "/office", f"X-Shard: {shard}", ip="192.0.2.1")["backends"][1]["chosen"] for shard in range(9)
    }
    assert len(found) == 1  # the route says 7 to all of them


def test_hash_by_what_the_token_says_is_not_known() -> None:
    document = {**DOCUMENT, "backends": {**DOCUMENT["backends"]}}
    document["backends"]["b"] = {**DOCUMENT["backends"]["b"], "load_balancer": "hash:header:X-User"}
    (backend,) = tell(MemoryGateway(ENVIRONMENT, document), "/users/7/cv", BEARER)["backends"]
    assert (backend["chosen"], backend["why"]) == (None, "by X-User, which comes from the token")
    (backend,) = tell(MemoryGateway(ENVIRONMENT, document), "/users/public/cv")["backends"]
    assert backend["chosen"] is not None


def test_host_of_the_client_is_kept_where_the_route_says_so() -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
    kept = tell(gateway, "http://www.example.com/users/7", BEARER)["backends"][0]["targets"]
    assert {target["host"] for target in kept} == {"www.example.com"}
    own = tell(gateway, "http://www.example.com/users/7/cv", BEARER)["backends"][0]["targets"]
    assert [target["host"] for target in own] == ["10.1.2.1", "10.1.2.2", "10.1.2.3"]


def test_live_state_of_targets() -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
    first, second, third = gateway.backends["b"].targets
    gateway.backends["b"].set_health(first, Health.UNHEALTHY, "test")
    for _ in range(5):
        second.breaker.failed(gateway.clock.seconds())
    gateway.connect().send(message(b"/users/7", BEARER.encode(), b"X-Shard: x"))
    (backend,) = tell(gateway, "/users/7", BEARER, "X-Shard: y", is_live=True)["backends"]
    told = [(one["health"], one["breaker"], one["in_flight"]) for one in backend["targets"]]
    assert told == [("unhealthy", "closed", 0), ("unknown", "open", 0), ("unknown", "closed", 1)]
    assert backend["targets"][2]["connections"] == {"active": 1, "idle": 0}
    assert backend["chosen"] == third.address
    for _ in range(5):
        third.breaker.failed(gateway.clock.seconds())
    (backend,) = tell(gateway, "/users/7", BEARER, "X-Shard: y", is_live=True)["backends"]
    assert (backend["chosen"], backend["why"]) == (None, "none can be used: BREAKER_OPEN")


@pytest.mark.parametrize(
    ("method", "retry", "expected"),
    [
        ("GET", {}, {"attempts": 3, "method_is_repeated": True, "only_if_nothing_was_sent": False}),
        ("POST", {}, {"attempts": 3, "method_is_repeated": False, "only_if_nothing_was_sent": True}),
        ("POST", {"methods": ["POST"]}, {"attempts": 3, "method_is_repeated": True, "only_if_nothing_was_sent": False}),
        ("GET", {"max_attempts": 1}, {"attempts": 1, "method_is_repeated": False, "on": [], "waits_up_to": []}),
        ("GET", {"on": ["connect", "503"]}, {"on": ["connect", "503"]}),
        ("POST", {"on": ["connect", "503"]}, {"on": ["connect"]}),
        (
            "GET",
            {"max_attempts": 6, "backoff": "100ms", "backoff_max": "1s"},
            {"waits_up_to": ["100ms", "200ms", "400ms", "800ms", "1s"]},
        ),
        (
            "GET",
            {"budget_percent": 7, "budget_min": 2},
            {"budget": "7% of the backend's requests, and 2"},
        ),
        ("GET", {"max_body": "1KiB"}, {"body_kept": "1KiB"}),
        ("POST", {"max_body": "1KiB"}, {"body_kept": "0"}),
    ],
)
def test_retry_plan(method: str, retry: dict[str, Any], expected: dict[str, Any]) -> None:
    route = {"name": "r", "path": "/", "backend": "a", "auth": "none", "retry": retry}
    gateway = MemoryGateway(ENVIRONMENT, {"backends": {"a": {"targets": ["http://a"]}}, "routes": [route]})
    plan = tell(gateway, "/", method=method)["retry"]
    assert {key: plan[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((), None),
        (("Connection: upgrade", "Upgrade: WebSocket"), "passed on"),
        (("Connection: upgrade", "Upgrade: other"), "taken out"),
    ],
)
def test_upgrade(lines: tuple[str, ...], upgrade: str | None) -> None:
    route = {"name": "r", "path": "/", "backend": "a", "upgrades": ["websocket"]}
    gateway = MemoryGateway({}, {"backends": {"a": {"targets": ["http://a"]}}, "routes": [route]})
    assert tell(gateway, "/", *lines)["upgrade"] == upgrade


def test_request_that_goes_no_further_is_answered_here() -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
    end = tell(gateway, "/users/7", BEARER, "Max-Forwards: 0", method="OPTIONS")
    assert (end["is"], end["by"], end["status"]) == ("answer", "ReverseProxyResource", 204)
    assert tell(gateway, "/users/7", BEARER, "Max-Forwards: 1", method="OPTIONS")["is"] == "backend"
