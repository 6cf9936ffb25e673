"""The one list of what never appears in a log, and its application to names, values and prose.

Values are hidden by the name they stand under, and in free text (messages, tracebacks, objects printed) by their
shape. Where in doubt it hides too much.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from twisted.python.reflect import safe_str

REDACTED = "[redacted]"

#: A name that contains one of these, case and punctuation aside, has a secret value.
SENSITIVE_PARTS = (
    "apikey",
    "authorization",
    "cookie",
    "credential",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "secret",
    "token",
)
#: A name that is one of these, case and punctuation aside, has a secret value.
SENSITIVE_NAMES = frozenset({"args", "bearer", "jwks", "jwt", "query", "querystring", "session", "sessionid"})

#: Longest text kept of one value, in characters.
MAX_TEXT = 8192
#: Nested containers deeper than this are printed as text.
MAX_DEPTH = 4
#: Entries kept of one container.
MAX_ENTRIES = 100

_PUNCTUATION = re.compile(r"[^a-z0-9]+")
# Each pattern consumes what it looked at, so that scrubbing takes time linear in the text.
_URL_QUERY = re.compile(r"\?[^ \t\r\n]+")
_URL_REST = re.compile(r"://[^ \t\r\n]+")
_SCHEME = re.compile(r"\b(bearer|basic|negotiate|dpop)[ \t]{1,8}[^ \t\r\n]+", re.IGNORECASE)
_JWT = re.compile(r"eyJ[A-Za-z0-9_.=-]{16,}")
_KEYWORD = r"(?:api[_-]?key|credential|passphrase|passwd|password|private[_-]?key|secret|token)[a-z0-9_.-]{0,40}"
# A header field takes the rest of its line, also when a tuple or a dictionary of fields was printed.
_HEADER = re.compile(
    rf"((?:(?:authorization|cookie)[a-z0-9-]{{0,40}}['\"]{{0,2}}[ \t]{{0,4}}[:=,])|(?:{_KEYWORD}['\"]{{1,2}}[ \t]{{0,4}},))"
    r"[^\r\n]*",
    re.IGNORECASE,
)
# A setting takes one quoted string or one word.
_SETTING = re.compile(
    rf"({_KEYWORD}['\"]{{0,2}}[ \t]{{0,4}}[:=][ \t]{{0,4}})(?:b?\"[^\"\r\n]*\"?|b?'[^'\r\n]*'?|[^ \t\r\n]+)",
    re.IGNORECASE,
)


def is_sensitive(name: str) -> bool:
    """Whether a value under this name (a field, a header, a setting) must not be shown."""
    plain = _PUNCTUATION.sub("", name.lower())
    return plain in SENSITIVE_NAMES or any(part in plain for part in SENSITIVE_PARTS)


def scrub(text: str) -> str:
    """``text`` without what looks like a secret, cut to :data:`MAX_TEXT` characters.

    Hidden are: the query of a URL, its user and password, credentials after an authentication scheme (RFC 9110
    section 11.4), authorization and cookie fields, ``name=value`` settings with a sensitive name, and JSON Web
    Tokens.
    """
    text = text[: 8 * MAX_TEXT]
    text = _URL_REST.sub(_without_user, text)
    text = _URL_QUERY.sub(f"?{REDACTED}", text)
    text = _HEADER.sub(rf"\1 {REDACTED}", text)
    text = _SCHEME.sub(rf"\1 {REDACTED}", text)
    text = _SETTING.sub(rf"\1{REDACTED}", text)
    text = _JWT.sub(REDACTED, text)
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "…"


def without_fragment(path: bytes) -> bytes:
    """A request's path as it may be shown: what follows a ``#``, which no client should send, can be a token."""
    return path.partition(b"#")[0] if b"#" in path else path


def redacted(name: str, value: object, depth: int = 0) -> object:
    """``value`` as plain JSON data that is safe to log under ``name``.

    Header tuples (``(name, value)`` or ``(lowered, name, value)``) are recognised. Bytes become text, an object
    becomes its ``str()``, and numbers that JSON lacks become null.
    """
    if value is None or isinstance(value, bool):
        return value
    if is_sensitive(name):
        return REDACTED
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, (bytes, bytearray, memoryview)):
        return scrub(bytes(value).decode("utf-8", "backslashreplace"))
    if depth < MAX_DEPTH:
        if isinstance(value, Mapping):
            entries = list(value.items())[:MAX_ENTRIES]
            return {scrub(_text(key)): redacted(_text(key), inner, depth + 1) for key, inner in entries}
        if isinstance(value, Sequence) and not isinstance(value, str):
            return _redacted_sequence(name, value, depth)
        if isinstance(value, (set, frozenset)):
            return [redacted(name, inner, depth + 1) for inner in list(value)[:MAX_ENTRIES]]
    return scrub(value if isinstance(value, str) else safe_str(value))


def _redacted_sequence(name: str, value: Sequence[object], depth: int) -> object:
    if len(value) in {2, 3} and isinstance(value[0], (str, bytes)) and is_sensitive(_text(value[0])):
        return [scrub(_text(value[0])), REDACTED]
    return [redacted(name, inner, depth + 1) for inner in value[:MAX_ENTRIES]]


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else safe_str(value)


def _without_user(match: re.Match[str]) -> str:
    user, at, rest = match.group().rpartition("@")
    return f"://{REDACTED}@{rest}" if at and user else match.group()
