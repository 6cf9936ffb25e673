"""A client whose downloads over HTTP/2 stand still: many streams of one connection, none of which is granted a window."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.processes import BenchError, unverified_context

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 7, 8
END_STREAM, END_HEADERS, ACK = 1, 4, 1
MAX_CONCURRENT_STREAMS = 3
#: What each stream may send without a word from us (RFC 9113 section 6.9.2).
FIRST_WINDOW_BYTES = 65_535
#: On the connection there is room for all, so that it is the streams that stand still.
CONNECTION_WINDOW_BYTES = 2**30
#: Nothing comes for so long: they all stand still.
SILENCE_S = 2.0
TIMEOUT_S = 30.0


@contextmanager
def stalled_streams(port: int, streams: int, path: str) -> Iterator[int]:
    """Ask for ``path`` on so many streams of one connection over TLS, and wait until nothing comes any more.

    Yields the number of body bytes that came.

    Raises:
        BenchError: the server does not take so many streams, or one of them ended.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain:
        connection = unverified_context("h2").wrap_socket(plain)
        if connection.selected_alpn_protocol() != "h2":
            raise BenchError(f"port {port} does not speak HTTP/2")
        connection.sendall(
            PREFACE + _frame(SETTINGS) + _frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", CONNECTION_WINDOW_BYTES))
        )
        reader = _Reader(connection)
        if reader.limit(time.monotonic() + TIMEOUT_S) < streams:
            raise BenchError(f"the server takes only {reader.max_streams} streams")
        connection.sendall(_frame(SETTINGS, ACK))
        block = _block(path)
        for number in range(streams):
            connection.sendall(_frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, block))
        try:
            reader.read_until_silence(streams)
            yield reader.body_bytes
        finally:
            connection.close()


def _frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _block(path: str) -> bytes:
    """The header section of a GET: GET and https of the static table, two literals that are not remembered (RFC 7541)."""
    authority = b"bench.example"
    return b"\x82\x87" + b"\x01" + _literal(authority) + b"\x04" + _literal(path.encode("ascii"))


def _literal(value: bytes) -> bytes:
    if len(value) > 126:
        raise ValueError("too long for one octet of length")
    return bytes((len(value),)) + value


class _Reader:
    """What the server sends: of bodies only the length is kept."""

    def __init__(self, connection: socket.socket) -> None:
        self.body_bytes = 0
        self.max_streams = 0
        self._answered: set[int] = set()
        self._has_settings = False
        self._connection = connection
        self._buffer = b""

    def limit(self, deadline: float) -> int:
        """How many streams the server takes, once its SETTINGS have come."""
        while not self._has_settings:
            if time.monotonic() > deadline or not self._read():
                raise BenchError("no SETTINGS")
        return self.max_streams

    def read_until_silence(self, streams: int) -> None:
        """Read as fast as it comes."""
        self._connection.settimeout(SILENCE_S)
        deadline = time.monotonic() + TIMEOUT_S * 10
        while self._read():
            if time.monotonic() > deadline:
                raise BenchError("the streams do not stand still")
        if len(self._answered) != streams:
            raise BenchError(f"of {streams} streams {len(self._answered)} were answered")

    def _read(self) -> bool:
        try:
            data = self._connection.recv(262_144)
        except TimeoutError:
            return False
        except OSError as exc:
            raise BenchError(f"the connection failed: {exc!r}") from exc
        if not data:
            raise BenchError("the server closed the connection")
        self._buffer += data
        at = 0
        while len(self._buffer) - at >= 9:
            end = at + 9 + int.from_bytes(self._buffer[at : at + 3], "big")
            if end > len(self._buffer):
                break
            self._on_frame(self._buffer[at + 3], self._buffer[at + 4], self._buffer[at + 5 : at + 9], at + 9, end)
            at = end
        self._buffer = self._buffer[at:]
        return True

    def _on_frame(self, kind: int, flags: int, stream: bytes, start: int, end: int) -> None:
        if kind in {RST_STREAM, GOAWAY} or (kind in {DATA, HEADERS} and flags & END_STREAM):
            raise BenchError(f"a stream ended: frame of type {kind}, {self._buffer[start : start + 200]!r}")
        if kind == DATA:
            self.body_bytes += end - start
        elif kind == HEADERS:
            self._answered.add(int.from_bytes(stream, "big"))
        elif kind == SETTINGS and not flags & ACK:
            settings = dict(struct.iter_unpack("!HI", self._buffer[start:end]))
            self.max_streams = settings.get(MAX_CONCURRENT_STREAMS, 2**31)
            self._has_settings = True
