"""Encodings as RFC 7515 and RFC 7517 have them, to the letter: whatever could be read in two ways is refused."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from json import JSONDecoder, dumps
from math import isfinite
from typing import Any, Final, NoReturn

#: Arrays and objects within each other, in a token or a key set.
MAX_DEPTH: Final = 32

#: What nesting is counted by: brackets, strings left out. Possessive, so linear.
_BRACKET: Final = re.compile(r'"(?:[^"\\]++|\\.)*+"|[][{}]', re.DOTALL)
#: An escape that may be half a character.
_SURROGATE: Final = re.compile(r"\\u[dD][89a-fA-F]")


def base64url(text: bytes) -> bytes:
    """The octets that ``text`` stands for (RFC 7515 section 2): no padding, no white space, one spelling for each.

    Raises:
        ValueError: it is not the one spelling of any octets; unused bits at the end have to be 0 (RFC 4648
            section 3.5).
    """
    octets = urlsafe_b64decode(text + b"=" * (-len(text) % 4))
    if urlsafe_b64encode(octets).rstrip(b"=") != text:  # the decoder skips what it does not know
        raise ValueError("not base64url")
    return octets


def json_object(document: bytes) -> dict[str, Any]:
    """A JSON object in UTF-8 that all readers understand alike.

    Raises:
        ValueError: not JSON, not an object, a member twice (RFC 7515 section 4), a number that is not finite, half a
            character (a lone surrogate), or nesting deeper than :data:`MAX_DEPTH`.
    """
    text = document.decode("utf-8")
    if text.count("[") + text.count("{") > MAX_DEPTH and _is_deep(text):
        raise ValueError("nested too deeply")
    found = _DECODER.decode(text)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    if _SURROGATE.search(text) is not None:
        dumps(found, ensure_ascii=False).encode("utf-8")  # UnicodeEncodeError is a ValueError
    return found


def _is_deep(text: str) -> bool:
    depth = 0
    for token in _BRACKET.findall(text):
        if token in {"[", "{"}:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif token in {"]", "}"}:
            depth -= 1
    return False


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a member twice")
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError("a number that is not finite")
    return number


def _not_json(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")  # NaN, Infinity


_DECODER: Final = JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_not_json)
