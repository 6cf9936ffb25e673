"""Virtual time that cannot hang a test."""

from __future__ import annotations

from typing import Final

from twisted.internet.task import Clock

#: Calls at one and the same moment, at most: beyond it something schedules itself anew without letting time pass.
MAX_CALLS_AT_ONCE: Final = 100_000


class BusyLoop(AssertionError):
    """Something calls itself again at the same moment, for ever."""


class VirtualClock(Clock):
    """A ``task.Clock`` that ends where Twisted's would go on for ever, and can let time pass call by call."""

    def advance(self, amount: float) -> None:
        """Move on by ``amount`` seconds at once, and make all calls that are due then.

        Raises:
            BusyLoop: they do not come to an end.
        """
        self.rightNow += amount
        self._sortCalls()
        for _ in range(MAX_CALLS_AT_ONCE):
            if not self.calls or self.calls[0].getTime() > self.rightNow:
                return
            call = self.calls.pop(0)
            call.called = 1
            call.func(*call.args, **call.kw)
        raise BusyLoop(f"{call.func!r} is called again and again while no time passes")

    def turn(self) -> None:
        """Make the calls that are due, and those that these make due; no time passes."""
        self.advance(0)

    def next_s(self) -> float | None:
        """Seconds until the next call, None if there is none."""
        self._sortCalls()
        return max(0.0, self.calls[0].getTime() - self.rightNow) if self.calls else None

    def let_pass(self, seconds: float) -> None:
        """Let ``seconds`` pass, each call being made at its own time."""
        until = self.rightNow + seconds
        while (next_s := self.next_s()) is not None and self.rightNow + next_s <= until:
            self.advance(next_s)
        self.advance(max(0.0, until - self.rightNow))
