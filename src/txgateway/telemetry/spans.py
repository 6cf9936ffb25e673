"""What a sampled request tells: one span for itself, one for each attempt at a target.

Names and attributes are those of OpenTelemetry's semantic conventions for HTTP (stable since 1.23), and ``txgateway.``
ones. How spans are made is :mod:`txgateway.telemetry.span_maker`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from txgateway.telemetry.cells import METHODS
from txgateway.telemetry.redaction import without_fragment
from txgateway.telemetry.span_maker import NOWHERE, Attributes, Peer, SpanMaker, parent_context, trace_state
from txgateway.telemetry.trace_context import Parent

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import Header

#: Characters of a value that a span shows.
MAX_TEXT: Final = 1024
#: For a method that the conventions do not know, so that names and values stay few.
_OTHER: Final = "_OTHER"
_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}


class SampledTrace:
    """A request that becomes spans.

    Args:
        maker: makes them.
        write: the propagation's, for the fields of an attempt.
        trace_id: 32 hexadecimal digits.
        span_id: of the request's own span.
        parent: the caller's span.
        flags: of the trace: ``trace_context.RANDOM``, or none.
        passed: fields that go on unchanged.
        epoch: the time since the epoch at which the request's clock was zero.

    Attributes:
        fields: what the next attempt sends.
    """

    __slots__ = (
        "_attempt_id",
        "_began",
        "_context",
        "_count",
        "_epoch",
        "_flags",
        "_maker",
        "_parent",
        "_passed",
        "_state",
        "_status",
        "_target",
        "_trace",
        "_write",
        "fields",
        "span_id",
        "trace_id",
    )

    is_sampled: Final = True

    def __init__(
        self,
        maker: SpanMaker,
        write: Callable[..., tuple[Header, ...]],
        trace_id: str,
        span_id: str,
        parent: Parent | None,
        flags: int,
        passed: tuple[Header, ...],
        epoch: float,
    ) -> None:
        self._maker = maker
        self._write = write
        self.trace_id = trace_id
        self.span_id = span_id
        self._parent = parent
        self._flags = flags
        self._passed = passed
        self._epoch = epoch
        self._trace = int(trace_id, 16)
        self._state = trace_state(passed) if passed else None
        self._context: Context | None = None
        self._target: Peer | None = None  # of the attempt under way
        self._count = self._status = 0
        self.fields = passed

    # --- attempts -------------------------------------------------------------------------------------------------

    def begin_attempt(self, target: Peer, now: float) -> None:
        """An attempt begins, at clock seconds ``now``; :attr:`fields` are what it sends."""
        self._target = target
        self._began = now
        self._status = 0
        self._count += 1
        self._attempt_id = span_id = self._maker.new_span_id()
        parent = self._parent
        is_debug = parent is not None and parent.is_debug
        self.fields = (
            self._write(self.trace_id, span_id, is_sampled=True, flags=self._flags, is_debug=is_debug) + self._passed
        )

    def answered(self, status: int) -> None:
        """The target has answered the attempt under way with this status."""
        self._status = status

    def end_attempt(self, request: GatewayRequest, now: float, reason: str | None) -> None:
        """It is over; harmless if there is none.

        Args:
            reason: stable code of what it failed of, or why it was given up; None if it did not.
        """
        target, self._target = self._target, None
        if target is None:
            return
        status = self._status
        peer, base = self._maker.peer(target)
        method, original = _method(request.method)
        attributes: Attributes = {
            "http.request.method": method,
            **peer,
            "url.full": base + _path_of(request.upstream_target or request.uri),
            "txgateway.backend": request.backend_name or "",
        }
        if original:
            attributes["http.request.method_original"] = original
        if self._count > 1:
            attributes["http.request.resend_count"] = self._count - 1
        if status:
            attributes["http.response.status_code"] = status
        error = reason or (str(status) if status >= 400 else None)
        if error is not None:
            attributes["error.type"] = error
        context = self._context
        if context is None:
            context = self._context = parent_context(
                self._trace, self.span_id, self._flags, self._state, is_remote=False
            )
        self._maker.make(
            self._trace,
            self._attempt_id,
            context,
            "HTTP" if method is _OTHER else method,
            SpanKind.CLIENT,
            attributes,
            (self._epoch + self._began, self._epoch + now),
            is_error=error is not None,
        )

    # --- the request ----------------------------------------------------------------------------------------------

    def end(self, request: GatewayRequest) -> None:
        """The request is over."""
        method, original = _method(request.method)
        route = self._maker.routes.get(request.route_name or "")
        name = "HTTP" if method is _OTHER else method
        attributes: Attributes = {"http.request.method": method, "txgateway.request_id": request.request_id}
        if original:
            attributes["http.request.method_original"] = original
        if route is not None:
            name = f"{name} {route}"
            attributes["http.route"] = route
        _add_request(attributes, request)
        reason, status = request.reason, request.status
        if request.responded and status:
            attributes["http.response.status_code"] = status
        if reason is not None:
            attributes["txgateway.reason"] = attributes["error.type"] = reason
        elif status >= 500:
            attributes["error.type"] = str(status)
        for phase, spent_ms in (request.phases or {}).items():
            attributes[f"txgateway.timing.{phase}"] = spent_ms
        # An answer that broke off is an error whatever its status said; a client that left is not.
        is_error = status >= 500 or (request.error is not None and request.error.status >= 500)
        parent, context = self._parent, NOWHERE
        if parent is not None and parent.trace_id:
            context = parent_context(self._trace, parent.span_id, self._flags, self._state, is_remote=True)
        self._maker.make(
            self._trace,
            self.span_id,
            context,
            name,
            SpanKind.SERVER,
            attributes,
            (self._epoch + request.started_at, self._epoch + request.ended_at),
            is_error=is_error,
        )


def _add_request(attributes: Attributes, request: GatewayRequest) -> None:
    """What a request tells of itself; without its query, which may hold secrets."""
    if request.path:
        attributes["url.path"] = _text(without_fragment(request.path))
    scheme: bytes = request.channel.scheme
    forwarded: Any = getattr(request, "forwarded", None)
    if forwarded is not None:
        scheme = forwarded.scheme
    attributes["url.scheme"] = scheme.decode("ascii", "replace")
    if request.host:
        host, colon, port = request.host.rpartition(b":")
        if colon and port.isdigit() and len(port) <= 5:
            attributes["server.address"], attributes["server.port"] = _text(host), int(port)
        else:
            attributes["server.address"] = _text(request.host)
            attributes["server.port"] = _DEFAULT_PORTS.get(scheme, 80)
    if request.client_ip:
        attributes["client.address"] = request.client_ip
    attributes["network.protocol.version"] = request.clientproto[5:].decode("ascii", "replace")
    agent = request.fields.get(b"user-agent")
    if agent:
        attributes["user_agent.original"] = _text(agent)
    if request.route_name is not None:
        attributes["txgateway.route"] = request.route_name
    if request.backend_name is not None:
        attributes["txgateway.backend"] = request.backend_name


def _method(method: bytes) -> tuple[str, str]:
    """A method as the conventions have it, and the original of one that they do not know."""
    if method in METHODS:
        return method.decode("ascii"), ""
    return _OTHER, _text(method)


def _path_of(target: bytes) -> str:
    path = target.partition(b"?")[0]
    return _text(path) if path.startswith(b"/") else ""


def _text(data: bytes) -> str:
    return data[:MAX_TEXT].decode("utf-8", "backslashreplace")[:MAX_TEXT]
