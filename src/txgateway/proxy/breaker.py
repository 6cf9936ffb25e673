"""A target's circuit breaker: whether it is worth trying, judged by how the attempts at it ended.

The pattern is Michael Nygard's ("Release It!", 2nd edition, chapter 5). That each failed trial doubles the time of the
next pause is after Envoy's outlier detection, where an ejection lasts longer the more often a host was ejected.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from random import Random
from typing import Final

from txgateway.config.groups import Breaker
from txgateway.proxy.window import RollingCount

__all__ = ["MAX_OPEN_S", "BreakerState", "CircuitBreaker"]

#: Seconds; doubling ends here, unless ``open_for_s`` itself is longer.
MAX_OPEN_S: Final = 300.0

#: The least share of the open time that chance leaves.
_MIN_SHARE: Final = 0.9


class BreakerState(IntEnum):
    """What a breaker lets through: everything, one probe, nothing. The numbers are those of the metric."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2

    @property
    def label(self) -> str:
        """``closed``, ``half-open`` or ``open``."""
        return self.name.lower().replace("_", "-")


class CircuitBreaker:
    """Stops attempts at a target that keeps failing, and lets one through now and then to see if it is back.

    *Closed*, it opens after ``failures`` failures in a row, or when a failure makes the share of failures in the window
    ``ratio`` or more of at least ``min_requests`` outcomes. *Open*, it lets nothing through for ``open_for_s``, or a
    little less: chance takes up to a tenth, so that many gateways do not probe at the same time. Then one attempt, the
    probe, makes it *half-open*. If the probe succeeds, the breaker closes and has forgotten everything. If it fails, it
    opens for twice as long as the last time, up to :data:`MAX_OPEN_S`. A probe that has not ended after ``open_for_s``
    (its client may be slow) bars no other: then there is one more, and the first that ends decides.

    Each attempt that was admitted ends with exactly one of :meth:`succeeded`, :meth:`failed` and :meth:`cancelled`.
    One that is no probe and ends while the breaker is not closed changes nothing: it began before. A probe that ends
    when the breaker is no longer half-open is no more than that.

    Times are clock seconds that do not go back.

    Args:
        settings: its numbers; one that is not enabled never opens.
        chance: shortens the open times.
        on_change: is told each new state and the reason, when all is done. May be replaced at any time.

    Attributes:
        state: what it was left in; an open one whose time has passed stays open until the probe (:meth:`state_at`).
    """

    __slots__ = (
        "_chance", "_failures", "_in_a_row", "_is_probing", "_open_s", "_open_until", "_probing_until", "_settings",
        "_successes", "on_change", "state",
    )  # fmt: skip

    def __init__(
        self, settings: Breaker, chance: Random, on_change: Callable[[BreakerState, str], None] | None = None
    ) -> None:
        self.state = BreakerState.CLOSED
        self.on_change = on_change
        self._settings = settings
        self._chance = chance
        self._successes = RollingCount(settings.window_s)
        self._failures = RollingCount(settings.window_s)
        self._in_a_row = 0
        self._open_s = settings.open_for_s  # of this opening, or the next one if it is closed; before chance
        self._open_until = 0.0
        self._is_probing = False  # counts while it is half-open; never set while it is closed
        self._probing_until = 0.0  # then the probe is not waited for any longer

    def __repr__(self) -> str:
        return f"<CircuitBreaker {self.state.label}, {self._in_a_row} failures in a row>"

    def state_at(self, now: float) -> BreakerState:
        """The state to show: half-open as soon as a probe may be made."""
        if self.state is BreakerState.OPEN and now >= self._open_until:
            return BreakerState.HALF_OPEN
        return self.state

    def allows(self, now: float) -> bool:
        """Whether an attempt may be made."""
        if self.state is BreakerState.OPEN:
            return now >= self._open_until
        return not self._is_probing or now >= self._probing_until

    def wait_s(self, now: float) -> float:
        """Seconds until a probe may be made; 0.0 if it may be made now, or one is under way."""
        return max(0.0, self._open_until - now) if self.state is BreakerState.OPEN else 0.0

    def admit(self, now: float) -> bool:
        """An attempt begins.

        Returns:
            whether it is a probe. An attempt that is made although :meth:`allows` said no is none.
        """
        if not self.state or not self.allows(now):
            return False
        self._is_probing = True
        self._probing_until = now + self._settings.open_for_s
        if self.state is BreakerState.OPEN:
            self._change(BreakerState.HALF_OPEN, "probe begins")
        return True

    def succeeded(self, now: float, *, is_probe: bool = False) -> None:
        """The target did what it was asked to."""
        if not self.state:
            self._in_a_row = 0
            self._successes.add(now)
        elif is_probe and self.state is BreakerState.HALF_OPEN:
            self._close()

    def failed(self, now: float, *, is_probe: bool = False, why: str = "") -> None:
        """The target is to blame that an attempt failed.

        Args:
            now: clock seconds.
            is_probe: what :meth:`admit` said.
            why: a fixed word for it, told if the probe failed.
        """
        if self.state:
            if is_probe and self.state is BreakerState.HALF_OPEN:
                longest = max(MAX_OPEN_S, self._settings.open_for_s)
                self._open_s = min(self._open_s * 2, longest)
                self._open(now, f"probe failed: {why}" if why else "probe failed")
        elif self._settings.enabled:
            self._count_failure(now)

    def cancelled(self, *, is_probe: bool) -> None:
        """An attempt was given up and says nothing of the target; another one may be the probe."""
        if is_probe:
            self._is_probing = False

    def recover(self, now: float) -> None:
        """An active check found the target well: an open breaker may be probed at once."""
        self._open_until = now

    def _count_failure(self, now: float) -> None:
        settings = self._settings
        self._in_a_row += 1
        self._failures.add(now)
        if self._in_a_row >= settings.failures:
            self._open(now, f"{self._in_a_row} failures in a row")
            return
        failures = self._failures.total(now)
        outcomes = failures + self._successes.total(now)
        if outcomes >= settings.min_requests and failures / outcomes >= settings.ratio:
            self._open(now, f"ratio {failures / outcomes:.2f} of {outcomes} requests")

    def _open(self, now: float, why: str) -> None:
        self._open_until = now + self._open_s * self._chance.uniform(_MIN_SHARE, 1.0)
        self._change(BreakerState.OPEN, why)

    def _close(self) -> None:
        self._is_probing = False
        self._open_s = self._settings.open_for_s
        self._in_a_row = 0
        self._successes.clear()
        self._failures.clear()
        self._change(BreakerState.CLOSED, "probe succeeded")

    def _change(self, state: BreakerState, why: str) -> None:
        self.state = state
        if self.on_change is not None:
            self.on_change(state, why)
