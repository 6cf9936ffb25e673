from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from txgateway.drain import LOOK_S, Drain
from txgateway.errors import GatewayError


class Connection:
    """One of a client's."""

    def __init__(self, case: Case, *, in_progress: bool) -> None:
        self.case = case
        self.in_progress = in_progress
        self.shut_down_with: str | None = None
        self.is_told = False

    def close_when_idle(self) -> None:
        self.is_told = True
        if not self.in_progress:
            self.case.connections.discard(self)

    def shut_down(self, error: GatewayError) -> None:
        self.shut_down_with = error.reason
        self.case.connections.discard(self)


class Case:
    """A gateway's end with the steps that were taken."""

    def __init__(self, busy: int, idle: int = 0, delay_s: float = 0.0, timeout_s: float = 5.0) -> None:
        self.clock = Clock()
        self.steps: list[str] = []
        self.busy = [Connection(self, in_progress=True) for _ in range(busy)]
        self.connections: set[Any] = {*self.busy, *(Connection(self, in_progress=False) for _ in range(idle))}
        self.drain = Drain(
            self.clock,
            delay_s,
            timeout_s,
            lambda: self.connections,
            lambda: self.steps.append("begin"),
            lambda: self.steps.append("stop accepting"),
            lambda: self.steps.append("done"),
        )

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / LOOK_S)):
            self.clock.advance(LOOK_S)


def test_nobody_there_ends_at_once() -> None:
    case = Case(busy=0)
    case.drain.start()
    case.clock.advance(0)
    assert case.steps == ["begin", "stop accepting", "done"]
    assert not case.clock.getDelayedCalls()


def test_idle_connections_stay_a_moment_longer_than_the_listener() -> None:
    """A request that has just been sent on one of them is answered."""
    case = Case(busy=0, idle=2)
    case.drain.start()
    case.clock.advance(0)
    assert case.steps == ["begin", "stop accepting"]
    assert len(case.connections) == 2
    assert not any(connection.is_told for connection in case.connections)
    late = Connection(case, in_progress=True)
    case.connections.add(late)
    case.clock.advance(LOOK_S)
    assert case.connections == {late}
    late.in_progress = False
    case.clock.advance(LOOK_S)
    assert case.steps == ["begin", "stop accepting", "done"]
    assert not case.connections
    assert not case.clock.getDelayedCalls()


def test_delay_comes_before_the_listener_closes() -> None:
    case = Case(busy=0, idle=1, delay_s=3.0)
    case.drain.start()
    case.wait(2.9)
    assert case.steps == ["begin"]
    assert len(case.connections) == 1
    case.wait(0.2)
    assert case.steps == ["begin", "stop accepting", "done"]


def test_what_is_under_way_is_waited_for() -> None:
    case = Case(busy=2)
    case.drain.start()
    case.clock.advance(0)
    assert [connection.is_told for connection in case.busy] == [True, True]  # at once: a WebSocket's client can leave
    case.wait(1)
    assert case.steps == ["begin", "stop accepting"]
    for connection in case.busy:
        connection.in_progress = False
    case.wait(0.1)
    assert case.steps[-1] == "done"
    assert [connection.shut_down_with for connection in case.busy] == [None, None]


def test_time_is_up_for_what_does_not_end() -> None:
    case = Case(busy=1, timeout_s=2.0)
    case.drain.start()
    case.wait(1.9)
    assert case.steps == ["begin", "stop accepting"]
    case.wait(0.2)
    assert case.steps[-1] == "done"
    assert case.busy[0].shut_down_with == "DRAINING"
    assert not case.clock.getDelayedCalls()


def test_second_word_ends_it_at_once_and_a_third_changes_nothing() -> None:
    case = Case(busy=1, delay_s=10.0)
    case.drain.start()
    case.wait(1)
    case.drain.start()
    assert case.steps == ["begin", "done"]
    assert case.busy[0].shut_down_with == "DRAINING"
    case.drain.start()
    assert case.steps == ["begin", "done"]
    assert not case.clock.getDelayedCalls()
