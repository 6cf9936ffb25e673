"""Answers by URL and by the fields that they vary with; what was used longest ago goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final, TypeAlias

from attrs import field, frozen

from txgateway.headers import field_values

Key: TypeAlias = tuple[Any, ...]
#: Lowered names of request fields, with their values.
Selecting: TypeAlias = tuple[tuple[bytes, tuple[bytes, ...]], ...]
#: What an entry costs besides its bytes, in bytes.
_OVERHEAD: Final = 500


@frozen
class Stored:
    """An answer.

    Attributes:
        headers: as the backend sent them.
        selecting: what the request for it had in the fields that it varies with.
        born_at: clock seconds; may lie before it came.
        lifetime_s: since then.
        is_shared: it may be given to whoever says who they are.
    """

    headers: tuple[tuple[bytes, bytes, bytes], ...]
    body: bytes = field(repr=False)
    selecting: Selecting
    born_at: float
    lifetime_s: float
    is_shared: bool = field(kw_only=True)


class Store:
    """Bounded in entries and bytes.

    Attributes:
        bytes: what all that is kept takes.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[tuple[Key, Selecting], Stored] = OrderedDict()
        self._variants: dict[Key, dict[Selecting, None]] = {}
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: Key, asked: Any) -> Stored | None:
        """What fits a request with the header list ``asked``."""
        variants = self._variants.get(key)
        if variants is None:
            return None
        names = next(iter(variants))  # they all vary with the same
        selecting = tuple((name, tuple(field_values(asked, name))) for name, _ in names)
        if selecting not in variants:
            return None
        self._entries.move_to_end((key, selecting))
        return self._entries[key, selecting]

    def keep(self, key: Key, stored: Stored) -> None:
        """Put it in place of what it renews; others go until there is room."""
        variants = self._variants.get(key, {})
        if any([name for name, _ in one] != [name for name, _ in stored.selecting] for one in list(variants)[:1]):
            self.drop(key)  # it varies with other fields than before
        self._remove(key, stored.selecting)
        self._variants.setdefault(key, {})[stored.selecting] = None
        self._entries[key, stored.selecting] = stored
        self.bytes += _size(key, stored)
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            self._remove(*next(iter(self._entries)))

    def drop(self, key: Key) -> None:
        """Forget all of a URL."""
        for selecting in list(self._variants.get(key, ())):
            self._remove(key, selecting)

    def _remove(self, key: Key, selecting: Selecting) -> None:
        stored = self._entries.pop((key, selecting), None)
        if stored is None:
            return
        self.bytes -= _size(key, stored)
        del self._variants[key][selecting]
        if not self._variants[key]:
            del self._variants[key]


def _size(key: Key, stored: Stored) -> int:
    """What an entry takes, in bytes; clients say the key and what it varies with."""
    said = sum(len(value) for _, values in stored.selecting for value in values)
    asked = sum(len(part) for part in key if isinstance(part, bytes))
    return (
        _OVERHEAD + len(stored.body) + said + asked + sum(len(name) + len(value) for _, name, value in stored.headers)
    )
