from __future__ import annotations

import pytest

from txgateway.proxy.window import MIN_WINDOW_S, SLOTS, RollingCount


def test_new_one_is_empty_and_counts_what_is_added() -> None:
    count = RollingCount(10)
    assert count.total(1000.0) == 0
    count.add(1000.0)
    count.add(1000.5, 3)
    assert count.total(1000.5) == 4
    assert repr(count) == "<RollingCount 0 + 4>"


def test_event_counts_for_the_window_and_not_for_a_tenth_more() -> None:
    early, late = RollingCount(10), RollingCount(10)
    early.add(1000.0)
    late.add(1000.984375)
    assert [early.total(now) for now in (1010.0, 1010.984375, 1011.0)] == [1, 1, 0]
    assert [late.total(now) for now in (1010.984375, 1011.0, 1020.0)] == [1, 0, 0]


def test_slots_are_dropped_one_by_one() -> None:
    count = RollingCount(10)
    for second in range(30):
        count.add(1000.0 + second, second)
    assert count.total(1029.0) == sum(range(19, 30))
    assert repr(count) == f"<RollingCount {sum(range(19, 29))} + 29>"
    assert [count.total(1029.0 + passed) for passed in range(1, 13)] == [
        sum(range(19 + passed, 30)) for passed in range(1, 13)
    ]


def test_total_alone_drops_what_is_old_and_keeps_the_rest() -> None:
    count = RollingCount(10)
    count.add(1000.0, 1)
    count.add(1004.0, 2)
    count.add(1009.0, 4)
    assert [count.total(now) for now in (1010.0, 1011.0, 1015.0, 1020.0)] == [7, 6, 4, 0]


@pytest.mark.parametrize("jump_s", [11.0, 11.5, 20.0, 21.0, 22.0, 110.0, 1e9, 1e15])
def test_jump_ahead_drops_all_and_counting_goes_on(jump_s: float) -> None:
    count = RollingCount(10)
    for second in range(11):
        count.add(1000.0 + second)
    now = 1010.0 + jump_s
    count.add(now, 5)
    assert count.total(now) == 5
    assert count.total(now + 10) == 5
    assert count.total(now + 11) == 0


def test_clear_forgets_all_slots() -> None:
    count = RollingCount(10)
    for second in range(12):
        count.add(1000.0 + second, 7)
    count.clear()
    assert count.total(1011.0) == 0
    count.add(1011.0)
    assert [count.total(now) for now in (1011.0, 1021.0, 1022.0)] == [1, 1, 0]


def test_counts_of_one_window_length_cover_the_same_time_whenever_they_began() -> None:
    one, other = RollingCount(10), RollingCount(10)
    one.add(1000.25)
    other.add(1000.75)
    one.add(1003.5)
    other.add(1003.5)
    for now in (1010.3, 1010.99, 1011.0, 1013.99, 1014.0):
        assert one.total(now) == other.total(now)


def test_work_is_bounded_by_the_number_of_slots() -> None:
    count = RollingCount(1e-300)
    assert SLOTS * count._slot_s == MIN_WINDOW_S
    count.add(1e9)
    assert count.total(1e9) == 1
    count.add(2e9, 2)
    assert count.total(2e9) == 2


def test_clock_may_begin_below_zero() -> None:
    count = RollingCount(10)
    count.add(-5.5, 2)
    count.add(-0.5)
    assert [count.total(now) for now in (-0.5, 4.5, 5.0, 9.9, 10.0)] == [3, 3, 1, 1, 0]
