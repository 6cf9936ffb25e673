"""Whose turn it is: two workers over the same memory, in virtual time."""

from __future__ import annotations

import os

from twisted.internet.task import Clock

from txgateway.telemetry.shared_sink import new_lock
from txgateway.workers.counts import AWAY, HURRY_S, PATIENCE_S, Counts, Turns


class Case:
    def __init__(self, workers: int = 2) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        descriptor = new_lock()
        self.counts = Counts(descriptor, workers)
        for index in range(workers):
            self.counts[index] = AWAY
        self.own: list[list[int]] = [[] for _ in range(workers)]
        self.turns = [
            Turns(Counts(descriptor, workers), index, lambda some=some: some, self.clock.seconds)  # type: ignore[misc]
            for index, some in enumerate(self.own)
        ]
        os.close(descriptor)

    def take(self, index: int, count: int = 1) -> int:
        """Take up to so many connections, as long as it is its turn; returns how many."""
        for taken in range(count):
            if self.turns[index].is_others():
                return taken
            self.own[index].append(0)
        return count


def test_nobody_takes_a_burst_alone() -> None:
    case = Case()
    assert case.take(0, 64) < 6
    taken = [0, 0]
    while sum(map(len, case.own)) < 64:
        for index in (0, 1):
            taken[index] += case.take(index, 64 - sum(map(len, case.own)))
    assert all(64 * 0.35 < len(own) < 64 * 0.65 for own in case.own)


def test_one_that_does_not_come_is_waited_for_a_moment_and_then_not_for_a_while() -> None:
    case = Case()
    case.take(0, 64)
    assert case.take(0) == 0
    case.clock.advance(PATIENCE_S / 2)
    assert case.take(0) == 0
    case.clock.advance(PATIENCE_S * 0.6)
    assert case.take(0, 500) == 500
    case.clock.advance(HURRY_S * 0.9)
    assert case.take(0, 500) == 500
    case.clock.advance(HURRY_S * 0.2)
    assert case.take(0) == 0


def test_one_that_catches_up_ends_the_wait() -> None:
    case = Case()
    case.take(0, 64)
    case.take(1, 3)
    assert case.take(0) == 1
    case.take(0, 64)
    case.clock.advance(PATIENCE_S)
    case.take(1, 3)
    assert case.take(0) == 1
    case.take(0, 64)
    assert case.take(0) == 0  # its patience begins anew


def test_one_that_is_away_is_not_waited_for() -> None:
    case = Case()
    case.turns[1].leave()
    assert case.counts[1] == AWAY
    assert case.take(0, 1000) == 1000
    assert case.take(1, 5) == 5  # what still comes to it
    assert case.counts[1] == AWAY
    case = Case()
    case.counts[1] = AWAY  # as its supervisor says when it died
    assert case.take(0, 1000) == 1000


def test_many_connections_may_differ_by_more() -> None:
    case = Case()
    case.own[0] += [0] * 1000
    case.own[1] += [0] * 880
    case.turns[1].is_others()
    assert not case.turns[0].is_others()
    case.own[0] += [0] * 100
    assert case.turns[0].is_others()
    assert not case.turns[1].is_others()


def test_the_least_of_several_counts() -> None:
    case = Case(3)
    case.own[0] += [0] * 50
    case.own[1] += [0] * 50
    for turns in case.turns[1:]:
        turns.is_others()
    assert case.turns[0].is_others()
    assert case.turns[1].is_others()
    assert not case.turns[2].is_others()
