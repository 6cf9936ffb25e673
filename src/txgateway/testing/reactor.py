"""A reactor without sockets: virtual time, names that all exist, and connections to far ends in memory.

What the gateway does with connections stays its own: the real dialer resolves, tries addresses in turn and gives up in
time. Only its connectors are others, and only where the reactor is a :class:`MemoryReactor`.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

from twisted.internet import error
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IReactorPluggableNameResolver,
    IResolutionReceiver,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.testing.clock import VirtualClock
from txgateway.testing.memory import MemoryTransport, address
from txgateway.transport import dial
from txgateway.transport.sockets import ImmediateConnector, ImmediateUnixConnector


class FarEnd(Protocol):
    """What connections in memory lead to."""

    def accepts(self) -> bool:
        """Whether the next connection is accepted, and not refused."""

    def connected(self, transport: MemoryTransport) -> None:
        """A connection comes; nothing has been received yet."""


@implementer(IReactorPluggableNameResolver)
class MemoryReactor(VirtualClock):
    """Time, names and connections of a gateway in memory.

    Attributes:
        far_ends: by ``host:port``, or by the path of a UNIX socket.
        nameResolver: gives every name an address of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.far_ends: dict[str, FarEnd] = {}
        self.nameResolver = MemoryNames()

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        """Twisted: not here."""
        raise NotImplementedError

    def far_end(self, place: str) -> FarEnd | None:
        """What is there, under its address or its name."""
        host, colon, port = place.rpartition(":")
        return self.far_ends.get(place) or self.far_ends.get(self.nameResolver.name_of(host) + colon + port)


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Twisted: it is over already."""


@implementer(IHostnameResolver)
class MemoryNames:
    """Every name exists, and has one address in 198.18.0.0/15 (RFC 2544) that no other has."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        index = len(self._addresses)
        host = self._addresses.setdefault(
            hostName.lower(), f"198.{18 + index // 65536}.{index // 256 % 256}.{index % 256}"
        )
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        resolutionReceiver.addressResolved(address(host, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution

    def name_of(self, host: str) -> str:
        """Whose address this is; itself if it is nobody's."""
        return next((name for name, known in self._addresses.items() if known == host), host)


class MemoryConnector:
    """One connection to be made; what a dial asks of a connector."""

    def __init__(self, place: str, factory: Any, reactor: MemoryReactor) -> None:
        self.factory = factory
        self._place = place
        self._reactor = reactor
        self._call: IDelayedCall | None = None

    def connect(self) -> None:
        """Begin; what becomes of it is told at the next turn of the clock."""
        self._call = self._reactor.callLater(0, self._connected)

    def stopConnecting(self) -> None:
        """Give it up."""
        if self._call is not None and self._call.active():
            self._call.cancel()

    def _connected(self) -> None:
        far_end = self._reactor.far_end(self._place)
        if far_end is None or not far_end.accepts():
            refusal = error.ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
            self.factory.clientConnectionFailed(self, Failure(refusal))
            return
        transport = MemoryTransport(self._reactor)
        far_end.connected(transport)
        protocol = transport.protocol = self.factory.buildProtocol(None)
        protocol.makeConnection(transport)


def _tcp(over_sockets: Any, host: str, port: int, factory: Any, *others: Any) -> Any:
    reactor = others[-1]
    if isinstance(reactor, MemoryReactor):
        return MemoryConnector(f"{host}:{port}", factory, reactor)
    return over_sockets(host, port, factory, *others)


def _unix(over_sockets: Any, path: str, factory: Any, *others: Any) -> Any:
    reactor = others[1]
    if isinstance(reactor, MemoryReactor):
        return MemoryConnector(path, factory, reactor)
    return over_sockets(path, factory, *others)


# The reactor has no say in how the dialer's connectors connect, so the choice is made here; it is the same as before
# for every other reactor.
_module: Any = dial
_module.ImmediateConnector = partial(_tcp, ImmediateConnector)
_module.ImmediateUnixConnector = partial(_unix, ImmediateUnixConnector)
