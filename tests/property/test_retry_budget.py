"""The retry budget and the counts below it against lists of all events; pauses and ``Retry-After`` within bounds."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from random import Random

from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from txgateway.config.groups import Retry
from txgateway.proxy.retry import MAX_RETRY_AFTER_S, RetryBudget, RetryPolicy, retry_after_s
from txgateway.proxy.window import RollingCount

#: Seconds between events, without rounding where windows of 10 and 2.5 s are concerned.
STEPS_S = st.one_of(
    st.sampled_from([0.0, 1 / 64, 0.25, 1.0, 2.5, 9.984375, 10.0, 10.5, 11.0, 1000.0]),
    st.integers(0, 64 * 12).map(lambda ticks: ticks / 64),
)


class BudgetMachine(RuleBasedStateMachine):
    """What holds, of any 10 s that end with a granted retry, which was granted with ``percent`` and ``minimum``:

    the retries in it are at most ``percent`` of the requests of the last 11 s and ``minimum``. A retry is refused
    only if one more than the retries of the last 11 s is more than ``percent`` of the requests of the last 10 s and
    ``minimum``.
    """

    @initialize(start_s=st.sampled_from([0.0, 0.984375, 1e6]))
    def begin(self, start_s: float) -> None:
        self.now = start_s
        self.budget = RetryBudget()
        self.requests: list[float] = []
        self.retries: list[float] = []

    @rule(step_s=STEPS_S)
    def time_passes(self, step_s: float) -> None:
        self.now += step_s

    @rule(count=st.integers(1, 30))
    def requests_begin(self, count: int) -> None:
        for _ in range(count):
            self.budget.request(self.now)
            self.requests.append(self.now)

    @rule(percent=st.sampled_from([0, 1, 7, 20, 29, 100]), minimum=st.integers(0, 4), count=st.integers(1, 12))
    def retries_are_wanted(self, percent: int, minimum: int, count: int) -> None:
        for _ in range(count):
            if self.budget.take(self.now, percent, minimum):
                self.retries.append(self.now)
                assert self.within(self.retries, 10) <= minimum + floor(self.share(percent, self.before(11)))
            else:
                assert self.before_of(self.retries, 11) + 1 > minimum + self.share(
                    percent, self.within(self.requests, 10)
                )

    def share(self, percent: int, requests: int) -> Fraction:
        return Fraction(requests * percent, 100)

    def within(self, events: list[float], seconds: int) -> int:
        return sum(self.now - at <= seconds for at in events)

    def before_of(self, events: list[float], seconds: int) -> int:
        return sum(self.now - at < seconds for at in events)

    def before(self, seconds: int) -> int:
        return self.before_of(self.requests, seconds)


def test_budget_keeps_retries_a_share_of_requests() -> None:
    run_state_machine_as_test(BudgetMachine, settings=settings(stateful_step_count=40))


@given(
    window_s=st.sampled_from([10.0, 2.5, 0.625]),
    start_s=st.sampled_from([-7.5, 0.0, 0.984375, 12345.0]),
    events=st.lists(st.tuples(STEPS_S, st.sampled_from(["add", "total", "clear"]), st.integers(1, 3)), max_size=60),
)
@example(10.0, 0.0, [(0.0, "add", 1), (10.984375, "total", 1), (0.015625, "total", 1)])
@example(10.0, 0.0, [(0.0, "add", 1), (1.0, "add", 1), (10.5, "total", 1)])
@example(10.0, 0.0, [(0.0, "add", 1), (1.0, "total", 1), (0.0, "clear", 1), (10.0, "total", 1)])
def test_count_covers_the_window_and_less_than_a_tenth_more(
    window_s: float, start_s: float, events: list[tuple[float, str, int]]
) -> None:
    now, count, added = start_s, RollingCount(window_s), list[float]()
    for step_s, what, times in events:
        now += step_s
        if what == "clear":
            count.clear()
            added.clear()
        elif what == "add":
            count.add(now, times)
            added += [now] * times
        if what != "add":  # an event may be followed by another one without a look in between
            least = sum(now - at <= window_s for at in added)
            most = sum(now - at < window_s * 1.1 for at in added)
            slot_s = window_s / 10
            assert least <= count.total(now) <= most
            assert count.total(now) == sum(at // slot_s >= now // slot_s - 10 for at in added)


@given(
    window_s=st.floats(1e-3, 1e6), start_s=st.floats(0, 1e9), steps=st.lists(st.floats(0, 2), min_size=1, max_size=40)
)
def test_count_is_right_but_for_rounding_with_any_numbers(window_s: float, start_s: float, steps: list[float]) -> None:
    now, count, added = start_s, RollingCount(window_s), list[float]()
    for step in steps:
        now += step * window_s
        count.add(now)
        added.append(now)
        slack_s = 1e-6 * window_s + 1e-6
        least = sum(now - at <= window_s - slack_s for at in added)
        most = sum(now - at <= window_s * 1.1 + slack_s for at in added)
        assert least <= count.total(now) <= most


#: As one may configure them; a pause near the smallest number of all would not double exactly.
PAUSES_S = st.one_of(st.sampled_from([0.0, 0.025, 0.25, 60.0, 3600.0]), st.floats(1e-6, 1e6))


@given(
    backoff_s=PAUSES_S,
    backoff_max_s=PAUSES_S,
    retry=st.one_of(st.integers(1, 100), st.integers(1, 2**70)),
    drawn=st.floats(0, 1, exclude_max=True),
)
def test_pause_is_an_even_share_of_a_limit_that_doubles(
    backoff_s: float, backoff_max_s: float, retry: int, drawn: float
) -> None:
    policy = RetryPolicy(Retry(backoff_s=backoff_s, backoff_max_s=backoff_max_s))
    limit = min(Fraction(backoff_max_s), Fraction(backoff_s) * 2 ** min(retry - 1, 2000))
    pause_s = policy.backoff_s(retry, lambda: drawn)
    assert 0 <= pause_s <= limit
    assert pause_s == drawn * float(limit)


@given(seed=st.integers(0, 2**32), retry=st.integers(1, 5))
def test_pauses_are_spread_over_the_whole_limit(seed: int, retry: int) -> None:
    policy, chance = RetryPolicy(Retry(backoff_s=1.0, backoff_max_s=4.0)), Random(seed)
    shares = [policy.backoff_s(retry, chance.random) / min(4, 2 ** (retry - 1)) for _ in range(200)]
    assert all(any(tenth / 10 <= share < (tenth + 1) / 10 for share in shares) for tenth in range(10))


DATES = st.from_regex(
    r"\A((Sun|Mon|Xxx), [0-3]\d (Jan|Feb|Dec|Foo) \d{4} [0-2]\d:[0-6]\d:[0-6]\d GMT"
    r"|(Sunday|Wednesday), \d\d-(Jun|Bar)-\d\d \d\d:\d\d:\d\d GMT"
    r"|(Sun|Tue) (Feb|Oct|Baz) [ \d]\d \d\d:\d\d:\d\d \d{4})\Z"
)


@given(
    value=st.one_of(
        st.binary(max_size=40), st.text("0123456789", max_size=5000).map(str.encode), DATES.map(str.encode)
    ),
    epoch_s=st.floats(0, 1e11),
)
def test_any_retry_after_is_within_bounds_or_none(value: bytes, epoch_s: float) -> None:
    seconds = retry_after_s(value, epoch_s)
    assert seconds is None or 0.0 <= seconds <= MAX_RETRY_AFTER_S
