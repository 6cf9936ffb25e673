"""How values of a file of cases are written. Parsers as in :mod:`txgateway.config.values`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from attrs import frozen

from txgateway.config import syntax
from txgateway.config.syntax import header_value, is_ip_address
from txgateway.config.values import duration, string

Pairs: TypeAlias = tuple[tuple[str, str], ...]

#: Values of these are paths, which may well begin and end with a slash.
_PATHS: Final = frozenset({"location", "content-location"})
#: Claims that are moments.
_MOMENTS: Final = ("exp", "nbf", "iat")


@frozen
class Wanted:
    """What is expected of the values that something has: none, one, or several of a repeated header.

    Attributes:
        parts: one for each value; None for any.
        shown: as it was written.
    """

    parts: tuple[str | re.Pattern[str], ...] | None
    shown: str

    def fits(self, values: Sequence[str]) -> bool:
        """Whether these are the values."""
        if self.parts is None:
            return bool(values)
        return len(values) == len(self.parts) and all(map(_fits, self.parts, values))

    @property
    def literal(self) -> str | None:
        """The one text that is expected; None if it is anything else."""
        is_text = self.parts is not None and len(self.parts) == 1 and isinstance(self.parts[0], str)
        return self.shown if is_text else None


ANYTHING: Final = Wanted(None, "anything")
NOTHING: Final = Wanted((), "nothing")


def _fits(part: str | re.Pattern[str], value: str) -> bool:
    return value == part if isinstance(part, str) else part.search(value) is not None


def _part(value: object, *, is_path: bool = False) -> str | re.Pattern[str]:
    text = string(value)
    begin = "/^" if is_path else "/"
    if len(text) < 3 or not text.startswith(begin) or not text.endswith("/"):
        return text
    try:
        return re.compile(text[1:-1])
    except re.error as exc:
        raise ValueError(f"expected a text, or a regular expression in slashes, which this is not: {exc}") from exc


def _shown(part: str | re.Pattern[str]) -> str:
    return part if isinstance(part, str) else f"/{part.pattern}/"


def wanted(value: object) -> Wanted:
    """A text, a regular expression in slashes, or ``false`` for nothing.

    Raises:
        ValueError: it is none of these.
    """
    if value is False:
        return NOTHING
    if not isinstance(value, str | int) or value is True:
        raise ValueError("expected a text, a regular expression in slashes, or false for nothing")
    part = _part(value)
    return Wanted((part,), _shown(part))


def wanted_path(value: object) -> Wanted:
    """A path, or a regular expression between ``/^`` and ``/``: a path, too, may begin and end with a slash.

    Raises:
        ValueError: it is neither.
    """
    try:
        part = _part(value, is_path=True)
    except ValueError as exc:
        raise ValueError("expected a path, or a regular expression between /^ and /") from exc
    return Wanted((part,), _shown(part))


def wanted_status(value: object) -> Wanted:
    """A status code, or a regular expression for one.

    Raises:
        ValueError: it is neither.
    """
    found = wanted(value) if isinstance(value, str | int) and not isinstance(value, bool) else NOTHING
    code = found.literal
    if not found.parts or (code is not None and not re.fullmatch("[1-5][0-9][0-9]", code)):
        raise ValueError(
            r'expected a status code from 100 to 599, or a regular expression in slashes, like "/^2\\d\\d$/"'
        )
    return found


def wanted_headers(value: object) -> Mapping[str, Wanted]:
    """What is expected of headers, by name: a text, a regular expression, a list, true for any and false for none.

    Raises:
        ValueError: it is no such table.
    """
    found = {}
    for name, one in _headers(value).items():
        try:
            found[name] = _wanted_header(one, is_path=name.lower() in _PATHS)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from exc
    return found


def _wanted_header(value: object, *, is_path: bool) -> Wanted:
    if isinstance(value, bool):
        return ANYTHING if value else NOTHING
    if not isinstance(value, str | int | list):
        raise ValueError("expected a text, a regular expression in slashes, a list of these, true or false")
    parts = tuple(_part(one, is_path=is_path) for one in (value if isinstance(value, list) else [value]))
    if not parts:
        raise ValueError("expected false for a header that is not there")
    return Wanted(parts, _shown(parts[0]) if len(parts) == 1 else f"[{', '.join(map(_shown, parts))}]")


def _headers(value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of header names and values")
    for name in value:
        try:
            syntax.token(name)
        except ValueError as exc:
            raise ValueError(f"{name}: {exc}") from exc
    lowered = [name.lower() for name in value]
    if len(set(lowered)) < len(lowered):
        raise ValueError("expected each header name once, whatever its case; a header that is repeated is a list")
    return dict(value)


def fields(value: object) -> Pairs:
    """Header fields to be sent, from a table of names and values; a list is a repeated header.

    Raises:
        ValueError: it is no such table.
    """
    found: list[tuple[str, str]] = []
    for name, given in _headers(value).items():
        for one in given if isinstance(given, list) else [given]:
            try:
                found.append((name, header_value(one)))
            except ValueError as exc:
                raise ValueError(f"{name}: {exc}") from exc
    return tuple(found)


def target(value: object) -> str:
    """What a request line has between the blanks: a path with its query.

    Raises:
        ValueError: it cannot stand there.
    """
    text = string(value)
    if not text or not text.isprintable() or " " in text:
        raise ValueError("expected a path without blanks and control characters")
    return text


def text(value: object) -> str:
    """Any text.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str):
        raise ValueError("expected a text")
    return value


def address(value: object) -> str:
    """An IP address.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, str) or not is_ip_address(value):
        raise ValueError("expected an IP address")
    return value


def token(value: object) -> str | Mapping[str, Any]:
    """A table of claims, or a token as it is.

    Raises:
        ValueError: it is neither, or a moment is none.
    """
    if isinstance(value, str):
        return header_value(value)
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of claims, or a text that is sent as it is")
    claims = dict(value)
    for name in _MOMENTS:
        if isinstance(claims.get(name), str):
            claims[name] = _Offset(_offset_s(name, claims[name]))
    return claims


class _Offset(float):
    """Seconds from now."""


def moment(value: object, now_s: float) -> object:
    """A claim: what was given as a duration is a moment, in whole epoch seconds."""
    return int(now_s + value) if isinstance(value, _Offset) else value


def _offset_s(name: str, written: str) -> float:
    try:
        seconds = duration(written.removeprefix("-"))
    except ValueError as exc:
        message = 'expected a duration from now, like "5m" or "-5m", a number of epoch seconds, or false'
        raise ValueError(f"{name}: {message}") from exc
    return -seconds if written.startswith("-") else seconds


def times(value: object) -> int:
    """How often.

    Raises:
        ValueError: not from 1 to 10,000.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError("expected an integer from 1 to 10000")
    return value


def table(value: object) -> dict[str, Any]:
    """Any table.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict):
        raise ValueError("expected a table")
    return value


def some_tables(value: object) -> list[Any]:
    """A list of at least one of something.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, list) or not value:
        raise ValueError("expected a list of at least one")
    return value


def environment(value: object) -> dict[str, str]:
    """Variables; numbers and booleans become text.

    Raises:
        ValueError: a value is a list or a table.
    """
    found = {}
    for name, one in table(value).items():
        if not isinstance(one, str | int | float):
            raise ValueError(f"{name}: expected a text, as variables have")
        found[name] = str(one).lower() if isinstance(one, bool) else str(one)
    return found
