"""One timer wheel for the whole process: deadlines are attributes, not timers.

Making and cancelling a ``callLater`` for each request costs more than scanning all requests in flight ten times a
second, so whatever waits carries a ``deadline`` and is watched here. Fine items are looked at every 100 ms, coarse
ones (idle connections, of which there may be ten thousand) every second.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TICK_S = 0.1
TICKS_PER_COARSE = 10

_log = Logger(__name__)


class Expiring(Protocol):
    """Something with a deadline in clock seconds; ``math.inf`` for none at present."""

    deadline: float

    def on_deadline(self, now: float) -> None:
        """The deadline has passed; the item moves it, or leaves the wheel, before returning."""


class TimerWheel:
    """Calls :meth:`Expiring.on_deadline` of watched items, at most one tick late and never early.

    It ticks only while something is watched, so an idle wheel leaves no delayed call behind.

    Args:
        clock: source of time and of the tick.
    """

    __slots__ = ("_clock", "_coarse", "_count", "_fine", "_tick_call", "now")

    #: Clock seconds of the last tick, at most one tick old while anything is watched: a clock for long timeouts that
    #: costs nothing to read.
    now: float

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._fine: set[Expiring] = set()
        self._coarse: set[Expiring] = set()
        self._count = 0
        self._tick_call: IDelayedCall | None = None
        self.now = clock.seconds()

    def watch(self, item: Expiring) -> None:
        """Look at ``item`` every 100 ms until it is forgotten."""
        self._fine.add(item)
        if self._tick_call is None:
            self._start()

    def watch_coarse(self, item: Expiring) -> None:
        """Look at ``item`` every second until it is forgotten."""
        self._coarse.add(item)
        if self._tick_call is None:
            self._start()

    def forget(self, item: Expiring) -> None:
        """Stop looking at ``item`` every 100 ms; harmless if it was not watched."""
        self._fine.discard(item)

    def forget_coarse(self, item: Expiring) -> None:
        """Stop looking at ``item`` every second; harmless if it was not watched."""
        self._coarse.discard(item)

    def stop(self) -> None:
        """Forget everything and stop ticking."""
        self._fine.clear()
        self._coarse.clear()
        if self._tick_call is not None:
            self._tick_call.cancel()
            self._tick_call = None

    def after(self, timeout_s: float) -> float:
        """A deadline not less than ``timeout_s`` away (up to one tick more), without asking the clock."""
        return self.now + TICK_S + timeout_s

    def _start(self) -> None:
        if self._tick_call is None:  # else a handler of this tick has begun to watch something
            self.now = self._clock.seconds()
            self._tick_call = self._clock.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        self._tick_call = None
        self.now = now = self._clock.seconds()
        self._count += 1
        self._expire(self._fine, now)
        if self._count >= TICKS_PER_COARSE:
            self._count = 0
            self._expire(self._coarse, now)
        if self._fine or self._coarse:
            self._start()

    @staticmethod
    def _expire(items: set[Expiring], now: float) -> None:
        for item in [item for item in items if item.deadline <= now]:
            if item not in items:  # forgotten by the handler of one before it
                continue
            try:
                item.on_deadline(now)
            except Exception:  # one item's fault must not stop everybody's deadlines
                _log.failure("deadline handler failed")
