"""The configured keys that tokens are verified with, as one set."""

from __future__ import annotations

from txgateway.auth.jwk import Jwks, keys_from_jwks
from txgateway.auth.keys import KeySet, keys_from_pem, keys_from_secret
from txgateway.config.settings import Settings


def token_keys(settings: Settings) -> KeySet | None:
    """The keys; None if they are downloaded, or if there are none.

    Raises:
        ValueError: they cannot be used, or not with the algorithms that are asked for; the text holds no part of them.
    """
    allowed = settings.jwt_algorithms
    if settings.jwt_secret is not None:
        return keys_from_secret(settings.jwt_secret, allowed)
    if settings.jwt_public_key is not None:
        return keys_from_pem(settings.jwt_public_key, allowed)
    document = configured_jwks(settings)
    return None if document is None else document.keys


def configured_jwks(settings: Settings) -> Jwks | None:
    """What the JWKS document of the configuration holds, if there is one; errors as above."""
    if settings.jwt_jwks is None:
        return None
    return keys_from_jwks(settings.jwt_jwks.encode("utf-8"), settings.jwt_algorithms)
