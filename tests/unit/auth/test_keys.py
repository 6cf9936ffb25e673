from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, x25519
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from tests.unit.auth.tokens import SECRET, b64, ec_key, ed_key, jwk, key_for, key_set, pem, rsa_key, sign

from txgateway.auth.encoding import base64url
from txgateway.auth.keys import KeySet, bind, keys_from_pem, keys_from_secret
from txgateway.errors import TokenBadSignature, TokenUnknownKey

RSA = {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
EVERY = sorted({"HS256", "HS384", "HS512", *RSA, "ES256", "ES384", "ES512", "EdDSA"})


def algorithms(keys: KeySet) -> set[str]:
    """Those that the set has a key for."""
    found = set()
    for algorithm in EVERY:
        try:
            keys.find(None, algorithm)
        except TokenBadSignature:
            continue
        found.add(algorithm)
    return found


@pytest.mark.parametrize(
    ("private", "expected"),
    [
        (rsa_key(), RSA),
        (ec_key("P-256"), {"ES256"}),
        (ec_key("P-384"), {"ES384"}),
        (ec_key("P-521"), {"ES512"}),
        (ed_key("Ed25519"), {"EdDSA"}),
        (ed_key("Ed448"), {"EdDSA"}),
    ],
    ids=["RSA", "P-256", "P-384", "P-521", "Ed25519", "Ed448"],
)
def test_public_key_has_the_algorithms_of_its_kind(private: Any, expected: set[str]) -> None:
    assert algorithms(keys_from_pem(pem(private))) == expected
    assert algorithms(key_set(jwk(private))) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [(32, {"HS256"}), (47, {"HS256"}), (48, {"HS256", "HS384"}), (64, {"HS256", "HS384", "HS512"})],
)
def test_secret_has_the_algorithms_that_it_is_long_enough_for(size: int, expected: set[str]) -> None:
    assert algorithms(keys_from_secret("s" * size)) == expected


@pytest.mark.parametrize("algorithm", EVERY)
def test_signature_is_verified_with_its_own_algorithm_and_no_other(algorithm: str) -> None:
    private = key_for(algorithm)
    keys = keys_from_secret(SECRET) if isinstance(private, bytes) else keys_from_pem(pem(private))
    signing_input, _, signature = sign(b"{}", b"{}", private, algorithm).rpartition(b".")
    key, raw = keys.find(None, algorithm), base64url(signature)
    assert key.verify(signing_input, raw, algorithm)
    assert not key.verify(signing_input + b"x", raw, algorithm)
    assert not key.verify(signing_input, raw[:-1], algorithm)
    assert not key.verify(signing_input, b"", algorithm)
    assert not key.verify(signing_input, raw + b"\0", algorithm)
    for other in (*EVERY, "none", "None", "", "HS1", "hs256"):
        assert other == algorithm or not key.verify(signing_input, raw, other)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", "", "HS", "rs256", "RS1", "ES256K", "dir"])
@pytest.mark.parametrize("kid", [None, "a", "b"])
def test_algorithm_that_is_unknown_has_no_key(name: str, kid: str | None) -> None:
    with pytest.raises(TokenBadSignature):
        key_set(jwk(rsa_key(), kid="a"), jwk(SECRET.encode(), kid="c")).find(kid, name)


def test_allowed_algorithms_narrow_what_a_key_serves() -> None:
    assert algorithms(keys_from_pem(pem(rsa_key()), ("PS256", "ES256"))) == {"PS256"}
    assert algorithms(keys_from_secret(SECRET, ("HS512",))) == {"HS512"}
    for refused in (("ES256",), ("HS256",), ("none",)):
        with pytest.raises(ValueError, match="allowed"):
            keys_from_pem(pem(rsa_key()), refused)
    with pytest.raises(ValueError, match="allowed"):
        keys_from_secret(SECRET, ("RS256",))
    with pytest.raises(ValueError, match="too short for HS512"):
        keys_from_secret("s" * 48, ("HS256", "HS512"))


@pytest.mark.parametrize(
    "secret",
    [
        "", "s" * 31, "ä" * 15, pem(rsa_key()), "\n " + pem(ec_key()), "x" * 64 + pem(rsa_key()),
        "ssh-rsa " + "A" * 80, " ecdsa-sha2-nistp256 " + "A" * 80, "\udcff" * 64,
    ],
)  # fmt: skip
def test_short_secret_and_public_material_are_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="secret") as caught:
        keys_from_secret(secret)
    assert len(secret) < 20 or secret[:20] not in str(caught.value)


def test_secret_is_used_as_utf8() -> None:
    assert algorithms(keys_from_secret("ä" * 16)) == {"HS256"}


PRIVATE = rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
X25519 = x25519.X25519PrivateKey.generate()
DSA = dsa.generate_private_key(1024)


@pytest.mark.parametrize(
    "text",
    ["", "text", "ä", PRIVATE, pem(rsa_key()).replace("M", "?"), pem(ec_key("k1")), pem(X25519), pem(DSA),
     pem(rsa_key(0, 1024)),
     pem(rsa_key()).replace("PUBLIC KEY", "CERTIFICATE")],
)  # fmt: skip
def test_what_is_no_strong_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"PEM|curve|kind|bits") as caught:
        keys_from_pem(text)
    assert "MII" not in str(caught.value)


@pytest.mark.parametrize("exponent", [2**32 + 1, 2**40 + 15])
def test_rsa_key_with_an_unusual_exponent_is_refused(exponent: int) -> None:
    numbers = RSAPublicNumbers(exponent, rsa_key().public_key().public_numbers().n)
    with pytest.raises(ValueError, match="exponent"):
        bind(numbers.public_key(), None, ())
    bind(RSAPublicNumbers(3, numbers.n).public_key(), None, ())


def test_keys_of_one_name_may_not_share_an_algorithm() -> None:
    keys = key_set(jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="a"), jwk(rsa_key(1), kid="b"))
    assert "ES256" in keys.find("a", "ES256").algorithms
    assert keys.find("a", "RS256") is not keys.find("b", "RS256")
    key_set(jwk(rsa_key(), kid="a", alg="RS256"), jwk(rsa_key(1), kid="a", alg="RS512"))
    for other in (rsa_key(), rsa_key(1)):
        with pytest.raises(ValueError, match="ambiguous"):
            key_set(jwk(rsa_key(), kid="a"), jwk(other, kid="a", alg="PS512"))


def test_token_with_a_name_gets_that_key_only() -> None:
    keys = key_set(jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="b"), jwk(ed_key()))
    assert keys.find("a", "RS256").kid == "a"
    with pytest.raises(TokenUnknownKey):
        keys.find("c", "RS256")
    with pytest.raises(TokenUnknownKey):
        keys.find("", "RS256")
    with pytest.raises(TokenUnknownKey):  # one without a name is not a key for all names
        keys.find("c", "EdDSA")
    with pytest.raises(TokenBadSignature):
        keys.find("b", "RS256")


def test_token_without_a_name_is_tried_only_if_one_key_fits() -> None:
    keys = key_set(jwk(rsa_key(), kid="a"), jwk(rsa_key(1), kid="b", alg="RS256"), jwk(ec_key(), kid="c"))
    assert keys.find(None, "ES256").kid == "c"
    assert keys.find(None, "PS256").kid == "a"
    with pytest.raises(TokenUnknownKey):
        keys.find(None, "RS256")
    with pytest.raises(TokenBadSignature):
        keys.find(None, "HS256")


def test_set_without_names_takes_any_name() -> None:
    assert "RS256" in keys_from_pem(pem(rsa_key())).find("whatever", "RS256").algorithms
    with pytest.raises(TokenUnknownKey):
        key_set(jwk(rsa_key()), jwk(rsa_key(1))).find("whatever", "RS256")


def test_empty_set_knows_no_key() -> None:
    with pytest.raises(TokenUnknownKey):
        KeySet([]).find(None, "RS256")


def test_representation_shows_no_key() -> None:
    key = keys_from_secret(SECRET).find(None, "HS256")
    assert "ssss" not in repr(key)
    assert "ssss" not in repr(keys_from_secret(SECRET))
    assert b64(b"ssss").decode() not in repr(key)


def test_public_formats_other_than_pem_are_refused() -> None:
    ssh = rsa_key().public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    with pytest.raises(ValueError, match="PEM"):
        keys_from_pem(ssh)


def test_public_key_in_any_text_form_is_no_secret() -> None:
    public = rsa_key().public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for text in (b64encode(der).decode(), ' {"kty": "RSA", "n": "' + "A" * 300 + '", "e": "AQAB"}'):
        with pytest.raises(ValueError, match="public key"):
            keys_from_secret(text)
    assert len(keys_from_secret(b64encode(b"MII" + b"s" * 40).decode())) == 1
