"""What requests and answers say about being kept (RFC 9111 section 5.2): pure rules over header lists."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from txgateway.headers import field_values, split_list

Headers: TypeAlias = Sequence[tuple[bytes, bytes, bytes]]
#: RFC 9111 section 1.2.2: what is larger counts as this.
_MAX_S = 2**31
_NEVER = frozenset({"no-store", "private", "no-cache"})


def directives(headers: Headers) -> Mapping[str, str]:
    """All of ``Cache-Control``, lowered, with their arguments; ``Pragma: no-cache`` stands in where there is none.

    Of one that comes twice with different arguments the stricter counts, by an argument that is no number.
    """
    values = field_values(headers, b"cache-control")
    if not values:
        values = [value for value in field_values(headers, b"pragma") if value.lower() == b"no-cache"]
    found: dict[str, str] = {}
    for element in split_list(b",".join(values)):
        name, _, argument = element.decode("latin-1").partition("=")
        name, argument = name.strip().lower(), argument.strip().strip('"')
        found[name] = argument if found.get(name, argument) == argument else "contradiction"
    return found


def lifetime_s(said: Mapping[str, str]) -> float:
    """How long a shared cache may keep an answer; 0 for not at all. Nothing is guessed."""
    if not _NEVER.isdisjoint(said):
        return 0
    return seconds(said["s-maxage"] if "s-maxage" in said else said.get("max-age", ""))


def may_be_shared(said: Mapping[str, str]) -> bool:
    """Whether it may answer others although its request said who asked (RFC 9111 section 3.5)."""
    return "public" in said or "s-maxage" in said


def asked_age_s(asked: Mapping[str, str]) -> float:
    """How old an answer may be for this client."""
    return seconds(asked["max-age"]) if "max-age" in asked else math.inf


def received_age_s(headers: Headers) -> float:
    """How old the answer was when it came: what caches before this one say."""
    values = field_values(headers, b"age")
    return max((seconds(value.decode("latin-1")) for value in values), default=0)


def varying_names(headers: Headers) -> tuple[bytes, ...] | None:
    """Lowered names of the request fields that the answer depends on; None for ``*``: nobody knows."""
    names = {name.lower() for name in split_list(b",".join(field_values(headers, b"vary")))}
    return None if b"*" in names else tuple(sorted(names))


def is_known_to(headers: Headers, asked: Headers) -> bool:
    """Whether the client has the very answer with these ``headers``, by ``If-None-Match`` (RFC 9110 section 13.1.2)."""
    tags = split_list(b",".join(field_values(asked, b"if-none-match")))
    own = field_values(headers, b"etag")
    return b"*" in tags or (bool(own) and _opaque(own[0]) in map(_opaque, tags))


def seconds(text: str) -> float:
    """A number of seconds; what is none counts as 0."""
    return min(int(text[:12]), _MAX_S) if text.isascii() and text.isdigit() else 0


def _opaque(tag: bytes) -> bytes:
    return tag.removeprefix(b"W/")
