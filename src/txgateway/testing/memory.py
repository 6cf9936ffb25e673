"""TCP connections without sockets: one end is a protocol under test, the other is whoever holds the transport."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IAddress
from twisted.internet.task import Clock
from twisted.python.failure import Failure

#: Bytes that wait for a slow far end before a producer is paused.
BUFFER_BYTES = 65536


def address(host: str, port: int) -> IAddress:
    """A TCP address of the right family."""
    return (IPv4Address if ip_address(host).version == 4 else IPv6Address)("TCP", host, port)


class MemoryTransport:
    """A TCP transport without a socket; the test is the far end.

    As with Twisted's, losing a connection is reported later, a registered producer holds up an orderly close, and
    bytes for a paused protocol wait.

    Attributes:
        taken: what the far end has received.
        unsent: what waits in the send buffer, while the far end is slow.
        takes: the far end reads as fast as it can.
        is_reading: the protocol is not paused.
        half_closed: our sending side is closed.
        closed: the connection is gone, in whichever way.
        aborted: by ``abortConnection``.
        writes: number of non-empty writes.
        on_taken: called at the next turn of the clock when the far end has received something, if there is one.
    """

    def __init__(self, clock: Clock, peer: str = "127.0.0.1", port: int = 8000) -> None:
        self.clock = clock
        self.taken = b""
        self.unsent = b""
        self.takes = True
        # Any: mypy takes an attribute that was asserted once for unchanged by what happens next.
        self.is_reading: Any = True
        self.half_closed: Any = False
        self.closed: Any = False
        self.aborted: Any = False
        self.writes = 0
        self.on_taken: Callable[[], None] | None = None
        self.protocol: Any = None
        self.producer: Any = None
        self._peer, self._host = address(peer, 50000), address("127.0.0.1", port)
        self._incoming: list[bytes | Exception] = []
        self._disconnecting = self._half_closing = self._producer_paused = False

    # --- the protocol's side ---

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.closed or self.half_closed or self.aborted or not data:
            return
        self.writes += 1
        if self.takes and not self.unsent:
            self._arrive(data)
            return
        self.unsent += data
        if len(self.unsent) > BUFFER_BYTES and self.producer is not None:
            self._producer_paused = True
            self.producer.pauseProducing()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None
        self._close_if_done()

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True
        self.clock.callLater(0, self._deliver)

    def loseConnection(self) -> None:
        self._disconnecting = True
        self.is_reading = False
        self._close_if_done()

    def loseWriteConnection(self) -> None:
        self._half_closing = True
        self._close_if_done()

    def abortConnection(self) -> None:
        if not self.aborted and not self.closed:
            self.aborted = True
            self.unsent = b""
            self.clock.callLater(0, self._lose, ConnectionAborted())

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getPeer(self) -> IAddress:
        return self._peer

    def getHost(self) -> IAddress:
        return self._host

    def getHandle(self) -> None:
        return None

    def unsent_bytes(self) -> int:
        return len(self.unsent)

    # --- the far end ---

    def send(self, data: bytes) -> None:
        """The far end sends ``data``."""
        if data:
            self._incoming.append(data)
            self._deliver()

    def end(self, reason: Exception | None = None) -> None:
        """The far end closes (or resets, with another ``reason`` than ConnectionDone)."""
        self._incoming.append(reason or ConnectionDone())
        self._deliver()

    def reset(self) -> None:
        """The far end resets the connection; noticed at once."""
        self._lose(ConnectionLost())

    def take(self, size: int | None = None) -> None:
        """A slow far end receives up to ``size`` bytes of what waits for it."""
        size = len(self.unsent) if size is None else size
        data, self.unsent = self.unsent[:size], self.unsent[size:]
        self._arrive(data)
        if not self.unsent:
            if self._producer_paused and self.producer is not None:
                self._producer_paused = False
                self.producer.resumeProducing()
            self._close_if_done()

    def received(self) -> bytes:
        """What came since the last call."""
        data, self.taken = self.taken, b""
        return data

    def _arrive(self, data: bytes) -> None:
        self.taken += data
        if self.on_taken is not None:
            self.clock.callLater(0, self.on_taken)

    def _deliver(self) -> None:
        while self._incoming and self.is_reading and not self.closed and not self.aborted:
            item = self._incoming.pop(0)
            if isinstance(item, bytes):
                self.protocol.dataReceived(item)
            else:
                self._lose(item)

    def _close_if_done(self) -> None:
        if self.unsent or self.closed:
            return
        if self._half_closing:
            self.half_closed = True
        if self._disconnecting and self.producer is None:
            self.clock.callLater(0, self._lose, ConnectionDone())

    def _lose(self, reason: Exception) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connectionLost(Failure(reason))
