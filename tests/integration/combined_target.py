"""One face for the scripted backends of both HTTP versions.

A request is served by the test itself, step by step, with :meth:`Target.next`; or, where both sides have to work at the
same time, by a ``handler`` in the backend's own thread.
"""

from __future__ import annotations

import queue
import socket
import threading
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha1

from h2.exceptions import ProtocolError
from tests.integration.backend import Exchange, Received, ScriptedBackend, wait_until_taken
from tests.integration.combined_client import Field
from tests.integration.h1_body import Body
from tests.integration.h2_backend import H2Backend
from tests.integration.h2_exchange import H2Exchange, H2Received
from tests.integration.wire import TIMEOUT_S, ConnectionEnded, Fields, value_of

_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Served(ABC):
    """One request at the target.

    Attributes:
        request: as it came.
        host: ``Host``, or ``:authority``.
    """

    request: Received
    host: str | None

    def __init__(self) -> None:
        self._is_done = threading.Event()

    def wait_until_done(self) -> None:
        """Backend's thread: the connection is the test's until then."""
        self._is_done.wait(3 * TIMEOUT_S)

    def release(self) -> None:
        """The exchange is over."""
        self._is_done.set()

    @property
    def trailers(self) -> Fields:
        """Of the request, once it is read."""
        return self.request.trailers

    @abstractmethod
    def read(self, count: int) -> bytes:
        """The next bytes of the request's body, or of the tunnel."""

    @abstractmethod
    def rest(self) -> bytes:
        """All of the body, with what was read before; in a tunnel, until the gateway's end."""

    @abstractmethod
    def inform(self, status: int, *fields: Field) -> None:
        """A 1xx response."""

    @abstractmethod
    def head(self, status: int = 200, *fields: Field, length: int | None = None) -> None:
        """The head of a response with a body; its length is said if there is one."""

    @abstractmethod
    def head_only(self, status: int, *fields: Field) -> None:
        """A response that is a head, as to HEAD."""

    @abstractmethod
    def switch(self, *fields: Field) -> None:
        """Take an upgrade."""

    @abstractmethod
    def send(self, data: bytes) -> None:
        """A piece of the response's body, or of the tunnel."""

    @abstractmethod
    def send_while_taken(self, limit_bytes: int) -> int:
        """Send zeros until nobody takes more for a while; returns how many bytes were taken."""

    @abstractmethod
    def end(self, *trailers: Field) -> None:
        """The response is complete; in a tunnel, our half of it."""

    @abstractmethod
    def cut(self) -> None:
        """Break off, after what was sent has been taken: a reset of the connection, or of the stream."""

    @abstractmethod
    def vanish(self) -> None:
        """Close the connection in good order, as far as TCP can tell."""

    @abstractmethod
    def wait_until_left(self) -> None:
        """Wait until the gateway gives the exchange up."""

    def answer(self, body: bytes = b"ok", status: int = 200, *fields: Field) -> None:
        """Read the whole request, and answer it with a body whose length is said."""
        self.rest()
        self.head(status, *fields, length=len(body))
        if body:
            self.send(body)
        self.end()

    def cut_or_vanish(self, how: str) -> None:
        """One of the two, by its name."""
        self.cut() if how == "cut" else self.vanish()


Handler = Callable[[Served], None]


class Target(ABC):
    """A backend.

    Attributes:
        version: that it speaks, as ``Via`` says it.
        backend: the scripted one.
        handler: has the requests that come, if it is set.
    """

    version: str
    backend: ScriptedBackend

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self._served: queue.Queue[Served] = queue.Queue()
        self._all: list[Served] = []
        self.renew()

    @abstractmethod
    def renew(self) -> None:
        """Forget the past: for the next test."""
        for served in self._all:
            served.release()
        self._all.clear()
        self._served = queue.Queue()
        self.handler = None
        self.backend.renew()

    def next(self) -> Served:
        """The next request that has come, or comes."""
        return self._served.get(timeout=TIMEOUT_S)

    def has_next(self) -> bool:
        """Whether a request has come that nobody asked for."""
        return not self._served.empty()

    def _take(self, served: Served) -> None:
        self._all.append(served)
        handler = self.handler
        if handler is None:
            self._served.put(served)
            served.wait_until_done()
        else:
            self._served.put(served)
            handler(served)


class H1Target(Target):
    """By HTTP/1.1."""

    version = "1.1"

    def __init__(self, backend: ScriptedBackend) -> None:
        self.backend = backend
        super().__init__()

    def renew(self) -> None:
        super().renew()
        self.backend.script = lambda exchange: self._take(H1Served(exchange))


class H1Served(Served):
    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange
        self.request = exchange.request
        self.host = self.request.header("Host")
        self._body = Body(exchange, self.request.fields)
        self._is_chunked = self._is_tunnel = False
        # So that what the gateway does not take shows soon.
        exchange.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 256 * 1024)

    def read(self, count: int) -> bytes:
        return self._body.read(count)

    def rest(self) -> bytes:
        self.request.body = self._body.rest()
        self.request.trailers = self._body.trailers
        return self.request.body

    def _send_head(self, status: int, fields: list[Field]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
        self._exchange.send(f"HTTP/1.1 {status} Whatever\r\n{lines}\r\n".encode("latin-1"))

    def inform(self, status: int, *fields: Field) -> None:
        self._send_head(status, list(fields))

    def head(self, status: int = 200, *fields: Field, length: int | None = None) -> None:
        self._is_chunked = length is None
        framing = ("Transfer-Encoding", "chunked") if length is None else ("Content-Length", str(length))
        self._send_head(status, [*fields, framing])

    def head_only(self, status: int, *fields: Field) -> None:
        self._send_head(status, list(fields))
        self.release()

    def switch(self, *fields: Field) -> None:
        key = value_of(self.request.fields, "Sec-WebSocket-Key") or ""
        accept = b64encode(sha1(key.encode() + _SALT, usedforsecurity=False).digest()).decode()
        handshake = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", accept)]
        self._send_head(101, [*handshake, *fields])
        self._body = Body(self._exchange, [], is_raw=True)
        self._is_tunnel = True

    def send(self, data: bytes) -> None:
        self._exchange.send(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def send_while_taken(self, limit_bytes: int) -> int:
        assert not self._is_chunked
        return self._exchange.send_while_taken(bytes(65536), limit_bytes, 0.5)

    def end(self, *trailers: Field) -> None:
        if self._is_tunnel:
            self._exchange.socket.shutdown(socket.SHUT_WR)
        elif self._is_chunked:
            lines = "".join(f"{name}: {value}\r\n" for name, value in trailers)
            self._exchange.send(f"0\r\n{lines}\r\n".encode("latin-1"))
        if self._body.is_over:
            self.release()

    def cut(self) -> None:
        wait_until_taken(self._exchange.socket)
        self._exchange.reset()
        self.release()

    def vanish(self) -> None:
        self._exchange.socket.shutdown(socket.SHUT_WR)
        self._exchange.close()
        self.release()

    def wait_until_left(self) -> None:
        self._exchange.wait_until_left()
        self.release()


class H2Target(Target):
    """By HTTP/2."""

    version = "2"

    def __init__(self, backend: H2Backend) -> None:
        self.backend = backend
        super().__init__()

    def renew(self) -> None:
        super().renew()
        assert isinstance(self.backend, H2Backend)
        self.backend.handler = lambda exchange: self._take(H2Served(exchange))


class H2Served(Served):
    request: H2Received

    def __init__(self, exchange: H2Exchange) -> None:
        super().__init__()
        self.exchange = exchange
        self.request = exchange.request
        self.host = self.request.pseudo.get(":authority")
        self._given = 0

    def read(self, count: int) -> bytes:
        self._given += count
        while len(self.request.body) < self._given:
            assert self.exchange.read_some(), f"the end instead of {count} bytes"
        return self.request.body[self._given - count : self._given]

    def rest(self) -> bytes:
        try:
            body = self.exchange.read_body()
        except ConnectionEnded:  # of a tunnel, whose end may be a reset
            if self.request.method != "CONNECT":
                raise
            body = self.request.body
        self._hang_up()
        return body

    def release(self) -> None:
        self._hang_up()
        super().release()

    def _hang_up(self) -> None:
        """End our half of a tunnel as well, as whoever serves a WebSocket does when the client has left."""
        if self.request.method == "CONNECT":
            with suppress(ConnectionEnded, ProtocolError):  # it may have ended before
                self.exchange.send_data(b"", ends=True)

    def inform(self, status: int, *fields: Field) -> None:
        self.exchange.send_informational(status, *_lowered(fields))

    def head(self, status: int = 200, *fields: Field, length: int | None = None) -> None:
        framing = [] if length is None else [("content-length", str(length))]
        self.exchange.send_head(status, *_lowered(fields), *framing)

    def head_only(self, status: int, *fields: Field) -> None:
        self.exchange.send_head(status, *_lowered(fields), ends=True)
        self.release()

    def switch(self, *fields: Field) -> None:
        assert self.request.pseudo[":protocol"] == "websocket"
        self.exchange.send_head(200, *_lowered(fields))

    def send(self, data: bytes) -> None:
        self.exchange.send_data(data)

    def send_while_taken(self, limit_bytes: int) -> int:
        return self.exchange.send_while_granted(limit_bytes, silence_s=0.5)

    def end(self, *trailers: Field) -> None:
        if trailers:
            self.exchange.send_trailers(*_lowered(trailers))
        else:
            self.exchange.send_data(b"", ends=True)
        self.release()

    def cut(self) -> None:
        self.exchange.reset()
        self.release()

    def vanish(self) -> None:
        self.exchange.session.close()
        self.release()

    def wait_until_left(self) -> None:
        self.exchange.wait_until_left()
        self.release()


def _lowered(fields: tuple[Field, ...]) -> list[Field]:
    return [(name.lower(), value) for name, value in fields]
