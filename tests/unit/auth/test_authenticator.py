from __future__ import annotations

import pytest
from tests.unit.auth.tokens import NOW, jwk, key_set, rsa_key, token
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txgateway.auth.authenticator import Authenticator, StaticKeys, bearer_token
from txgateway.auth.cache import TokenCache
from txgateway.auth.keys import KeySet
from txgateway.auth.token import TokenValidator, VerifiedToken
from txgateway.errors import GatewayError, JwksUnavailable, TokenMalformed, TokenMissing, TokenUnknownKey

A = jwk(rsa_key(), kid="a")
B = jwk(rsa_key(1), kid="b")
TOKEN_A = token(header={"kid": "a"})
TOKEN_B = token(key=rsa_key(1), header={"kid": "b"})


class Source:
    """Keys that a test sets, and whose refetch it ends."""

    def __init__(self, keys: KeySet | None) -> None:
        self.keys = keys
        self.looks = True
        self.waiting: list[Deferred[None]] = []

    def refetch(self) -> Deferred[None] | None:
        if not self.looks:
            return None
        self.waiting.append(Deferred())
        return self.waiting[-1]


class Bench:
    def __init__(self, keys: KeySet | None, size: int = 10) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.source = Source(keys)
        self.cache = TokenCache(size, self.clock.seconds)
        self.counted: list[str] = []
        validator = TokenValidator(self.clock.seconds)
        self.authenticator = Authenticator(self.source, validator, self.cache, self.counted.append)

    def now(self, authorization: bytes | None) -> VerifiedToken:
        """The verdict, which has to be at hand."""
        found = self.authenticator.authenticate(authorization)
        assert isinstance(found, VerifiedToken)
        return found

    def later(self, authorization: bytes) -> list[VerifiedToken | GatewayError]:
        """What the verdict will be, once it is there."""
        found = self.authenticator.authenticate(authorization)
        assert isinstance(found, Deferred)
        results: list[VerifiedToken | GatewayError] = []

        def failed(failure: Failure) -> None:
            assert isinstance(failure.value, GatewayError)
            results.append(failure.value)

        found.addCallbacks(results.append, failed)
        return results


@pytest.mark.parametrize(
    "value",
    [None, b"", b" ", b"Basic YTpi", b"Bearers x", b"Bearer\tx", b"x", b" Bearer x", b"Token Bearer x", b"Bearer,x"],
)
def test_without_bearer_there_is_no_token(value: bytes | None) -> None:
    bench = Bench(key_set(A))
    with pytest.raises(TokenMissing):
        bench.now(value)
    assert bench.counted == ["TOKEN_MISSING"]


@pytest.mark.parametrize("value", [b"Bearer", b"Bearer ", b"bearer    ", b"Bearer x", b"Bearer \tx", b"Bearer a.b.c d"])
def test_bearer_without_a_token_is_malformed(value: bytes) -> None:
    bench = Bench(key_set(A))
    with pytest.raises(TokenMalformed):
        bench.now(value)
    assert bench.counted == ["TOKEN_MALFORMED"]


@pytest.mark.parametrize("prefix", [b"Bearer ", b"bearer ", b"BEARER ", b"bEaReR    ", b"Bearer  "])
def test_scheme_has_any_case_and_one_space_or_more(prefix: bytes) -> None:
    assert bearer_token(prefix + b"x") == b"x"
    bench = Bench(key_set(A))
    first = bench.now(prefix + TOKEN_A)
    assert first.subject == "alice"
    assert bench.now(prefix + TOKEN_A) is first
    assert bench.counted == ["ok", "cached"]


def test_second_use_is_not_verified_again_until_the_token_expires() -> None:
    bench = Bench(key_set(A))
    first = bench.now(b"Bearer " + TOKEN_A)
    bench.source.keys = KeySet([])
    assert bench.now(b"Bearer " + TOKEN_A) is first
    bench.source.keys = key_set(A)
    bench.clock.advance(660)
    with pytest.raises(GatewayError):
        bench.now(b"Bearer " + TOKEN_A)
    assert bench.counted == ["ok", "cached", "TOKEN_EXPIRED"]


def test_refusals_are_not_kept() -> None:
    bench = Bench(key_set(A))
    for _ in range(2):
        with pytest.raises(GatewayError):
            bench.now(b"Bearer " + token(key=rsa_key(1), header={"kid": "a"}))
    assert len(bench.cache) == 0
    assert bench.counted == ["TOKEN_BAD_SIGNATURE"] * 2


def test_unknown_key_is_waited_for_and_the_token_judged_once_more() -> None:
    bench = Bench(key_set(A))
    known, unknown = bench.later(b"Bearer " + TOKEN_B), bench.later(b"Bearer " + token(header={"kid": "c"}))
    assert not known
    bench.source.keys = key_set(A, B)
    for waiting in bench.source.waiting:
        waiting.callback(None)
    (good,) = known
    assert isinstance(good, VerifiedToken)
    assert [type(error) for error in unknown] == [TokenUnknownKey]
    assert len(bench.source.waiting) == 2
    assert bench.now(b"Bearer " + TOKEN_B) is good
    assert bench.counted == ["ok", "TOKEN_UNKNOWN_KEY", "cached"]


def test_unknown_key_is_refused_at_once_when_there_is_no_look() -> None:
    bench = Bench(key_set(A))
    bench.source.looks = False
    with pytest.raises(TokenUnknownKey):
        bench.now(b"Bearer " + TOKEN_B)
    assert bench.counted == ["TOKEN_UNKNOWN_KEY"]


def test_without_any_key_set_the_answer_is_that_keys_are_unavailable() -> None:
    bench = Bench(None)
    results = bench.later(b"Bearer " + TOKEN_A)
    bench.source.waiting.pop().callback(None)
    assert [type(error) for error in results] == [JwksUnavailable]
    bench.source.looks = False
    with pytest.raises(JwksUnavailable):
        bench.now(b"Bearer " + TOKEN_A)
    with pytest.raises(TokenMalformed):  # which no key would change
        bench.now(b"Bearer a.b.c")
    assert bench.counted == ["JWKS_UNAVAILABLE", "JWKS_UNAVAILABLE", "TOKEN_MALFORMED"]


@pytest.mark.parametrize(
    "raw",
    [token(key=rsa_key(1), header={"kid": "a"}), token(algorithm="HS256"), token({"exp": 1}, header={"kid": "a"})],
)
def test_only_an_unknown_key_is_a_reason_to_look_for_newer_ones(raw: bytes) -> None:
    bench = Bench(key_set(A))
    with pytest.raises(GatewayError):
        bench.now(b"Bearer " + raw)
    assert bench.source.waiting == []


def test_request_that_ends_leaves_the_wait() -> None:
    bench = Bench(key_set(A))
    found = bench.authenticator.authenticate(b"Bearer " + TOKEN_B)
    assert isinstance(found, Deferred)
    found.addErrback(lambda _: None)
    found.cancel()
    assert bench.source.waiting[0].called
    assert bench.counted == []


def test_static_keys_are_never_fetched_again() -> None:
    assert StaticKeys(key_set(A)).refetch() is None
