"""W3C Trace Context (levels 1 and 2) and W3C Baggage: their header values, read and written. Pure functions.

Who is asked for which header, and what becomes of a trace, is :mod:`txgateway.telemetry.propagation`'s business.
Section numbers are those of Trace Context Level 2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

#: Longest ``traceparent`` that is looked at: version 00 has 55 bytes, what later ones append is not known.
MAX_TRACEPARENT_BYTES: Final = 512
#: Section 3.3.1.1: list members of a ``tracestate``.
MAX_STATE_MEMBERS: Final = 32
#: Longest ``tracestate``, its lines joined, that is looked at: 32 members of a key and a value of 256 bytes.
MAX_STATE_BYTES: Final = MAX_STATE_MEMBERS * 514
#: Section 3.3.1.5: how much of it is propagated, and the members that go first when it is more.
STATE_BYTES_PASSED: Final = 512
LONG_MEMBER_BYTES: Final = 128
#: W3C Baggage section 3.3.2.
MAX_BAGGAGE_MEMBERS: Final = 64
MAX_BAGGAGE_BYTES: Final = 8192
#: Empty list members beside those that count: they cost time and mean nothing.
_MAX_EMPTY: Final = 32

SAMPLED: Final = 1
RANDOM: Final = 2

_NO_TRACE: Final = "0" * 32
_NO_SPAN: Final = "0" * 16
_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
#: Section 3.3.1.3.1: keys, which may begin with a digit as level 2 has it, and with ``@`` are a tenant's and a system's
#: as level 1 has it (level 2 would take it for any other character, at which a receiver of level 1 would drop all); and
#: section 3.3.1.3.2: values, which do not end in a space.
_STATE_MEMBER: Final = re.compile(
    rb"([a-z0-9][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
)
#: W3C Baggage section 3.3.1. Possessive, so linear.
_BAGGAGE_MEMBER: Final = re.compile(
    rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++[ \t]*+=[ \t]*+[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*+"
    rb"(?:[ \t]*+;[ \t]*+[!#$%&'*+.^_`|~0-9A-Za-z-]++"
    rb"(?:[ \t]*+=[ \t]*+[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*+)?+)*+"
)


class Parent:
    """The caller's span, as its headers tell of it.

    Attributes:
        trace_id: 32 hexadecimal digits, not all zero; empty if the caller has only decided about sampling (B3).
        span_id: 16, likewise.
        sampled: the caller's decision, None if it has left it open (B3).
        flags: those to go on: :data:`RANDOM`, or none.
        is_debug: B3's debug flag.
        unchanged: the received ``traceparent``, where it may go on as it is; else empty.
    """

    __slots__ = ("flags", "is_debug", "sampled", "span_id", "trace_id", "unchanged")

    def __init__(
        self,
        trace_id: str,
        span_id: str,
        sampled: bool | None,
        flags: int = 0,
        *,
        is_debug: bool = False,
        unchanged: bytes = b"",
    ) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.sampled = sampled
        self.flags = flags
        self.is_debug = is_debug
        self.unchanged = unchanged

    def __repr__(self) -> str:
        return f"<Parent {self.trace_id}-{self.span_id} sampled={self.sampled} flags={self.flags}>"


def parse_traceparent(values: Sequence[bytes]) -> Parent | None:
    """The caller's span in the lines of ``traceparent``, or None if there is not exactly one valid one.

    Section 3.2.2 for version 00, which has nothing behind its flags. Section 4.3 for higher ones: what follows the
    flags begins with a dash, and of the flags only *sampled* is believed. Version ff is none.
    """
    if len(values) != 1 or len(values[0]) > MAX_TRACEPARENT_BYTES:
        return None
    value = values[0].strip(b" \t")
    found = _TRACEPARENT.fullmatch(value)
    if found is None:
        return None
    version, trace, span, digits, more = found.groups()
    trace_id, span_id = trace.decode("ascii"), span.decode("ascii")
    if version == b"ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    flags = int(digits, 16)
    if version != b"00":
        return Parent(trace_id, span_id, bool(flags & SAMPLED))
    if more is not None:
        return None
    is_known = flags <= SAMPLED | RANDOM
    return Parent(trace_id, span_id, bool(flags & SAMPLED), flags & RANDOM, unchanged=value if is_known else b"")


def format_traceparent(trace_id: str, span_id: str, flags: int) -> bytes:
    """A ``traceparent`` of version 00.

    Args:
        flags: :data:`SAMPLED` and :data:`RANDOM`; section 3.2.2.3.2: all others are to be zero.
    """
    return f"00-{trace_id}-{span_id}-0{flags}".encode("ascii")


def parse_tracestate(values: Sequence[bytes]) -> bytes:
    """What goes on of the lines of ``tracestate``, joined in their order (section 3.3.1.1).

    Returns:
        the members, without spaces around them and without empty ones, within :data:`STATE_BYTES_PASSED`; empty if
        any of it is malformed, a key comes twice, or there are too many.
    """
    members = _members(values, MAX_STATE_BYTES, MAX_STATE_MEMBERS)
    if members is None:
        return b""
    keys = set()
    for member in members:
        found = _STATE_MEMBER.fullmatch(member)
        if found is None:
            return b""
        keys.add(found[1])
    return _shortened(members) if len(keys) == len(members) else b""


def _shortened(members: list[bytes]) -> bytes:
    """Section 3.3.1.5: if it is too long, the long members go first, then others, each time the last one."""
    excess = sum(map(len, members)) + len(members) - 1 - STATE_BYTES_PASSED
    for limit in (LONG_MEMBER_BYTES, 0):
        for at in range(len(members) - 1, -1, -1):
            if excess <= 0:
                break
            if len(members[at]) > limit:
                excess -= len(members.pop(at)) + 1
    return b",".join(members)


def parse_baggage(values: Sequence[bytes]) -> bytes:
    """What goes on of the lines of ``baggage``: all of it, or nothing if it is malformed or beyond the limits."""
    members = _members(values, MAX_BAGGAGE_BYTES, MAX_BAGGAGE_MEMBERS)
    if members is None or not all(map(_BAGGAGE_MEMBER.fullmatch, members)):
        return b""
    return b",".join(members)


def _members(values: Sequence[bytes], max_bytes: int, max_members: int) -> list[bytes] | None:
    """The members of a list, trimmed, without empty ones; None if they are beyond the limits."""
    if sum(map(len, values)) + len(values) - 1 > max_bytes:
        return None
    joined = values[0] if len(values) == 1 else b",".join(values)
    if joined.count(b",") >= max_members + _MAX_EMPTY:
        return None
    members = [member for part in joined.split(b",") if (member := part.strip(b" \t"))]
    return members if len(members) <= max_members else None
