"""The documents say what the code does: variables with their defaults, made from the settings, and the example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from implementation.generate import COMMAND, PAGE, TEMPLATE, Row, accepted, page, setting_rows, tracing_rows

from txgateway.config import load, vocabulary
from txgateway.config.environment import read_environment
from txgateway.config.settings import DEFAULTS, VARIABLES
from txgateway.config.syntax import host_name
from txgateway.config.tracing import ENDPOINT, read_tracing
from txgateway.config.tracing import VARIABLES as TRACING
from txgateway.config.values import (
    boolean,
    choice,
    duration,
    integer,
    listed,
    optional,
    positive_duration,
    size,
    string,
)

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    """By variable."""
    return {row.name: row for found in setting_rows().values() for row in found}


def test_setup_is_what_the_settings_and_its_template_make_of_it() -> None:
    is_current = PAGE.read_text(encoding="utf-8") == page(TEMPLATE.read_text(encoding="utf-8"))
    assert is_current, f"{PAGE.name} is out of date: change {TEMPLATE.name} or the settings, then run `{COMMAND}`"


def test_setup_has_a_row_for_each_variable() -> None:
    found = re.findall(r"^\| `((?:GATEWAY|LOG|OTEL)_[A-Z0-9_]+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == sorted([*VARIABLES, *(variable.names[-1] for variable in TRACING)])


def test_defaults_are_written_as_variables_are(rows: dict[str, Row]) -> None:
    environment = read_environment({name: row.default for name, row in rows.items() if row.default})
    assert (environment.problems, environment.settings) == ((), DEFAULTS)
    expected, _ = read_tracing({ENDPOINT: "http://collector:4318"})
    written = {row.name: row.default for row in tracing_rows() if row.default}
    assert read_tracing({ENDPOINT: "http://collector:4318", **written}) == (expected, [])


def test_settings_that_a_route_or_a_backend_may_have_are_told_with_their_key(rows: dict[str, Row]) -> None:
    assert [rows[name].key for name in ("GATEWAY_RETRY_MAX_BODY", "GATEWAY_TIMEOUT_CONNECT", "GATEWAY_RATE_LIMIT")] == [
        "retry.max_body", "timeout.connect", "rate_limit.rate",
    ]  # fmt: skip
    assert rows["GATEWAY_PORT"].key == ""


@pytest.mark.parametrize(
    ("parse", "expected"),
    [
        (integer(1, 100), "1 to 100"),
        (vocabulary.workers, "1 to 1024, or auto"),
        (size(1, 2**24), "a size, 1 to 16MiB"),
        (duration, "a duration"),
        (positive_duration, "a duration above 0"),
        (optional(positive_duration), "a duration above 0"),
        (boolean, "`true`, `false`"),
        (choice("1.2", "1.3"), "`1.2`, `1.3`"),
        (choice("http/protobuf"), "`http/protobuf`"),
        (listed(choice("a", "b-c")), "list: `a`, `b-c`"),
        (string, "a text"),
        (host_name, "a host name or an IP address"),
        (vocabulary.status_ranges, "status codes like 200-399 or 200,204"),
        (vocabulary.redis_url, "`redis://[user:password@]host[:port][/database]`, `rediss://…`, `unix:///path`"),
    ],
)
def test_what_is_accepted_is_what_a_parser_says(parse: object, expected: str) -> None:
    assert callable(parse)
    assert accepted(parse) == expected


def test_characters_that_mean_something_in_markdown_are_escaped() -> None:
    def parse(value: object) -> None:
        raise ValueError("expected a pattern like *.a_b or [c]")

    assert accepted(parse) == r"a pattern like \*.a\_b or \[c\]"


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("<!-- variables: port -->", "there is no table with .*, host, "),
        ("<!-- variables: port port -->", "port is asked for twice"),
        ("<!-- variables: port -->\n<!-- variables: port -->", "port is asked for twice"),
        ("<!-- variables: prot -->", "prot is asked for twice, or is no setting"),
    ],
)
def test_setting_that_is_left_out_or_unknown_is_told(template: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        page(template)


def test_example_is_a_document_without_mistakes() -> None:
    configuration = load({"GATEWAY_ROUTES_FILE": str(TOP / "examples" / "routes.toml")})
    assert {route.name for route in configuration.routes} >= {"resumes", "search", "cv", "live"}
