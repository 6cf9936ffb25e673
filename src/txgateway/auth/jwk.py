"""JSON Web Keys and sets of them (RFC 7517, RFC 7518 section 6, RFC 8037): from a document to a key set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import frozen
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from txgateway.auth.encoding import base64url, json_object
from txgateway.auth.keys import MAX_RSA_BITS, MAX_RSA_EXPONENT, KeySet, Material, VerificationKey, bind

MAX_KEYS: Final = 1000
MAX_DOCUMENT_BYTES: Final = 2**20

_CURVES: Final[dict[str, ec.EllipticCurve]] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}
_EDWARDS: Final[dict[str, type[Ed25519PublicKey | Ed448PublicKey]]] = {
    "Ed25519": Ed25519PublicKey,
    "Ed448": Ed448PublicKey,
}


@frozen
class Jwks:
    """What a document holds.

    Attributes:
        keys: those that can be used, perhaps none.
        skipped: one line for each that cannot, with its place and the reason; no key material.
    """

    keys: KeySet
    skipped: tuple[str, ...]


def read_jwks(document: bytes, allowed: tuple[str, ...] = (), *, has_secrets: bool) -> Jwks:
    """The keys of a JWK set (RFC 7517 section 5); those that cannot be used are skipped.

    Args:
        document: at most :data:`MAX_DOCUMENT_BYTES`.
        allowed: algorithms; empty for all that each kind of key has.
        has_secrets: ``oct`` keys are taken; not so from a public place, where a secret is none.

    Raises:
        ValueError: it is no such document, is too large, or is ambiguous (see :class:`KeySet`).
    """
    if len(document) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"the JWKS document is longer than {MAX_DOCUMENT_BYTES} bytes")
    try:
        found = json_object(document).get("keys")
    except ValueError:
        raise ValueError("the JWKS document is not strict JSON (an object in UTF-8, no member twice)") from None
    if not isinstance(found, list) or len(found) > MAX_KEYS:
        raise ValueError(f'the JWKS document has no list of at most {MAX_KEYS} "keys"')
    keys: list[VerificationKey] = []
    skipped: list[str] = []
    for index, jwk in enumerate(found):
        try:
            keys.append(_key(jwk, allowed, has_secrets))
        except ValueError as exc:
            skipped.append(f"keys[{index}]: {exc}")
    return Jwks(KeySet(keys), tuple(skipped))


def keys_from_jwks(document: bytes, allowed: tuple[str, ...] = ()) -> Jwks:
    """The keys of a configured JWKS document, at least one; it may hold secrets.

    Raises:
        ValueError: as :func:`read_jwks`, or there is no key that can be used; the message says why.
    """
    found = read_jwks(document, allowed, has_secrets=True)
    if not len(found.keys):
        raise ValueError("the JWKS document has no usable key: " + ("; ".join(found.skipped[:5]) or "it is empty"))
    return found


def _key(jwk: object, allowed: tuple[str, ...], has_secrets: bool) -> VerificationKey:
    if not isinstance(jwk, dict):
        raise ValueError("not an object")
    kid = jwk.get("kid")
    if "kid" in jwk and not isinstance(kid, str):
        raise ValueError("kid is not a string")
    if jwk.get("use", "sig") != "sig":
        raise ValueError("use is not sig")
    if "key_ops" in jwk:  # RFC 7517 section 4.3
        operations = jwk["key_ops"]
        if not isinstance(operations, list) or not all(isinstance(operation, str) for operation in operations):
            raise ValueError("key_ops is not a list of strings")
        if "verify" not in operations or len(set(operations)) < len(operations):
            raise ValueError("key_ops has no verify, or something twice")
    if jwk.get("kty") == "oct" and not has_secrets:
        raise ValueError("a secret in a public place")
    if "alg" in jwk:  # RFC 7517 section 4.4
        algorithm = jwk["alg"]
        if not isinstance(algorithm, str) or (allowed and algorithm not in allowed):
            raise ValueError("alg is not allowed")
        allowed = (algorithm,)
    return bind(_material(jwk), kid, allowed)


def _material(jwk: Mapping[str, Any]) -> Material:
    """The public part of an asymmetric key, or a secret; private members are not looked at."""
    kind, curve = jwk.get("kty"), str(jwk.get("crv"))
    if kind == "oct":
        return _octets(jwk, "k")
    if kind == "RSA":
        return _rsa(jwk)
    if kind == "EC" and curve in _CURVES:
        return _elliptic(jwk, _CURVES[curve])
    if kind == "OKP" and curve in _EDWARDS:
        try:
            return _EDWARDS[curve].from_public_bytes(_octets(jwk, "x"))
        except (ValueError, UnsupportedAlgorithm):
            raise ValueError("x is not a public key of its curve") from None
    raise ValueError("kty or crv is unknown")


def _rsa(jwk: Mapping[str, Any]) -> Material:
    numbers = {}
    for name in ("n", "e"):
        octets = _octets(jwk, name)
        if octets[:1] in {b"", b"\x00"}:  # RFC 7518 section 2: Base64urlUInt has no leading zeros
            raise ValueError(f"{name} is not a positive number without leading zeros")
        numbers[name] = int.from_bytes(octets, "big")
    if numbers["n"].bit_length() > MAX_RSA_BITS or numbers["e"] >= MAX_RSA_EXPONENT:
        raise ValueError("an RSA key of unusable size")
    try:
        return RSAPublicNumbers(numbers["e"], numbers["n"]).public_key()
    except ValueError:
        raise ValueError("n and e are not an RSA key") from None


def _elliptic(jwk: Mapping[str, Any], curve: ec.EllipticCurve) -> Material:
    size = (curve.key_size + 7) // 8
    x, y = _octets(jwk, "x"), _octets(jwk, "y")
    if len(x) != size or len(y) != size:  # RFC 7518 section 6.2.1.2: full length, leading zeros included
        raise ValueError("x and y do not have the size of the curve")
    try:
        point = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve)
        return point.public_key()
    except ValueError:
        raise ValueError("x and y are not a point of the curve") from None


def _octets(jwk: Mapping[str, Any], name: str) -> bytes:
    value = jwk.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{name} is missing or not a string")
    try:
        return base64url(value.encode("ascii"))
    except ValueError:
        raise ValueError(f"{name} is not base64url") from None
