"""What both directions of header compression have in common (RFC 7541), and the only import of the codec.

That is jh2's, which is written in Rust: its encoder, and its decoder for Huffman codes.
"""

from __future__ import annotations

from typing import Final

from jh2._hazmat import Decoder as LibraryDecoder  # type: ignore[import-untyped]
from jh2._hazmat import Encoder as LibraryEncoder
from jh2.hpack.huffman_constants import REQUEST_CODES_LENGTH  # type: ignore[import-untyped]

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ConnectionFault

__all__ = [
    "FIELD_OVERHEAD",
    "STATIC_TABLE",
    "TABLE_BYTES",
    "LibraryEncoder",
    "NeverIndexed",
    "read_huffman",
    "read_integer",
    "write_integer",
]

#: The static table (RFC 7541 appendix A); there is no index 0.
STATIC_TABLE: Final = (
    (b":authority", b""), (b":method", b"GET"), (b":method", b"POST"), (b":path", b"/"), (b":path", b"/index.html"),
    (b":scheme", b"http"), (b":scheme", b"https"), (b":status", b"200"), (b":status", b"204"), (b":status", b"206"),
    (b":status", b"304"), (b":status", b"400"), (b":status", b"404"), (b":status", b"500"), (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"), (b"accept-language", b""), (b"accept-ranges", b""), (b"accept", b""),
    (b"access-control-allow-origin", b""), (b"age", b""), (b"allow", b""), (b"authorization", b""),
    (b"cache-control", b""), (b"content-disposition", b""), (b"content-encoding", b""), (b"content-language", b""),
    (b"content-length", b""), (b"content-location", b""), (b"content-range", b""), (b"content-type", b""),
    (b"cookie", b""), (b"date", b""), (b"etag", b""), (b"expect", b""), (b"expires", b""), (b"from", b""),
    (b"host", b""), (b"if-match", b""), (b"if-modified-since", b""), (b"if-none-match", b""), (b"if-range", b""),
    (b"if-unmodified-since", b""), (b"last-modified", b""), (b"link", b""), (b"location", b""), (b"max-forwards", b""),
    (b"proxy-authenticate", b""), (b"proxy-authorization", b""), (b"range", b""), (b"referer", b""), (b"refresh", b""),
    (b"retry-after", b""), (b"server", b""), (b"set-cookie", b""), (b"strict-transport-security", b""),
    (b"transfer-encoding", b""), (b"user-agent", b""), (b"vary", b""), (b"via", b""), (b"www-authenticate", b""),
)  # fmt: skip
#: Bytes of a table, as section 4.1 counts them, as long as nobody has said otherwise; and what each field counts for
#: beside its own.
TABLE_BYTES: Final = 4096
FIELD_OVERHEAD: Final = 32

_CODE_BITS: Final = bytes(REQUEST_CODES_LENGTH[:256])
_MAX_SHIFT: Final = 21  # integers of up to 2**28, more than any limit of ours
_LARGEST_LIST: Final = 2**31  # blocks are bounded before
_huffman: Final = LibraryDecoder(_LARGEST_LIST)


class NeverIndexed(tuple[bytes, bytes, bytes]):
    """A field of a header list that came as one which no table may ever have (RFC 7541 section 6.2.3)."""

    __slots__ = ()


def read_integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer (RFC 7541 section 5.1), and where it ends.

    Args:
        mask: of the bits of its first byte.

    Raises:
        ConnectionFault: COMPRESSION_ERROR.
    """
    try:
        value = block[position] & mask
        position += 1
        if value < mask:
            return value, position
        for shift in range(0, _MAX_SHIFT + 7, 7):
            byte = block[position]
            position += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
    except IndexError:
        raise ConnectionFault(COMPRESSION_ERROR, "header block cut short") from None
    raise ConnectionFault(COMPRESSION_ERROR, "integer too large")


def write_integer(value: int, mask: int, flags: int) -> bytes:
    """An integer, which has the bits of ``mask`` in its first byte, beside ``flags`` (RFC 7541 section 5.1)."""
    if value < mask:
        return bytes((flags | value,))
    rest = bytearray((flags | mask,))
    value -= mask
    while value > 0x7F:
        rest.append(value & 0x7F | 0x80)
        value >>= 7
    rest.append(value)
    return bytes(rest)


def read_huffman(string: bytes, code: bytes) -> bytes:
    """What a Huffman code stands for.

    Args:
        string: with its length, as it stands in a block (RFC 7541 section 5.2).
        code: without.

    Raises:
        ConnectionFault: COMPRESSION_ERROR.
    """
    try:
        text: bytes = _huffman.decode(b"\x00\x01x" + string, True)[0][1]
    except BaseException as exc:  # a panic of the codec is one
        raise ConnectionFault(COMPRESSION_ERROR, "malformed Huffman code") from exc
    padding = 8 * len(code) - sum(text.translate(_CODE_BITS))  # less than a byte of ones, which the codec leaves to us
    ones = (1 << padding) - 1 if 0 <= padding < 8 else -1
    if ones < 0 or (ones and code[-1] & ones != ones):
        raise ConnectionFault(COMPRESSION_ERROR, "malformed Huffman code")
    return text
