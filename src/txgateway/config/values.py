"""How a value of the configuration is written: durations, sizes, rates, lists, booleans, numbers and choices.

Each parser takes what came out of a variable (always a string) or a document (a string, number, boolean or list) and
returns the value, or raises ``ValueError`` with a sentence that says what is accepted. The formatters write a value
back in the form that its parser reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import attrs

T = TypeVar("T")
Parser = Callable[[object], T]

#: The longest duration that can be asked for: a year. More is a slip of units.
MAX_DURATION_S: Final = 366 * 86400.0
#: The largest size that can be asked for: 1 TiB.
MAX_SIZE_BYTES: Final = 2**40
#: The highest count of a rate.
MAX_RATE_COUNT: Final = 10**9
#: The most elements a list may have.
MAX_LIST_LENGTH: Final = 10_000
#: The most characters of a value that a message repeats.
MAX_SHOWN_LENGTH: Final = 120

_MAX_DIGITS: Final = 18
_DURATION_UNITS_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_SIZE_UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_RATE_PERIODS_S: Final = {"s": 1, "m": 60, "h": 3600}


@attrs.frozen
class Rate:
    """So many requests in so many seconds.

    Attributes:
        count: requests, at least 1.
        period_s: 1, 60 or 3600.
    """

    count: int
    period_s: int

    def __str__(self) -> str:
        """The rate as it is written in a configuration."""
        unit = next(unit for unit, period_s in _RATE_PERIODS_S.items() if period_s == self.period_s)
        return f"{self.count}/{unit}"


def string(value: object) -> str:
    """A string; a whole number is taken for its digits (``retry.on = [502]``).

    Raises:
        ValueError: it is anything else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError("expected a string")


def boolean(value: object) -> bool:
    """``true`` or ``false``.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool):
        return value
    if value == "true":
        return True
    if value == "false":
        return False
    raise ValueError("expected true or false")


def integer(lowest: int, highest: int) -> Parser[int]:
    """A parser of decimal whole numbers from ``lowest`` (not negative) to ``highest``."""

    def parse(value: object) -> int:
        number = _digits(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= highest:
            raise ValueError(f"expected an integer from {lowest} to {highest}")
        return number

    return parse


def fraction(value: object) -> float:
    """A number above 0 and at most 1.

    Raises:
        ValueError: it is not.
    """
    number = _decimal(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= 1:
        raise ValueError("expected a number above 0 and at most 1")
    return float(number)


def choice(*accepted: str) -> Parser[str]:
    """A parser of one of some words; a number in a document (``1.2``) is taken for its digits."""

    def parse(value: object) -> str:
        text = str(value) if isinstance(value, float) else value
        if isinstance(text, str) and text in accepted:
            return text
        raise ValueError(f"expected {one_of(accepted)}")

    return parse


def duration(value: object) -> float:
    """Seconds, from ``250ms``, ``2s``, ``5m``, ``1h`` or a bare number of seconds; 0 to a year.

    Raises:
        ValueError: it is none of these, negative, or not finite.
    """
    seconds = _duration_of_text(value) if isinstance(value, str) else value
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not math.isfinite(seconds)
        or not 0 <= seconds <= MAX_DURATION_S
    ):
        raise ValueError("expected a duration like 250ms, 2s, 5m or 1h, or a number of seconds, up to a year")
    return float(seconds)


def positive_duration(value: object) -> float:
    """A duration other than zero.

    Raises:
        ValueError: it is zero, or no duration.
    """
    seconds = duration(value)
    if seconds == 0:
        raise ValueError("expected a duration above zero")
    return seconds


def format_duration(seconds: float) -> str:
    """The shortest whole form that :func:`duration` reads back: ``1h``, ``90s``, ``250ms``, or a bare decimal."""
    milliseconds = seconds * 1000
    if seconds == 0:
        return "0s"
    for unit in ("h", "m", "s", "ms"):
        count, rest = divmod(milliseconds, _DURATION_UNITS_MS[unit])
        if rest == 0 and duration(text := f"{count:.0f}{unit}") == seconds:
            return text
    return f"{seconds:.17f}" if seconds < 1e-4 else repr(seconds)  # repr would use an exponent


def size(lowest: int = 0, highest: int = MAX_SIZE_BYTES) -> Parser[int]:
    """A parser of byte counts: ``64KiB``, ``10MiB``, ``1GiB`` or a whole number of bytes."""

    def parse(value: object) -> int:
        count = _size_of_text(value) if isinstance(value, str) else value
        if isinstance(count, bool) or not isinstance(count, int) or not lowest <= count <= highest:
            bounds = f"from {format_size(lowest)} to {format_size(highest)}"
            raise ValueError(f"expected a size like 64KiB or 10MiB, or a number of bytes, {bounds}")
        return count

    return parse


def format_size(count: int) -> str:
    """The shortest form that :func:`size` reads back: ``16KiB``, or bare bytes."""
    for unit, factor in reversed(_SIZE_UNITS.items()):
        if count and count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def rate(value: object) -> Rate:
    """A rate: ``100/s``, ``1000/m`` or ``5000/h``.

    Raises:
        ValueError: it is none of these, or its count is zero.
    """
    count_text, slash, unit = value.partition("/") if isinstance(value, str) else ("", "", "")
    count, period_s = _digits(count_text), _RATE_PERIODS_S.get(unit)
    if not slash or count is None or period_s is None or not 1 <= count <= MAX_RATE_COUNT:
        raise ValueError("expected a rate like 100/s, 1000/m or 5000/h")
    return Rate(count, period_s)


def elements(value: object) -> list[object]:
    """What a list holds: of a comma-separated string the trimmed parts, of a document's list its elements.

    Raises:
        ValueError: it is no list, has an empty element (unless the whole is empty), or is too long.
    """
    if isinstance(value, str):
        found: list[object] = [part.strip() for part in value.split(",")] if value.strip() else []
    elif isinstance(value, list | tuple):
        found = list(value)
    else:
        raise ValueError("expected a list, or a string of elements separated by commas")
    if len(found) > MAX_LIST_LENGTH:
        raise ValueError(f"expected a list of at most {MAX_LIST_LENGTH} elements")
    if "" in found:
        raise ValueError("expected a list without empty elements")
    return found


def listed(parse: Parser[T]) -> Parser[tuple[T, ...]]:
    """A parser of lists of different elements, whose message names the element that is not accepted."""

    def parse_all(value: object) -> tuple[T, ...]:
        parsed: dict[T, None] = {}
        for element in elements(value):
            try:
                item = parse(element)
            except ValueError as exc:
                raise ValueError(f"{exc} instead of {shown(element)}") from exc
            if item in parsed:
                raise ValueError(f"expected each element once, not {shown(element)} twice")
            parsed[item] = None
        return tuple(parsed)

    return parse_all


def optional(parse: Parser[T]) -> Parser[T | None]:
    """A parser that takes the empty string for none at all."""

    def parse_or_none(value: object) -> T | None:
        return None if value == "" else parse(value)

    return parse_or_none


def without_user(text: str) -> str:
    """A text without what a URL in it may hide: user information, and a query."""
    if "@" in text:
        before, _, after = text.rpartition("@")
        scheme = before.partition("://")[0] + "://" if "://" in before else ""
        text = f"{scheme}***@{after}"
    if "://" in text and "?" in text:
        text = text.partition("?")[0] + "?***"
    return text


def shown(value: object) -> str:
    """A value as messages show it: quoted, on one line, of bounded length, without user information of URLs."""
    text = without_user(value if isinstance(value, str) else str(value))
    return repr(text if len(text) <= MAX_SHOWN_LENGTH else f"{text[:MAX_SHOWN_LENGTH]}…")


def one_of(accepted: Iterable[str]) -> str:
    """``a, b or c``, for messages."""
    *first, last = accepted
    return f"{', '.join(first)} or {last}" if first else last


def _digits(text: str) -> int | None:
    is_number = text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS
    return int(text) if is_number else None


def _decimal(text: str) -> float | None:
    whole, point, part = text.partition(".")
    if _digits(whole) is None or (point and _digits(part) is None):
        return None
    return float(text)


def _duration_of_text(text: str) -> float | None:
    unit = next((unit for unit in _DURATION_UNITS_MS if text.endswith(unit)), "")
    number = _decimal(text.removesuffix(unit))
    if number is None or not unit:
        return number
    return number * _DURATION_UNITS_MS[unit] / 1000


def _size_of_text(text: str) -> int | None:
    unit = next((unit for unit in _SIZE_UNITS if text.endswith(unit)), "")
    number = _digits(text.removesuffix(unit))
    return None if number is None else number * _SIZE_UNITS.get(unit, 1)
