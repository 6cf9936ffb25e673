"""The server side of HTTP/1.x: bytes from a client become requests, which :mod:`.response_writer` answers.

This module decides where one message ends and the next begins, when the client must wait, and whether the connection
lives on. One request at a time: whatever a client pipelines behind an unfinished exchange stays unparsed, at most one
read of it, while reading is paused. So does what is left of a read that would take too long for one turn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.errors import BadRequest, GatewayError, RequestTimeout
from txgateway.transport.framing import ChunkedDecoder, FramingError
from txgateway.transport.heads import RequestHeadReader
from txgateway.transport.http2.server import Http2ServerConnection
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, Tunnel
from txgateway.transport.response_writer import BODY, BUSY, DISCARD, HEAD, TUNNEL, ResponseWriter
from txgateway.transport.sockets import has_left, unsent_bytes

if TYPE_CHECKING:
    from txgateway.transport.http1_factory import Http1ServerFactory

_log = Logger(__name__)

# Why reading is paused.
_BY_BODY = 1
_BY_PIPELINE = 2
#: After an answer that ends the connection, what the client still sends is read and dropped for this long, and up to
#: this much, so that the kernel does not reset the connection before the client has seen the answer.
LINGER_S = 5.0
LINGER_BYTES = 16 * 1024 * 1024
#: Seconds between two looks whether a client is still there that nothing is read from. Not so in tunnels: what a client
#: has sent before it left is for the other end.
LOOK_S = 1.0
_LOOKED_AT = frozenset((BODY, BUSY))
#: How a client begins that knows that we speak HTTP/2.
HTTP2_LINE = b"PRI * HTTP/2"


@implementer(IPushProducer)
class Http1ServerConnection(ResponseWriter):
    """One client connection, and the server channel of the exchange that is on it.

    The base class answers; this one reads, and keeps the connection.

    Args:
        factory: limits, the wheel, and where requests go.

    Attributes:
        peer_ip: the peer's address as text, IPv4 in its own form; empty for UNIX sockets.
        scheme: ``http`` or ``https``.
        local_port: that the connection came in on.
        client_certificate: what backends are told of the client's certificate; empty without one.
        forwarded: scratch space of the forwarding rules, which lives as long as the connection.
        memo: scratch space of the proxy, likewise.
        deadline: looked at by the wheel (idle, head and lingering timeouts).
    """

    transport: Any
    protocol = "h1"
    deadline: float = math.inf
    write_blocked = False
    is_tunnel = False
    client_certificate = b""

    def __init__(self, factory: Http1ServerFactory) -> None:
        super().__init__(factory)
        self.wheel = factory.wheel
        self.seconds = factory.clock.seconds
        self.peer_ip = ""
        self.scheme = b"http"
        self.local_port = 0
        self.forwarded: dict[bytes, Any] = {}
        self.memo: Any = None
        self._reader = RequestHeadReader(factory.limits)
        self._head = None  # type: ignore[assignment]  # before the first request
        self._state = HEAD
        self._request: Any = None
        self._pending = b""
        self._paused = 0
        self._discarded = 0
        self._is_closing = False
        self._last_unsent = 0
        self._tunnel: Tunnel | None = None

    # --- the transport's side ---------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        transport = self.transport
        if hasattr(transport, "setTcpNoDelay"):
            transport.setTcpNoDelay(True)
        peer_ip = getattr(transport.getPeer(), "host", "")
        self.peer_ip = peer_ip.removeprefix("::ffff:")
        self.local_port = getattr(transport.getHost(), "port", 0)
        transport.registerProducer(self, True)
        self.wheel.watch_coarse(self)
        self.deadline = self.wheel.after(self.factory.limits.keepalive_timeout_s)

    def dataReceived(self, data: bytes) -> None:
        try:
            self._receive(data)
        except Exception:  # nothing may cross into the reactor
            _log.failure("fault in the HTTP/1.1 server transport")
            self.transport.abortConnection()
        finally:
            if self._out:
                self.flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.wheel.forget_coarse(self)
        self.wheel.forget(self)
        self._state = DISCARD
        self._reader.close()
        self._out.clear()
        self.factory.connection_lost(self)
        request, self._request = self._request, None
        tunnel, self._tunnel = self._tunnel, None
        if tunnel is not None:
            tunnel.client_lost()
        elif request is not None:
            request.client_gone()

    def pauseProducing(self) -> None:
        """The send buffer is full: whoever produces the response must wait."""
        self.write_blocked = True
        if self._tunnel is not None:
            self._tunnel.client_blocked()
        elif self._request is not None:
            self._request.downstream_blocked()

    def resumeProducing(self) -> None:
        """The send buffer has emptied."""
        self.write_blocked = False
        if self._tunnel is not None:
            self._tunnel.client_drained()
        elif self._request is not None:
            self._request.downstream_drained()
        elif self._paused & _BY_PIPELINE:
            self._serve_held_later()

    def stopProducing(self) -> None:
        """The transport is gone; :meth:`connectionLost` follows."""

    def on_deadline(self, now: float) -> None:
        """Idle too long, a head too slow, a lingering close at its end, or time to see whether a paused client is there."""
        self.deadline = math.inf
        if self._request is not None and self._state in _LOOKED_AT:
            if self._paused:
                self._look_for_client(now)
            return
        if self._state == HEAD and self._reader.partial:
            self._refuse(RequestTimeout("head not complete in time"))
            self.flush()
            return
        unsent = unsent_bytes(self.transport)
        if unsent and unsent != self._last_unsent:  # a slow reader of a finished response that still moves
            self._last_unsent = unsent
            self.deadline = now + self.factory.limits.keepalive_timeout_s
            return
        self.wheel.forget(self)
        if unsent or self._is_closing:
            self.transport.abortConnection()
        else:
            self._lose()

    # --- reading ------------------------------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        while data:
            state = self._state
            if state == HEAD and not self.write_blocked:
                data = self._receive_head(data)
            elif state == BODY and not self._pending:
                data = self._receive_body(data)
            elif state == TUNNEL:
                self._tunnel.from_client(data)  # type: ignore[union-attr]
                return
            elif state != DISCARD:
                # Pipelined, early bytes of a tunnel, the next request of a client that does not take its answers, or
                # behind what is held of a body: at most this one read, since reading stops here.
                self._hold(data)
                return
            else:
                self._discarded += len(data)
                if self._discarded > LINGER_BYTES:
                    self.transport.abortConnection()
                return
            if data and self._state == state:
                # Answered on the spot, or more small chunks than one turn takes. The rest waits for its turn, or a
                # readful of small requests or chunks would hold up all other clients.
                self._hold(data)
                self._serve_held_later()
                return

    def _receive_head(self, data: bytes) -> bytes:
        reader = self._reader
        before = reader.partial
        was_partial = bool(before)
        try:
            head, rest = reader.feed(data)
        except GatewayError as error:
            if (before + data).startswith(HTTP2_LINE) and self._may_speak_http2():
                self.become_http2().dataReceived(before + data)
                return b""
            self._refuse(error)
            return b""
        if head is None:
            if not was_partial and reader.partial:
                self.deadline = self.wheel.after(self.factory.limits.header_timeout_s)
                self.wheel.watch(self)
            return b""
        if was_partial:
            self.wheel.forget(self)
        request = self._begin(head)
        if head.length == NO_BODY or head.length == 0:
            self._state = BUSY
            request.body_complete = True
        else:
            self._state = BODY
            self._chunks = ChunkedDecoder() if head.length == UNKNOWN_LENGTH else None
            self._left = head.length
            if rest:
                try:
                    rest = self._decode_body(rest)
                except FramingError as exc:
                    self._state = DISCARD
                    self.factory.refuse(request, BadRequest(str(exc)))
                    return b""
        self.factory.dispatch(request)
        if self._state == BODY and not request.body_wanted:
            self._pause(_BY_BODY)
        return rest

    def _may_speak_http2(self) -> bool:
        """RFC 9113 section 3.3: only on a plain connection, where nothing else was said before."""
        return self.factory.http2 and self.scheme == b"http" and self._head is None

    def become_http2(self) -> Http2ServerConnection:
        """Let HTTP/2 have the connection, from its preface on; it has been told what this one knows."""
        self.wheel.forget_coarse(self)
        self.wheel.forget(self)
        self._state = DISCARD
        self._reader.close()
        transport = self.transport
        transport.unregisterProducer()
        connection = Http2ServerConnection(self.factory)
        connection.peer_ip = self.peer_ip
        connection.scheme = self.scheme
        connection.local_port = self.local_port
        connection.client_certificate = self.client_certificate
        self.factory.replace(self, connection)
        if self.scheme == b"https":
            transport.wrappedProtocol = connection
        else:
            transport.protocol = connection
        connection.makeConnection(transport)
        return connection

    def _begin(self, head: Any) -> Any:
        self._head = head
        self._keep_alive = head.keep_alive
        self.deadline = math.inf
        self._request = request = self.factory.request_class(self, head)
        return request

    def _refuse(self, error: GatewayError) -> None:
        """Answer a message that cannot be a request with one well-formed error, and close."""
        self.wheel.forget(self)
        request = self._begin(self._reader.refused())
        self._state = DISCARD
        self.factory.refuse(request, error)

    def _receive_body(self, data: bytes) -> bytes:
        try:
            return self._decode_body(data)
        except FramingError as exc:
            self._state = DISCARD
            self._request.fail(BadRequest(str(exc)))
            return b""

    def _decode_body(self, data: bytes) -> bytes:
        """Deliver body bytes to the request; returns what lies beyond the body."""
        request = self._request
        chunks = self._chunks
        if chunks is None:
            if len(data) < self._left:
                self._left -= len(data)
                request.receive_body(data)
                return b""
            body, rest = (data, b"") if len(data) == self._left else (data[: self._left], data[self._left :])
            self._left = 0
            self._state = BUSY
            request.receive_body(body)
            request.receive_body_end([])
            return rest
        body = chunks.feed(data)
        if chunks.done:
            self._state = BUSY
        if body:
            request.receive_body(body)
        if chunks.done:
            request.receive_body_end(chunks.trailers)
        return chunks.leftover

    def _hold(self, data: bytes) -> None:
        self._pending += data
        self._pause(_BY_PIPELINE)

    def _pause(self, bit: int) -> None:
        if not self._paused:
            self.transport.pauseProducing()
            if self._request is not None:
                self.deadline = self.wheel.after(LOOK_S)
        self._paused |= bit

    def _look_for_client(self, now: float) -> None:
        """Whoever is not read from is not seen leaving either."""
        if has_left(self.transport):
            self.transport.abortConnection()
        else:
            self.deadline = now + LOOK_S

    def _resume(self, bits: int) -> None:
        if self._paused & bits:
            self._paused &= ~bits
            if not self._paused:
                self.transport.resumeProducing()

    # --- the channel of the current exchange (what a request calls) ---------------------------------------------

    def pause_body(self) -> None:
        """Stop reading the request body."""
        if self._state == BODY:
            self._pause(_BY_BODY)

    def resume_body(self) -> None:
        """Read the request body (on)."""
        was_paused = self._paused & _BY_BODY
        self._resume(_BY_BODY)
        if was_paused and self._pending and self._state == BODY:
            self._serve_held_later()

    def reset(self) -> None:
        """Cut the connection, so that an incomplete response cannot look complete.

        What there is of it is sent before: who gets nothing at all takes its connection for one that has been closed
        while it was idle, and may ask again.
        """
        self._request = None
        self._state = DISCARD
        out, self._out = self._out, []
        if out:
            self.transport.write(b"".join(out))
        self.transport.abortConnection()

    # --- the channel as one end of a tunnel ---------------------------------------------------------------------

    def become_tunnel(self, tunnel: Tunnel) -> bytes:
        """Hand all further bytes to ``tunnel``; returns those that have already come."""
        self.flush()
        self._tunnel = tunnel
        self._state = TUNNEL
        self.deadline = math.inf  # its time is the tunnel's business
        self.is_tunnel = True
        self.factory.tunnel_opened()
        early, self._pending = self._pending, b""
        self._resume(_BY_PIPELINE | _BY_BODY)
        return early

    def tunnel_write(self, data: bytes) -> None:
        """Send opaque bytes."""
        self.transport.write(data)

    def tunnel_pause(self) -> None:
        """Stop reading: the other end is slower."""
        self._pause(_BY_BODY)

    def tunnel_resume(self) -> None:
        """Read on."""
        self._resume(_BY_BODY)

    def tunnel_close(self) -> None:
        """Close after what was written has gone out."""
        self._tunnel = None
        self._request = None
        self._linger()

    # --- the end of an exchange and of the connection -------------------------------------------------------------

    def close_when_idle(self) -> None:
        """Close now if nothing is in progress, else with the current exchange."""
        self._keep_alive = False
        if self._tunnel is not None:
            self._tunnel.going_away()
        elif self._request is None and self._state == HEAD and not self._reader.partial:
            self._lose()

    def shut_down(self, error: GatewayError) -> None:
        """End the connection at once: what is in progress is answered with ``error``, or cut if its answer has begun."""
        self._keep_alive = False
        if self._tunnel is not None:
            self._tunnel.cut(error.reason)
        elif self._request is not None:
            self._request.fail(error)
        elif self._state == HEAD:
            self._lose()

    def _exchange_over(self) -> None:
        if self._keep_alive and self._state == BUSY:
            self._state = HEAD
            self.deadline = self.wheel.after(self.factory.limits.keepalive_timeout_s)
            if self._pending:
                self._serve_held_later()  # not from here, which is deep inside the exchange that just ended
            return
        self.flush()
        if self._state == BUSY and not self._pending and not self._head.keep_alive:
            self._lose()  # the client asked for it and has nothing more to send
        else:
            self._linger()

    def _serve_held_later(self) -> None:
        self.factory.clock.callLater(0, self._serve_held)

    def _serve_held(self) -> None:
        if self._state == BODY and self._paused & _BY_BODY:
            return  # it goes on when the body is wanted
        if self._state != BODY and (self._state != HEAD or self.write_blocked):
            return  # it goes on at the end of the exchange, or when the client has taken its answers
        data, self._pending = self._pending, b""
        self.dataReceived(data)
        if not self._pending:
            self._resume(_BY_PIPELINE)

    def _linger(self) -> None:
        """RFC 9112 section 9.6: close the sending side, then read and drop until the client closes, within limits."""
        self._state = DISCARD
        self._pending = b""
        self.transport.unregisterProducer()
        self._resume(_BY_PIPELINE | _BY_BODY)
        self.transport.loseWriteConnection()
        self.deadline = self.wheel.after(LINGER_S)
        self.wheel.watch(self)

    def _lose(self) -> None:
        """Close after what was written has gone out, unless the client takes too long over it."""
        self._state = DISCARD
        self._is_closing = True
        self.deadline = self.wheel.after(self.factory.limits.keepalive_timeout_s)
        self.transport.unregisterProducer()
        self.transport.loseConnection()
