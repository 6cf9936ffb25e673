"""What can be configured but is not built yet: the one table to delete names from.

A name is a key as the document and :func:`txgateway.config.settings.variable_name` have it; a group's name stands
for all keys in it. Only what is set explicitly counts, and only if it asks for anything.
"""

from __future__ import annotations

from typing import Final

#: Set, these have no effect, and a warning says so.
WITHOUT_EFFECT: Final = frozenset({
    "http2", "middlewares", "workers",
})  # fmt: skip

#: Set, these are refused: traffic would be less protected, or go elsewhere, than they say.
REFUSED: Final[frozenset[str]] = frozenset()

#: Target schemes that are refused as well.
REFUSED_SCHEMES: Final = frozenset({"h2c"})

#: Values that ask for no more than what the gateway does anyway, besides empty ones.
_ASKS_FOR_NOTHING: Final[dict[str, object]] = {
    "http2": False, "workers": 1,
}  # fmt: skip

WARNING: Final = "this version does not implement it yet; it has no effect"
REFUSAL: Final = "this version does not implement it yet, and does not run as if it did"


def is_without_effect(key: str, value: object) -> bool:
    """Whether setting ``key`` (with dots) to ``value`` is worth a warning."""
    return _is_in(WITHOUT_EFFECT, key) and not _asks_for_nothing(key, value)


def is_refused(key: str, value: object) -> bool:
    """Whether setting ``key`` (with dots) to ``value`` is an error."""
    return _is_in(REFUSED, key) and not _asks_for_nothing(key, value)


def _is_in(names: frozenset[str], key: str) -> bool:
    return key in names or key.partition(".")[0] in names


def _asks_for_nothing(key: str, value: object) -> bool:
    return value in (None, (), "") or _ASKS_FOR_NOTHING.get(key, ...) == value
