"""Around a user's middleware: whose fault something was, and who holds up the reactor."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.logs import logged_events
from tests.unit.support import Inner, StubChannel, logged_failures, stub_request
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import BadRequest, GatewayError, InternalError
from txgateway.middleware.base import Middleware
from txgateway.middleware.guard import BLOCKING_S, TIMED_EVERY, WARNING_PAUSE_S, Guard, Onward, Watch
from txgateway.telemetry.user_metrics import Counter


class Own(Middleware):
    """Does what it is told."""

    def __init__(self, inner: Any, act: Any = None) -> None:
        super().__init__(inner)
        self.act = act

    def render(self, request: Any) -> Any:
        if self.act is not None:
            return self.act(request)
        return self.inner.render(request)


class Case:
    def __init__(self, act: Any = None, inner: Any = None) -> None:
        self.clock = Clock()
        self.counter = Counter()
        self.watch = Watch("own", self.counter, self.clock)
        self.inner = inner or Inner()
        self.guard = self.around(Own(self.inner, act), self.inner)

    def around(self, middleware: Any, inner: Any, name: str = "own") -> Guard:
        return Guard(inner, middleware, name, self.watch, self.clock)


def raising(error: BaseException) -> Any:
    def act(_: Any) -> None:
        raise error

    return act


def test_request_passes() -> None:
    case = Case()
    request = stub_request()
    assert case.guard.render(request) is NOT_DONE_YET
    assert case.inner.requests == [request]


@pytest.mark.parametrize("fault", [ValueError("x"), SystemExit(3)])
@pytest.mark.parametrize("calls_before", [0, 1])  # the first is timed
def test_its_fault_is_told_by_its_name(calls_before: int, fault: BaseException) -> None:
    case = Case()
    for _ in range(calls_before):
        case.guard.render(stub_request())
    case.guard.middleware.act = raising(fault)
    with logged_failures() as failures, pytest.raises(InternalError, match="middleware own failed"):
        case.guard.render(stub_request())
    assert [failure["middleware"] for failure in failures] == ["own"]


@pytest.mark.parametrize("result", ["text", 7, object()])
def test_result_that_nobody_knows_is_a_fault(result: object) -> None:
    case = Case(lambda _: result)
    with logged_events() as events, pytest.raises(InternalError, match=type(result).__name__):
        case.guard.render(stub_request())
    assert [event["middleware"] for event in events] == ["own"]


def test_none_is_told_once_a_minute() -> None:
    """A forgotten ``return`` looks like this, and so does one who has seen to the request."""
    case = Case(lambda _: None)
    with logged_events() as events:
        for pause_s in (0.0, 1.0, WARNING_PAUSE_S):
            case.clock.advance(pause_s)
            assert case.guard.render(stub_request()) is NOT_DONE_YET
    assert [event["middleware"] for event in events] == ["own", "own"]


def test_refusal_is_no_fault() -> None:
    case = Case(raising(BadRequest()))
    with logged_failures() as failures, pytest.raises(BadRequest):
        case.guard.render(stub_request())
    assert failures == []


class Faulty:
    def render(self, request: Any) -> Any:
        raise ValueError("below")


@pytest.mark.parametrize("is_onward", [False, True])
def test_fault_from_below_is_not_its_own(is_onward: bool) -> None:
    below: Any = Onward(Faulty().render) if is_onward else Faulty()
    case = Case(inner=below)
    for _ in range(2):
        with logged_failures() as failures, pytest.raises(ValueError, match="below"):
            case.guard.render(stub_request())
        assert failures == []


def test_of_several_the_innermost_that_failed_is_told() -> None:
    case = Case(raising(ValueError("x")))
    outer = case.around(Own(case.guard), case.guard, "outer")
    with logged_failures() as failures, pytest.raises(InternalError):
        outer.render(stub_request())
    assert [failure["middleware"] for failure in failures] == ["own"]


# --- what twisted.web's resources may return ----------------------------------------------------------------------


def test_bytes_are_the_answer() -> None:
    channel = StubChannel()
    request = stub_request(channel=channel)
    assert Case(lambda _: b"hello").guard.render(request) is NOT_DONE_YET
    assert b"hello" in [event[1] for event in channel.events if event[0] == "body"]
    assert request.ended


@pytest.mark.parametrize(("error", "status"), [(ValueError("x"), 500), (BadRequest(), 400)])
def test_deferred_that_fails_ends_the_request(error: Exception, status: int) -> None:
    later: Deferred[None] = Deferred()
    channel = StubChannel()
    request = stub_request(channel=channel)
    assert Case(lambda _: later).guard.render(request) is NOT_DONE_YET
    with logged_failures() as failures:
        later.errback(error)
    assert [event[1] for event in channel.events if event[0] == "head"] == [status]
    assert [failure["middleware"] for failure in failures] == ([] if isinstance(error, GatewayError) else ["own"])


def test_deferred_of_bytes_is_the_answer() -> None:
    later: Deferred[bytes] = Deferred()
    channel = StubChannel()
    request = stub_request(channel=channel)
    Case(lambda _: later).guard.render(request)
    assert channel.events == []
    later.callback(b"later")
    assert request.ended


# --- time ---------------------------------------------------------------------------------------------------------


def warnings(case: Case, calls: int) -> list[Any]:
    with logged_events() as events:
        for _ in range(calls):
            case.guard.render(stub_request())
    return [event for event in events if event["log_level"] is LogLevel.warn]


def blocking(case: Case, seconds: float) -> None:
    def act(request: Any) -> Any:
        case.clock.advance(seconds)
        return case.inner.render(request)

    case.guard.middleware.act = act


def test_one_that_blocks_is_warned_of_by_name_and_counted() -> None:
    case = Case()
    blocking(case, BLOCKING_S + 0.01)
    (event,) = warnings(case, 1)
    assert (event["middleware"], event["seconds"]) == ("own", 0.06)
    assert case.counter.value == 1


def test_one_call_in_a_hundred_is_timed() -> None:
    case = Case()
    blocking(case, 1)
    warnings(case, 2 * TIMED_EVERY)
    assert case.counter.value == 2
    warnings(case, 1)
    assert case.counter.value == 3


def test_warnings_are_a_minute_apart() -> None:
    case = Case()
    with logged_events() as events:
        case.watch.took(1.0)
        case.clock.advance(WARNING_PAUSE_S - 0.1)
        case.watch.took(2.0)
        case.clock.advance(0.1)
        case.watch.took(3.0)
    assert [event["seconds"] for event in events] == [1.0, 3.0]
    assert case.counter.value == 3


def test_warnings_within_a_minute_are_left_out() -> None:
    case = Case()
    blocking(case, 0.1)
    assert len(warnings(case, 1 + 5 * TIMED_EVERY)) == 1
    assert case.counter.value == 6


def test_what_does_not_block_is_not_told() -> None:
    case = Case()
    blocking(case, BLOCKING_S - 0.001)
    assert warnings(case, 2 * TIMED_EVERY) == []
    assert case.counter.value == 0


class Slow(Inner):
    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def render(self, request: Any) -> int:
        self.clock.advance(1)
        return super().render(request)


def test_time_below_is_not_its_own() -> None:
    case = Case()
    slow = Slow(case.clock)
    guard = case.around(Own(slow), slow)
    guard.render(stub_request())
    assert case.counter.value == 0
    assert guard.middleware.inner is slow


def test_call_that_fails_is_timed_as_well() -> None:
    case = Case()

    def act(_: Any) -> None:
        case.clock.advance(1)
        raise BadRequest

    case.guard.middleware.act = act
    with pytest.raises(BadRequest):
        case.guard.render(stub_request())
    assert case.counter.value == 1
    assert case.guard.middleware.inner is case.inner
