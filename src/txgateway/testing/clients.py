"""Clients over memory, and the listener that they come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import Clock

from txgateway.errors import GatewayError
from txgateway.request import GatewayRequest
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.testing.memory import MemoryTransport
from txgateway.testing.reading import WireResponse, read_responses
from txgateway.transport.http1_factory import ConnectionCounts, Http1ServerFactory
from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.interfaces import RequestHead, ServerLimits
from txgateway.transport.wheel import TimerWheel

#: Unix time at the clock's zero, and what ``Date`` says then.
EPOCH_S: Final = 1_800_000_000.0
DATE: Final = b"Fri, 15 Jan 2027 08:00:00 GMT"


class MemoryClient:
    """A connection as the client sees it."""

    def __init__(self, clock: Clock, factory: Http1ServerFactory, peer: str = "127.0.0.1") -> None:
        self.clock = clock
        self.transport = MemoryTransport(clock, peer)
        connection = factory.buildProtocol(None)
        assert isinstance(connection, Http1ServerConnection)
        self.connection = connection
        self.transport.protocol = connection
        connection.makeConnection(self.transport)

    def send(self, *reads: bytes) -> MemoryClient:
        """Bytes arrive at the gateway, one read each."""
        for data in reads:
            self.transport.send(data)
        self.clock.advance(0)
        return self

    def leave(self) -> None:
        """Reset the connection."""
        self.transport.reset()
        self.clock.advance(0)

    def end(self) -> None:
        """Close the connection in order."""
        self.transport.end()
        self.clock.advance(0)

    def received(self) -> bytes:
        """What came since the last look."""
        return self.transport.received()

    def response(self, method: bytes = b"GET") -> WireResponse:
        """The one response that came since the last look."""
        (response,) = read_responses(self.received(), [method])
        return response


def server_factory(
    clock: Clock,
    wheel: TimerWheel,
    dispatch: Callable[[Any], None],
    refuse: Callable[[Any, GatewayError], None] | None = None,
    metrics: ConnectionCounts | None = None,
    limits: ServerLimits | None = None,
    max_connections: int = 100,
    request_class: Callable[[Any, RequestHead], Any] = GatewayRequest,
) -> Http1ServerFactory:
    """A listener's factory around ``dispatch``."""
    return Http1ServerFactory(
        request_class,
        dispatch,
        refuse or (lambda request, error: request.fail(error)),
        limits or ServerLimits(),
        max_connections,
        wheel,
        clock,
        lambda: EPOCH_S,
        metrics or RequestMetrics(),
    )


def message(
    path: bytes = b"/", *fields: bytes, method: bytes = b"GET", version: bytes = b"HTTP/1.1", body: bytes = b""
) -> bytes:
    """A request as bytes, with ``Host: a`` first."""
    return b"\r\n".join((method + b" " + path + b" " + version, b"Host: a", *fields, b"", body))
