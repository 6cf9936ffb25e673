"""One log line as bytes: the two formats of ``LOG_FORMAT`` and the timestamp they share.

A line is a mapping whose order is the order of printing; its first fields are ``ts``, ``level`` and ``event``.
What belongs into a line is decided by those who make one.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeAlias

import orjson

Fields: TypeAlias = Mapping[str, object]
LineFormat: TypeAlias = Callable[[Fields], bytes]


@lru_cache(maxsize=8)
def _second(at_s: int) -> str:
    # A batch of lines is mostly of one second: the expensive part is made once.
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s))


def timestamp(at_s: float) -> str:
    """``2026-01-31T23:59:59.999Z`` (RFC 3339 section 5.6) for seconds since the epoch, cut to milliseconds."""
    return _millisecond(math.floor(at_s * 1000))


@lru_cache(maxsize=64)
def _millisecond(at_ms: int) -> str:
    whole_s, left_ms = divmod(at_ms, 1000)
    return f"{_second(whole_s)}.{left_ms:03d}Z"


def json_line(fields: Fields) -> bytes:
    """One JSON object (RFC 8259) and a newline; no line break inside, whatever the values hold."""
    try:
        return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:  # half a surrogate pair, or a number of more than 64 bits
        return json.dumps(dict(fields), default=repr).encode("ascii") + b"\n"


def text_line(fields: Fields) -> bytes:
    """The same fields for people: ``ts LEVEL event: message name=value …``.

    Control characters are escaped, so that no value can forge a line or steer a terminal. Only a ``traceback``
    takes several lines, each of them indented.
    """
    rest = dict(fields)
    head = f"{rest.pop('ts')} {rest.pop('level')!s:<5} {_escaped(str(rest.pop('event')))}"
    message, traceback = rest.pop("message", None), rest.pop("traceback", None)
    parts = [head if message is None else f"{head}: {_escaped(str(message))}"]
    parts += [f"{_escaped(name)}={_value(value)}" for name, value in rest.items()]
    text = " ".join(parts) + "\n"
    if traceback is not None:
        text += "".join(f"    {_escaped(line)}\n" for line in str(traceback).splitlines())
    return text.encode("utf-8")


def _escaped(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _value(value: object) -> str:
    if value is None:
        return "-"
    if not isinstance(value, str):
        text = json.dumps(value, default=repr, ensure_ascii=False)
        # Still JSON: another escaping around it would end its strings elsewhere.
        return text if text.isprintable() else json.dumps(value, default=repr).replace("\x7f", "\\u007f")
    # A backslash is always two, so that one in front of a quote cannot end the value.
    text = value.replace("\\", "\\\\") if value.isprintable() else _escaped(value)
    if text in {"", "-"} or any(character in text for character in ' "='):
        return '"' + text.replace('"', '\\"') + '"'
    return text
