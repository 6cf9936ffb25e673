"""One request on its way to a target and back.

It asks the target's pool for a connection, streams the request out and the response in with backpressure both ways,
keeps the deadlines, and replays a request once, on a fresh connection, when a pooled one turned out to be dead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from txgateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InternalError,
    RequestTimeout,
    UpstreamError,
    UpstreamSilent,
)
from txgateway.fields import Fields
from txgateway.headers import FORWARDED_NAMES, end_to_end, field_values, split_list
from txgateway.transport.framing import FORBIDDEN_TRAILERS
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import UNKNOWN_LENGTH, ClientConnection, Header, HeaderList, SharedHeaders
from txgateway.transport.tunnel import ByteTunnel
from txgateway.transport.wheel import TimerWheel

if TYPE_CHECKING:
    from txgateway.proxy.backend import Backend, Target
    from txgateway.proxy.reverse_proxy import ProxySettings
    from txgateway.request import GatewayRequest

_log = Logger()

#: Methods whose repetition does no harm (RFC 9110 section 9.2.2).
IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))
_REMADE = FORWARDED_NAMES | {b"host", b"expect", b"x-request-id"}
_VIA_11: Header = (b"via", b"Via", b"1.1 txgateway")
_VIA_10: Header = (b"via", b"Via", b"1.0 txgateway")
_ANSWER_VIA_11, _ANSWER_VIA_10 = Fields([_VIA_11]), Fields([_VIA_10])
_TE: Header = (b"te", b"TE", b"trailers")
# RFC 9110 section 10.1.4: TE is for one hop only, and says so.
_CONNECTION_TE: Header = (b"connection", b"Connection", b"TE")
_CONNECTION_UPGRADE: Header = (b"connection", b"Connection", b"Upgrade")


def _list(request: GatewayRequest, name: bytes) -> list[bytes]:
    return split_list(b",".join(field_values(request.headers, name)).lower())


class _Memo:
    """The fields last sent to a target for a client's connection, and what they were made from."""

    __slots__ = ("_forwarded", "_host", "_settings", "_source", "_target", "_upgrade", "headers", "wire")

    def __init__(
        self, request: GatewayRequest, target: Target, settings: ProxySettings, upgrade: bytes, headers: HeaderList
    ) -> None:
        self._source = request.headers
        self._forwarded = request.forwarded
        self._host = request.host
        self._target = target
        self._settings = settings
        self._upgrade = upgrade
        self.headers = headers
        self.wire = b""

    def is_for(self, request: GatewayRequest, target: Target, settings: ProxySettings, upgrade: bytes) -> bool:
        """Whether they would be made from the very same things."""
        return (
            request.headers is self._source
            and request.forwarded is self._forwarded
            and target is self._target
            and settings is self._settings
            and request.host == self._host
            and upgrade == self._upgrade
        )

    def serialise(self) -> bytes:
        """As field lines; made at the first repetition."""
        parts: list[bytes] = []
        write_fields(parts, self.headers)
        self.wire = b"".join(parts)
        return self.wire


class Forwarding:
    """Carries one request.

    Implements ``ResponseHandler`` for the connection, ``BodyConsumer`` and push producer for the request, the pool's
    ``Waiter``, and ``Expiring`` for the wheel.
    """

    __slots__ = (
        "_backend",
        "_blocked_by_target",
        "_connection",
        "_first",
        "_headers",
        "_is_replayable",
        "_is_waiting",
        "_replayed",
        "_request",
        "_sent_at",
        "_settings",
        "_target",
        "_total_deadline",
        "_unsent",
        "_upgrade",
        "_wheel",
        "deadline",
    )

    def __init__(self, request: GatewayRequest, backend: Backend, settings: ProxySettings, wheel: TimerWheel) -> None:
        self._request = request
        self._backend = backend
        self._settings = settings
        self._wheel = wheel
        self._connection: ClientConnection | None = None
        self._first = b""
        self._is_waiting = False
        self._replayed = False
        self._blocked_by_target = False
        self._unsent = 0

    def start(self) -> None:
        """Pick a target and send the request, now or when the pool has a connection.

        Raises:
            GatewayError: there is none to be had.
        """
        request, settings = self._request, self._settings
        request.backend_name = self._backend.name
        self._target = target = self._backend.pick(request)
        request.on_finish(self._finished)  # at once: it takes the request off the target again, whatever comes
        request.target_label = target.label
        self._upgrade = request.upgrade if request.upgrade and request.upgrade.lower() in settings.upgrades else b""
        self._headers = self._request_headers(target)
        self._is_replayable = request.body_complete and request.method in IDEMPOTENT
        self._total_deadline = request.started_at + (settings.total_s or math.inf)
        self.deadline = min(self._total_deadline, request.channel.seconds() + settings.idle_s)
        self._wheel.watch(self)
        request.producer = self
        self._acquire(fresh=False)

    def _request_headers(self, target: Target) -> HeaderList:
        """The fields for the target: a client that repeats itself to the byte is not worked out again."""
        request = self._request
        own = (b"x-request-id", b"X-Request-ID", request.request_id.encode("ascii"))
        memo: _Memo | None = request.channel.memo
        if memo is None or not memo.is_for(request, target, self._settings, self._upgrade):
            headers = self._shared_headers(target)
            request.channel.memo = _Memo(request, target, self._settings, self._upgrade, headers)
            return [*headers, own]
        headers = SharedHeaders(memo.headers)
        headers.append(own)
        headers.wire = memo.wire or memo.serialise()
        headers.shared = len(memo.headers)
        return headers

    def _shared_headers(self, target: Target) -> HeaderList:
        request = self._request
        fields = request.fields
        host = request.host if self._settings.preserve_host and request.host is not None else target.authority
        headers: HeaderList = [(b"host", b"Host", host)]
        headers += end_to_end(request.headers, fields.get(b"connection"), _REMADE)
        headers += request.forwarded.fields
        headers.append(_VIA_10 if request.clientproto == b"HTTP/1.0" else _VIA_11)
        if b"te" in fields and not self._upgrade and b"trailers" in _list(request, b"te"):
            headers += (_TE, _CONNECTION_TE)
        return headers

    # --- a connection -------------------------------------------------------------------------------------------

    def _acquire(self, *, fresh: bool) -> None:
        self._request.attempts += 1
        connection = self._target.pool.acquire(self, fresh=fresh)
        if connection is None:
            self._is_waiting = True
        else:
            self.on_connection(connection)

    def on_connection(self, connection: ClientConnection) -> None:
        """The pool lends a connection."""
        self._is_waiting = False
        request = self._request
        self._connection = connection
        first = self._first if self._replayed else request.take_body()
        self._first = first
        length, ended = request.length, request.body_complete
        if ended and length == UNKNOWN_LENGTH:
            if request.request_trailers:
                ended = False  # chunked, for the trailers' sake
            else:
                length = len(first)
        self._sent_at = request.channel.seconds()
        connection.start(
            self,
            request.method,
            request.upstream_target or request.uri,
            self._headers,
            length,
            first,
            ended,
            self._upgrade,
        )
        if not ended and not request.ended:
            if not request.body_complete:
                self.deadline = self._wheel.after(self._settings.body_timeout_s)
            request.want_body(self)

    def on_unavailable(self, error: GatewayError) -> None:
        """The pool has none to lend."""
        self._is_waiting = False
        self._request.fail(error)

    # --- the request body, as its consumer ------------------------------------------------------------------------

    def body_received(self, data: bytes) -> None:
        """The client sent body bytes."""
        settings = self._settings
        self.deadline = self._wheel.after(settings.idle_s if self._request.responded else settings.body_timeout_s)
        if self._connection is not None:
            self._connection.send_body(data)

    def body_ended(self, trailers: HeaderList) -> None:
        """The request is complete: from here on the total time counts."""
        request = self._request
        if not request.responded:
            now = request.channel.seconds()
            self._total_deadline = now + (self._settings.total_s or math.inf)
            self.deadline = min(self._total_deadline, now + self._settings.idle_s)
        if self._connection is not None:
            self._connection.send_end(trailers)

    def on_write_blocked(self) -> None:
        """The target takes no more of the body for now."""
        self._blocked_by_target = True
        if not self._request.responded:
            self.deadline = self._wheel.after(self._settings.idle_s)
        self._request.pause_body()

    def on_write_drained(self) -> None:
        """The target takes more of the body."""
        self._blocked_by_target = False
        if not self._request.ended:
            if not self._request.responded and not self._request.body_complete:
                self.deadline = self._wheel.after(self._settings.body_timeout_s)
            self._request.resume_body()

    # --- the response, as the connection's handler ----------------------------------------------------------------

    def on_informational(self, status: int, headers: HeaderList) -> None:
        """Relay it, but 100: whoever waits for that one has had it from us.

        Without what the gateway answers for in a final head: hooks do not see this one.
        """
        if status != 100:
            hidden = FORBIDDEN_TRAILERS | self._request.hidden_names
            kept = [header for header in headers if header[0] not in hidden]
            self._request.channel.send_informational(status, kept)

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """The answer begins."""
        request = self._request
        request.upstream_s = request.channel.seconds() - self._sent_at
        self.deadline = self._wheel.after(self._settings.idle_s)
        is_http_10 = self._connection is not None and self._connection.is_http_10
        headers = (_ANSWER_VIA_10 if is_http_10 else _ANSWER_VIA_11).added_to(headers)
        try:
            request.respond(status, reason, headers, length)
        except GatewayError as error:
            request.fail(error)
        except Exception:  # noqa: BLE001 -- a hook's fault, outside Recovery's reach
            _log.failure("hook before the head failed", request_id=request.request_id)
            request.fail(InternalError())

    def on_body(self, data: bytes) -> None:
        """A piece of the answer."""
        self.deadline = self._wheel.after(self._settings.idle_s)
        self._request.send_body(data)

    def on_end(self, trailers: HeaderList) -> None:
        """The answer is complete."""
        self._connection = None
        self._request.end(trailers)

    def on_failed(self, error: UpstreamError) -> None:
        """The exchange failed; a dead pooled connection gets one more chance on a fresh one."""
        self._connection = None
        request = self._request
        if error.on_reused_connection and self._is_replayable and not error.response_started and not self._replayed:
            self._replayed = True
            try:
                self._acquire(fresh=True)
            except GatewayError as unavailable:
                request.fail(unavailable)
            return
        request.fail(error)

    def on_flush(self) -> None:
        """The end of a read from the target."""
        self._request.flush()

    def on_upgraded(self, connection: Any, headers: HeaderList, early: bytes) -> None:
        """The target switched protocols: from here on, bytes."""
        request = self._request
        self._connection = None
        self._wheel.forget(self)
        request.upstream_s = request.channel.seconds() - self._sent_at
        request.producer = None
        channel = request.channel

        def ended(reason: str | None) -> None:
            request.bytes_in, request.bytes_out = tunnel.bytes_in, tunnel.bytes_out
            request.tunnel_ended(reason)

        tunnel = ByteTunnel(channel, connection, self._settings.idle_s, self._wheel, ended)
        headers += (_CONNECTION_UPGRADE, _VIA_11)
        try:
            from_client = request.switch_protocols(headers, tunnel)
        except Exception:  # noqa: BLE001 -- a hook's fault, outside Recovery's reach
            _log.failure("hook before the head failed", request_id=request.request_id)
            tunnel.cut(InternalError.reason)
            return
        connection.become_tunnel(tunnel)
        if early:
            tunnel.from_target(early)
        if from_client:
            tunnel.from_client(from_client)

    # --- the client's pace, as the request's producer -------------------------------------------------------------

    def pauseProducing(self) -> None:
        """The client is slower than the target."""
        if self._connection is not None:
            self._connection.pause_reading()

    def resumeProducing(self) -> None:
        """The client takes more."""
        if self._request.responded:
            self.deadline = self._wheel.after(self._settings.idle_s)
        if self._connection is not None:
            self._connection.resume_reading()

    def stopProducing(self) -> None:
        """The request is over; ``_finished`` has freed everything."""

    # --- deadlines and the end ------------------------------------------------------------------------------------

    def on_deadline(self, now: float) -> None:
        """Tell apart whose time is up."""
        request = self._request
        error: GatewayError
        if request.responded:
            if not request.channel.write_blocked:
                error = UpstreamSilent("silent in the middle of the response")
            elif (unsent := request.channel.unsent_bytes()) != self._unsent:
                self._unsent = unsent  # slow, but it reads
                self.deadline = now + self._settings.idle_s
                return
            else:
                error = RequestTimeout("client stopped reading the response")
        elif not request.body_complete and self._connection is not None:
            if self._blocked_by_target:
                error = UpstreamSilent("target stopped reading the request")
            else:
                error = RequestTimeout("request body stalled")
        elif now >= self._total_deadline:
            error = DeadlineExceeded()
        else:
            error = UpstreamSilent("idle before the head")
        request.fail(error)

    def _finished(self, _: GatewayRequest) -> None:
        self._wheel.forget(self)
        target = self._target
        target.in_flight -= 1
        if self._is_waiting:
            self._is_waiting = False
            target.pool.cancel(self)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cancel()
