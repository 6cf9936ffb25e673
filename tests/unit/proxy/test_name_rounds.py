"""The rounds in which names are looked up: when they come, and what does not stop them."""

from __future__ import annotations

from tests.helpers.logs import logged
from tests.unit.proxy.watched import REFRESH_S, Case, is_closed

from txgateway.proxy.names import EXTRA_ROUND_S, JITTER
from txgateway.transport.wheel import TICK_S

# --- failures ---------------------------------------------------------------------------------------------------------


def test_failed_lookup_changes_nothing_and_is_told_once_a_change() -> None:
    case = Case()
    with logged() as lines:
        case.answer("10.0.0.1", "10.0.0.2")
        before = case.targets
        for _ in range(3):
            case.answer()
        case.answer("10.0.0.1", "10.0.0.2")
        case.answer("10.0.0.1", "10.0.0.2")
        case.answer()
    assert case.targets is before
    well = ("info", "svc of backend b leads to 10.0.0.1, 10.0.0.2")
    ill = ("warn", "cannot resolve svc of backend b: no address")
    assert lines == [well, ill, well, ill]


def test_lookup_without_an_answer_is_not_begun_twice() -> None:
    case = Case("http://a:1", "http://b:1")
    with logged() as lines:
        for _ in range(4):
            case.answer("10.0.0.1", name="b")
    assert (case.resolver.asked.count("a"), case.resolver.asked.count("b")) == (1, 4)
    assert [line for line in lines if line[0] == "warn"] == [
        ("warn", "cannot resolve a of backend b: no answer within 5 s")
    ]


def test_lookup_that_was_lost_is_begun_anew_in_a_later_round() -> None:
    case = Case()
    case.resolver.lose("svc")
    case.answer("10.0.0.1")
    assert case.resolver.asked == ["svc", "svc"]
    assert case.dials == [["10.0.0.1"]]


def test_target_that_cannot_be_made_is_tried_again_and_holds_nothing_up() -> None:
    case = Case()
    case.is_broken = True
    with logged() as lines:
        case.answer("10.0.0.1")
        case.answer("10.0.0.1")
    assert [level for level, _ in lines] == ["critical"] * 2
    assert case.targets == case.originals
    assert case.fired == [None]
    case.is_broken = False
    case.answer("10.0.0.1")
    assert case.dials == [["10.0.0.1"]]


# --- rounds -----------------------------------------------------------------------------------------------------------


def test_rounds_come_at_their_interval_and_not_all_at_once() -> None:
    case = Case()
    waits = []
    for _ in range(50):
        case.answer("10.0.0.1")
        began = case.clock.seconds()
        while "svc" not in case.resolver.out:
            case.clock.advance(TICK_S)
        waits.append(case.clock.seconds() - began)
    assert min(waits) < REFRESH_S * (1 - JITTER / 2)
    assert max(waits) > REFRESH_S * (1 + JITTER / 2)
    assert all(REFRESH_S * (1 - JITTER) - TICK_S <= wait <= REFRESH_S * (1 + JITTER) + TICK_S for wait in waits)


def test_connection_that_failed_is_followed_by_a_round_at_most_one_a_second() -> None:
    case = Case()
    case.answer("10.0.0.1")
    case.wait(EXTRA_ROUND_S + TICK_S)
    for _ in range(5):
        case.backend.on_connect_failed()
    assert case.resolver.asked == ["svc"]  # not from within the call
    case.clock.advance(0)
    assert case.resolver.asked == ["svc"] * 2
    case.resolver.answer("svc", "10.0.0.1")
    for _ in range(5):
        case.backend.on_connect_failed()
        case.clock.advance(EXTRA_ROUND_S / 10)
    assert case.resolver.asked == ["svc"] * 2
    case.clock.advance(EXTRA_ROUND_S / 2 + TICK_S)  # the failures since then are not forgotten
    assert case.resolver.asked == ["svc"] * 3


def test_extra_rounds_do_not_put_off_the_others() -> None:
    case = Case()
    case.answer("10.0.0.1")
    case.wait(REFRESH_S / 2)
    case.backend.on_connect_failed()
    case.clock.advance(0)
    case.answer("10.0.0.1")
    case.answer("10.0.0.1")
    assert len(case.resolver.asked) == 3
    assert case.clock.seconds() <= REFRESH_S * (1 + JITTER) + TICK_S


def test_nothing_is_left_after_stop() -> None:
    case = Case("http://a:1", "http://b:1")
    case.answer("10.0.0.1", name="a")
    one = case.targets[0]
    one.begin(0)
    case.answer("10.0.0.2", name="a")
    case.backend.on_connect_failed()
    case.watch.stop()
    assert is_closed(one)
    assert case.watch.draining == ()
    assert not is_closed(case.targets[0])  # the backend's own business
    before = case.targets
    case.resolver.answer("b", "10.0.0.3")
    case.backend.on_connect_failed()
    assert case.targets is before
    case.wait(1)
    assert case.clock.getDelayedCalls() == []
    assert case.fired == [None]


def test_stop_ends_the_wait_for_the_first_round() -> None:
    case = Case()
    case.watch.stop()
    assert case.fired == [None]
    case.resolver.answer("svc", "10.0.0.1")
    assert case.targets == case.originals
    assert case.clock.getDelayedCalls() == []
