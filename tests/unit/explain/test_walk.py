"""What is told of single requests."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from tests.helpers.explained import DOCUMENT, ENVIRONMENT, PASSWORD, SECRET, token

from txgateway.config import load
from txgateway.explain import Asked, explain, still_pipeline
from txgateway.explain.candidates import MAX_LISTED

API = "https://api.example.com/api/7?x=1"
USER = "/users/7/cv"


def tell(
    method: str,
    url: str,
    *header_lines: str,
    client_ip: str = "127.0.0.1",
    environment: dict[str, str] | None = None,
    document: dict[str, Any] | None = None,
) -> dict[str, Any]:
    routing = {"GATEWAY_ROUTES": orjson.dumps(document or DOCUMENT).decode()}
    configuration = load({**ENVIRONMENT, **routing, **(environment or {})})
    return explain(configuration, still_pipeline(configuration), Asked(method, url, header_lines, client_ip))


def step(told: dict[str, Any], name: str) -> Any:
    (found,) = [one for one in (*told["edge"], *told["decorators"]) if one["decorator"] == name]
    return found


def names(told: dict[str, Any]) -> list[str]:
    return [one["decorator"] for one in told["decorators"]]


def test_forwarded_request() -> None:
    told = tell("GET", API)
    assert told["outcome"] == {"is": "forwarded"}
    assert (told["route"]["name"], told["route"]["where"], told["route"]["captures"]) == ("api", "routes[0]", {})
    assert told["route"]["settings"]["path"] == {"value": "/api", "source": "document routes[0].path"}
    assert told["end"]["target"] == "/7?x=1"
    (backend,) = told["end"]["backends"]
    assert (backend["backend"], backend["chosen"]) == ("a", None)
    assert [(target["target"], target["weight"], target["share"], target["host"]) for target in backend["targets"]] == [
        ("10.1.1.1:81", 1, 0.25, "10.1.1.1:81"),
        ("10.1.1.2:82", 3, 0.75, "10.1.1.2:82"),
    ]
    assert names(told) == ["SecurityHeaders", "Cors", "Admission", "RateLimit", "Bulkhead", "PathTransform"]


def test_settings_come_with_their_sources() -> None:
    told = tell("GET", API)
    settings = told["end"]["settings"]
    assert settings["timeout.total"] == {"value": "5s", "source": "document routes[0].timeout.total"}
    assert settings["timeout.idle"] == {"value": "90s", "source": "env GATEWAY_TIMEOUT_IDLE"}
    assert settings["body_timeout"] == {"value": "30s", "source": "default"}
    assert step(told, "RateLimit")["settings"]["rate_limit.rate"]["source"] == "document routes[0].rate_limit.rate"
    assert step(told, "ClientAddress")["settings"]["GATEWAY_TRUSTED_PROXIES"]["source"] == "env GATEWAY_TRUSTED_PROXIES"
    backend = tell("GET", USER, f"Authorization: Bearer {token()}")["end"]["backends"][0]["settings"]
    assert backend["timeout.connect"] == {"value": "1s", "source": "document backends.b.timeout.connect"}
    assert backend["breaker.failures"] == {"value": 5, "source": "default"}


@pytest.mark.parametrize(
    ("method", "url", "headers", "reason", "by"),
    [
        ("GET", "/api/../x", (), "BAD_PATH", "Sanitize"),
        ("GET", "https://a_b%/", (), "BAD_HOST", "Sanitize"),
        ("GET", "https:///x", (), "BAD_HOST", "Sanitize"),
        ("GET", "/x", ("Expect: 200",), "EXPECTATION_FAILED", "Sanitize"),
        ("GET", "/x y", (), "BAD_REQUEST", "the listener"),
        ("GET", "/x", ("No colon",), "BAD_REQUEST", "the listener"),
        ("GET", "/x", ("",), "BAD_REQUEST", "the listener"),
        ("GET", "/x\r\nX: y", (), "BAD_REQUEST", "the listener"),
        ("GET", "/x", ("X: y\r\nZ: z",), "BAD_REQUEST", "the listener"),
        ("GET", "/" + "x" * 9000, (), "URI_TOO_LONG", "the listener"),
        ("BREW", "/x", (), "METHOD_NOT_IMPLEMENTED", "the listener"),
        ("GET", "/nowhere", (), "NO_ROUTE", "Router"),
        ("PUT", API, (), "METHOD_NOT_ALLOWED", "Router"),
        ("TRACE", "/office", (), "METHOD_NOT_ALLOWED", "Router"),
        ("GET", "//users/7", (), "BAD_PATH", "Router"),
    ],
)
def test_request_without_a_route_is_refused_with_its_reason(
    method: str, url: str, headers: tuple[str, ...], reason: str, by: str
) -> None:
    told = tell(method, url, *headers)
    assert (told["outcome"]["is"], told["outcome"]["reason"], told["outcome"]["by"]) == ("refused", reason, by)
    assert (told["route"], told["end"], told["decorators"]) == (None, None, [])


@pytest.mark.parametrize(
    ("method", "url", "headers", "client_ip", "status", "reason", "by"),
    [
        ("GET", "/office", (), "127.0.0.1", 403, "IP_DENIED", "Admission"),
        ("PATCH", "/office", (), "192.0.2.7", 405, "METHOD_NOT_ALLOWED", "Admission"),
        (
            "POST", API, ("Content-Length: 1", "Content-Type: text/plain"), "127.0.0.1", 415,
            "CONTENT_TYPE_NOT_ALLOWED", "Admission",
        ),
        ("POST", API, ("Content-Length: 99999999",), "127.0.0.1", 415, "CONTENT_TYPE_NOT_ALLOWED", "Admission"),
        ("GET", API, ("X-Api-Key: a", "X-Api-Key: b"), "127.0.0.1", 400, "BAD_REQUEST", "RateLimit"),
        ("GET", USER, (), "127.0.0.1", 401, "TOKEN_MISSING", "Authenticate"),
        ("GET", USER, ("Authorization: Basic eDp5",), "127.0.0.1", 401, "TOKEN_MISSING", "Authenticate"),
        (
            "OPTIONS", API, ("Origin: https://evil.example", "Access-Control-Request-Method: GET"), "127.0.0.1", 403,
            "ORIGIN_NOT_ALLOWED", "Preflights",
        ),
    ],
)  # fmt: skip
def test_decorator_of_the_route_refuses(
    method: str, url: str, headers: tuple[str, ...], client_ip: str, status: int, reason: str, by: str
) -> None:
    told = tell(method, url, *headers, client_ip=client_ip)
    outcome = told["outcome"]
    assert (outcome["is"], outcome["status"], outcome["reason"], outcome["by"]) == ("refused", status, reason, by)
    assert told["route"] is not None
    assert told["end"] is None
    outcomes = [one["outcome"] for one in told["decorators"]]
    if "refuses" in outcomes:  # what is behind it is told all the same
        assert set(outcomes[outcomes.index("refuses") + 1 :]) == {"not reached"}


def test_challenge_of_a_refusal_is_told() -> None:
    assert tell("PUT", API)["outcome"]["headers"] == [["Allow", "GET, HEAD, POST"]]
    ((name, _),) = tell("GET", USER)["outcome"]["headers"]
    assert name == "WWW-Authenticate"


def test_preflight_is_answered_by_the_route_of_the_method_it_asks_for() -> None:
    told = tell("OPTIONS", API, "Origin: https://app.example.com", "Access-Control-Request-Method: POST")
    assert told["outcome"] == {"is": "answered", "by": "Preflights"}
    assert told["route"]["name"] == "api"
    assert [one["route"] for one in told["candidates"] if one["won"]] == ["api"]
    assert ["Access-Control-Allow-Origin", "https://app.example.com"] in told["end"]["headers"]
    assert names(told) == ["SecurityHeaders"]


@pytest.mark.parametrize(
    ("line", "verdict"),
    [
        ("Origin: https://app.example.com", "https://app.example.com may use it"),
        ("Origin: https://evil.example", "https://evil.example may not use it: the browser keeps the answer from the page"),
        ("X: y", "none: not a page of another origin"),
    ],
)  # fmt: skip
def test_verdict_on_an_origin(line: str, verdict: str) -> None:
    told = tell("GET", API, line)
    assert step(told, "Cors")["says"]["origin"] == verdict
    assert told["outcome"]["is"] == "forwarded"


@pytest.mark.parametrize(
    ("method", "url", "winner", "lost"),
    [
        ("GET", API, "api", {"whole": "path", "beta": "headers", "old": "host"}),
        ("GET", "https://api.example.com/api", "api", {"whole": "specificity", "beta": "headers"}),
        ("GET", "/api", "whole", {"api": "host", "beta": "headers", "users": "path"}),
        ("GET", USER, "user", {"users": "specificity", "office": "path"}),
        ("PUT", API, None, {"api": "methods"}),
        ("GET", "/nowhere", None, {"api": "path", "users": "path", "old": "host"}),
    ],
)
def test_candidates_tell_why_they_lost(method: str, url: str, winner: str | None, lost: dict[str, str]) -> None:
    candidates = {one["route"]: one for one in tell(method, url)["candidates"]}
    assert [name for name, one in candidates.items() if one["won"]] == ([winner] if winner else [])
    assert {name: candidates[name]["lost_by"] for name in lost} == {name: [what] for name, what in lost.items()}
    assert all(one["why"] for one in candidates.values() if not one["won"])
    assert len(candidates) == len(DOCUMENT["routes"])
    if url == USER:
        assert candidates["user"]["captures"] == {"id": "7"}
        assert candidates["users"]["why"] == "its path is less specific than that of user"


SPECIFIC = {"hosts": ["a.example"], "path": "/x", "methods": ["GET"], "headers": {"a": "1"}}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"hosts": []}, "its host is less specific"),
        ({"hosts": ["*.example"]}, "its host is less specific"),
        ({"path": "/"}, "its path is less specific"),
        ({"methods": []}, "best names its methods"),
        ({"headers": {}}, "best asks for more headers"),
        ({"methods": ["GET", "PUT"]}, "best takes fewer methods"),
        ({"methods": ["GET"], "headers": {"b": "1"}}, "as specific as best"),
    ],
)
def test_first_difference_in_specificity_is_told(other: dict[str, Any], why: str) -> None:
    end = {"response": {"status": 200}, "auth": "none"}
    document = {"routes": [{"name": "best", **SPECIFIC, **end}, {"name": "other", **SPECIFIC, **end, **other}]}
    told = tell("GET", "http://a.example/x", "A: 1", "B: 1", document=document)
    first, second = told["candidates"]
    assert (first["route"], first["won"], second["lost_by"]) == ("best", True, ["specificity"])
    assert second["why"].startswith(why)


def test_only_so_many_candidates_are_listed() -> None:
    end = {"response": {"status": 200}, "auth": "none"}
    routes = [{"name": f"r{at}", "path": f"/{at}", **end} for at in range(MAX_LISTED + 50)]
    told = tell("GET", "/149", document={"routes": routes})
    assert len(told["candidates"]) == MAX_LISTED
    assert told["candidates"][0]["route"] == told["route"]["name"] == "r149"
    assert told["candidates_left_out"] == 50


def test_bucket_keys() -> None:
    says = step(tell("GET", API, "X-Api-Key: k", client_ip="2001:db8::1"), "RateLimit")["says"]
    assert says["bucket"] == "ip=2001:db8::/64|header:x-api-key=***"
    assert (says["limit"], says["buckets"], says["store"]) == ("api", "the route's own", "memory")
    assert step(tell("GET", API), "RateLimit")["says"]["bucket"] == "ip=127.0.0.1|ip=127.0.0.1"
    says = step(tell("DELETE", "/office", client_ip="192.0.2.1"), "RateLimit")["says"]
    assert (says["limit"], says["bucket"]) == ("default", "ip=192.0.2.1")
    assert says["buckets"] == "shared by all routes that inherit the limit"
    with_token = tell("GET", USER, f"Authorization: Bearer {token()}")
    assert step(with_token, "RateLimit")["says"]["bucket"] == "subject=(the token's)"
    assert step(tell("GET", "/users/public/cv"), "RateLimit")["says"]["bucket"] == "ip=127.0.0.1"
    redis = tell("GET", API, environment={"GATEWAY_REDIS_URL": f"redis://:{PASSWORD}@redis"})
    assert step(redis, "RateLimit")["says"]["store"] == "Redis"


@pytest.mark.parametrize("url", ["redis://redis", "rediss://redis:1/2", "unix:///run/redis.sock"])
def test_redis_is_not_connected_to(url: str) -> None:
    told = tell("GET", API, environment={"GATEWAY_REDIS_URL": url})
    assert step(told, "RateLimit")["settings"]["GATEWAY_REDIS_URL"]["value"] == url


def test_header_that_is_no_secret_is_a_digest_in_its_bucket() -> None:
    route = {
        "name": "r",
        "path": "/",
        "auth": "none",
        "response": {},
        "rate_limit": {"rate": "1/s", "key": "header:X-Tenant"},
    }
    says = step(tell("GET", "/", "X-Tenant: t", document={"routes": [route]}), "RateLimit")["says"]
    assert says["bucket"].startswith("header:x-tenant=#")


def test_client_behind_a_trusted_proxy() -> None:
    told = tell("GET", "/office", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", client_ip="10.0.0.1")
    assert step(told, "ClientAddress")["says"] == {"client": "192.0.2.9", "scheme": "https"}
    assert step(told, "Admission")["says"]["address"] == "192.0.2.9"
    assert told["outcome"]["is"] == "forwarded"
    assert tell("GET", "/office", "X-Forwarded-For: 192.0.2.9")["outcome"]["reason"] == "IP_DENIED"


def test_token_is_told_of_and_not_judged() -> None:
    told = tell("GET", USER, "Authorization: Bearer not.a.token")
    authenticate = step(told, "Authenticate")
    assert authenticate["outcome"] == "depends"
    assert authenticate["says"]["token"] == "there is one, which would be checked by the keys of GATEWAY_JWT_SECRET"
    assert authenticate["settings"]["GATEWAY_JWT_SECRET"] == {"value": "***", "source": "env GATEWAY_JWT_SECRET"}
    assert "GATEWAY_JWT_JWKS_URL" not in authenticate["settings"]
    assert told["outcome"]["is"] == "forwarded"
    public = step(tell("GET", "/users/public/cv"), "Authenticate")
    assert public["says"] == {"token": "not looked at: the path is public"}


def test_probe_and_server_wide_options_are_answered_without_a_route() -> None:
    told = tell("GET", "/health/live?x")
    assert (told["outcome"], told["route"]) == ({"is": "answered", "by": "Probes"}, None)
    assert tell("OPTIONS", "*")["outcome"] == {"is": "answered", "by": "Sanitize"}


def test_answers_of_the_gateway_itself() -> None:
    told = tell("GET", "https://old.example.com/x?y")
    assert told["end"] == {"is": "answer", "by": "Redirect", "status": 308, "headers": [["Location", "/new"]]}
    told = tell("GET", "/api?y")
    assert told["end"]["headers"] == [["Location", "https://new.example.com/api?y"]]
    told = tell("GET", "/api/x", "X-Beta: 1")
    assert (told["end"]["status"], told["outcome"]["by"]) == (418, "FixedResponse")


def test_mounted_resource_is_named() -> None:
    route = {"name": "r", "path": "/m", "auth": "none", "resource": "tests.unit.explain.mounted:resource"}
    told = tell("GET", "/m/x", document={"routes": [route]})
    assert told["outcome"] == {"is": "forwarded"}
    assert (told["end"]["is"], told["end"]["resource"]) == ("resource", "tests.unit.explain.mounted:resource")


def test_no_secret_is_told() -> None:
    secret_lines = [
        f"{name}: {PASSWORD}" for name in ("Authorization", "Cookie", "X-Api-Key", "X-Auth-Token", "X-Session-Id")
    ]
    redis = {"GATEWAY_REDIS_URL": f"redis://:{PASSWORD}@redis"}
    for url in ("/office", f"http://user:{PASSWORD}@a/office", API, USER):
        told = tell("GET", url, *secret_lines, "X-Plain: seen", client_ip="192.0.2.1", environment=redis)
        text = orjson.dumps(told).decode()
        assert PASSWORD not in text
        assert SECRET not in text
        assert "seen" in text
