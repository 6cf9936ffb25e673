"""Which trace headers are believed and written: the propagators that ``OTEL_PROPAGATORS`` names, together.

Pure: it knows header fields and ids, no spans. A header of a propagator that is not named is like any other header.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from txgateway.headers import field_values
from txgateway.telemetry import b3
from txgateway.telemetry.trace_context import (
    SAMPLED,
    Parent,
    format_traceparent,
    parse_baggage,
    parse_traceparent,
    parse_tracestate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from txgateway.transport.interfaces import Header, Headers

_TRACEPARENT: Final = b"traceparent"
_TRACESTATE: Final = b"tracestate"
_BAGGAGE: Final = b"baggage"
_NAMES: Final[dict[str, tuple[bytes, ...]]] = {
    "tracecontext": (_TRACEPARENT, _TRACESTATE),
    "baggage": (_BAGGAGE,),
    "b3": (b3.SINGLE, *b3.MULTI),
    "b3multi": (b3.SINGLE, *b3.MULTI),
    "none": (),
}
#: What ``OTEL_PROPAGATORS`` may name.
PROPAGATORS: Final = tuple(_NAMES)


class Propagation:
    """The named propagators as one.

    Args:
        propagators: of :data:`PROPAGATORS`. As in OpenTelemetry's composite, of several that find a caller's span the
            last one named is believed.

    Attributes:
        names: lowered names of the fields that it answers for: a client's own are replaced.
        telling: those of them that are worth calling :meth:`read` for.
    """

    def __init__(self, propagators: Sequence[str]) -> None:
        self.names = frozenset(name for propagator in propagators for name in _NAMES[propagator])
        self.telling = tuple(sorted(self.names - {_TRACESTATE, b3.PARENT_ID}))
        self._readers = [name for name in reversed(propagators) if name not in {"baggage", "none"}]
        self._has_baggage = "baggage" in propagators
        self._has_trace_context = "tracecontext" in propagators
        self._b3 = [
            write for name, write in (("b3", b3.format_single), ("b3multi", b3.format_multi)) if name in propagators
        ]

    def read(self, headers: Headers, fields: Mapping[bytes, bytes]) -> tuple[Parent | None, tuple[Header, ...]]:
        """What a request's fields say.

        Args:
            headers: all of them, in order.
            fields: lowered name to the last value.

        Returns:
            the caller's span, and the fields that go on whatever becomes of it: ``baggage``, and ``tracestate`` of a
            valid ``traceparent``.
        """
        passed: tuple[Header, ...] = ()
        if self._has_baggage and _BAGGAGE in fields:
            baggage = parse_baggage(_values(headers, fields, _BAGGAGE))
            if baggage:
                passed = ((_BAGGAGE, _BAGGAGE, baggage),)
        for reader in self._readers:
            if reader == "tracecontext":
                parent = parse_traceparent(_values(headers, fields, _TRACEPARENT))
                if parent is not None and _TRACESTATE in fields:
                    state = parse_tracestate(_values(headers, fields, _TRACESTATE))
                    if state:
                        passed = ((_TRACESTATE, _TRACESTATE, state), *passed)
            else:
                parent = _read_b3(headers, fields)
            if parent is not None:
                return parent, passed
        return None, passed

    def write(
        self, trace_id: str, span_id: str, *, is_sampled: bool, flags: int, is_debug: bool = False
    ) -> tuple[Header, ...]:
        """The fields that make ``span_id`` the parent of whatever the receiver does.

        Args:
            flags: ``trace_context.RANDOM``, or none.
        """
        written: tuple[Header, ...] = ()
        if self._has_trace_context:
            value = format_traceparent(trace_id, span_id, flags | SAMPLED if is_sampled else flags)
            written = ((_TRACEPARENT, _TRACEPARENT, value),)
        for write in self._b3:
            written += write(trace_id, span_id, is_sampled=is_sampled, is_debug=is_debug)
        return written

    def write_unchanged(self, parent: Parent) -> tuple[Header, ...]:
        """The fields that pass the caller's span on as it came, or none where it has to be written anew."""
        if parent.unchanged and not self._b3:
            return ((_TRACEPARENT, _TRACEPARENT, parent.unchanged),)
        return ()


def _values(headers: Headers, fields: Mapping[bytes, bytes], name: bytes) -> Sequence[bytes]:
    if len(headers) == len(fields):  # no name comes twice
        value = fields.get(name)
        return () if value is None else (value,)
    return field_values(headers, name)


def _read_b3(headers: Headers, fields: Mapping[bytes, bytes]) -> Parent | None:
    """One field goes before several, as OpenTelemetry's B3 propagator has it; a repeated field is none."""
    if len(headers) != len(fields):
        names = [lowered for lowered, _, _ in headers]
        if any(names.count(name) > 1 for name in (b3.SINGLE, *b3.MULTI)):
            return None
    single = fields.get(b3.SINGLE)
    if single is not None:
        parent = b3.parse_single(single)
        if parent is not None:
            return parent
    return b3.parse_multi(fields)
