"""A pool of shared connections, dials that a test decides about, and waiters that start requests at once."""

from __future__ import annotations

from typing import Any

from tests.helpers.http2_target import HOST, Exchange, Http2Dialer, Http2Target
from tests.helpers.upstream import FakeDialer, RecordingHandler, RecordingWaiter
from tests.integration.h2_frames import MAX_CONCURRENT_STREAMS
from twisted.internet.task import Clock

from txgateway.config.groups import Pool as PoolSettings
from txgateway.proxy.multiplexed_pool import MultiplexedPool
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.http2.client_stream import ClientStream
from txgateway.transport.interfaces import NO_BODY, ClientConnection
from txgateway.transport.wheel import TimerWheel


class Waiter(RecordingWaiter):
    """Starts a request as soon as it may, as everybody does.

    Attributes:
        exchange: that it has, if it got one over HTTP/2.
    """

    def __init__(self, bench: Bench) -> None:
        super().__init__()
        self.bench = bench
        self.handler = RecordingHandler()
        self.exchange: Any = None

    def on_connection(self, connection: ClientConnection) -> None:
        super().on_connection(connection)
        if isinstance(connection, ClientStream):
            target = next(one for one in self.bench.dialer.targets if one.connection is connection.connection)
            self.exchange = Exchange(target, connection, self.handler)
            connection.start(self.handler, b"GET", b"/", HOST, NO_BODY, b"", True)

    @property
    def error(self) -> type:
        """Of the one error that it was told."""
        (error,) = self.errors
        assert self.connections == []
        return type(error)


class Bench:
    """A pool with dials that the test decides about.

    Args:
        tunnels: of a target that may speak HTTP/1.1 as well.
    """

    def __init__(self, *, tunnels: bool = False, **settings: float) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.dialer = Http2Dialer(self.clock, self.wheel)
        self.tunnel_dialer = FakeDialer()
        limits = PoolSettings(**{"max_connections": 2, "max_pending": 2, **settings})  # type: ignore[arg-type]
        http1 = ConnectionPool("t", self.tunnel_dialer, self.clock, self.wheel, limits) if tunnels else None
        self.pool = MultiplexedPool("t", self.dialer, self.clock, self.wheel, limits, http1)

    def ask(self, times: int = 1, **how: bool) -> list[Waiter]:
        """Waiters that have asked, and may have been given something."""
        waiters = []
        for _ in range(times):
            waiter = Waiter(self)
            connection = self.pool.acquire(waiter, **how)
            if connection is not None:
                waiter.on_connection(connection)
            waiters.append(waiter)
        self.turn()
        return waiters

    def one(self, **how: bool) -> Waiter:
        (waiter,) = self.ask(**how)
        return waiter

    def turn(self) -> None:
        self.clock.advance(0)
        for target in self.dialer.targets:
            target.turn()

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds * 10)):
            self.clock.advance(0.1)
            self.turn()

    def open(self, **settings: Any) -> Http2Target:
        """The oldest dial makes a connection that speaks HTTP/2."""
        target = self.dialer.dials[0].succeed_with_http2(**settings)
        self.turn()
        return target

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Active, idle, pending, open."""
        return self.pool.active, self.pool.idle, self.pool.pending, self.pool.open_connections


def limited(streams: int) -> dict[str, Any]:
    """What makes a target take so many exchanges at once."""
    return {"settings": {MAX_CONCURRENT_STREAMS: streams}}
