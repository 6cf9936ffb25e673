"""The explanation as people read it."""

from __future__ import annotations

from typing import Any

import orjson
from tests.helpers.explained import DOCUMENT, ENVIRONMENT, token
from tests.unit.support import MemoryGateway

from txgateway.config import load
from txgateway.explain import Asked, explain, lines, still_pipeline


def text(method: str, url: str, *header_lines: str, document: dict[str, Any] = DOCUMENT) -> list[str]:
    configuration = load({**ENVIRONMENT, "GATEWAY_ROUTES": orjson.dumps(document).decode()})
    return list(lines(explain(configuration, still_pipeline(configuration), Asked(method, url, header_lines))))


def test_summary_comes_first() -> None:
    found = text("GET", "/users/7/cv?x=1", f"Authorization: Bearer {token()}")
    assert found[:7] == [
        "request    GET /users/7/cv?x=1 from 127.0.0.1",
        "           Authorization: ***",
        "route      user (routes[1])",
        "           {id} is 7",
        "forwarded  to backend b",
        "as         GET /cv/7?x=1",
        "",
    ]
    headings = [line for line in found if line.startswith("[")]
    assert headings == ["[candidates]", "[edge]", "[routes.user]", "[end]", "[retries]", "[backends.b]"]


def test_columns_are_aligned() -> None:
    found = text("GET", "https://api.example.com/api/7")
    total, idle = (next(line for line in found if line.startswith(f"timeout.{name} ")) for name in ("total", "idle"))
    assert total.split() == ["timeout.total", "5s", "document", "routes[0].timeout.total"]
    assert idle.split() == ["timeout.idle", "90s", "env", "GATEWAY_TIMEOUT_IDLE"]
    assert total.index("document") == idle.index("env")
    candidates = found[found.index("[candidates]") + 1 : found.index("[edge]") - 1]
    assert candidates[0].split() == ["api", "won", "/api"]
    assert len({line.index(verdict) for line in candidates for verdict in ("won", "lost by") if verdict in line}) == 1


def test_refusal_says_why_and_who() -> None:
    assert text("GET", "/a/../b")[:4] == [
        "request  GET /a/../b from 127.0.0.1",
        "route    none",
        "refused  400 BAD_PATH by Sanitize: The request path is not acceptable.",
        "         dot segment",
    ]
    found = text("PUT", "https://api.example.com/api/7")
    assert found[2:4] == [
        "refused  405 METHOD_NOT_ALLOWED by Router: The method is not allowed for this resource.",
        "         Allow: GET, HEAD, POST",
    ]


def test_answers_of_the_gateway_itself() -> None:
    found = text("GET", "http://old.example.com/x")
    assert found[2] == "answered  by Redirect, 308"
    assert found[-3:] == ["[answer of Redirect]", "status 308", "Location: /new"]
    assert text("GET", "/health/live")[1:3] == ["route     none", "answered  by Probes"]


def test_resource_is_named() -> None:
    route = {"name": "r", "path": "/m", "auth": "none", "resource": "tests.unit.explain.mounted:resource"}
    found = text("GET", "/m", document={"routes": [route]})
    assert found[2] == "answered  by tests.unit.explain.mounted:resource"
    assert "[resource tests.unit.explain.mounted:resource]" in found


def test_many_routes_are_cut() -> None:
    end = {"response": {"status": 200}, "auth": "none"}
    routes = [{"name": f"r{at}", "path": f"/{at}", **end} for at in range(103)]
    assert "and 3 more, of other paths or hosts" in text("GET", "/1", document={"routes": routes})


def test_shares_and_retries() -> None:
    gateway = MemoryGateway(ENVIRONMENT, DOCUMENT)
    asked = Asked("POST", "/office", ("X-Shard: 1",), "192.0.2.1")
    gateway_lines = list(lines(explain(gateway.configuration, gateway.pipeline, asked, is_live=True)))
    assert not any(line.startswith("forwarded") for line in gateway_lines)  # POST is not among its methods
    asked = Asked("DELETE", "/office", ("X-Shard: 1",), "192.0.2.1")
    gateway_lines = list(lines(explain(gateway.configuration, gateway.pipeline, asked, is_live=True)))
    assert "forwarded  to backends a 75%, b 25%" in gateway_lines
    assert "repeated on  connect,reset,timeout, if nothing was sent yet" in gateway_lines
    assert "  10.1.1.2:82  http  weight 3 (75%)  unknown  breaker closed  0 in flight  Host: 10.1.1.2" in gateway_lines
    route = {"name": "r", "path": "/", "auth": "none", "backend": "a", "retry": {"max_attempts": 1}}
    found = text("GET", "/", document={"backends": {"a": {"targets": ["http://a"]}}, "routes": [route]})
    assert "attempts  1: nothing is repeated" in found
    assert "chosen: not known, it does not go by the request" in found
