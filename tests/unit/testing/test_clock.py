from __future__ import annotations

from typing import Any

import pytest

from txgateway.testing.clock import BusyLoop, VirtualClock


def test_time_passes_call_by_call() -> None:
    clock, seen = VirtualClock(), list[float]()
    for delay_s in (3.0, 1.0, 2.0):
        clock.callLater(delay_s, lambda: seen.append(clock.seconds()))
    clock.let_pass(2.5)
    assert (seen, clock.seconds()) == ([1.0, 2.0], 2.5)


def test_what_a_call_schedules_is_made_in_its_time() -> None:
    clock, seen = VirtualClock(), list[float]()

    def again() -> None:
        seen.append(clock.seconds())
        clock.callLater(1.0, again)

    again()
    clock.let_pass(3.0)
    assert seen == [0.0, 1.0, 2.0, 3.0]
    assert clock.next_s() == 1.0


def test_busy_loop_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("txgateway.testing.clock.MAX_CALLS_AT_ONCE", 50)
    clock = VirtualClock()

    def again() -> Any:
        clock.callLater(0, again)

    again()
    with pytest.raises(BusyLoop, match="again"):
        clock.turn()
