from __future__ import annotations

import gc

from twisted.internet.task import Clock

from txgateway.ratelimit import Limit
from txgateway.ratelimit.memory import MemoryLimiter, MemoryLimiters


def test_keys_have_buckets_of_their_own() -> None:
    limiter = MemoryLimiter(Limit.of([(1, 1)]), Clock().seconds)
    assert [limiter.take(key).allowed for key in (b"a", b"b", b"a", b"b")] == [True, True, False, False]


def test_buckets_that_are_full_again_are_dropped_two_for_each_new_one() -> None:
    clock = Clock()
    limiter = MemoryLimiter(Limit.of([(1, 1)]), clock.seconds)
    for number in range(10):
        limiter.take(b"%d" % number)
    assert limiter.size == 10
    clock.advance(1)
    for number in range(10, 15):
        limiter.take(b"%d" % number)
    assert limiter.size == 5


def test_bucket_in_use_is_not_dropped_behind_idle_ones() -> None:
    clock = Clock()
    limiter = MemoryLimiter(Limit.of([(2, 1)]), clock.seconds)
    limiter.take(b"used")
    limiter.take(b"idle")
    clock.advance(0.5)
    assert [limiter.take(b"used").left for _ in range(2)] == [[1], [0]]
    clock.advance(0.5)
    limiter.take(b"new")
    assert limiter.size == 2
    assert limiter.take(b"used").left == [0]


def test_longest_unused_bucket_goes_when_there_are_too_many() -> None:
    limiter = MemoryLimiter(Limit.of([(1, 3600)]), Clock().seconds, max_keys=3)
    for key in (b"a", b"b", b"c"):
        assert limiter.take(key).allowed
    assert not limiter.take(b"a").allowed
    assert limiter.take(b"d").allowed
    assert limiter.size == 3
    assert not limiter.take(b"a").allowed
    assert limiter.take(b"b").allowed


def test_clock_that_goes_back_forgets_nobody() -> None:
    now = [100.0]
    limiter = MemoryLimiter(Limit.of([(1, 1)]), lambda: now[0])
    assert limiter.take(b"a").allowed
    now[0] = 0.0
    assert limiter.take(b"b").allowed
    assert not limiter.take(b"a").allowed
    now[0] = 1.0
    assert limiter.take(b"a").allowed


def test_same_place_and_limit_give_the_same_buckets_as_long_as_somebody_holds_them() -> None:
    limiters = MemoryLimiters(Clock().seconds)
    limit = Limit.of([(1, 1)])
    first = limiters.limiter("default", limit)
    assert limiters.limiter("default", Limit.of([(1, 1)]), "open") is first
    assert limiters.limiter("other", limit) is not first
    assert limiters.limiter("default", Limit.of([(2, 1)])) is not first
    assert first.take(b"a").allowed
    del first
    gc.collect()
    assert limiters.limiter("default", limit).take(b"a").allowed
    assert not limiters.degraded


def test_workers_share_a_limit_in_equal_parts() -> None:
    limiter = MemoryLimiters(Clock().seconds, workers=4).limiter("default", Limit.of([(8, 1)]))
    assert [limiter.take(b"a").allowed for _ in range(3)] == [True, True, False]
