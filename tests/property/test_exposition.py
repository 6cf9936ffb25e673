"""Whatever is counted under whatever names, a scraper reads the same, in either format, however it is sliced."""

from __future__ import annotations

import math
from itertools import islice
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from txgateway.telemetry.cells import BUCKETS_S, METHODS
from txgateway.telemetry.exposition import Family, negotiate, render
from txgateway.telemetry.metrics import RequestMetrics, RouteMetrics
from txgateway.telemetry.snapshots import families_of, snapshot

VALUES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.text('\\"\n{}=,#% \0', max_size=8)
LABELS = st.lists(st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,8}", fullmatch=True), max_size=3, unique=True)
NUMBERS = st.floats(allow_nan=True) | st.integers(-(2**53), 2**53)
Observation: TypeAlias = tuple[int, bytes, int, float, str | None, str | None]
OBSERVATIONS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from([*METHODS, b"X"]),
        st.integers(100, 999),
        st.floats(0, 100),
        st.sampled_from([None, "A", "B"]),
        st.sampled_from([None, "ab" * 16]),
    ),
    max_size=30,
)


@st.composite
def families(draw: st.DrawFn) -> Family:
    labels = draw(LABELS)
    rows: st.SearchStrategy[Any] = st.tuples(st.tuples(*(VALUES for _ in labels)), NUMBERS)
    name = draw(st.from_regex(r"[a-zA-Z_][a-zA-Z0-9_]{0,8}[a-z]", fullmatch=True)) + "_q"
    some: list[Any] = draw(st.lists(rows, max_size=40, unique_by=lambda row: str(row[0])))
    return Family(name, "gauge", draw(VALUES).strip(), tuple(labels), some)


def observe(
    route: RouteMetrics, method: bytes, status: int, seconds: float, reason: str | None, trace_id: str | None
) -> None:
    route.observe(method, status, seconds, 1, 2, reason)
    if trace_id is not None:
        route.exemplify(method, seconds, trace_id)


def parsed(body: bytes, is_openmetrics: bool) -> list[Metric]:
    text = body.decode("utf-8")
    return list(parse_openmetrics(text) if is_openmetrics else parse_text(text))


@given(families(), st.booleans())
def test_any_names_and_values_are_read_back(family: Family, is_openmetrics: bool) -> None:
    body = b"".join(render([family], is_openmetrics=is_openmetrics)) + (b"# EOF\n" if is_openmetrics else b"")
    (found,) = parsed(body, is_openmetrics)
    assert (found.name, found.type) == (family.name, "gauge")
    if is_openmetrics:  # the library's other parser unescapes a backslash before an n twice
        assert found.documentation == family.help
    samples = [(one.name, one.labels, one.value) for one in found.samples]
    rows: list[Any] = list(family.rows)
    for (labels, value), sample in zip(rows, samples, strict=True):
        assert sample[:2] == (family.name, dict(zip(family.labels, labels, strict=True)))
        assert sample[2] == value or (math.isnan(value) and math.isnan(sample[2]))


@given(
    st.lists(VALUES, min_size=4, max_size=4, unique=True), OBSERVATIONS, st.booleans(), st.sampled_from([300, 50000])
)
def test_any_requests_are_read_back(
    names: list[str], observations: list[Observation], is_openmetrics: bool,
    max_series: int,
) -> None:  # fmt: skip
    metrics = RequestMetrics(epoch_s=lambda: 1.5, max_series=max_series)
    for index, method, status, seconds, reason, trace_id in observations:
        observe(metrics.route(names[index]), method, status, seconds, reason, trace_id)
    accept = b"application/openmetrics-text" if is_openmetrics else b""
    found = {family.name: family for family in parsed(b"".join(metrics.exposition(accept)[1]), is_openmetrics)}

    def total(family: str, sample: str, **labels: str) -> float:
        return math.fsum(
            one.value for one in found[family].samples if one.name == sample and labels.items() <= one.labels.items()
        )

    assert total("gateway_requests", "gateway_requests_total") == len(observations)
    assert total("gateway_errors", "gateway_errors_total") == sum(one[4] is not None for one in observations)
    assert total("gateway_response_bytes", "gateway_response_bytes_total") == 2 * len(observations)
    duration = "gateway_request_duration_seconds"
    assert total(duration, f"{duration}_sum") == pytest.approx(math.fsum(one[3] for one in observations))
    for bound_s in BUCKETS_S:
        expected = sum(one[3] <= bound_s for one in observations)
        assert total(duration, f"{duration}_bucket", le=str(bound_s)) == expected
    if max_series == 50000:
        for index, method, status, *_ in observations:
            labels = {
                "route": names[index],
                "method": method.decode() if method in METHODS else "other",
                "status": str(status),
            }
            alike = sum(
                (names[one[0]], one[1] in METHODS and one[1], one[2])
                == (names[index], method in METHODS and method, status)
                for one in observations
            )
            assert total("gateway_requests", "gateway_requests_total", **labels) == alike


@given(OBSERVATIONS, st.booleans(), st.lists(st.integers(1, 5), max_size=30))
def test_slices_joined_are_one_rendering(
    observations: list[Observation], is_openmetrics: bool, cuts: list[int]
) -> None:
    metrics = RequestMetrics(epoch_s=lambda: 1.5)
    for index, method, status, seconds, reason, trace_id in observations:
        observe(metrics.route(str(index)), method, status, seconds, reason, trace_id)
    frozen = snapshot(metrics.families())
    whole = b"".join(render(families_of(frozen), is_openmetrics=is_openmetrics))
    scrapes = [render(families_of(frozen), is_openmetrics=is_openmetrics) for _ in range(2)]
    bodies = [b"", b""]
    for turn, cut in enumerate(cuts):
        some = b"".join(islice(scrapes[turn % 2], cut))
        assert some.endswith(b"\n") or not some
        bodies[turn % 2] += some
    assert [body + b"".join(rest) for body, rest in zip(bodies, scrapes, strict=True)] == [whole, whole]


@given(st.binary(max_size=60) | st.text('openmtrics-tx/pla*;,=q.10v "', max_size=60).map(str.encode))
def test_no_accept_value_breaks_anything(accept: bytes) -> None:
    content_type, is_openmetrics = negotiate(accept)
    assert content_type.startswith(b"application/openmetrics-text" if is_openmetrics else b"text/plain")
    assert b"\n" not in content_type
