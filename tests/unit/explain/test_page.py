"""From the query of ``/explain`` to what is told."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from tests.helpers.explained import DOCUMENT, ENVIRONMENT
from tests.unit.support import MemoryGateway

from txgateway.explain import explain_query


def ask(query: str) -> Any:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
    return explain_query(gateway.configuration, gateway.pipeline, query)


def test_query_is_asked() -> None:
    pairs = [("method", "GET"), ("url", "/api?x=1&y=2"), ("header", "X-Beta: 1"), ("header", "X-Other: a&b")]
    told = ask(urlencode([*pairs, ("client_ip", "192.0.2.1")]))
    assert told["request"] == {
        "method": "GET",
        "url": "/api?x=1&y=2",
        "scheme": "http",
        "client_ip": "192.0.2.1",
        "headers": [["X-Beta", "1"], ["X-Other", "a&b"]],
    }
    assert told["route"]["name"] == "whole"


def test_state_of_targets_is_told() -> None:
    told = ask("url=http://api.example.com/api/x")
    assert told["request"]["method"] == "GET"
    assert told["end"]["backends"][0]["targets"][0]["health"] == "unknown"


@pytest.mark.parametrize(
    ("query", "error"),
    [
        ("", "expected url"),
        ("method=GET", "expected url"),
        ("url=/&url=/x", "expected url once"),
        ("url=/&method=GET&method=PUT", "expected method once"),
        ("url=/&heder=x", "expected only method, url, header and client_ip"),
        ("url=/&client_ip=localhost", "expected an IP address"),
        ("url=/" + "&header=x" * 300, "expected at most 200 arguments"),
    ],
)
def test_what_is_no_question_is_an_error(query: str, error: str) -> None:
    told = ask(query)
    assert list(told) == ["error"]
    assert told["error"].startswith(error)
