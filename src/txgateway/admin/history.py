"""The last minutes, kept so that a page that is opened now can show what happened before.

Totals only: a few numbers every two seconds, the same few however many routes there are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IDelayedCall, IReactorTime

#: Seconds between two samples.
INTERVAL_S = 2.0
#: Samples kept: five minutes, both ends included.
MAX_SAMPLES = 151


class History:
    """A ring of samples.

    Args:
        clock: calls for the next sample.
        look: makes a sample of this moment, as plain data.
    """

    def __init__(self, clock: IReactorTime, look: Callable[[], Mapping[str, object]]) -> None:
        self._clock = clock
        self._look = look
        self._samples: deque[Mapping[str, object]] = deque(maxlen=MAX_SAMPLES)
        self._call: IDelayedCall | None = None

    def start(self) -> None:
        """Take a sample now, and then one every :data:`INTERVAL_S`."""
        # The next one is arranged first: whatever this one raises is told by the reactor, and ends nothing.
        self._call = self._clock.callLater(INTERVAL_S, self.start)
        self._samples.append(self._look())

    def stop(self) -> None:
        """Take no more."""
        call, self._call = self._call, None
        if call is not None and call.active():
            call.cancel()

    def report(self) -> dict[str, object]:
        """The members of ``/status/history``, oldest sample first."""
        return {"interval_s": INTERVAL_S, "samples": list(self._samples)}
