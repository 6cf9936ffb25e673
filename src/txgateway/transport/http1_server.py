"""The server side of HTTP/1.x: bytes from a client become requests, responses become bytes.

This module decides where one message ends and the next begins, when the client must wait, and whether the connection
lives on. One request at a time: whatever a client pipelines behind an unfinished exchange stays unparsed, at most one
read of it, while reading is paused.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.errors import BadRequest, GatewayError, InternalError, RequestTimeout
from txgateway.transport.framing import LAST_CHUNK, ChunkedDecoder, FramingError, encode_last_chunk
from txgateway.transport.heads import CONTINUE, RequestHeadReader, informational_head, status_line
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList, Tunnel
from txgateway.transport.sockets import unsent_bytes

if TYPE_CHECKING:
    from txgateway.transport.http1_factory import Http1ServerFactory

_log = Logger()

# What the next bytes of a connection are.
_HEAD, _BODY, _BUSY, _DISCARD, _TUNNEL = range(5)
# Why reading is paused.
_BY_BODY = 1
_BY_PIPELINE = 2
#: After an answer that ends the connection, what the client still sends is read and dropped for this long, and up to
#: this much, so that the kernel does not reset the connection before the client has seen the answer.
LINGER_S = 5.0
LINGER_BYTES = 16 * 1024 * 1024


@implementer(IPushProducer)
class Http1ServerConnection(TwistedProtocol):
    """One client connection, and the server channel of the exchange that is on it.

    Args:
        factory: limits, the wheel, and where requests go.

    Attributes:
        peer_ip: the peer's address as text, IPv4 in its own form; empty for UNIX sockets.
        scheme: ``http`` or ``https``.
        local_port: that the connection came in on.
        forwarded: scratch space of the forwarding rules, which lives as long as the connection.
        memo: scratch space of the proxy, likewise.
        deadline: looked at by the wheel (idle, head and lingering timeouts).
    """

    transport: Any
    deadline: float = math.inf
    write_blocked = False
    is_tunnel = False

    def __init__(self, factory: Http1ServerFactory) -> None:
        self.factory = factory
        self.wheel = factory.wheel
        self.seconds = factory.clock.seconds
        self.peer_ip = ""
        self.scheme = b"http"
        self.local_port = 0
        self.forwarded: dict[bytes, Any] = {}
        self.memo: Any = None
        self._reader = RequestHeadReader(factory.limits)
        self._state = _HEAD
        self._request: Any = None
        self._pending = b""
        self._paused = 0
        self._discarded = 0
        self._is_closing = False
        self._out: list[bytes] = []
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
        self._state = _DISCARD
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
            self.factory.clock.callLater(0, self._serve_pipelined)

    def stopProducing(self) -> None:
        """The transport is gone; :meth:`connectionLost` follows."""

    def on_deadline(self, now: float) -> None:
        """Idle too long, a head too slow, or a lingering close at its end."""
        self.deadline = math.inf
        if self._state == _HEAD and self._reader.partial:
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
            if state == _HEAD and not self.write_blocked:
                data = self._receive_head(data)
                if data and self._state == _HEAD:
                    # Answered on the spot. The next one waits for its turn, or a readful of small requests would hold
                    # up all other clients.
                    self._hold(data)
                    self.factory.clock.callLater(0, self._serve_pipelined)
                    return
            elif state == _BODY:
                data = self._receive_body(data)
            elif state == _TUNNEL:
                self._tunnel.from_client(data)  # type: ignore[union-attr]
                return
            elif state in (_BUSY, _HEAD):
                # Pipelined, early bytes of a tunnel, or the next request of a client that does not take its answers:
                # at most this one read, since reading stops here.
                self._hold(data)
                return
            else:
                self._discarded += len(data)
                if self._discarded > LINGER_BYTES:
                    self.transport.abortConnection()
                return

    def _receive_head(self, data: bytes) -> bytes:
        reader = self._reader
        was_partial = bool(reader.partial)
        try:
            head, rest = reader.feed(data)
        except GatewayError as error:
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
            self._state = _BUSY
            request.body_complete = True
        else:
            self._state = _BODY
            self._chunks = ChunkedDecoder() if head.length == UNKNOWN_LENGTH else None
            self._left = head.length
            if rest:
                try:
                    rest = self._decode_body(rest)
                except FramingError as exc:
                    self._state = _DISCARD
                    self.factory.refuse(request, BadRequest(str(exc)))
                    return b""
        self.factory.dispatch(request)
        if self._state == _BODY and not request.body_wanted:
            self._pause(_BY_BODY)
        return rest

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
        self._state = _DISCARD
        self.factory.refuse(request, error)

    def _receive_body(self, data: bytes) -> bytes:
        try:
            return self._decode_body(data)
        except FramingError as exc:
            self._state = _DISCARD
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
            self._state = _BUSY
            request.receive_body(body)
            request.receive_body_end([])
            return rest
        body = chunks.feed(data)
        if chunks.done:
            self._state = _BUSY
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
        self._paused |= bit

    def _resume(self, bits: int) -> None:
        if self._paused & bits:
            self._paused &= ~bits
            if not self._paused:
                self.transport.resumeProducing()

    # --- the channel of the current exchange (what a request calls) ---------------------------------------------

    def pause_body(self) -> None:
        """Stop reading the request body."""
        if self._state == _BODY:
            self._pause(_BY_BODY)

    def resume_body(self) -> None:
        """Read the request body (on)."""
        self._resume(_BY_BODY)

    def send_continue(self) -> None:
        """Invite the body of a request that said ``Expect: 100-continue``."""
        self._out.append(CONTINUE)
        self.flush()

    def send_informational(self, status: int, headers: HeaderList) -> None:
        """Relay a 1xx response; HTTP/1.0 clients do not know them (RFC 9110 section 15.2)."""
        if self._head.version != b"HTTP/1.0":
            self._out.append(informational_head(status, headers))

    def send_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """Start the response; framing is made here.

        Args:
            status: of a final response.
            reason: phrase, or empty for the standard one.
            headers: end-to-end fields.
            length: of the body: a count, NO_BODY or UNKNOWN_LENGTH.
        """
        head = self._head
        if self._state != _BUSY or self.factory.draining:
            self._keep_alive = False  # the body is not all here, and may never be
        self._chunked = False
        bodiless = head.method == b"HEAD" or status == 204 or status == 304
        if status == 204:
            length = NO_BODY  # RFC 9110 section 8.6
        elif length < 0 and not bodiless:
            if length == NO_BODY:
                length = 0
            elif head.version != b"HTTP/1.0":
                self._chunked = True
            else:
                self._keep_alive = False  # the end of the connection ends the body
        self._bodiless = bodiless
        self._body_left = length
        out = self._out
        out.append(status_line(status, reason))
        has_date = False
        for lowered, name, value in headers:
            out += (name, b": ", value, b"\r\n")
            if lowered == b"date":
                has_date = True
        if not has_date:
            out += (b"Date: ", self.factory.http_date(), b"\r\n")  # RFC 9110 section 6.6.1
        if length >= 0:
            out.append(b"Content-Length: %d\r\n" % length)
        elif self._chunked:
            out.append(b"Transfer-Encoding: chunked\r\n")
        if not self._keep_alive:
            out.append(b"Connection: close\r\n\r\n")
        elif head.version == b"HTTP/1.0":
            out.append(b"Connection: keep-alive\r\n\r\n")
        else:
            out.append(b"\r\n")

    def send_switching(self, headers: HeaderList) -> None:
        """Write the 101 head; ``headers`` holds ``Connection`` and ``Upgrade``."""
        self._out.append(informational_head(101, headers))

    def send_body(self, data: bytes) -> None:
        """Send a piece of the response body; the body of a response that may have none is dropped."""
        if self._bodiless:
            return
        if self._chunked:
            self._out += (b"%x\r\n" % len(data), data, b"\r\n")
            return
        if self._body_left >= 0:
            self._body_left -= len(data)
            if self._body_left < 0:  # a client would read it as the next response
                _log.error("response body is longer than declared")
                self._request.fail(InternalError())
                return
        self._out.append(data)

    def send_end(self, trailers: HeaderList) -> bool:
        """The response is complete; the exchange is over for the caller.

        Returns:
            False if the body was not what its head had declared, and the connection was cut.
        """
        if self._request is None:
            return False
        if self._chunked:
            self._out.append(encode_last_chunk(trailers) if trailers else LAST_CHUNK)
        elif self._body_left > 0 and not self._bodiless:
            _log.error("response body is shorter than declared")
            self.reset()
            return False
        self._request = None
        self._exchange_over()
        return True

    def flush(self) -> None:
        """Hand what was collected to the transport, as one write."""
        out = self._out
        if out:
            self._out = []
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def unsent_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return unsent_bytes(self.transport)

    def reset(self) -> None:
        """Cut the connection, so that an incomplete response cannot look complete."""
        self._out.clear()
        self._request = None
        self._state = _DISCARD
        self.transport.abortConnection()

    # --- the channel as one end of a tunnel ---------------------------------------------------------------------

    def become_tunnel(self, tunnel: Tunnel) -> bytes:
        """Hand all further bytes to ``tunnel``; returns those that have already come."""
        self.flush()
        self._tunnel = tunnel
        self._state = _TUNNEL
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
        if self._request is None and self._state == _HEAD and not self._reader.partial:
            self._lose()

    def shut_down(self, error: GatewayError) -> None:
        """End the connection at once: what is in progress is answered with ``error``, or cut if its answer has begun."""
        self._keep_alive = False
        if self._tunnel is not None:
            self._tunnel.cut(error.reason)
        elif self._request is not None:
            self._request.fail(error)
        elif self._state == _HEAD:
            self._lose()

    def _exchange_over(self) -> None:
        if self._keep_alive and self._state == _BUSY:
            self._state = _HEAD
            self.deadline = self.wheel.after(self.factory.limits.keepalive_timeout_s)
            if self._pending:
                # Not from here, which is deep inside the exchange that just ended.
                self.factory.clock.callLater(0, self._serve_pipelined)
            return
        self.flush()
        if self._state == _BUSY and not self._pending and not self._head.keep_alive:
            self._lose()  # the client asked for it and has nothing more to send
        else:
            self._linger()

    def _serve_pipelined(self) -> None:
        if self._state != _HEAD or self.write_blocked:
            return  # it goes on at the end of the exchange, or when the client has taken its answers
        data, self._pending = self._pending, b""
        self.dataReceived(data)
        if not self._pending:
            self._resume(_BY_PIPELINE)

    def _linger(self) -> None:
        """RFC 9112 section 9.6: close the sending side, then read and drop until the client closes, within limits."""
        self._state = _DISCARD
        self._pending = b""
        if isinstance(self.transport, ProtocolWrapper):  # TLS has no half-close, though it passes the call on to TCP
            self._lose()
            return
        self.transport.unregisterProducer()
        self._resume(_BY_PIPELINE | _BY_BODY)
        self.transport.loseWriteConnection()
        self.deadline = self.wheel.after(LINGER_S)
        self.wheel.watch(self)

    def _lose(self) -> None:
        """Close after what was written has gone out, unless the client takes too long over it."""
        self._state = _DISCARD
        self._is_closing = True
        self.deadline = self.wheel.after(self.factory.limits.keepalive_timeout_s)
        self.transport.unregisterProducer()
        self.transport.loseConnection()
