"""How much a peer may send that costs us work and brings nothing: each kind of flood has its number here.

Beyond a limit a connection ends with ENHANCE_YOUR_CALM (RFC 9113 section 10.5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.interfaces import IReactorTime

#: Streams that a client ended before their answer was complete, or made us end: at once, and a second. For "rapid
#: reset" (CVE-2023-44487) and "made you reset" (CVE-2025-8671); a browser that leaves a page resets a hundred at once.
RESETS: Final = 500
RESETS_PER_S: Final = 50.0
#: Frames that bring nothing: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, frames of ended streams or unknown
#: types: at once, and a second. Each request and each DATA frame with something in it earns some more, since honest
#: peers send them in proportion.
EMPTY_FRAMES: Final = 1000
EMPTY_FRAMES_PER_S: Final = 200.0
EARNED: Final = 4
#: Settings in one frame.
SETTINGS: Final = 32
#: Frames of one header block, the first included, and its bytes.
BLOCK_FRAMES: Final = 16
BLOCK_BYTES: Final = 64 * 1024
#: Fields of one header block as RFC 7541 section 4.1 counts them, and bytes of table size updates in front of them, of
#: which section 4.2 needs two.
LIST_BYTES: Final = 64 * 1024
TABLE_UPDATE_BYTES: Final = 16
#: Work of one turn: a request counts as so many frames. The rest of a read waits for the next turn.
TURN_FRAMES: Final = 256
REQUEST_FRAMES: Final = 16
#: And so many fields of a header block as one.
FIELDS_A_FRAME: Final = 3
#: Streams that hear in one turn that their connection is gone; the others do in the next.
LOST_STREAMS: Final = 16
#: Unsent bytes beyond which nothing more is read from a peer that does not read.
UNSENT_BYTES: Final = 256 * 1024


class Turns:
    """Connections that have used up the work of their turn: one of all these goes on in each turn of the reactor.

    What everybody else has to wait does not grow with their number then. The work may be what they have read, or what
    ends with them.

    Args:
        clock: the reactor.
    """

    __slots__ = ("_clock", "_has_asked", "_waiting")

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._waiting: deque[Callable[[], bool]] = deque()
        self._has_asked = False

    def wait(self, go_on: Callable[[], bool]) -> None:
        """Call this once, when it is its turn; it says whether it had a use for that, or else the next one has it."""
        self._waiting.append(go_on)
        self._ask_for_a_turn()

    def _ask_for_a_turn(self) -> None:
        if self._waiting and not self._has_asked:
            self._has_asked = True
            self._clock.callLater(0, self._next)

    def _next(self) -> None:
        self._has_asked = False
        waiting = self._waiting
        try:
            while waiting and not waiting.popleft()():
                pass
        finally:
            self._ask_for_a_turn()


class Allowance:
    """A number of events that may happen at once, and that grows again with time.

    Args:
        size: most that there is.
        per_s: growth.
        now: clock seconds.
    """

    __slots__ = ("_at", "_left", "_per_s", "_size")

    def __init__(self, size: float, per_s: float, now: float) -> None:
        self._size = self._left = size
        self._per_s = per_s
        self._at = now

    def spend(self, now: float) -> bool:
        """One more event; False if there may be none."""
        if now != self._at:
            self._left = min(self._size, self._left + (now - self._at) * self._per_s)
            self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def earn(self, events: int) -> None:
        """Something happened that lets more of them happen."""
        self._left = min(self._size, self._left + events)
