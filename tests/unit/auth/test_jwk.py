from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.auth.tokens import SECRET, b64, ec_key, ed_key, jwk, jwks, number, pem, rsa_key

from txgateway.auth.jwk import MAX_DOCUMENT_BYTES, MAX_KEYS, keys_from_jwks, read_jwks
from txgateway.errors import TokenBadSignature

RSA, EC, ED = jwk(rsa_key()), jwk(ec_key()), jwk(ed_key())
N = rsa_key().public_key().public_numbers().n
OCT = jwk(SECRET.encode())


def without(key: dict[str, Any], name: str) -> dict[str, Any]:
    return {member: value for member, value in key.items() if member != name}


@pytest.mark.parametrize(
    "key",
    [
        RSA, EC, ED, OCT, jwk(ed_key("Ed448")), jwk(ec_key("P-521")),
        RSA | {"use": "sig", "key_ops": ["verify"], "alg": "RS256", "kid": "a", "x5c": ["?"], "x5u": 1, "more": {}},
        RSA | {"d": "private", "p": 1}, EC | {"key_ops": ["sign", "verify"]}, RSA | {"e": number(3)}, ED | {"kid": ""},
    ],
)  # fmt: skip
def test_good_key_is_used(key: dict[str, Any]) -> None:
    found = read_jwks(jwks(key), has_secrets=True)
    assert (len(found.keys), found.skipped) == (1, ())


@pytest.mark.parametrize(
    ("key", "why"),
    [
        (None, "object"), ("key", "object"), ([], "object"), ({}, "kty"),
        (RSA | {"kty": "rsa"}, "kty"), (RSA | {"kty": "AKP"}, "kty"), (RSA | {"kty": 1}, "kty"), (RSA | {"kty": []}, "kty"),
        (RSA | {"use": "enc"}, "use"), (RSA | {"use": None}, "use"), (RSA | {"use": ["sig"]}, "use"),
        (RSA | {"key_ops": []}, "key_ops"), (RSA | {"key_ops": ["sign"]}, "key_ops"),
        (RSA | {"key_ops": ["encrypt", "wrapKey"]}, "key_ops"), (RSA | {"key_ops": "verify"}, "key_ops"),
        (RSA | {"key_ops": ["verify", "verify"]}, "key_ops"), (RSA | {"key_ops": ["verify", 1]}, "key_ops"),
        (RSA | {"key_ops": None}, "key_ops"), (RSA | {"key_ops": [["verify"]]}, "key_ops"),
        (RSA | {"kid": 1}, "kid"), (RSA | {"kid": None}, "kid"), (RSA | {"kid": ["a"]}, "kid"),
        (RSA | {"alg": "ES256"}, "allowed"), (RSA | {"alg": "HS256"}, "allowed"), (RSA | {"alg": "none"}, "allowed"),
        (RSA | {"alg": "RSA-OAEP"}, "allowed"), (RSA | {"alg": None}, "alg"), (RSA | {"alg": ["RS256"]}, "alg"),
        (EC | {"alg": "ES384"}, "allowed"), (OCT | {"alg": "RS256"}, "allowed"), (ED | {"alg": "ES256"}, "allowed"),
        (without(RSA, "n"), "n "), (without(RSA, "e"), "e "), (RSA | {"n": 1}, "n "), (RSA | {"n": ""}, "n "),
        (RSA | {"n": RSA["n"] + "="}, "n "), (RSA | {"n": RSA["n"] + "\n"}, "n "), (RSA | {"n": "ä"}, "n "),
        (RSA | {"n": b64(b"\0" + N.to_bytes(256, "big")).decode()}, "zeros"), (RSA | {"e": b64(b"\0\x01\0\x01").decode()}, "zeros"),
        (RSA | {"e": "AQAC"}, "RSA"), (RSA | {"e": number(1)}, "RSA"), (RSA | {"e": number(2)}, "RSA"),
        (RSA | {"e": number(2**32 + 1)}, "size"), (RSA | {"n": number(N - 1)}, "RSA"), (RSA | {"n": number(1 << 20000)}, "size"),
        (RSA | {"n": number(N >> 1024 | 1)}, "bits"), (jwk(rsa_key(0, 1024)), "1024 bits"),
        (EC | {"crv": "P-384"}, "size"), (EC | {"crv": "secp256k1"}, "crv"), (EC | {"crv": []}, "crv"),
        (without(EC, "crv"), "crv"), (without(EC, "y"), "y "), (EC | {"x": EC["y"]}, "point"),
        (EC | {"x": b64(b"\1" * 31).decode()}, "size"), (EC | {"x": b64(b"\0" * 33).decode()}, "size"),
        (EC | {"x": b64(b"\0" * 32).decode(), "y": b64(b"\0" * 32).decode()}, "point"),
        (ED | {"crv": "Ed448"}, "curve"), (ED | {"crv": "X25519"}, "crv"), (ED | {"x": "AA"}, "curve"),
        (jwk(b"s" * 31), "32 bytes"), (jwk(pem(rsa_key()).encode()), "public key"), (without(OCT, "k"), "k "), (OCT | {"k": ["a"]}, "k "),
        (jwk(b"s" * 32, alg="HS512"), "allowed"),
    ],
)  # fmt: skip
def test_key_that_cannot_be_used_is_skipped_and_reported(key: Any, why: str) -> None:
    found = read_jwks(jwks(ED | {"kid": "good"}, key), has_secrets=True)
    assert len(found.keys) == 1
    assert len(found.skipped) == 1
    assert found.skipped[0].startswith("keys[1]: ")
    assert why in found.skipped[0]


def test_secret_is_refused_from_a_public_place() -> None:
    found = read_jwks(jwks(OCT, RSA), has_secrets=False)
    assert len(found.keys) == 1
    assert found.skipped == ("keys[0]: a secret in a public place",)
    with pytest.raises(TokenBadSignature):
        found.keys.find(None, "HS256")


def test_alg_binds_a_key_to_exactly_it() -> None:
    keys = read_jwks(jwks(RSA | {"alg": "RS384"}), has_secrets=False).keys
    assert keys.find(None, "RS384").algorithms == {"RS384"}


def test_allowed_algorithms_narrow_a_set() -> None:
    found = read_jwks(jwks(RSA, EC, RSA | {"alg": "RS256"}, RSA | {"alg": "PS256"}), ("PS256",), has_secrets=False)
    assert len(found.skipped) == 2
    assert len(found.keys) == 2


@pytest.mark.parametrize(
    "document",
    [
        b"", b"<html>", b"[]", b"{}", b'{"keys": {}}', b'{"keys": null}', b'{"keys": "a"}', b'{"keys": [], "keys": []}',
        b'{"keys": [{"kty": "RSA", "kty": "oct"}]}', b'{"keys": [' + b"[" * 5000, b'\xff{"keys": []}',
        jwks(*[{}] * (MAX_KEYS + 1)), json.dumps({"keys": [], "a": "x" * MAX_DOCUMENT_BYTES}).encode(),
        jwks(RSA | {"kid": "a"}, RSA | {"kid": "a"}),
    ],
)  # fmt: skip
def test_document_that_is_no_key_set_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"JWKS document|ambiguous"):
        read_jwks(document, has_secrets=True)


def test_most_keys_that_are_allowed_are_read() -> None:
    assert len(read_jwks(jwks(*[{}] * MAX_KEYS), has_secrets=True).skipped) == MAX_KEYS


def test_configured_set_without_a_usable_key_is_refused_with_the_reasons() -> None:
    with pytest.raises(ValueError, match="empty"):
        keys_from_jwks(jwks())
    with pytest.raises(ValueError, match=r"keys\[0\]: use is not sig; keys\[1\]: .*shorter") as caught:
        keys_from_jwks(jwks(RSA | {"use": "enc"}, jwk(b"x" * 31)))
    assert b64(b"x" * 30).decode() not in str(caught.value)
    assert len(keys_from_jwks(jwks(OCT)).keys) == 1
