"""Processes counted together tell the same as one that had done all their work."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.property.test_exposition import OBSERVATIONS, Observation, observe

from txgateway.telemetry.exposition import render
from txgateway.telemetry.metrics import RequestMetrics, TargetState
from txgateway.telemetry.snapshots import Snapshot, families_of, merge, snapshot

WORK = st.lists(OBSERVATIONS, min_size=1, max_size=4)
#: Families that say something about the process or the moment, and are not what requests added up to.
_OWN = ("process_", "gateway_build_info", "gateway_rate_limit_degraded")


def taken(observations: list[Observation], metrics: RequestMetrics | None = None) -> Snapshot:
    metrics = metrics or RequestMetrics(epoch_s=lambda: 1.5)
    for index, method, status, seconds, reason, trace_id in observations:
        observe(metrics.route(str(index)), method, status, seconds, reason, trace_id)
    return snapshot(metrics.families())


def sent(one: Snapshot) -> Snapshot:
    """As another process gets it."""
    whole: Snapshot = json.loads(json.dumps(one))
    return whole


def sums(whole: Snapshot) -> dict[tuple[str, ...], list[object]]:
    """Histograms without their exemplars, which are anybody's."""
    return {
        (name, *labels): value[:2]
        for name, family in whole.items()
        if not name.startswith(_OWN) and family["type"] != "gauge"
        for labels, *value in family["rows"]
    }


@given(WORK)
def test_live_processes_are_one(work: list[list[Observation]]) -> None:
    merged = sums(merge([sent(taken(observations)) for observations in work]))
    one = sums(taken([observation for observations in work for observation in observations]))
    assert merged.keys() == one.keys()
    for key, value in one.items():
        assert merged[key][0] == value[0]
        assert merged[key][1:] == pytest.approx(value[1:])


@given(WORK, st.integers(0, 4))
def test_it_does_not_matter_who_is_dead_and_counters_never_fall(work: list[list[Observation]], deaths: int) -> None:
    parts = [sent(taken(observations)) for observations in work]
    before = sums(merge(parts))
    grave: Snapshot = {}
    for _ in range(min(deaths, len(parts))):
        grave = merge([], [grave, parts.pop()])
    after = sums(merge(parts, [grave]))
    assert after.keys() == before.keys()
    for key, value in before.items():
        assert after[key][0] == value[0]
        assert after[key][1:] == pytest.approx(value[1:])


@given(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1), st.integers(0, 2), st.booleans()), min_size=1, max_size=4)
)
def test_gauges_are_those_of_the_living(states: list[tuple[int, float, int, bool]]) -> None:
    def of(active: int, healthy: float, breaker: int, degraded: bool) -> Snapshot:
        state = TargetState("b", "t", active, 0, 0, healthy, breaker)
        metrics = RequestMetrics(targets=lambda: [state], rate_limit_degraded=lambda: degraded)
        metrics.route("r").in_flight = active
        return sent(snapshot(metrics.families()))

    whole = merge([of(*state) for state in states], [of(5, 0.0, 2, True)])

    def value(name: str, *labels: str) -> object:
        (row,) = (row for row in whole[name]["rows"] if row[0] == list(labels))
        return row[1]

    assert value("gateway_requests_in_flight", "r") == sum(state[0] for state in states)
    assert value("gateway_upstream_connections", "b", "t", "active") == sum(state[0] for state in states)
    assert value("gateway_target_healthy", "b", "t") == min(state[1] for state in states)
    assert value("gateway_breaker_state", "b", "t") == max(state[2] for state in states)
    assert value("gateway_rate_limit_degraded") == any(state[3] for state in states)
    (build,) = whole["gateway_build_info"]["rows"]
    assert build[1] == 1
    only_dead = merge([], [of(5, 0.0, 2, True)])
    assert only_dead["gateway_requests_in_flight"]["rows"] == []
    assert only_dead["gateway_requests"]["type"] == "counter"


@given(OBSERVATIONS)
def test_a_snapshot_is_written_as_what_it_was_taken_of(observations: list[Observation]) -> None:
    metrics = RequestMetrics(epoch_s=lambda: 1.5)
    whole = sent(taken(observations, metrics))
    again = [one for one in families_of(whole) if not one.name.startswith("process_")]
    for is_openmetrics in (False, True):
        families = (one for one in metrics.families() if not one.name.startswith("process_"))
        direct = b"".join(render(families, is_openmetrics=is_openmetrics))
        assert b"".join(render(again, is_openmetrics=is_openmetrics)) == direct


def test_of_two_exemplars_the_later_one_stays() -> None:
    def of(at_s: float | None, trace_id: str | None) -> Snapshot:
        metrics = RequestMetrics(epoch_s=None if at_s is None else lambda: at_s)
        observe(metrics.route("r"), b"GET", 200, 0.02, None, trace_id)
        return sent(snapshot(metrics.families()))

    def kept(whole: Snapshot) -> object:
        (row,) = whole["gateway_request_duration_seconds"]["rows"]
        return row[3] and row[3][4]

    early, late, untimed, none = of(1.0, "a"), of(2.0, "b"), of(None, "c"), of(3.0, None)
    assert kept(merge([early, late])) == kept(merge([late, early])) == ["b", 0.02, 2.0]
    assert kept(merge([untimed, early])) == ["a", 0.02, 1.0]
    assert kept(merge([none, untimed])) == kept(merge([untimed, none])) == ["c", 0.02, None]
    assert kept(merge([none, none])) is None
