from __future__ import annotations

from collections.abc import Callable

import pytest
from twisted.internet.task import Clock

from txgateway.transport.http2.floods import Turns


def noting(went: list[str], name: str, *, is_used: bool = True) -> Callable[[], bool]:
    def go_on() -> bool:
        went.append(name)
        return is_used

    return go_on


class Reactor(Clock):
    """A clock of which one turn at a time can be seen: what a turn asks for at once comes in the next."""

    def turn(self) -> None:
        calls, self.calls = self.calls, []
        for call in calls:
            call.func(*call.args, **call.kw)


def test_one_of_all_that_wait_goes_on_in_each_turn() -> None:
    reactor, went = Reactor(), list[str]()
    turns = Turns(reactor)
    for name in "abc":
        turns.wait(noting(went, name))
    assert went == []
    for expected in ("a", "ab", "abc"):
        reactor.turn()
        assert "".join(went) == expected
    assert not reactor.getDelayedCalls()


def test_who_has_not_enough_with_a_turn_waits_behind_all_others() -> None:
    reactor, went = Reactor(), list[str]()
    turns = Turns(reactor)

    def greedy() -> bool:
        went.append("greedy")
        turns.wait(greedy)
        return True

    turns.wait(greedy)
    turns.wait(noting(went, "modest"))
    for _ in range(4):
        reactor.turn()
    assert went == ["greedy", "modest", "greedy", "greedy"]


def test_fault_of_one_does_not_stop_the_others() -> None:
    reactor, went = Reactor(), list[str]()
    turns = Turns(reactor)
    turns.wait(lambda: bool(1 / 0))
    turns.wait(noting(went, "next"))
    with pytest.raises(ZeroDivisionError):
        reactor.turn()
    reactor.turn()
    assert went == ["next"]


def test_who_has_no_use_for_a_turn_any_more_leaves_it_to_the_next() -> None:
    reactor, went = Reactor(), list[str]()
    turns = Turns(reactor)
    for name, is_used in (("gone", False), ("a", True), ("gone", False), ("gone", False), ("b", True), ("gone", False)):
        turns.wait(noting(went, name, is_used=is_used))
    reactor.turn()
    assert went == ["gone", "a"]
    reactor.turn()
    assert went[2:] == ["gone", "gone", "b"]
    reactor.turn()
    assert went[5:] == ["gone"]
    assert not reactor.getDelayedCalls()
