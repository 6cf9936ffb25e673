from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from tests.unit.support import logged_failures
from twisted.internet.task import Clock

from txgateway.transport.wheel import TICK_S, TICKS_PER_COARSE, TimerWheel


class Item:
    def __init__(self, wheel: TimerWheel, deadline: float, then: Callable[[], None] | None = None) -> None:
        self.wheel = wheel
        self.deadline = deadline
        self.then = then
        self.told: list[float] = []

    def on_deadline(self, now: float) -> None:
        self.told.append(now)
        if self.then is not None:
            self.then()
        else:
            self.wheel.forget(self)


def made() -> tuple[Clock, TimerWheel]:
    clock = Clock()
    return clock, TimerWheel(clock)


def pass_time(clock: Clock, seconds: float) -> None:
    for _ in range(round(seconds / TICK_S)):
        clock.advance(TICK_S)


def test_deadline_is_told_once_never_early_and_at_most_a_tick_late() -> None:
    clock, wheel = made()
    item = Item(wheel, 1.04)
    wheel.watch(item)
    pass_time(clock, 1.0)
    assert item.told == []
    pass_time(clock, 0.2)
    assert item.told == [pytest.approx(1.1)]
    pass_time(clock, 5)
    assert len(item.told) == 1


@pytest.mark.parametrize("started_at", [0.0, 0.03, 0.099])
def test_after_is_not_less_than_asked_and_at_most_two_ticks_more(started_at: float) -> None:
    clock, wheel = made()
    wheel.watch(Item(wheel, math.inf))
    clock.advance(0.1)
    clock.advance(started_at)
    item = Item(wheel, wheel.after(1.0))
    asked_at = clock.seconds()
    wheel.watch(item)
    while not item.told:
        clock.advance(0.01)
    assert 1.0 <= item.told[0] - asked_at <= 1.0 + 2 * TICK_S + 0.011


def test_moved_deadline_counts() -> None:
    clock, wheel = made()
    item = Item(wheel, 0.5)
    wheel.watch(item)
    pass_time(clock, 0.4)
    item.deadline = 1.0
    pass_time(clock, 0.5)
    assert not item.told
    pass_time(clock, 0.2)
    assert len(item.told) == 1


def test_infinity_is_never() -> None:
    clock, wheel = made()
    item = Item(wheel, math.inf)
    wheel.watch(item)
    pass_time(clock, 100)
    assert not item.told


def test_coarse_items_are_looked_at_once_a_second() -> None:
    clock, wheel = made()
    item = Item(wheel, 0.2, then=lambda: None)
    wheel.watch_coarse(item)
    pass_time(clock, TICKS_PER_COARSE * TICK_S * 3 + TICK_S / 2)
    assert len(item.told) == 3
    wheel.forget_coarse(item)
    pass_time(clock, 3)
    assert len(item.told) == 3


def test_idle_wheel_leaves_no_delayed_call() -> None:
    clock, wheel = made()
    assert clock.getDelayedCalls() == []
    item = Item(wheel, 0.2)
    wheel.watch(item)
    wheel.watch_coarse(item)
    assert len(clock.getDelayedCalls()) == 1
    wheel.forget(item)
    wheel.forget_coarse(item)
    clock.advance(TICK_S)
    assert clock.getDelayedCalls() == []


def test_wheel_that_rested_knows_the_time_again() -> None:
    clock, wheel = made()
    clock.advance(1000)
    item = Item(wheel, math.inf)
    wheel.watch(item)
    assert wheel.now == 1000
    assert wheel.after(1) >= 1001


def test_forgetting_twice_and_unknown_items_is_harmless() -> None:
    _, wheel = made()
    item = Item(wheel, 1.0)
    wheel.forget(item)
    wheel.forget_coarse(item)


def test_item_forgotten_by_the_handler_before_it_is_not_told() -> None:
    clock, wheel = made()
    items: list[Item] = []

    def forget_all() -> None:
        for item in items:
            wheel.forget(item)

    items += [Item(wheel, 0.1, then=forget_all) for _ in range(3)]
    for item in items:
        wheel.watch(item)
    pass_time(clock, 1)
    assert sum(len(item.told) for item in items) == 1


def test_handler_may_watch_others() -> None:
    clock, wheel = made()
    second = Item(wheel, 0.5)

    def relay() -> None:
        wheel.forget(first)
        wheel.watch(second)

    first = Item(wheel, 0.1, then=relay)
    wheel.watch(first)
    pass_time(clock, 1)
    assert (len(first.told), len(second.told)) == (1, 1)
    pass_time(clock, 0.2)
    assert clock.getDelayedCalls() == []


def test_fault_of_one_handler_stops_nobody_else() -> None:
    clock, wheel = made()

    def fail() -> None:
        wheel.forget(bad)
        raise ValueError("handler")

    bad, good = Item(wheel, 0.1, then=fail), Item(wheel, 0.1)
    wheel.watch(bad)
    wheel.watch(good)
    with logged_failures() as failures:
        pass_time(clock, 0.5)
    assert len(good.told) == 1
    assert len(failures) == 1


def test_stop_forgets_everything() -> None:
    clock, wheel = made()
    item = Item(wheel, 0.1)
    wheel.watch(item)
    wheel.watch_coarse(item)
    wheel.stop()
    assert clock.getDelayedCalls() == []
    pass_time(clock, 2)
    assert not item.told
    wheel.stop()
