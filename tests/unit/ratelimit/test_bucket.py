from __future__ import annotations

import pytest

from txgateway.ratelimit import Bucket, Limit

SECOND = 1_000_000


def test_bucket_begins_full_and_is_refused_when_empty() -> None:
    limit = Limit.of([(3, 1)])
    state = limit.full(0)
    assert [limit.take(state, 0).left for _ in range(3)] == [[2], [1], [0]]
    refused = limit.take(state, 0)
    assert not refused.allowed
    assert refused.left == [0]
    assert refused.reset_s == [1]
    assert refused.retry_after_s == pytest.approx(1 / 3, abs=2e-6)


def test_burst_is_the_capacity_and_the_rate_refills_it() -> None:
    limit = Limit.of([(10, 1)], burst=2)
    state = limit.full(0)
    assert [limit.take(state, 0).allowed for _ in range(3)] == [True, True, False]
    assert [limit.take(state, SECOND // 10).allowed for _ in range(2)] == [True, False]
    assert [limit.take(state, 1000 * SECOND).allowed for _ in range(3)] == [True, True, False]


def test_several_rates_take_from_all_or_from_none() -> None:
    limit = Limit.of([(2, 1), (3, 60)])
    state = limit.full(0)
    assert [limit.take(state, 0).left for _ in range(2)] == [[1, 2], [0, 1]]
    before = list(state)
    assert not limit.take(state, 0).allowed
    assert state == before
    assert limit.take(state, SECOND).left == [1, 0]
    refused = limit.take(state, SECOND)
    assert not refused.allowed
    assert refused.left == [1, 0]
    assert refused.retry_after_s == pytest.approx(19, abs=1e-5)


def test_clock_that_goes_back_brings_no_tokens_and_locks_nobody_out() -> None:
    limit = Limit.of([(1, 1)])
    state = limit.full(1000 * SECOND)
    assert limit.take(state, 1000 * SECOND).allowed
    assert not limit.take(state, 5 * SECOND).allowed
    assert not limit.take(state, 6 * SECOND - 1).allowed
    assert limit.take(state, 6 * SECOND).allowed


def test_refill_of_a_rate_that_no_microsecond_divides_is_exact() -> None:
    limit = Limit.of([(7, 3600)], burst=7)
    due = -(-3600 * SECOND // 7)
    assert not limit.take([0, 0], due - 1).allowed
    assert limit.take([0, 0], due).allowed
    assert limit.take([0, 0], 3600 * SECOND).left == [6]
    assert limit.take([0, 0], 3600 * SECOND - 1).left == [5]


@pytest.mark.parametrize(
    ("count", "period_s", "burst"), [(10**9, 1, 10**9), (999_999_937, 3600, 10**9), (1, 3600, 10**9), (10**9, 3600, 1)]
)
def test_numbers_stay_exact_in_doubles(count: int, period_s: int, burst: int) -> None:
    for limit in (Limit.of([(count, period_s)], burst), Limit.of([(count, period_s)], burst).divided(1024)):
        for unit, refill, capacity in limit.numbers:
            assert 0 < unit <= capacity
            assert capacity + refill < 2**53


@pytest.mark.parametrize("buckets", [(), (Bucket(0, 1, 1),), (Bucket(1, 1, 0),), (Bucket(1, 3600, 10**15),)])
def test_impossible_limit_is_refused(buckets: tuple[Bucket, ...]) -> None:
    with pytest.raises(ValueError, match="limit"):
        Limit(buckets)


def test_share_of_a_limit_has_that_part_of_rate_and_burst_and_at_least_one_token() -> None:
    limit = Limit.of([(100, 1), (3, 60)]).divided(4)
    assert limit.buckets == (Bucket(100, 4, 25), Bucket(3, 240, 1))


@pytest.mark.parametrize(
    ("bucket", "window_s"), [(Bucket(100, 1, 100), 1), (Bucket(3, 1, 10), 4), (Bucket(5, 60, 1), 12)]
)
def test_window_is_the_time_to_fill_rounded_up(bucket: Bucket, window_s: int) -> None:
    assert bucket.window_s == window_s


def test_limits_with_the_same_numbers_are_equal() -> None:
    assert Limit.of([(5, 1)]) == Limit.of([(5, 1)], burst=5)
    assert hash(Limit.of([(5, 1)])) == hash(Limit.of([(5, 1)], burst=5))
    assert Limit.of([(5, 1)]) != Limit.of([(10, 2)], burst=5)


def test_decision_says_what_it_is() -> None:
    limit = Limit.of([(1, 1)])
    state = limit.full(0)
    assert repr(limit.take(state, 0)) == "<Decision allowed, left [0], full in [1] s>"
    assert repr(limit.take(state, 0)) == "<Decision refused for 1.0 s, left [0], full in [1] s>"
