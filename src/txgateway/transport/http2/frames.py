"""Frames as bytes (RFC 9113 section 4 and 6). No state here."""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from txgateway.transport.http2.codes import FRAME_SIZE_ERROR, PROTOCOL_ERROR, ConnectionFault

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6
ENABLE_CONNECT_PROTOCOL: Final = 0x8  # RFC 8441 section 3
NO_RFC7540_PRIORITIES: Final = 0x9  # RFC 9218 section 2.1

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
#: Largest payload that we take, which is the least that everybody has to; and windows before anybody says otherwise.
FRAME_BYTES: Final = 2**14
DEFAULT_WINDOW: Final = 2**16 - 1
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM_ID: Final = 2**31 - 1

HEADER_BYTES: Final = 9
#: Length (its upper 8 and lower 16 bits), type, flags, stream.
_HEADER: Final = Struct(">BHBBI")
read_header = _HEADER.unpack_from
_NUMBER: Final = Struct(">I")
_SETTING: Final = Struct(">HI")
_GOAWAY: Final = Struct(">II")


def frame_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The nine bytes before a payload."""
    return _HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream_id)


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """SETTINGS with these identifiers and values."""
    payload = b"".join(_SETTING.pack(*setting) for setting in settings)
    return frame_header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK: Final = frame_header(0, SETTINGS, ACK, 0)


def read_settings(payload: bytes) -> Iterable[tuple[int, int]]:
    """The identifiers and values of a SETTINGS payload, whose length is a multiple of six."""
    return _SETTING.iter_unpack(payload)


def number(payload: bytes) -> int:
    """The four bytes of a RST_STREAM or WINDOW_UPDATE payload, or the first four of another."""
    value: int = _NUMBER.unpack_from(payload)[0]
    return value


def ping_frame(opaque: bytes, flags: int = 0) -> bytes:
    """PING with eight bytes."""
    return frame_header(8, PING, flags, 0) + opaque


def reset_frame(stream_id: int, code: int) -> bytes:
    """RST_STREAM."""
    return frame_header(4, RST_STREAM, 0, stream_id) + _NUMBER.pack(code)


def window_frame(stream_id: int, increment: int) -> bytes:
    """WINDOW_UPDATE, of the connection's window with stream 0."""
    return frame_header(4, WINDOW_UPDATE, 0, stream_id) + _NUMBER.pack(increment)


def goaway_frame(last_stream_id: int, code: int, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return frame_header(8 + len(debug), GOAWAY, 0, 0) + _GOAWAY.pack(last_stream_id, code) + debug


def read_goaway(payload: bytes) -> tuple[int, int]:
    """The last stream and the code of a GOAWAY payload of at least eight bytes."""
    last, code = _GOAWAY.unpack_from(payload)
    return last & MAX_STREAM_ID, code


def unpadded(flags: int, payload: bytes) -> bytes:
    """A payload of DATA or HEADERS without its padding (RFC 9113 section 6.1)."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ConnectionFault(FRAME_SIZE_ERROR, "padding without its length")  # RFC 9113 section 4.2
    if payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "more padding than payload")
    return payload[1 : len(payload) - payload[0]]
