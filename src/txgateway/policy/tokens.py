"""Tokens that the gateway under test accepts, and the variables that make it accept them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import jwt

from txgateway.config import Settings
from txgateway.policy.values import moment

#: Known to everybody: it signs what only gateways in memory verify.
TEST_SECRET: Final = "txgateway test signs with this, and nothing else does"  # noqa: S105 -- says so itself
#: How long a token is good that does not say it.
LIFETIME_S: Final = 3600
_REPLACED: Final = ("SECRET", "PUBLIC_KEY", "JWKS", "JWKS_URL", "ALGORITHMS")


def with_test_key(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables, with the test key in place of all keys."""
    replaced = {f"GATEWAY_JWT_{name}{end}" for name in _REPLACED for end in ("", "_FILE")}
    kept = {name: value for name, value in environment.items() if name not in replaced}
    return {**kept, "GATEWAY_JWT_SECRET": TEST_SECRET}


def signed(claims: Mapping[str, Any], settings: Settings, now_s: float) -> str:
    """A token with these claims, and those that the configuration asks for; a claim that is false is left out.

    Args:
        claims: as :func:`txgateway.policy.values.token` gives them.
        settings: have issuer and audience.
        now_s: epoch seconds.
    """
    asked: dict[str, Any] = {"iat": int(now_s), "exp": int(now_s) + LIFETIME_S}
    if settings.jwt_issuer:
        asked["iss"] = settings.jwt_issuer[0]
    if settings.jwt_audience:
        asked["aud"] = settings.jwt_audience[0]
    given = {name: moment(value, now_s) for name, value in claims.items()}
    payload = {name: value for name, value in {**asked, **given}.items() if value is not False}
    return jwt.encode(payload, TEST_SECRET, algorithm="HS256")
