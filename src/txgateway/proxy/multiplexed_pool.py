"""The connections to a target that may speak HTTP/2: many exchanges share one, where it does."""

from __future__ import annotations

import math
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime

from txgateway.config.groups import Pool as PoolSettings
from txgateway.errors import GatewayError, PoolExhausted
from txgateway.proxy.lending import TargetDialer, Waiter
from txgateway.proxy.pool import ConnectionPool, PoolDial
from txgateway.transport.http2.client import MAX_STREAMS, Http2ClientConnection
from txgateway.transport.interfaces import ClientConnection
from txgateway.transport.wheel import TimerWheel

_ONE_EACH: Final = 1
#: How long a target that wants HTTP/1.1 is asked over that: one request pays for finding out again, and a target that
#: was set up anew gets HTTP/2 back without a restart of ours.
HTTP1_S: Final = 300.0


class MultiplexedPool(ConnectionPool):
    """Like its base, but connections that speak HTTP/2 are shared, as far as the target allows.

    What is dialed decides: by ALPN, or by the target's scheme. Until the first dial has ended, a connection is taken
    for one that can be shared, and further waiters queue for it; they share its fate. A shared connection that
    is old, or that the target wants to be rid of, gets no more exchanges and closes after its last.

    Args:
        http1: connections that HTTP/1.1 is spoken on: for upgrades, while no shared connection of the target takes
            extended CONNECT, and for who does not need HTTP/2, while the target wants it so (HTTP_1_1_REQUIRED). Both
            pools hold the limits together. None if the target always speaks HTTP/2.
    """

    def __init__(
        self,
        name: str,
        dialer: TargetDialer,
        clock: IReactorTime,
        wheel: TimerWheel,
        settings: PoolSettings,
        http1: ConnectionPool | None = None,
    ) -> None:
        super().__init__(name, dialer, clock, wheel, settings)
        self._http1 = http1
        self._http1_until = -math.inf
        if http1 is not None:
            self.beside, http1.beside = http1, self
        self._shared: dict[Http2ClientConnection, None] = {}
        self._greeting: dict[Http2ClientConnection, PoolDial] = {}
        self._per_connection = MAX_STREAMS

    @property
    def wants_http1(self) -> bool:
        return self._http1_until > self.clock.seconds()

    @property
    def active(self) -> int:
        """Connections with an exchange."""
        busy = sum(connection.is_busy for connection in self._shared)
        return self._active + busy + (0 if self._http1 is None else self._http1.active)

    @property
    def idle(self) -> int:
        """Connections without one."""
        idle = sum(not connection.is_busy for connection in self._shared)
        return len(self._idle) + idle + (0 if self._http1 is None else self._http1.idle)

    @property
    def pending(self) -> int:
        """Waiters, those for tunnels among them."""
        return super().pending + (0 if self._http1 is None else self._http1.pending)

    # --- asking --------------------------------------------------------------------------------------------------

    def acquire(self, waiter: Waiter, *, fresh: bool = False, tunnel: bool = False) -> ClientConnection | None:
        """As the base does.

        Args:
            tunnel: for an upgrade.
        """
        http1 = self._http1
        if http1 is not None and (
            (tunnel and not self._takes_tunnels()) or (self.wants_http1 and not waiter.needs_http2)
        ):
            return http1.acquire(waiter, fresh=fresh)
        if fresh and self._shared and self.open_connections >= self._max_connections:
            # In the place of an idle one there may be another; else a shared one has to do.
            fresh = self.has_idle or (self.beside is not None and self.beside.has_idle)
        return super().acquire(waiter, fresh=fresh)

    def _takes_tunnels(self) -> bool:
        return any(connection.peer_connects and connection.spare > 0 for connection in self._shared)

    def _idle_shared(self) -> Http2ClientConnection | None:
        return next((connection for connection in self._shared if not connection.is_busy), None)

    @property
    def has_idle(self) -> bool:
        return self._idle_shared() is not None or super().has_idle

    def give_way(self) -> None:
        idle = self._idle_shared()
        if idle is None:
            super().give_way()
        else:
            idle.retire()

    def cancel(self, waiter: Waiter) -> None:
        if self._http1 is not None:
            self._http1.cancel(waiter)
        super().cancel(waiter)

    def _take(self) -> ClientConnection | None:
        now = self.clock.seconds()
        for connection in self._shared:
            if now - connection.opened_at >= self._max_age_s:
                connection.retire()  # there is one less to look at
                return self._take()
            if connection.spare > 0:
                return connection.exchange()
        return super()._take()

    def _is_short(self, queued: int) -> bool:
        return queued > 0 and len(self._dials) * self._per_connection < len(self._dial_of) + queued

    @property
    def queued(self) -> int:
        return super().queued - len(self._dials) * (self._per_connection - 1)

    @property
    def own_connections(self) -> int:
        return super().own_connections + len(self._shared)

    def _drop(self, dial: PoolDial) -> None:
        greeting = next((connection for connection, its in self._greeting.items() if its is dial), None)
        if greeting is None:
            super()._drop(dial)
        else:
            del self._dials[dial]
            greeting.close()

    # --- connections come and go ---------------------------------------------------------------------------------

    def on_dialed(self, dial: PoolDial, connection: Any) -> None:
        """A dial succeeded; what it made says what the target speaks."""
        if not isinstance(connection, Http2ClientConnection):
            self._per_connection = _ONE_EACH
            super().on_dialed(dial, connection)
            self._dial_for_pending()
            return
        connection.owner = self
        connection.idle_timeout_s = self._idle_timeout_s
        connection.max_age_s = self._max_age_s
        self._greeting[connection] = dial

    def on_ready(self, connection: Http2ClientConnection) -> None:
        """A target has introduced itself."""
        dial = self._greeting.pop(connection)
        del self._dials[dial]
        self._shared[connection] = None
        self._per_connection = max(1, connection.spare)
        waiter = dial.waiter
        if waiter is not None:
            del self._dial_of[waiter]
            self._fresh.discard(waiter)
            if connection.spare:
                waiter.on_connection(connection.exchange())
            else:
                waiter.on_unavailable(PoolExhausted("the target takes no streams"))
        self.on_spare(connection)
        self._dial_for_pending()

    def on_spare(self, connection: Http2ClientConnection) -> None:
        """There is room: for who waits longest, who may stand beside and want the place of a connection that is idle."""
        while connection.spare > 0 and connection in self._shared:
            if not connection.streams and self.beside is not None:
                own_turn_at = next(iter(self._pending.values()), math.inf)
                if self.beside.turn_at < own_turn_at:
                    connection.retire()
                    return
            waiter = self._next_for(connection)
            if waiter is None:
                return
            waiter.on_connection(connection.exchange())

    def _next_for(self, connection: Http2ClientConnection) -> Waiter | None:
        """Take out who gets an exchange next.

        Who wants a connection that was never used takes any where there is no room for another.
        """
        if self._pending and (not connection.completed or self.open_connections >= self._max_connections):
            waiter = next(iter(self._pending))
            del self._pending[waiter]
            self._fresh.discard(waiter)
            return waiter
        return self._next_waiter()

    def forget_shared(self, connection: Http2ClientConnection, error: GatewayError) -> None:
        """No exchange may begin on it any more."""
        dial = self._greeting.pop(connection, None)
        if dial is not None:
            if dial in self._dials:
                self.on_dial_failed(dial, error)
            return
        if connection in self._shared:
            del self._shared[connection]
            self._dial_for_pending()

    def on_http1_required(self) -> bool:
        """Ask the target over HTTP/1.1 for a while, also for those who wait already; whether that is possible."""
        http1 = self._http1
        if http1 is None or self._is_closed:
            return False
        self._http1_until = self.clock.seconds() + HTTP1_S
        waiters = [waiter for waiter in (*self._dial_of, *self._pending) if not waiter.needs_http2]
        fresh = self._fresh.intersection(waiters)
        for waiter in reversed(waiters):  # dials are dropped when nobody is left behind them
            super().cancel(waiter)
        for waiter in waiters:
            try:
                connection = http1.acquire(waiter, fresh=waiter in fresh)
            except PoolExhausted as error:
                waiter.on_unavailable(error)
            else:
                if connection is not None:
                    waiter.on_connection(connection)
        return True

    def on_dial_failed(self, dial: PoolDial, error: GatewayError) -> None:
        """A dial failed, and with it all who queued for what would come of it."""
        behind: list[Waiter] = []
        if not self._shared and len(self._dials) == 1 and self._per_connection > 1:
            behind = list(self._pending)
            self._pending.clear()
            self._fresh.difference_update(behind)
        super().on_dial_failed(dial, error)
        for waiter in behind:
            waiter.on_unavailable(error)

    def shut(self) -> list[Waiter]:
        shared, self._shared = self._shared, {}
        for connection in shared:
            connection.retire()
        return super().shut() + ([] if self._http1 is None else self._http1.shut())


def is_multiplexed(scheme: str) -> bool:
    """Whether targets of this scheme may speak HTTP/2."""
    return scheme in ("h2c", "https")
