"""Header compression (RFC 7541): jh2's codec, which is written in Rust, behind the checks that it does not make.

The only import of it. Its decoder panics on a literal that is cut short, and takes table size updates behind fields
and Huffman padding that RFC 7541 sections 4.2 and 5.2 forbid; so the structure of a block is walked first.
"""

from __future__ import annotations

from typing import Any, Final

from jh2._hazmat import Decoder, Encoder, OversizedHeaderListError  # type: ignore[import-untyped]
from jh2.hpack.huffman_constants import REQUEST_CODES_LENGTH  # type: ignore[import-untyped]

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault

#: A field as it is encoded: lowered name, value, and whether no table may ever have it (RFC 7541 section 7.1.3).
EncodedField = tuple[bytes, bytes, bool]

#: Fields that are secret, or different in every message: in a table they would displace what is worth being there.
NEVER_INDEXED: Final = frozenset(
    {
        b"authorization", b"content-length", b"cookie", b"etag", b"if-none-match", b"location", b"ratelimit",
        b"server-timing", b"set-cookie", b"traceparent", b"tracestate", b"x-ratelimit-remaining", b"x-ratelimit-reset",
        b"x-request-id",
    }
)  # fmt: skip

#: Blocks that are remembered with what they mean, and the longest such block.
MAX_KNOWN_BLOCKS: Final = 64
MAX_KNOWN_BLOCK_BYTES: Final = 256

#: What a field counts for in a list's size beside its bytes (RFC 7541 section 4.1), which jh2 leaves out.
FIELD_OVERHEAD: Final = 32
#: Indexed fields of one byte each: nothing to check, and the table stays as it is.
_SHORT_INDEXES: Final = bytes(range(0x81, 0xFF))
_CODE_BITS: Final = bytes(REQUEST_CODES_LENGTH[:256])
_MAX_SHIFT: Final = 21  # integers of up to 2**28, more than any limit of ours


class HeaderDecoder:
    """Reads the header blocks of one direction of a connection, in order.

    Args:
        max_list_bytes: of the fields of a block, as RFC 7541 section 4.1 counts them. A block with more ends the
            connection, for it is not read to its end.
    """

    __slots__ = ("_decoder", "_is_lasting", "_known", "_max_list_bytes")

    def __init__(self, max_list_bytes: int) -> None:
        self._decoder = Decoder(max_list_bytes)
        self._max_list_bytes = max_list_bytes
        self._known: dict[bytes, Any] = {}
        self._is_lasting = False

    def known(self, block: bytes) -> Any:
        """What was remembered of the very same block, if it would be decoded to the same fields now; else None."""
        return self._known.get(block)

    def remember(self, block: bytes, meaning: object) -> None:
        """Keep what the block that was decoded last means, for as long as the table stays as it is."""
        if self._is_lasting and len(block) <= MAX_KNOWN_BLOCK_BYTES and len(self._known) < MAX_KNOWN_BLOCKS:
            self._known[block] = meaning

    def decode(self, block: bytes) -> list[EncodedField]:
        """The fields of a block.

        Raises:
            ConnectionFault: COMPRESSION_ERROR, or ENHANCE_YOUR_CALM if it is too large.
        """
        strings: list[tuple[int, int, int, int]] = []
        self._is_lasting = True
        count = len(block)
        if block.translate(None, _SHORT_INDEXES):
            strings, count, self._is_lasting = _walk(block, self._max_list_bytes // FIELD_OVERHEAD)
            if not self._is_lasting:
                self._known.clear()
        left = self._max_list_bytes - FIELD_OVERHEAD * count
        if left < 0:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many header fields")
        self._decoder.max_header_list_size = left + 1  # jh2 takes less than that
        try:
            fields = self._decoder.decode(block, True)
        except OversizedHeaderListError:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "header list too large") from None
        except BaseException as exc:  # a panic of the codec is one
            raise ConnectionFault(COMPRESSION_ERROR, "malformed header block") from exc
        for field, part, start, end in strings:
            _check_huffman(fields[field][part], block[start:end])
        return fields  # type: ignore[no-any-return]


def _walk(block: bytes, max_fields: int) -> tuple[list[tuple[int, int, int, int]], int, bool]:
    """Check a block's structure, as far as it has no more fields than there may be.

    Returns:
        its Huffman-coded strings, each as the index of its field, 0 for a name or 1 for a value, start and end; the
        number of fields; and whether the table stays as it is.
    """
    strings = []
    is_lasting = True
    position = field = 0
    size = len(block)
    while position < size and field <= max_fields:
        first = block[position]
        if first >= 0x80:
            _, position = _integer(block, position, 0x7F)
        elif first & 0xE0 == 0x20:
            if field:
                raise ConnectionFault(COMPRESSION_ERROR, "table size update behind a field")
            _, position = _integer(block, position, 0x1F)
            is_lasting = False
            continue
        else:
            is_lasting = is_lasting and first < 0x40
            index, position = _integer(block, position, 0x3F if first >= 0x40 else 0x0F)
            for part in (1,) if index else (0, 1):
                is_huffman = position < size and block[position] >= 0x80
                length, position = _integer(block, position, 0x7F)
                if position + length > size:
                    raise ConnectionFault(COMPRESSION_ERROR, "header block cut short")
                if is_huffman:
                    strings.append((field, part, position, position + length))
                position += length
        field += 1
    return strings, field, is_lasting


def _integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """An integer of RFC 7541 section 5.1, and where it ends."""
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


def _check_huffman(text: bytes, code: bytes) -> None:
    """Whether ``code`` is ``text`` and less than a byte of ones (RFC 7541 section 5.2)."""
    padding = 8 * len(code) - sum(text.translate(_CODE_BITS))
    ones = (1 << padding) - 1 if 0 <= padding < 8 else -1
    if ones < 0 or (ones and code[-1] & ones != ones):
        raise ConnectionFault(COMPRESSION_ERROR, "malformed Huffman code")


class HeaderEncoder:
    """Writes the header blocks of one direction of a connection, in the order in which they are sent."""

    __slots__ = ("_encoder", "_has_new_size", "_table_size")

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._table_size: int = self._encoder.header_table_size
        self._has_new_size = False

    def encode(self, fields: list[EncodedField]) -> bytes:
        """A block of these fields."""
        if self._has_new_size:
            self._has_new_size = False
            self._encoder.header_table_size = self._table_size
        return self._encoder.encode(fields, True)  # type: ignore[no-any-return]

    def limit_table(self, size: int) -> None:
        """The peer keeps a table of so many bytes; a smaller one of ours never grows again, which is always allowed."""
        if size <= self._table_size:  # the next block says the smallest only: the peer takes no larger one any more
            self._table_size = size
            self._has_new_size = True
