"""Deaths, leaders and the end of all, in virtual time and without processes."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from tests.helpers.logs import logged
from tests.unit.workers.spawned import Case

from txgateway.health.probes import BackendHealth
from txgateway.workers.child import MAX_PAUSE_S, Backoff
from txgateway.workers.crew import MAX_DEATHS, STEADY_S, STOP_S, CrewReadiness

# --- pauses -----------------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_limit_and_begin_anew_after_a_long_life() -> None:
    backoff = Backoff()
    assert [backoff.died(1) for _ in range(7)] == [0.5, 1, 2, 4, 8, 10, 10]
    assert backoff.died(59.9) == MAX_PAUSE_S
    assert backoff.died(60) == 0.5
    assert backoff.died(0) == 1


def test_dead_worker_is_started_again_after_its_pause() -> None:
    case = Case().run()
    case.wait(STEADY_S + 0.1)
    with logged() as lines:
        case.started[0].die(signal=signal.SIGKILL)
        case.wait(0.45)
        assert len(case.started) == 2
        assert case.crew.children[0].describe() | {"uptime_s": 0} == {
            "index": 0, "pid": None, "state": "dead", "restarts": 0, "uptime_s": 0, "connections": 0, "requests": 0,
        }  # fmt: skip
        case.wait(0.1)
    assert [worker.index for worker in case.started] == [0, 1, 0]
    assert ("warn", "worker ended: signal 9 (Killed)") in lines
    assert (case.crew.restarts, case.crew.count("ready"), case.crew.count("starting")) == (1, 1, 1)
    case.started[2].run()
    assert case.crew.count("ready") == 2


def test_each_place_has_its_own_pause() -> None:
    case = Case().run()
    case.wait(STEADY_S + 0.1)
    for index, pause_s in [(0, 0.5), (0, 1.0), (1, 0.5)]:
        worker = case.newest(index)
        worker.die(status=3)
        count = len(case.started)
        case.wait(pause_s - 0.1)
        assert len(case.started) == count
        case.wait(0.2)
        assert len(case.started) == count + 1
        case.newest(index).run()
        case.wait(STEADY_S + 0.1)


def test_process_that_cannot_be_started_is_one_that_died() -> None:
    case = Case()
    case.refuses = True
    case.start()
    case.wait(0.3)
    case.refuses = False
    case.wait(0.3)
    assert [worker.index for worker in case.started] == [0, 1]
    assert case.crew.restarts == 2


# --- too many deaths --------------------------------------------------------------------------------------------------


def test_deaths_in_a_row_end_all() -> None:
    case = Case().run()
    survivor = case.started[1]
    for _ in range(MAX_DEATHS - 1):
        case.newest(0).die(status=3)
        case.wait(10)
        case.newest(0).run()
    assert case.crew.stops == 0
    with logged() as lines:
        case.newest(0).die(status=3)
        case.wait(0.1)
    assert ("error", "giving up: a worker ended with status 3, and 5 in a row were not ready for 10 s") in lines
    assert survivor.told("stop") == [{"is": "stop", "times": 1}]
    assert not case.done
    survivor.die(status=0)
    case.wait(0.1)
    assert case.done == [1]


def test_worker_that_was_ready_long_enough_begins_the_row_anew() -> None:
    case = Case().run()
    for _ in range(3 * MAX_DEATHS):
        case.wait(STEADY_S + 0.1)
        case.newest(0).die(status=3)
        case.wait(11)
        case.newest(0).run()
    assert not case.crew.is_stopping
    for _ in range(MAX_DEATHS - 1):
        case.newest(0).die(status=3)
        case.wait(11)
    assert case.crew.stops == 0
    case.newest(0).die(status=3)
    case.wait(0.1)
    assert case.crew.is_stopping


def test_worker_that_is_up_but_not_ready_does_not_begin_it_anew() -> None:
    case = Case().run()
    for _ in range(MAX_DEATHS):
        case.newest(0).die(status=3)
        case.wait(11)
    assert case.crew.is_stopping


@pytest.mark.parametrize(("status", "expected"), [(1, 1), (78, 78)])
def test_first_start_that_is_hopeless_ends_all(status: int, expected: int) -> None:
    case = Case().start()
    case.started[0].die(status=status)
    case.wait(0.1)
    assert case.started[1].signals == [signal.SIGTERM]  # it could not be told yet
    case.started[1].die(signal=signal.SIGTERM)
    case.wait(20)
    assert case.done == [expected]
    assert len(case.started) == 2


def test_configuration_that_became_wrong_later_ends_nobody_who_runs() -> None:
    case = Case().run()
    case.started[0].die(signal=signal.SIGKILL)
    for _ in range(3 * MAX_DEATHS):
        case.wait(10.1)
        case.newest(0).die(status=78)
    case.wait(0.1)
    assert not case.crew.is_stopping
    case.wait(10.1)
    case.newest(0).run()
    assert case.crew.count("ready") == 2


# --- the end ----------------------------------------------------------------------------------------------------------


def test_end_waits_for_all_and_starts_nobody() -> None:
    case = Case(3).run()
    case.started[2].die(signal=signal.SIGKILL)
    case.wait(0.1)
    case.crew.stop()
    case.started[0].die(status=0)
    case.wait(5)
    assert (case.done, len(case.started)) == ([], 3)
    case.crew.stop()
    assert [message["times"] for message in case.started[1].told("stop")] == [1, 2]
    case.started[1].die(status=0)
    case.wait(0)
    assert case.done == [0]
    assert not case.clock.getDelayedCalls()


def test_worker_that_does_not_stop_in_time_is_killed() -> None:
    case = Case(drain_s=30).run()
    case.crew.stop()
    case.started[0].die(status=0)
    case.wait(30 + STOP_S - 0.1)
    assert case.started[1].signals == []
    case.wait(0.3)
    assert case.started[1].signals == [signal.SIGKILL]
    assert case.done == [0]
    case = Case(drain_s=1000).run()
    case.crew.stop()
    case.wait(1)
    case.crew.stop()
    case.wait(STOP_S + 0.1)
    assert case.done == [0]


def test_worker_that_connects_late_is_told_the_end() -> None:
    case = Case(1).start()
    case.crew.stop()
    assert case.started[0].signals == [signal.SIGTERM]
    case.started[0].say("hello")
    assert case.started[0].told("stop") == [{"is": "stop", "times": 1}]
    assert not case.started[0].told("lead")


def test_reload_is_over_when_no_worker_owes_it_any_more() -> None:
    case = Case().run()
    over: list[str] = []
    case.crew.on_reloaded = over.append
    case.crew.reload()
    one, other = case.started
    assert [worker.told("reload") for worker in case.started] == [[{"is": "reload", "times": 1}]] * 2
    one.say("reloaded", times=1, status="3 routes")
    assert over == []
    other.say("reloaded", times=1, status="reload failed")
    assert over == ["3 routes; reload failed"]
    one.say("reloaded", times=1, status="by a signal of its own")
    assert len(over) == 1


def test_end_of_an_earlier_reload_is_not_taken_for_that_of_a_later_one() -> None:
    case = Case(1).run()
    over: list[str] = []
    case.crew.on_reloaded = over.append
    case.crew.reload()
    case.crew.reload()
    case.started[0].say("reloaded", times=1, status="old")  # it was on its way
    assert over == []
    case.started[0].say("reloaded", times=2, status="new")
    assert over == ["new"]


def test_worker_that_begins_meanwhile_reloads_when_it_can_be_told() -> None:
    case = Case().start()
    over: list[str] = []
    case.crew.on_reloaded = over.append
    case.started[0].run()
    case.crew.reload()
    assert case.started[1].told("reload") == []  # which may have read the old configuration already
    case.started[0].say("reloaded", times=1, status="new")
    assert over == []
    case.started[1].run()
    assert case.started[1].told("reload") == [{"is": "reload", "times": 1}]
    case.started[1].say("reloaded", times=1, status="new")
    assert over == ["new"]


@pytest.mark.parametrize("ends", ["dies", "drains"])
def test_reload_does_not_wait_for_a_worker_that_will_not_tell(ends: str) -> None:
    case = Case().run()
    over: list[str] = []
    case.crew.on_reloaded = over.append
    case.crew.reload()
    case.started[0].say("reloaded", times=1, status="new")
    if ends == "dies":
        case.started[1].die(status=1)
    else:
        case.started[1].say("draining")
    case.wait(1)
    assert over == ["new"]
    if ends == "dies":
        case.newest(1).run()
        assert case.newest(1).told("reload") == []  # it began with what is new


def test_reload_with_nobody_to_tell_is_over_at_once() -> None:
    case = Case(1).run()
    over: list[str] = []
    case.crew.on_reloaded = over.append
    case.started[0].die(status=1)
    case.clock.advance(0)
    case.crew.reload()
    assert over == ["reloaded"]


def test_signals_wait_for_a_worker_that_has_no_handler_yet() -> None:
    case = Case().start()
    case.started[0].say("hello")
    case.crew.signal(signal.SIGHUP)
    assert (case.started[0].signals, case.started[1].signals) == ([signal.SIGHUP], [])
    case.started[1].say("hello")
    assert case.started[1].signals == [signal.SIGHUP]
    case.started[1].die(status=0)
    case.wait(1)
    case.newest(1).say("hello")
    assert case.newest(1).signals == []  # it began with what is new


# --- the leader, and what it finds ------------------------------------------------------------------------------------

FOUND = ["b", "t:1", "unhealthy", "status 500"]


def test_one_leads_and_the_next_one_when_it_is_gone() -> None:
    case = Case(3).run()
    assert [len(worker.told("lead")) for worker in case.started] == [1, 0, 0]
    case.started[0].die(signal=signal.SIGKILL)
    case.wait(1)
    assert [len(worker.told("lead")) for worker in case.started] == [1, 1, 0, 0]
    case.newest(0).run()
    assert not case.newest(0).told("lead")  # the leader stays
    case.started[1].say("draining")
    assert len(case.newest(0).told("lead")) == 1  # the lowest that can
    case.newest(0).die(status=0)
    case.wait(0)
    assert len(case.started[2].told("lead")) == 1


def test_findings_reach_the_others_and_those_who_come() -> None:
    case = Case(3).run()
    case.started[0].say("health", found=[FOUND], backends=[["b", 0, 1]])
    assert [len(worker.told("health")) for worker in case.started] == [0, 1, 1]
    assert case.started[1].told("health")[0]["found"] == [FOUND]
    case.started[0].say("checked", names=["b"])
    assert [worker.told("checked") for worker in case.started] == [[], *[[{"is": "checked", "names": ["b"]}]] * 2]
    assert case.crew.health() == [BackendHealth("b", 0, 1)]
    case.started[2].die(status=0)
    case.wait(1)
    newcomer = case.newest(2)
    assert not newcomer.sent
    newcomer.say("hello")
    assert [message["is"] for message in newcomer.sent] == ["health", "checked"]
    assert newcomer.told("health")[0]["found"] == [FOUND]


def test_readiness_is_that_of_the_workers_and_of_the_targets() -> None:
    case = Case().start()
    readiness = CrewReadiness(case.crew)
    assert readiness.verdict().status == "starting"
    case.started[1].say("hello")
    case.started[1].say("totals", totals=None, backends=[["b", 1, 1]])
    case.started[1].say("ready")
    assert readiness.verdict().status == "ready"
    case.started[1].say("health", found=[FOUND], backends=[["b", 0, 1]])
    assert readiness.verdict().status == "no healthy target"
    case.started[1].say("health", found=[], backends=[["b", 1, 2]])
    assert readiness.verdict().sick_backends == (BackendHealth("b", 1, 2),)
    case.started[1].die(status=3)
    case.wait(0.1)
    assert readiness.verdict().status == "starting"
    case.crew.stop()
    assert readiness.verdict().status == "draining"


# --- questions --------------------------------------------------------------------------------------------------------


def asked(case: Case, index: int, what: str) -> list[Any]:
    answers: list[Any] = []
    case.crew.children[index].ask(what).addCallback(answers.append)
    return answers


def test_answer_reaches_all_who_asked() -> None:
    case = Case().run()
    answers = [asked(case, 0, "config"), asked(case, 0, "config")]
    assert len(case.started[0].told("ask")) == 1
    case.started[0].say("answer", **{"for": "config", "value": {"a": 1}})
    assert answers == [[{"a": 1}]] * 2
    case.wait(3)
    assert (case.crew.unanswered, case.clock.getDelayedCalls()) == (0, [])


def test_answer_is_not_waited_for_longer_than_a_bound() -> None:
    case = Case().run()
    answers = asked(case, 0, "status")
    case.wait(1.9)
    assert answers == []
    case.wait(0.2)
    assert (answers, case.crew.unanswered) == ([None], 1)
    again = asked(case, 0, "status")
    case.started[0].die(signal=signal.SIGKILL)
    assert again == [None]
    assert asked(case, 0, "status") == [None]  # nobody to ask
    assert case.crew.unanswered == 1


def test_numbers_of_the_dead_are_kept() -> None:
    case = Case().run()

    def family(count: int) -> dict[str, Any]:
        return {"c": {"type": "counter", "help": "", "labels": [], "unit": "", "merged": "sum", "rows": [[[], count]]}}

    for index, count in [(0, 3), (1, 4), (0, 5)]:
        worker = case.newest(index)
        worker.say("last", snapshot=family(count), status={"routes": [], "backends": [], "connections_refused": count,
                   "log_lines_dropped": 0}, totals={"in_flight": 1, "connections": 1, "requests": count,
                   "client_errors": 0, "server_errors": 0, "errors": {}, "buckets": [0] * 15})  # fmt: skip
        worker.die(status=0)
        case.wait(2)
        case.newest(index).run()
    assert case.crew.dead["c"]["rows"] == [[[], 12]]
    assert case.crew.dead_totals is not None
    assert case.crew.dead_status is not None
    assert (case.crew.dead_totals["requests"], case.crew.dead_totals["in_flight"]) == (12, 0)
    assert case.crew.dead_status["counts"]["connections_refused"] == 12
