"""Tracing as a whole: what a request's trace is, decided where the request begins, and the life of the exporter."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from threading import Thread
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.sdk.trace.export import SpanExporter
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger, LogLevel

from txgateway.config.tracing import TracingSettings
from txgateway.config.values import without_user
from txgateway.ids import random_ids
from txgateway.telemetry.export import SpanQueue, WatchedExporter, otlp_exporter
from txgateway.telemetry.propagation import Propagation
from txgateway.telemetry.sampling import Sampler
from txgateway.telemetry.span_maker import SpanMaker
from txgateway.telemetry.spans import SampledTrace
from txgateway.telemetry.trace_context import RANDOM, Parent

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import Header

_log = Logger(__name__)

#: How long the end waits for the collector.
FLUSH_S: Final = 5.0
_TRACE_DIGITS: Final = 32


class UnsampledTrace:
    """A request that becomes no span; it still has a place in its trace.

    Attributes:
        fields: what attempts at it send.
    """

    __slots__ = ("fields",)

    is_sampled: Final = False

    def __init__(self, fields: tuple[Header, ...]) -> None:
        self.fields = fields


class Tracing:
    """Decides what becomes of each request's trace, and exports what is sampled.

    A caller's word about sampling is believed by the ``parentbased_`` samplers, whoever the caller is: that is what
    they are for. Where strangers must not cause spans, use another.

    Args:
        settings: from the variables.
        routes: the path of each route, by its name.
        reactor: gets word from the exporting thread, and keeps the limit of the end.
        epoch_s: seconds since the epoch.
        make_exporter: of what sends the spans away.
        random_bytes: of ids, so many at a time.
        flush_s: how long the end waits for the collector.

    Attributes:
        names: lowered names of the request fields that a trace replaces.
    """

    def __init__(
        self,
        settings: TracingSettings,
        routes: Mapping[str, str],
        reactor: Any,
        epoch_s: Callable[[], float],
        make_exporter: Callable[[TracingSettings], SpanExporter] = otlp_exporter,
        random_bytes: Callable[[int], bytes] = os.urandom,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._epoch_s = epoch_s
        self._make_exporter = make_exporter
        self._flush_s = flush_s
        self._propagation = Propagation(settings.propagators)
        self.names = self._propagation.names
        self._telling = self._propagation.telling
        self._write = self._propagation.write
        self._decides = Sampler(settings.sampler, settings.ratio).decides
        self._new_ids = random_ids(24, random_bytes)
        self._new_span_id = random_ids(8, random_bytes)
        self._spans = SpanMaker(settings, routes, self._new_span_id)
        self._queue: SpanQueue | None = None
        self._flushed: Deferred[None] | None = None

    def set_routes(self, routes: Mapping[str, str]) -> None:
        """The path of each route, by its name, from now on."""
        self._spans.routes = routes

    # --- requests -------------------------------------------------------------------------------------------------

    def begin(self, request: GatewayRequest) -> None:
        """Give a request its trace: ``trace``, and the ids that the log prints.

        What is not sampled costs no more than ids and the field that passes them on. A caller's unsampled
        ``traceparent`` goes on as it is, and the request has no ``span_id`` of its own.
        """
        parent: Parent | None = None
        passed: tuple[Header, ...] = ()
        fields = request.fields
        for name in self._telling:
            if name in fields:
                parent, passed = self._propagation.read(request.headers, fields)
                break
        if parent is None or not parent.trace_id:
            ids = self._new_ids()
            trace_id, span_id, flags = ids[:_TRACE_DIGITS], ids[_TRACE_DIGITS:], RANDOM
        else:
            trace_id, span_id, flags = parent.trace_id, "", parent.flags
        request.trace_id = trace_id
        if self._decides(trace_id, None if parent is None else parent.sampled):
            request.span_id = span_id = span_id or self._new_span_id()
            epoch = self._epoch_s() - request.channel.seconds()
            request.trace = SampledTrace(self._spans, self._write, trace_id, span_id, parent, flags, passed, epoch)
            return
        if parent is not None and parent.sampled is False and parent.trace_id:
            unchanged = self._propagation.write_unchanged(parent)
            if unchanged:
                request.trace = UnsampledTrace(unchanged + passed)
                return
        request.span_id = span_id = span_id or self._new_span_id()
        request.trace = UnsampledTrace(self._write(trace_id, span_id, is_sampled=False, flags=flags) + passed)

    # --- the exporter ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to export: starts a thread, so not before the process has detached."""
        exporter = WatchedExporter(
            self._make_exporter(self._settings), without_user(self._settings.endpoint), self._tell
        )
        self._queue = SpanQueue(self._settings, exporter, self._tell)
        self._spans.send_to(self._queue)

    def stop(self) -> Deferred[None]:
        """Export what is there and end.

        Returns:
            fires when that is done, or when the time for it is up; what is left then is lost.
        """
        queue = self._queue
        if queue is None or self._flushed is not None:
            return succeed(None)
        flushed: Deferred[None] = Deferred()
        self._flushed = flushed
        queue.close()

        def given_up() -> None:
            lost = queue.abandon()
            _log.warn("spans are lost: the collector did not take {spans} in time", spans=lost)
            flushed.callback(None)

        def done() -> None:
            if limit.active():
                limit.cancel()
                flushed.callback(None)

        def flush() -> None:
            queue.shutdown()
            self._reactor.callFromThread(done)

        limit = self._reactor.callLater(self._flush_s, given_up)
        # Not one of the reactor's threads, for which the end of the process would wait.
        Thread(target=flush, name="spans' end", daemon=True).start()
        return flushed

    def dropped(self) -> int:
        """Spans lost so far, for ``gateway_spans_dropped_total``."""
        return 0 if self._queue is None else self._queue.dropped

    def _tell(self, level: str, text: str) -> None:
        """Log a sentence, from whatever thread."""
        self._reactor.callFromThread(_log.emit, LogLevel.levelWithName(level), "tracing: {state}", state=text)
