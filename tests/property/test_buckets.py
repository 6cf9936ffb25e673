"""The arithmetic of rate limits against a slow model in fractions, and the memory store against one that never forgets."""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.property.limit_strategies import limits, steps_us

from txgateway.ratelimit import Decision, Limit
from txgateway.ratelimit.keys import header_part, plain_part, subject_part
from txgateway.ratelimit.memory import MemoryLimiter


class Model:
    """Buckets in fractions of a token and of a second, as one would explain them."""

    def __init__(self, limit: Limit, now_us: int) -> None:
        self.limit = limit
        self.tokens = [Fraction(bucket.burst) for bucket in limit.buckets]
        self.at = self._clock(now_us)

    def _clock(self, now_us: int) -> Fraction:
        return Fraction(now_us // self.limit.tick_us * self.limit.tick_us, 1_000_000)

    def take(self, now_us: int) -> tuple[bool, list[int], list[int]]:
        """Allowed or not, whole tokens left, whole seconds until full."""
        now = self._clock(now_us)
        passed = max(Fraction(0), now - self.at)
        self.at = min(self.at, now)
        buckets = self.limit.buckets
        tokens = [
            min(Fraction(bucket.burst), have + passed * bucket.count / bucket.period_s)
            for have, bucket in zip(self.tokens, buckets, strict=True)
        ]
        allowed = all(have >= 1 for have in tokens)
        if allowed:
            self.at, tokens = now, [have - 1 for have in tokens]
            self.tokens = tokens
        seconds = [
            ceil((bucket.burst - have) * bucket.period_s / bucket.count)
            for have, bucket in zip(tokens, buckets, strict=True)
        ]
        return allowed, [floor(have) for have in tokens], seconds


def told(decision: Decision) -> tuple[bool, list[int], list[int]]:
    return decision.allowed, decision.left, decision.reset_s


@given(limit=limits(), start_us=st.integers(0, 2**51), steps=st.lists(steps_us(backwards=True), max_size=40))
@example(limit=Limit.of([(999_999_937, 3600)], 10**9), start_us=1, steps=[0, 1, 999, 1000])
def test_decisions_are_those_of_the_model(limit: Limit, start_us: int, steps: list[int]) -> None:
    now_us = start_us
    model, state = Model(limit, now_us), limit.full(now_us // limit.tick_us)
    for step in steps:
        now_us = max(0, now_us + step)
        assert told(limit.take(state, now_us // limit.tick_us)) == model.take(now_us)


@given(limit=limits(), steps=st.lists(steps_us(), min_size=1, max_size=60))
def test_no_window_admits_more_than_burst_and_what_its_time_brings(limit: Limit, steps: list[int]) -> None:
    now, state, admitted = 0, limit.full(0), []
    for step in steps:
        now += step // limit.tick_us
        if limit.take(state, now).allowed:
            admitted.append(now)
    for first, begin in enumerate(admitted):
        for count, end in enumerate(admitted[first:], start=1):
            seconds = Fraction(end - begin, limit.ticks_per_s)
            assert all(count <= bucket.burst + seconds * bucket.count / bucket.period_s for bucket in limit.buckets)


@given(limit=limits(), steps=st.lists(steps_us(backwards=True), min_size=1, max_size=60))
def test_clock_that_goes_back_admits_no_more_than_the_time_that_went_forward(limit: Limit, steps: list[int]) -> None:
    now, forward, count = 2**40, 0, 0
    state = limit.full(now)
    for step in steps:
        before, now = now, max(0, now + step // limit.tick_us)
        forward += max(0, now - before)
        count += limit.take(state, now).allowed
    seconds = Fraction(forward, limit.ticks_per_s)
    assert all(count <= bucket.burst + seconds * bucket.count / bucket.period_s for bucket in limit.buckets)


@given(limit=limits(max_burst=20), now=st.integers(0, 2**50), step=steps_us())
def test_retry_after_is_the_first_moment_at_which_a_request_is_allowed(limit: Limit, now: int, step: int) -> None:
    state = limit.full(now)
    while (refused := limit.take(state, now)).allowed:
        pass
    now += min(step, round(refused.retry_after_s * limit.ticks_per_s) - 1)
    refused = limit.take(state, now)
    assert not refused.allowed
    due = now + round(refused.retry_after_s * limit.ticks_per_s)
    assert not limit.take(list(state), due - 1).allowed
    assert limit.take(list(state), due).allowed


class MemoryMachine(RuleBasedStateMachine):
    """A store that drops what it need not keep decides like one that keeps all."""

    @initialize(limit=limits(max_burst=5))
    def begin(self, limit: Limit) -> None:
        self.now_s = 1000.0
        self.limit = limit
        self.limiter = MemoryLimiter(limit, lambda: self.now_s, max_keys=8)
        self.kept: dict[bytes, list[int]] = {}

    def _tick(self) -> int:
        return int(self.now_s * self.limit.ticks_per_s)

    @rule(key=st.sampled_from([b"%d" % number for number in range(8)]))
    def take(self, key: bytes) -> None:
        state = self.kept.setdefault(key, self.limit.full(self._tick()))
        assert told(self.limiter.take(key)) == told(self.limit.take(state, self._tick()))

    @rule(share=st.sampled_from([0.01, 0.25, 0.5, 0.75, 1.0, 1.5]))
    def time_passes(self, share: float) -> None:
        self.now_s += share * self.limit.full_ticks / self.limit.ticks_per_s

    @invariant()
    def number_of_buckets_is_bounded(self) -> None:
        if hasattr(self, "limiter"):
            assert self.limiter.size <= 8


def test_memory_forgets_only_what_is_full() -> None:
    run_state_machine_as_test(MemoryMachine, settings=settings(stateful_step_count=40))


TEXTS = st.one_of(st.text(max_size=5), st.text("ab|=#:{}", max_size=4), st.text("a", min_size=60, max_size=70))


@given(first=st.lists(TEXTS, min_size=1, max_size=3), second=st.lists(TEXTS, min_size=1, max_size=3))
def test_different_clients_have_different_keys(first: list[str], second: list[str]) -> None:
    def key(texts: list[str]) -> bytes:
        return b"|".join(subject_part(text) if index else plain_part(text) for index, text in enumerate(texts))

    assert (key(first) == key(second)) == (first == second)
    assert key(first).isascii()
    assert not set(b"{} \r\n") & set(key(first))


@given(name=st.sampled_from([b"a", b"a=", b"ab"]), value=st.binary(max_size=300))
def test_key_of_a_header_is_bounded_and_not_that_of_a_subject(name: bytes, value: bytes) -> None:
    part = header_part(name, value)
    assert len(part) == len(name) + 41
    assert part != subject_part(value.decode("latin-1"))
