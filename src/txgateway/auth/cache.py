"""Verified tokens, kept until they expire, so that a signature is verified once and not once a request."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from txgateway.auth.token import VerifiedToken


class TokenCache:
    """The tokens used last, by all of their bytes. Only good ones are kept.

    Args:
        size: the most tokens kept; the one not used for longest makes room. 0 keeps none.
        now: the clock that ``expires_at`` is measured by.
    """

    __slots__ = ("_entries", "_now", "_size")

    def __init__(self, size: int, now: Callable[[], float]) -> None:
        self._entries: OrderedDict[bytes, VerifiedToken] = OrderedDict()
        self._size = size
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
            return None
        self._entries.move_to_end(token)
        return found

    def put(self, token: bytes, verified: VerifiedToken) -> None:
        """Keep a token that has just been verified."""
        entries = self._entries
        entries[token] = verified
        entries.move_to_end(token)
        if len(entries) > self._size:
            entries.popitem(last=False)

    def clear(self) -> None:
        """Forget all: the keys have changed, and a token of a removed one must not live on."""
        self._entries.clear()
