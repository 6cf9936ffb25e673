"""The request of the middle: what every middleware sees, from the parsed head to the last byte of the answer.

It stands between a server channel (bytes) and the resources. Middlewares read :attr:`headers`, raise errors, and
register hooks; the proxy streams bodies through it; and it is a complete ``twisted.web.iweb.IRequest``, whose costly
parts (``Headers`` objects, cookies, form arguments) are made when somebody asks for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from typing import Any, Protocol

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress, IPullProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from zope.interface import implementer

from txgateway.errors import CLIENT_GONE, CLIENT_GONE_STATUS, BodyTooLarge, GatewayError, InternalError
from txgateway.forwarded import Forwarded
from txgateway.headers import HOP_BY_HOP
from txgateway.problem import render_problem
from txgateway.transport.framing import FramingError, parse_content_length
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList, RequestHead, Tunnel

_log = Logger()

_NOTHING: dict[str, bytes] = {}  # shared by all requests without path parameters

Hook = Callable[["GatewayRequest"], None]


class BodyConsumer(Protocol):
    """Takes a request's body as it comes."""

    def body_received(self, data: bytes) -> None: ...
    def body_ended(self, trailers: HeaderList) -> None: ...


class _PullPump:
    """Makes a pull producer look like a push producer: asks it for more, once a turn, while the client takes it."""

    def __init__(self, producer: IPullProducer, clock: Any, failed: Callable[[Failure], None]) -> None:
        self._producer = producer
        self._clock = clock
        self._failed = failed
        self._call: Any = None
        self._paused = False
        self._schedule()

    def _schedule(self) -> None:
        if self._call is None:
            self._call = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._call = None
        try:
            self._producer.resumeProducing()
        except Exception:  # noqa: BLE001 -- a resource's fault, outside Recovery's reach
            self._failed(Failure())
            return
        if not self._paused:
            self._schedule()

    def pauseProducing(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def resumeProducing(self) -> None:
        self._paused = False
        self._schedule()

    def stopProducing(self) -> None:
        self.pauseProducing()
        self._producer.stopProducing()


@implementer(IRequest)
class GatewayRequest(server.Request):
    """One request and its answer.

    The base class lends its methods (cookies, redirects, sessions, ``render``); its constructor and its way of
    writing are replaced.

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
        bytes_in, bytes_out: body bytes.
    """

    # Slots, because more than thirty attributes in an instance dictionary cost twice as much to set.
    __slots__ = (
        "_before_head",
        "_buffered",
        "_consumer",
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
        "error",
        "fields",
        "forwarded",
        "headers",
        "host",
        "length",
        "max_body_bytes",
        "method",
        "path",
        "path_parameters",
        "producer",
        "reason",
        "request_id",
        "request_trailers",
        "responded",
        "response_headers",
        "route_metrics",
        "route_name",
        "started_at",
        "status",
        "subject",
        "target_label",
        "upgrade",
        "upstream_s",
        "upstream_target",
        "uri",
    )

    site: Any = None
    trace_id: str | None = None
    span_id: str | None = None
    forwarded: Forwarded
    response_headers: HeaderList
    _removed: frozenset[bytes] = frozenset()

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
        self.path_parameters: dict[str, bytes] = _NOTHING
        self.upstream_target: bytes | None = None
        self.route_name: str | None = None
        self.backend_name: str | None = None
        self.target_label: str | None = None
        self.route_metrics: Any = None
        self.attempts = 0
        self.subject: str | None = None
        self.status = 0
        self.reason: str | None = None
        self.error: GatewayError | None = None
        self.upstream_s: float | None = None
        self.ended_at = 0.0
        self.bytes_in = self.bytes_out = 0
        self.responded = self.ended = self.body_complete = self.body_wanted = False
        self.max_body_bytes = math.inf
        self.producer: Any = None
        self.request_trailers: HeaderList = []
        self._consumer: BodyConsumer | None = None
        self._buffered = b""
        self._before_head: list[Hook] | None = None
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
        self._removed |= names

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

    # --- request body -----------------------------------------------------------------------------------------

    def limit_body(self, max_bytes: float) -> None:
        """Refuse a body that declares more than this, or turns out to have more.

        Raises:
            BodyTooLarge: it does already.
        """
        if self.length > max_bytes or self.bytes_in > max_bytes:
            raise BodyTooLarge
        self.max_body_bytes = max_bytes

    def receive_body(self, data: bytes) -> None:
        """The channel has body bytes."""
        if self.ended:
            return
        self.bytes_in += len(data)
        if self.bytes_in > self.max_body_bytes:
            self.fail(BodyTooLarge())
        elif self._consumer is not None:
            self._consumer.body_received(data)
        else:
            self._buffered += data

    def receive_body_end(self, trailers: HeaderList) -> None:
        """The channel has seen the end of the body."""
        self.body_complete = True
        self.request_trailers = trailers
        if self._consumer is not None and not self.ended:
            self._end_body(self._consumer)

    def take_body(self) -> bytes:
        """What has come of the body so far and was not delivered; it is the caller's from now on."""
        taken, self._buffered = self._buffered, b""
        return taken

    def want_body(self, consumer: BodyConsumer) -> None:
        """Deliver the body to ``consumer``: what has come at once, the rest as it comes.

        The request counts as admitted: a client that waits for ``100 Continue`` gets it now.
        """
        self.body_wanted = True
        self._consumer = consumer
        if self._buffered:
            consumer.body_received(self.take_body())
        if self.body_complete:
            self._end_body(consumer)
            return
        if self.bytes_in == 0 and self.length != 0 and b"expect" in self.fields and self.clientproto != b"HTTP/1.0":
            self.channel.send_continue()
        self.channel.resume_body()

    def _end_body(self, consumer: BodyConsumer) -> None:
        # A backend that merges trailers into the header must not see there what was taken out of it.
        consumer.body_ended([field for field in self.request_trailers if field[0] not in self._removed])

    def pause_body(self) -> None:
        """Stop the flow of the body for a while."""
        if not self.body_complete:
            self.channel.pause_body()

    def resume_body(self) -> None:
        """Let the body flow again."""
        if not self.body_complete:
            self.channel.resume_body()

    # --- answering --------------------------------------------------------------------------------------------

    def respond(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """Send the head of the answer, once; ``headers`` becomes :attr:`response_headers` and goes through the hooks.

        Args:
            status: a final one.
            reason: phrase, or empty for the standard one.
            headers: end-to-end fields, without framing; a list of this request's own.
            length: of the body: a count, NO_BODY or UNKNOWN_LENGTH.
        """
        self.status = status
        self.response_headers = headers
        hooks = self._before_head
        while hooks:  # one that raises is gone, so that the error's own head gets through
            hooks.pop()(self)
        self.responded = True
        self.channel.send_head(self.status, reason, self.response_headers, length)

    def send_body(self, data: bytes) -> None:
        """Send a piece of the answer's body; :meth:`flush` follows."""
        self.bytes_out += len(data)
        self.channel.send_body(data)

    def end(self, trailers: HeaderList) -> None:
        """The answer is complete; without effect if it was cut off."""
        if self.ended:
            return
        channel = self.channel
        if not channel.send_end(trailers):
            self.reason = GatewayError.reason
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
        """The one way to end a request in error: answer with ``error``, or cut the answer off if it has begun."""
        if self.ended:
            return
        self.error = error
        self.reason = error.reason
        if self.responded:
            self.abort()
        else:
            if error.closes_connection:
                self.channel.close_when_idle()
            try:
                self.answer(*render_problem(error, self))
            except Exception:  # noqa: BLE001 -- a hook before the head; it is gone now, so this ends
                _log.failure("hook before the head failed", request_id=self.request_id)
                self.fail(InternalError())

    def abort(self) -> None:
        """Cut the answer off, visibly."""
        if not self.ended:
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
        self.status = 101
        self.response_headers = headers
        hooks = self._before_head
        while hooks:
            hooks.pop()(self)
        self.responded = True
        self.channel.send_switching(self.response_headers)
        return self.channel.become_tunnel(tunnel)  # type: ignore[no-any-return]

    def tunnel_ended(self, reason: str | None) -> None:
        """Both directions of the tunnel are closed."""
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
            except Exception:  # noqa: BLE001 -- the other hooks release things too
                _log.failure("on_finish hook failed", request_id=self.request_id)
        producer, self.producer = self.producer, None
        if self.reason is not None and producer is not None:
            producer.stopProducing()
        self.channel = None
        self._consumer = None
        self._before_head = self._on_finish = None
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

    # --- what twisted.web's resources expect, made when asked for ---------------------------------------------

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        headers = Headers()
        for _, name, value in self.headers:
            headers.addRawHeader(name, value)
        return headers

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        return Headers()

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        return http.parse_qs(self.uri.partition(b"?")[2], 1)  # type: ignore[no-any-return]

    @cached_property
    def content(self) -> Any:  # type: ignore[override]
        return BytesIO()

    @cached_property
    def cookies(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]
        pairs = (pair.partition(b"=") for pair in self.fields.get(b"cookie", b"").split(b";"))
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}

    @cached_property
    def prepath(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def postpath(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def sitepath(self) -> list[bytes]:
        return []

    @cached_property
    def notifications(self) -> list[Any]:  # type: ignore[override]
        return []

    @cached_property
    def _adapterCache(self) -> dict[str, Any]:  # type: ignore[override]
        return {}

    @cached_property
    def client(self) -> IAddress:
        return IPv4Address("TCP", self.client_ip or "", 0)

    def getClientAddress(self) -> IAddress:
        return self.client

    def getHost(self) -> IAddress:
        return self.channel.transport.getHost()  # type: ignore[no-any-return]

    def isSecure(self) -> bool:
        return self.forwarded.scheme == b"https"

    def getHeader(self, key: Any) -> Any:
        """One request field by name, bytes for bytes and str for str; builds no ``Headers``."""
        if isinstance(key, bytes):
            return self.fields.get(key.lower())
        value = self.fields.get(key.lower().encode("latin-1"))
        return None if value is None else value.decode("utf-8", "replace")

    def write(self, data: bytes) -> None:
        """A resource writes its answer; the first call sends the head made of ``code`` and ``responseHeaders``."""
        if self.finished:
            raise RuntimeError("Request.write called on a request after Request.finish was called.")
        if self.ended:
            return
        if not self.startedWriting:
            self.startedWriting = 1
            if self.responded:
                raise RuntimeError("the answer has been started already")
            self._respond_from_resource()
        if data:
            self.sentLength += len(data)
            self.send_body(data)
        self.flush()

    def _respond_from_resource(self) -> None:
        raw = self.responseHeaders
        if self.lastModified is not None and not raw.hasHeader(b"last-modified"):
            raw.setRawHeaders(b"Last-Modified", [http.datetimeToString(self.lastModified)])
        if self.etag is not None:
            raw.setRawHeaders(b"ETag", [self.etag])
        if "cookies" in self.__dict__:
            raw.setRawHeaders(b"Set-Cookie", self.cookies)
        if self.defaultContentType is not None and not raw.hasHeader(b"content-type") and self.code not in (204, 304):
            raw.setRawHeaders(b"Content-Type", [self.defaultContentType])
        length = NO_BODY if self.method == b"HEAD" else UNKNOWN_LENGTH
        headers: HeaderList = []
        for name, values in raw.getAllRawHeaders():
            lowered = name.lower()
            if lowered == b"content-length":
                try:
                    length = parse_content_length(values[-1])
                except FramingError as exc:
                    raise RuntimeError(f"bad Content-Length {values[-1]!r}") from exc
            elif lowered not in HOP_BY_HOP:
                headers += [(lowered, name, value) for value in values]
        self.respond(self.code, self.code_message or b"", headers, length)

    def finish(self) -> None:
        """A resource has written all of its answer."""
        if self.finished:
            return
        if self.ended:
            raise RuntimeError(
                "Request.finish called on a request after its connection was lost; "
                "use Request.notifyFinish to keep track of this."
            )
        if not self.startedWriting:
            if not self.responseHeaders.hasHeader(b"content-length"):
                self.responseHeaders.setRawHeaders(b"Content-Length", [b"0"])
            self.write(b"")
        self.finished = 1
        self.end([])

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let ``producer`` write the answer at the client's pace."""
        if self.producer is not None:
            raise ValueError(f"registering producer {producer} before the previous one ({self.producer}) was done")
        if self.ended:
            producer.stopProducing()
            return
        if streaming:
            self.producer = producer
            if self.channel.write_blocked:
                producer.pauseProducing()
        else:
            self.producer = _PullPump(producer, self.channel.factory.clock, self.processingFailed)

    def unregisterProducer(self) -> None:
        if isinstance(self.producer, _PullPump):
            self.producer.pauseProducing()
        self.producer = None

    def processingFailed(self, reason: Failure) -> None:
        """A resource failed; the log has the traceback, the client a plain 500."""
        _log.failure("resource failed", failure=reason, request_id=self.request_id)
        self.fail(InternalError())

    def loseConnection(self) -> None:
        self.abort()

    def _notify(self) -> None:
        notifications, self.notifications = self.notifications, []
        if self.reason is None:
            for waiting in notifications:
                waiting.callback(None)
        else:
            failure = Failure(RuntimeError(self.reason))
            for waiting in notifications:
                waiting.errback(failure)
