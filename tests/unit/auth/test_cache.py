from __future__ import annotations

from types import MappingProxyType

from twisted.internet.task import Clock

from txgateway.auth.cache import TokenCache
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
