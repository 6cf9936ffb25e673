"""Limits in this process's memory.

The number of buckets is bounded. A bucket that is full again is the same as one never used, so the ones longest
unused are dropped, two for each new one, as soon as they are full. If as many as that are in use at once, the one
longest unused goes, full or not: its client begins anew with a full bucket.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakValueDictionary

from txgateway.ratelimit.bucket import Decision, Limit, State

__all__ = ["MAX_KEYS", "MemoryLimiter", "MemoryLimiters"]

#: Keys of one limiter; with the longest keys and one rate that is about 40 MB.
MAX_KEYS: Final = 100_000


class MemoryLimiter:
    """One limit with its buckets.

    Args:
        limit: what to enforce.
        seconds: the clock, best one that only goes forward.
        max_keys: buckets to keep at most.
    """

    __slots__ = ("__weakref__", "_max_keys", "_seconds", "_states", "_ticks_per_s", "limit")

    def __init__(self, limit: Limit, seconds: Callable[[], float], max_keys: int = MAX_KEYS) -> None:
        self.limit = limit
        self._seconds = seconds
        self._max_keys = max_keys
        self._ticks_per_s = float(limit.ticks_per_s)
        # Longest unused first. A plain dictionary would search ever longer for its first key.
        self._states: OrderedDict[bytes, State] = OrderedDict()

    @property
    def size(self) -> int:
        """Number of keys with buckets."""
        return len(self._states)

    def take(self, key: bytes) -> Decision:
        """Take a token of the buckets of ``key``, if each of them has one."""
        now = int(self._seconds() * self._ticks_per_s)
        state = self._states.get(key)
        if state is None:
            state = self._begin(key, now)
        else:
            self._states.move_to_end(key)
        return self.limit.take(state, now)

    def _begin(self, key: bytes, now: int) -> State:
        states = self._states
        for _ in range(min(2, len(states))):
            oldest = next(iter(states))
            # One that was refused since is not full, and all behind it were used later.
            if now - states[oldest][0] < self.limit.full_ticks:
                break
            del states[oldest]
        if len(states) >= self._max_keys:
            states.popitem(last=False)
        state = states[key] = self.limit.full(now)
        return state


class MemoryLimiters:
    """Limits that each process enforces on its own.

    Args:
        seconds: the clock.
        workers: processes that share each limit; each enforces an equal part of it.
    """

    degraded = False

    def __init__(self, seconds: Callable[[], float], workers: int = 1) -> None:
        self._seconds = seconds
        self._workers = workers
        self._limiters: WeakValueDictionary[tuple[str, Limit], MemoryLimiter] = WeakValueDictionary()

    def limiter(self, place: str, limit: Limit, on_store_error: str = "local") -> MemoryLimiter:
        """The limiter of a place; memory has no errors."""
        found = self._limiters.get((place, limit))
        if found is None:
            found = MemoryLimiter(limit.divided(self._workers), self._seconds)
            self._limiters[place, limit] = found
        return found
