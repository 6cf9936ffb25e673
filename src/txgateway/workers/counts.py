"""Who has how many connections: a few numbers in memory that all workers have, so that none takes more than its share.

All workers wait at the same listeners, and the system wakes all of them for each connection. One that happens to run,
while another waits for a CPU, would take a burst of connections before that one comes to its first. So whoever is well
ahead of another leaves connections to it for a moment, which is bounded: one that does not come is not waited for again
for a while.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sized
from typing import Final

#: Of a worker that takes none: there is no process, or it drains.
AWAY: Final = 2**62
#: Connections that a worker may be ahead by, and what part of its own besides.
SLACK: Final = 2
SLACK_PART: Final = 1 / 8
#: Seconds that a worker which is ahead leaves connections to others, and then takes all that come.
PATIENCE_S: Final = 0.05
HURRY_S: Final = 0.2

_BYTES: Final = 8


class Counts:
    """The numbers, by the index of workers; only a worker itself changes its own while it lives.

    Args:
        descriptor: of the memory.
        workers: how many there are.
    """

    def __init__(self, descriptor: int, workers: int) -> None:
        size = workers * _BYTES
        if os.fstat(descriptor).st_size < size:
            os.ftruncate(descriptor, size)
        self._numbers = memoryview(mmap.mmap(descriptor, size)).cast("q")

    def __getitem__(self, index: int) -> int:
        return self._numbers[index]

    def __setitem__(self, index: int, count: int) -> None:
        self._numbers[index] = count

    def least(self, but: int) -> int:
        """The least of all others."""
        numbers = self._numbers
        return min(numbers[index] for index in range(len(numbers)) if index != but)


class Turns:
    """Whose turn it is to take a connection, as one worker sees it.

    Args:
        counts: what all have; this worker's is kept here.
        index: of this worker.
        own: its connections.
        seconds: the clock.
    """

    def __init__(self, counts: Counts, index: int, own: Callable[[], Sized], seconds: Callable[[], float]) -> None:
        self._counts = counts
        self._index = index
        self._own = own
        self._seconds = seconds
        self._ahead_since: float | None = None
        self._hurries_until = 0.0
        self._is_away = False
        counts[index] = len(own())

    def is_others(self) -> bool:
        """Whether to leave the next connection to others for a moment."""
        own = len(self._own())
        if self._is_away:
            return False
        self._counts[self._index] = own
        if own - self._counts.least(self._index) <= SLACK + own * SLACK_PART:
            self._ahead_since = None
            return False
        now = self._seconds()
        if now < self._hurries_until:
            return False
        if self._ahead_since is None:
            self._ahead_since = now
        if now - self._ahead_since < PATIENCE_S:
            return True
        self._ahead_since, self._hurries_until = None, now + HURRY_S
        return False

    def leave(self) -> None:
        """This worker takes none any more: nobody is to wait for it."""
        self._is_away = True
        self._counts[self._index] = AWAY
