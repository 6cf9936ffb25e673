from __future__ import annotations

from twisted.internet.task import Clock

from txgateway.transport.http2.floods import Turns


def test_one_of_all_that_wait_goes_on_in_each_turn() -> None:
    clock, went = Clock(), []
    turns = Turns(clock)
    for name in "abc":
        turns.wait(lambda name=name: went.append(name))  # type: ignore[misc]
    assert went == []
    for expected in ("a", "ab", "abc", "abc"):
        clock.advance(0)
        assert "".join(went) == expected
    assert not clock.getDelayedCalls()


def test_who_has_not_enough_with_a_turn_waits_behind_all_others() -> None:
    clock, went = Clock(), []
    turns = Turns(clock)

    def greedy() -> None:
        went.append("greedy")
        turns.wait(greedy)

    turns.wait(greedy)
    turns.wait(lambda: went.append("modest"))
    for _ in range(4):
        clock.advance(0)
    assert went == ["greedy", "modest", "greedy", "greedy"]


def test_fault_of_one_does_not_stop_the_others() -> None:
    clock, went = Clock(), []
    turns = Turns(clock)
    turns.wait(lambda: 1 / 0)  # type: ignore[arg-type]
    turns.wait(lambda: went.append("next"))
    try:
        clock.advance(0)
    except ZeroDivisionError:
        went.append("fault")
    clock.advance(0)
    assert went == ["fault", "next"]
