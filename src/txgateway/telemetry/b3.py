"""B3, Zipkin's trace headers: one ``b3`` field, or several ``X-B3-`` fields; read and written. Pure functions.

After https://github.com/openzipkin/b3-propagation. Ids of 64 bits become 128 with zeros in front.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from txgateway.telemetry.trace_context import Parent

if TYPE_CHECKING:
    from txgateway.transport.interfaces import Header

SINGLE: Final = b"b3"
TRACE_ID: Final = b"x-b3-traceid"
SPAN_ID: Final = b"x-b3-spanid"
SAMPLED: Final = b"x-b3-sampled"
FLAGS: Final = b"x-b3-flags"
PARENT_ID: Final = b"x-b3-parentspanid"
MULTI: Final = (TRACE_ID, SPAN_ID, SAMPLED, FLAGS, PARENT_ID)

#: Longest ``b3``: two ids, a decision and a parent.
MAX_BYTES: Final = 32 + 1 + 16 + 1 + 1 + 1 + 16

_SINGLE: Final = re.compile(rb"([0-9a-f]{16}|[0-9a-f]{32})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?")
_TRACE_ID: Final = re.compile(rb"[0-9a-f]{16}|[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(rb"[0-9a-f]{16}")
#: ``true`` and ``false`` are what some older tracers write.
_DECISIONS: Final = {b"0": False, b"1": True, b"d": True, b"false": False, b"true": True}


def parse_single(value: bytes) -> Parent | None:
    """The caller's span, or its mere decision, in a ``b3`` field; None if it is malformed."""
    if len(value) > MAX_BYTES:
        return None
    if len(value) == 1:
        return _decision(value)
    found = _SINGLE.fullmatch(value)
    if found is None:
        return None
    trace, span, state = found.groups()
    return _parent(trace, span, None if state is None else _DECISIONS[state], is_debug=state == b"d")


def parse_multi(fields: Mapping[bytes, bytes]) -> Parent | None:
    """The caller's span, or its mere decision, in the ``X-B3-`` fields; None if there is nothing valid.

    Args:
        fields: lowered name to value.
    """
    trace, span = fields.get(TRACE_ID), fields.get(SPAN_ID)
    is_debug = fields.get(FLAGS) == b"1"
    sampled = True if is_debug else _DECISIONS.get(fields.get(SAMPLED, b""))
    if trace is None and span is None:
        return None if sampled is None else Parent("", "", sampled, is_debug=is_debug)
    if trace is None or span is None or not (_TRACE_ID.fullmatch(trace) and _SPAN_ID.fullmatch(span)):
        return None
    return _parent(trace, span, sampled, is_debug=is_debug)


def format_single(trace_id: str, span_id: str, *, is_sampled: bool, is_debug: bool) -> tuple[Header, ...]:
    """The ``b3`` field."""
    state = "d" if is_debug else "1" if is_sampled else "0"
    return ((SINGLE, SINGLE, f"{trace_id}-{span_id}-{state}".encode("ascii")),)


def format_multi(trace_id: str, span_id: str, *, is_sampled: bool, is_debug: bool) -> tuple[Header, ...]:
    """The ``X-B3-`` fields; debug implies the decision, which is then left out."""
    decision: Header = (
        (FLAGS, b"X-B3-Flags", b"1") if is_debug else (SAMPLED, b"X-B3-Sampled", b"1" if is_sampled else b"0")
    )
    return (
        (TRACE_ID, b"X-B3-TraceId", trace_id.encode("ascii")),
        (SPAN_ID, b"X-B3-SpanId", span_id.encode("ascii")),
        decision,
    )


def _decision(value: bytes) -> Parent | None:
    sampled = _DECISIONS.get(value)
    return None if sampled is None else Parent("", "", sampled, is_debug=value == b"d")


def _parent(trace: bytes, span: bytes, sampled: bool | None, *, is_debug: bool) -> Parent | None:
    trace_id, span_id = trace.decode("ascii").rjust(32, "0"), span.decode("ascii")
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return Parent(trace_id, span_id, sampled, is_debug=is_debug)
