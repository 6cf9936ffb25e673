"""What was sent of a request's body, kept so that it can be sent once more."""

from __future__ import annotations

from txgateway.transport.interfaces import HeaderList


class SentBody:
    """Keeps a body up to a limit.

    Args:
        limit: most bytes that are kept; with more it can not be sent again.

    Attributes:
        is_whole: all that was sent is here.
        trailers: what followed the body, once it has ended.
    """

    __slots__ = ("_limit", "_pieces", "_size", "is_whole", "trailers")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0
        self.is_whole = True
        self.trailers: HeaderList = []

    def add(self, data: bytes, *, is_unsent: bool = False) -> None:
        """Some of the body goes out; or was received while nobody takes it, and must not be lost."""
        if not self.is_whole:
            return
        self._size += len(data)
        if self._size > self._limit and not is_unsent:
            self.is_whole = False
            self._pieces.clear()
        else:
            self._pieces.append(data)

    def join(self) -> bytes:
        """All of it."""
        return b"".join(self._pieces)
