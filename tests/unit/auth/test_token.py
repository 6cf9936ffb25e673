from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.auth.tokens import (
    NOW,
    SECRET,
    b64,
    ec_key,
    ed_key,
    jwk,
    jwks,
    key_for,
    key_set,
    pem,
    rsa_key,
    sign,
    token,
    validator,
)

from txgateway.auth.jwk import read_jwks
from txgateway.auth.keys import keys_from_pem, keys_from_secret
from txgateway.auth.token import MAX_TOKEN_BYTES, VerifiedToken, parse
from txgateway.errors import (
    TokenBadClaims,
    TokenBadSignature,
    TokenError,
    TokenExpired,
    TokenMalformed,
    TokenNotYetValid,
    TokenUnknownKey,
)

KEYS = keys_from_pem(pem(rsa_key()))
HMAC_KEYS = keys_from_secret(SECRET)


def validated(raw: bytes, keys: Any = KEYS, **settings: Any) -> VerifiedToken:
    return validator(**settings).validate(raw, keys)


def of_claims(claims: dict[str, Any], **settings: Any) -> VerifiedToken:
    """The verdict on a token with these claims, signed by the cheapest key."""
    return validated(token(claims, "HS256"), HMAC_KEYS, **settings)


@pytest.mark.parametrize(
    "algorithm",
    [
        "HS256",
        "HS384",
        "HS512",
        "RS256",
        "RS384",
        "RS512",
        "PS256",
        "PS384",
        "PS512",
        "ES256",
        "ES384",
        "ES512",
        "EdDSA",
    ],
)
def test_good_token_of_every_algorithm_is_verified(algorithm: str) -> None:
    private = key_for(algorithm)
    keys = key_set(jwk(private, kid="a", use="sig"))
    verified = validated(token({"scope": "b a", "x": {"y": [1]}}, algorithm, header={"kid": "a"}), keys)
    assert verified.subject == "alice"
    assert verified.scopes == {"a", "b"}
    assert verified.claims == {"sub": "alice", "exp": NOW + 600, "scope": "b a", "x": {"y": [1]}}
    assert verified.expires_at == NOW + 660


def test_verified_claims_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        validated(token()).claims["sub"] = "eve"  # type: ignore[index]


# --- form -----------------------------------------------------------------------------------------------------------

HEADER, PAYLOAD, SIGNATURE = token().split(b".")


@pytest.mark.parametrize(
    "raw",
    [
        b"", b".", b"..", b"...", b"a", b"a.b", b".b.c", b"a..c", b"a.b.", b"a.b.c.d", b"a.b.c.d.e", HEADER,
        HEADER + b"." + PAYLOAD, HEADER + b"." + PAYLOAD + b".", token() + b".", b"." + token(), token() + b"." + SIGNATURE,
        token() + b"=", token() + b"==", token() + b" ", b" " + token(), token() + b"\n", token() + b"\0",
        HEADER + b"=." + PAYLOAD + b"." + SIGNATURE, HEADER + b"." + PAYLOAD + b"=." + SIGNATURE,
        HEADER + b". " + PAYLOAD + b"." + SIGNATURE, HEADER + b"\r\n." + PAYLOAD + b"." + SIGNATURE,
        token().replace(b"_", b"/").replace(b"-", b"+") + b"/", "ä".encode() + token(), b"\xff" + token(),
        token() + b", " + token(), b'"' + token() + b'"', b'{"payload": "", "signatures": []}',
    ],
)  # fmt: skip
def test_what_is_not_three_segments_of_base64url_is_malformed(raw: bytes) -> None:
    with pytest.raises(TokenMalformed):
        validated(raw)


def test_unused_bits_have_to_be_zero() -> None:
    last = SIGNATURE[-1:]
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert digits.index(last) % 16 == 0  # 256 octets are 341 digits and a third
    other = digits[digits.index(last) + 1 : digits.index(last) + 2]
    with pytest.raises(TokenMalformed):
        validated(token()[:-1] + other)


def test_token_over_the_limit_is_refused_before_it_is_decoded() -> None:
    def of_length(length: int) -> bytes:
        padding = 0
        while len(raw := token({"pad": "x" * padding}, "HS256")) < length:
            padding += max((length - len(raw)) * 3 // 4, 1)
        return raw

    fitting = of_length(MAX_TOKEN_BYTES - 1)
    assert len(fitting) <= MAX_TOKEN_BYTES
    validated(fitting, HMAC_KEYS)
    for length in (MAX_TOKEN_BYTES + 1, 3 * MAX_TOKEN_BYTES):
        with pytest.raises(TokenMalformed, match="too long"):
            validated(of_length(length), HMAC_KEYS)
    with pytest.raises(TokenMalformed, match="too long"):
        parse(b"a" * 1_000_000)


def signed_header(header: object) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sign(raw, json.dumps({"exp": NOW + 60}).encode(), rsa_key(), "RS256")


@pytest.mark.parametrize(
    "header",
    [
        b"", b"x", b"{", [], 1, "RS256", None, {}, {"typ": "JWT"}, b'{"alg":"RS256","alg":"RS256"}',
        b'{"alg":"none","alg":"RS256"}', b'{"alg":"RS256","x":{"a":1,"a":1}}', b'{"alg":"RS256","x":NaN}',
        b'{"alg":"RS256","x":"\xff"}', b'\xef\xbb\xbf{"alg":"RS256"}', b'{"alg":"RS256"} x',
        b'{"alg":"RS256","x":' + b"[" * 2000 + b"]" * 2000 + b"}",
        {"alg": None}, {"alg": 1}, {"alg": ["RS256"]}, {"alg": {"RS256": 1}}, {"alg": True},
        {"alg": "RS256", "kid": None}, {"alg": "RS256", "kid": 1}, {"alg": "RS256", "kid": ["a"]}, {"alg": "RS256", "kid": {}},
        {"alg": "RS256", "crit": []}, {"alg": "RS256", "crit": ["exp"], "exp": 1}, {"alg": "RS256", "crit": None},
        {"alg": "RS256", "crit": ["b64"], "b64": True}, {"alg": "RS256", "crit": "b64", "b64": False},
        {"alg": "RS256", "typ": 1}, {"alg": "RS256", "typ": None}, {"alg": "RS256", "typ": ["JWT"]}, {"alg": "RS256", "typ": ""},
        {"alg": "RS256", "typ": "dpop+jwt"}, {"alg": "RS256", "typ": "logout+jwt"}, {"alg": "RS256", "typ": "secevent+jwt"},
        {"alg": "RS256", "typ": "JOSE"}, {"alg": "RS256", "typ": "text/JWT"}, {"alg": "RS256", "typ": "JWT "},
        {"alg": "RS256", "cty": "JWT"}, {"alg": "RS256", "cty": "jwt"}, {"alg": "RS256", "cty": "application/JWT"},
    ],
)  # fmt: skip
def test_header_that_is_not_that_of_a_plain_access_token_is_malformed(header: object) -> None:
    with pytest.raises(TokenMalformed):
        validated(signed_header(header))


@pytest.mark.parametrize("kind", [..., "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "Application/JWT"])
def test_access_token_types_are_accepted(kind: Any) -> None:
    validated(token(header={"typ": kind}))


@pytest.mark.parametrize(
    "header",
    [
        {"zip": "DEF"},
        {"b64": False},
        {"jku": "http://evil"},
        {"x5u": 1},
        {"x5c": ["MII"]},
        {"cty": 1},
        {"enc": "A128GCM"},
    ],
)
def test_other_header_members_change_nothing(header: dict[str, Any]) -> None:
    validated(token(header=header))


def test_key_in_the_token_is_not_used() -> None:
    stranger = rsa_key(1)
    for members in ({"jwk": jwk(stranger)}, {"jwk": jwk(stranger), "kid": "a"}, {"x5c": [pem(stranger)]}):
        with pytest.raises(TokenBadSignature):
            validated(token(key=stranger, header=members))


# --- keys and algorithms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("signature", [b"", b64(b"x"), SIGNATURE])
def test_token_without_signature_is_refused(name: str, signature: bytes) -> None:
    head = b64(json.dumps({"alg": name}).encode())
    with pytest.raises((TokenBadSignature, TokenMalformed)):
        validated(head + b"." + PAYLOAD + b"." + signature)


@pytest.mark.parametrize("name", ["HS256", "HS384", "HS512"])
@pytest.mark.parametrize("kid", [..., "a"])
def test_public_key_as_secret_is_refused(name: str, kid: Any) -> None:
    public = rsa_key().public_key()
    text = pem(rsa_key())
    named = read_jwks(jwks(jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="b")), has_secrets=True).keys
    assert public.key_size == 2048
    for secret in (text, text.strip(), text.replace("\n", "\r\n"), json.dumps(jwk(rsa_key()))):
        raw = token(algorithm=name, key=secret.encode(), header={"kid": kid})
        for keys in (KEYS, named):
            with pytest.raises(TokenBadSignature):
                validated(raw, keys)


def test_signature_of_another_algorithm_of_the_same_key_is_refused() -> None:
    signing_input = token(algorithm="RS256").rpartition(b".")[0]
    for algorithm in ("RS384", "PS256"):
        other = token(algorithm=algorithm).rpartition(b".")[2]
        with pytest.raises(TokenBadSignature):
            validated(signing_input + b"." + other)


def test_algorithm_is_bound_to_the_key() -> None:
    only = keys_from_pem(pem(rsa_key()), ("RS256",))
    validated(token(algorithm="RS256"), only)
    for algorithm in ("RS512", "PS256"):
        with pytest.raises(TokenBadSignature):
            validated(token(algorithm=algorithm), only)


def test_curve_has_one_algorithm() -> None:
    raw = sign(b'{"alg":"ES384"}', b'{"exp":2e9}', ec_key(), "ES256")
    for keys in (keys_from_pem(pem(ec_key("P-256"))), keys_from_pem(pem(ec_key("P-384")))):
        with pytest.raises(TokenBadSignature):
            validated(raw, keys)


def test_stranger_s_signature_is_refused() -> None:
    for algorithm, stranger in (("RS256", rsa_key(1)), ("ES256", ec_key("P-256", 1)), ("HS256", b"x" * 64)):
        own = key_for(algorithm)
        with pytest.raises(TokenBadSignature):
            validated(token(algorithm=algorithm, key=stranger), key_set(jwk(own)))


def test_kid_chooses_the_key_and_is_nothing_else() -> None:
    keys = key_set(jwk(rsa_key(), kid="a"), jwk(rsa_key(1), kid="b"))
    validated(token(key=rsa_key(1), header={"kid": "b"}), keys)
    with pytest.raises(TokenBadSignature):
        validated(token(key=rsa_key(1), header={"kid": "a"}), keys)
    for kid in ("", "c", "A", "a ", "a\0", "../a", "' OR 1=1 --", "/dev/null", "http://evil/key", "ä", "x" * 2000, ...):
        with pytest.raises(TokenUnknownKey):
            validated(token(key=rsa_key(1), header={"kid": kid}), keys)


def test_signature_is_judged_before_the_claims() -> None:
    for claims in ({"exp": 0}, {"exp": "x"}, {"nbf": 9e15}):
        with pytest.raises(TokenBadSignature):
            validated(token(claims, key=rsa_key(1)))
    raw = sign(b'{"alg":"RS256"}', b"not json", rsa_key(1), "RS256")
    with pytest.raises(TokenBadSignature):
        validated(raw)


# --- claims ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        b"x", b"[]", b"1", b"null", b'"a"', b'{"exp":2e9,"exp":2e9}', b'{"exp":2e9,"a":{"b":1,"b":1}}', b'{"exp":1e999}',
        b'{"exp":NaN}', b'{"exp":Infinity}', b'{"exp":2e9,"sub":"\xff"}', b'{"exp":2e9,"sub":"\\ud800"}', b'{"exp":2e9}x',
        b'{"exp":2e9,"a":' + b'{"a":' * 600 + b"1" + b"}" * 601, b'{"exp":' + b"9" * 4400 + b"}",
    ],
)  # fmt: skip
def test_payload_that_is_no_strict_json_object_is_malformed(payload: bytes) -> None:
    with pytest.raises(TokenMalformed):
        validated(sign(b'{"alg":"HS256"}', payload, SECRET.encode(), "HS256"), HMAC_KEYS)


NO_TIMES: list[Any] = [None, str(NOW + 60), True, False, [NOW + 60], {}, "", 10**400, -(10**400), "never"]


@pytest.mark.parametrize("value", [..., *NO_TIMES], ids=lambda value: str(value)[:12])
def test_expiry_that_is_missing_or_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TokenBadClaims):
        of_claims({"exp": value})


@pytest.mark.parametrize("name", ["nbf", "iat"])
@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: str(value)[:12])
def test_start_that_is_no_number_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TokenBadClaims):
        of_claims({name: value})


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        ({"exp": NOW - 59.9}, None), ({"exp": NOW - 60}, TokenExpired), ({"exp": 0}, TokenExpired), ({"exp": -1e300}, TokenExpired),
        ({"exp": int(NOW)}, None), ({"exp": 2**63}, None), ({"exp": 1e300}, None),
        ({"nbf": NOW + 60}, None), ({"nbf": NOW + 60.1}, TokenNotYetValid), ({"nbf": 0}, None), ({"nbf": 1e300}, TokenNotYetValid),
        ({"iat": NOW + 60}, None), ({"iat": NOW + 60.1}, TokenNotYetValid), ({"iat": 0, "nbf": NOW}, None),
        ({"iat": 0, "nbf": 2 * NOW}, TokenNotYetValid), ({"exp": 1, "nbf": 2 * NOW}, TokenExpired),
    ],
)  # fmt: skip
def test_times_are_judged_with_leeway_both_ways(claims: dict[str, Any], error: type[TokenError] | None) -> None:
    if error is None:
        of_claims(claims)
    else:
        with pytest.raises(error):
            of_claims(claims)


def test_leeway_may_be_none() -> None:
    assert of_claims({"exp": NOW + 0.1}, leeway_s=0).expires_at == NOW + 0.1
    for claims, error in (({"exp": NOW}, TokenExpired), ({"nbf": NOW + 0.1}, TokenNotYetValid)):
        with pytest.raises(error):
            of_claims(claims, leeway_s=0)


@pytest.mark.parametrize(
    "value",
    [..., None, "", "https://c", "https://a/", "HTTPS://A", 1, ["https://a"], {"https://a": 1}, "https://a,https://b"],
)
def test_other_issuer_is_refused(value: Any) -> None:
    issuers = ("https://a", "https://b")
    of_claims({"iss": "https://b"}, issuers=issuers)
    with pytest.raises(TokenBadClaims):
        of_claims({"iss": value}, issuers=issuers)
    of_claims({"iss": value})


@pytest.mark.parametrize("value", ["a", "b", ["a"], ["x", "b"], ["a", "a"]])
def test_any_audience_of_ours_is_enough(value: Any) -> None:
    of_claims({"aud": value}, audiences=("a", "b"))


@pytest.mark.parametrize(
    "value", [..., None, "", "c", "A", "a b", "ab", [], ["c"], [["a"]], ["a", 1], ["a", None], {"a": 1}, 1, True]
)
def test_other_audience_is_refused(value: Any) -> None:
    with pytest.raises(TokenBadClaims):
        of_claims({"aud": value}, audiences=("a", "b"))
    of_claims({"aud": value})


@pytest.mark.parametrize("value", [None, 1, True, ["alice"], {}])
def test_subject_that_is_no_string_is_refused(value: Any) -> None:
    with pytest.raises(TokenBadClaims):
        of_claims({"sub": value})


def test_subject_may_be_missing() -> None:
    assert of_claims({"sub": ...}).subject is None
    assert of_claims({"sub": ""}).subject is None


@pytest.mark.parametrize(
    ("claims", "scopes"),
    [
        ({}, set()), ({"scope": ""}, set()), ({"scope": "a"}, {"a"}), ({"scope": "a  b "}, {"a", "b"}), ({"scope": "a\tb"}, {"a\tb"}),
        ({"scp": ["a", "b c", ""]}, {"a", "b c"}), ({"scp": "a b"}, {"a", "b"}), ({"scope": ["a"]}, {"a"}),
        ({"scope": "a", "scp": ["b"]}, {"a"}), ({"scope": None, "scp": ["b"]}, set()), ({"scope": 1}, set()),
        ({"scp": ["a", 1]}, set()), ({"scp": {"a": 1}}, set()), ({"scope": True}, set()),
    ],
)  # fmt: skip
def test_scopes_are_read_from_scope_or_scp(claims: dict[str, Any], scopes: set[str]) -> None:
    assert of_claims(claims).scopes == scopes


@pytest.mark.parametrize("curve", ["Ed25519", "Ed448"])
def test_both_edwards_curves_are_verified(curve: str) -> None:
    validated(token(algorithm="EdDSA", key=ed_key(curve)), keys_from_pem(pem(ed_key(curve))))
    with pytest.raises(TokenBadSignature):
        validated(token(algorithm="EdDSA", key=ed_key("Ed25519")), keys_from_pem(pem(ed_key("Ed448"))))


def test_elliptic_signature_in_another_form_is_refused() -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.hashes import SHA256

    signing_input = token(algorithm="ES256").rpartition(b".")[0]
    der = ec_key().sign(signing_input, ECDSA(SHA256()))
    forms: list[Callable[[], bytes]] = [lambda: der, lambda: b"\0" * 64, lambda: b"\xff" * 64, lambda: b"\0" * 63]
    for form in forms:
        with pytest.raises(TokenBadSignature):
            validated(signing_input + b"." + b64(form()), keys_from_pem(pem(ec_key())))
