"""A backend on a real socket that says, byte for byte, what the test tells it to."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure


class BackendConnection(Protocol):
    """One connection of the backend; the test reads and writes it."""

    transport: Any

    def __init__(self, backend: RawBackend) -> None:
        self.backend = backend
        self.received = b""
        self.is_lost = False
        self.lost: Deferred[None] = Deferred()
        self._wanted: tuple[bytes, Deferred[bytes]] | None = None

    def connectionMade(self) -> None:
        self.backend.on_connection(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._check()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.is_lost = True
        self.lost.callback(None)

    def until(self, ending: bytes) -> Deferred[bytes]:
        """Fires with what was received, once that holds ``ending``; what follows it is kept for the next."""
        result: Deferred[bytes] = Deferred()
        self._wanted = (ending, result)
        self._check()
        return result

    def head(self) -> Deferred[bytes]:
        return self.until(b"\r\n\r\n")

    def send(self, data: bytes) -> None:
        self.transport.write(data)

    def close(self) -> None:
        self.transport.loseConnection()

    def reset(self) -> None:
        self.transport.abortConnection()

    def _check(self) -> None:
        if self._wanted is None:
            return
        ending, result = self._wanted
        end = self.received.find(ending) + len(ending)
        if end >= len(ending):
            self._wanted = None
            found, self.received = self.received[:end], self.received[end:]
            result.callback(found)


class RawBackend(Factory):
    """Listens on a free port of the loopback; its connections come out of :meth:`accepted` in order."""

    noisy = False

    def __init__(self) -> None:
        self.connections: list[BackendConnection] = []
        self._unclaimed: list[BackendConnection] = []
        self._waiting: list[Deferred[BackendConnection]] = []
        self._port: Any = None

    def listen(self, reactor: Any, ssl_options: Any = None) -> int:
        if ssl_options is None:
            self._port = reactor.listenTCP(0, self, interface="127.0.0.1")
        else:
            self._port = reactor.listenSSL(0, self, ssl_options, interface="127.0.0.1")
        return int(self._port.getHost().port)

    def listen_unix(self, reactor: Any, path: str) -> None:
        self._port = reactor.listenUNIX(path, self)

    def buildProtocol(self, addr: object) -> BackendConnection:
        return BackendConnection(self)

    def on_connection(self, connection: BackendConnection) -> None:
        self.connections.append(connection)
        if self._waiting:
            self._waiting.pop(0).callback(connection)
        else:
            self._unclaimed.append(connection)

    def accepted(self) -> Deferred[BackendConnection]:
        """Fires with the next connection that nobody has claimed."""
        result: Deferred[BackendConnection] = Deferred()
        if self._unclaimed:
            result.callback(self._unclaimed.pop(0))
        else:
            self._waiting.append(result)
        return result

    async def stop(self) -> None:
        """Stop listening, and wait until every connection is gone."""
        await maybeDeferred(self._port.stopListening)
        for connection in self.connections:
            if not connection.is_lost:
                connection.reset()
                await connection.lost
