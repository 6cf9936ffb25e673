"""Listening sockets that somebody else has bound: a supervisor of workers, or the process manager.

They are used as they are, and left as they are: whoever has bound a socket looks after its path, mode and queue, and
others may be accepting from it. Private parts of Twisted are used here, under the pinned version range.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort
from twisted.python.failure import Failure


class AdoptedUnixPort(unix.Port):
    """A port that leaves the path alone: the stock one changes the mode, and removes it in the end."""

    def startListening(self) -> None:
        tcp._reservedFD.reserve()
        self.socket, self._preexistingSocket = self._preexistingSocket, None
        self._shouldShutdown = False
        self.factory.doStart()  # type: ignore[union-attr]
        self.connected = True
        self.fileno = self.socket.fileno  # type: ignore[method-assign, union-attr]
        self.numberAccepts = 100
        self.startReading()

    def connectionLost(self, reason: Failure) -> None:
        tcp.Port.connectionLost(self, reason)


def adopt(reactor: Any, descriptor: int, factory: Any) -> IListeningPort:
    """Accept from a listening socket.

    Args:
        reactor: one with ``adoptStreamPort``.
        descriptor: of a stream socket of IPv4, IPv6 or UNIX that listens already; it is this function's from here on.
        factory: of the connections' protocols.

    Raises:
        ValueError: it is no such socket.
        OSError: it is no socket at all.
    """
    with socket.socket(fileno=descriptor) as given:  # closed at the end: ports have duplicates of their own
        if given.type != socket.SOCK_STREAM or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            raise ValueError(f"descriptor {descriptor} is no stream socket that listens")
        given.setblocking(False)
        os.set_inheritable(descriptor, False)
        if given.family == socket.AF_UNIX:
            port: Any = AdoptedUnixPort._fromListeningDescriptor(reactor, descriptor, factory)
            port.startListening()
        else:
            port = reactor.adoptStreamPort(descriptor, given.family, factory)
    return port  # type: ignore[no-any-return]


def lend(port: Any, factory: Any) -> int:
    """Stop a listening port from accepting, for others to do it, and from disturbing them when it is closed.

    Args:
        factory: that it was opened with.

    Returns:
        the descriptor of its socket, which remains the port's.

    Raises:
        ValueError: it does more than to accept connections for that factory, which nobody else would do.
    """
    if not isinstance(port, tcp.Port) or port.factory is not factory:
        raise ValueError("only plain tcp:, tcp6: and unix: listeners can be shared by workers")
    port.stopReading()
    port._shouldShutdown = False
    return int(port.fileno())
