"""How a gateway ends in order: told to stop, it lets others notice, finishes what is under way, and only then goes.

The steps: readiness says no and answers end their connections; after a delay nothing new is accepted; when nothing is
under way any more, or the time for it is up, the rest is ended and the process stops. A second word stops it at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from txgateway.errors import Draining, GatewayError

_log = Logger(__name__)

#: Seconds between two looks at what is still under way, and from the end of listening to the first: a request that its
#: client has just sent is answered then, and not met by a connection that closes.
LOOK_S = 0.05


class DrainedConnection(Protocol):
    """What a drain needs of a client's connection."""

    @property
    def in_progress(self) -> bool: ...
    def close_when_idle(self) -> None: ...
    def shut_down(self, error: GatewayError) -> None: ...


class Drain:
    """Ends the traffic of a gateway.

    Args:
        clock: for the times.
        delay_s: for which requests are still accepted, so that load balancers notice in time.
        timeout_s: for what is under way after that.
        connections: the clients' at this moment.
        begin: readiness says no, and answers end their connections.
        stop_accepting: no more connections.
        done: stop the process; called once.
    """

    def __init__(
        self,
        clock: IReactorTime,
        delay_s: float,
        timeout_s: float,
        connections: Callable[[], Iterable[DrainedConnection]],
        begin: Callable[[], None],
        stop_accepting: Callable[[], None],
        done: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._delay_s = delay_s
        self._timeout_s = timeout_s
        self._connections = connections
        self._begin = begin
        self._stop_accepting = stop_accepting
        self._done = done
        self._until = math.inf
        self._next: IDelayedCall | None = None
        self._is_begun = self._is_done = False

    def start(self) -> None:
        """Begin; the second time: end at once."""
        if self._is_begun:
            _log.warn("stopping at once: told again to stop")
            self._finish()
            return
        self._is_begun = True
        _log.info("draining", delay_s=self._delay_s, timeout_s=self._timeout_s)
        self._begin()
        self._next = self._clock.callLater(self._delay_s, self._close)

    def _close(self) -> None:
        self._stop_accepting()
        self._until = self._clock.seconds() + self._timeout_s
        connections = list(self._connections())
        for connection in connections:
            if connection.in_progress:
                connection.close_when_idle()
        self._next = self._clock.callLater(LOOK_S if connections else 0, self._look)

    def _look(self) -> None:
        self._next = None
        left = []
        for connection in list(self._connections()):
            connection.close_when_idle()
            if connection.in_progress:
                left.append(connection)
        if left and self._clock.seconds() < self._until:
            self._next = self._clock.callLater(LOOK_S, self._look)
            return
        if left:
            _log.warn("cut off: {count} requests and tunnels did not end in time", count=len(left))
        self._finish()

    def _finish(self) -> None:
        if self._is_done:
            return
        self._is_done = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        for connection in list(self._connections()):
            connection.shut_down(Draining())
        self._done()
