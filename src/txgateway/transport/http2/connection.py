"""The receiving half of an HTTP/2 connection, whichever end of it we are (RFC 9113).

Every frame is judged here for its form; what HEADERS and the end of a stream mean is the business of the two ends,
:mod:`.server` and :mod:`.client`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from txgateway.transport.http2 import frames
from txgateway.transport.http2.codes import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from txgateway.transport.http2.control import ConnectionFrames
from txgateway.transport.http2.floods import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    EARNED,
    FIELDS_A_FRAME,
    TURN_FRAMES,
    Turns,
)
from txgateway.transport.http2.frames import END_HEADERS, END_STREAM, HEADER_BYTES
from txgateway.transport.http2.header_decoder import HeaderDecoder
from txgateway.transport.http2.stream import Stream
from txgateway.transport.http2.streams import RESET_BY_PEER, RESET_BY_US
from txgateway.transport.interfaces import HeaderList
from txgateway.transport.wheel import TimerWheel

_log = Logger(__name__)


class _Block:
    """A header block whose frames are coming in."""

    __slots__ = ("frames", "has_ended", "parts", "size", "stream_id")

    def __init__(self, stream_id: int, part: bytes, *, has_ended: bool) -> None:
        self.stream_id = stream_id
        self.has_ended = has_ended
        self.parts = [part]
        self.size = len(part)
        self.frames = 1


class Http2Connection(ConnectionFrames):
    """What both ends have in common.

    Args:
        wheel: for deadlines.
        clock: for what is left for the next turn.
        windows: receive windows of the connection and of each stream, in bytes.
        max_list_bytes: of a header block's fields (RFC 7541 section 4.1).
        turns: shared with others that may be flooded at the same time.

    Attributes:
        stream_window: of those.
    """

    def __init__(
        self,
        wheel: TimerWheel,
        clock: IReactorTime,
        windows: tuple[int, int],
        max_list_bytes: int,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(wheel, clock, turns)
        self._connection_window, self.stream_window = windows
        self._receive_left = self._connection_window
        # As soon as a stream is, so that the streams which hold theirs back take nothing from the others.
        self._credit_bytes = min(self._connection_window, self.stream_window) // 2
        self._consumed = 0
        self._decoder = HeaderDecoder(max_list_bytes)
        self._max_block_bytes = max(BLOCK_BYTES, max_list_bytes // 2)
        self._buffer = b""
        self._block: _Block | None = None
        self._work = 0
        self._handlers: tuple[Callable[[int, int, bytes], None], ...] = (
            self._on_data,
            self._on_headers,
            self._on_priority,
            self._on_reset,
            self._on_settings,
            self._on_push_promise,
            self._on_ping,
            self._on_goaway,
            self._on_window_update,
            self._on_continuation,
        )

    # --- what the two ends say ------------------------------------------------------------------------------------

    def on_message(self, stream_id: int, block: bytes, *, has_ended: bool) -> None:
        """A header block is complete; decoding it is the receiver's duty, whatever it thinks of the stream.

        Raises:
            Http2Fault: the peer's fault.
        """
        raise NotImplementedError

    def on_stream_reset(self, stream: Any, code: int) -> None:
        """The peer sent RST_STREAM for an open stream."""
        raise NotImplementedError

    def on_crossing_frame(self) -> None:
        """A frame of a stream that we have reset came too late to matter."""

    # --- from the peer --------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._is_over:
            self._drop(data)
            return
        self._is_reading = True
        try:
            try:
                self._receive(self._buffer + data if self._buffer else data)
            except ConnectionFault as fault:
                self.fail(fault)
            self.after_read()
            self._is_reading = False
            self.flush()
        except Exception:  # nothing may cross into the reactor
            _log.failure("fault in the HTTP/2 transport")
            self._is_reading = False
            self.fail(ConnectionFault(INTERNAL_ERROR, "fault"))

    def forget_input(self) -> None:
        self._buffer = b""
        self._block = None
        self._handlers = ()  # a cycle: thousands of connections that are gone would wait for the collector

    def after_read(self) -> None:
        """All frames of a read have been handled."""

    def _receive(self, data: bytes) -> None:
        position, size = 0, len(data)
        self._work = 0
        handlers = self._handlers
        while size - position >= HEADER_BYTES:
            high, low, kind, flags, stream_id = frames.read_header(data, position)
            end = position + HEADER_BYTES + (high << 16 | low)
            if high << 16 | low > frames.FRAME_BYTES:
                self._check_greeting(kind, flags)
                raise ConnectionFault(FRAME_SIZE_ERROR, "frame too large")
            if end > size:
                break
            if self._work >= TURN_FRAMES:  # so that a readful of small frames does not hold up everybody else
                self._hold()
                break
            self._work += 1
            payload = data[position + HEADER_BYTES : end]
            position = end
            stream_id &= frames.MAX_STREAM_ID
            if not self._has_settings:
                self._check_greeting(kind, flags)
            if self._block is not None and kind != frames.CONTINUATION:
                raise ConnectionFault(PROTOCOL_ERROR, "header block interrupted")  # RFC 9113 section 6.10
            if kind >= len(handlers):
                self.spend_empty()  # of an unknown type: ignored (RFC 9113 section 4.1)
                continue
            try:
                handlers[kind](flags, stream_id, payload)
            except StreamFault as fault:
                self.on_stream_fault(stream_id, fault)
            if self._is_over:
                return
        self._buffer = data[position:]

    def _check_greeting(self, kind: int, flags: int) -> None:
        """SETTINGS come first (RFC 9113 section 3.4); who has something else to say hardly speaks HTTP/2."""
        if not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(PROTOCOL_ERROR, "not HTTP/2, which begins with SETTINGS")

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            self._pause()
            self.turns.wait(self._go_on)

    def _go_on(self) -> bool:
        self._is_held = False
        if self._is_over:
            return False
        self._resume()
        self.dataReceived(b"")
        return True

    def on_stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        """A stream cannot go on, for a fault of the peer's."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.reset_stream(stream, fault.code)
            stream.on_fault(fault)
        else:
            self.send(frames.reset_frame(stream_id, fault.code))
            self.remember_closed(stream_id, RESET_BY_US)  # so that it is said once (RFC 9113 section 5.4.2)

    # --- frames of streams ----------------------------------------------------------------------------------------

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA without a stream")
        self._receive_left -= size
        if self._receive_left < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more than the connection's window")
        data = frames.unpadded(flags, payload) if flags & frames.PADDED else payload
        stream: Stream | None = self.streams.get(stream_id)
        if stream is None or stream.is_remote_closed:
            self.credit(size)
            self._on_late_frame(stream_id, stream, "DATA")
            return
        stream.receive_left -= size
        if stream.receive_left < 0:
            self.credit(size)
            raise StreamFault(FLOW_CONTROL_ERROR, "more than the stream's window")
        has_ended = flags & END_STREAM
        if data:
            self._empty_frames.earn(EARNED)
        elif not has_ended:
            self.spend_empty()
        if len(data) != size:
            stream.credit(size - len(data))
        stream.receive(data, has_ended=bool(has_ended))

    def _on_late_frame(self, stream_id: int, stream: Stream | None, name: str) -> None:
        """A frame of a stream that has ended, or never began (RFC 9113 section 5.1)."""
        if stream is not None:
            raise StreamFault(STREAM_CLOSED, f"{name} behind the end of the stream")
        how = self._closed.get(stream_id)
        if how == RESET_BY_US:  # sent before the peer knew
            self.on_crossing_frame()
            return
        if how == RESET_BY_PEER:
            raise StreamFault(STREAM_CLOSED, f"{name} behind RST_STREAM")
        if self.is_idle(stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, f"{name} of a stream that never began")
        raise ConnectionFault(STREAM_CLOSED, f"{name} of a stream that has ended")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS without a stream")
        depends_on_itself = False
        if flags & frames.HAS_PRIORITY and len(payload) < (6 if flags & frames.PADDED else 5):
            raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS without their priority")
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(PROTOCOL_ERROR, "padding over the priority")
            depends_on_itself = frames.number(payload) & frames.MAX_STREAM_ID == stream_id
            payload = payload[5:]
        has_ended = bool(flags & END_STREAM)
        if not flags & END_HEADERS:
            self._block = _Block(stream_id, payload, has_ended=has_ended)
            if len(payload) > self._max_block_bytes:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "header block too large")
        else:
            self.on_message(stream_id, payload, has_ended=has_ended)
        if depends_on_itself:
            raise ConnectionFault(PROTOCOL_ERROR, "stream that depends on itself")

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._block
        if block is None or block.stream_id != stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.parts.append(payload)
        block.size += len(payload)
        block.frames += 1
        if block.frames > BLOCK_FRAMES or block.size > self._max_block_bytes:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "header block too large")
        if flags & END_HEADERS:
            self._block = None
            self.on_message(stream_id, b"".join(block.parts), has_ended=block.has_ended)

    def decode(self, block: bytes) -> HeaderList:
        """The fields of a block; each has to be decoded, in order."""
        fields = self._decoder.decode(block)
        self._work += self._decoder.count // FIELDS_A_FRAME
        return fields

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Checked, and otherwise ignored (RFC 9113 section 5.3.2)."""
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY without a stream")
        self.spend_empty()
        if len(payload) != 5:
            if self.is_idle(stream_id):  # RFC 9113 section 6.4: for which there may be no RST_STREAM
                raise ConnectionFault(FRAME_SIZE_ERROR, "PRIORITY of another size")
            raise StreamFault(FRAME_SIZE_ERROR, "PRIORITY of another size")
        if frames.number(payload) & frames.MAX_STREAM_ID == stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "stream that depends on itself")

    def _on_reset(self, flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM of another size")
        stream = self.streams.get(stream_id)
        if stream is None:
            if not stream_id or self.is_idle(stream_id):
                raise ConnectionFault(PROTOCOL_ERROR, "RST_STREAM of a stream that never began")
            self.spend_empty()
            return
        self.on_stream_reset(stream, frames.number(payload))

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(PROTOCOL_ERROR, "PUSH_PROMISE, which nobody may send us")

    def credit(self, size: int) -> None:
        """Bytes of DATA were taken by whom they are for, or by nobody: the peer may send as many more."""
        if self._is_over:
            return
        self._consumed += size
        if self._consumed >= self._credit_bytes:
            self._receive_left += self._consumed
            self.send(frames.window_frame(0, self._consumed))
            self._consumed = 0
