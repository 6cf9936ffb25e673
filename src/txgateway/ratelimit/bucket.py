"""The arithmetic of token buckets: pure, exact, and the same as ``take_tokens.lua`` bit for bit.

A bucket holds ``burst`` tokens and is refilled with ``count`` tokens in ``period_s`` seconds, continuously. Levels are
counted in *units*, so fine that each tick of the clock brings a whole number of them: with ``g`` the greatest common
divisor of ``count`` and the period in ticks, a token is ``period / g`` units and a tick brings ``count / g``. All
numbers stay below 2^53, where Lua's doubles are exact; a tick is a microsecond, or up to a millisecond where a very
high count in a long period would not fit otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import gcd
from typing import Final

from attrs import field, frozen

__all__ = ["Bucket", "Decision", "Limit", "State"]

_MAX_EXACT: Final = 2**53
_TICKS_US: Final = (1, 10, 100, 1000)

#: ``[at, level, …]``: the tick at which the levels were true, and the units in each of a limit's buckets.
State = list[int]


@frozen
class Bucket:
    """A rate and how much of it may come at once.

    Attributes:
        count: tokens that come in a period, at least 1.
        period_s: whole seconds, at least 1.
        burst: tokens that fit in, at least 1.
    """

    count: int
    period_s: int
    burst: int

    @property
    def window_s(self) -> int:
        """Seconds until an empty bucket is full, rounded up."""
        return -(-self.burst * self.period_s // self.count)


class Decision:
    """Whether a request may pass, and what it leaves in the buckets.

    Attributes:
        limit: that was enforced; its buckets are those of ``levels``.
        allowed: a token was taken from each bucket; otherwise none was.
        levels: units in each bucket now; none, if nobody could tell.
        store_failed: the store that is configured had no part in this.
    """

    __slots__ = ("allowed", "levels", "limit", "store_failed")

    def __init__(self, limit: Limit, allowed: bool, levels: list[int], store_failed: bool = False) -> None:
        self.limit = limit
        self.allowed = allowed
        self.levels = levels
        self.store_failed = store_failed

    def __repr__(self) -> str:
        word = "allowed" if self.allowed else f"refused for {self.retry_after_s} s"
        return f"<Decision {word}, left {self.left}, full in {self.reset_s} s>"

    @property
    def left(self) -> list[int]:
        """Whole tokens in each bucket."""
        levels, numbers = self.levels, self.limit.numbers
        if len(levels) == 1:
            return [levels[0] // numbers[0][0]]
        return [level // unit for level, (unit, _, _) in zip(levels, numbers, strict=True)]

    @property
    def reset_s(self) -> list[int]:
        """Seconds until each bucket is full, rounded up."""
        per_s, levels, numbers = self.limit.ticks_per_s, self.levels, self.limit.numbers
        if len(levels) == 1:
            _, refill, capacity = numbers[0]
            return [-((levels[0] - capacity) // (refill * per_s))]
        return [
            -((level - capacity) // (refill * per_s))
            for level, (_, refill, capacity) in zip(levels, numbers, strict=True)
        ]

    @property
    def retry_after_s(self) -> float:
        """Seconds until a request would be allowed, if nobody else takes a token; 0.0 if it would be now."""
        ticks = [
            -((level - unit) // refill)
            for level, (unit, refill, _) in zip(self.levels, self.limit.numbers, strict=True)
            if level < unit
        ]
        return max(ticks, default=0) / self.limit.ticks_per_s


@frozen
class Limit:
    """Buckets that must all have a token.

    Attributes:
        buckets: at least one.
        tick_us: length of a tick, in microseconds.
        ticks_per_s: how many ticks a second has.
        numbers: of each bucket: the units that a token is, that a tick brings, and that fit in.
        full_ticks: after so many ticks without a request every bucket is full, and may be forgotten.

    Raises:
        ValueError: there is no bucket, or its numbers are out of range.
    """

    buckets: tuple[Bucket, ...]
    tick_us: int = field(init=False, eq=False, repr=False)
    ticks_per_s: int = field(init=False, eq=False, repr=False)
    numbers: tuple[tuple[int, int, int], ...] = field(init=False, eq=False, repr=False)
    full_ticks: int = field(init=False, eq=False, repr=False)

    @classmethod
    def of(cls, rates: Iterable[tuple[int, int]], burst: int | None = None) -> Limit:
        """A limit from pairs of count and period in seconds; ``burst`` None is each rate's own count."""
        return cls(tuple(Bucket(count, period_s, burst or count) for count, period_s in rates))

    def __attrs_post_init__(self) -> None:
        if not self.buckets or any(min(b.count, b.period_s, b.burst) < 1 for b in self.buckets):
            raise ValueError("a limit has rates of at least 1 and bursts of at least 1")
        for tick_us in _TICKS_US:
            numbers = tuple(_numbers(bucket, tick_us) for bucket in self.buckets)
            if all(capacity + refill < _MAX_EXACT for _, refill, capacity in numbers):
                break
        else:
            raise ValueError("the numbers of a limit are too large")
        values = {
            "tick_us": tick_us,
            "ticks_per_s": 1_000_000 // tick_us,
            "numbers": numbers,
            "full_ticks": max(-(-capacity // refill) for _, refill, capacity in numbers),
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def divided(self, shares: int) -> Limit:
        """What one of ``shares`` equal parties may use of it; a bucket holds at least one token, though."""
        return Limit(tuple(Bucket(b.count, b.period_s * shares, max(1, b.burst // shares)) for b in self.buckets))

    def full(self, now: int) -> State:
        """The state in which everything begins, at tick ``now``."""
        return [now, *(capacity for _, _, capacity in self.numbers)]

    def take(self, state: State, now: int) -> Decision:
        """Take a token from each bucket at tick ``now``, or none if one of them has none.

        A clock that has gone back brings no tokens, and the time to come counts from where it went. A refusal leaves
        the state as it is, but for that.
        """
        elapsed = now - state[0]
        if elapsed < 0:
            state[0] = now
            elapsed = 0
        if len(state) == 2:  # most limits are one rate
            unit, refill, capacity = self.numbers[0]
            level = state[1] + elapsed * refill
            if level > capacity:  # noqa: PLR1730 -- quicker than min
                level = capacity
            if level < unit:
                return Decision(self, False, [level])
            state[0] = now
            state[1] = level = level - unit
            return Decision(self, True, [level])
        levels = []
        allowed = True
        for position, (unit, refill, capacity) in enumerate(self.numbers, 1):
            level = state[position] + elapsed * refill
            if level > capacity:  # noqa: PLR1730 -- quicker than min
                level = capacity
            level -= unit
            if level < 0:
                allowed = False
            levels.append(level)
        if allowed:
            state[0] = now
            state[1:] = levels
        else:
            levels = [level + unit for level, (unit, _, _) in zip(levels, self.numbers, strict=True)]
        return Decision(self, allowed, levels)


def _numbers(bucket: Bucket, tick_us: int) -> tuple[int, int, int]:
    period = bucket.period_s * 1_000_000 // tick_us
    divisor = gcd(bucket.count, period)
    unit = period // divisor
    return unit, bucket.count // divisor, bucket.burst * unit
