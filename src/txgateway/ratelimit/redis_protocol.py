"""txredisapi's protocol with a shorter way for commands whose replies come in order anyway.

Importing this imports txredisapi, and with it the global reactor: import it only once the reactor is installed.
Logging in and choosing the database are txredisapi's; then whole batches of commands are written at once, and each
reply goes to the owner directly, without a Deferred of its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import txredisapi
from twisted.internet.interfaces import IAddress, ITCPTransport
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from txgateway.ratelimit.redis_url import RedisAddress

__all__ = ["RedisFactory", "RedisProtocol"]


class Owner(Protocol):
    """Whom a connection tells what happens to it."""

    def logged_in(self, protocol: RedisProtocol) -> None: ...
    def replied(self, reply: Any) -> None: ...
    def failed(self, why: str) -> None: ...


class RedisProtocol(txredisapi.HiredisProtocol):  # type: ignore[misc]  # not annotated
    """One connection.

    Attributes:
        owner: None once nobody wants to hear of it any more.
    """

    owner: Owner | None = None

    def connectionMade(self) -> Any:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        return super().connectionMade()

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        try:
            super().dataReceived(data)
        except (txredisapi.InvalidData, MemoryError):  # or announces more than there is memory for
            self.tell("what the server sends is not its protocol")

    def replyReceived(self, reply: Any) -> None:
        if not self._ready:
            super().replyReceived(reply)
        elif self.owner is not None:
            self.owner.replied(reply)

    def connectionLost(self, why: Failure) -> None:
        super().connectionLost(why)
        self.tell(f"connection lost: {why.getErrorMessage()}")

    def abandon(self) -> None:
        """Close at once, and say nothing about it."""
        self.owner = None
        self.transport.abortConnection()

    def tell(self, why: str) -> None:
        """The connection is of no use."""
        if self.owner is not None:
            self.owner.failed(why)


class RedisFactory(Factory):
    """Makes connections for an owner that connects again by itself."""

    noisy = False

    def __init__(self, address: RedisAddress, owner: Owner) -> None:
        self._address = address
        self._owner = owner

    def buildProtocol(self, addr: IAddress | None) -> RedisProtocol:
        account = self._address
        protocol = RedisProtocol(
            charset=None,
            convertNumbers=False,
            username=account.username or None,
            password=account.password,
            dbid=account.database or None,
        )
        protocol.factory = _Refusals(protocol)
        protocol.owner = self._owner
        protocol.whenConnected().addCallback(self._owner.logged_in)
        return protocol


class _Refusals:
    """What txredisapi's protocol calls when it cannot log in: does not stop trying for ever, nor log on its own."""

    isLazy = False

    def __init__(self, protocol: RedisProtocol) -> None:
        self._protocol = protocol

    def stopTrying(self) -> None:
        """The owner decides when to try again."""

    def connectionError(self, why: str) -> None:
        """``why`` is txredisapi's text, with the server's error in it and no password."""
        self._protocol.tell(why)
