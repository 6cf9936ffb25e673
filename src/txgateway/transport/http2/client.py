"""The client side of HTTP/2: one connection to a target, shared by many exchanges."""

from __future__ import annotations

import math
from typing import Any, Final, Protocol

from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure

from txgateway.errors import (
    GatewayError,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
)
from txgateway.transport.http2 import frames
from txgateway.transport.http2.client_stream import ClientStream
from txgateway.transport.http2.codes import (
    HTTP_1_1_REQUIRED,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    ConnectionFault,
    Http2Fault,
)
from txgateway.transport.http2.connection import Http2Connection
from txgateway.transport.http2.fields import ResponseHead
from txgateway.transport.http2.floods import LIST_BYTES
from txgateway.transport.http2.streams import LINGER_S, RESET_BY_PEER
from txgateway.transport.interfaces import ResponseHandler
from txgateway.transport.wheel import TimerWheel

#: Exchanges that share a connection at most, and as long as the target has not said how many it takes.
MAX_STREAMS: Final = 100
#: Receive windows: the connection's has room for all that its streams may hold for clients that are slow, so that no
#: client waits for another's.
STREAM_WINDOW: Final = 128 * 1024
CONNECTION_WINDOW: Final = MAX_STREAMS * STREAM_WINDOW
#: A connection with exchanges on which nothing was heard for this long is asked whether it is alive, which it has to
#: answer within the second time; and not again before the third, which is what gRPC servers let pass.
PING_AFTER_S: Final = 30.0
PING_TIMEOUT_S: Final = 10.0
PING_AGAIN_S: Final = 300.0
#: How long a target may take for its first SETTINGS.
GREETING_TIMEOUT_S: Final = 10.0
_PING: Final = b"\x00\x00alive?"
#: Numbers of streams are used up at some point (RFC 9113 section 5.1.1).
_LAST_STREAM_ID: Final = 2**31 - 3


class SharedConnectionOwner(Protocol):
    """Who shares connections out."""

    def on_ready(self, connection: Http2ClientConnection) -> None:
        """The target's settings are here: exchanges may begin."""

    def on_spare(self, connection: Http2ClientConnection) -> None:
        """An exchange is over: there is room for another."""

    def on_http1_required(self) -> bool:
        """The target wants HTTP/1.1 instead (RFC 9113 section 7); whether it is asked over that from now on."""

    def forget_shared(self, connection: Http2ClientConnection, error: GatewayError) -> None:
        """No exchange may begin any more, for this reason; told once."""


class Http2ClientConnection(Http2Connection):
    """A connection to a target.

    Args:
        wheel: for deadlines.
        clock: for what is left for the next turn.
        scheme: ``https`` or ``http``.

    Attributes:
        owner: told of changes; set before anything is received.
        completed: exchanges that have ended well.
        opened_at: clock seconds.
        idle_timeout_s, max_age_s: the owner's.
    """

    owner: SharedConnectionOwner | None = None

    def __init__(self, wheel: TimerWheel, clock: IReactorTime, scheme: bytes) -> None:
        super().__init__(wheel, clock, (CONNECTION_WINDOW, STREAM_WINDOW), LIST_BYTES)
        self.scheme = scheme
        self.completed = 0
        self.opened_at = 0.0
        self.idle_timeout_s = self.max_age_s = math.inf
        self._idle_since = 0.0
        self._next_id = 1
        self._max_streams = MAX_STREAMS
        self._has_grown = False
        self._is_ready = False
        self._is_leaving = False
        self._is_forgotten = False
        self._heard_at = 0.0
        self._pinged_at = -math.inf
        self._awaits_pong = False
        self._error: UpstreamError | None = None
        self._touched: dict[ResponseHandler, None] = {}
        self._lingering: dict[ClientStream, tuple[float, int]] = {}  # until when, and with how much to send

    # --- exchanges ------------------------------------------------------------------------------------------------

    @property
    def spare(self) -> int:
        """Exchanges that may begin now."""
        if not self._is_ready or self._is_leaving or self._is_over:
            return 0
        return min(self._max_streams, MAX_STREAMS) - len(self.streams)

    @property
    def is_busy(self) -> bool:
        """Whether an exchange is under way."""
        return bool(self.streams)

    def exchange(self) -> ClientStream:
        """A new exchange, to be started at once; there must be room for it."""
        return ClientStream(self, is_reused=self.completed > 0)

    def begin(self, stream: ClientStream) -> None:
        """Give an exchange its number: it starts."""
        stream.id = self._next_id
        self.open_stream(stream)
        self._next_id += 2
        if self._next_id >= _LAST_STREAM_ID:
            self.retire()

    def touch(self, handler: ResponseHandler) -> None:
        """Tell a handler when all of this read has been handled."""
        self._touched[handler] = None

    def leave_alone(self, handler: ResponseHandler) -> None:
        """Tell it nothing."""
        self._touched.pop(handler, None)

    def stream_over(self, *, is_success: bool) -> None:
        """An exchange has ended, and its stream is closed."""
        if is_success:
            self.completed += 1
        if not self._is_leaving and not self._is_over and self.owner is not None:
            self.owner.on_spare(self)

    def linger(self, stream: ClientStream) -> None:
        """A tunnel has ended at our end: bound what is left of it."""
        self._lingering[stream] = (self.wheel.after(LINGER_S), stream.queued)

    def _end_lingering(self, now: float) -> None:
        for stream, (deadline, queued) in list(self._lingering.items()):
            if stream.queued < queued:  # slow, but it reads
                self.linger(stream)
            elif now >= deadline or not stream.is_open:
                del self._lingering[stream]
                stream.break_off()
        self.flush()

    # --- frames ---------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)
        self.wheel.watch_coarse(self)
        self._heard_at = self._idle_since = self.opened_at = self.wheel.now
        self.deadline = 0.0  # looked at each time
        settings = ((frames.ENABLE_PUSH, 0), (frames.INITIAL_WINDOW_SIZE, STREAM_WINDOW),
                    (frames.MAX_HEADER_LIST_SIZE, LIST_BYTES))  # fmt: skip
        self.send(frames.PREFACE + frames.settings_frame(settings))
        self.send(frames.window_frame(0, CONNECTION_WINDOW - frames.DEFAULT_WINDOW))
        self.flush()

    def dataReceived(self, data: bytes) -> None:
        self._heard_at = self.wheel.now
        super().dataReceived(data)

    def after_read(self) -> None:
        has_grown, self._has_grown = self._has_grown, False
        if self._has_settings and not self._is_forgotten and self.owner is not None:
            if not self._is_ready:
                self._is_ready = True
                self.owner.on_ready(self)
            elif has_grown:
                self.owner.on_spare(self)
        touched, self._touched = self._touched, {}
        for handler in touched:
            handler.on_flush()

    def is_idle(self, stream_id: int) -> bool:
        return not stream_id & 1 or stream_id >= self._next_id

    def on_message(self, stream_id: int, block: bytes, *, has_ended: bool) -> None:
        head: ResponseHead | None = self._decoder.known(block)
        fields = [] if head is not None else self.decode(block)
        stream: ClientStream | None = self.streams.get(stream_id)
        if stream is None or stream.is_remote_closed:
            self._on_late_frame(stream_id, stream, "HEADERS")
        elif stream.has_head:
            stream.receive_trailers(fields if head is None else self.decode(block), has_ended=has_ended)
        else:
            if head is None:
                head = ResponseHead(fields)
                self._decoder.remember(block, head)
            else:
                head.serialise()
            stream.on_head(head, has_ended=has_ended)

    def on_setting(self, identifier: int, value: int) -> None:
        if identifier == frames.MAX_CONCURRENT_STREAMS:
            if value > self._max_streams:
                self._has_grown = True
            self._max_streams = value
        elif identifier == frames.ENABLE_PUSH and value:
            raise ConnectionFault(PROTOCOL_ERROR, "a server that wants to be pushed to")  # RFC 9113 section 6.5.2

    def on_stream_reset(self, stream: ClientStream, code: int) -> None:
        if stream.is_remote_closed:  # the response is complete, only its receiver is slow
            stream.stop_sending()
            return
        if code == NO_ERROR and stream.has_whole_body:  # as Node says the end of what it pipes
            stream.stop_sending()
            stream.receive_end([])
            return
        self.close_stream(stream, RESET_BY_PEER)
        error: UpstreamError
        if not stream.is_answered and (code == REFUSED_STREAM or self._falls_back(code)):
            error = UpstreamRefused("stream refused")
        else:
            error = UpstreamReset(f"stream reset with code {code}")
        stream.fail(error)
        self.stream_over(is_success=False)

    def on_going_away(self, last_stream_id: int, code: int) -> None:
        """Streams that the target has not looked at may go elsewhere (RFC 9113 section 6.8)."""
        if self._falls_back(code):  # what it may have looked at is sent again if that does no harm
            for stream in self.streams.values():
                stream.reused = True
        self.retire()
        refused = [stream for stream in self.streams.values() if stream.id > last_stream_id and not stream.is_answered]
        for stream in refused:
            self.close_stream(stream, RESET_BY_PEER)
        for stream in refused:
            stream.fail(UpstreamRefused(f"the target goes away with code {code}"))

    def _falls_back(self, code: int) -> bool:
        return code == HTTP_1_1_REQUIRED and self.owner is not None and self.owner.on_http1_required()

    def on_ping_answered(self, opaque: bytes) -> None:
        self._awaits_pong = False

    # --- the end --------------------------------------------------------------------------------------------------

    def on_last_stream(self) -> None:
        self._idle_since = self.wheel.now
        if self._is_leaving and not self._is_over:
            self.clock.callLater(0, self._close_if_idle)

    def _close_if_idle(self) -> None:
        if not self.streams:
            self.close()

    def retire(self) -> None:
        """Begin no more exchanges, and close after the last one."""
        if not self._is_leaving:
            self._is_leaving = True
            self._forget(UpstreamReset("the target goes away"))
            if not self.streams:
                self.clock.callLater(0, self._close_if_idle)

    def close(self) -> None:
        """Close a connection without exchanges."""
        if not self._is_over:
            self.send(frames.goaway_frame(0, NO_ERROR))
            self.end()

    def cancel(self) -> None:
        """Close at once, whatever is under way."""
        for stream in list(self.streams.values()):
            stream.cancel()
        self.close()

    def fail(self, fault: Http2Fault) -> None:
        if self._error is None:
            self._error = UpstreamProtocolError(fault.problem)
        super().fail(fault)

    def error(self) -> UpstreamError:
        """What the exchanges failed of when the connection ended; a new one each time, since it gets flags."""
        error = self._error or UpstreamReset("connection lost")
        return type(error)(*error.args)

    def end(self) -> None:
        """Send what there is to send, and close: a target has no use for a half of the connection."""
        self._forget(self.error())  # before those that fail now ask for another
        super().end()

    def close_transport(self) -> None:
        transport = self.transport
        transport.loseConnection()
        if isinstance(transport, ProtocolWrapper):  # TLS would wait for the other side's closing alert
            tcp: Any = transport.transport
            tcp.loseConnection()

    def _forget(self, error: GatewayError) -> None:
        if not self._is_forgotten:
            self._is_forgotten = True
            if self.owner is not None:
                self.owner.forget_shared(self, error)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._error is None:
            text = "closed by the target" if reason.check(ConnectionDone) else reason.getErrorMessage()
            self._error = UpstreamReset(text)
        self._forget(self.error())
        super().connectionLost(reason)
        self.after_read()

    def forget_input(self) -> None:
        super().forget_input()
        self._lingering.clear()

    def on_deadline(self, now: float) -> None:
        """Once a second: an end that takes too long, too old, too long idle, or silent."""
        if self._lingering and not self._is_over:
            self._end_lingering(now)
        if self._is_over:
            super().on_deadline(now)
        elif not self._has_settings and now - self.opened_at >= GREETING_TIMEOUT_S:
            self._error = UpstreamTimeout("no SETTINGS in time")
            self.transport.abortConnection()
        elif not self.streams and now - self._idle_since >= self.idle_timeout_s:
            self.close()
        elif now - self.opened_at >= self.max_age_s and not self._is_leaving:
            self.retire()
        elif self.streams:
            self._look_for_life(now)

    def _look_for_life(self, now: float) -> None:
        if now - self._heard_at < PING_AFTER_S:
            self._awaits_pong = False
        elif self._awaits_pong:
            if now - self._pinged_at >= PING_TIMEOUT_S:
                self._error = UpstreamReset("no answer to PING")
                self.transport.abortConnection()
        elif now - self._pinged_at >= PING_AGAIN_S:
            self._awaits_pong = True
            self._pinged_at = now
            self.send(frames.ping_frame(_PING))
            self.flush()
