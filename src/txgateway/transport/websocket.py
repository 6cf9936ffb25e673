"""WebSockets, as far as a proxy has to know them: what the handshake proves, and where frames end (RFC 6455)."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Final

WEBSOCKET: Final = b"websocket"
_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def websocket_accept(key: bytes) -> bytes:
    """The ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    return b64encode(hashlib.sha1(key + _SALT, usedforsecurity=False).digest())


#: A server's Close frame: 1001, going away (RFC 6455 section 7.4.1).
CLOSE_GOING_AWAY: Final = b"\x88\x02\x03\xe9"

_HEADER_BYTES: Final = 2
_MASK_BYTES: Final = 4
#: Further bytes of the length, by the seven bits that are its first (RFC 6455 section 5.2).
_LENGTH_BYTES: Final = {126: 2, 127: 8}


class FrameBoundaries:
    """Follows one direction of a WebSocket, and knows whether a frame is under way.

    Attributes:
        is_between: what was passed over ends with a frame.
    """

    __slots__ = ("_header", "_left", "is_between")

    def __init__(self) -> None:
        self.is_between = True
        self._header = b""
        self._left = 0

    def pass_over(self, data: bytes) -> int:
        """Follow on.

        Returns:
            where in ``data`` the first frame ends that ends there, or -1.
        """
        position, size, first = 0, len(data), -1
        while position < size:
            if self._left:
                step = min(self._left, size - position)
                self._left -= step
                position += step
            else:
                self._header += data[position : position + 1]
                position += 1
                if not self._is_complete():
                    self.is_between = False
                    continue
            self.is_between = not self._left
            if self.is_between and first < 0:
                first = position
        return first

    def _is_complete(self) -> bool:
        """Whether the header is, whose payload is what is left then."""
        header = self._header
        if len(header) < _HEADER_BYTES:
            return False
        short = header[1] & 0x7F
        length_end = _HEADER_BYTES + _LENGTH_BYTES.get(short, 0)
        if len(header) < length_end + (_MASK_BYTES if header[1] & 0x80 else 0):
            return False
        self._left = int.from_bytes(header[_HEADER_BYTES:length_end], "big") if short > 125 else short
        self._header = b""
        return True
