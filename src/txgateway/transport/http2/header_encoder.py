"""The sending direction of header compression (RFC 7541)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from txgateway.transport.http2.hpack import STATIC_TABLE, LibraryEncoder, NeverIndexed, write_integer
from txgateway.transport.interfaces import Header

#: Fields that are secret (RFC 7541 section 7.1.3), and others that are different in most messages: in a table they would
#: displace what is worth being there.
SECRET: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))
NOT_IN_TABLE: Final = SECRET | {
    b":path", b"age", b"content-length", b"etag", b"if-modified-since", b"if-none-match", b"last-modified", b"location",
    b"ratelimit", b"server-timing", b"traceparent", b"tracestate", b"x-ratelimit-remaining", b"x-ratelimit-reset",
    b"x-request-id",
}  # fmt: skip

#: Fields of which it is remembered that they are in the table, and where.
MAX_KNOWN_FIELDS: Final = 256

#: How often in a row a field has another value until it is kept out of the table; and of how many names that is known.
MAX_CHANGES: Final = 16
MAX_NAMES: Final = 64

#: Where names are in the static table.
_STATIC_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(STATIC_TABLE, 1)))}
#: Blocks of indexed fields of one byte each: the table stays as it is.
_SHORT_INDEXES: Final = bytes(range(0x81, 0xFF))
_ONE_BYTE: Final = tuple(bytes((number,)) for number in range(256))
_LAST_SHORT: Final = 0x7E  # largest length that fits into the byte which says that there is no Huffman code


def _literal_begin(name: bytes, *, is_secret: bool) -> bytes:
    """A literal field that no table gets, as far as its value."""
    flags = 0x10 if is_secret else 0x00  # never indexed, also not by who passes it on; or just not by us
    index = _STATIC_NAMES.get(name, 0)
    begin = write_integer(index, 0x0F, flags)
    return begin if index else begin + write_integer(len(name), 0x7F, 0) + name


_LITERALS: Final = {name: _literal_begin(name, is_secret=name in SECRET) for name in NOT_IN_TABLE}


class HeaderEncoder:
    """Writes the header blocks of one direction of a connection, in the order in which they are sent.

    Fields come as header lists have them, pseudo-header fields in the same way; the name as received does not matter.
    What is in the table already, and what never goes there, is put together here; only the rest is the library's. What
    turns out to be different in each message, like some trace's id, is kept out of the table from then on.
    """

    __slots__ = ("_changing", "_encoder", "_has_new_limit", "_known", "_seen", "_table_bytes")

    def __init__(self) -> None:
        self._encoder = LibraryEncoder()
        self._table_bytes: int = self._encoder.header_table_size
        self._has_new_limit = False
        self._known: dict[Header, bytes] = {}  # what is in the table, as long as it stays as it is
        self._seen: dict[bytes, tuple[int, int]] = {}  # by name, hash of the last value, and changes in a row
        self._changing: dict[bytes, bytes] = {}  # how the fields begin that have changed too often

    def encode(self, fields: Sequence[Header]) -> bytes:
        """A block of these fields."""
        if self._has_new_limit:
            return self._encode_unknown(fields)
        known = self._known
        parts = []
        for field in fields:
            code = known.get(field) if field.__class__ is tuple else None  # others may be NeverIndexed
            if code is None:
                begin = self._begin_of(field)
                if begin is None:
                    return self._encode_unknown(fields)
                value = field[2]
                size = len(value)
                code = begin + (_ONE_BYTE[size] if size <= _LAST_SHORT else write_integer(size, 0x7F, 0)) + value
            parts.append(code)
        return b"".join(parts)

    def _encode_unknown(self, fields: Sequence[Header]) -> bytes:
        """The same, if some field is not known to be in the table."""
        parts = []
        if self._has_new_limit:
            self._has_new_limit = False
            self._encoder.header_table_size = self._table_bytes
            self._known.clear()
            parts.append(self._encoder.encode([], True))
        run: list[Header] = []
        for field in fields:
            begin = self._begin_of(field)
            if begin is None:
                run.append(field)
                continue
            if run:
                parts.append(self._encode_run(run))
                run = []
            parts.append(begin + write_integer(len(field[2]), 0x7F, 0) + field[2])
        if run:
            parts.append(self._encode_run(run))
        return b"".join(parts)

    def _begin_of(self, field: Header) -> bytes | None:
        """How a field begins that is to be a literal, or None."""
        if field.__class__ is NeverIndexed:
            return _literal_begin(field[0], is_secret=True)
        return _LITERALS.get(field[0]) or self._changing.get(field[0])

    def _encode_run(self, run: list[Header]) -> bytes:
        self._notice(run)
        block: bytes = self._encoder.encode([(name, value, False) for name, _, value in run], True)
        if block.translate(None, _SHORT_INDEXES):  # the table is another one now
            self._known.clear()
            return block
        if len(self._known) >= MAX_KNOWN_FIELDS:
            self._known.clear()
        self._known.update(zip(run, [_ONE_BYTE[index] for index in block], strict=True))
        return block

    def _notice(self, run: list[Header]) -> None:
        """Look which fields are other ones each time."""
        seen = self._seen
        for name, value in {field[0]: hash(field[2]) for field in run}.items():
            before, changes = seen.get(name, (value, 0))
            changes = 0 if before == value else changes + 1
            if changes >= MAX_CHANGES:
                del seen[name]
                self._changing[name] = _literal_begin(name, is_secret=False)
            elif name in seen or len(seen) + len(self._changing) < MAX_NAMES:
                seen[name] = (value, changes)

    def limit_table(self, table_bytes: int) -> None:
        """The peer keeps a table of so many bytes; a smaller one of ours never grows again, which is always allowed."""
        if (
            table_bytes <= self._table_bytes
        ):  # the next block says the smallest only: the peer takes no larger one any more
            self._table_bytes = table_bytes
            self._has_new_limit = True
