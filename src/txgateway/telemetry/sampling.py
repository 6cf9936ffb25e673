"""Which requests become spans: decided from ids and the caller's word, before any span is made.

The samplers are OpenTelemetry's, by the names that ``OTEL_TRACES_SAMPLER`` has for them, and they decide as those of
its Python SDK do, so that services that share a ratio decide the same about the same trace.
"""

from __future__ import annotations

from typing import Final

#: What ``OTEL_TRACES_SAMPLER`` may name.
SAMPLERS: Final = (
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
)
_PARENT_BASED: Final = "parentbased_"


class Sampler:
    """Decides about traces.

    A ratio is compared with the low 64 bits of the trace id, as in the SDK (its specification asks for the low 56
    that Trace Context level 2 calls random; of ids that are random throughout, both choose the same share).

    Args:
        name: of :data:`SAMPLERS`.
        ratio: share of traces that is sampled, from 0 to 1; of no meaning without ``traceidratio`` in the name.
    """

    def __init__(self, name: str, ratio: float = 1.0) -> None:
        root = name.removeprefix(_PARENT_BASED)
        self._follows = root != name
        bound = {"always_on": 2**64, "always_off": 0}.get(root)
        if bound is None:
            bound = round(ratio * 2**64)
        self._is_all = bound >= 2**64
        #: Hexadecimal digits of one width sort as their numbers do.
        self._bound = "" if self._is_all else f"{bound:016x}"

    def decides(self, trace_id: str, parent_sampled: bool | None) -> bool:
        """Whether a trace is sampled here.

        Args:
            trace_id: 32 hexadecimal digits.
            parent_sampled: the caller's decision; None if there is no caller, or it has left it open.
        """
        if parent_sampled is not None and self._follows:
            return parent_sampled
        return self._is_all or trace_id[16:] < self._bound
