"""One stream of a client: the server channel of its request, as :mod:`..response_writer` is that of HTTP/1.1's."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from twisted.logger import Logger

from txgateway.errors import CLIENT_GONE, BadRequest, GatewayError, InternalError
from txgateway.fields import has_field
from txgateway.transport.http2.codes import CANCEL, INTERNAL_ERROR, NO_ERROR, PROTOCOL_ERROR, StreamFault
from txgateway.transport.http2.fields import status_field
from txgateway.transport.http2.stream import Stream
from txgateway.transport.http2.streams import ENDED, LINGER_S
from txgateway.transport.interfaces import NO_BODY, HeaderList, RequestHead, Tunnel
from txgateway.transport.sockets import unsent_bytes

if TYPE_CHECKING:
    from txgateway.transport.http2.server import Http2ServerConnection

_log = Logger(__name__)

#: Of a WebSocket's 101, which HTTP/2 says otherwise, or not at all (RFC 8441 section 5).
_NOT_IN_TUNNELS: Final = frozenset((b"connection", b"upgrade", b"sec-websocket-accept"))


class ServerStream(Stream):
    """A request's channel.

    Attributes:
        peer_ip, scheme, local_port, client_certificate, forwarded: of the connection.
        is_connect: a tunnel, or about to be one: nothing but DATA has a meaning here.
        deadline: until when the client has to take what is left of an answer that is complete.
    """

    __slots__ = (
        "_bodiless",
        "_body_left",
        "_head",
        "_is_mute",
        "_last_queued",
        "_request",
        "_tunnel",
        "client_certificate",
        "deadline",
        "factory",
        "forwarded",
        "is_connect",
        "local_port",
        "peer_ip",
        "scheme",
        "seconds",
    )

    connection: Http2ServerConnection

    def __init__(self, connection: Http2ServerConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id)
        self.factory = connection.factory
        self.peer_ip = connection.peer_ip
        self.scheme = connection.scheme
        self.local_port = connection.local_port
        self.client_certificate = connection.client_certificate
        self.forwarded = connection.forwarded
        self.seconds = connection.clock.seconds
        self.deadline = math.inf
        self._tunnel: Tunnel | None = None
        self._is_mute = False
        self._bodiless = False
        self._body_left = NO_BODY
        self._last_queued = 0

    @property
    def memo(self) -> Any:
        """Scratch space of the proxy, which lives as long as the connection."""
        return self.connection.memo

    @memo.setter
    def memo(self, memo: Any) -> None:
        self.connection.memo = memo

    @property
    def transport(self) -> Any:
        """The connection's."""
        return self.connection.transport

    def begin(self, head: RequestHead) -> Any:
        """The head is here; returns the request."""
        self._head = head
        self._left = head.length
        self.is_connect = bool(head.upgrade)
        self._request: Any = self.factory.request_class(self, head)
        return self._request

    def refuse_malformed(self, fault: StreamFault) -> None:
        """The log gets its line; the client gets RST_STREAM and nothing else (RFC 9113 section 8.1.1)."""
        self._is_mute = True
        self.factory.refuse(self._request, BadRequest(fault.problem))

    # --- from the client ------------------------------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_client(data)
        elif self._request is not None:
            self._request.receive_body(data)

    def on_body_end(self, trailers: HeaderList) -> None:
        if self._tunnel is not None:
            _, tunnel = self._give_up()
            tunnel.client_lost()  # type: ignore[union-attr]
            self.finish([])
        elif self._request is not None:
            self._request.receive_body_end(trailers)
        elif self.is_local_closed:  # the last of a tunnel
            self.on_sent_all()

    def on_fault(self, fault: StreamFault) -> None:
        request, tunnel = self._give_up()
        if tunnel is not None:
            tunnel.cut(BadRequest.reason)
        elif request is not None:
            self._is_mute = True
            self._request = request
            request.fail(BadRequest(fault.problem))

    def on_client_gone(self) -> None:
        """RST_STREAM, or the connection is gone."""
        request, tunnel = self._give_up()
        if tunnel is not None:
            tunnel.client_lost()
        elif request is not None:
            request.client_gone()

    on_connection_lost = on_client_gone

    def _give_up(self) -> tuple[Any, Tunnel | None]:
        self.connection.wheel.forget_coarse(self)
        request, self._request = self._request, None
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            self.factory.counts.connection_closed("tunnel")
        return request, tunnel

    def on_blocked(self) -> None:
        if self._tunnel is not None:
            self._tunnel.client_blocked()
        elif self._request is not None:
            self._request.downstream_blocked()

    def on_drained(self) -> None:
        if self._tunnel is not None:
            self._tunnel.client_drained()
        elif self._request is not None:
            self._request.downstream_drained()

    # --- the channel (what a request calls) -----------------------------------------------------------------------

    def pause_body(self) -> None:
        """Let the request body wait."""
        self.pause()

    def resume_body(self) -> None:
        """Deliver the request body (on)."""
        self.resume()

    def send_continue(self) -> None:
        """Invite the body of a request that said ``Expect: 100-continue``."""
        self.send_informational(100, [])
        self.flush()

    def send_informational(self, status: int, headers: HeaderList) -> None:
        """Relay a 1xx response."""
        if not self._is_mute and self.is_open:
            self.connection.send_headers(self, [status_field(status), *headers], 0)

    def send_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """Start the response.

        Args:
            status: of a final response.
            reason: HTTP/2 has none.
            headers: end-to-end fields.
            length: of the body: a count, NO_BODY or UNKNOWN_LENGTH.
        """
        if self._is_mute or not self.is_open:
            return
        self._bodiless = self._head.method == b"HEAD" or status == 204 or status == 304
        if status == 204:
            length = NO_BODY  # RFC 9110 section 8.6
        self._body_left = length
        if self.is_connect and status // 100 == 2:  # to the client it would begin a tunnel
            _log.error("an answer of {status} to CONNECT without a tunnel", status=status)
            self.reset()
            return
        self.is_connect = False
        fields = [status_field(status), *headers]
        if not has_field(headers, b"date"):
            fields.append((b"date", b"", self.factory.http_date()))  # RFC 9110 section 6.6.1
        if length >= 0:
            fields.append((b"content-length", b"", b"%d" % length))
        self.connection.send_headers(self, fields, 0)
        if self.factory.draining:
            self.connection.close_when_idle()

    def send_switching(self, headers: HeaderList) -> None:
        """Answer an extended CONNECT with 200 (RFC 8441 section 5); ``headers`` are those of a 101."""
        kept = [header for header in headers if header[0] not in _NOT_IN_TUNNELS]
        self.connection.send_headers(self, [status_field(200), *kept], 0)

    def send_body(self, data: bytes) -> None:
        """Send a piece of the response body; the body of a response that may have none is dropped."""
        if self._bodiless or self._is_mute or not self.is_open or not data:
            return
        if self._body_left >= 0:
            self._body_left -= len(data)
            if self._body_left < 0:
                _log.error("response body is longer than declared")
                self._request.fail(InternalError())
                return
        self.write(data)

    def send_end(self, trailers: HeaderList) -> bool:
        """The response is complete; the exchange is over for the caller.

        Returns:
            False if the body was not what its head had declared, and the stream was reset.
        """
        if self._request is None:
            return False
        if not self.is_open and not self._is_mute:  # the connection is gone, which the request has not heard yet
            self._request.reason, self._request = CLIENT_GONE, None
            return False
        if self._is_mute:
            self._request = None
            if self.is_open:
                self.connection.reset_stream(self, PROTOCOL_ERROR)
            return True
        if self._body_left > 0 and not self._bodiless:
            _log.error("response body is shorter than declared")
            self.reset()
            return False
        self._request = None
        self.finish(trailers)
        return True

    def finish(self, trailers: HeaderList) -> None:
        super().finish(trailers)
        if not self.is_local_closed:
            self.deadline = self.connection.wheel.after(self.factory.limits.keepalive_timeout_s)
            self.connection.wheel.watch_coarse(self)

    def on_sent_all(self) -> None:
        self.connection.wheel.forget_coarse(self)
        if not self.is_open:
            return
        if self.is_remote_closed:
            self.connection.close_stream(self, ENDED)
        elif self.is_connect:  # a tunnel ends with END_STREAM both ways (RFC 8441 section 5)
            self._last_queued = 0
            self.deadline = self.connection.wheel.after(LINGER_S)
            self.connection.wheel.watch_coarse(self)
        else:
            self.connection.reset_stream(self, NO_ERROR)  # RFC 9113 section 8.1: an early answer

    def on_deadline(self, now: float) -> None:
        """The client does not take the rest of an answer, or does not end its half of a tunnel."""
        if self.queued != self._last_queued:  # it does, but slowly
            self._last_queued = self.queued
            self.deadline = now + self.factory.limits.keepalive_timeout_s
            return
        self.deadline = math.inf
        self.connection.wheel.forget_coarse(self)
        if self.is_open:
            self.connection.reset_stream(self, CANCEL)
            self.connection.flush_soon()

    def flush(self) -> None:
        """Write out what was collected."""
        self.connection.flush_soon()

    def unsent_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return self.queued or unsent_bytes(self.connection.transport)

    def reset(self) -> None:
        """End the stream, so that an incomplete response cannot look complete."""
        _, tunnel = self._give_up()
        if self.is_open:
            self.connection.reset_stream(self, INTERNAL_ERROR if tunnel is None else CANCEL)  # RFC 8441 section 5
            self.connection.flush_soon()

    def close_when_idle(self) -> None:
        """The connection goes on: a request that is malformed in its own way spoils no other."""

    def going_away(self) -> None:
        """A client on a tunnel is told to leave."""
        if self._tunnel is not None:
            self._tunnel.going_away()

    def shut_down(self, error: GatewayError) -> None:
        """Answer with ``error``, or cut what has begun."""
        if self._tunnel is not None:
            self._tunnel.cut(error.reason)
        elif self._request is not None:
            self._request.fail(error)

    # --- the channel as one end of a tunnel -----------------------------------------------------------------------

    def become_tunnel(self, tunnel: Tunnel) -> bytes:
        """Hand all further bytes to ``tunnel``; returns those that have already come."""
        self._tunnel = tunnel
        self.factory.counts.connection_opened("tunnel")
        early = self.take_held()
        self.connection.flush_soon()
        return early

    def tunnel_write(self, data: bytes) -> None:
        """Send opaque bytes."""
        if self.is_open:
            self.write(data)
            self.connection.flush_soon()

    def tunnel_pause(self) -> None:
        """The other end is slower."""
        self.pause()

    def tunnel_resume(self) -> None:
        """Go on."""
        self.resume()

    def tunnel_close(self) -> None:
        """Close after what was written has gone out."""
        self._give_up()
        if self.is_open:
            self.finish([])
            self.resume()  # what still comes is dropped
            self.connection.flush_soon()
