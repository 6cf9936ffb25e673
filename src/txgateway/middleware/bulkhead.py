"""Bulkheads: how many requests of a route are under way at once, and who comes next.

:class:`Permits` decides, :class:`Bulkhead` asks it. How long an exchange with a backend may take is not decided here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import BulkheadFull, DeadlineExceeded, GatewayError
from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from txgateway.request import GatewayRequest
    from txgateway.transport.wheel import TimerWheel


class Waiter(Protocol):
    """Wants a permit. It is told exactly one of these, once, unless it leaves before; neither may raise."""

    def on_permit(self) -> None:
        """It has one, and gives it back by :meth:`Permits.release`."""

    def on_expired(self) -> None:
        """It has waited too long."""


class Permits:
    """A fixed number of permits, and a bounded queue of those who wait for one, first come, first served.

    Whatever a waiter is told, it may ask, release and leave while it is told.

    Args:
        count: of permits, at least 1.
        max_waiting: length of the queue; 0 for none.
    """

    __slots__ = ("_free", "_is_handing_on", "_max_waiting", "_waiting")

    def __init__(self, count: int, max_waiting: int) -> None:
        self._free = count
        self._max_waiting = max_waiting
        # Until when each waits. Not an ordinary dictionary, whose first key takes longer to find the more were deleted.
        self._waiting: OrderedDict[Waiter, float] = OrderedDict()
        self._is_handing_on = False

    def __repr__(self) -> str:
        return f"<permits: {self._free} free, {len(self._waiting)} waiting>"

    def take(self) -> bool:
        """Whether there was a permit at once, which is the caller's now. Nobody overtakes the queue."""
        if self._free and not self._waiting:
            self._free -= 1
            return True
        return False

    def release(self, _: object = None) -> None:
        """Give a permit back: it goes to who waits longest. May be called as a request's hook, whose argument is ignored."""
        self._free += 1
        # One at a time, and in a loop: a thousand waiters that are done at once must not be a thousand calls deep.
        if self._waiting and not self._is_handing_on:
            self._hand_on()

    def wait(self, waiter: Waiter, until: float) -> None:
        """Put ``waiter`` at the end of the queue.

        Args:
            waiter: not in the queue yet.
            until: clock seconds.

        Raises:
            BulkheadFull: the queue is full.
        """
        if len(self._waiting) >= self._max_waiting:
            raise BulkheadFull("no room to wait")
        self._waiting[waiter] = until

    def leave(self, waiter: Waiter) -> None:
        """``waiter`` no longer waits and hears nothing; harmless if it was told already."""
        self._waiting.pop(waiter, None)

    def expire(self, now: float) -> float:
        """Tell all whose time is up; returns when the next one's will be, ``math.inf`` if nobody waits."""
        waiting = self._waiting
        for waiter in [waiter for waiter, until in waiting.items() if until <= now]:
            if waiting.get(waiter, math.inf) <= now:  # else it has left while one before it was told
                del waiting[waiter]
                waiter.on_expired()
        return min(waiting.values(), default=math.inf)

    def _hand_on(self) -> None:
        self._is_handing_on = True
        try:
            while self._free and self._waiting:
                waiter, _ = self._waiting.popitem(last=False)
                self._free -= 1
                waiter.on_permit()
        finally:
            self._is_handing_on = False


class _Turn(Deferred[None]):
    """A request's place in the queue; fires with the permit, and leaves the queue when it is cancelled.

    Args:
        permits: that it waits for.
        refusal: what it fails with if it has waited too long.
    """

    def __init__(self, permits: Permits, refusal: GatewayError) -> None:
        super().__init__(permits.leave)  # type: ignore[arg-type]  # called with this very object
        self._refusal = refusal

    def on_permit(self) -> None:
        self.callback(None)

    def on_expired(self) -> None:
        self.errback(self._refusal)


class Bulkhead(Middleware):
    """Keeps a route from having more requests under way than it says, so that a slow one leaves room for the others.

    A permit is held until the answer's last byte, or the tunnel's. Bodies of requests that wait are not read, and
    nobody who waits for ``100 Continue`` is told to go on.

    Position: below all that refuses, which must not cost a permit; above what takes time, which is what it bounds.
    Refuses: BULKHEAD_FULL; DEADLINE_EXCEEDED if the route's total time is up before a permit is free.
    On cancel: the permit, or the place in the queue, is free at once. A client that vanishes behind a body that is not
        read is noticed at its turn, or at the end of its wait.

    Args:
        inner: what it wraps.
        max_concurrent: requests under way at once.
        max_queue: requests that may wait.
        queue_timeout_s: how long each may wait.
        total_s: for a whole request, from when it has been received; 0 for none.
        wheel: keeps the queue's deadlines.
        clock: what they are counted by.

    Attributes:
        deadline: when to look at the queue again; for the wheel.
    """

    def __init__(
        self,
        inner: Inner,
        max_concurrent: int,
        max_queue: int,
        queue_timeout_s: float,
        total_s: float,
        wheel: TimerWheel,
        clock: IReactorTime,
    ) -> None:
        super().__init__(inner)
        self._permits = permits = Permits(max_concurrent, max_queue)
        self._take, self._release = permits.take, permits.release  # bound once: they are called for every request
        self._queue_timeout_s = queue_timeout_s
        self._total_s = total_s or math.inf
        self._wheel = wheel
        self._clock = clock
        self.deadline = math.inf

    def __repr__(self) -> str:
        return f"<bulkhead {self._permits!r}>"

    def render(self, request: GatewayRequest) -> Any:
        if request.ended:  # the client left while a middleware above waited: no hook would give the permit back
            return NOT_DONE_YET
        if self._take():
            request.on_finish(self._release)
            return self.inner.render(request)
        return self._wait(request)

    def _go_on(self, _: None, request: GatewayRequest) -> None:
        request.on_finish(self._release)
        self.inner.render(request)

    def _wait(self, request: GatewayRequest) -> Any:
        until = self._clock.seconds() + self._queue_timeout_s
        refusal: GatewayError = BulkheadFull("waited too long")
        # The total time counts from the end of the request, which is unread as long as it waits if it has a body.
        total_until = request.started_at + self._total_s if request.body_complete else math.inf
        if total_until < until:
            until, refusal = total_until, DeadlineExceeded("while it waited for its turn")
        turn = _Turn(self._permits, refusal)
        self._permits.wait(turn, until)
        self.deadline = min(self.deadline, until)
        self._wheel.watch(self)
        return self.when(turn, request, self._go_on)

    def on_deadline(self, now: float) -> None:
        """Somebody's time in the queue may be up."""
        self.deadline = math.inf  # whoever comes while others are told will lower it
        self.deadline = min(self.deadline, self._permits.expire(now))
        if self.deadline == math.inf:
            self._wheel.forget(self)
