"""Resolvers at Twisted's own seam: one that answers when the test says so, one that answers out of a table."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer


def ip(host: str, port: int = 0) -> IPv4Address | IPv6Address:
    """The address of a literal, as a resolver gives it."""
    return (IPv6Address if ":" in host else IPv4Address)("TCP", host, port)


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        raise AssertionError("Twisted's own resolver cannot do this")


@implementer(IHostnameResolver)
class ManualResolver:
    """Keeps each question until the test answers it; refuses a second one of the same name meanwhile.

    Attributes:
        asked: the names, in order.
        out: who waits, by name.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.out: dict[str, IResolutionReceiver] = {}

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        assert hostName not in self.out, "asked twice at a time"
        self.asked.append(hostName)
        self.out[hostName] = resolutionReceiver
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        return resolution

    def answer(self, name: str, *hosts: str) -> None:
        """The name is at these addresses; at none if it does not exist."""
        receiver = self.out.pop(name)
        for host in hosts:
            receiver.addressResolved(ip(host))
        receiver.resolutionComplete()

    def lose(self, name: str) -> None:
        """Forget that anybody asked."""
        del self.out[name]


@implementer(IHostnameResolver)
class TableResolver:
    """Answers at once, and what is not in the table as another resolver does.

    Attributes:
        table: addresses by name; may be changed at any time.
    """

    def __init__(self, fallback: IHostnameResolver, table: dict[str, tuple[str, ...]]) -> None:
        self.table = table
        self._fallback = fallback

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        if hostName not in self.table:
            return self._fallback.resolveHostName(
                resolutionReceiver, hostName, portNumber, addressTypes, transportSemantics
            )
        resolution = _Resolution(hostName)
        resolutionReceiver.resolutionBegan(resolution)
        for host in self.table[hostName]:
            resolutionReceiver.addressResolved(ip(host, portNumber))
        resolutionReceiver.resolutionComplete()
        return resolution
