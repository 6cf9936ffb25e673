"""Paths as routes see them: one canonical spelling for all that a backend may take for the same path.

Only matching uses the canonical form; what is forwarded are the client's own bytes. The rules are chosen against an
attacker who looks for a spelling that the gateway files under a weaker route than the backend will serve, so
whatever two backends may read differently is refused.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from txgateway.errors import BadPath

#: What RFC 3986 section 3.3 lets stand in a path segment, percent-encoding and ``;`` left out.
_PLAIN_CHARACTERS: Final = rb"A-Za-z0-9._~!$&'()*+,=:@-"

#: Already canonical, if no segment begins with a dot as well. Possessive, so linear.
_PLAIN: Final = re.compile(rb"/(?:[%(c)s]++/)*+[%(c)s]*+" % {b"c": _PLAIN_CHARACTERS})

#: Raw controls, space, non-ASCII, backslash, ``?`` and ``#``; broken escapes; encoded NUL, LF, CR and backslash.
_FORBIDDEN: Final = re.compile(rb"[\x00-\x20\x7f-\xff\\?#]|%(?![0-9A-Fa-f]{2})|%(?:00|0[AaDd]|5[Cc])")
_NON_ASCII_ESCAPE: Final = re.compile(rb"%[89A-Fa-f]")
_PARAMETER: Final = re.compile(rb"(?:;|%3[Bb])[^/]*+")
_ENCODED_SLASH: Final = re.compile(rb"%2[Ff]")
_RESPELLED: Final = re.compile(rb"%[0-9A-Fa-f]{2}|[^%/;" + _PLAIN_CHARACTERS + rb"]")
_TWO_SLASHES: Final = re.compile(rb"(?:/|%2[Ff]){2}")
_NO_PATHS: Final[frozenset[bytes]] = frozenset()
_SLASHES: Final = re.compile(rb"//++")
_DOT_SEGMENT: Final = re.compile(rb"/\.\.?(?:/|\Z)")


def _spellings() -> dict[bytes, bytes]:
    """Canonical spelling of every escape (in either case of hex) and of every raw character that needs one."""
    plain = re.compile(rb"[/;" + _PLAIN_CHARACTERS + rb"]")
    table: dict[bytes, bytes] = {}
    for code in range(256):
        character, escape = bytes((code,)), b"%%%02X" % code
        canonical = character if plain.fullmatch(character) else escape
        high, low = escape[1:2], escape[2:3]
        table[character] = canonical
        for first in (high, high.lower()):
            for second in (low, low.lower()):
                table[b"%" + first + second] = canonical
    return table


_SPELLINGS: Final = _spellings()


def split_target(target: bytes) -> tuple[bytes, bytes]:
    """The path of an origin-form request target, and its query with the question mark, or ``b""`` without one."""
    mark = target.find(b"?")
    if mark < 0:
        return target, b""
    return target[:mark], target[mark:]


def canonical_path(path: bytes) -> bytes:
    """The one spelling under which ``path`` is matched with routes; the caller has bounded its length.

    Every character has one spelling: those that RFC 3986 section 3.3 allows in a segment stand for themselves,
    though some are reserved (backends decode ``%3A`` like any other), all others are ``%XX`` in upper case. ``%2F``
    is ``/``, ``;`` or ``%3B`` and what follows it in a segment is dropped, empty segments are merged. One level is
    decoded: ``%252F`` stays. A trailing slash stays as well; the route table ignores it. The result is stable:
    ``canonical_path`` of it is the same.

    Raises:
        BadPath: no leading slash; a dot segment in any spelling; raw or encoded NUL, CR, LF or backslash; raw
            control, space, ``#``, ``?`` or non-ASCII byte; broken percent-encoding; escapes that are not UTF-8; an
            encoded slash after ``;`` (a backend may cut before or after decoding it).
    """
    if _PLAIN.fullmatch(path) is not None and b"/." not in path:
        return path
    return _canonicalize(path)


def behind_authority(path: bytes) -> frozenset[bytes]:
    """What backends may take for the path, in canonical form, that read two slashes in front as ``//authority/path``.

    RFC 3986 section 4.2 calls that a network-path reference, and many URL parsers know no other meaning of it. Whether
    an encoded slash counts, in front or at the end of the authority, depends on who decodes when.

    Args:
        path: the client's own, one that has a canonical form.

    Returns:
        Nothing for an ordinary path.
    """
    if _TWO_SLASHES.match(path) is None:
        return _NO_PATHS
    canonical = canonical_path(path)
    readings = {canonical[at:] if (at := canonical.find(b"/", 1)) > 0 else b"/"}
    raw = path.lstrip(b"/")
    rest = raw[raw.find(b"/") :] if b"/" in raw else b"/"
    readings.add(canonical_path(rest))
    return frozenset(readings)


def has_encoded_slash(path: bytes) -> bool:
    """Whether a client's path holds ``%2F``, for those who refuse it; ``%252F`` is not one."""
    return b"%2F" in path or b"%2f" in path


def _canonicalize(path: bytes) -> bytes:
    if not path.startswith(b"/") or _FORBIDDEN.search(path) is not None:
        raise BadPath("no leading slash, or a forbidden character or escape")
    if _NON_ASCII_ESCAPE.search(path) is not None:
        try:
            unquote_to_bytes(path).decode("utf-8")
        except UnicodeDecodeError as exc:
            raise BadPath("not UTF-8") from exc
    # Cut before decoding, "/a;%2Fpublic/b" is "/a/b"; cut after, it is "/a/public/b". Either may be the backend.
    if any(_ENCODED_SLASH.search(parameter) for parameter in _PARAMETER.findall(path)):
        raise BadPath("encoded slash in a path parameter")
    path = _RESPELLED.sub(lambda found: _SPELLINGS[found[0]], path)
    path = _SLASHES.sub(b"/", _PARAMETER.sub(b"", path))
    if _DOT_SEGMENT.search(path) is not None:
        raise BadPath("dot segment")
    return path
