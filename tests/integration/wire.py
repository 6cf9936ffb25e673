"""A blocking socket that is read piece by piece, and strictly: what is not well-formed HTTP/1.1 fails a test."""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable

#: Bound of every blocking call.
TIMEOUT_S = 10.0

Fields = list[tuple[str, str]]

_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class ConnectionEnded(AssertionError):
    """The connection ended, cleanly or not, before the message did."""


class Wire:
    """One connection, at either end.

    Args:
        sock: connected.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        sock.settimeout(TIMEOUT_S)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    # --- sending and leaving -------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def send_while_taken(self, data: bytes, limit_bytes: int, silence_s: float = 1.0) -> int:
        """Send ``data`` again and again until the other side takes no more for a while; returns the bytes taken."""
        self.socket.settimeout(silence_s)
        sent = 0
        try:
            while sent < limit_bytes:
                sent += self.socket.send(data)
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(TIMEOUT_S)
        return sent

    def close(self) -> None:
        """Leave in good order."""
        self.socket.close()

    def reset(self) -> None:
        """Leave with a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    # --- reading -------------------------------------------------------------------------------------------------

    def read_some(self) -> bytes:
        """What is there next; empty at the end of the connection."""
        if self.buffer:
            data, self.buffer = self.buffer, b""
            return data
        return self.socket.recv(65536)

    def read_exactly(self, count: int) -> bytes:
        """So many bytes."""
        if len(self.buffer) < count:
            pieces, missing = [self.buffer], count - len(self.buffer)
            while missing > 0:
                pieces.append(self._receive())
                missing -= len(pieces[-1])
            self.buffer = b"".join(pieces)
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def read_until(self, mark: bytes) -> bytes:
        """All up to ``mark``, and it."""
        while (at := self.buffer.find(mark)) < 0:
            self.buffer += self._receive()
        return self.read_exactly(at + len(mark))

    def read_to_end(self) -> bytes:
        """All there is until the other side closes in good order."""
        pieces = [self.buffer]
        while data := self.socket.recv(65536):
            pieces.append(data)
        self.buffer = b""
        return b"".join(pieces)

    def is_at_end(self) -> bool:
        """Whether the other side closes in good order, without a further byte."""
        return not self.buffer and self.socket.recv(1) == b""

    def is_cut(self) -> bool:
        """Whether the other side's bytes end with a reset; what comes before it is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionResetError:
            return True
        return False

    def is_gone(self) -> bool:
        """Whether the other side goes away, in whatever way, within the bound; what comes before it is dropped."""
        try:
            while self.socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def _receive(self) -> bytes:
        try:
            data = self.socket.recv(65536)
        except ConnectionError as exc:
            raise ConnectionEnded(f"{exc!r} after {self.buffer[-2000:]!r}") from exc
        if not data:
            raise ConnectionEnded(f"the end after {self.buffer[-2000:]!r}")
        return data

    # --- parts of messages ---------------------------------------------------------------------------------------

    def read_lines(self) -> tuple[bytes, Fields]:
        """A start line and the fields behind it."""
        start = self.read_until(b"\r\n")[:-2]
        return start, self.read_fields()

    def read_fields(self) -> Fields:
        """Field lines, and the empty one behind them."""
        lines = []
        while line := self.read_until(b"\r\n")[:-2]:
            lines.append(line)
        return parse_fields(lines)

    def read_chunk(self) -> bytes:
        """The next chunk; the last one is empty, and its trailers are left to read."""
        size = self.read_until(b"\r\n")[:-2]
        assert _CHUNK_SIZE.fullmatch(size), size
        data = self.read_exactly(int(size, 16))
        if data:
            assert self.read_exactly(2) == b"\r\n"
        return data

    def read_chunks(self) -> tuple[bytes, Fields]:
        """All chunks from here on, and the trailers."""
        pieces = []
        while piece := self.read_chunk():
            pieces.append(piece)
        return b"".join(pieces), self.read_fields()


def parse_fields(lines: Iterable[bytes]) -> Fields:
    """Name and value of each line."""
    fields = []
    for line in lines:
        found = _FIELD_LINE.fullmatch(line)
        assert found is not None, line
        assert found[2] == found[2].strip(b" \t"), line
        fields.append((found[1].decode("ascii"), found[2].decode("latin-1")))
    return fields


def values_of(fields: Fields, name: str) -> list[str]:
    """The values of all fields of this name, whatever its case."""
    return [value for found, value in fields if found.lower() == name.lower()]


def value_of(fields: Fields, name: str) -> str | None:
    """The value of a field that occurs at most once; None if it is not there."""
    values = values_of(fields, name)
    assert len(values) <= 1, f"{name} occurs {len(values)} times"
    return values[0] if values else None
