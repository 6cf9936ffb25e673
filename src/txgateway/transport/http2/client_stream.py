"""One exchange with a target over HTTP/2: a ``ClientConnection`` that lives as long as its stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txgateway.errors import UpstreamError, UpstreamProtocolError
from txgateway.transport.http2.codes import CANCEL, NO_ERROR, PROTOCOL_ERROR, StreamFault
from txgateway.transport.http2.fields import ResponseHead
from txgateway.transport.http2.header_decoder import CONNECTION_SPECIFIC
from txgateway.transport.http2.stream import Stream
from txgateway.transport.http2.streams import ENDED
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList, ResponseHandler, Tunnel
from txgateway.transport.websocket import WEBSOCKET, websocket_accept

if TYPE_CHECKING:
    from txgateway.transport.http2.client import Http2ClientConnection

#: Most 1xx responses in one exchange.
MAX_INFORMATIONAL: Final = 16
_NOT_SENT: Final = CONNECTION_SPECIFIC | {b"host"}


class ClientStream(Stream):
    """An exchange, from before it has a number.

    A WebSocket's upgrade becomes an extended CONNECT (RFC 8441), and its 200 a 101.

    Attributes:
        reused: its connection has completed an exchange.
        has_head: of the response, which trailers may follow.
    """

    __slots__ = (
        "_handler",
        "_informational",
        "_is_head_request",
        "_key",
        "_tunnel",
        "_upgrade",
        "has_head",
        "reused",
    )

    connection: Http2ClientConnection
    version = b"2"

    def __init__(self, connection: Http2ClientConnection, *, is_reused: bool) -> None:
        super().__init__(connection, 0)
        self.reused = is_reused
        self._handler: ResponseHandler | None = None
        self._tunnel: Tunnel | None = None
        self._informational = 0
        self.has_head = self._is_head_request = False
        self._upgrade = self._key = b""

    # --- sending --------------------------------------------------------------------------------------------------

    def start(
        self,
        handler: ResponseHandler,
        method: bytes,
        target: bytes,
        headers: HeaderList,
        length: int,
        first: bytes,
        ended: bool,
        upgrade: bytes = b"",
    ) -> None:
        """Send a request head, and ``first`` bytes of its body in the same write."""
        connection = self.connection
        self._handler = handler
        self._is_head_request = method == b"HEAD"
        self._upgrade = upgrade
        authority = b""
        fields: HeaderList = []
        for header in headers:
            if header[0] not in _NOT_SENT:
                fields.append(header)
            elif header[0] == b"host":
                authority = header[2]
        pseudo = [
            (b":method", b"", method),
            (b":scheme", b"", connection.scheme),
            (b":authority", b"", authority),
            (b":path", b"", target),
        ]
        if upgrade:
            if upgrade.lower() != WEBSOCKET or not connection.peer_connects:
                connection.clock.callLater(0, self._cannot_upgrade)
                return
            ended = False
            self._key = next((value for name, _, value in fields if name == b"sec-websocket-key"), b"")
            fields = [header for header in fields if header[0] != b"sec-websocket-key"]
            pseudo[:1] = [(b":method", b"", b"CONNECT"), (b":protocol", b"", WEBSOCKET)]
        if length >= 0:
            fields.append((b"content-length", b"", b"%d" % length))
        connection.begin(self)
        connection.send_headers(self, pseudo + fields, 0)
        if first:
            self.write(first)
        if ended:
            self.finish([])
        connection.flush_soon()

    def _cannot_upgrade(self) -> None:
        self.fail(UpstreamProtocolError("the target takes no WebSockets over HTTP/2"))
        self.connection.stream_over(is_success=False)

    def send_body(self, data: bytes) -> None:
        """Send more of the request body; without effect once the exchange is over."""
        if self._handler is not None and data and not self.is_local_closed:
            self.write(data)
            self.connection.flush_soon()

    def send_end(self, trailers: HeaderList) -> None:
        """The request body is complete."""
        if self._handler is not None and not self.is_local_closed:
            self.finish(trailers)
            self.connection.flush_soon()

    def stop_sending(self) -> None:
        """The target wants no more of the request: what still comes of it is dropped."""
        self.is_local_closed = True
        self.drop_output()
        if self.write_blocked:
            self.write_blocked = False
            self.on_drained()
        self.on_sent_all()

    def on_sent_all(self) -> None:
        if self._upgrade and self._tunnel is None and self._handler is None and self.is_remote_closed:
            self._leave(NO_ERROR, is_success=True)

    def on_blocked(self) -> None:
        if self._tunnel is not None:
            self._tunnel.target_blocked()
        elif self._handler is not None:
            self._handler.on_write_blocked()

    def on_drained(self) -> None:
        if self._tunnel is not None:
            self._tunnel.target_drained()
        elif self._handler is not None:
            self._handler.on_write_drained()

    # --- receiving ------------------------------------------------------------------------------------------------

    def receive_trailers(self, fields: HeaderList, *, has_ended: bool) -> None:
        """A header block behind the response's."""
        self._touch()
        super().receive_trailers(fields, has_ended=has_ended)

    def on_head(self, head: ResponseHead, *, has_ended: bool) -> None:
        """A header block of a 1xx response, or of the response."""
        handler = self._touch()
        status, headers, length = head.status, head.headers(), head.length
        if status < 200:
            self._informational += 1
            if status == 101 or has_ended or self._informational > MAX_INFORMATIONAL:
                raise StreamFault(PROTOCOL_ERROR, "informational response that there may not be")
            handler.on_informational(status, headers)
            return
        self.has_head = True
        if self._upgrade and status < 300:
            self._upgraded(handler, headers, has_ended=has_ended)
            return
        is_bodiless = self._is_head_request or status == 204 or status == 304
        self._left = 0 if is_bodiless else UNKNOWN_LENGTH if length is None else length
        if has_ended:
            if self._left > 0:
                raise StreamFault(PROTOCOL_ERROR, "length of a body that does not come")
            self._left = 0
        if length is None or status == 204:
            length = NO_BODY if is_bodiless or has_ended else UNKNOWN_LENGTH
        handler.on_head(status, b"", headers, length)
        if has_ended:
            self.receive_end([])

    def _touch(self) -> ResponseHandler:
        handler = self._handler
        if handler is None:  # RFC 9113 section 8.5
            raise StreamFault(PROTOCOL_ERROR, "HEADERS in a tunnel")
        self.connection.touch(handler)
        return handler

    def check_length(self, size: int, *, has_ended: bool) -> None:
        if not self.has_head:
            raise StreamFault(PROTOCOL_ERROR, "DATA before the response")
        super().check_length(size, has_ended=has_ended)

    def on_data(self, data: bytes) -> None:
        if self._tunnel is not None:
            self._tunnel.from_target(data)
        elif self._handler is not None:
            self.connection.touch(self._handler)
            self._handler.on_body(data)

    def on_body_end(self, trailers: HeaderList) -> None:
        """The response is complete and delivered."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.target_lost()
        handler, self._handler = self._handler, None
        if handler is None:
            self._end_tunnel()
            return
        self._leave(NO_ERROR, is_success=True)
        handler.on_end(trailers)
        self.connection.touch(handler)

    def resume(self) -> None:
        """Deliver what is held, and then what comes."""
        super().resume()
        self.connection.after_read()

    def pause_reading(self) -> None:
        """The client is slower than the target."""
        self.pause()

    def resume_reading(self) -> None:
        """Read on."""
        self.resume()

    # --- the end --------------------------------------------------------------------------------------------------

    @property
    def is_answered(self) -> bool:
        """Some of the response has come: the target has looked at the request."""
        return self.has_head or self._informational > 0

    @property
    def has_whole_body(self) -> bool:
        """As much of the response's body has come as was declared, or there is none."""
        return self.has_head and not self._left

    def _leave(self, code: int, *, is_success: bool = False) -> None:
        """The stream is over, whatever of the request is not sent yet."""
        if self.is_open:
            if self.is_local_closed and self.is_remote_closed:
                self.connection.close_stream(self, ENDED)
            else:
                self.connection.reset_stream(self, code)
            self.connection.stream_over(is_success=is_success)

    def fail(self, error: UpstreamError) -> None:
        """The exchange failed; the stream is closed already."""
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.target_lost()
        handler, self._handler = self._handler, None
        if handler is not None:
            error.bytes_written = True
            error.response_started = self.is_answered
            self.connection.leave_alone(handler)
            handler.on_failed(error)
            handler.on_flush()

    def on_fault(self, fault: StreamFault) -> None:
        self.fail(UpstreamProtocolError(fault.problem))
        self.connection.stream_over(is_success=False)

    def on_connection_lost(self) -> None:
        if self._held is None or not self.is_remote_closed:  # else all of the response is here
            error = self.connection.error()
            error.on_reused_connection = self.reused  # of a stream alone that failed, the target has had the request
            self.fail(error)

    def cancel(self) -> None:
        """Give up the exchange; the handler hears nothing more."""
        if self._handler is not None:
            self.connection.leave_alone(self._handler)
        self._handler = None
        self._tunnel = None
        self._held = None
        self._leave(CANCEL)
        self.connection.flush_soon()

    abort = cancel

    def is_alive(self) -> bool:
        """It is, or it would not be."""
        return True

    # --- tunnel ---------------------------------------------------------------------------------------------------

    def _upgraded(self, handler: ResponseHandler, headers: HeaderList, *, has_ended: bool) -> None:
        self._handler = None
        headers = [
            (b"upgrade", b"Upgrade", WEBSOCKET),
            (b"sec-websocket-accept", b"Sec-WebSocket-Accept", websocket_accept(self._key)),
            *headers,
        ]
        handler.on_upgraded(self, headers, b"")
        handler.on_flush()
        if has_ended:
            self.receive_end([])

    def become_tunnel(self, tunnel: Tunnel) -> None:
        """Report to ``tunnel`` from now on; to be called within ``on_upgraded``."""
        self._tunnel = tunnel

    def write_raw(self, data: bytes) -> None:
        """Send opaque bytes through the tunnel."""
        if self.is_open and not self.is_local_closed:
            self.write(data)
            self.connection.flush_soon()

    def close_tunnel(self) -> None:
        """Close the tunnel after what was written; its end hears nothing more."""
        self._tunnel = None
        self._end_tunnel()
        self.connection.flush_soon()

    def _end_tunnel(self) -> None:
        """Nobody is left at our end: END_STREAM both ways (RFC 8441 section 5), and RST_STREAM if that does not come."""
        if not self.is_open:
            return
        if self.is_local_closed:
            self.on_sent_all()
        elif self._end is None:
            self.finish([])
        if self.is_open:
            self.connection.linger(self)
            super().resume()  # what still comes is dropped

    def break_off(self) -> None:
        """The rest of the tunnel's end does not come."""
        self._leave(CANCEL)
