from __future__ import annotations

import pytest
from tests.unit.workers.statuses import activity, backend, route, status, target, totals

from txgateway.workers.merging import dead_status, dead_totals, merged_status, merged_totals


def test_status_of_one_is_its_own() -> None:
    one = status(
        uptime_s=3.5, in_flight=2, routes=[route("r", 6, 1, {"X": 1})], backends=[backend("b", target("t", idle=1))],
        connections_refused=1, warnings=["w"],
    )  # fmt: skip
    assert merged_status([one]) == one


@pytest.mark.parametrize(
    ("member", "values", "expected"),
    [
        ("in_flight", (1, 2, 4), 7),
        ("connections_refused", (1, 2, 4), 7),
        ("log_lines_dropped", (0, 3, 0), 3),
        ("uptime_s", (1.5, 9.25, 3.0), 9.25),
        ("version", ("1", "1", "1"), "1"),
        ("bounds_s", ([1], [1], [1]), [1]),
        ("rate_limit_degraded", (False, True, False), True),
        ("rate_limit_degraded", (False, False, False), False),
        ("warnings", (["a"], ["b", "a"], []), ["a", "b"]),
        ("connections", ({"h1": 1, "h2": 0}, {"h1": 2, "h2": 5}, {"h1": 4, "h2": 0}), {"h1": 7, "h2": 5}),
        ("something_new", ("x", "y", "z"), "x"),
    ],
)
def test_member_of_several(member: str, values: tuple[object, ...], expected: object) -> None:
    assert merged_status([status(**{member: value}) for value in values])[member] == expected


def test_routes_are_joined_by_name_in_the_order_of_the_first() -> None:
    parts = [
        status(routes=[route("a", 6, 1, {"X": 1}), route("b", 1)]),
        status(routes=[route("b", 2, 3), route("a", 12, 0, {"X": 1, "Y": 2}), route("c", 5)]),
    ]
    merged = merged_status(parts)["routes"]
    assert [(row["name"], row["in_flight"], row["activity"]["requests"]) for row in merged] == [
        ("a", 1, 18), ("b", 3, 3), ("c", 0, 5),
    ]  # fmt: skip
    assert merged[0]["activity"] == activity(18, {"X": 2, "Y": 2})


@pytest.mark.parametrize(
    ("member", "one", "other", "expected"),
    [
        ("health", "healthy", "unhealthy", "unhealthy"),
        ("health", "unknown", "healthy", "unknown"),
        ("health", "unknown", "unhealthy", "unhealthy"),
        ("health", "healthy", "healthy", "healthy"),
        ("breaker", "closed", "open", "open"),
        ("breaker", "half-open", "open", "open"),
        ("breaker", "half-open", "closed", "half-open"),
        ("weight", 3, 3, 3),
        ("in_flight", 1, 2, 3),
        ("active", 1, 2, 3),
        ("idle", 1, 2, 3),
        ("pending", 1, 2, 3),
        ("outcomes", {"ok": 1}, {"ok": 2, "error": 1}, {"ok": 3, "error": 1}),
    ],
)
def test_member_of_a_target(member: str, one: object, other: object, expected: object) -> None:
    for values in ((one, other), (other, one)):
        parts = [status(backends=[backend("b", {**target("t"), member: value})]) for value in values]
        (found,) = merged_status(parts)["backends"][0]["targets"]
        assert found[member] == expected


def test_targets_are_told_apart_by_backend_label_and_address() -> None:
    parts = [
        status(backends=[backend("b", target("n:1", "10.0.0.1:1", idle=1)), backend("c", target("n:1", "10.0.0.1:1"))]),
        status(backends=[backend("b", target("n:1", "10.0.0.1:1", idle=2), target("n:1", "10.0.0.2:1", idle=4))]),
    ]
    merged = merged_status(parts)["backends"]
    assert [(b["name"], [(t["address"], t["idle"]) for t in b["targets"]]) for b in merged] == [
        ("b", [("10.0.0.1:1", 3), ("10.0.0.2:1", 4)]), ("c", [("10.0.0.1:1", 0)]),
    ]  # fmt: skip


def test_dead_add_what_they_counted_and_nothing_else() -> None:
    last = status(
        in_flight=9, routes=[route("a", 6, 9, {"X": 1}), route("gone", 7)], connections={"h1": 9},
        backends=[backend("b", target("t", in_flight=9, idle=9, health="unhealthy", outcomes={"ok": 6}))],
        connections_refused=2, log_lines_dropped=1,
    )  # fmt: skip
    dead = dead_status(dead_status(None, last), last)
    live = status(
        in_flight=1, routes=[route("a", 12, 1), route("new", 1)], connections={"h1": 1},
        backends=[backend("b", target("t", in_flight=1, idle=1, outcomes={"ok": 1}), target("u"))],
        connections_refused=1,
    )  # fmt: skip
    expected = status(
        in_flight=1, routes=[route("a", 24, 1, {"X": 2}), route("new", 1)], connections={"h1": 1},
        backends=[backend("b", target("t", in_flight=1, idle=1, outcomes={"ok": 13}), target("u"))],
        connections_refused=5, log_lines_dropped=2,
    )  # fmt: skip
    assert merged_status([live], dead) == expected
    assert live["connections_refused"] == 1  # nothing that was given is changed
    assert merged_status([live], dead) == expected


def test_totals() -> None:
    dead = dead_totals(dead_totals(None, totals(6, 3, 4)), totals(12, 1, 1))
    assert (dead["requests"], dead["in_flight"], dead["connections"]) == (18, 0, 0)
    merged = merged_totals([totals(6, 1, 2), totals(6, 2, 3)], dead, 9.5)
    assert merged == {"at_s": 9.5, "in_flight": 3, "connections": 5, **activity(30)}
    assert merged_totals([], None, 1.0) == totals()
