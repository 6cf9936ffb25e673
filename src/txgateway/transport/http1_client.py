"""The client side of HTTP/1.x: one connection to a target, one exchange at a time.

Heads are read and written by :mod:`.http1_response`, bodies delimited by :mod:`.framing`; this module decides where a
response ends, what is an error, and whether the connection may serve another exchange. Deadlines are the business of
whoever owns the exchange, idle connections that of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.errors import UpstreamError, UpstreamProtocolError, UpstreamReset
from txgateway.transport.framing import LAST_CHUNK, ChunkedDecoder, FramingError, encode_chunk, encode_last_chunk
from txgateway.transport.http1_response import CHUNKED, LENGTH, UNTIL_CLOSE, ResponseHead, request_head, response_head
from txgateway.transport.interfaces import UNKNOWN_LENGTH, HeaderList, ResponseHandler, Tunnel
from txgateway.transport.sockets import look_at

_log = Logger(__name__)

#: Largest response head.
MAX_HEAD_BYTES = 64 * 1024
#: Most 1xx responses in one exchange.
MAX_INFORMATIONAL = 16

_END_OF_HEAD = b"\r\n\r\n"

# What the next byte from the target belongs to, if not to a body.
_NOTHING, _HEAD, _TUNNEL, _CLOSED = range(-4, 0)


class ConnectionOwner(Protocol):
    """Who lends connections out, and is told when one comes back or is gone."""

    def release(self, connection: Http1ClientConnection) -> None:
        """An exchange ended cleanly: ``connection`` may be lent again, even before this returns."""

    def forget(self, connection: Http1ClientConnection) -> None:
        """``connection`` will not serve another exchange; may be told more than once."""


@implementer(IPushProducer)
class Http1ClientConnection(TwistedProtocol):
    """A connection to a target that is ready for exactly one exchange at a time.

    The owner's ``release`` comes before the handler's ``on_end``, so that a request made in ``on_end`` may already run
    here. What one read brought is followed by one ``on_flush``, the last one after ``on_end`` or ``on_failed``.
    ``on_write_blocked`` may come while :meth:`start` or :meth:`send_body` is still running.

    Attributes:
        owner: told when an exchange is over; set before the first one.
        reused: has completed an exchange.
        opened_at, idle_since, is_lent: the owner's notes.
    """

    transport: Any  # an ITCPTransport; TLS wrappers only declare it at run time
    owner: ConnectionOwner

    def __init__(self) -> None:
        self.reused = False
        self.version = b"1.1"
        self.is_lent = False
        self.opened_at = self.idle_since = 0.0
        self._handler: ResponseHandler | None = None
        self._phase = _NOTHING
        self._held = b""  # an incomplete head, or what may not be delivered while reading is paused
        self._left = 0
        self._chunks: ChunkedDecoder | None = None
        self._trailers: HeaderList = []
        self._is_paused = False
        self._is_running = False
        self._is_write_blocked = False
        self._response_started = False
        self._keep_alive = False
        self._lost: Failure | None = None
        self._look: Callable[[int], Sequence[object]] | None = None  # made when it is needed
        self._tunnel: Tunnel | None = None

    # --- sending -------------------------------------------------------------------------------------------------

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
        self._handler = handler
        self._phase = _HEAD
        self._is_head_request = method == b"HEAD"
        self._upgrade = upgrade
        self._informational = 0
        self._response_started = False
        self._request_ended = ended
        self._request_left = length - len(first)  # without a declared length it is never 0
        self._request_chunked = chunked = length == UNKNOWN_LENGTH
        parts = request_head(method, target, headers, length, upgrade)
        if first:
            parts.append(encode_chunk(first) if chunked else first)
        if ended and chunked:
            parts.append(LAST_CHUNK)
        self.transport.write(b"".join(parts))

    def send_body(self, data: bytes) -> None:
        """Send more of the request body; without effect once the exchange is over."""
        if self._handler is not None and data:
            self._request_left -= len(data)
            self.transport.write(encode_chunk(data) if self._request_chunked else data)

    def send_end(self, trailers: HeaderList) -> None:
        """The request body is complete; trailers go out only if it is chunked."""
        if self._handler is not None:
            self._request_ended = True
            if self._request_chunked:
                self.transport.write(encode_last_chunk(trailers))

    def pauseProducing(self) -> None:
        """Twisted: the send buffer is full; said again at each write."""
        if self._is_write_blocked:
            return
        self._is_write_blocked = True
        if self._handler is not None:
            self._handler.on_write_blocked()
        elif self._tunnel is not None:
            self._tunnel.target_blocked()

    def resumeProducing(self) -> None:
        """Twisted: the send buffer is empty again."""
        self._is_write_blocked = False
        if self._handler is not None:
            self._handler.on_write_drained()
        elif self._tunnel is not None:
            self._tunnel.target_drained()

    def stopProducing(self) -> None:
        """Twisted: the connection is going away; :meth:`connectionLost` follows."""

    # --- reading -------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Twisted: connected. Registering once per connection makes backpressure free per request."""
        self.transport.registerProducer(self, True)

    def dataReceived(self, data: bytes) -> None:
        """Twisted: bytes from the target."""
        handler = self._handler
        if handler is not None:
            self._response_started = True
            self._run(handler, self._held + data if self._held else data)
        elif self._phase == _TUNNEL:
            self._pass_on(data)
        elif self._phase == _NOTHING:
            # Bytes that answer no request: whatever they are, they must not be taken for the next response.
            self.close()

    def pause_reading(self) -> None:
        """Stop reading the response: nothing is delivered until :meth:`resume_reading`."""
        if not self._is_paused and self._phase != _CLOSED:
            self._is_paused = True
            if self._lost is None:
                self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read on; what was read before the pause is delivered before this returns."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._lost is None and self._phase != _CLOSED:
            self.transport.resumeProducing()
        handler = self._handler
        if handler is not None and not self._is_running:
            self._run(handler, self._held)
            if self._lost is not None and self._handler is handler and not self._is_paused:
                self._run_out(handler, self._lost)

    def _run(self, handler: ResponseHandler, data: bytes) -> None:
        """The outermost call of reading: no exception gets past it."""
        self._held = b""
        self._is_running = True
        try:
            try:
                self._read(handler, data)
            except (UpstreamProtocolError, FramingError) as error:
                self._fail(handler, UpstreamProtocolError(str(error)))
            if self._handler is handler:
                handler.on_flush()
        except Exception:
            _log.failure("response handler failed")
            if self._handler is handler:  # else its exchange is over, and the connection somebody else's
                self.transport.abortConnection()
        finally:
            self._is_running = False

    def _read(self, handler: ResponseHandler, data: bytes) -> None:
        """Deliver what ``data`` holds, for as long as the exchange lasts and reading is not paused."""
        while self._handler is handler:
            if self._is_paused:
                self._held = data
                return
            phase = self._phase
            if phase == LENGTH:
                left = self._left
                if not left:
                    self._complete(handler, data)
                elif not data:
                    return
                else:
                    piece, data = (data, b"") if len(data) <= left else (data[:left], data[left:])
                    self._left = left - len(piece)
                    handler.on_body(piece)
            elif not data:
                return
            elif phase == _HEAD:
                data = self._read_head(handler, data)
            elif phase == CHUNKED:
                data = self._read_chunks(handler, self._chunks, data)  # type: ignore[arg-type]  # set with the phase
            else:
                piece, data = data, b""
                handler.on_body(piece)

    def _read_chunks(self, handler: ResponseHandler, chunks: ChunkedDecoder, data: bytes) -> bytes:
        """Deliver the chunks of one read as one piece; returns what follows the body."""
        body = chunks.feed(data)
        if chunks.done:
            self._phase = LENGTH  # whose rest is nothing: the end is delivered from there, unless paused
            self._left = 0
            self._trailers = chunks.trailers
        if body:
            handler.on_body(body)
        return chunks.leftover

    def _read_head(self, handler: ResponseHandler, data: bytes) -> bytes:
        """Read one head if it is complete; returns what follows it, or holds it."""
        end = data.find(_END_OF_HEAD) + 4
        is_complete = end > 3
        if (end if is_complete else len(data)) > MAX_HEAD_BYTES:
            raise UpstreamProtocolError("response head too large")
        if not is_complete:
            self._held = data
            return b""
        head = response_head(data[:end] if end < len(data) else data)
        data = data[end:]
        status = head.status
        if status >= 200:
            self._phase, self._left, length = head.body(self._is_head_request)
            self._keep_alive, self._trailers = head.keep_alive, []
            self.version = b"1.1" if head.is_http_11 else b"1.0"
            if self._phase == CHUNKED:
                self._chunks = ChunkedDecoder()
            handler.on_head(status, head.reason, head.headers(), length)
            return data
        if status == 101:
            self._upgraded(handler, head, data)
            return b""
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise UpstreamProtocolError("too many informational responses")
        handler.on_informational(status, head.headers())
        return data

    # --- the end -------------------------------------------------------------------------------------------------

    def _complete(self, handler: ResponseHandler, leftover: bytes) -> None:
        trailers = self._trailers  # the next exchange may start before they are delivered
        self._handler = None
        # The target knows the length: it may answer before a client of HTTP/2 has said that this was all.
        is_sent = (self._request_ended or not self._request_left) and not self._is_write_blocked
        if is_sent and self._keep_alive and not leftover:
            self._phase = _NOTHING
            self.reused = True
            self.owner.release(self)
        elif is_sent:
            self.close()
        else:
            self.abort()  # what is left of the request would only fill the target's buffers
        handler.on_end(trailers)
        handler.on_flush()

    def _fail(self, handler: ResponseHandler, error: UpstreamError) -> None:
        self._handler = None
        error.bytes_written = True
        error.response_started = self._response_started
        error.on_reused_connection = self.reused
        self.abort()
        handler.on_failed(error)
        handler.on_flush()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted: the connection is gone."""
        is_tunnel = self._phase == _TUNNEL
        self._lost = reason
        self.owner.forget(self)
        handler = self._handler
        if handler is not None:
            if not self._is_paused:  # else the bytes that are held come first
                self._run_out(handler, reason)
            return
        self._phase = _CLOSED
        if is_tunnel and self._tunnel is not None:
            self._tunnel.target_lost()

    def _run_out(self, handler: ResponseHandler, reason: Failure) -> None:
        """The target's bytes have ended before the response was complete, unless its end is what delimits it."""
        try:
            # Only a clean end counts: a response cut by a reset must not look whole.
            if self._phase == UNTIL_CLOSE and reason.check(ConnectionDone):
                self._keep_alive = False
                self._complete(handler, b"")
            else:
                self._fail(handler, UpstreamReset(reason.getErrorMessage()))
        except Exception:
            _log.failure("response handler failed")

    def cancel(self) -> None:
        """Give up the exchange and the connection with it; the handler hears nothing more."""
        self._handler = None
        self.abort()

    def close(self) -> None:
        """Close an idle connection, or one whose exchange is over, after what is still queued."""
        if self._phase == _CLOSED:
            return
        self._leave()
        if self._lost is None:
            self.transport.unregisterProducer()  # a registered producer would keep TLS from closing
            self.transport.loseConnection()
            if isinstance(self.transport, ProtocolWrapper):  # TLS would wait for the other side's closing alert
                tcp: Any = self.transport.transport
                tcp.loseConnection()

    def abort(self) -> None:
        """Close at once, whatever is still queued."""
        self._leave()
        if self._lost is None:
            self.transport.abortConnection()

    def _leave(self) -> None:
        self._phase = _CLOSED
        self.owner.forget(self)

    def is_alive(self) -> bool:
        """Whether the socket has nothing to read: neither an end nor bytes that nobody asked for.

        What has come unasked would be taken for the response to the next request. Always True under TLS, where what
        can be read need not be meant for us.
        """
        if self._phase == _CLOSED:
            return False
        if self._look is None:
            self._look = look_at(self.transport)
        return not self._look(0)

    # --- tunnel --------------------------------------------------------------------------------------------------

    def _upgraded(self, handler: ResponseHandler, head: ResponseHead, early: bytes) -> None:
        if not self._upgrade or [value.lower() for _, _, value in head.upgrade] != [self._upgrade.lower()]:
            raise UpstreamProtocolError("101 to what nobody asked for")  # RFC 9110 section 7.8
        self._handler = None
        self._phase = _TUNNEL
        handler.on_upgraded(self, head.upgrade + head.headers(), early)
        handler.on_flush()

    def become_tunnel(self, tunnel: Tunnel) -> None:
        """Report to ``tunnel`` from now on; to be called within ``on_upgraded``."""
        self._tunnel = tunnel

    def _pass_on(self, data: bytes) -> None:
        try:
            if self._tunnel is None:
                self.abort()
            else:
                self._tunnel.from_target(data)
        except Exception:
            _log.failure("tunnel failed")
            self.transport.abortConnection()

    def write_raw(self, data: bytes) -> None:
        """Send opaque bytes through the tunnel."""
        if self._phase == _TUNNEL:
            self.transport.write(data)

    def close_tunnel(self) -> None:
        """Close the tunnel after what was written; its end hears nothing more."""
        self._tunnel = None
        self.close()
