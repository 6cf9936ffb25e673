"""How a target leaves: what is under way there runs to its end before its connections are closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from txgateway.proxy.target import Target
from txgateway.transport.wheel import TimerWheel

#: Seconds that a target which has left the backend is left alone with its requests.
DRAIN_LIMIT_S: Final = 600.0


class TargetDrain:
    """A target that has left its backend; the wheel looks every second whether its requests are over.

    Args:
        target: that has left.
        now: clock seconds.
        wheel: looks.
        on_over: told when its connections are closed.
        quiet_s: for so long there must have been no request, where some may still come.
    """

    __slots__ = ("_gives_up_at", "_on_over", "_quiet_at", "_quiet_s", "_wheel", "deadline", "target")

    def __init__(
        self, target: Target, now: float, wheel: TimerWheel, on_over: Callable[[], None], quiet_s: float = 0.0
    ) -> None:
        self.target = target
        self.deadline = now
        self._gives_up_at = now + DRAIN_LIMIT_S
        self._quiet_s = quiet_s
        self._quiet_at = now + quiet_s
        self._wheel = wheel
        self._on_over = on_over
        wheel.watch_coarse(self)

    def on_deadline(self, now: float) -> None:
        """The wheel: another second has passed."""
        self.deadline = now
        if self.target.in_flight:
            self._quiet_at = now + self._quiet_s
        if now >= self._gives_up_at or (not self.target.in_flight and now >= self._quiet_at):
            self.finish()

    def finish(self) -> None:
        """Close what is idle; what is under way runs on."""
        self.leave()
        self._on_over()
        self.target.pool.close()

    def leave(self) -> None:
        """Look no more: the target is back, or all is over."""
        self._wheel.forget_coarse(self)
