"""The body of a message of HTTP/1.1, read piece by piece at either end of a connection."""

from __future__ import annotations

from tests.integration.wire import Fields, Wire, value_of, values_of


class Body:
    """The body of a message of HTTP/1.1, piece by piece.

    Args:
        wire: where it comes.
        fields: of its head, which frame it.
        is_empty: it has none, whatever the fields say.
        is_raw: all there is until the end of the connection.

    Attributes:
        taken: what was read so far.
        is_over: nothing more of it is to come.
    """

    def __init__(self, wire: Wire, fields: Fields, *, is_empty: bool = False, is_raw: bool = False) -> None:
        self._wire = wire
        self._is_chunked = bool(values_of(fields, "Transfer-Encoding"))
        length = value_of(fields, "Content-Length")
        assert not self._is_chunked or length is None, "both lengths"
        self._is_raw = is_raw
        self._left = int(length or 0)
        self.taken = b""
        self.trailers: Fields = []
        self.is_over = not is_raw and (is_empty or not (self._is_chunked or self._left))
        self._given = 0

    def piece(self) -> bytes:
        """What comes next of it; empty at the end."""
        if self.is_over:
            return b""
        if self._is_raw:
            piece = self._wire.read_some()
            self.is_over = not piece
        elif self._is_chunked:
            piece = self._wire.read_chunk()
            if not piece:
                self.trailers, self.is_over = self._wire.read_fields(), True
        else:
            piece = self._wire.read_exactly(min(self._left, max(1, len(self._wire.buffer))))
            self._left -= len(piece)
            self.is_over = not self._left
        return piece

    def read(self, count: int) -> bytes:
        """The next so many bytes."""
        pieces, size = [self.taken], len(self.taken)
        while size < self._given + count:
            pieces.append(self.piece())
            size += len(pieces[-1])
            assert pieces[-1], f"the end instead of {count} bytes"
        self.taken = b"".join(pieces)
        self._given += count
        return self.taken[self._given - count : self._given]

    def rest(self) -> bytes:
        """All of it, with what was read before."""
        pieces = [self.taken]
        while piece := self.piece():
            pieces.append(piece)
        self.taken = b"".join(pieces)
        return self.taken
