"""Reloads in virtual time, with a child that the test plays."""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.helpers.logs import logged_events
from tests.unit.reloading.played import COMMAND, ENVIRON, Case
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent

from txgateway.config import Problem, Settings, load
from txgateway.reloading.reload import CHILD_S, FIXED, MAX_ERROR_BYTES
from txgateway.reloading.transfer import configuration_frames, problem_frames

FAILED = "reload failed, the old configuration stays"


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case()
    yield made
    assert gc.isenabled()
    assert all(child.is_over for child in made.reactor.children)
    made.run()
    assert made.reactor.getDelayedCalls() == []


def document(*names: str) -> dict[str, str]:
    routes = [{"name": name, "path": f"/{name}", "response": {"status": 204}} for name in names]
    return {"GATEWAY_ROUTES": json.dumps({"routes": routes})}


def lines(events: list[LogEvent], level: LogLevel) -> list[str]:
    return [formatEvent(event) for event in events if event["log_level"] is level]


def test_start_counts_as_a_success(case: Case) -> None:
    assert (case.reloader.outcome.is_success, case.reloader.outcome.succeeded_at) == (True, 1000.0)


def test_what_the_child_has_read_is_built(case: Case) -> None:
    case.reloader.reload()
    assert case.child.command == COMMAND
    assert case.child.environ == {**ENVIRON, "PYTHONPATH": os.pathsep.join(sys.path)}
    case.epoch_s = 1010.0
    with logged_events() as events:
        case.feed(document("a", "b"))
        case.run()
    assert case.routes() == ["a", "b"]
    assert (case.reloader.outcome.is_success, case.reloader.outcome.succeeded_at) == (True, 1010.0)
    (line,) = [event for event in events if event.get("log_format") == "reloaded"]
    assert (line["routes"], line["routes_added"], line["routes_removed"], line["backends"]) == (2, 2, 1, 0)


def test_output_may_come_in_pieces(case: Case) -> None:
    case.reloader.reload()
    for byte in b"".join(configuration_frames(load(document("a")))):
        case.child.write(bytes((byte,)))
    case.child.exit()
    case.run()
    assert case.routes() == ["a"]


def test_warnings_are_told_again(case: Case) -> None:
    case.reloader.reload()
    with logged_events() as events:
        case.feed({**ENVIRON, "GATEWAY_TRUSTED_PROXIES": "0.0.0.0/0"})
        case.run()
    (line,) = lines(events, LogLevel.warn)
    assert line.startswith("configuration: GATEWAY_TRUSTED_PROXIES")


# --- failures -----------------------------------------------------------------------------------------------------


@contextmanager
def failing(case: Case, *texts: str) -> Iterator[None]:
    """What is done within the block comes to nothing, with a line for each of these texts."""
    before, built = case.current, len(case.built)
    case.epoch_s = 2000.0
    with logged_events() as events:
        yield
        case.run()
    told = [event for event in events if event["log_level"] >= LogLevel.error]
    assert [FAILED in str(event["log_format"]) for event in told] == [True] * len(texts)
    for event, text in zip(told, texts, strict=True):
        assert text in formatEvent(event)
    assert case.current is before
    assert len(case.built) == built
    assert (case.reloader.outcome.is_success, case.reloader.outcome.succeeded_at) == (False, 1000.0)


def test_every_problem_is_a_line(case: Case) -> None:
    case.reloader.reload()
    problems = (Problem("GATEWAY_PORT", "'x'", "expected a number"), Problem("routes[3].path", None, "is missing"))
    with failing(case, "GATEWAY_PORT: 'x' is not accepted: expected a number", "routes[3].path: is missing"):
        case.child.write(b"".join(problem_frames(problems)))
        case.child.exit()


def test_child_that_ends_badly_is_told_by_the_last_that_it_said(case: Case) -> None:
    case.reloader.reload()
    case.child.protocol.errReceived(b"x" * MAX_ERROR_BYTES + b"\nTraceback\n  File\nRuntime")
    case.child.protocol.errReceived(b"Error: no \xff\n")
    with failing(case, "ended badly: RuntimeError: no \ufffd"):
        case.child.exit(1)


def test_child_that_ends_badly_and_says_nothing_is_told_by_its_status(case: Case) -> None:
    case.reloader.reload()
    with failing(case, "exit code 3"):
        case.child.exit(3)


def test_child_that_is_killed_has_not_read_anything(case: Case) -> None:
    case.reloader.reload()
    case.child.write(b"".join(configuration_frames(load(document("a")))))
    with failing(case, "ended by signal 9"):
        case.child.signalProcess("KILL")


def test_child_that_takes_too_long_is_killed(case: Case) -> None:
    case.reloader.reload()
    case.reactor.advance(CHILD_S - 0.1)
    assert not case.child.signals
    with failing(case, "not read within 60 s"):
        case.reactor.advance(0.1)
        assert case.child.signals == ["KILL"]


def test_what_a_child_has_started_does_not_hold_up_anything(case: Case) -> None:
    case.reloader.reload()
    case.child.is_deaf = True
    with failing(case, "not read within 60 s"):
        case.reactor.advance(CHILD_S)


def test_child_that_has_ended_while_its_output_stays_open_is_given_up(case: Case) -> None:
    case.reloader.reload()
    case.child.pid = None
    with failing(case, "not read within 60 s"):
        case.reactor.advance(CHILD_S)
        assert case.child.signals == []


def test_child_that_writes_without_end_is_killed() -> None:
    case = Case(max_bytes=1000)
    case.reloader.reload()
    case.child.write(b"\0" * 1000)
    assert not case.child.signals
    with failing(case, "too large"):
        case.child.write(b"\0")
        assert case.child.signals == ["KILL"]


def test_child_that_says_nothing_fails(case: Case) -> None:
    case.reloader.reload()
    with failing(case, "nothing came"):
        case.child.exit()


def test_output_that_is_cut_short_fails(case: Case) -> None:
    case.reloader.reload()
    with failing(case, "cut short"):
        case.child.write(b"".join(configuration_frames(load(document("a"))))[:-1])
        case.child.exit()


def test_child_that_cannot_be_started_fails(case: Case) -> None:
    case.reactor.refusal = OSError(11, "Resource temporarily unavailable")
    with failing(case, "Resource temporarily unavailable"):
        case.reloader.reload()
    case.reactor.refusal = None
    case.reloader.reload()
    case.feed(document("a"))
    case.run()
    assert case.routes() == ["a"]


def test_tree_that_cannot_be_built_fails(case: Case) -> None:
    case.fault = RuntimeError("no such thing")
    case.reloader.reload()
    with failing(case, "no such thing"):
        case.feed(document("a"))


def test_success_after_a_failure_is_one(case: Case) -> None:
    case.reloader.reload()
    with failing(case, "exit code 1"):
        case.child.exit(1)
    case.reloader.reload()
    case.feed(document("a"))
    case.run()
    assert (case.reloader.outcome.is_success, case.reloader.outcome.succeeded_at) == (True, 2000.0)
    assert case.routes() == ["a"]


# --- one after the other ------------------------------------------------------------------------------------------


def test_asked_again_while_one_runs_there_is_one_more_and_no_second_at_once(case: Case) -> None:
    for _ in range(50):
        case.reloader.reload()
    assert len(case.reactor.children) == 1
    case.feed(document("a"))
    case.run()
    assert len(case.reactor.children) == 2
    case.feed(document("b"))
    case.run()
    assert case.routes() == ["b"]
    assert len(case.reactor.children) == 2


def test_asked_again_while_one_fails_there_is_one_more(case: Case) -> None:
    case.reloader.reload()
    case.reloader.reload()
    case.child.exit(1)
    case.run()
    case.feed(document("b"))
    case.run()
    assert case.routes() == ["b"]
    assert case.reloader.outcome.is_success


def test_asked_again_while_a_tree_is_built_there_is_one_more(case: Case) -> None:
    case.waits = Deferred()
    case.reloader.reload()
    case.feed(document("a"))
    case.run()
    assert case.routes() == ["default"]
    case.reloader.reload()
    case.run()
    assert len(case.reactor.children) == 1
    case.waits.callback(None)
    case.waits = None
    case.run()
    assert case.routes() == ["a"]
    case.feed(document("b"))
    case.run()
    assert case.routes() == ["b"]


def test_collector_is_off_only_while_something_is_built(case: Case) -> None:
    case.waits = Deferred()
    case.reloader.reload()
    assert gc.isenabled()
    case.feed(document("a"))
    case.run()
    assert not gc.isenabled()
    case.waits.callback(None)
    case.run()
    assert gc.isenabled()


# --- who is told -----------------------------------------------------------------------------------------------------


def test_begin_and_end_are_told(case: Case) -> None:
    case.reloader.reload()
    assert case.told == ["begun"]
    case.feed(document("a", "b"))
    case.run()
    assert case.told == ["begun", "2 routes, 0 backends"]


def test_end_of_one_that_fails_is_told_with_why(case: Case) -> None:
    case.reloader.reload()
    case.child.exit(3)
    case.run()
    assert case.told[0] == "begun"
    assert case.told[1].startswith("reload failed, the old configuration stays: the child that reads it ended badly")
    assert len(case.told) == 2
    case.reactor.refusal = OSError("no more processes")
    case.reloader.reload()
    case.run()
    assert case.told[3] == (
        "reload failed, the old configuration stays: cannot start the child that reads it: no more processes"
    )


def test_end_is_told_when_all_that_was_asked_for_is_over(case: Case) -> None:
    case.reloader.reload()
    case.reloader.reload()
    case.child.exit(1)
    case.run()
    assert set(case.told) == {"begun"}
    case.feed(document("a"))
    case.run()
    assert [word for word in case.told if word != "begun"] == ["1 routes, 0 backends"]


def test_who_is_stopped_tells_of_no_end(case: Case) -> None:
    case.reloader.reload()
    case.reloader.stop()
    case.run()
    case.reloader.reload()
    assert case.told == ["begun"]


# --- the end ------------------------------------------------------------------------------------------------------


def test_stopped_it_reloads_no_more(case: Case) -> None:
    case.reloader.stop()
    case.reloader.stop()
    case.reloader.reload()
    assert case.reactor.children == []


def test_stop_kills_the_child_and_says_nothing(case: Case) -> None:
    case.reloader.reload()
    case.reloader.reload()
    with logged_events() as events:
        case.reloader.stop()
        case.run()
    assert case.child.signals == ["KILL"]
    assert len(case.reactor.children) == 1
    assert events == []
    assert case.reloader.outcome.is_success


def test_stop_ends_what_is_being_built(case: Case) -> None:
    case.waits = Deferred()
    case.reloader.reload()
    case.feed(document("a"))
    case.run()
    with logged_events() as events:
        case.reloader.stop()
        case.waits.callback(None)
        case.run()
    assert case.routes() == ["default"]
    assert events == []


# --- what cannot change -------------------------------------------------------------------------------------------


def test_settings_of_listeners_and_the_process_stay_and_are_told_in_one_line(case: Case) -> None:
    case.reloader.reload()
    changes = {
        "GATEWAY_PORT": "1234",
        "GATEWAY_DRAIN_TIMEOUT": "7s",
        "LOG_LEVEL": "ERROR",
        "GATEWAY_CORS_MAX_AGE": "7s",
    }
    with logged_events() as events:
        case.feed({**ENVIRON, **changes})
        case.run()
    (line,) = lines(events, LogLevel.warn)
    assert line == "not applied before a restart: GATEWAY_DRAIN_TIMEOUT, LOG_LEVEL, GATEWAY_PORT"
    settings = case.current.settings
    assert (settings.port, settings.drain_timeout_s, settings.log_level) == (8000, 25.0, "INFO")
    assert settings.cors.max_age_s == 7.0
    assert case.current.parts()[0].settings is settings
    assert case.reloader.outcome.is_success


def test_every_setting_stays_or_is_in_force() -> None:
    tables = {
        "retry",
        "bulkhead",
        "jwt",
        "rate_limit",
        "cors",
        "sanitize",
        "pool",
        "health_check",
        "breaker",
        "timeout",
    }
    of_the_tree = {
        *tables, "backend_target", "routes_file", "routes", "redis_url", "redis_timeout_s", "server_timing",
        "trusted_proxies", "load_balancer", "panic_percent", "slow_start_s", "dns_refresh_s", "max_body_bytes",
        "body_timeout_s", "allowed_methods", "allowed_content_types", "allow_ips", "deny_ips", "hsts", "csp",
        "frame_options", "referrer_policy", "permissions_policy", "middlewares",
    }  # fmt: skip
    keys = {name for name in Settings.model_fields if name.startswith("jwt_")}
    assert set(Settings.model_fields) == FIXED | of_the_tree | keys
    assert not FIXED & (of_the_tree | keys)
