from __future__ import annotations

import json

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
