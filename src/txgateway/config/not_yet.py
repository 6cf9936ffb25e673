"""What can be configured but is not built yet: the one table to delete names from.

A name is a key as the document and :func:`txgateway.config.settings.variable_name` have it; a group's name stands
for all keys in it. Only what is set explicitly counts, and only if it asks for anything.
"""

from __future__ import annotations

from typing import Final

#: Set, these have no effect, and a warning says so.
WITHOUT_EFFECT: Final = frozenset({
    "middlewares",
})  # fmt: skip

#: Values that ask for no more than what the gateway does anyway, besides empty ones.
_ASKS_FOR_NOTHING: Final[dict[str, object]] = {}

WARNING: Final = "this version does not implement it yet; it has no effect"


def is_without_effect(key: str, value: object) -> bool:
    """Whether setting ``key`` (with dots) to ``value`` is worth a warning."""
    return _is_in(WITHOUT_EFFECT, key) and not _asks_for_nothing(key, value)


def _is_in(names: frozenset[str], key: str) -> bool:
    return key in names or key.partition(".")[0] in names


def _asks_for_nothing(key: str, value: object) -> bool:
    return value in (None, (), "") or _ASKS_FOR_NOTHING.get(key, ...) == value
