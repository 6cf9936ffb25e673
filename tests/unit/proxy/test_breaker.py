from __future__ import annotations

from random import Random

import pytest

from txgateway.config.groups import Breaker
from txgateway.proxy.breaker import MAX_OPEN_S, BreakerState, CircuitBreaker

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


class Draw(Random):
    """Draws one number again and again."""

    def __init__(self, drawn: float) -> None:
        super().__init__()
        self.drawn = drawn

    def random(self) -> float:
        return self.drawn


class Bench:
    """A breaker, the longest open times that chance gives, and what it told."""

    def __init__(self, drawn: float = 1.0, **settings: float) -> None:
        numbers = {"failures": 3, "ratio": 0.5, "min_requests": 10, "window_s": 10.0, "open_for_s": 30.0, **settings}
        self.told: list[tuple[BreakerState, str]] = []
        self.breaker = CircuitBreaker(Breaker(**numbers), Draw(drawn), self.on_change)  # type: ignore[arg-type]

    def on_change(self, state: BreakerState, why: str) -> None:
        assert self.breaker.state is state
        self.told.append((state, why))

    def fail(self, now: float, times: int = 1) -> None:
        for _ in range(times):
            self.breaker.failed(now, why="error")

    def open(self, now: float) -> None:
        """Open it by failures in a row."""
        self.fail(now, 3)
        assert self.breaker.state is OPEN
        self.told.clear()

    def probe(self, now: float) -> None:
        """Begin the probe."""
        assert self.breaker.allows(now)
        assert self.breaker.admit(now)


def test_states_have_the_numbers_of_the_metric_and_labels() -> None:
    assert [(int(state), state.label) for state in BreakerState] == [(0, "closed"), (1, "half-open"), (2, "open")]
    assert [bool(state) for state in BreakerState] == [False, True, True]


def test_closed_one_lets_everything_through_and_no_attempt_is_a_probe() -> None:
    bench = Bench()
    assert bench.breaker.state is CLOSED
    assert [bench.breaker.allows(0.0) for _ in range(3)] == [True, True, True]
    assert [bench.breaker.admit(0.0) for _ in range(3)] == [False, False, False]
    assert bench.breaker.wait_s(0.0) == 0.0
    assert bench.breaker.state_at(1e9) is CLOSED
    assert repr(bench.breaker) == "<CircuitBreaker closed, 0 failures in a row>"
    assert bench.told == []


# --- what opens it ------------------------------------------------------------------------------------------------


def test_failures_in_a_row_open_it() -> None:
    bench = Bench()
    bench.fail(100.0, 2)
    assert bench.breaker.state is CLOSED
    bench.fail(900.0)
    assert bench.breaker.state is OPEN
    assert bench.told == [(OPEN, "3 failures in a row")]
    assert repr(bench.breaker) == "<CircuitBreaker open, 3 failures in a row>"


def test_success_between_failures_begins_a_new_row() -> None:
    bench = Bench()
    bench.fail(100.0, 2)
    bench.breaker.succeeded(100.0)
    bench.fail(100.0, 2)
    assert bench.breaker.state is CLOSED
    bench.fail(100.0)
    assert bench.told == [(OPEN, "3 failures in a row")]


def test_cancelled_attempt_says_nothing_of_the_target() -> None:
    bench = Bench()
    bench.fail(100.0, 2)
    bench.breaker.cancelled(is_probe=False)
    bench.fail(100.0)
    assert bench.told == [(OPEN, "3 failures in a row")]


def test_share_of_failures_opens_it_once_there_are_enough_outcomes() -> None:
    bench = Bench(failures=100)
    for second in range(4):
        bench.fail(100.0 + second)
        bench.breaker.succeeded(100.0 + second)
    bench.fail(104.0)
    assert bench.breaker.state is CLOSED  # 5 of 9
    bench.fail(104.0)
    assert bench.told == [(OPEN, "ratio 0.60 of 10 requests")]


def test_exactly_the_share_is_enough_and_less_is_not() -> None:
    bench = Bench(failures=100, ratio=0.25, min_requests=4)
    for _ in range(20):
        bench.breaker.succeeded(100.0)
    bench.fail(100.0, 6)
    assert bench.breaker.state is CLOSED  # 6 of 26
    bench.breaker.succeeded(100.0)
    bench.fail(100.0)
    assert bench.told == [(OPEN, "ratio 0.25 of 28 requests")]


def test_share_is_judged_when_a_failure_comes_in() -> None:
    bench = Bench(failures=100)
    bench.fail(100.0, 9)
    bench.breaker.succeeded(100.0)
    assert bench.breaker.state is CLOSED  # 9 of 10
    bench.fail(100.0)
    assert bench.told == [(OPEN, "ratio 0.91 of 11 requests")]


def test_outcomes_before_the_window_do_not_count() -> None:
    bench = Bench(failures=100)
    bench.fail(100.0, 9)
    bench.fail(111.0)
    assert bench.breaker.state is CLOSED
    for _ in range(20):
        bench.breaker.succeeded(111.0)
    bench.fail(122.0, 9)
    assert bench.breaker.state is CLOSED  # 9 of 9, and the successes are gone as well
    bench.fail(132.0)
    assert bench.told == [(OPEN, "ratio 1.00 of 10 requests")]


def test_one_that_is_not_enabled_never_opens() -> None:
    bench = Bench(enabled=False)
    bench.fail(100.0, 1000)
    assert bench.breaker.state is CLOSED
    assert bench.breaker.allows(100.0)
    assert bench.told == []


# --- how long it stays open ---------------------------------------------------------------------------------------


def test_open_one_lets_nothing_through_until_its_time_has_passed() -> None:
    bench = Bench()
    bench.open(100.0)
    assert [bench.breaker.allows(now) for now in (100.0, 129.99, 130.0)] == [False, False, True]
    assert [bench.breaker.wait_s(now) for now in (100.0, 129.0, 130.0, 500.0)] == [30.0, 1.0, 0.0, 0.0]
    assert [bench.breaker.state_at(now) for now in (129.99, 130.0)] == [OPEN, HALF_OPEN]
    assert bench.breaker.state is OPEN
    assert bench.told == []


def test_chance_takes_up_to_a_tenth() -> None:
    least, half = Bench(drawn=0.0), Bench(drawn=0.5)
    least.open(0.0)
    half.open(0.0)
    assert least.breaker.wait_s(0.0) == pytest.approx(27.0)
    assert half.breaker.wait_s(0.0) == pytest.approx(28.5)


def test_each_failed_probe_doubles_the_time_up_to_the_longest() -> None:
    bench, now, waits = Bench(), 100.0, []
    bench.open(now)
    for _ in range(6):
        waits.append(bench.breaker.wait_s(now))
        now += waits[-1]
        bench.probe(now)
        bench.breaker.failed(now, is_probe=True)
    assert waits == [30.0, 60.0, 120.0, 240.0, MAX_OPEN_S, MAX_OPEN_S]


def test_time_that_is_configured_longer_than_the_longest_is_kept() -> None:
    bench = Bench(open_for_s=400.0)
    bench.open(0.0)
    bench.probe(400.0)
    bench.breaker.failed(400.0, is_probe=True)
    assert bench.breaker.wait_s(400.0) == 400.0


def test_success_of_the_probe_forgets_the_doubling() -> None:
    bench = Bench()
    bench.open(0.0)
    bench.probe(30.0)
    bench.breaker.failed(30.0, is_probe=True)
    bench.probe(90.0)
    bench.breaker.succeeded(90.0, is_probe=True)
    bench.open(90.0)
    assert bench.breaker.wait_s(90.0) == 30.0


def test_active_check_lets_the_probe_be_made_at_once() -> None:
    bench = Bench()
    bench.open(100.0)
    bench.breaker.recover(101.0)
    assert bench.breaker.state is OPEN
    assert bench.breaker.state_at(101.0) is HALF_OPEN
    assert bench.breaker.wait_s(101.0) == 0.0
    bench.probe(101.0)
    bench.breaker.failed(102.0, is_probe=True)
    assert bench.breaker.wait_s(102.0) == 60.0


@pytest.mark.parametrize("is_probing", [False, True])
def test_active_check_changes_nothing_otherwise(is_probing: bool) -> None:
    bench = Bench()
    bench.breaker.recover(1.0)
    assert bench.breaker.state is CLOSED
    bench.open(100.0)
    if is_probing:
        bench.probe(130.0)
    bench.breaker.recover(140.0)
    assert bench.breaker.allows(140.0) is not is_probing
    assert bench.breaker.state is (HALF_OPEN if is_probing else OPEN)


# --- the probe ----------------------------------------------------------------------------------------------------


def test_one_probe_is_let_through_and_its_success_closes() -> None:
    bench = Bench()
    bench.open(100.0)
    bench.probe(130.0)
    assert bench.breaker.state is bench.breaker.state_at(1e9) is HALF_OPEN
    assert not bench.breaker.allows(159.0)
    assert bench.breaker.wait_s(130.0) == 0.0
    bench.breaker.succeeded(131.0, is_probe=True)
    assert bench.breaker.state is CLOSED
    assert [bench.breaker.admit(131.0), bench.breaker.allows(131.0)] == [False, True]
    assert bench.told == [(HALF_OPEN, "probe begins"), (CLOSED, "probe succeeded")]


@pytest.mark.parametrize(("why", "words"), [("timeout", "probe failed: timeout"), ("", "probe failed")])
def test_failure_of_the_probe_opens_again(why: str, words: str) -> None:
    bench = Bench()
    bench.open(100.0)
    bench.probe(130.0)
    bench.breaker.failed(133.0, is_probe=True, why=why)
    assert bench.breaker.state is OPEN
    assert bench.told[1:] == [(OPEN, words)]
    assert [bench.breaker.allows(now) for now in (192.0, 193.0)] == [False, True]
    bench.probe(193.0)
    assert bench.breaker.state is HALF_OPEN


def test_cancelled_probe_frees_its_slot() -> None:
    bench = Bench()
    bench.open(100.0)
    bench.probe(130.0)
    bench.breaker.cancelled(is_probe=True)
    assert bench.breaker.state is HALF_OPEN
    bench.probe(130.0)
    assert not bench.breaker.allows(130.0)
    bench.breaker.succeeded(130.0, is_probe=True)
    assert bench.told == [(HALF_OPEN, "probe begins"), (CLOSED, "probe succeeded")]


def test_probe_that_does_not_end_bars_no_other() -> None:
    bench = Bench()
    bench.open(100.0)
    bench.probe(130.0)
    assert not bench.breaker.admit(159.9)
    bench.probe(160.0)
    assert not bench.breaker.admit(189.9)
    bench.breaker.succeeded(161.0, is_probe=True)
    assert bench.told == [(HALF_OPEN, "probe begins"), (CLOSED, "probe succeeded")]
    bench.fail(170.0, 2)
    bench.breaker.succeeded(170.0, is_probe=True)  # the first one, at last
    bench.fail(170.0, 2)
    assert bench.breaker.state is CLOSED
    assert len(bench.told) == 2


@pytest.mark.parametrize("is_ok", [False, True])
def test_late_end_of_a_probe_changes_nothing_about_an_open_breaker(is_ok: bool) -> None:
    bench = Bench()
    bench.open(100.0)
    bench.probe(130.0)
    bench.probe(160.0)
    bench.breaker.failed(160.0, is_probe=True)
    if is_ok:
        bench.breaker.succeeded(170.0, is_probe=True)
    else:
        bench.breaker.failed(170.0, is_probe=True)
    assert bench.breaker.state is OPEN
    assert bench.breaker.wait_s(170.0) == 50.0


def test_attempt_made_against_its_word_is_no_probe() -> None:
    bench = Bench()
    bench.open(100.0)
    assert not bench.breaker.admit(129.0)
    assert bench.breaker.state is OPEN
    bench.probe(130.0)
    assert not bench.breaker.admit(130.0)
    bench.breaker.cancelled(is_probe=False)
    assert not bench.breaker.allows(130.0)


def test_results_of_attempts_that_began_before_change_nothing() -> None:
    bench = Bench()
    bench.open(100.0)
    bench.fail(110.0, 5)
    bench.breaker.succeeded(110.0)
    assert bench.breaker.wait_s(110.0) == 20.0
    bench.probe(130.0)
    bench.fail(130.0, 5)
    bench.breaker.succeeded(130.0)
    bench.breaker.cancelled(is_probe=False)
    assert bench.breaker.state is HALF_OPEN
    assert not bench.breaker.allows(130.0)
    bench.breaker.succeeded(130.0, is_probe=True)
    assert bench.told == [(HALF_OPEN, "probe begins"), (CLOSED, "probe succeeded")]


def test_closed_again_it_has_forgotten_all_outcomes() -> None:
    bench = Bench(min_requests=4, ratio=0.75)
    bench.open(100.0)
    bench.breaker.recover(100.0)
    bench.probe(100.0)
    bench.breaker.succeeded(100.0, is_probe=True)
    bench.fail(100.0, 2)
    bench.breaker.succeeded(100.0)
    assert bench.breaker.state is CLOSED
    bench.fail(100.0)
    assert bench.told[-1] == (OPEN, "ratio 0.75 of 4 requests")


def test_it_works_without_anybody_to_tell_and_listener_may_come_later() -> None:
    breaker = CircuitBreaker(Breaker(failures=1), Draw(1.0))
    breaker.failed(0.0)
    assert breaker.state is OPEN
    told: list[str] = []
    breaker.on_change = lambda state, why: told.append(f"{state.label}: {why}")
    assert breaker.admit(30.0)
    assert told == ["half-open: probe begins"]
