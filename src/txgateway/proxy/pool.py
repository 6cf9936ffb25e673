"""The connections to one target: how many, who gets one next, and when an idle one is closed.

Every decision is synchronous and none does I/O: opening is the dialer's business, bytes are the connections'. Nothing
here retries a request or knows about health; a waiter is told once, and asks again if it likes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from txgateway.config.groups import Pool as PoolSettings
from txgateway.errors import GatewayError, PoolExhausted
from txgateway.proxy.lending import PooledConnection, TargetDialer, Waiter
from txgateway.transport.dial import Dialing
from txgateway.transport.interfaces import ClientConnection
from txgateway.transport.wheel import TimerWheel


class _Alarm:
    """One entry in the wheel."""

    __slots__ = ("deadline", "on_deadline")

    def __init__(self, on_deadline: Callable[[float], None]) -> None:
        self.deadline = math.inf
        self.on_deadline = on_deadline


class PoolDial:
    """A dial and the waiter it was begun for, as long as that still waits for it."""

    __slots__ = ("dialing", "pool", "waiter")

    def __init__(self, pool: ConnectionPool, waiter: Waiter) -> None:
        self.pool = pool
        self.waiter: Waiter | None = waiter
        self.dialing: Dialing | None = None

    def dialed(self, protocol: PooledConnection) -> None:
        self.pool.on_dialed(self, protocol)

    def dial_failed(self, error: GatewayError) -> None:
        self.pool.on_dial_failed(self, error)


class ConnectionPool:
    """Lends connections to one target, at most ``max_connections`` of them.

    Idle connections are reused last in, first out: the most recently used is the least likely to have been closed by
    the target, and the others get to age and go. Who finds none gets a dial of its own while there is room, and
    queues otherwise, for at most ``pending_timeout_s`` and behind at most ``max_pending`` others. Two pools of one
    target may hold these limits together: an idle connection of one gives way to a dial of the other, and a place that
    becomes free goes to who waits longest.

    Args:
        name: of the target, for the log.
        dialer: opens connections.
        clock: what connections are aged by.
        wheel: keeps the queue's and the idle connections' deadlines.
        settings: the limits.

    Attributes:
        beside: the pool that holds them together with this one.
    """

    def __init__(
        self, name: str, dialer: TargetDialer, clock: IReactorTime, wheel: TimerWheel, settings: PoolSettings
    ) -> None:
        self.name = name
        self.clock = clock
        self.wheel = wheel
        self.settings = settings
        self._dialer = dialer
        self._max_connections = settings.max_connections
        self._idle_timeout_s = settings.idle_timeout_s
        self._max_age_s = settings.max_age_s
        self._is_closed = False
        self._active = 0
        # Dictionaries serve as ordered sets: the oldest comes first.
        self._idle: dict[PooledConnection, None] = {}
        self._dials: dict[PoolDial, None] = {}
        self._dial_of: dict[Waiter, PoolDial] = {}
        self._pending: dict[Waiter, float] = {}  # until when each waits
        self._fresh: set[Waiter] = set()  # of both, who accepts only a connection that was never used
        self._pending_alarm = _Alarm(self._expire_pending)
        self._idle_alarm = _Alarm(self._expire_idle)
        self.beside: ConnectionPool | None = None

    def __repr__(self) -> str:
        return f"<pool {self.name}: {self.active} active, {self.idle} idle, {self.pending} pending>"

    @property
    def wants_http1(self) -> bool:
        """The target has asked for that in the place of HTTP/2."""
        return False

    @property
    def active(self) -> int:
        """Connections that are lent."""
        return self._active

    @property
    def idle(self) -> int:
        """Connections that are ready to be lent."""
        return len(self._idle)

    @property
    def pending(self) -> int:
        """Waiters, in the queue or with a dial of their own."""
        return len(self._pending) + len(self._dial_of)

    @property
    def open_connections(self) -> int:
        """Connections that count against the limit: active, idle, and being opened, here and at the pool beside."""
        return self.own_connections + (0 if self.beside is None else self.beside.own_connections)

    @property
    def own_connections(self) -> int:
        """Those of them that are here."""
        return self._active + len(self._idle) + len(self._dials)

    # --- asking --------------------------------------------------------------------------------------------------

    def acquire(self, waiter: Waiter, *, fresh: bool = False, tunnel: bool = False) -> ClientConnection | None:
        """Return a connection for one exchange, or None and tell ``waiter`` later.

        Args:
            waiter: not told anything when a connection is returned.
            fresh: only a connection that was never used will do, for repeating what failed on a reused one.
            tunnel: for an upgrade, which makes no difference here.

        Raises:
            PoolExhausted: the queue is full, or the pool is closed.
        """
        if not fresh:
            connection = self._take()
            if connection is not None:
                return connection
        if self._is_closed:
            raise PoolExhausted("pool is closed")
        if fresh:
            self._fresh.add(waiter)
            if self.open_connections >= self._max_connections:
                self.give_way()
        if self._is_short(len(self._pending) + 1) and self._has_room():
            self._dial(waiter)
            return None
        queued = self.queued + (0 if self.beside is None else max(0, self.beside.queued))
        if queued >= self.settings.max_pending:
            self._fresh.discard(waiter)
            raise PoolExhausted("queue is full")
        self._pending[waiter] = deadline = self.clock.seconds() + self.settings.pending_timeout_s
        if len(self._pending) == 1:
            self._pending_alarm.deadline = deadline
            self.wheel.watch(self._pending_alarm)
        return None

    def cancel(self, waiter: Waiter) -> None:
        """``waiter`` no longer waits and hears nothing; harmless if it was told already."""
        self._fresh.discard(waiter)
        if self._pending.pop(waiter, None) is not None:
            return
        dial = self._dial_of.pop(waiter, None)
        if dial is not None:
            dial.waiter = None
            if not self._pending:  # else the queue can use what comes of it
                self._drop(dial)
                self._dial_for_pending()

    # --- connections come and go ---------------------------------------------------------------------------------

    def release(self, connection: PooledConnection) -> None:
        """An exchange ended cleanly: lend the connection to who waits longest, or keep it."""
        now = self.clock.seconds()
        if self._is_closed or now - connection.opened_at >= self._max_age_s:
            connection.close()
            return
        if self._pending or self._dial_of:
            if not connection.is_alive() or (self.beside is not None and self.beside.turn_at < self.turn_at):
                connection.close()
                return
            waiter = self._next_waiter()
            if waiter is not None:
                waiter.on_connection(connection)
                return
            if self._pending:  # they want fresh ones: make room
                connection.close()
                return
        connection.is_lent = False
        self._active -= 1
        self._keep(connection, now)

    def forget(self, connection: PooledConnection) -> None:
        """The connection is gone; may be told more than once."""
        if connection.is_lent:
            connection.is_lent = False
            self._active -= 1
        elif connection in self._idle:
            del self._idle[connection]
        else:
            return
        self._dial_for_pending()

    def close(self) -> None:
        """Lend nothing more: idle connections are closed, waiters refused; exchanges under way run to their end."""
        for waiter in self.shut():
            waiter.on_unavailable(PoolExhausted("pool is closed"))

    def shut(self) -> list[Waiter]:
        """The same, but that those whom it returns are to be told yet."""
        self._is_closed = True
        self.wheel.forget(self._pending_alarm)
        self.wheel.forget_coarse(self._idle_alarm)
        waiters = [*self._pending, *self._dial_of]
        self._pending.clear()
        self._dial_of.clear()
        self._fresh.clear()
        for dial in list(self._dials):
            self._drop(dial)
        for connection in list(self._idle):
            connection.close()
        return waiters

    # --- for the pool beside -------------------------------------------------------------------------------------

    @property
    def queued(self) -> int:
        """Of those in the queue, who count against ``max_pending``; negative if dials will bring more than they need."""
        return len(self._pending)

    @property
    def turn_at(self) -> float:
        """The deadline of who waits longest for another connection; infinity if nobody does."""
        return next(iter(self._pending.values())) if self._is_short(len(self._pending)) else math.inf

    @property
    def has_idle(self) -> bool:
        """Whether a connection could give way."""
        return bool(self._idle)

    def give_way(self) -> None:
        """Close an idle connection, if there is one."""
        if self._idle:
            next(iter(self._idle)).close()

    def dial_for_own(self) -> None:
        """Who queues gets a dial, while there is room."""
        while self._is_short(len(self._pending)) and self._has_room():
            waiter = next(iter(self._pending))
            del self._pending[waiter]
            self._dial(waiter)

    # --- inside --------------------------------------------------------------------------------------------------

    def _take(self) -> ClientConnection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if self._is_usable(connection):
                self._lend(connection)
                return connection
            connection.close()
        return None

    def _is_short(self, queued: int) -> bool:
        """Whether so many in the queue are more than what the dials under way will bring anything for."""
        return queued > 0

    def _has_room(self) -> bool:
        """Whether there may be another connection; an idle one beside gives way to it."""
        if self.beside is not None and self.open_connections >= self._max_connections:
            self.beside.give_way()
        return self.open_connections < self._max_connections

    def _is_usable(self, connection: PooledConnection) -> bool:
        now = self.clock.seconds()
        if now - connection.idle_since >= self._idle_timeout_s or now - connection.opened_at >= self._max_age_s:
            return False
        return connection.is_alive()

    def _lend(self, connection: PooledConnection) -> None:
        connection.is_lent = True
        self._active += 1

    def _keep(self, connection: PooledConnection, now: float) -> None:
        if self.beside is not None and self.beside.turn_at < math.inf:
            connection.close()
            self._dial_for_pending()
            return
        connection.idle_since = now
        self._idle[connection] = None
        if self._idle_alarm.deadline == math.inf:
            self._idle_alarm.deadline = self._expires_at(connection)
            self.wheel.watch_coarse(self._idle_alarm)

    def _next_waiter(self) -> Waiter | None:
        """Take out who gets a used connection next: the longest in the queue, else the longest with a dial."""
        fresh = self._fresh
        for waiter in self._pending:
            if waiter not in fresh:
                del self._pending[waiter]
                return waiter
        for waiter in self._dial_of:
            if waiter not in fresh:
                self._dial_of.pop(waiter).waiter = None
                return waiter
        return None

    def _dial(self, waiter: Waiter) -> None:
        dial = PoolDial(self, waiter)
        self._dials[dial] = None
        self._dial_of[waiter] = dial
        dial.dialing = self._dialer.dial(dial)

    def _drop(self, dial: PoolDial) -> None:
        del self._dials[dial]
        if dial.dialing is not None:
            dial.dialing.cancel()

    def _dial_for_pending(self) -> None:
        """There may be room: for who waits longest, here or at the pool beside this one."""
        pools = [self] if self.beside is None else sorted((self, self.beside), key=lambda pool: pool.turn_at)
        for pool in pools:
            pool.dial_for_own()

    def on_dialed(self, dial: PoolDial, connection: PooledConnection) -> None:
        """A dial succeeded; for the pool's own dials only, like the next."""
        now = self.clock.seconds()
        connection.owner = self
        connection.opened_at = now
        del self._dials[dial]
        waiter = dial.waiter
        if waiter is not None:
            del self._dial_of[waiter]
        elif self._pending:
            waiter = next(iter(self._pending))
            del self._pending[waiter]
        else:
            connection.reused = True  # never used, but whoever gets it may find it closed as if it had been
            self._keep(connection, now)
            return
        self._fresh.discard(waiter)
        self._lend(connection)
        waiter.on_connection(connection)

    def on_dial_failed(self, dial: PoolDial, error: GatewayError) -> None:
        """A dial failed: so does whom it was begun for, if that still waits."""
        del self._dials[dial]
        waiter = dial.waiter
        if waiter is not None:
            del self._dial_of[waiter]
            self._fresh.discard(waiter)
        self._dial_for_pending()
        if waiter is not None:
            waiter.on_unavailable(error)

    def _expire_pending(self, now: float) -> None:
        """The wheel: the head of the queue has waited too long."""
        expired = [waiter for waiter, deadline in self._pending.items() if deadline <= now]
        for waiter in expired:
            del self._pending[waiter]
            self._fresh.discard(waiter)
        if self._pending:
            self._pending_alarm.deadline = next(iter(self._pending.values()))
        else:
            self.wheel.forget(self._pending_alarm)
        for waiter in expired:
            waiter.on_unavailable(PoolExhausted("waited too long for a connection"))

    def _expires_at(self, connection: PooledConnection) -> float:
        return min(connection.idle_since + self._idle_timeout_s, connection.opened_at + self._max_age_s)

    def _expire_idle(self, now: float) -> None:
        """The wheel: a connection may have been idle, or open, for too long."""
        for connection in [connection for connection in self._idle if self._expires_at(connection) <= now]:
            connection.close()
        if self._idle:
            self._idle_alarm.deadline = min(map(self._expires_at, self._idle))
        else:
            self._idle_alarm.deadline = math.inf
            self.wheel.forget_coarse(self._idle_alarm)
