"""What a WebSocket's opening handshake proves (RFC 6455 section 4.2.2)."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Final

WEBSOCKET: Final = b"websocket"
_SALT: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3


def websocket_accept(key: bytes) -> bytes:
    """The ``Sec-WebSocket-Accept`` that answers a ``Sec-WebSocket-Key``."""
    return b64encode(hashlib.sha1(key + _SALT, usedforsecurity=False).digest())
