"""The frames of an HTTP/2 connection as a whole: SETTINGS, PING, GOAWAY, and the windows for what we send (RFC 9113)."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from txgateway.transport.http2 import frames
from txgateway.transport.http2.codes import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    ConnectionFault,
    StreamFault,
)
from txgateway.transport.http2.floods import SETTINGS, Turns
from txgateway.transport.http2.stream import Stream
from txgateway.transport.http2.streams import StreamKeeper
from txgateway.transport.wheel import TimerWheel


class ConnectionFrames(StreamKeeper):
    """Judges and obeys them.

    Attributes:
        peer_connects: the peer takes extended CONNECT (RFC 8441).
    """

    def __init__(self, wheel: TimerWheel, clock: IReactorTime, turns: Turns | None = None) -> None:
        super().__init__(wheel, clock, turns)
        self.peer_connects = False
        self._has_settings = False

    def on_going_away(self, last_stream_id: int, code: int) -> None:
        """The peer said GOAWAY."""
        raise NotImplementedError

    def on_setting(self, identifier: int, value: int) -> None:
        """A setting of the peer's that only matters to one end."""

    def on_ping_answered(self, opaque: bytes) -> None:
        """The peer answered a PING."""

    def is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never used."""
        raise NotImplementedError

    def spend_empty(self) -> None:
        """A frame that brought nothing."""
        if not self._empty_frames.spend(self.wheel.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS of a stream")
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS that acknowledge and say something")
            self.spend_empty()
            return
        if len(payload) % 6:
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS of another size")
        if self._has_settings:
            self.spend_empty()
        if len(payload) > SETTINGS * 6:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many settings")
        self._has_settings = True
        window = self.initial_send_window
        for identifier, value in frames.read_settings(payload):
            self._apply(identifier, value)
        if self.initial_send_window != window:
            self._widen_all(self.initial_send_window - window)
        self.send(frames.SETTINGS_ACK)

    def _apply(self, identifier: int, value: int) -> None:
        """One setting of RFC 9113 section 6.5.2."""
        if identifier == frames.HEADER_TABLE_SIZE:
            self.encoder.limit_table(value)
        elif identifier == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "window too large")
            self.initial_send_window = value
        elif identifier == frames.MAX_FRAME_SIZE:
            if not frames.FRAME_BYTES <= value < 2**24:
                raise ConnectionFault(PROTOCOL_ERROR, "frame size that none may have")
        elif identifier in (frames.ENABLE_CONNECT_PROTOCOL, frames.NO_RFC7540_PRIORITIES):
            if value > 1:
                raise ConnectionFault(PROTOCOL_ERROR, "setting that is neither 0 nor 1")
            if identifier == frames.ENABLE_CONNECT_PROTOCOL:
                self.peer_connects = bool(value)
        else:
            self.on_setting(identifier, value)

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PING of another size")
        self.spend_empty()
        if flags & frames.ACK:
            self.on_ping_answered(payload)
        else:
            self.send(frames.ping_frame(payload, frames.ACK))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "GOAWAY of another size")
        self.spend_empty()
        self.on_going_away(*frames.read_goaway(payload))

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size")
        increment = frames.number(payload) & frames.MAX_WINDOW
        self.spend_empty()
        if not stream_id:
            if not increment:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.send_window += increment
            if self.send_window > frames.MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "window too large")
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.is_idle(stream_id):
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that never began")
            return  # RFC 9113 section 5.1: it may have crossed the end
        if not increment:
            raise StreamFault(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        self._widen(stream, increment)

    def _widen_all(self, change: int) -> None:
        """INITIAL_WINDOW_SIZE is another one (RFC 9113 section 6.9.2)."""
        try:
            for stream in self.streams.values():
                self._widen(stream, change)
        except StreamFault as fault:
            raise ConnectionFault(fault.code, fault.problem) from None

    def _widen(self, stream: Stream, increment: int) -> None:
        stream.send_window += increment
        if stream.send_window > frames.MAX_WINDOW:
            raise StreamFault(FLOW_CONTROL_ERROR, "window too large")
        if stream.send_window <= 0:  # a smaller INITIAL_WINDOW_SIZE may take back what was granted
            self._ready.pop(stream, None)
        elif stream.queued:
            self._ready[stream] = None
