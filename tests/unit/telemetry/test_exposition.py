"""What is written for a scraper, to the byte, and in which format."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

from txgateway.telemetry.exposition import ROWS_AT_ONCE, Family, Row, accepts_gzip, negotiate, number, render
from txgateway.telemetry.metrics import BUCKETS_S, METHODS, RequestMetrics, RouteMetrics

PROMETHEUS_2 = (
    b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    b"application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    b"application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    b"text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROTOBUF_FIRST = (
    b"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6,"
    b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
)
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = b"text/plain; version=0.0.4; charset=utf-8"


def written(family: Family, *, is_openmetrics: bool = False) -> str:
    return b"".join(render([family], is_openmetrics=is_openmetrics)).decode("utf-8")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS + b"; escaping=allow-utf-8"),
        (PROTOBUF_FIRST, OPENMETRICS),
        (b"application/openmetrics-text", OPENMETRICS),
        (b'Application/OpenMetrics-Text; Version="1.0.0"', OPENMETRICS),
        (b"application/openmetrics-text;version=0.0.1", OPENMETRICS.replace(b"1.0.0", b"0.0.1")),
        (b"application/openmetrics-text;version=0.0.1;escaping=values", OPENMETRICS.replace(b"1.0.0", b"0.0.1")),
        (b"application/openmetrics-text;version=1.0.0;escaping=dots", OPENMETRICS),
        (b"application/openmetrics-text;version=1.0.0;escaping=x\ny", OPENMETRICS),
        (
            b"text/plain;version=1.0.0;escaping=underscores",
            TEXT.replace(b"0.0.4", b"1.0.0") + b"; escaping=underscores",
        ),
        (b"text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4", TEXT),
        (b"text/plain;q=0.5,application/openmetrics-text;q=0.500", TEXT),
        (b"application/openmetrics-text;q=0.5,text/plain;q=0.5", OPENMETRICS),
        (b"text/plain;q=0,application/openmetrics-text;q=0.001", OPENMETRICS),
        (b"application/openmetrics-text;q=0", TEXT),
        (b"application/openmetrics-text;version=2.0.0", TEXT),
        (b"application/openmetrics-text;version=x.y", TEXT),
        (b"application/openmetrics-text;q=nan", TEXT),
        (b"application/openmetrics-text;q=1e0", TEXT),
        (b"application/json", TEXT),
        (b"text/html,*/*;q=0.8", TEXT),
        (b"", TEXT),
        (b"\xff\x00,;=", TEXT),
        (b"text/plain;version=..;q=", TEXT),
    ],
)
def test_the_format_that_is_wanted_most(accept: bytes, content_type: bytes) -> None:
    assert negotiate(accept) == (content_type, content_type.startswith(b"application/openmetrics"))


@pytest.mark.parametrize(
    ("value", "is_wanted"),
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP;q=0.001", True),
        (b"deflate, gzip;q=1.0, *;q=0.5", True),
        (b"x-gzip", True),
        (b"*", True),
        (b"gzip;q=0, *", False),
        (b"gzip;q=0", False),
        (b"gzip;q=0.5, identity", False),
        (b"gzip;q=x", False),
        (b"identity", False),
        (b"br", False),
    ],
)
def test_gzip_only_for_who_asks_for_it(value: bytes, is_wanted: bool) -> None:
    assert accepts_gzip(value) is is_wanted


def test_a_counter_is_named_otherwise_in_each_format() -> None:
    family = Family("x_bytes", "counter", 'A "b" \\ c\nd.', ("l",), [(("v",), 1), (("w",), 2.5)], "bytes")
    lines = 'x_bytes_total{l="v"} 1\nx_bytes_total{l="w"} 2.5\n'
    assert written(family) == ('# TYPE x_bytes_total counter\n# HELP x_bytes_total A "b" \\\\ c\\nd.\n' + lines)
    assert written(family, is_openmetrics=True) == (
        '# TYPE x_bytes counter\n# UNIT x_bytes bytes\n# HELP x_bytes A \\"b\\" \\\\ c\\nd.\n' + lines
    )


def test_a_gauge_without_labels_has_no_brackets() -> None:
    assert written(Family("x", "gauge", "H.", (), [((), True)])) == "# TYPE x gauge\n# HELP x H.\nx 1\n"


def test_label_values_are_escaped() -> None:
    family = Family("x", "gauge", "H.", ("a", "b"), [(('q"b\\n\nl%s\0', "é\ud800"), 0)])
    assert written(family).splitlines()[2:] == ['x{a="q\\"b\\\\n\\nl%s\0",b="é?"} 0']


@pytest.mark.parametrize(
    ("value", "text"),
    [(3, "3"), (-3, "-3"), (True, "1"), (10**20, "1" + 20 * "0"), (0.1, "0.1"), (1e300, "1e+300"), (2.0, "2.0"),
     (float("inf"), "+Inf"), (float("-inf"), "-Inf"), (float("nan"), "NaN")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_histogram_to_the_line() -> None:
    metrics = RequestMetrics()
    for seconds in (0.0005, 0.02, 0.02, 60.0):
        metrics.route("50% off").observe(b"GET", 200, seconds, 0, 0, None)
    (family,) = (one for one in metrics.families() if one.name == "gateway_request_duration_seconds")
    start = 'gateway_request_duration_seconds_bucket{route="50% off",method="GET",le='
    counts = [1] * 4 + [3] * 10 + [4]
    bounds = (*map(str, BUCKETS_S), "+Inf")
    assert written(family).splitlines()[2:] == [
        *(f'{start}"{bound}"}} {count}' for bound, count in zip(bounds, counts, strict=True)),
        'gateway_request_duration_seconds_count{route="50% off",method="GET"} 4',
        f'gateway_request_duration_seconds_sum{{route="50% off",method="GET"}} {0.0005 + 0.02 + 0.02 + 60.0!r}',
    ]


def test_the_last_traced_request_of_a_bucket_is_its_exemplar() -> None:
    times = iter([1700000000.125, 1700000001.5, 1700000002.0])
    metrics = RequestMetrics(epoch_s=lambda: next(times))
    route = metrics.route("r")
    route.observe(b"GET", 200, 0.02, 0, 0, None)
    route.exemplify(b"GET", 0.02, "a" * 32)
    route.observe(b"GET", 200, 0.021, 0, 0, None)
    route.exemplify(b"GET", 0.021, "b" * 32)
    route.observe(b"GET", 200, 0.022, 0, 0, None)
    route.observe(b"GET", 200, 60.0, 0, 0, None)
    route.exemplify(b"GET", 60.0, "c" * 32)
    (family,) = (one for one in metrics.families() if one.name == "gateway_request_duration_seconds")
    (parsed,) = parse_openmetrics(written(family, is_openmetrics=True) + "# EOF\n")
    examples = {
        one.labels["le"]: (one.exemplar.labels, one.exemplar.value, float(one.exemplar.timestamp))
        for one in parsed.samples
        if one.exemplar is not None
    }
    assert examples == {
        "0.025": ({"trace_id": "b" * 32}, 0.021, 1700000001.5),
        "+Inf": ({"trace_id": "c" * 32}, 60.0, 1700000002.0),
    }
    (family,) = (one for one in metrics.families() if one.name == "gateway_request_duration_seconds")
    assert "trace_id" not in written(family)  # the text format has none


def test_an_exemplar_without_a_clock_and_one_that_is_too_long() -> None:
    metrics = RequestMetrics()
    metrics.route("r").observe(b"GET", 200, 0.02, 0, 0, None)
    metrics.route("r").exemplify(b"GET", 0.02, 'a"')
    metrics.route("r").observe(b"GET", 200, 0.2, 0, 0, None)
    metrics.route("r").exemplify(b"GET", 0.2, "a" * 121)
    (family,) = (one for one in metrics.families() if one.name == "gateway_request_duration_seconds")
    lines = written(family, is_openmetrics=True).splitlines()
    assert [line.partition(" # ")[2] for line in lines if " # " in line] == ['{trace_id="a\\""} 0.02']


def test_the_exemplar_is_where_its_request_was_counted() -> None:
    metrics = RequestMetrics(max_series=300)
    in_time, late = metrics.route("in-time"), metrics.route("late")
    for method in (b"GET", b"X", *METHODS):
        in_time.observe(method, 200, 0.02, 0, 0, None)
    in_time.exemplify(b"PROPFIND", 0.02, "other of in-time")
    late.observe(b"GET", 200, 0.02, 0, 0, None)
    late.exemplify(b"GET", 0.02, "other of other")
    (family,) = (one for one in metrics.families() if one.name == "gateway_request_duration_seconds")
    lines = [line for line in written(family, is_openmetrics=True).splitlines() if " # " in line]
    assert [line.partition("{")[2].replace(',le="0.025"', "") for line in lines] == [
        'route="in-time",method="other"} 1 # {trace_id="other of in-time"} 0.02',
        f'route="other",method="other"}} {1 + late_methods(in_time)} # {{trace_id="other of other"}} 0.02',
    ]


def late_methods(route: RouteMetrics) -> int:
    return len(METHODS) - len(list(route.methods())) + 1


def test_without_traces_there_is_nothing_kept_for_exemplars() -> None:
    metrics = RequestMetrics()
    route = metrics.route("r")
    route.observe(b"GET", 200, 0.02, 0, 0, None)
    assert [cells.exemplars for _, cells in route.methods()] == [None]


def test_rows_are_taken_a_few_at_a_time_and_moments_write_nothing() -> None:
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        for index in range(10 * ROWS_AT_ONCE):
            taken += 1
            yield None if index % 2 else ((str(index),), index)

    pieces = render([Family("x", "gauge", "H.", ("l",), rows())], is_openmetrics=False)
    assert next(pieces).startswith(b"# TYPE x")
    for number_of_pieces in range(1, 11):
        assert next(pieces).count(b"\n") == ROWS_AT_ONCE / 2
        assert taken == number_of_pieces * ROWS_AT_ONCE
    assert list(pieces) == []
