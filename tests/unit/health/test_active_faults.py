"""What goes wrong in checks and must not stop them, and what stops them and must leave nothing."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from tests.helpers.logs import logged
from tests.unit.health.checked import Case

from txgateway.health.active import MAX_CHECKS

# --- faults -----------------------------------------------------------------------------------------------------------


def test_exception_in_a_check_is_logged_and_counts_and_ends_nothing() -> None:
    case = Case(3, interval_s=4, fall=2).start()
    case.dialers[1].is_broken = True
    with logged() as lines:
        case.wait(13)
    fault = ("critical", "health check raised an exception")
    assert lines.count(fault) == 3
    assert case.health == ["healthy", "unhealthy", "healthy"]
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [4, 4, 4]
    case.dialers[1].is_broken = False
    case.wait(8)
    assert case.health == ["healthy"] * 3


def test_error_that_nobody_expected_is_logged_and_counts() -> None:
    case = Case(fall=1)
    case.dialer.error = ZeroDivisionError()
    with logged() as lines:
        case.start()
    assert lines[0] == ("critical", "health check raised an exception")
    assert (case.health, case.whys) == (["unhealthy"], ["internal error"])


def test_backend_that_raises_does_not_stop_the_checks() -> None:
    case = Case(2, interval_s=4)
    case.backend.is_broken = True
    with logged() as lines:
        case.start()
        case.wait(4.5)
    assert len(case.backend.told) == 4
    assert lines[0] == ("critical", "verdict on target t0:81 was not taken")
    assert len(lines) == 4


def test_dial_that_cannot_be_cancelled_does_not_stop_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(2, interval_s=4, timeout_s=2, fall=1)
    case.dialer.holds = True
    monkeypatch.setattr("tests.unit.support._Dial.cancel", lambda _: 1 // 0)
    with logged() as lines:
        case.start()
        case.wait(8)
    assert lines.count(("critical", "health check could not be cancelled")) == 2
    assert case.health == ["unhealthy", "healthy"]
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [2, 2]


def test_no_timeout_no_check() -> None:
    case = Case(2, fall=1)
    case.clock.faults = 1
    with logged() as lines:
        case.start()
    assert lines[0] == ("critical", "health check raised an exception")
    assert case.health == ["unhealthy", "healthy"]
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [0, 1]


class Fickle(Random):
    """Raises at the call of this number."""

    def __init__(self, number: int) -> None:
        super().__init__(1)
        self.left = number

    def uniform(self, a: float, b: float) -> float:
        self.left -= 1
        if not self.left:
            raise RuntimeError("no chance")
        return super().uniform(a, b)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_rounds_begin_anew_when_one_cannot_begin(number: int) -> None:
    case = Case(3, interval_s=4)
    case.checks._chance = Fickle(number)
    with logged() as lines:
        case.start().wait(4)
        assert lines[0] == ("critical", "health checks of backend b begin anew")
        assert len(case.clock.getDelayedCalls()) == 1  # what the round had planned already is given up
        case.wait(8.5)
    assert len(lines) == 1
    assert [dialer.dialed_at[1] >= 8 for dialer in case.dialers] == [True] * 3
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [3] * 3


def with_clock_that_fails(times: int) -> tuple[Case, list[tuple[str, str]]]:
    """A backend whose next round cannot be planned at the end of the first, and what was logged then."""
    case = Case(1, interval_s=4)
    case.clock.picks = lambda what: type(what).__name__ == "LoopingCall"  # type: ignore[method-assign]
    case.clock.faults = times
    with logged() as lines:
        case.start()
    assert case.clock.faults == 0
    assert case.fired == [None]
    return case, lines


def test_rounds_begin_anew_when_the_clock_has_failed() -> None:
    case, lines = with_clock_that_fails(1)
    assert lines == [("critical", "health checks of backend b begin anew")]
    case.wait(12.5)
    assert len(case.backend.told) == 4
    case.checks.stop()
    case.assert_nothing_left()


def test_clock_that_fails_again_is_told_and_can_be_stopped() -> None:
    case, lines = with_clock_that_fails(2)
    assert [text for _, text in lines] == [
        "health checks of backend b begin anew",
        "health checks of backend b cannot go on",
    ]
    case.checks.stop()
    case.assert_nothing_left()


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [{}, {"path": "/well"}])
def test_stop_in_the_first_round(check: dict[str, Any]) -> None:
    case = Case(3, **check)
    case.dialers[1].holds = True
    case.start()
    case.checks.stop()
    assert case.fired == [None]
    told = len(case.backend.told)
    case.assert_nothing_left()
    assert case.dialers[1].cancelled == 1
    case.checks.stop()
    case.wait(30)
    assert len(case.backend.told) == told
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [1, 1, 1]


@pytest.mark.parametrize("seconds", [3.5, 4.0, 4.125, 4.25, 4.5, 6.0])
def test_stop_at_any_time(seconds: float) -> None:
    case = Case(20, interval_s=4).start()
    for dialer in case.dialers[10:]:
        dialer.holds = True
    case.wait(seconds)
    case.checks.stop()
    case.assert_nothing_left()
    told = len(case.backend.told)
    dials = [len(dialer.dialed_at) for dialer in case.dialers]
    case.wait(30)
    assert len(case.backend.told) == told
    assert [len(dialer.dialed_at) for dialer in case.dialers] == dials


def test_stop_with_targets_that_wait_for_their_turn() -> None:
    case = Case(MAX_CHECKS + 10)
    for dialer in case.dialers:
        dialer.holds = True
    case.start()
    case.checks.stop()
    case.assert_nothing_left()
    assert sum(len(dialer.dialed_at) for dialer in case.dialers) == MAX_CHECKS
    assert case.backend.told == []


def test_stop_before_start_and_from_within_a_verdict() -> None:
    case = Case(2)
    case.checks.stop()
    case.start()
    assert case.fired == [None]
    assert case.dialer.dialed_at == []
    case.assert_nothing_left()
    case = Case(3)
    told = case.backend.set_health

    def stopping(target: Any, health: Any, why: str) -> None:
        told(target, health, why)
        case.checks.stop()

    case.backend.set_health = stopping  # type: ignore[method-assign]
    case.start()
    assert len(case.backend.told) == 1
    assert case.fired == [None]
    case.assert_nothing_left()
