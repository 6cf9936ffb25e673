"""One request on its way to a target and back.

It asks the target's pool for a connection, streams the request out and the response in with backpressure both ways,
and keeps the deadlines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.logger import Logger

from txgateway.errors import (
    DeadlineExceeded,
    GatewayError,
    InternalError,
    RequestTimeout,
    UpstreamProtocolError,
    UpstreamSilent,
    UpstreamTimeout,
)
from txgateway.fields import Fields
from txgateway.headers import field_values
from txgateway.problem import is_grpc
from txgateway.proxy import grpc
from txgateway.proxy.attempts import Attempts
from txgateway.proxy.outgoing import VIA
from txgateway.proxy.replay import SentBody
from txgateway.proxy.retry import retry_after_s
from txgateway.proxy.target import Outcome
from txgateway.transport.framing import FORBIDDEN_TRAILERS
from txgateway.transport.interfaces import UNKNOWN_LENGTH, ClientConnection, Header, HeaderList
from txgateway.transport.tunnel import ByteTunnel
from txgateway.transport.websocket import WEBSOCKET, websocket_accept

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_log = Logger(__name__)

#: Answers that say that the target, or what is behind it, does not do its work.
FAULTS = frozenset((502, 503, 504))
_ANSWER_VIA = {version: Fields([via]) for version, via in VIA.items()}
_CONNECTION_UPGRADE: Header = (b"connection", b"Connection", b"Upgrade")


class Forwarding(Attempts):
    """Carries one request.

    Implements ``ResponseHandler`` for the connection, ``BodyConsumer`` and push producer for the request, and what
    :class:`~txgateway.proxy.attempts.Attempts` is to the pool and the wheel.
    """

    __slots__ = ("_body_timeout_s",)

    def on_connection(self, connection: ClientConnection) -> None:
        """The pool lends a connection."""
        request, sent, settings = self._request, self._sent, self._settings
        now = request.channel.seconds()
        if self._is_waiting:
            self._is_waiting = False
            request.spend("queue" if connection.reused else "connect", now - self._sent_at)
        self._connection = connection
        first = request.take_body() if sent is None else sent.join()
        length, ended = request.length, request.body_complete
        if ended and length == UNKNOWN_LENGTH:
            if request.request_trailers:
                ended = False  # chunked, for the trailers' sake
            elif connection.version != b"2":  # which needs no length, and gRPC shows it to its servers
                length = len(first)
        is_repeated = sent is not None
        if sent is None and (first or not ended):
            self._sent = sent = SentBody(self._route.kept_bytes(request.method))
            sent.add(first)
        self._sent_at = now
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
                self._body_timeout_s = settings.body_timeout_s
                if is_grpc(request.header(b"content-type")):  # a stream of messages, not an upload
                    self._body_timeout_s = settings.idle_s
                self.deadline = self._wheel.after(self._body_timeout_s)
            if sent is None or not is_repeated or not request.body_wanted:
                request.want_body(self)
                if self._blocked_by_target and not request.ended:  # by what it has got already
                    request.pause_body()
            elif request.body_complete:
                connection.send_end(sent.trailers)
            elif not self._blocked_by_target:
                request.resume_body()

    # --- the request body, as its consumer ------------------------------------------------------------------------

    def body_received(self, data: bytes) -> None:
        """The client sent body bytes."""
        settings = self._settings
        connection, sent = self._connection, self._sent
        is_responded = self._request.responded
        if sent is not None and not is_responded:
            sent.add(data, is_unsent=connection is None)
        if connection is not None:
            self.deadline = self._wheel.after(settings.idle_s if is_responded else self._body_timeout_s)
            connection.send_body(data)

    def body_ended(self, trailers: HeaderList) -> None:
        """The request is complete: from here on the total time counts."""
        request = self._request
        if not request.responded:
            now = request.channel.seconds()
            settings = self._settings
            self._total_deadline = self.deadline = now + self._route.total_s
            if self._target is not None:
                self._try_deadline = now + self._route.per_try_s
                self.deadline = min(self._total_deadline, self._try_deadline, now + settings.idle_s)
        if self._sent is not None:
            self._sent.trailers = trailers
        if self._connection is not None:
            self._connection.send_end(trailers)

    def on_write_blocked(self) -> None:
        """The target takes no more of the body for now."""
        request = self._request
        self._blocked_by_target = True
        if not request.responded and not request.body_complete:  # else the attempt's own time runs already
            self.deadline = self._wheel.after(self._settings.idle_s)
        request.pause_body()

    def on_write_drained(self) -> None:
        """The target takes more of the body."""
        self._blocked_by_target = False
        if not self._request.ended:
            if not self._request.responded and not self._request.body_complete:
                self.deadline = self._wheel.after(self._body_timeout_s)
            self._request.resume_body()

    # --- the response, as the connection's handler ----------------------------------------------------------------

    def on_informational(self, status: int, headers: HeaderList) -> None:
        """Relay it, but 100: whoever waits for that one has had it from us.

        Without what the gateway answers for in a final head: hooks do not see this one.
        """
        if status != 100:
            self._is_committed = True
            hidden = FORBIDDEN_TRAILERS | self._request.hidden_names
            kept = [header for header in headers if header[0] not in hidden]
            self._request.channel.send_informational(status, kept)

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """The answer begins."""
        request = self._request
        now = request.channel.seconds()
        request.upstream_s = now - self._sent_at
        if request.trace is not None and request.trace.is_sampled:
            request.trace.answered(status)
        if status in self._route.noted_statuses and self._is_tried_again(status, headers, length, now):
            return
        if self._upgrade and status < 300 and request.clientproto == b"HTTP/2":
            self._refuse_upgrade("an upgrade answered without one")  # which HTTP/2 cannot tell from one
            return
        self._sent = None  # it will not be sent again
        if self._is_probe:
            self._end_probe(now)
        self.deadline = self._wheel.after(self._settings.idle_s)
        headers = _ANSWER_VIA[self._connection.version].added_to(headers)  # type: ignore[union-attr]
        try:
            request.respond(status, reason, headers, length)
        except GatewayError as error:
            request.fail(error)
        except Exception:  # noqa: BLE001 -- outside Recovery's reach
            _log.failure("head failed", request_id=request.request_id)
            request.fail(InternalError())

    def _is_tried_again(self, status: int, headers: HeaderList, length: int, now: float) -> bool:
        """Settle what the status settles; whether the answer is dropped for another attempt."""
        request, target, retry = self._request, self._target, self._route.retry
        if target is None:
            return False
        is_fault = status in FAULTS
        is_unwanted = retry.repeats_status(status, request.method)
        if status == 200 and not is_unwanted:  # noted for gRPC's sake only
            if not (retry.repeats_unavailable and grpc.is_unavailable(headers, length)):
                return False
            is_unwanted = True
        outcome = Outcome.ERROR if is_fault else Outcome.OK
        self._settle(outcome, now, now - self._sent_at, is_fault=is_fault, is_unwanted=is_unwanted)
        if not is_unwanted:
            return False
        asked = field_values(headers, b"retry-after")
        wait_s = retry_after_s(asked[-1], self._route.epoch_s()) if asked else None
        return self._try_again(target, now, max(wait_s or 0.0, grpc.pushback_s(headers)))

    def on_body(self, data: bytes) -> None:
        """A piece of the answer."""
        self.deadline = self._wheel.after(self._settings.idle_s)
        self._request.send_body(data)

    def on_end(self, trailers: HeaderList) -> None:
        """The answer is complete."""
        self._connection = None
        self._request.end(trailers)

    def on_flush(self) -> None:
        """The end of a read from the target."""
        self._request.flush()

    def on_upgraded(self, connection: Any, headers: HeaderList, early: bytes) -> None:
        """The target switched protocols: from here on, bytes."""
        request = self._request
        self._connection = None
        if request.clientproto == b"HTTP/2" and not _is_accepted(request, headers):
            connection.abort()
            self._refuse_upgrade("101 with another Sec-WebSocket-Accept")
            return
        self._wheel.forget(self)
        channel = request.channel
        now = channel.seconds()
        request.upstream_s = now - self._sent_at
        if request.trace is not None and request.trace.is_sampled:
            request.trace.answered(101)
        if self._is_probe:
            self._end_probe(now)
        request.producer = None

        def ended(reason: str | None) -> None:
            request.bytes_in, request.bytes_out = tunnel.bytes_in, tunnel.bytes_out
            request.tunnel_ended(reason)

        is_websocket = self._upgrade.lower() == WEBSOCKET
        idle_s, wheel = self._settings.idle_s, self._wheel
        tunnel = ByteTunnel(channel, connection, idle_s, wheel, ended, is_websocket=is_websocket)
        headers += (_CONNECTION_UPGRADE, VIA[connection.version])
        try:
            from_client = request.switch_protocols(headers, tunnel)
        except GatewayError as error:  # of a hook, which the log has told of
            tunnel.cut(error.reason)
            return
        connection.become_tunnel(tunnel)
        if early:
            tunnel.from_target(early)
        if from_client:
            tunnel.from_client(from_client)

    def _refuse_upgrade(self, problem: str) -> None:
        self._abandon()
        error = UpstreamProtocolError(problem)
        error.bytes_written = error.response_started = True
        self._failed(error)

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
                if is_grpc(request.header(b"content-type")):  # a stream without a message is nobody's fault
                    self._settle(Outcome.TIMEOUT, now, now - self._sent_at, is_fault=False, reason=error.reason)
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
            is_sent = self._connection is not None
            error = UpstreamSilent("no head in time") if is_sent else UpstreamTimeout("no connection in time")
            error.bytes_written = is_sent
            self._abandon()
            self._failed(error)
            return
        request.fail(error)


def _is_accepted(request: GatewayRequest, headers: HeaderList) -> bool:
    """Whether the target has answered the key, which is ours: clients of HTTP/2 have none (RFC 8441 section 5)."""
    key = request.fields[b"sec-websocket-key"]
    return field_values(headers, b"sec-websocket-accept") == [websocket_accept(key)]
