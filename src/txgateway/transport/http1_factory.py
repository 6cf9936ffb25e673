"""Builds a protocol for each accepted connection, within the limit on their number."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from email.utils import formatdate
from typing import Any, Protocol, TypeAlias

from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.protocol import Protocol as TwistedProtocol

from txgateway.errors import GatewayError
from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.http2.floods import Turns
from txgateway.transport.http2.server import Http2ServerConnection
from txgateway.transport.interfaces import RequestHead, ServerLimits
from txgateway.transport.wheel import TimerWheel

ServerConnection: TypeAlias = Http1ServerConnection | Http2ServerConnection


class ConnectionCounts(Protocol):
    """Counts connections by protocol: ``h1``, ``h2``, ``tunnel``."""

    def connection_opened(self, protocol: str) -> None: ...
    def connection_closed(self, protocol: str) -> None: ...
    def connection_refused(self) -> None: ...


class Http1ServerFactory(Factory):
    """Where connections of one listener come from, and where their requests go.

    Args:
        request_class: makes the request of the middle from a channel and a head.
        dispatch: sends a request down the pipeline.
        refuse: answers a message that never became a request.
        limits: of the listener.
        max_connections: beyond it, connections are accepted and closed at once.
        wheel: for deadlines.
        clock: for the rest.
        wall_clock: seconds since the epoch, for ``Date``.
        counts: told of connections.
        http2: clients may speak it: over TLS if they have agreed on it, without TLS if they know that they may.

    Attributes:
        connections: all open ones.
        turns: of those over which more HTTP/2 frames come than one turn of the reactor is to serve.
        draining: answers end their connection.
    """

    noisy = False

    def __init__(
        self,
        request_class: Callable[[Any, RequestHead], Any],
        dispatch: Callable[[Any], None],
        refuse: Callable[[Any, GatewayError], None],
        limits: ServerLimits,
        max_connections: int,
        wheel: TimerWheel,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
        counts: ConnectionCounts,
        *,
        http2: bool = True,
    ) -> None:
        self.request_class = request_class
        self.dispatch = dispatch
        self.refuse = refuse
        self.limits = limits
        self.max_connections = max_connections
        self.wheel = wheel
        self.clock = clock
        self.turns = Turns(clock)
        self.connections: set[ServerConnection] = set()
        self.counts = counts
        self.http2 = http2
        self.draining = False
        self._wall_clock = wall_clock
        self._date = (0, b"")

    def buildProtocol(self, addr: IAddress | None) -> TwistedProtocol | None:
        if len(self.connections) >= self.max_connections:
            self.counts.connection_refused()
            return None
        connection = Http1ServerConnection(self)
        self.connections.add(connection)
        self.counts.connection_opened("h1")
        return connection

    def with_dispatch(self, dispatch: Callable[[Any], None]) -> Http1ServerFactory:
        """The factory of a listener whose requests go elsewhere; the connections, and their limit, are the same."""
        factory = copy(self)
        factory.dispatch = dispatch
        return factory

    def replace(self, connection: ServerConnection, successor: ServerConnection) -> None:
        """Another protocol has taken a connection over."""
        self.connections.discard(connection)
        self.connections.add(successor)
        self.counts.connection_closed(connection.protocol)
        self.counts.connection_opened(successor.protocol)

    def connection_lost(self, connection: ServerConnection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self.counts.connection_closed("tunnel" if connection.is_tunnel else connection.protocol)

    def tunnel_opened(self) -> None:
        """A connection carries opaque bytes from now on."""
        self.counts.connection_closed("h1")
        self.counts.connection_opened("tunnel")

    def http_date(self) -> bytes:
        """The time as ``Date`` wants it, formatted once a second."""
        second = int(self._wall_clock())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True).encode("ascii"))
        return self._date[1]
