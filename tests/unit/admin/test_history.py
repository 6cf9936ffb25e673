from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from txgateway.admin.history import INTERVAL_S, MAX_SAMPLES, History


def ages(history: History) -> list[object]:
    samples = history.report()["samples"]
    assert isinstance(samples, list)
    return [sample["at_s"] for sample in samples]


def test_a_sample_at_the_start_and_one_each_interval() -> None:
    clock = Clock()
    history = History(clock, lambda: {"at_s": clock.seconds()})
    assert history.report() == {"interval_s": INTERVAL_S, "samples": []}
    history.start()
    clock.pump([INTERVAL_S / 2] * 5)
    assert ages(history) == [0.0, INTERVAL_S, 2 * INTERVAL_S]


def test_no_more_than_five_minutes_are_kept() -> None:
    clock = Clock()
    history = History(clock, lambda: {"at_s": clock.seconds()})
    history.start()
    clock.pump([INTERVAL_S] * 1000)
    kept = ages(history)
    assert len(kept) == MAX_SAMPLES
    assert (kept[0], kept[-1]) == (clock.seconds() - 300.0, clock.seconds())


def test_a_look_that_fails_leaves_a_gap_and_ends_nothing() -> None:
    clock = Clock()
    is_broken = False

    def look() -> dict[str, object]:
        if is_broken:
            raise RuntimeError("broken")
        return {"at_s": clock.seconds()}

    history = History(clock, look)
    history.start()
    is_broken = True
    for _ in range(3):
        with pytest.raises(RuntimeError):  # which a reactor logs
            clock.advance(INTERVAL_S)
    is_broken = False
    clock.advance(INTERVAL_S)
    assert ages(history) == [0.0, 4 * INTERVAL_S]


def test_stop_leaves_no_call_behind() -> None:
    clock = Clock()
    history = History(clock, dict)
    history.stop()
    history.start()
    clock.advance(INTERVAL_S)
    history.stop()
    history.stop()
    assert not clock.getDelayedCalls()
