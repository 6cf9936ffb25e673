"""Counts every request and writes its line in the access log, once, when all of it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from txgateway.middleware.base import Inner, Middleware, RouteCells

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


class Log(Protocol):
    """Takes finished requests."""

    def record(self, request: Any) -> None: ...


class Tracer(Protocol):
    """Gives requests their ``trace``."""

    def begin(self, request: Any, /) -> None: ...


class Observe(Middleware):
    """One ``on_finish`` hook for log and metrics together.

    Position: above whatever may refuse, so that every answer is counted; below RequestId.
    Refuses: nothing.
    On cancel: the line is written with what is known.

    Args:
        inner: what it wraps.
        unmatched: cells for requests that no route matched.
        access_log: None switches the log off.
    """

    def __init__(self, inner: Inner, unmatched: RouteCells, access_log: Log | None) -> None:
        super().__init__(inner)
        self._unmatched = unmatched
        self._access_log = access_log

    def render(self, request: GatewayRequest) -> Any:
        request.on_finish(self._finished)
        return self.inner.render(request)

    def _finished(self, request: GatewayRequest) -> None:
        cells = request.route_metrics
        if cells is None:
            cells = self._unmatched
        else:
            cells.ended()
        cells.observe(
            request.method,
            request.status,
            request.ended_at - request.started_at,
            request.bytes_in,
            request.bytes_out,
            request.reason,
        )
        if self._access_log is not None:
            self._access_log.record(request)


class ObserveTraced(Observe):
    """The same, where traces are made: each request gets one first, and a sampled one tells of itself at the end.

    Args:
        inner: what it wraps.
        unmatched: cells for requests that no route matched.
        access_log: None switches the log off.
        tracing: makes the traces.
    """

    def __init__(self, inner: Inner, unmatched: RouteCells, access_log: Log | None, tracing: Tracer) -> None:
        super().__init__(inner, unmatched, access_log)
        self._begin = tracing.begin

    def render(self, request: GatewayRequest) -> Any:
        self._begin(request)
        request.on_finish(self._finished)
        return self.inner.render(request)

    def _finished(self, request: GatewayRequest) -> None:
        super()._finished(request)
        if request.trace.is_sampled:
            request.trace.end(request)
            cells = request.route_metrics or self._unmatched
            cells.exemplify(request.method, request.ended_at - request.started_at, request.trace.trace_id)


def observer(inner: Inner, unmatched: RouteCells, access_log: Log | None, tracing: Tracer | None) -> Observe:
    """The one of the two that is wanted; None for no tracing."""
    if tracing is None:
        return Observe(inner, unmatched, access_log)
    return ObserveTraced(inner, unmatched, access_log, tracing)
