"""``PYTHONPATH=. pytest``; needs ``pip install 'txgateway[testing]'``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import jwt
import pytest

from tenancy import Tenancy
from txgateway.testing import GatewayHarness
from txgateway.testing.laws import assert_middleware_laws
from txgateway.testing.plugin import MakeHarness

ROUTES = Path(__file__).parent / "routes.toml"
SECRET = "a secret of at least thirty-two bytes"
JWT = {"GATEWAY_JWT_SECRET": SECRET, "GATEWAY_JWT_AUDIENCE": "resumes"}


def test_laws() -> None:
    assert_middleware_laws(Tenancy, claims={"org": "acme"}, changes_request_headers=["X-Tenant"])


def test_laws_where_it_refuses() -> None:
    assert_middleware_laws(Tenancy, refuses=["SCOPE_MISSING"])


@pytest.fixture
def gateway(gateway_harness: MakeHarness) -> GatewayHarness:
    return gateway_harness(routes_file=ROUTES, environment=JWT)


def bearer(**claims: Any) -> tuple[str, str]:
    claims = {"sub": "alice", "aud": "resumes", "exp": 4_000_000_000, **claims}
    return "Authorization", f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"


def tenants(gateway: GatewayHarness) -> list[bytes]:
    """What a backend that works like CGI takes for the tenant of the last request."""
    fields = gateway.backends["resumes"].received[-1].headers
    return [value for name, value in fields if name.lower().translate(bytes.maketrans(b"_.", b"--")) == b"x-tenant"]


def test_tenant_is_the_tokens(gateway: GatewayHarness) -> None:
    answer = gateway.ask("GET", "/", [bearer(org="acme")])
    assert (answer.status, tenants(gateway), answer.log["tenant"]) == (200, [b"acme"], "acme")


@pytest.mark.parametrize("name", ["X-Tenant", "x-TENANT", "X_Tenant", "X.Tenant", "x_tenant"])
def test_client_cannot_say_it(gateway: GatewayHarness, name: str) -> None:
    gateway.ask("GET", "/", [bearer(org="acme"), (name, "initech")])
    assert tenants(gateway) == [b"acme"]


def test_client_cannot_have_it_dropped(gateway: GatewayHarness) -> None:
    gateway.ask("GET", "/", [bearer(org="acme"), ("Connection", "X-Tenant")])
    assert tenants(gateway) == [b"acme"]


def test_client_cannot_say_it_in_trailers(gateway: GatewayHarness) -> None:
    call = gateway.start("POST", "/", [bearer(org="acme")], length=-1).send(b"body")
    call.end([(b"X.Tenant", b"initech"), (b"X-Sum", b"1")])
    assert gateway.wait_for(call).status == 200
    assert gateway.backends["resumes"].received[-1].trailers == [(b"X-Sum", b"1")]


@pytest.mark.parametrize("claims", [{}, {"org": ""}, {"org": "a\r\nX-Admin: 1"}, {"org": None}])
def test_token_without_a_tenant_is_refused(gateway: GatewayHarness, claims: dict[str, Any]) -> None:
    answer = gateway.ask("GET", "/", [bearer(**claims), ("X-Tenant", "initech")])
    assert (answer.status, answer.reason) == (403, "SCOPE_MISSING")
    assert answer.problem["detail"] == "The token names no tenant."
    assert gateway.backends["resumes"].received == []
    assert gateway.metric("gateway_middleware_tenancy_refused_total") == 1


def test_another_claim_and_header(gateway_harness: MakeHarness) -> None:
    document = tomllib.loads(ROUTES.read_text("utf-8"))
    document["middlewares"]["tenancy"]["settings"] = {"claim": "sub", "header": "X-Who"}
    gateway = gateway_harness(document, environment=JWT)
    gateway.ask("GET", "/", [bearer(org="acme"), ("X-Who", "bob")])
    received = gateway.backends["resumes"].received[-1]
    assert (received.header(b"x-who"), received.header(b"x-tenant")) == (b"alice", None)
