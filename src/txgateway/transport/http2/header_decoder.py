"""The receiving direction of header compression (RFC 7541), which judges each field once (RFC 9113 section 8.2).

What is in the table was judged when it came there; so a message of fields that were sent before costs a look at the table
for each.
"""

from __future__ import annotations

from typing import Any, Final

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from txgateway.transport.http2.floods import TABLE_UPDATE_BYTES
from txgateway.transport.http2.hpack import (
    FIELD_OVERHEAD,
    STATIC_TABLE,
    TABLE_BYTES,
    NeverIndexed,
    read_huffman,
    read_integer,
)
from txgateway.transport.interfaces import Header, HeaderList

#: Blocks that are remembered with what they mean: the longest such block, and what all may take, where each of their
#: fields counts as so many bytes.
MAX_KNOWN_BLOCK_BYTES: Final = 1024
MAX_KNOWN_BYTES: Final = 32 * 1024
_KNOWN_FIELD_BYTES: Final = 128

#: Pseudo-header fields, whose values are the business of who reads the message (RFC 9113 section 8.3, RFC 8441).
PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol", b":status"))
#: Fields of a connection, which HTTP/2 does not know (RFC 9113 section 8.2.2).
CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_LOWER_NAME_BYTES: Final = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
#: RFC 9113 section 8.2.1 forbids NUL, CR and LF; RFC 9110 section 5.5 all controls but tab.
VALUE_BYTES: Final = bytes((9, *range(0x20, 0x7F), *range(0x80, 0x100)))
_BLANK: Final = 0x20


class MalformedField(tuple[bytes, bytes, bytes]):  # noqa: SLOT001 -- tuples can have none
    """A field that makes its message malformed, though the table may get it.

    Attributes:
        problem: a fixed text.
    """

    problem: str


def _judged(name: bytes, value: bytes) -> Header:
    if name.translate(None, _LOWER_NAME_BYTES) or not name:
        if name in PSEUDO:
            return name, name, value
        problem = "field name that is empty or has a letter in upper case, or unknown pseudo-header field"
    elif value and (value[0] <= _BLANK or value[-1] <= _BLANK):
        problem = "blank around a field value"
    elif value.translate(None, VALUE_BYTES):
        problem = "control in a field value"
    elif name in CONNECTION_SPECIFIC:
        problem = "connection-specific field"
    else:
        return name, name, value
    malformed = MalformedField((name, name, value))
    malformed.problem = problem
    return malformed


def _static(name: bytes, value: bytes) -> Header | None:
    field = _judged(name, value)
    return None if field.__class__ is MalformedField else field


#: By index, so that there is no first one; nor one for ``transfer-encoding``, which HTTP/2 does not know.
_STATIC: Final = (None, *(_static(name, value) for name, value in STATIC_TABLE))
_FIRST_DYNAMIC: Final = len(_STATIC)
_LARGEST_STATIC: Final = max(len(name) + len(value) for name, value in STATIC_TABLE) + FIELD_OVERHEAD


class HeaderDecoder:
    """Reads the header blocks of one direction of a connection, in order.

    Args:
        max_list_bytes: of the fields of a block, as RFC 7541 section 4.1 counts them. A block with more ends the
            connection, for it is not read to its end.

    Attributes:
        count: fields of the block that was decoded last.
    """

    __slots__ = (
        "_entries",
        "_has_malformed",
        "_is_lasting",
        "_known",
        "_known_bytes",
        "_largest",
        "_max_fields",
        "_max_list_bytes",
        "_max_table_bytes",
        "_table_bytes",
        "count",
    )

    def __init__(self, max_list_bytes: int) -> None:
        self._max_list_bytes = max_list_bytes
        self._max_fields = max_list_bytes // FIELD_OVERHEAD
        self._entries: list[Header] = []  # of the dynamic table, the newest last
        self._table_bytes = 0
        self._max_table_bytes = TABLE_BYTES
        self._largest = _LARGEST_STATIC
        self._has_malformed = False
        self._is_lasting = False
        self.count = 0
        self._known: dict[bytes, Any] = {}
        self._known_bytes = 0

    def known(self, block: bytes) -> Any:
        """What was remembered of the very same block, if it would be decoded to the same fields now; else None."""
        return self._known.get(block)

    def remember(self, block: bytes, meaning: object) -> None:
        """Keep what the block that was decoded last means, for as long as the table stays as it is."""
        if self._is_lasting and len(block) <= MAX_KNOWN_BLOCK_BYTES:
            self._known_bytes += len(block) + _KNOWN_FIELD_BYTES * self.count
            if self._known_bytes > MAX_KNOWN_BYTES:
                self._forget()  # what comes often is soon known again
            else:
                self._known[block] = meaning

    def _forget(self) -> None:
        self._known.clear()
        self._known_bytes = 0

    def decode(self, block: bytes) -> HeaderList:
        """The fields of a block, pseudo-header fields among them; only a :class:`MalformedField`, if there is one.

        Raises:
            ConnectionFault: COMPRESSION_ERROR, or ENHANCE_YOUR_CALM if it is too large.
        """
        entries = self._entries
        fields: HeaderList = []
        position, size = 0, len(block)
        self._is_lasting = True
        try:
            while position < size:
                first = block[position]
                if first >= 0x80:  # RFC 7541 section 6.1
                    index = first & 0x7F
                    position += 1
                    if index == 0x7F:
                        index, position = read_integer(block, position - 1, 0x7F)
                    field = _STATIC[index] if index < _FIRST_DYNAMIC else entries[_FIRST_DYNAMIC - 1 - index]
                    if field is None:
                        if not index:
                            raise ConnectionFault(COMPRESSION_ERROR, "index 0")
                        self._has_malformed = True
                        field = _judged(*STATIC_TABLE[index - 1])
                elif first & 0xE0 == 0x20:  # section 6.3
                    if fields:
                        raise ConnectionFault(COMPRESSION_ERROR, "table size update behind a field")
                    if position >= TABLE_UPDATE_BYTES:
                        raise ConnectionFault(ENHANCE_YOUR_CALM, "too many table size updates")
                    limit, position = read_integer(block, position, 0x1F)
                    self._resize(limit)
                    continue
                else:
                    field, position = self._literal(block, position, first)
                fields.append(field)
                if len(fields) > self._max_fields:
                    raise ConnectionFault(ENHANCE_YOUR_CALM, "too many header fields")
        except IndexError:
            raise ConnectionFault(
                COMPRESSION_ERROR, "index that is not in the table, or header block cut short"
            ) from None
        return self._checked(fields)

    def _checked(self, fields: HeaderList) -> HeaderList:
        self.count = len(fields)
        # Looked at exactly only if it may be too much.
        if len(fields) * self._largest > self._max_list_bytes and sum(map(_size, fields)) > self._max_list_bytes:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "header list too large")
        if self._has_malformed:
            for field in fields:
                if field.__class__ is MalformedField:
                    return [field]
        return fields

    def _literal(self, block: bytes, position: int, first: int) -> tuple[Header, int]:
        """A field that is not in the table (RFC 7541 section 6.2), and where it ends."""
        is_indexed = first >= 0x40
        mask = 0x3F if is_indexed else 0x0F
        index = first & mask
        if index == mask:
            index, position = read_integer(block, position, mask)
        else:
            position += 1
        if not index:
            name, position = _string(block, position)
        elif index < _FIRST_DYNAMIC:
            name = STATIC_TABLE[index - 1][0]
        else:
            name = self._entries[_FIRST_DYNAMIC - 1 - index][0]
        value, position = _string(block, position)
        field = _judged(name, value)
        if field.__class__ is MalformedField:
            self._has_malformed = True
        elif first & 0xF0 == 0x10:
            field = NeverIndexed(field)
        size = _size(field)
        self._largest = max(self._largest, size)
        if is_indexed:
            self._table_bytes += size
            self._entries.append(field)
            self._evict()
        return field, position

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise ConnectionFault(COMPRESSION_ERROR, "table larger than it may be")
        self._max_table_bytes = limit
        self._evict()

    def _evict(self) -> None:
        """RFC 7541 sections 4.3 and 4.4; a field that is larger than the table leaves nothing there."""
        self._is_lasting = False
        self._forget()
        entries = self._entries
        count = 0
        while self._table_bytes > self._max_table_bytes:
            self._table_bytes -= _size(entries[count])
            count += 1
        if count:
            del entries[:count]


def _size(field: Header) -> int:
    return len(field[0]) + len(field[2]) + FIELD_OVERHEAD


def _string(block: bytes, position: int) -> tuple[bytes, int]:
    """A string literal (RFC 7541 section 5.2), and where it ends."""
    begin = position
    first = block[position]
    length = first & 0x7F
    if length == 0x7F:
        length, position = read_integer(block, position, 0x7F)
    else:
        position += 1
    end = position + length
    if end > len(block):
        raise ConnectionFault(COMPRESSION_ERROR, "header block cut short")
    text = block[position:end]
    return (read_huffman(block[begin:end], text) if first >= 0x80 else text), end
