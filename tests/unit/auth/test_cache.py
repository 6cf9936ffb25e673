from __future__ import annotations

from types import MappingProxyType

from twisted.internet.task import Clock

from txgateway.auth.cache import MAX_CACHED_BYTES, TokenCache
from txgateway.auth.token import VerifiedToken


def verified(name: str = "alice", expires_at: float = 10.0) -> VerifiedToken:
    return VerifiedToken(name, frozenset(), MappingProxyType({}), expires_at)


def test_token_is_found_until_it_expires() -> None:
    clock = Clock()
    cache = TokenCache(2, clock.seconds)
    token = verified()
    cache.put(b"a", token)
    clock.advance(9.999)
    assert cache.get(b"a") is token
    clock.advance(0.001)
    assert cache.get(b"a") is None
    assert len(cache) == 0


def test_only_the_whole_token_is_found() -> None:
    cache = TokenCache(2, Clock().seconds)
    cache.put(b"abc", verified())
    for other in (b"", b"ab", b"abcd", b"ABC"):
        assert cache.get(other) is None


def test_token_not_used_for_longest_makes_room() -> None:
    cache = TokenCache(2, Clock().seconds)
    for name in (b"a", b"b"):
        cache.put(name, verified())
    cache.get(b"a")
    cache.put(b"c", verified())
    assert [name for name in (b"a", b"b", b"c") if cache.get(name)] == [b"a", b"c"]
    cache.put(b"a", verified("again"))
    cache.put(b"d", verified())
    assert [name for name in (b"a", b"c", b"d") if cache.get(name)] == [b"a", b"d"]
    assert len(cache) == 2


def test_size_zero_keeps_nothing() -> None:
    cache = TokenCache(0, Clock().seconds)
    cache.put(b"a", verified())
    assert cache.get(b"a") is None
    assert len(cache) == 0


def test_cleared_cache_is_empty() -> None:
    cache = TokenCache(2, Clock().seconds)
    cache.put(b"a", verified())
    cache.clear()
    assert cache.get(b"a") is None


def test_long_tokens_make_room_by_their_bytes() -> None:
    cache = TokenCache(10_000, lambda: 0.0)
    tokens = [b"%08d" % number + b"x" * 8000 for number in range(MAX_CACHED_BYTES // 8008 + 10)]
    for token in (*tokens, tokens[-1]):
        cache.put(token, verified())
    assert len(cache) == MAX_CACHED_BYTES // 8008
    assert cache.get(tokens[9]) is None
    assert cache.get(tokens[-1]) is not None
    cache.clear()
    for token in tokens[: len(tokens) - 10]:
        cache.put(token, verified())
    assert cache.get(tokens[0]) is not None


def test_bytes_of_expired_tokens_are_free_again() -> None:
    clock = Clock()
    cache = TokenCache(10_000, clock.seconds)
    long = b"x" * (MAX_CACHED_BYTES - 10)
    cache.put(long, verified())
    clock.advance(10)
    assert cache.get(long) is None
    cache.put(b"a" * 100, verified(expires_at=99.0))
    cache.put(b"b" * 100, verified(expires_at=99.0))
    assert len(cache) == 2
