"""Makes spans with OpenTelemetry's SDK: each is made when it is over, in one go.

Its id has been in use since its begin, and only at the end is it known what it has to tell. Nothing is taken from, or
put into, the current context: in a reactor that is somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import uuid4

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
    get_current_span,
    set_span_in_context,
)
from twisted.logger import Logger

from txgateway.config.tracing import TracingSettings
from txgateway.telemetry.trace_context import SAMPLED

if TYPE_CHECKING:
    from txgateway.transport.interfaces import Header

_log = Logger(__name__)

#: A context without a span.
NOWHERE: Final = Context()
_SCHEMA: Final = "https://opentelemetry.io/schemas/1.23.1"

Attributes = dict[str, str | int | float]


class Peer(Protocol):
    """What spans ask of a target: ``host:port`` or ``unix:/path``, its scheme, and what ``Host`` says."""

    @property
    def label(self) -> str: ...
    @property
    def scheme(self) -> str: ...
    @property
    def authority(self) -> bytes: ...


class _GivenIds(IdGenerator):
    """Gives the next span the ids that were chosen for it."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        """Of a trace that begins here."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Of any span."""
        return self.span_id

    def is_trace_id_random(self) -> bool:
        """Ours are, in all their bits."""
        return True


class _Everything(Sampler):
    """Samples all: what is not sampled does not come here.

    The SDK's own does the same, and wraps the attributes so that their copying takes twice as long.
    """

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Any = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Yes; with the parent's ``tracestate``."""
        state = get_current_span(parent_context).get_span_context().trace_state
        result = SamplingResult(Decision.RECORD_AND_SAMPLE, None, state)
        result.attributes = attributes
        return result

    def get_description(self) -> str:
        """For people."""
        return "Everything"


def resource_of(settings: TracingSettings) -> Resource:
    """Who made the spans: this process."""
    return Resource(
        {
            "telemetry.sdk.language": "python",
            "telemetry.sdk.name": "opentelemetry",
            "telemetry.sdk.version": version("opentelemetry-sdk"),
            "service.version": version("txgateway"),
            "service.instance.id": str(uuid4()),
            **settings.resource,
            "service.name": settings.service_name,
        }
    )


class SpanMaker:
    """Makes spans that are over.

    Args:
        settings: say who we are.
        routes: the path of each route, by its name, as configured.
        new_span_id: makes 16 hexadecimal digits.
    """

    def __init__(self, settings: TracingSettings, routes: Mapping[str, str], new_span_id: Callable[[], str]) -> None:
        self.routes = routes
        self.new_span_id = new_span_id
        self._ids = _GivenIds()
        self._provider = TracerProvider(
            sampler=_Everything(),
            resource=resource_of(settings),
            shutdown_on_exit=False,
            id_generator=self._ids,
            span_limits=_limits(),
        )
        self._tracer = self._provider.get_tracer("txgateway", version("txgateway"), _SCHEMA)
        self._peers: dict[tuple[str, str], tuple[Attributes, str]] = {}
        self._has_failed = False

    def send_to(self, processor: SpanProcessor) -> None:
        """From here on spans go there."""
        self._provider.add_span_processor(processor)

    def make(
        self,
        trace_id: int,
        span_id: str,
        parent: Context,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        times: tuple[float, float],
        *,
        is_error: bool,
    ) -> None:
        """One span, from its begin to its end (seconds since the epoch); no fault of it reaches the request."""
        ids = self._ids
        ids.trace_id, ids.span_id = trace_id, int(span_id, 16)
        try:
            span = self._tracer.start_span(
                name, context=parent, kind=kind, attributes=attributes, start_time=int(times[0] * 1e9)
            )
            if is_error:
                span.set_status(StatusCode.ERROR)
            span.end(int(times[1] * 1e9))
        except Exception:  # noqa: BLE001 -- it is the SDK's
            if not self._has_failed:
                self._has_failed = True
                _log.failure("span failed")

    def peer(self, target: Peer) -> tuple[Attributes, str]:
        """What spans say of a target: its address, and how its URLs begin."""
        key = (target.scheme, target.label)
        found = self._peers.get(key)
        if found is None:
            found = self._peers[key] = _peer(target)
        return found


def _limits() -> SpanLimits:
    """None but our own, and none from variables."""
    none = SpanLimits.UNSET
    return SpanLimits(none, none, none, none, none, none, none, none)


def _peer(target: Peer) -> tuple[Attributes, str]:
    host, colon, port = target.label.rpartition(":")
    attributes: Attributes
    if target.scheme == "unix":
        attributes = {"server.address": target.label.removeprefix("unix:")}
    elif colon and port.isdigit():
        attributes = {"server.address": host.strip("[]"), "server.port": int(port)}
    else:
        attributes = {"server.address": target.label}
    scheme = "https" if target.scheme == "https" else "http"
    return attributes, f"{scheme}://{target.authority.decode('ascii', 'replace')}"


def parent_context(trace_id: int, span_id: str, flags: int, state: TraceState | None, *, is_remote: bool) -> Context:
    """A context with nothing but a span in it, which a span to be made has for its parent."""
    context = SpanContext(trace_id, int(span_id, 16), is_remote, TraceFlags(flags | SAMPLED), state)
    return set_span_in_context(NonRecordingSpan(context), NOWHERE)


def trace_state(passed: tuple[Header, ...]) -> TraceState | None:
    """The caller's ``tracestate``, as spans have it."""
    state = next((value for lowered, _, value in passed if lowered == b"tracestate"), None)
    return None if state is None else TraceState.from_header([state.decode("ascii")])
