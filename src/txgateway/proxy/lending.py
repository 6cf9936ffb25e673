"""Whom a pool deals with: who wants a connection, what opens one, and the connections."""

from __future__ import annotations

from typing import Protocol

from txgateway.errors import GatewayError
from txgateway.transport.dial import Dialing, DialReceiver
from txgateway.transport.http1_client import ConnectionOwner
from txgateway.transport.interfaces import ClientConnection


class PooledConnection(ClientConnection, Protocol):
    """What a pool needs of a connection, besides what its users do."""

    owner: ConnectionOwner
    is_lent: bool
    opened_at: float
    idle_since: float

    def close(self) -> None:
        """Close it; tells its owner to forget it."""


class Waiter(Protocol):
    """Somebody who waits for a connection; told exactly once, unless it cancels."""

    @property
    def needs_http2(self) -> bool:
        """HTTP/1.1 cannot carry what it has to send."""

    def on_connection(self, connection: ClientConnection) -> None:
        """The connection is yours for one exchange; must not raise."""

    def on_unavailable(self, error: GatewayError) -> None:
        """There will be none: the dial's error, or PoolExhausted; must not raise."""


class TargetDialer(Protocol):
    """What a pool needs of a :class:`txgateway.transport.dial.Dialer`."""

    def dial(self, receiver: DialReceiver[PooledConnection]) -> Dialing:
        """Begin to open a connection; ``receiver`` hears of it after this has returned."""
