"""No change to a good token is ever accepted, none raises anything undocumented; the cache is only a memory."""

from __future__ import annotations

import json
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.unit.auth.tokens import NOW, SECRET, b64, ec_key, ed_key, jwk, key_for, key_set, rsa_key, sign, token
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from txgateway.auth.authenticator import Authenticator, StaticKeys
from txgateway.auth.cache import TokenCache
from txgateway.auth.encoding import base64url, json_object
from txgateway.auth.jwk import MAX_KEYS, read_jwks
from txgateway.auth.keys import KeySet, keys_from_secret
from txgateway.auth.token import MAX_TOKEN_BYTES, TokenValidator, VerifiedToken
from txgateway.errors import TokenBadClaims, TokenError, TokenExpired, TokenNotYetValid
from txgateway.own_headers import claim_value

#: One key for each kind, so that every algorithm has one; and one without a name of its own.
KEYS = key_set(
    jwk(rsa_key(), kid="rsa"), jwk(ec_key(), kid="ec"), jwk(ed_key(), kid="ed"), jwk(SECRET.encode(), kid="oct")
)
KIDS = {"RS256": "rsa", "PS384": "rsa", "ES256": "ec", "EdDSA": "ed", "HS512": "oct"}
GOOD = {
    name: token({"scope": "a b", "aud": ["x"], "iss": "i", "nbf": NOW - 5}, name, header={"kid": kid})
    for name, kid in KIDS.items()
}
HMAC = keys_from_secret(SECRET)

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(-(10**330), 10**330), st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
segments = st.sampled_from([b"", b"e30", b"AA", b"eyJhbGciOiJub25lIn0", b64(b'{"alg":"none","kid":"rsa"}')])
digits = st.sampled_from(list(b'ABZabz019-_=+/. \n\r\t\x00\xff"{},'))


def validator(now: float = NOW) -> TokenValidator:
    return TokenValidator(lambda: now, ("i",), ("x",))


def refused(raw: bytes, keys: KeySet = KEYS) -> None:
    """Make sure that the token is refused, for one of the documented reasons."""
    with pytest.raises(TokenError) as caught:
        validator().validate(raw, keys)
    assert caught.value.reason in {
        "TOKEN_MALFORMED", "TOKEN_EXPIRED", "TOKEN_NOT_YET_VALID", "TOKEN_BAD_SIGNATURE", "TOKEN_BAD_CLAIMS", "TOKEN_UNKNOWN_KEY",
    }  # fmt: skip


good = st.sampled_from(list(GOOD.values()))


def test_tokens_that_are_mutated_here_are_good() -> None:
    for raw in GOOD.values():
        validator().validate(raw, KEYS)


@given(raw=good, data=st.data(), kind=st.sampled_from(["replace", "insert", "delete", "truncate", "repeat"]))
def test_token_with_any_bytes_changed_is_refused(raw: bytes, data: st.DataObject, kind: str) -> None:
    at = data.draw(st.integers(0, len(raw) - 1))
    if kind in {"replace", "insert"}:
        new = bytes([data.draw(digits | st.integers(0, 255))])
        changed = raw[:at] + new + raw[at + (kind == "replace") :]
    elif kind == "delete":
        changed = raw[:at] + raw[at + data.draw(st.integers(1, 8)) :]
    elif kind == "truncate":
        changed = data.draw(st.sampled_from([raw[:at], raw[at + 1 :]]))
    else:
        changed = raw[:at] + raw[at : at + 4] + raw[at:]
    assume(changed != raw)
    refused(changed)


@given(raw=good, index=st.integers(0, 2), data=st.data())
def test_token_with_a_bit_of_its_content_changed_is_refused(raw: bytes, index: int, data: st.DataObject) -> None:
    parts = raw.split(b".")
    octets = bytearray(base64url(parts[index]))
    bit = data.draw(st.integers(0, 8 * len(octets) - 1))
    octets[bit // 8] ^= 1 << bit % 8
    parts[index] = b64(bytes(octets))
    refused(b".".join(parts))


@given(raws=st.tuples(good, good, good), order=st.permutations([0, 1, 2]), extra=st.lists(segments, max_size=2))
def test_segments_put_together_otherwise_are_refused(
    raws: tuple[bytes, bytes, bytes], order: list[int], extra: list[bytes]
) -> None:
    parts = [raw.split(b".")[place] for raw, place in zip(raws, order, strict=True)] + extra
    mixed = b".".join(parts)
    assume(mixed not in GOOD.values())
    refused(mixed)


@given(
    raw=good,
    changes=st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "cty", "jwk", "x"]), documents, min_size=1),
)
@example(raw=GOOD["RS256"], changes={"alg": "HS512", "kid": "oct"})
@example(raw=GOOD["RS256"], changes={"alg": "none"})
def test_header_changed_under_the_same_signature_is_refused(raw: bytes, changes: dict[str, Any]) -> None:
    head, payload, signature = raw.split(b".")
    header = json.loads(base64url(head)) | changes
    changed = b64(json.dumps(header).encode("utf-8", "surrogatepass"))
    assume(changed != head)
    refused(b".".join((changed, payload, signature)))


@given(raw=good, name=st.sampled_from(["sub", "exp", "aud", "iss", "nbf", "scope", "admin"]), value=documents)
def test_claims_changed_under_the_same_signature_are_refused(raw: bytes, name: str, value: Any) -> None:
    head, payload, signature = raw.split(b".")
    changed = b64(json.dumps(json.loads(base64url(payload)) | {name: value}).encode())
    assume(changed != payload)
    refused(b".".join((head, changed, signature)))


@given(
    st.binary(max_size=200)
    | st.text("ey.AQ-_=", max_size=60).map(str.encode)
    | st.binary(min_size=MAX_TOKEN_BYTES, max_size=MAX_TOKEN_BYTES + 9)
)
def test_any_bytes_are_refused(raw: bytes) -> None:
    refused(raw)


@given(
    st.lists(st.binary(max_size=60) | documents.map(lambda value: json.dumps(value).encode()), min_size=3, max_size=3)
)
def test_segments_of_anything_are_refused(contents: list[bytes]) -> None:
    refused(b".".join(map(b64, contents)))


@given(
    header=st.dictionaries(
        st.sampled_from(["alg", "kid", "typ", "crit", "cty", "b64"]),
        documents | st.sampled_from(["HS256", "HS384", "JWT", "rsa"]),
    )
)
@example(header={"alg": "HS384"})
def test_header_of_anything_signed_well_is_accepted_only_with_its_algorithm(header: dict[str, Any]) -> None:
    raw = sign(json.dumps(header).encode(), b'{"exp":2e9,"iss":"i","aud":"x"}', SECRET.encode(), "HS384")
    try:
        validator().validate(raw, HMAC)
    except TokenError:
        return
    assert header["alg"] == "HS384"
    assert "crit" not in header


moments = st.sampled_from([NOW - 61, NOW - 60, NOW - 59, NOW, NOW + 59, NOW + 60, NOW + 61, int(NOW)])
claim_sets = st.fixed_dictionaries(
    {},
    optional={
        "exp": moments | documents, "nbf": moments | documents, "iat": moments | documents, "sub": st.just("s") | documents,
        "iss": st.sampled_from(["i", "j"]) | documents, "aud": st.sampled_from(["x", ["y", "x"], ["y"]]) | documents,
        "scope": st.sampled_from(["a b", ""]) | documents, "scp": st.just(["a"]) | documents,
    },
)  # fmt: skip


def expected(claims: dict[str, Any]) -> set[type[TokenError] | None]:
    """What may be said of these claims, by the letter of the documentation; None is acceptance."""

    def is_time(value: Any) -> bool:
        return type(value) in {int, float} and abs(value) < 2**1023

    aud = claims.get("aud")
    aud = [aud] if isinstance(aud, str) else aud
    if (
        not is_time(claims.get("exp"))
        or not all(is_time(claims[name]) for name in ("nbf", "iat") if name in claims)
        or not isinstance(claims.get("sub", ""), str)
        or claims.get("iss") != "i"
        or not (isinstance(aud, list) and all(isinstance(item, str) for item in aud) and "x" in aud)
    ):
        return {TokenBadClaims}
    found: set[type[TokenError] | None] = set()
    if claims["exp"] + 60.0 <= NOW:
        found.add(TokenExpired)
    if any(claims[name] - 60.0 > NOW for name in ("nbf", "iat") if name in claims):
        found.add(TokenNotYetValid)
    return found or {None}


@given(claim_sets)
@settings(max_examples=300)
def test_claims_are_judged_as_documented(claims: dict[str, Any]) -> None:
    assume(not any(isinstance(value, int) and 2**1023 <= abs(value) <= 2**1024 for value in claims.values()))
    raw = sign(b'{"alg":"HS256"}', json.dumps(claims).encode("utf-8"), SECRET.encode(), "HS256")
    try:
        verified = validator().validate(raw, HMAC)
    except TokenError as error:
        found: type[TokenError] | None = type(error)
    else:
        found = None
        assert verified.claims == claims
        assert verified.expires_at == claims["exp"] + 60.0
    assert found in expected(claims)


@given(st.binary(max_size=30))
def test_octets_have_one_spelling(raw: bytes) -> None:
    text = b64(raw)
    assert base64url(text) == raw
    for other in (text + b"=", text + b"A" * (1 + len(text) % 4), text[:-1] + b"!", b" " + text):
        try:
            assert base64url(other) != raw
        except ValueError:
            continue


@given(st.dictionaries(st.text(max_size=4), documents, max_size=4) | documents)
def test_json_is_read_as_everybody_reads_it(value: Any) -> None:
    raw = json.dumps(value).encode("utf-8", "surrogatepass")
    try:
        found = json_object(raw)
    except ValueError:
        is_plain = isinstance(value, dict) and not any(0xD800 <= ord(character) < 0xE000 for character in str(value))
        assert not is_plain or "\\ud" in raw.decode().lower()
    else:
        assert found == value


JWKS = [jwk(rsa_key(), kid="a"), jwk(ec_key(), kid="b"), jwk(ed_key()), jwk(SECRET.encode())]


@given(
    st.sampled_from(JWKS),
    st.dictionaries(
        st.sampled_from(["kty", "crv", "alg", "use", "key_ops", "kid", "n", "e", "x", "y", "k"]), documents, max_size=3
    ),
)
def test_key_with_any_member_changed_is_used_or_skipped(key: dict[str, Any], changes: dict[str, Any]) -> None:
    raw = json.dumps({"keys": [key | changes]}).encode()
    found = read_jwks(raw, has_secrets=False)
    assert len(found.keys) + len(found.skipped) == 1 <= MAX_KEYS


@given(documents)
def test_claim_never_becomes_more_than_one_field_value(claim: object) -> None:
    value = claim_value(claim)
    assert value is None or (value and value == value.strip() and not set(value) & {*range(32), 127})


# --- the cache -------------------------------------------------------------------------------------------------------

NAMES = [b"a", b"b", b"c", b"d"]


class CacheMachine(RuleBasedStateMachine):
    """The cache beside a list that is searched from end to end."""

    @initialize(size=st.integers(0, 3))
    def build(self, size: int) -> None:
        self.clock = Clock()
        self.size = size
        self.cache = TokenCache(size, self.clock.seconds)
        self.model: OrderedDict[bytes, VerifiedToken] = OrderedDict()

    @rule(name=st.sampled_from(NAMES), life=st.integers(1, 5))
    def put(self, name: bytes, life: int) -> None:
        verified = VerifiedToken(None, frozenset(), MappingProxyType({}), self.clock.seconds() + life)
        self.cache.put(name, verified)
        self.model.pop(name, None)
        self.model[name] = verified
        while len(self.model) > self.size:
            del self.model[next(iter(self.model))]

    @rule(name=st.sampled_from(NAMES))
    def get(self, name: bytes) -> None:
        known = self.model.pop(name, None)
        if known is not None and self.clock.seconds() < known.expires_at:
            self.model[name] = known
            assert self.cache.get(name) is known
        else:
            assert self.cache.get(name) is None

    @rule(seconds=st.sampled_from([0.5, 1.0, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def keys_change(self) -> None:
        self.cache.clear()
        self.model.clear()

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "cache"):
            assert len(self.cache) == len(self.model) <= self.size


def test_cache_is_what_a_simple_one_is() -> None:
    run_state_machine_as_test(CacheMachine, settings=settings(stateful_step_count=40))


@given(
    size=st.integers(0, 2),
    steps=st.lists(st.tuples(st.sampled_from(range(4)), st.sampled_from([0.0, 30.0, 100.0])), max_size=12),
)
def test_verdict_is_the_same_with_a_cache_and_without(size: int, steps: list[tuple[int, float]]) -> None:
    clock = Clock()
    clock.advance(NOW)
    validator = TokenValidator(clock.seconds)
    cache = TokenCache(size, clock.seconds)
    counted: list[str] = []
    cached = Authenticator(StaticKeys(KEYS), validator, cache, counted.append)
    stranger = token(key=rsa_key(1), header={"kid": "rsa"})
    raws = [GOOD["EdDSA"], token({"exp": NOW + 100}, "EdDSA", key_for("EdDSA")), stranger, b"a.b.c"]
    for index, pause in steps:
        clock.advance(pause)
        verdicts: list[Any] = []
        for judge in (lambda raw: cached.authenticate(b"Bearer " + raw), lambda raw: validator.validate(raw, KEYS)):
            try:
                verdict = judge(raws[index])
                assert not isinstance(verdict, Deferred)
                verdicts.append((verdict.subject, verdict.claims, verdict.expires_at))
            except TokenError as error:
                verdicts.append(error.reason)
        assert verdicts[0] == verdicts[1]
    assert len(counted) == len(steps)
