from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from txgateway.config import ConfigurationError, load, values
from txgateway.config.document import BackendTable, RouteTable
from txgateway.config.groups import leaves
from txgateway.config.settings import VARIABLES
from txgateway.routing.table import RouteRule
from txgateway.routing.table import RouteTable as CompiledRoutes

PARSERS = (
    values.boolean, values.duration, values.fraction, values.integer(0, 9), values.rate, values.size(), values.string,
    values.listed(values.duration), values.choice("a", "b"),
)  # fmt: skip

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
KEYS = sorted(
    {part for table in (RouteTable(), BackendTable()) for leaf in leaves(table) for part in leaf.key.split(".")}
)
PLAUSIBLE = SCALARS | st.sampled_from([
    "/", "/a/{id}", "=/x", "a", "http://a:1", "demo", "5s", "1/s", "GET", "jwt", "mypkg.site:root", "*", "10.0.0.0/8",
])  # fmt: skip
DOCUMENTISH = st.recursive(
    PLAUSIBLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
)


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 10**9))
def test_duration_is_read_back_from_its_format(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert values.duration(values.format_duration(seconds)) == seconds


@settings(deadline=None, max_examples=200)
@given(st.floats(0, values.MAX_DURATION_S))
@example(5e-324)
@example(1e-5)
def test_any_duration_is_read_back_nearly(seconds: float) -> None:
    assert abs(values.duration(values.format_duration(seconds)) - seconds) < 1e-6


@settings(deadline=None, max_examples=200)
@given(st.integers(0, values.MAX_SIZE_BYTES) | st.integers(0, 2**20).map(lambda count: count * 1024))
def test_size_is_read_back_from_its_format(count: int) -> None:
    assert values.size()(values.format_size(count)) == count


@settings(deadline=None, max_examples=200)
@given(st.integers(1, values.MAX_RATE_COUNT), st.sampled_from([1, 60, 3600]))
def test_rate_is_read_back_from_its_format(count: int, period_s: int) -> None:
    rate = values.Rate(count, period_s)
    assert values.rate(str(rate)) == rate


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PARSERS), ANYTHING)
def test_parser_returns_or_says_what_is_expected(parse: values.Parser[Any], value: object) -> None:
    try:
        parse(value)
    except ValueError as exc:
        assert "expected" in str(exc)  # noqa: PT017 - either outcome is fine


@settings(deadline=None, max_examples=200)
@given(st.text())
def test_shown_value_is_one_printable_bounded_line(text: str) -> None:
    shown = values.shown(text)
    assert shown.isprintable()
    assert len(shown) <= 10 * values.MAX_SHOWN_LENGTH + 10


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(sorted(VARIABLES)), st.text(st.characters(exclude_characters="\0"), max_size=20))
)
def test_any_environment_loads_or_names_its_variables(environ: dict[str, str]) -> None:
    try:
        load({"GATEWAY_BACKEND_TARGET": "demo", **environ})
    except ConfigurationError as exc:
        lines = [str(problem) for problem in exc.problems]
        assert lines
        assert all("\n" not in line for line in lines)


@settings(deadline=None, max_examples=400)
@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS), DOCUMENTISH, max_size=6) | DOCUMENTISH, max_size=3),
    st.dictionaries(st.sampled_from(["a", "b c", ""]), DOCUMENTISH, max_size=2),
)
@example([{"name": "r", "path": "/", "backend": "a"}], {"a": {"targets": ["http://a:1"]}})
def test_any_document_loads_into_routes_that_compile_or_is_refused(routes: list[Any], backends: dict[str, Any]) -> None:
    try:
        configuration = load({"GATEWAY_ROUTES": json.dumps({"routes": routes, "backends": backends})})
    except ConfigurationError as exc:
        assert exc.problems  # noqa: PT017
        return
    CompiledRoutes(
        (RouteRule(route.name, route.hosts, route.path, route.methods, route.headers), route)
        for route in configuration.routes
    )


RULES = st.fixed_dictionaries(
    {"path": st.lists(st.sampled_from(["a", "%61", "{x}", "{y}", "ü", "a%2Fb", ""]), max_size=3).map(lambda s: "/" + "/".join(s))},
    optional={
        "hosts": st.sampled_from([[], ["a.com"], ["A.com:80", "b.com"], ["*.a.com", "a.com."], ["[::1]"], ["[0::1]"]]),
        "methods": st.lists(st.sampled_from(["GET", "HEAD", "POST"]), max_size=2, unique=True),
        "headers": st.dictionaries(st.sampled_from(["X-A", "X-B"]), st.sampled_from(["1", "2"]), max_size=2),
    },
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(st.lists(RULES, min_size=1, max_size=4))
def test_accepted_rules_are_exactly_those_that_the_route_table_can_tell_apart(rules: list[dict[str, Any]]) -> None:
    routes = [{"name": f"r{index}", "resource": "a:b", **rule} for index, rule in enumerate(rules)]
    try:
        CompiledRoutes(
            (RouteRule(route["name"], tuple(route.get("hosts", ())), route["path"], tuple(route.get("methods", ())),
                       route.get("headers", {})), None)
            for route in routes
        )  # fmt: skip
        is_compiled = True
    except ValueError:
        is_compiled = False
    try:
        load({"GATEWAY_ROUTES": json.dumps({"routes": routes})})
        is_loaded = True
    except ConfigurationError:
        is_loaded = False
    assert is_loaded == is_compiled
