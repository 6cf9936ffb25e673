"""The request of the middle: what every middleware sees, from the parsed head to the last byte of the answer.

It stands between a server channel (bytes) and the resources. Middlewares read :attr:`headers`, raise errors, and
register hooks; the proxy streams bodies through it; and it is a complete ``twisted.web.iweb.IRequest``, whose costly
parts (``Headers`` objects, cookies, form arguments) are made when somebody asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from twisted.logger import Logger

from txgateway.errors import CLIENT_GONE, CLIENT_GONE_STATUS, GatewayError, InternalError
from txgateway.fields import ReceivedHeaders, problem_of_head
from txgateway.forwarded import Forwarded
from txgateway.hooks import hook_fields
from txgateway.problem import grpc_status, is_grpc, render_problem
from txgateway.request_body import BodyConsumer, RequestBody
from txgateway.transport.interfaces import NO_BODY, HeaderList, RequestHead, Tunnel

_log = Logger(__name__)

_BODILESS = frozenset({204, 304})
_NOTHING: Mapping[str, Any] = MappingProxyType({})

Hook = Callable[["GatewayRequest"], None]
BodyHook = Callable[["GatewayRequest", bytes], None]


class GatewayRequest(RequestBody):
    """One request and its answer.

    The base class makes it an ``IRequest`` for whoever wants one.

    Attributes:
        headers: the request's fields as received, ``(lowered, name, value)``; replace the tuple to change them.
        fields: lowered name to value.
        host: the authority the request is for, or None.
        path: the client's own path bytes, without the query.
        canonical_path: the form that routes are matched on.
        length: of the request body: a count, NO_BODY or UNKNOWN_LENGTH.
        status: what was sent to the client, or 499 if it left before; 0 until then.
        reason: the stable code of the gateway's own answer or of what cut the exchange short, or None.
        response_headers: end-to-end fields of the answer; hooks before the head may change them.
        started_at, ended_at: clock seconds.
        upstream_s: seconds from the last attempt's start to its response head.
        removed_names: of fields that were taken out, or replaced; lowered.
        hidden_names: of response fields that the client gets neither in trailers nor in 1xx heads; lowered.
        trace: what :mod:`txgateway.telemetry.tracing` has made of it, None without tracing; attempts tell it about
            themselves if it ``is_sampled``, and send its ``fields``.
        phases: milliseconds by phase (:mod:`txgateway.middleware.server_timing`), None where nobody wants to know;
            ``phase`` is the one that has begun and not ended, with the clock seconds of its beginning.
        trace_id, span_id: for the log; None without tracing, the second also where the caller's span goes on.
        log_fields: further fields of its line in the access log; None without any.
        subject: ``sub`` of the verified token, or None.
        claims: all claims of the verified token.
        bytes_in, bytes_out: body bytes.
    """

    # Slots, because more than thirty attributes in an instance dictionary cost twice as much to set. What most requests
    # never set is not among them: there is one value for all, and a dictionary where one is set.
    __slots__ = (
        "_before_head",
        "_buffered",
        "_consumer",
        "_on_body",
        "_on_finish",
        "attempts",
        "backend_name",
        "body_complete",
        "body_wanted",
        "bytes_in",
        "bytes_out",
        "canonical_path",
        "channel",
        "client_ip",
        "clientproto",
        "ended",
        "ended_at",
        "fields",
        "forwarded",
        "headers",
        "host",
        "length",
        "method",
        "path",
        "producer",
        "request_id",
        "responded",
        "response_headers",
        "route_metrics",
        "route_name",
        "started_at",
        "status",
        "target_label",
        "upgrade",
        "upstream_s",
        "upstream_target",
        "uri",
    )

    site: Any = None
    trace: Any = None
    phases: dict[str, float] | None = None
    phase: tuple[str, float] | None = None
    trace_id: str | None = None
    span_id: str | None = None
    path_parameters: Mapping[str, bytes] = _NOTHING
    log_fields: dict[str, object] | None = None
    subject: str | None = None
    claims: Mapping[str, Any] = _NOTHING
    reason: str | None = None
    error: GatewayError | None = None
    forwarded: Forwarded
    response_headers: HeaderList
    _is_cut = False
    hidden_names: frozenset[bytes] = frozenset()

    def __init__(self, channel: Any, head: RequestHead) -> None:
        self.channel: Any = channel
        self.method = head.method
        self.uri = head.target
        self.clientproto = head.version
        self.headers = head.headers
        self.fields = head.fields
        self.length = head.length
        self.upgrade = head.upgrade
        self.started_at: float = channel.seconds()
        self.client_ip: str | None = channel.peer_ip or None  # until ClientAddress knows better
        self.request_id = ""
        self.host: bytes | None = None
        self.path: bytes = None  # type: ignore[assignment]
        self.canonical_path = b""
        self.upstream_target: bytes | None = None
        self.route_name: str | None = None
        self.backend_name: str | None = None
        self.target_label: str | None = None
        self.route_metrics: Any = None
        self.attempts = 0
        self.status = 0
        self.upstream_s: float | None = None
        self.ended_at = 0.0
        self.bytes_in = self.bytes_out = 0
        self.responded = self.ended = self.body_complete = self.body_wanted = False
        self.producer: Any = None
        self._consumer: BodyConsumer | None = None
        self._buffered = b""
        self._before_head: list[Hook] | None = None
        self._on_body: tuple[BodyHook, ...] | None = None
        self._on_finish: list[Hook] | None = None

    def __repr__(self) -> str:
        return f"<GatewayRequest {self.request_id or '?'} {self.method.decode('latin-1')}>"

    def header(self, name: bytes) -> bytes | None:
        """The value of the field with this lowered name, the last one if there are several."""
        return self.fields.get(name)

    def remove_headers(self, names: frozenset[bytes]) -> None:
        """Drop all request fields with these lowered names, from the trailers too."""
        fields = {lowered: value for lowered, _, value in self.headers if lowered not in names}
        if b"connection" in fields:  # which the transport has joined, if it came in several lines
            fields[b"connection"] = self.fields.get(b"connection", fields[b"connection"])
        self.headers = tuple(header for header in self.headers if header[0] not in names)
        self.fields = fields
        self.removed_names |= names

    # --- hooks ------------------------------------------------------------------------------------------------

    def before_head(self, hook: Hook) -> None:
        """Call ``hook(request)`` once before the head goes out; the last registered is called first.

        The hook may change :attr:`status` and :attr:`response_headers`. It is not called if the client left before.
        """
        if self._before_head is None:
            self._before_head = [hook]
        else:
            self._before_head.append(hook)

    def on_finish(self, hook: Hook) -> None:
        """Call ``hook(request)`` exactly once when all is over, whatever the outcome; last registered first."""
        if self._on_finish is None:
            self._on_finish = [hook]
        else:
            self._on_finish.append(hook)

    def on_body(self, hook: BodyHook) -> None:
        """Call ``hook(request, data)`` with each piece of the answer's body before it is sent; last registered first.

        In order, none empty, and none of an answer that has no body (HEAD, 204, 304). Register it before the body begins,
        at the latest before the head. Whether it was all is known in the end: :attr:`is_whole`.
        """
        self._on_body = (hook, *(self._on_body or ()))

    def spend(self, phase: str, seconds: float) -> None:
        """Add to a phase, where phases are wanted."""
        if self.phases is not None:
            self.phases[phase] = round(self.phases.get(phase, 0.0) + seconds * 1000, 3)

    # --- answering --------------------------------------------------------------------------------------------

    def respond(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """Send the head of the answer, once; ``headers`` becomes :attr:`response_headers` and goes through the hooks.

        Args:
            status: a final one.
            reason: phrase, or empty for the standard one.
            headers: end-to-end fields, without framing; a list of this request's own.
            length: of the body: a count, NO_BODY or UNKNOWN_LENGTH.
        """
        self._prepare_head(status, headers)
        self.channel.send_head(self.status, reason, self.response_headers, length)

    def _prepare_head(self, status: int, headers: HeaderList) -> None:
        self.status = status
        self.response_headers = headers
        hooks = self._before_head
        while hooks:  # one that raises is gone, so that the error's own head gets through
            hook = hooks.pop()
            try:
                hook(self)
            except GatewayError:
                raise
            except BaseException as exc:  # whoever calls sys.exit() here does not mean the gateway
                _log.failure("hook before the head failed", **hook_fields(hook), request_id=self.request_id)
                raise InternalError("a hook before the head failed") from exc
        headers = self.response_headers
        if self.status.__class__ is not int or headers.__class__ is not ReceivedHeaders or headers.names is None:
            self._check_head()
        self.responded = True

    def _check_head(self) -> None:
        """See to it that what others have put together can be sent, and counted."""
        status, headers = self.status, self.response_headers
        problem = problem_of_head(status, headers)
        if problem:
            self.status = 0
            _log.error("answer cannot be sent: {problem}", problem=problem, request_id=self.request_id)
            raise InternalError(f"answer cannot be sent: {problem}")
        self.status = int(status)

    def send_body(self, data: bytes) -> None:
        """Send a piece of the answer's body; :meth:`flush` follows."""
        if self._on_body is not None and not self._show(data):
            return
        self.bytes_out += len(data)
        self.channel.send_body(data)

    def _show(self, data: bytes) -> bool:
        """Let the hooks see a piece; whether it may still be sent."""
        if data and self.method != b"HEAD" and self.status not in _BODILESS:
            for hook in self._on_body or ():
                try:
                    hook(self, data)
                except Exception as exc:  # noqa: BLE001 -- whoever sends the body has done nothing wrong
                    if not isinstance(exc, GatewayError):
                        _log.failure("hook on the body failed", **hook_fields(hook), request_id=self.request_id)
                        exc = InternalError("a hook on the body failed")
                    self.fail(exc)
                if self.ended:
                    return False
        return True

    @property
    def is_whole(self) -> bool:
        """Whether it is over, and a whole answer went out that is no error of the gateway's."""
        return self.ended and self.reason is None and not self._is_cut

    def end(self, trailers: HeaderList) -> None:
        """The answer is complete; without effect if it was cut off."""
        if self.ended:
            return
        channel = self.channel
        if trailers and self.hidden_names:
            trailers = [field for field in trailers if field[0] not in self.hidden_names]
        if not channel.send_end(trailers):
            self.reason = self.reason or GatewayError.reason
        channel.flush()
        self._finish()

    def flush(self) -> None:
        """Write out what was collected."""
        if self.channel is not None:
            self.channel.flush()

    def answer(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send a whole answer."""
        self.respond(status, b"", headers, len(body) or NO_BODY)
        if body and self.method != b"HEAD":
            self.send_body(body)
        self.end([])

    def fail(self, error: GatewayError) -> None:
        """The one way to end a request in error: answer with ``error``, or cut the answer off if it has begun.

        A gRPC client is told in the trailers of the answer.
        """
        if self.ended:
            return
        self.error = error
        self.reason = error.reason
        if self.responded:
            if self.clientproto == b"HTTP/2" and is_grpc(self.header(b"content-type")) and self.status == 200:
                self.end(grpc_status(error))
            else:
                self.abort()
        else:
            if error.closes_connection:
                self.channel.close_when_idle()
            try:
                self.answer(*render_problem(error, self))
            except GatewayError as other:  # of a hook before the head; it is gone now, so this ends
                self.fail(other)

    def abort(self) -> None:
        """Cut the answer off, visibly."""
        if not self.ended:
            self._is_cut = True
            self.channel.reset()
            self._finish()

    def client_gone(self) -> None:
        """The channel has lost its client before the answer was complete."""
        if self.ended:
            return
        self.reason = CLIENT_GONE
        if not self.responded:
            self.status = CLIENT_GONE_STATUS
        self._finish()

    def switch_protocols(self, headers: HeaderList, tunnel: Tunnel) -> bytes:
        """Answer 101 and hand the connection to ``tunnel``, which calls :meth:`tunnel_ended`.

        Returns:
            bytes that the client has sent already.
        """
        self._prepare_head(101, headers)
        self.channel.send_switching(self.response_headers)
        return self.channel.become_tunnel(tunnel)  # type: ignore[no-any-return]

    def tunnel_ended(self, reason: str | None) -> None:
        """Both directions of the tunnel are closed."""
        self._is_cut = True  # nobody knows what was its end
        self.reason = reason
        self._finish()

    def _finish(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.ended_at = self.channel.seconds()
        for hook in reversed(self._on_finish or ()):
            try:
                hook(self)
            except BaseException:  # noqa: BLE001 -- the other hooks release things too
                _log.failure("on_finish hook failed", **hook_fields(hook), request_id=self.request_id)
        producer, self.producer = self.producer, None
        if self.reason is not None and producer is not None:
            producer.stopProducing()
        self.channel = None
        self._consumer = None
        self._before_head = self._on_body = self._on_finish = None
        if "notifications" in self.__dict__:
            self._notify()

    # --- backpressure -----------------------------------------------------------------------------------------

    def downstream_blocked(self) -> None:
        """The client does not take more for now."""
        if self.producer is not None:
            self.producer.pauseProducing()

    def downstream_drained(self) -> None:
        """The client takes more."""
        if self.producer is not None:
            self.producer.resumeProducing()
