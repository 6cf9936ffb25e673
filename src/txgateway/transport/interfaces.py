"""The narrow waist between the transports (bytes) and the middle (exchanges).

A *server channel* carries one exchange with a client; a *client connection* carries one exchange with a target.
HTTP/1.1 and HTTP/2 both provide these, so that nothing above this package knows which is in use.

Header fields travel as lists of ``(lowered name, name as received, value)`` tuples of bytes. Such a list never
holds framing fields (``Content-Length``, ``Transfer-Encoding``, ``Connection`` and the other connection-level
fields): the transport that writes a message makes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from attrs import frozen

from txgateway.errors import UpstreamError

Header: TypeAlias = tuple[bytes, bytes, bytes]
HeaderList: TypeAlias = list[Header]
#: Fields that nobody changes.
Headers: TypeAlias = Sequence[Header]

#: ``length`` of a message that has no body and declares none.
NO_BODY = -1
#: ``length`` of a message whose body ends when it ends (chunked, or until close).
UNKNOWN_LENGTH = -2


class SharedHeaders(list[Header]):
    """A header list that begins with fields which many messages share, with those already serialised.

    Attributes:
        wire: the shared fields as HTTP/1.1 field lines.
        shared: how many fields ``wire`` stands for.
    """

    __slots__ = ("shared", "wire")

    wire: bytes
    shared: int


@frozen
class ServerLimits:
    """Limits of one listener, from the settings of the same names."""

    max_header_bytes: int = 16 * 1024
    max_header_count: int = 100
    max_uri_bytes: int = 8 * 1024
    header_timeout_s: float = 10.0
    keepalive_timeout_s: float = 75.0


class RequestHead:
    """A request's head as a server transport understood it.

    Attributes:
        method: as received; case matters.
        target: the request target as received.
        version: ``HTTP/1.0``, ``HTTP/1.1`` or ``HTTP/2``.
        headers: every field in order, framing fields included. Requests of one connection may share it.
        fields: lowered name to value, the last one where a name occurs more than once.
        length: of the body: a count, NO_BODY or UNKNOWN_LENGTH.
        keep_alive: the client allows another request on the connection.
        upgrade: the value of ``Upgrade``, if the head validly asks for one, else empty.
    """

    __slots__ = ("fields", "headers", "keep_alive", "length", "method", "target", "upgrade", "version")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        version: bytes,
        headers: tuple[Header, ...],
        fields: dict[bytes, bytes],
        length: int,
        keep_alive: bool,
        upgrade: bytes,
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.fields = fields
        self.length = length
        self.keep_alive = keep_alive
        self.upgrade = upgrade


class Tunnel(Protocol):
    """What both connections hand their bytes to after an upgrade."""

    def from_client(self, data: bytes) -> None: ...
    def client_lost(self) -> None: ...
    def client_blocked(self) -> None: ...
    def client_drained(self) -> None: ...
    def from_target(self, data: bytes) -> None: ...
    def target_lost(self) -> None: ...
    def target_blocked(self) -> None: ...
    def target_drained(self) -> None: ...
    def cut(self, reason: str) -> None: ...
    def going_away(self) -> None: ...


class ResponseHandler(Protocol):
    """What one exchange with a target reports to; every call is synchronous and none may raise.

    Order: ``informational*  (upgraded | head body* end)`` and at any point, at most once, ``failed``.
    After ``end``, ``upgraded`` or ``failed`` the connection calls nothing more.
    """

    def on_informational(self, status: int, headers: HeaderList) -> None:
        """A 1xx response other than 101; connection-level fields already removed."""

    def on_upgraded(self, connection: ClientConnection, headers: HeaderList, early: bytes) -> None:
        """101: the connection now carries opaque bytes; ``early`` came with the head.

        ``headers`` still holds ``Upgrade`` (``Connection`` removed). The receiver owns the connection from now on
        and calls :meth:`ClientConnection.become_tunnel`.
        """

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """The final response head; ``length`` is a count, NO_BODY or UNKNOWN_LENGTH.

        For a response to HEAD, and for 304, ``length`` is the declared Content-Length (or NO_BODY), though no body
        follows.
        """

    def on_body(self, data: bytes) -> None:
        """Some bytes of the body, decoded from their framing; never empty."""

    def on_end(self, trailers: HeaderList) -> None:
        """The response is complete and well framed; ``trailers`` is often empty."""

    def on_failed(self, error: UpstreamError) -> None:
        """The exchange failed; the error's three flags tell how far it had come."""

    def on_flush(self) -> None:
        """Called at the end of each read in which anything was reported: write out what was collected."""

    def on_write_blocked(self) -> None:
        """The transport's send buffer is full: stop sending request body."""

    def on_write_drained(self) -> None:
        """The send buffer has emptied: go on."""


class ClientConnection(Protocol):
    """A connection to a target that is ready for exactly one exchange at a time."""

    #: True when this connection has completed an exchange before.
    reused: bool
    #: Of the protocol that the last response head came in, as ``Via`` says it.
    version: bytes

    def start(
        self,
        handler: ResponseHandler,
        method: bytes,
        target: bytes,
        headers: HeaderList,
        length: int,
        first: bytes,
        ended: bool,
        upgrade: bytes = b"",
    ) -> None:
        """Send a request head, and ``first`` bytes of its body in the same write.

        Args:
            target: the request target exactly as it goes on the wire.
            headers: end-to-end fields, ``Host`` among them.
            length: of the request body: a count, NO_BODY or UNKNOWN_LENGTH.
            ended: the body is complete with ``first``.
            upgrade: protocol to ask for with ``Connection: upgrade``.
        """

    def send_body(self, data: bytes) -> None:
        """Send more of the request body."""

    def send_end(self, trailers: HeaderList) -> None:
        """The request body is complete."""

    def pause_reading(self) -> None:
        """Stop reading the response: the client is slower than the target."""

    def resume_reading(self) -> None:
        """Read on."""

    def cancel(self) -> None:
        """Give up the exchange and the connection with it; the handler hears nothing more."""

    def is_alive(self) -> bool:
        """Look at the socket for an end or stray bytes; before each exchange on a connection that was idle."""
