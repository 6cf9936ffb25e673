"""What is wrong with a configuration, one line each, and how pydantic's findings become such lines.

A problem names the variable or the place in the document, shows the value unless it may be a secret, and says what
is accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final, TypeAlias, TypeVar, get_args

import attrs
from pydantic import BaseModel, ValidationError

from txgateway.config.groups import Table, keys_of
from txgateway.config.values import shown

Location: TypeAlias = tuple[int | str, ...]
K = TypeVar("K", bound=Table)

#: Exit status of a process whose configuration is not acceptable (EX_CONFIG of sysexits.h).
EX_CONFIG: Final = 78
MASK: Final = "***"
#: Above this many names none is suggested: the search is slow.
_MAX_CANDIDATES: Final = 2000

#: Keys whose values are shown to nobody: they are secrets, or tables that often hold one.
_SECRET_KEYS: Final = frozenset({
    "jwt_secret", "jwt_public_key", "jwt_jwks", "routes", "headers", "request_headers", "response_headers",
    "settings",
})  # fmt: skip
_MESSAGES: Final = {
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "tuple_type": "expected a list",
    "string_type": "expected a string",
}


@attrs.frozen
class Problem:
    """One thing that keeps a configuration from being used.

    Attributes:
        where: the variable, or the path in the document.
        value: what was given, quoted and shortened; None when there is none or it may be a secret.
        message: what is wrong and what is accepted.
    """

    where: str
    value: str | None
    message: str

    def __str__(self) -> str:
        """The line for standard error."""
        if self.value is None:
            return f"{self.where}: {self.message}"
        return f"{self.where}: {self.value} is not accepted: {self.message}"


class ConfigurationError(Exception):
    """A configuration that cannot be used.

    Args:
        problems: all that is wrong with it, at least one.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def is_secret(key: str) -> bool:
    """Whether the value of a setting (its key, with dots) is never shown."""
    return not _SECRET_KEYS.isdisjoint(key.split("."))


def value_shown(key: str, value: object) -> str | None:
    """A setting's value for a problem; None for secrets, tables and nothing at all."""
    if value is None or isinstance(value, Mapping | BaseModel):
        return None
    return repr(MASK) if is_secret(key) else shown(value)


def suggestion(name: str, known: Sequence[str]) -> str:
    """``; did you mean …?`` with the nearest known name, or nothing."""
    found = get_close_matches(name, known, n=1) if len(known) <= _MAX_CANDIDATES else []
    return f"; did you mean {found[0]}?" if found else ""


def read_table(
    kind: type[K], raw: Mapping[str, Any], where: Callable[[Location], str]
) -> tuple[K, list[Problem], frozenset[str]]:
    """Read a table as far as it can be read.

    Args:
        kind: what it should be.
        raw: as it came out of the document or the variables.
        where: turns a place in ``raw`` into what the user knows it by.

    Returns:
        The table without what is wrong in it, all that is wrong, and the keys at its top that something is wrong
        with: nothing can be concluded from their absence.
    """
    problems: list[Problem] = []
    failed: set[str] = set()
    while True:
        try:
            table = kind.model_validate(raw, by_alias=True, by_name=False)
        except ValidationError as exc:
            errors = exc.errors(include_url=False)
            if not problems:
                problems = [_problem(kind, raw, where, error) for error in errors]
                failed = {str(error["loc"][0]) for error in errors}
            # What is missing after the first round is missing because it was taken out for being wrong.
            for error in errors:
                raw = _without(raw, error["loc"])
        else:
            return table, problems, frozenset(failed)


def _problem(kind: type[Table], raw: object, where: Callable[[Location], str], error: Any) -> Problem:
    location: Location = error["loc"]
    place = where(existing(raw, location, is_missing=error["type"] == "missing"))
    key = ".".join(part for part in location if isinstance(part, str))
    if error["type"] == "extra_forbidden":
        known = _keys_at(kind, location[:-1])
        return Problem(place, None, f"there is no such key{suggestion(str(location[-1]), known)}")
    if error["type"] == "missing":
        return Problem(place, None, "required")
    message = (
        str(error["ctx"]["error"]) if error["type"] == "value_error" else _MESSAGES.get(error["type"], error["msg"])
    )
    return Problem(place, value_shown(key, error["input"]), message)


def existing(raw: Any, location: Location, *, is_missing: bool) -> Location:
    """A location as deep as the user's own text goes: a target written as a string has no ``.url`` in it."""
    for depth, part in enumerate(location):
        is_there = part in raw if isinstance(raw, Mapping) else isinstance(raw, list) and isinstance(part, int)
        if not is_there:
            return location[: depth + 1] if is_missing else location[:depth]
        raw = raw[part]
    return location


def _without(raw: Mapping[str, Any], location: Location) -> Mapping[str, Any]:
    """A copy without what is at ``location``; without what should have held it, if it is not there."""
    key, *rest = location
    inner = raw.get(str(key))
    if isinstance(inner, Mapping) and rest and rest[0] in inner:
        return {**raw, str(key): _without(inner, tuple(rest))}
    return {other: value for other, value in raw.items() if other != key}


def _keys_at(kind: type[Table], location: Location) -> list[str]:
    """The keys known at a place in a table."""
    for part in location:
        if isinstance(part, int):
            continue
        field = next(field for name, field in kind.model_fields.items() if part in {name, field.alias})
        kind = next((inner for inner in _types_in(field.annotation) if issubclass(inner, Table)), Table)
    return keys_of(kind)


def _types_in(annotation: Any) -> list[type]:
    inner = [found for argument in get_args(annotation) for found in _types_in(argument)]
    return [annotation] if isinstance(annotation, type) and not inner else inner
