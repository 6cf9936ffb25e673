"""Metrics of users' middlewares: written as all others, and bounded."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text

from txgateway.telemetry.metrics import RequestMetrics
from txgateway.telemetry.snapshots import families_of, merge, snapshot
from txgateway.telemetry.user_metrics import Histogram, UserMetrics


def samples(metrics: RequestMetrics) -> dict[tuple[str, str], float]:
    text = b"".join(metrics.exposition(b"")[1]).decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in parse_text(text)
        for sample in family.samples
        if sample.name.startswith("gateway_middleware")
    }


def test_each_kind_is_written_under_the_middlewares_name() -> None:
    metrics = RequestMetrics()
    own = metrics.middlewares.of("tenancy")
    own.counter("seen", "Requests seen.").inc()
    own.counter("refused_total", "Requests refused.", ("why",)).labels("late").inc(2)
    gauge = own.gauge("open", "Open ones.")
    gauge.inc(5)
    gauge.dec()
    own.gauge("level", "Level.").set(0.5)
    own.histogram("lookup_seconds", "Lookups.").observe(0.004)
    found = samples(metrics)
    assert found["gateway_middleware_tenancy_seen_total", ""] == 1
    assert found["gateway_middleware_tenancy_refused_total", "late"] == 2
    assert found["gateway_middleware_tenancy_open", ""] == 4
    assert found["gateway_middleware_tenancy_level", ""] == 0.5
    assert found["gateway_middleware_tenancy_lookup_seconds_bucket", "0.0025"] == 0
    assert found["gateway_middleware_tenancy_lookup_seconds_bucket", "0.005"] == 1
    assert found["gateway_middleware_tenancy_lookup_seconds_count", ""] == 1


def test_who_asks_again_gets_the_same() -> None:
    metrics = UserMetrics()
    first = metrics.of("a").counter("x", "X.", ["k"])
    assert metrics.of("a").counter("x", "X, in other words.", ("k",)) is first
    assert first.labels("v") is first.labels("v")


@pytest.mark.parametrize(
    "again",
    [
        lambda metrics: metrics.of("a").gauge("x", "X.", ("k",)),
        lambda metrics: metrics.of("a").counter("x", "X.", ("l",)),
        lambda metrics: metrics.of("a").counter("x", "X."),
        lambda metrics: metrics.of("a_x").counter("y", "Y."),
    ],
)
def test_another_of_its_name_is_refused(again: Any) -> None:
    metrics = UserMetrics()
    metrics.of("a").counter("x", "X.", ("k",))
    metrics.of("a").counter("x_y", "Y.")
    with pytest.raises(ValueError, match="there is another metric"):
        again(metrics)


@pytest.mark.parametrize("name", ["", "X", "1x", "x-y", "x:y", "ü"])
def test_names_that_cannot_be(name: str) -> None:
    own = UserMetrics().of("a")
    with pytest.raises(ValueError, match="cannot be the name"):
        own.counter(name, "X.")
    with pytest.raises(ValueError, match="cannot be the name"):
        own.counter("x", "X.", (name,))
    with pytest.raises(ValueError, match="cannot be the name"):
        own.histogram("x", "X.", ("le",))


def test_counter_never_falls_and_labels_are_all_given() -> None:
    own = UserMetrics().of("a")
    with pytest.raises(ValueError, match="does not fall"):
        own.counter("x", "X.").inc(-1)
    with pytest.raises(ValueError, match="expected values of k, l"):
        own.gauge("y", "Y.", ("k", "l")).labels("v")


def test_values_that_come_too_late_are_other() -> None:
    left = [2]

    def take(lines: int) -> bool:
        left[0] -= lines
        return left[0] >= 0

    counter = UserMetrics(take).of("a").counter("x", "X.", ("k",))
    for value in ("a", "b", "c", "d", "a"):
        counter.labels(value).inc()
    assert {values: cell.value for values, cell in counter.cells.items()} == {("a",): 2, ("b",): 1, ("other",): 2}


def test_bound_is_that_of_all_metrics() -> None:
    metrics = RequestMetrics(max_series=160)
    histogram = metrics.middlewares.of("a").histogram("x_seconds", "X.", ("k",))
    for index in range(9):
        histogram.labels(str(index)).observe(0.1)
    assert 0 < len(histogram.cells) < 9
    assert ("other",) in histogram.cells
    assert isinstance(histogram.cells["other",], Histogram)


def test_those_of_several_workers_are_summed() -> None:
    parts = []
    for count in (1, 2):
        metrics = UserMetrics()
        own = metrics.of("a")
        own.counter("x", "X.", ("k",)).labels("v").inc(count)
        own.histogram("y_seconds", "Y.").observe(0.004)
        parts.append(snapshot(metrics.families()))
    whole = {family.name: list(family.rows) for family in families_of(merge(parts))}
    assert whole["gateway_middleware_a_x"] == [(("v",), 3)]
    ((labels, histogram),) = whole["gateway_middleware_a_y_seconds"]  # type: ignore[misc]
    assert labels == ()
    assert sum(histogram.buckets) == 2  # type: ignore[union-attr]
