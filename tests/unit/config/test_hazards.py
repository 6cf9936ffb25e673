from __future__ import annotations

import json
from typing import Any

import pytest

from txgateway.config import load


def test_default_configuration_has_no_hazards() -> None:
    assert load({"GATEWAY_BACKEND_TARGET": "demo"}).hazards == ()


def test_what_is_probably_not_wanted_is_a_hazard() -> None:
    document = {
        "backends": {"a": {"targets": ["https://a"], "tls": {"verify": False}}, "b": {"targets": ["http://b"]}},
        "routes": [{"name": "r", "path": "/", "backend": "a"}],
    }
    configuration = load({
        "GATEWAY_ROUTES": json.dumps(document),
        "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,::/0",
        "GATEWAY_ADMIN_HOST": "::",
    })  # fmt: skip
    assert [hazard.partition(": ")[0] for hazard in configuration.hazards] == [
        "GATEWAY_TRUSTED_PROXIES", "GATEWAY_ADMIN_HOST", "backends.a.tls.verify", "backends.b",
    ]  # fmt: skip


def test_admin_listener_that_is_off_or_on_the_loopback_is_no_hazard() -> None:
    for environ in ({"GATEWAY_ADMIN_HOST": "0.0.0.0", "GATEWAY_ADMIN_PORT": "0"}, {"GATEWAY_ADMIN_HOST": "localhost"}):
        assert load({"GATEWAY_BACKEND_TARGET": "demo", **environ}).hazards == ()


def test_tokens_that_anybody_may_have_made_for_anybody_are_a_hazard() -> None:
    environ = {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_JWT_JWKS_URL": "http://idp.example/jwks"}
    assert [hazard.partition(": ")[0] for hazard in load(environ).hazards] == [
        "GATEWAY_JWT_AUDIENCE", "GATEWAY_JWT_ISSUER", "GATEWAY_JWT_JWKS_URL",
    ]  # fmt: skip
    environ |= {"GATEWAY_JWT_JWKS_URL": "https://idp.example/jwks"}
    assert load({**environ, "GATEWAY_JWT_AUDIENCE": "api", "GATEWAY_JWT_ISSUER": "https://idp.example"}).hazards == ()


def test_limit_by_subject_without_tokens_is_a_hazard() -> None:
    route = {"name": "r", "path": "/", "response": {"status": 200}, "rate_limit": {"rate": "1/s", "key": "subject"}}
    configuration = load({"GATEWAY_ROUTES": json.dumps({"routes": [route]})})
    assert [hazard.partition(": ")[0] for hazard in configuration.hazards] == ["routes[0].rate_limit.key"]


def test_key_of_a_document_that_cannot_be_used_is_a_hazard() -> None:
    good = {"kty": "oct", "kid": "a", "k": "A" * 43, "alg": "HS256"}
    document = json.dumps({"keys": [good, {"kty": "oct", "kid": "b", "k": "c2hvcnQ"}]})
    environ = {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_JWT_JWKS": document}
    environ |= {"GATEWAY_JWT_AUDIENCE": "api", "GATEWAY_JWT_ISSUER": "idp"}
    (hazard,) = load(environ).hazards
    assert hazard.startswith("GATEWAY_JWT_JWKS: keys[1]: ")


def test_token_settings_without_a_key_are_a_hazard() -> None:
    environ = {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_JWT_ISSUER": "idp", "GATEWAY_JWT_CLAIM_HEADERS": "sub=X-User"}
    assert [hazard.partition(": ")[0] for hazard in load(environ).hazards] == [
        "GATEWAY_JWT_ISSUER", "GATEWAY_JWT_CLAIM_HEADERS",
    ]  # fmt: skip


JWT = {"GATEWAY_JWT_SECRET": "x" * 32, "GATEWAY_JWT_AUDIENCE": "api", "GATEWAY_JWT_ISSUER": "idp"}


def hazards_of(
    route: dict[str, Any] | None = None, backend: dict[str, Any] | None = None, **environ: str
) -> tuple[str, ...]:
    """Those of a document with one route to one backend."""
    document = {
        "backends": {"a": {"targets": ["http://a"], **(backend or {})}},
        "routes": [{"name": "r", "path": "/", "backend": "a", **(route or {})}],
    }
    return load({"GATEWAY_ROUTES": json.dumps(document), **environ}).hazards


@pytest.mark.parametrize(
    ("route", "backend", "environ", "hazard"),
    [
        ({"retry": {"methods": ["GET", "POST"]}}, {}, {}, "routes[0].retry.methods: POST may take effect twice"),
        ({"retry": {"methods": ["POST", "PATCH"]}}, {}, {}, "routes[0].retry.methods: PATCH, POST may"),
        ({}, {}, {"GATEWAY_RETRY_METHODS": "GET,POST"}, "GATEWAY_RETRY_METHODS: POST may take effect twice"),
        (
            {"retry": {"max_attempts": 2}}, {}, {"GATEWAY_RETRY_METHODS": "POST", "GATEWAY_RETRY_MAX_ATTEMPTS": "1"},
            "GATEWAY_RETRY_METHODS: POST may",
        ),
        (
            {"timeout": {"total": "2s", "per_try": "3s"}}, {}, {},
            "routes[0].timeout.per_try: 3s is above timeout.total, 2s",
        ),
        (
            {"timeout": {"total": "2s"}}, {}, {"GATEWAY_TIMEOUT_PER_TRY": "3s"},
            "GATEWAY_TIMEOUT_PER_TRY: 3s is above timeout.total, 2s",
        ),
        (
            {"timeout": {"per_try": "31s"}}, {}, {},
            "routes[0].timeout.per_try: 31s is above timeout.total, 30s",
        ),
        (
            {}, {"pool": {"idle_timeout": "61s"}}, {},
            "backends.a.pool.idle_timeout: 61s is probably above the backend's keep-alive",
        ),
        (
            {}, {}, {"GATEWAY_POOL_IDLE_TIMEOUT": "2m"},
            "GATEWAY_POOL_IDLE_TIMEOUT: 2m is probably above the backend's keep-alive",
        ),
        (
            {}, {"health_check": {"timeout": "11s"}}, {},
            "backends.a.health_check.timeout: 11s is above health_check.interval, 10s",
        ),
        (
            {}, {"health_check": {"interval": "1s"}}, {"GATEWAY_HEALTH_CHECK_TIMEOUT": "3s"},
            "GATEWAY_HEALTH_CHECK_TIMEOUT: 3s is above health_check.interval, 1s",
        ),
        (
            {"cors": {"allow_origins": ["*"]}}, {}, JWT,
            "routes[0].cors.allow_origins: * lets every page on the web use a route that asks for a token",
        ),
        (
            {"auth": "jwt"}, {}, {**JWT, "GATEWAY_CORS_ALLOW_ORIGINS": "*"},
            "GATEWAY_CORS_ALLOW_ORIGINS: * lets every page on the web use a route that asks for a token",
        ),
        ({}, {"tls": {"server_name": "b"}}, {}, "backends.a.tls: no target is https://, so it has no effect"),
        ({}, {"targets": ["h2c://a"], "tls": {"min_version": "1.3"}}, {}, "backends.a.tls: no target is https://"),
        ({}, {}, {"GATEWAY_TRUSTED_PROXIES": "0.0.0.0/0"}, "GATEWAY_TRUSTED_PROXIES: '0.0.0.0/0' lets every client"),
        ({}, {}, {"GATEWAY_TRUSTED_PROXIES": "::/0"}, "GATEWAY_TRUSTED_PROXIES: '::/0' lets every client claim"),
        ({}, {}, {**JWT, "GATEWAY_JWT_AUDIENCE": ""}, "GATEWAY_JWT_AUDIENCE: not set, so a token"),
    ],
)  # fmt: skip
def test_hazard_names_its_place(
    route: dict[str, Any], backend: dict[str, Any], environ: dict[str, str], hazard: str
) -> None:
    (found,) = hazards_of(route, backend, **environ)
    assert found.startswith(hazard), found


@pytest.mark.parametrize(
    ("route", "backend", "environ"),
    [
        ({"retry": {"methods": ["GET", "PUT", "DELETE", "PROPFIND"]}}, {}, {}),
        ({"retry": {"methods": ["POST"], "max_attempts": 1}}, {}, {}),
        ({"retry": {"methods": ["GET"]}}, {}, {"GATEWAY_RETRY_METHODS": "POST"}),
        ({"timeout": {"total": "2s", "per_try": "2s"}}, {}, {}),
        ({"timeout": {"total": "0", "per_try": "1h"}}, {}, {}),
        ({"timeout": {"total": "2s", "per_try": "0"}}, {}, {"GATEWAY_TIMEOUT_PER_TRY": "5s"}),
        ({}, {"pool": {"idle_timeout": "60s"}}, {}),
        ({}, {"pool": {"idle_timeout": "5s"}}, {"GATEWAY_POOL_IDLE_TIMEOUT": "2m"}),
        ({}, {"health_check": {"timeout": "10s"}}, {}),
        ({}, {"targets": ["http://a", "https://b"], "tls": {"server_name": "b"}}, {}),
        ({"auth": "none", "cors": {"allow_origins": ["*"]}}, {}, JWT),
        ({"cors": {"allow_origins": ["*"]}}, {}, {}),
        ({"cors": {"allow_origins": ["https://app.example.com"]}}, {}, JWT),
        ({}, {}, {"GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,fd00::/8"}),
        ({}, {}, JWT),
    ],
)
def test_sane_configuration_has_no_hazard(
    route: dict[str, Any], backend: dict[str, Any], environ: dict[str, str]
) -> None:
    assert hazards_of(route, backend, **environ) == ()


def test_route_without_a_backend_repeats_nothing() -> None:
    route = {"name": "r", "path": "/", "response": {}, "retry": {"methods": ["POST"]}, "timeout": {"per_try": "9h"}}
    assert load({"GATEWAY_ROUTES": json.dumps({"routes": [route]})}).hazards == ()


def test_default_that_many_inherit_is_told_once() -> None:
    document = {
        "backends": {name: {"targets": ["http://a"]} for name in "ab"},
        "routes": [{"name": name, "path": f"/{name}", "backend": name} for name in "ab"],
    }
    environ = {"GATEWAY_ROUTES": json.dumps(document), "GATEWAY_RETRY_METHODS": "POST"}
    environ |= {"GATEWAY_POOL_IDLE_TIMEOUT": "5m", "GATEWAY_TIMEOUT_PER_TRY": "40s"}
    assert [hazard.partition(":")[0] for hazard in load(environ).hazards] == [
        "GATEWAY_RETRY_METHODS", "GATEWAY_TIMEOUT_PER_TRY", "GATEWAY_POOL_IDLE_TIMEOUT",
    ]  # fmt: skip


def test_cautions_are_warnings_and_hazards() -> None:
    document = {
        "backends": {"a": {"targets": ["http://a"]}},
        "routes": [{"name": "r", "path": "/", "backend": "a"}],
        "middlewares": {"unused": {"use": "tests.helpers.own:Tenancy"}},
    }
    configuration = load({"GATEWAY_ROUTES": json.dumps(document), "GATEWAY_POOL_IDLE_TIMEOUT": "2m"})
    assert configuration.cautions == (*configuration.warnings, *configuration.hazards)
    assert (len(configuration.warnings), len(configuration.hazards)) == (1, 1)
