"""Keys, tokens and key sets as an issuer makes them, and as no issuer should."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from txgateway.auth.jwk import read_jwks
from txgateway.auth.keys import KeySet
from txgateway.auth.token import TokenValidator

#: The wall clock of the tests.
NOW = 1_800_000_000.0
SECRET = "s" * 64

_ALGORITHMS = get_default_algorithms()


@cache
def _made(kind: str, number: int) -> Any:
    if kind.startswith("RSA"):
        return rsa.generate_private_key(65537, int(kind[3:]))
    if kind.startswith("Ed"):
        return (ed25519.Ed25519PrivateKey if kind == "Ed25519" else ed448.Ed448PrivateKey).generate()
    curves = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1(), "k1": ec.SECP256K1()}
    return ec.generate_private_key(curves[kind])


def rsa_key(number: int = 0, bits: int = 2048) -> Any:
    """One of several RSA keys, the same at each call."""
    return _made(f"RSA{bits}", number)


def ec_key(curve: str = "P-256", number: int = 0) -> Any:
    """A key on one of the curves, the same at each call."""
    return _made(curve, number)


def ed_key(curve: str = "Ed25519") -> Any:
    return _made(curve, 0)


def key_for(algorithm: str) -> Any:
    """A private key, or a secret, that signs with this algorithm."""
    if algorithm.startswith("HS"):
        return SECRET.encode()
    if algorithm.startswith("ES"):
        return ec_key({"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm])
    return ed_key() if algorithm == "EdDSA" else rsa_key()


def pem(private: Any) -> str:
    """The public key as text."""
    raw: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return raw.decode()


def b64(raw: bytes) -> bytes:
    return urlsafe_b64encode(raw).rstrip(b"=")


def number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big")).decode()


def jwk(private: Any, **members: Any) -> dict[str, Any]:
    """The public key, or a secret, as a JWK; ``members`` are added or replace others."""
    if isinstance(private, bytes):
        return {"kty": "oct", "k": b64(private).decode(), **members}
    public = private.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        numbers = public.public_numbers()
        return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **members}
    if isinstance(public, ec.EllipticCurvePublicKey):
        point, size = public.public_numbers(), (public.key_size + 7) // 8
        curve = {256: "P-256", 384: "P-384", 521: "P-521"}[public.key_size]
        x, y = (b64(value.to_bytes(size, "big")).decode() for value in (point.x, point.y))
        return {"kty": "EC", "crv": curve, "x": x, "y": y, **members}
    raw = public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519" if len(raw) == 32 else "Ed448", "x": b64(raw).decode(), **members}


def jwks(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def key_set(*keys: object) -> KeySet:
    """The set of these JWKs, all of which are good."""
    found = read_jwks(jwks(*keys), has_secrets=True)
    assert found.skipped == ()
    return found.keys


def sign(header: bytes, payload: bytes, key: Any, algorithm: str) -> bytes:
    """A token of any two segments, signed properly."""
    signing_input = b64(header) + b"." + b64(payload)
    return signing_input + b"." + b64(_ALGORITHMS[algorithm].sign(signing_input, key))


def token(
    claims: Mapping[str, Any] | None = None,
    algorithm: str = "RS256",
    key: Any = None,
    header: Mapping[str, Any] | None = None,
) -> bytes:
    """A token that is good for ten minutes, but for what is said here."""
    full = {"alg": algorithm, "typ": "JWT", **(header or {})}
    claims = {"sub": "alice", "exp": NOW + 600, **(claims or {})}
    claims = {name: value for name, value in claims.items() if value is not ...}
    encoded = json.dumps({name: value for name, value in full.items() if value is not ...}).encode()
    return sign(encoded, json.dumps(claims).encode(), key or key_for(algorithm), algorithm)


def validator(
    issuers: tuple[str, ...] = (), audiences: tuple[str, ...] = (), leeway_s: float = 60.0, now: float = NOW
) -> TokenValidator:
    return TokenValidator(lambda: now, issuers, audiences, leeway_s)
