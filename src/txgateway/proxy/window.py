"""How many events there were lately: a count over a sliding window, in constant memory and next to no time."""

from __future__ import annotations

import math
from typing import Final

__all__ = ["MIN_WINDOW_S", "SLOTS", "RollingCount"]

#: Slots that a window is divided into.
SLOTS: Final = 10

#: Seconds; a shorter window is taken for this one.
MIN_WINDOW_S: Final = 0.001


class RollingCount:
    """Events of about the last ``window_s`` seconds.

    They are counted in :data:`SLOTS` slots that have ended and the one that is filling. So every event of the last
    ``window_s`` seconds is in the total, and none that is ``window_s * 1.1`` seconds old or older. Slots begin at
    multiples of their length: counts over windows of one length cover the same time and may be compared.

    Time is in seconds of any one clock. It may jump ahead, and must not go back.

    Args:
        window_s: seconds, at least :data:`MIN_WINDOW_S`.
    """

    __slots__ = ("_ended", "_ends_at", "_filling", "_number", "_slot_s", "_slots")

    def __init__(self, window_s: float) -> None:
        self._slot_s = max(window_s, MIN_WINDOW_S) / SLOTS
        self._slots = [0] * SLOTS  # a ring: events in slot n are at n % SLOTS
        self._ended = 0  # the sum of them
        self._filling = 0
        self._number = 0  # of the slot that is filling
        self._ends_at = -math.inf

    def __repr__(self) -> str:
        return f"<RollingCount {self._ended} + {self._filling}>"

    def add(self, now: float, count: int = 1) -> None:
        """So many events happen."""
        if now >= self._ends_at:
            self._turn(now)
        self._filling += count

    def total(self, now: float) -> int:
        """The events of the window that ends now."""
        if now >= self._ends_at:
            self._turn(now)
        return self._ended + self._filling

    def clear(self) -> None:
        """Forget all events."""
        self._slots = [0] * SLOTS
        self._ended = self._filling = 0

    def _turn(self, now: float) -> None:
        """Go on to the slot that ``now`` is in; each slot that is passed takes the place of the oldest."""
        number = math.floor(now / self._slot_s)
        for ended in range(self._number, min(number, self._number + SLOTS + 1)):
            place = ended % SLOTS
            self._ended += self._filling - self._slots[place]
            self._slots[place] = self._filling
            self._filling = 0
        self._number = number
        self._ends_at = (number + 1) * self._slot_s
