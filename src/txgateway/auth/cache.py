"""Verified tokens, kept until they expire, so that a signature is verified once and not once a request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from txgateway.auth.token import VerifiedToken

#: Bytes of all tokens together; what was read of a token takes several times its bytes.
MAX_CACHED_BYTES: Final = 16 * 2**20


class TokenCache:
    """The tokens used last, by all of their bytes; at most :data:`MAX_CACHED_BYTES` of them. Only good ones are kept.

    Args:
        size: the most tokens kept; the one not used for longest makes room. 0 keeps none.
        now: the clock that ``expires_at`` is measured by.
    """

    __slots__ = ("_bytes", "_entries", "_now", "_size")

    def __init__(self, size: int, now: Callable[[], float]) -> None:
        self._entries: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._size = size
        self._bytes = 0
        self._now = now

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, token: bytes) -> VerifiedToken | None:
        """What the token said when it was verified, or None if it is not known or has expired since."""
        found = self._entries.get(token)
        if found is None:
            return None
        if self._now() >= found.expires_at:
            del self._entries[token]
            self._bytes -= len(token)
            return None
        self._entries.move_to_end(token)
        return found

    def put(self, token: bytes, verified: VerifiedToken) -> None:
        """Keep a token that has just been verified."""
        entries = self._entries
        if token not in entries:
            self._bytes += len(token)
        entries[token] = verified
        entries.move_to_end(token)
        while len(entries) > self._size or self._bytes > MAX_CACHED_BYTES:
            oldest, _ = entries.popitem(last=False)
            self._bytes -= len(oldest)

    def clear(self) -> None:
        """Forget all: the keys have changed, and a token of a removed one must not live on."""
        self._entries.clear()
        self._bytes = 0
