"""Rounds of checks in virtual time: when they come, what they do, and whom they ask."""

from __future__ import annotations

from typing import Any

from tests.helpers.logs import logged
from tests.helpers.upstream import RecordingWaiter
from tests.unit.health.checked import STEP_S, Case

from txgateway.config.groups import Pool
from txgateway.errors import PoolExhausted, UpstreamConnectFailed
from txgateway.health.active import MAX_CHECKS
from txgateway.health.state import Health
from txgateway.proxy.target import Outcome

REFUSED = UpstreamConnectFailed("Connection was refused by other side: 111: Connection refused.")


def loop_call(case: Case) -> Any:
    """The one delayed call of a backend between two rounds."""
    (call,) = case.clock.getDelayedCalls()
    return call


# --- results ----------------------------------------------------------------------------------------------------------


def test_connection_is_enough_and_closed_at_once() -> None:
    case = Case(2).start()
    assert case.health == ["healthy", "healthy"]
    assert case.whys == ["connected"] * 2
    assert case.fired == [None]
    for dialer in case.dialers:
        assert dialer.target.received() == b""
        assert dialer.target.transport.closed
        assert not dialer.target.transport.aborted
    case.assert_nothing_left(but=[loop_call(case)])


def test_results_in_a_row_change_the_state_and_every_result_is_told() -> None:
    case = Case(2, interval_s=4, fall=3, rise=2).start()
    case.dialers[1].error = REFUSED
    with logged() as lines:
        case.wait(12)
        assert case.health == ["healthy", "healthy"]
        case.wait(4)
        assert case.health == ["healthy", "unhealthy"]
        case.dialers[1].error = None
        case.wait(4)
        assert case.health == ["healthy", "unhealthy"]
        case.wait(4)
        assert case.health == ["healthy", "healthy"]
    assert lines == [
        ("warn", "target health: t1:81 of backend b is unhealthy: connect refused"),
        ("info", "target health: t1:81 of backend b is healthy: connected"),
    ]
    ill = [why for target, _, why in case.backend.told if target is case.targets[1]]
    assert ill == ["connected"] + ["connect refused"] * 3 + ["connected"] * 2


def test_failed_requests_do_not_count() -> None:
    case = Case(fall=1).start()
    target = case.targets[0]
    for _ in range(20):
        is_probe = target.begin(0.0)
        target.settle(Outcome.ERROR, 0.0, 0.0, is_fault=True, is_probe=is_probe)
    assert target.breaker.state != 0
    assert case.health == ["healthy"]


def test_busy_traffic_pool_makes_no_target_look_sick() -> None:
    case = Case(pool=Pool(max_connections=1, max_pending=0), path="/", fall=1, interval_s=4)
    pool = case.targets[0].pool
    pool.acquire(RecordingWaiter())
    case.clock.advance(0)
    assert pool.active == 1
    case.start()
    case.dialer.target.answer()
    assert case.health == ["healthy"]
    assert (pool.active, pool.open_connections) == (1, 1)


def test_own_shortage_says_nothing_of_the_target() -> None:
    case = Case(interval_s=4, fall=1).start()
    case.fail_with(PoolExhausted("too many open files"))
    case.wait(20)
    assert len(case.dialer.dialed_at) > 4
    assert case.health == ["healthy"]
    assert case.whys == ["connected"]


# --- time -------------------------------------------------------------------------------------------------------------


def test_first_round_is_at_once_and_later_ones_are_spread() -> None:
    case = Case(100, interval_s=4).start()
    case.wait(40)
    rounds = [[dialer.dialed_at[number] for dialer in case.dialers] for number in range(10)]
    assert set(rounds[0]) == {0.0}
    for number, begun in enumerate(rounds[1:], start=1):
        # Each is at most a step late, since this clock goes in steps.
        assert 4 * number <= min(begun)
        assert max(begun) <= 4 * number + 0.4 + STEP_S
        assert len(set(begun)) > 2
    assert rounds[1] != [moment - 4 for moment in rounds[2]]


def test_spread_is_bounded_and_of_this_gateway_alone() -> None:
    found = []
    for seed in (1, 2):
        case = Case(60, interval_s=100, seed=seed).start()
        case.wait(102)
        found.append([dialer.dialed_at[1] for dialer in case.dialers])
        assert 100.5 < max(found[-1]) <= 101 + STEP_S
        assert min(found[-1]) < 100.5
    assert found[0] != found[1]


def test_hanging_target_delays_no_other_and_no_round() -> None:
    case = Case(3, interval_s=4, timeout_s=2, fall=2).start()
    case.dialers[1].holds = True
    case.wait(4.5)
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [2, 2, 2]
    assert case.whys == ["connected"] * 5
    case.wait(2)
    assert case.whys == ["connected"] * 5 + ["timeout after 2 s"]
    assert case.dialers[1].cancelled == 1
    case.wait(4)
    assert case.health == ["healthy", "unhealthy", "healthy"]


def test_round_that_takes_longer_than_the_interval_is_not_overtaken() -> None:
    case = Case(interval_s=1, timeout_s=2.5)
    case.dialer.holds = True
    case.start()
    most = 0
    for _ in range(80):
        case.clock.advance(STEP_S)
        most = max(most, len(case.dialer.waiting))
    assert most == 1
    assert case.fired == [None]
    gaps = [after - before for before, after in zip(case.dialer.dialed_at, case.dialer.dialed_at[1:], strict=False)]
    assert len(gaps) >= 2
    # The next beginning is the next multiple of the interval after the end.
    assert all(2.5 < gap <= 3.5 for gap in gaps)


def test_first_round_is_over_when_the_last_check_is() -> None:
    case = Case(2, timeout_s=2)
    case.dialers[1].holds = True
    case.start()
    case.wait(2 - STEP_S)
    assert case.fired == []
    case.wait(STEP_S)
    assert case.fired == [None]
    assert case.health == ["healthy", "unknown"]


def test_only_so_many_checks_at_once() -> None:
    case = Case(3 * MAX_CHECKS + 1, timeout_s=2, interval_s=100, fall=1)
    for dialer in case.dialers:
        dialer.holds = True
    case.start()
    for number in range(4):
        waiting = sum(len(dialer.waiting) for dialer in case.dialers)
        assert waiting == (MAX_CHECKS if number < 3 else 1)
        assert case.fired == []
        case.wait(2)
    assert case.fired == [None]
    assert case.health == ["unhealthy"] * len(case.targets)
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [1] * len(case.targets)


def test_checks_that_end_at_once_do_not_nest() -> None:
    case = Case(2000, fall=1)
    for dialer in case.dialers[:MAX_CHECKS]:
        dialer.holds = True
    for dialer in case.dialers[MAX_CHECKS:]:
        dialer.is_broken = True
    with logged() as lines:
        case.start()
        case.wait(2)
    assert lines.count(("critical", "health check raised an exception")) == 2000 - MAX_CHECKS
    assert case.fired == [None]
    assert case.health == ["unhealthy"] * 2000


# --- targets come and go ----------------------------------------------------------------------------------------------


def test_targets_are_those_of_the_moment() -> None:
    case = Case(2, interval_s=4, fall=1).start()
    gone, kept = case.targets
    new = case.make("new")
    case.dialers[2].error = REFUSED
    case.backend.set_targets([kept, new])
    case.wait(8)
    assert [len(dialer.dialed_at) for dialer in case.dialers] == [1, 2, 2]
    assert case.dialers[2].dialed_at[0] == 0  # at once
    assert case.health == ["healthy", "unhealthy"]
    assert list(case.checks._states) == [kept, new]
    assert gone.health is Health.HEALTHY


def test_who_comes_back_begins_anew() -> None:
    case = Case(2, interval_s=4, fall=2, rise=5).start()
    back, kept = case.targets
    case.dialer.error = REFUSED
    case.wait(4.5)
    case.backend.set_targets([kept])
    case.wait(4)
    case.backend.set_targets([kept, back])
    assert case.whys.count("connect refused") == 1
    case.clock.advance(0)
    assert case.whys.count("connect refused") == 2
    assert case.health == ["healthy", "unknown"]  # the failure of before is forgotten, and so is the success
    case.dialer.error = None
    case.wait(4)
    assert case.health == ["healthy", "healthy"]


def test_newcomer_is_checked_at_once_and_given_up_with_the_rest() -> None:
    case = Case(1, interval_s=100).start()
    new = case.make("new")
    case.backend.set_targets([*case.targets, new])
    case.clock.advance(0)
    assert case.health == ["healthy", "healthy"]
    late = case.make("late")
    case.dialers[2].holds = True
    case.backend.set_targets([*case.targets, late])
    case.wait(0.5)
    assert case.health == ["healthy", "unknown"]
    case.checks.stop()
    case.assert_nothing_left()


def test_verdict_on_who_is_gone_meanwhile_is_not_told() -> None:
    case = Case(2, timeout_s=2, fall=1)
    case.dialer.holds = True
    case.start()
    case.backend.set_targets(case.targets[1:])
    case.wait(2)
    assert case.fired == [None]
    assert [target for target, _, _ in case.backend.told] == case.targets[1:]
