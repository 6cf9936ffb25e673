"""One face for the scripted clients of both HTTP versions: a connection, and the requests that are made over it.

What a test says through it means the same in both; where the versions differ (what a refusal does to the connection), the
test asks for ``version``.
"""

from __future__ import annotations

import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Self

from tests.integration.client import Client, Head, Response
from tests.integration.h1_body import Body
from tests.integration.h2_client import H2Client
from tests.integration.h2_frames import CANCEL, NO_ERROR
from tests.integration.h2_link import StreamReset
from tests.integration.secure import HOST, TlsClient
from tests.integration.wire import TIMEOUT_S, ConnectionEnded, value_of, values_of

Field = tuple[str, str]

#: Of a WebSocket by HTTP/1.1; by HTTP/2 there is none.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Call(ABC):
    """One request.

    Attributes:
        informational: 1xx responses that came before the head.
    """

    informational: list[Head]

    @abstractmethod
    def send(self, data: bytes) -> None:
        """A piece of the body, or of a tunnel."""

    @abstractmethod
    def send_while_taken(self, limit_bytes: int, silence_s: float = 0.5) -> int:
        """Send zeros until nobody takes more for a while; returns how many bytes were taken."""

    @abstractmethod
    def end(self, *trailers: Field) -> None:
        """The body is complete; in a tunnel, our half of it."""

    @abstractmethod
    def inform(self) -> Head:
        """The next 1xx response."""

    @abstractmethod
    def head(self) -> Head:
        """The final head; of an upgrade also 101, or 200 by HTTP/2."""

    @abstractmethod
    def read(self, count: int) -> bytes:
        """The next bytes of the response body, or of the tunnel."""

    @abstractmethod
    def response(self) -> Response:
        """All of the response."""

    @abstractmethod
    def stall(self) -> None:
        """Take no more of the answer, before anything of it was taken."""

    @abstractmethod
    def resume(self) -> None:
        """End a stall."""

    @abstractmethod
    def is_cut(self) -> bool:
        """Whether the answer is broken off in a way that nobody takes for its end."""

    @abstractmethod
    def leave(self) -> None:
        """Lose interest, in good manners."""


class Caller(ABC):
    """A connection of a client.

    Attributes:
        version: as the access log says it.
        via: as the gateway says it in ``Via`` for what came from here.
    """

    version: str
    via: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def open(self, method: str, path: str, *fields: Field, length: int | None = 0) -> Call:
        """Send a head; ``length`` of the body is 0 for none, and None for one whose length is not said."""

    @abstractmethod
    def upgrade(self, path: str, *fields: Field) -> Call:
        """Ask for a WebSocket."""

    @abstractmethod
    def close(self) -> None:
        """Leave."""

    @abstractmethod
    def vanish(self) -> None:
        """Leave with a reset of the whole connection."""

    @abstractmethod
    def is_gone(self) -> bool:
        """Whether the gateway closes the connection."""

    def ask(self, method: str, path: str, *fields: Field, body: bytes = b"") -> Response:
        """A whole exchange."""
        call = self.open(method, path, *fields, length=len(body))
        if body:
            call.send(body)
            call.end()
        return call.response()


class H1Caller(Caller):
    """By HTTP/1.1: one request after the other.

    Args:
        port: of the gateway.
        context: makes it speak TLS.
        receive_bytes: of the kernel, for who is to be slow.
    """

    version = "HTTP/1.1"
    via = "1.1 txgateway"

    def __init__(self, port: int, context: ssl.SSLContext | None = None, *, receive_bytes: int = 0) -> None:
        self.client = (
            Client(port, receive_bytes=receive_bytes)
            if context is None
            else TlsClient(port, context, receive_bytes=receive_bytes)
        )

    def open(self, method: str, path: str, *fields: Field, length: int | None = 0) -> Call:
        framing = [("Transfer-Encoding", "chunked")] if length is None else []
        if length:
            framing = [("Content-Length", str(length))]
        return H1Call(self.client, method, path, [*fields, *framing])

    def upgrade(self, path: str, *fields: Field) -> Call:
        handshake = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", KEY)]
        return H1Call(self.client, "GET", path, [*fields, *handshake, ("Sec-WebSocket-Version", "13")])

    def close(self) -> None:
        self.client.close()

    def vanish(self) -> None:
        self.client.reset()

    def is_gone(self) -> bool:
        return self.client.is_gone()


class H1Call(Call):
    def __init__(self, client: Client, method: str, path: str, fields: Sequence[Field]) -> None:
        self._client = client
        self._method = method
        self._is_chunked = ("Transfer-Encoding", "chunked") in fields
        self._head: Head | None = None
        self._body = Body(client, [])
        self._unsent = b""  # of a chunk that was begun
        self.informational = []
        hosts = [] if values_of(list(fields), "Host") else [("Host", HOST)]
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*hosts, *fields))
        client.send(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))

    @property
    def _is_tunnel(self) -> bool:
        return self._head is not None and self._head.status == 101

    def send(self, data: bytes) -> None:
        is_framed = self._is_chunked and not self._is_tunnel
        self._client.send(self._unsent + (b"%x\r\n%b\r\n" % (len(data), data) if is_framed else data))
        self._unsent = b""

    def send_while_taken(self, limit_bytes: int, silence_s: float = 0.5) -> int:
        assert self._is_chunked or self._is_tunnel
        zeros = bytes(65536)
        piece = zeros if self._is_tunnel else b"10000\r\n%b\r\n" % zeros
        taken = 0
        self._client.socket.settimeout(silence_s)
        try:
            while self._unsent or taken < limit_bytes:
                if not self._unsent:
                    self._unsent = piece
                    taken += len(zeros)
                self._unsent = self._unsent[self._client.socket.send(self._unsent) :]
        except TimeoutError:
            pass
        finally:
            self._client.socket.settimeout(TIMEOUT_S)
        return taken

    def end(self, *trailers: Field) -> None:
        if self._is_tunnel:
            self._client.socket.shutdown(socket.SHUT_WR)
        elif self._is_chunked:
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self._client.send(f"0\r\n{lines}\r\n".encode("latin-1"))
        else:
            assert not trailers

    def inform(self) -> Head:
        head = self._client.read_head()
        assert head.status < 200, head
        self.informational.append(head)
        return head

    def head(self) -> Head:
        if self._head is None:
            while (head := self._client.read_head()).status < 200 and head.status != 101:
                self.informational.append(head)
            self._head = head
            is_empty = self._method == "HEAD" or head.status in {204, 304}
            length, codings = head.header("Content-Length"), head.headers("Transfer-Encoding")
            assert is_empty or head.status == 101 or length is not None or codings == ["chunked"], head
            assert not is_empty or not codings, head
            assert head.status != 204 or length is None, head
            self._body = Body(self._client, head.fields, is_empty=is_empty, is_raw=head.status == 101)
        return self._head

    def read(self, count: int) -> bytes:
        self.head()
        return self._body.read(count)

    def response(self) -> Response:
        head = self.head()
        body = self._body.rest()
        return Response(head.status, head.reason, head.fields, body, self._body.trailers, self.informational)

    def stall(self) -> None:
        """Who does not read, does not read."""

    def resume(self) -> None:
        """Reading is all."""

    def is_cut(self) -> bool:
        try:
            self.response()
        except (ConnectionEnded, ConnectionError):
            return True
        return False

    def leave(self) -> None:
        self._client.close()


class H2Caller(Caller):
    """By HTTP/2: many requests at once.

    Args:
        port: of the gateway.
        context: makes it speak TLS.
        receive_bytes: of the kernel, for who is to be slow.
    """

    version = "HTTP/2"
    via = "2 txgateway"

    def __init__(self, port: int, context: ssl.SSLContext | None = None, *, receive_bytes: int = 0) -> None:
        self.client = H2Client(port, context, receive_bytes=receive_bytes)

    def open(self, method: str, path: str, *fields: Field, length: int | None = 0) -> Call:
        lowered = [(name.lower(), value) for name, value in fields]
        host = value_of(lowered, "host") or ""
        lowered = [field for field in lowered if field[0] != "host"]
        if length:
            lowered.append(("content-length", str(length)))
        body = b"" if length == 0 else None
        return H2Call(self.client, self.client.request(method, path, *lowered, body=body, authority=host))

    def upgrade(self, path: str, *fields: Field) -> Call:
        lowered = [(name.lower(), value) for name, value in (*fields, ("sec-websocket-version", "13"))]
        return H2Call(self.client, self.client.connect(path, "websocket", *lowered))

    def close(self) -> None:
        self.client.close()

    def vanish(self) -> None:
        self.client.reset()

    def is_gone(self) -> bool:
        return self.client.is_gone()


class H2Call(Call):
    def __init__(self, client: H2Client, stream: int) -> None:
        self._client = client
        self.stream = stream
        self._given = 0
        self._informed = 0
        self.informational = client.streams[stream].informational

    def send(self, data: bytes) -> None:
        self._client.send_data(self.stream, data)

    def send_while_taken(self, limit_bytes: int, silence_s: float = 0.5) -> int:
        return self._client.send_while_granted(self.stream, limit_bytes, silence_s=silence_s)

    def end(self, *trailers: Field) -> None:
        if trailers:
            self._client.send_trailers(self.stream, *((name.lower(), value) for name, value in trailers))
        else:
            self._client.end(self.stream)

    def inform(self) -> Head:
        self._informed += 1
        return self._client.informational(self.stream, self._informed)[self._informed - 1]

    def head(self) -> Head:
        return self._client.head(self.stream)

    def read(self, count: int) -> bytes:
        self._given += count
        return self._client.body(self.stream, self._given)[self._given - count : self._given]

    def response(self) -> Response:
        return self._client.response(self.stream)

    def stall(self) -> None:
        self._client.stall(self.stream)

    def resume(self) -> None:
        self._client.resume(self.stream)

    def is_cut(self) -> bool:
        try:
            self._client.response(self.stream)
        except StreamReset as reset:
            return reset.code != NO_ERROR
        return False

    def leave(self) -> None:
        self._client.reset_stream(self.stream, CANCEL)
