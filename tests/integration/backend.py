"""A backend that does what a test tells it to, on raw blocking sockets: one thread for each connection."""

from __future__ import annotations

import fcntl
import queue
import socket
import ssl
import struct
import termios
import threading
from collections.abc import Callable
from typing import Any, Self

from attrs import Factory, define
from tests.integration.wire import TIMEOUT_S, ConnectionEnded, Fields, Wire, value_of, values_of

#: The shortest complete answer.
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@define
class Received:
    """A request as it came, byte for byte.

    Attributes:
        fields: in order, names as received.
        body: without its framing; empty until it is read.
        connection: number of the connection it came on, from 1.
    """

    method: str
    target: bytes
    version: str
    fields: Fields
    connection: int
    body: bytes = b""
    trailers: Fields = Factory(list)

    def header(self, name: str) -> str | None:
        """The value of a field that occurs at most once; None if it is not there."""
        return value_of(self.fields, name)

    def headers(self, name: str) -> list[str]:
        """The values of all fields of this name."""
        return values_of(self.fields, name)


class Exchange(Wire):
    """One request on a backend's connection, whose head has been read; what happens next is the script's choice."""

    def __init__(self, sock: socket.socket, buffer: bytes, request: Received) -> None:
        super().__init__(sock)
        self.buffer = buffer
        self.request = request

    def read_body(self) -> bytes:
        """The rest of the request."""
        request = self.request
        length = request.header("Content-Length")
        if request.headers("Transfer-Encoding"):
            request.body, request.trailers = self.read_chunks()
        elif length is not None:
            request.body = self.read_exactly(int(length))
        return request.body

    def wait_until_left(self) -> None:
        """Wait until the gateway is gone; only then does the script go on."""
        assert self.is_gone(), "the gateway did not give the connection up"


Script = Callable[[Exchange], None]


def answer(data: bytes = OK) -> Script:
    """Read the whole request, send ``data``, and be ready for the next one."""

    def script(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(data)

    return script


def answer_and_close(data: bytes) -> Script:
    """Read the whole request, send ``data``, and close in good order."""

    def script(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(data)
        exchange.close()

    return script


def answer_and_reset(data: bytes = b"") -> Script:
    """Read the whole request, send ``data`` and, once the gateway has it, a reset."""

    def script(exchange: Exchange) -> None:
        exchange.read_body()
        if data:
            exchange.send(data)
            wait_until_taken(exchange.socket)
        exchange.reset()

    return script


def hang(exchange: Exchange) -> None:
    """Read the whole request and say nothing until the gateway gives up."""
    exchange.read_body()
    exchange.wait_until_left()


def wait_until_taken(sock: socket.socket) -> None:
    """Wait until the other side's kernel has acknowledged all that was sent (a reset would overtake it)."""
    pause = threading.Event()
    for _ in range(1000):
        (unsent,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4))
        if not unsent:
            return
        pause.wait(0.005)


class ScriptedBackend:
    """Listens on a free port of the loopback interface, or on a UNIX socket, as a context manager.

    Args:
        tls: makes it speak TLS.
        path: of the UNIX socket.
        greeting: sent on each connection before anything is read.

    Attributes:
        script: for each request whose head comes from now on.
        connections: accepted so far.
        faults: what scripts raised.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, path: str = "", greeting: bytes = b"") -> None:
        self.script: Script = answer()
        self.connections = 0
        self._closed: set[int] = set()
        self._changed = threading.Condition()
        self.faults: list[BaseException] = []
        self._received: queue.Queue[Received] = queue.Queue()
        self._last = 0
        self._tls = tls
        self._greeting = greeting
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        # What a script does not read stops the gateway soon: left to itself, the kernel keeps up to 32 MiB of it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 * 1024)
        self._listener.bind(path or ("127.0.0.1", 0))
        self._listener.listen(128)
        self.port: int = 0 if path else self._listener.getsockname()[1]
        self.url = f"unix:{path}" if path else f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop_listening()

    def stop_listening(self) -> None:
        """Accept no more connections; those that are there stay."""
        if self._listener.fileno() >= 0:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()

    def renew(self) -> None:
        """Forget the past: for the next test."""
        self.script = answer()
        self.faults.clear()
        self._received = queue.Queue()
        self._last = 0

    def received(self) -> Received:
        """The next request that has come, or comes; the body is read when the script has done so."""
        received = self._received.get(timeout=TIMEOUT_S)
        self._last = received.connection
        return received

    def has_received(self) -> bool:
        """Whether a request has come that nobody asked for."""
        return not self._received.empty()

    def wait_until_closed(self) -> None:
        """Wait until the connection of a request is over: the one :meth:`received` last, or else the next one."""
        number = self._last or self.received().connection
        self._last = 0
        with self._changed:
            assert self._changed.wait_for(lambda: number in self._closed, TIMEOUT_S), "the connection stays open"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock, self.connections), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            with sock:
                sock.sendall(self._greeting)
                with self._secured(sock) as secured:
                    self._serve_requests(secured, number)
        except (OSError, ConnectionEnded):
            pass  # the other side left, which tests look at from the outside
        except BaseException as exc:  # noqa: BLE001 -- handed to the test's own thread
            self.faults.append(exc)
        finally:
            with self._changed:
                self._closed.add(number)
                self._changed.notify_all()

    def _secured(self, sock: socket.socket) -> Any:
        sock.settimeout(TIMEOUT_S)
        return sock if self._tls is None else self._tls.wrap_socket(sock, server_side=True)

    def _serve_requests(self, sock: socket.socket, number: int) -> None:
        wire = Wire(sock)
        while sock.fileno() >= 0:
            sock.settimeout(None)
            wire.buffer = wire.buffer or sock.recv(65536)
            if not wire.buffer:
                return
            sock.settimeout(TIMEOUT_S)
            line, fields = wire.read_lines()
            method, target, version = line.split(b" ")
            request = Received(method.decode("ascii"), target, version.decode("ascii"), fields, number)
            exchange = Exchange(sock, wire.buffer, request)
            script = self.script
            self._received.put(request)
            script(exchange)
            wire.buffer = exchange.buffer
