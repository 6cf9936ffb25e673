"""A thousand users, each with a token of their own: what the ``users`` shape sends and the ``secured`` case checks."""

from __future__ import annotations

import json
import time
from functools import cache

import attrs
import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import RSAAlgorithm

NUMBER = 1000
ISSUER = "https://idp.example.com/"
AUDIENCE = "https://api.example.com/"
ORIGIN = "https://app.example.com"
_KEY_ID = "2026-11"
_VALID_S = 86_400

#: The policies of the ``secured`` case, beside the key: limits that nobody reaches, an origin that all requests have.
SETTINGS = {
    "GATEWAY_JWT_ISSUER": ISSUER,
    "GATEWAY_JWT_AUDIENCE": AUDIENCE,
    "GATEWAY_RATE_LIMIT": "1000000/s",
    "GATEWAY_RATE_LIMIT_KEY": "subject",
    "GATEWAY_CORS_ALLOW_ORIGINS": ORIGIN,
    "GATEWAY_CORS_ALLOW_CREDENTIALS": "true",
}


@attrs.frozen
class Users:
    """Tokens of about 640 bytes, signed with RS256, and the public key as PEM and as a JWKS document."""

    public_key: str
    jwks: str
    tokens: list[str]


@cache
def users() -> Users:
    """The users; takes a second or two, and makes others in each process."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = key.public_key()
    now = int(time.time())
    tokens = [
        jwt.encode(
            {
                "iss": ISSUER,
                "aud": AUDIENCE,
                "sub": f"user-{number:04d}",
                "iat": now,
                "exp": now + _VALID_S,
                "scope": "resumes:read resumes:write",
                "jti": f"{number:032x}",
            },
            key,
            algorithm="RS256",
            headers={"kid": _KEY_ID},
        )
        for number in range(NUMBER)
    ]
    jwk = {**RSAAlgorithm.to_jwk(public, as_dict=True), "kid": _KEY_ID, "alg": "RS256", "use": "sig"}
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode("ascii")
    return Users(pem, json.dumps({"keys": [jwk]}), tokens)


def headers() -> tuple[tuple[str, str], ...]:
    """Request headers of the first user."""
    return (("Authorization", f"Bearer {users().tokens[0]}"), ("Origin", ORIGIN))


def settings() -> dict[str, str]:
    """The gateway's settings of the ``secured`` case."""
    return {"GATEWAY_JWT_JWKS": users().jwks, **SETTINGS}
