"""The server side of HTTP/2: streams of a client become requests, as :mod:`..http1_server`'s do."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from txgateway.errors import GatewayError
from txgateway.transport.http2 import frames
from txgateway.transport.http2.codes import (
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from txgateway.transport.http2.connection import Http2Connection
from txgateway.transport.http2.fields import read_request, repeated
from txgateway.transport.http2.floods import (
    EARNED,
    LIST_BYTES,
    REQUEST_FRAMES,
    RESETS,
    RESETS_PER_S,
    Allowance,
)
from txgateway.transport.http2.hpack import FIELD_OVERHEAD
from txgateway.transport.http2.server_stream import ServerStream
from txgateway.transport.http2.streams import RESET_BY_PEER, RESET_BY_US
from txgateway.transport.interfaces import RequestHead
from txgateway.transport.sockets import unsent_bytes

if TYPE_CHECKING:
    from txgateway.transport.http1_factory import Http1ServerFactory

#: Receive windows of the connection and of a stream.
CONNECTION_WINDOW: Final = 1024 * 1024
STREAM_WINDOW: Final = 256 * 1024
#: Streams that a client may have open at once (RFC 9113 section 5.1.2).
MAX_STREAMS: Final = 100
#: How long a client has to show that it knows that we are going away (RFC 9113 section 6.8), in seconds.
GOODBYE_S: Final = 1.0
_GOODBYE: Final = b"\x00goodbye"


class Http2ServerConnection(Http2Connection):
    """One client connection over which HTTP/2 is spoken, from its preface on.

    Args:
        factory: limits, the wheel, and where requests go.

    Attributes:
        peer_ip, scheme, local_port, client_certificate, forwarded, memo: as
            :class:`~txgateway.transport.http1_server.Http1ServerConnection` has them.
    """

    protocol = "h2"
    is_tunnel = False
    client_certificate = b""

    def __init__(self, factory: Http1ServerFactory) -> None:
        limits = factory.limits
        self._list_bytes = limits.max_header_bytes + FIELD_OVERHEAD * limits.max_header_count
        super().__init__(
            factory.wheel,
            factory.clock,
            (CONNECTION_WINDOW, STREAM_WINDOW),
            max(LIST_BYTES, 2 * self._list_bytes),
            factory.turns,
        )
        self.factory = factory
        self.peer_ip = ""
        self.scheme = b"http"
        self.local_port = 0
        self.forwarded: dict[bytes, Any] = {}
        self.memo: Any = None
        self._resets = Allowance(RESETS, RESETS_PER_S, factory.wheel.now)
        self._preface = frames.PREFACE
        self._last_accepted = frames.MAX_STREAM_ID  # of what we have said in GOAWAY
        self._is_leaving = False
        self._has_said_goodbye = False
        self._is_greeted = self._is_gone = False
        self._idle_at = self._head_at = math.inf  # when one of them has lasted for too long
        self._slow_block: Any = None
        self._last_unsent = 0

    # --- the transport's side -------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.wheel.watch_coarse(self)
        self._idle_at = self.deadline = self.wheel.after(self.factory.limits.header_timeout_s)
        self.send(
            frames.settings_frame(
                (
                    (frames.MAX_CONCURRENT_STREAMS, MAX_STREAMS),
                    (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                    (frames.MAX_HEADER_LIST_SIZE, self._list_bytes),
                    (frames.ENABLE_CONNECT_PROTOCOL, 1),
                    (frames.NO_RFC7540_PRIORITIES, 1),
                )
            )
        )
        self.send(frames.window_frame(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        preface = self._preface
        if preface and not self._is_over:
            begin, data = data[: len(preface)], data[len(preface) :]
            if not preface.startswith(begin):
                self.fail(ConnectionFault(PROTOCOL_ERROR, "not the preface of HTTP/2"))
                return
            self._preface = preface[len(begin) :]
            if not data:
                return
        super().dataReceived(data)

    def after_read(self) -> None:
        """A head that is cut short may not stay so for long."""
        if self._is_over:
            return
        if not self._is_greeted and self._has_settings:
            self._is_greeted = True
            self._rest()
        block = self._block
        # What is cut short is DATA in most cases, and slow DATA are the request's business.
        if block is None and (self._buffer[3:4] or b"\x00") == b"\x00":
            if self._head_at != math.inf:
                self._head_at = math.inf
                self.wheel.forget(self)
        elif self._head_at == math.inf or (self._work if block is None else block is not self._slow_block):
            self._head_at = self.wheel.after(self.factory.limits.header_timeout_s)
            self.wheel.watch(self)
        self._slow_block = block
        self.deadline = min(self._idle_at, self._head_at)

    def _rest(self) -> None:
        self._idle_at = math.inf if self.streams else self.wheel.after(self.factory.limits.keepalive_timeout_s)
        self.deadline = min(self._idle_at, self._head_at)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self._is_gone = True
        if not self._untold:
            self.factory.connection_lost(self)

    def on_all_told(self) -> None:
        if self._is_gone:
            self.factory.connection_lost(self)

    def on_deadline(self, now: float) -> None:
        """Idle for too long, a head that does not come, or the end of an end."""
        unsent = unsent_bytes(self.transport)
        if self._is_over or not self._is_greeted:
            self.transport.abortConnection()
        elif now >= self._head_at:
            self.fail(ConnectionFault(ENHANCE_YOUR_CALM, "frame not complete in time"))
        elif unsent and unsent != self._last_unsent:  # a slow reader that still moves
            self._last_unsent = unsent
            self._rest()
        elif unsent:
            self.transport.abortConnection()
        else:
            self._leave()

    def on_setting(self, identifier: int, value: int) -> None:
        if identifier == frames.ENABLE_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, "setting that is neither 0 nor 1")

    # --- requests -------------------------------------------------------------------------------------------------

    def is_idle(self, stream_id: int) -> bool:
        return not stream_id & 1 or stream_id > self._last_peer_id

    def on_message(self, stream_id: int, block: bytes, *, has_ended: bool) -> None:
        heads: dict[bool, RequestHead] | None = self._decoder.known(block)
        known = None if heads is None else heads.get(has_ended)
        fields = self.decode(block) if known is None else []
        stream: ServerStream | None = self.streams.get(stream_id)
        if stream is not None:
            self._on_trailers(stream, fields if known is None else self.decode(block), has_ended=has_ended)
        elif self._is_taken(stream_id):
            stream = ServerStream(self, stream_id)
            self.open_stream(stream)
            self._idle_at = math.inf
            if known is not None:
                self._begin(stream, repeated(known), None, has_ended=has_ended)
                return
            try:
                head, error = read_request(fields, self.factory.limits, has_ended=has_ended)
            except StreamFault as fault:
                stream.begin(RequestHead(b"", b"", b"HTTP/2", (), {}, -1, True, b""))
                stream.refuse_malformed(fault)
                self._count_reset()
                return
            if error is None and not head.upgrade:
                if heads is None:
                    self._decoder.remember(block, {has_ended: repeated(head)})
                else:
                    heads[has_ended] = repeated(head)
            self._begin(stream, head, error, has_ended=has_ended)

    def _is_taken(self, stream_id: int) -> bool:
        """Whether a request on a stream that is not open is a new one, for which there is room.

        Raises:
            Http2Fault: the peer's fault.
        """
        if stream_id <= self._last_peer_id or not stream_id & 1:
            if stream_id not in self._closed:
                raise ConnectionFault(PROTOCOL_ERROR, "number of no new stream")  # RFC 9113 section 5.1.1
            self._on_late_frame(stream_id, None, "HEADERS")
            return False
        self._last_peer_id = stream_id
        self._work += REQUEST_FRAMES
        self._empty_frames.earn(EARNED)
        if len(self.streams) >= MAX_STREAMS or stream_id > self._last_accepted:
            self.remember_closed(stream_id, RESET_BY_US)
            self.send(frames.reset_frame(stream_id, REFUSED_STREAM))
            self._count_reset()
            return False
        return True

    def _begin(self, stream: ServerStream, head: RequestHead, error: GatewayError | None, *, has_ended: bool) -> None:
        """A request is here, to be refused with ``error`` if there is one."""
        request = stream.begin(head)
        if has_ended:
            stream.is_remote_closed = True
        request.body_complete = has_ended or bool(head.upgrade)  # what follows is a tunnel's
        if error is not None:
            self.factory.refuse(request, error)
            return
        self.factory.dispatch(request)
        if head.upgrade or not (has_ended or request.body_wanted):
            stream.pause()
        if head.upgrade and has_ended:  # of the client's half, which is for the tunnel to hear
            stream.receive(b"", has_ended=True)

    def _on_trailers(self, stream: ServerStream, fields: Any, *, has_ended: bool) -> None:
        if stream.is_remote_closed:
            raise StreamFault(STREAM_CLOSED, "HEADERS behind the end of the stream")
        if stream.is_connect:  # RFC 9113 section 8.5
            raise StreamFault(PROTOCOL_ERROR, "HEADERS in a tunnel")
        stream.receive_trailers(fields, has_ended=has_ended)

    def on_stream_reset(self, stream: ServerStream, code: int) -> None:
        self.close_stream(stream, RESET_BY_PEER)
        stream.on_client_gone()
        self._count_reset()

    def on_stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        super().on_stream_fault(stream_id, fault)
        self._count_reset()

    def _count_reset(self) -> None:
        if not self._resets.spend(self.wheel.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many streams that came to nothing")

    # --- the end --------------------------------------------------------------------------------------------------

    @property
    def in_progress(self) -> bool:
        """Whether a client that goes now misses a part of an answer, or of a tunnel."""
        return bool(self.streams or self._untold)

    def on_last_stream(self) -> None:
        self._rest()
        if self._is_leaving and not self._is_over:
            self.clock.callLater(0, self._leave_if_idle)

    def _leave_if_idle(self) -> None:
        if not self.streams and not self._is_over:
            self._leave()

    def on_crossing_frame(self) -> None:
        self.spend_empty()

    def on_going_away(self, last_stream_id: int, code: int) -> None:
        """The client opens no more streams."""
        self._is_leaving = True
        if not self.streams:
            self.clock.callLater(0, self._leave_if_idle)

    def on_ping_answered(self, opaque: bytes) -> None:
        if opaque == _GOODBYE and self._has_said_goodbye:
            self._say_last()

    def close_when_idle(self) -> None:
        """Take no more streams, in two steps so that none is lost (RFC 9113 section 6.8), and close after the last."""
        if self._has_said_goodbye or self._is_over:
            return
        self._has_said_goodbye = self._is_leaving = True
        if not self.streams:
            self._leave()
            return
        self.send(frames.goaway_frame(frames.MAX_STREAM_ID, NO_ERROR) + frames.ping_frame(_GOODBYE))
        for stream in list(self.streams.values()):
            stream.going_away()
        self.flush()
        self.clock.callLater(GOODBYE_S, self._say_last)

    def _say_last(self) -> None:
        if self._last_accepted == frames.MAX_STREAM_ID and not self._is_over:
            self.send(frames.goaway_frame(self.last_taken(), NO_ERROR))
            self.flush()

    def _leave(self) -> None:
        self.send(frames.goaway_frame(self.last_taken(), NO_ERROR))
        self.end()

    def last_taken(self) -> int:
        """The number for GOAWAY, which never says a larger one again (RFC 9113 section 6.8); none beyond is taken."""
        self._last_accepted = min(self._last_accepted, self._last_peer_id)
        return self._last_accepted

    def shut_down(self, error: GatewayError) -> None:
        """End the connection at once: what is in progress is answered with ``error``, or cut if its answer has begun."""
        if self._is_over:
            return
        for stream in list(self.streams.values()):
            stream.shut_down(error)
        if not self._is_over:
            self.flush()
            self._leave()
