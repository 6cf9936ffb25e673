from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from txgateway.transport.http2.floods import Turns


class Reactor(Clock):
    """A clock of which one turn at a time can be seen: what a turn asks for at once comes in the next."""

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call.func(*call.args, **call.kw)


def test_one_of_all_that_wait_goes_on_in_each_turn() -> None:
    reactor, went = Reactor(), []
    turns = Turns(reactor)
    for name in "abc":
        turns.wait(lambda name=name: went.append(name))  # type: ignore[misc]
    assert went == []
    for expected in ("a", "ab", "abc"):
        reactor.turn()
        assert "".join(went) == expected
    assert not reactor.getDelayedCalls()


def test_who_has_not_enough_with_a_turn_waits_behind_all_others() -> None:
    reactor, went = Reactor(), []
    turns = Turns(reactor)

    def greedy() -> None:
        went.append("greedy")
        turns.wait(greedy)

    turns.wait(greedy)
    turns.wait(lambda: went.append("modest"))
    for _ in range(4):
        reactor.turn()
    assert went == ["greedy", "modest", "greedy", "greedy"]


def test_fault_of_one_does_not_stop_the_others() -> None:
    reactor, went = Reactor(), []
    turns = Turns(reactor)
    turns.wait(lambda: 1 / 0)  # type: ignore[arg-type]
    turns.wait(lambda: went.append("next"))
    with pytest.raises(ZeroDivisionError):
        reactor.turn()
    reactor.turn()
    assert went == ["next"]
