"""One HTTP/2 connection, whichever end of it we are: frames in, frames out, and the windows (RFC 9113).

Every frame is judged here for its form; what HEADERS and the end of a stream mean is the business of the two ends,
:mod:`.server` and :mod:`.client`. Output is collected and leaves as one write with :meth:`Http2Connection.flush`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.transport.http2 import frames
from txgateway.transport.http2.codes import (
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    INTERNAL_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    ConnectionFault,
    Http2Fault,
    StreamFault,
)
from txgateway.transport.http2.floods import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    EARNED,
    EMPTY_FRAMES,
    EMPTY_FRAMES_PER_S,
    TURN_FRAMES,
    UNSENT_BYTES,
    Allowance,
)
from txgateway.transport.http2.frames import DATA, END_HEADERS, END_STREAM, HEADER_BYTES, HEADERS
from txgateway.transport.http2.hpack import EncodedField, HeaderDecoder, HeaderEncoder
from txgateway.transport.http2.stream import Stream
from txgateway.transport.sockets import unsent_bytes
from txgateway.transport.wheel import TimerWheel

_log = Logger()

#: After GOAWAY for a fault, what the peer still sends is read and dropped for this long, and up to this much, so that
#: the kernel does not reset the connection before the peer has read why.
LINGER_S: Final = 5.0
LINGER_BYTES: Final = 16 * 1024 * 1024
#: Sent in one turn at most, by streams that take turns; and in one write.
TURN_BYTES: Final = 256 * 1024
WRITE_BYTES: Final = 64 * 1024
#: Streams of which it is known how they ended.
KNOWN_CLOSED: Final = 256

#: How a stream ended: as it should, by RST_STREAM of ours, or by the peer's.
ENDED, RESET_BY_US, RESET_BY_PEER = range(3)


class _Block:
    """A header block whose frames are coming in."""

    __slots__ = ("frames", "has_ended", "parts", "size", "stream_id")

    def __init__(self, stream_id: int, part: bytes, *, has_ended: bool) -> None:
        self.stream_id = stream_id
        self.has_ended = has_ended
        self.parts = [part]
        self.size = len(part)
        self.frames = 1


@implementer(IPushProducer)
class Http2Connection(TwistedProtocol):
    """What both ends have in common.

    Args:
        wheel: for deadlines.
        clock: for what is left for the next turn.
        windows: receive windows of the connection and of each stream, in bytes.
        max_list_bytes: of a header block's fields (RFC 7541 section 4.1).

    Attributes:
        deadline: looked at by the wheel.
        streams: the open ones, by their number.
        write_blocked: the transport's buffer is full.
        send_window, initial_send_window, max_frame_bytes: what the peer allows.
        flushes: counts writes, for who wants to know whether output is still here.
    """

    transport: Any
    deadline: float = math.inf
    write_blocked = False

    def __init__(self, wheel: TimerWheel, clock: IReactorTime, windows: tuple[int, int], max_list_bytes: int) -> None:
        self.wheel = wheel
        self.clock = clock
        self.streams: dict[int, Any] = {}
        self.flushes = 0
        self.send_window = self.initial_send_window = frames.DEFAULT_WINDOW
        self.max_frame_bytes = frames.FRAME_BYTES
        self.encoder = HeaderEncoder()
        self.peer_connects = False  # the peer takes extended CONNECT
        self._connection_window, self.stream_window = windows
        self._receive_left = self._connection_window
        self._consumed = 0
        self._decoder = HeaderDecoder(max_list_bytes)
        self._max_block_bytes = max(BLOCK_BYTES, max_list_bytes // 2)
        self._out: list[bytes] = []
        self._ready: dict[Stream, None] = {}  # whose output waits for its turn, in order
        self._swelling: set[Stream] = set()  # whose output has grown since the last flush
        self._closed: dict[int, int] = {}
        self._last_peer_id = 0
        self._buffer = b""
        self._block: _Block | None = None
        self._has_settings = False
        self._is_over = False  # nothing of what comes matters any more
        self._is_held = False  # the rest of a read waits for the next turn
        self._is_paused = False
        self._is_pumping_later = False
        self._is_reading = False
        self._is_flushed_soon = False
        self._collected = 0
        self._at_turn_end: Callable[[Callable[[], None]], None] | None = getattr(clock, "at_turn_end", None)
        self._dropped = 0
        self._work = 0
        self._empty_frames = Allowance(EMPTY_FRAMES, EMPTY_FRAMES_PER_S, wheel.now)
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

    def on_going_away(self, last_stream_id: int, code: int) -> None:
        """The peer said GOAWAY."""
        raise NotImplementedError

    def on_setting(self, identifier: int, value: int) -> None:
        """A setting of the peer's that only matters to one end."""

    def on_ping_answered(self, opaque: bytes) -> None:
        """The peer answered a PING."""

    def on_crossing_frame(self) -> None:
        """A frame of a stream that we have reset came too late to matter."""

    def on_last_stream(self) -> None:
        """No stream is open any more."""

    def is_idle(self, stream_id: int) -> bool:
        """Whether a stream was never used."""
        raise NotImplementedError

    # --- from the peer --------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._is_over:
            self._drop(data)
            return
        self._is_reading = True
        try:
            self._receive(self._buffer + data if self._buffer else data)
        except ConnectionFault as fault:
            self.fail(fault)
        except Exception:  # nothing may cross into the reactor
            _log.failure("fault in the HTTP/2 transport")
            self.fail(ConnectionFault(INTERNAL_ERROR, "fault"))
        self.after_read()
        self._is_reading = False
        self.flush()

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
            if not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
                raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS do not come first")  # RFC 9113 section 3.4
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

    def _hold(self) -> None:
        if not self._is_held:
            self._is_held = True
            self._pause()
            self.clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._is_held = False
        if not self._is_over:
            self._resume()
            self.dataReceived(b"")

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abortConnection()

    def spend_empty(self) -> None:
        """A frame that brought nothing."""
        if not self._empty_frames.spend(self.wheel.now):
            raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that bring nothing")

    def on_stream_fault(self, stream_id: int, fault: StreamFault) -> None:
        """A stream cannot go on, for a fault of the peer's."""
        stream = self.streams.get(stream_id)
        if stream is not None:
            self.reset_stream(stream, fault.code)
            stream.on_fault(fault)
        else:
            self.send(frames.reset_frame(stream_id, fault.code))

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
        if flags & frames.PADDED:
            payload = frames.unpadded(flags, payload)
        depends_on_itself = False
        if flags & frames.HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS without their priority")
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

    def decode(self, block: bytes) -> list[EncodedField]:
        """The fields of a block; each has to be decoded, in order."""
        return self._decoder.decode(block)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        """Checked, and otherwise ignored (RFC 9113 section 5.3.2)."""
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY without a stream")
        self.spend_empty()
        if len(payload) != 5:
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

    # --- frames of the connection ---------------------------------------------------------------------------------

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
        self._has_settings = True
        for identifier, value in frames.read_settings(payload):
            self._apply(identifier, value)
        self.send(frames.SETTINGS_ACK)

    def _apply(self, identifier: int, value: int) -> None:
        """One setting of RFC 9113 section 6.5.2."""
        if identifier == frames.HEADER_TABLE_SIZE:
            self.encoder.limit_table(value)
        elif identifier == frames.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(FLOW_CONTROL_ERROR, "window too large")
            change, self.initial_send_window = value - self.initial_send_window, value
            try:
                for stream in self.streams.values():
                    self._widen(stream, change)
            except StreamFault as fault:
                raise ConnectionFault(fault.code, fault.problem) from None
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

    def _widen(self, stream: Stream, increment: int) -> None:
        stream.send_window += increment
        if stream.send_window > frames.MAX_WINDOW:
            raise StreamFault(FLOW_CONTROL_ERROR, "window too large")
        if stream.queued and stream.send_window > 0:
            self._ready[stream] = None

    def credit(self, size: int) -> None:
        """Bytes of DATA were taken by whom they are for, or by nobody: the peer may send as many more."""
        if self._is_over:
            return
        self._consumed += size
        if self._consumed >= self._connection_window // 2:
            self._receive_left += self._consumed
            self.send(frames.window_frame(0, self._consumed))
            self._consumed = 0

    # --- to the peer ----------------------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """One frame, or several; :meth:`flush` follows."""
        self._out.append(frame)

    def send_headers(self, stream: Stream, fields: list[EncodedField], flags: int) -> None:
        """HEADERS, and CONTINUATION where one frame is too small."""
        block = self.encoder.encode(fields)
        out = self._out
        stream.mark_tail(len(out))
        if len(block) <= frames.FRAME_BYTES:
            out += (frames.frame_header(len(block), HEADERS, flags | END_HEADERS, stream.id), block)
            return
        kind, position = HEADERS, 0
        while position < len(block):
            part = block[position : position + frames.FRAME_BYTES]
            position += len(part)
            if position == len(block):
                flags |= END_HEADERS
            out += (frames.frame_header(len(part), kind, flags, stream.id), part)
            kind, flags = frames.CONTINUATION, 0

    def send_data(self, stream: Stream, data: bytes, flags: int) -> None:
        """DATA within all windows."""
        size = len(data)
        self.send_window -= size
        stream.send_window -= size
        self._empty_frames.earn(EARNED)  # for the WINDOW_UPDATEs that will answer it
        out = self._out
        stream.mark_tail(len(out))
        out.append(frames.frame_header(size, DATA, flags, stream.id))
        if size:
            out.append(data)
            self._collected += size

    def end_tail(self, index: int) -> None:
        """Let the frame whose header is ``index`` of what is collected end its stream."""
        header = self._out[index]
        self._out[index] = header[:4] + bytes((header[4] | END_STREAM,)) + header[5:]

    def swells(self, stream: Stream) -> None:
        """A stream has output that waits."""
        self._swelling.add(stream)
        if stream.send_window > 0:
            self._ready[stream] = None

    def drop_output(self, stream: Stream) -> None:
        """A stream has no output that waits any more."""
        self._ready.pop(stream, None)
        self._swelling.discard(stream)

    def flush_soon(self) -> None:
        """Flush once what is happening at the same time, to other streams, has had its turn too."""
        if self._is_reading:
            return  # at its end
        if self._at_turn_end is None or self._collected > WRITE_BYTES:
            self.flush()
        elif not self._is_flushed_soon:
            self._is_flushed_soon = True
            self._at_turn_end(self._flush_now)

    def _flush_now(self) -> None:
        self._is_flushed_soon = False
        if not self._is_over:
            self.flush()

    def flush(self) -> None:
        """Let waiting streams take turns, and hand what was collected to the transport."""
        if self._ready:
            self._pump()
        if self._out:
            self._write()
        if self._swelling:
            swelling, self._swelling = self._swelling, set()
            for stream in swelling:
                stream.look_at_queue()
        if self.write_blocked and unsent_bytes(self.transport) > UNSENT_BYTES:
            self._pause()

    def _write(self) -> None:
        out, self._out = self._out, []
        self._collected = 0
        self.flushes += 1
        self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def _pump(self) -> None:
        ready = self._ready
        left, size = TURN_BYTES, 0
        while ready and not self.write_blocked and self.send_window > 0:
            if left <= 0:
                if not self._is_pumping_later:
                    self._is_pumping_later = True
                    self.clock.callLater(0, self._pump_on)
                return
            stream = next(iter(ready))
            del ready[stream]
            sent = stream.send_some()
            left -= sent
            size += sent
            if stream.queued and stream.send_window > 0:
                ready[stream] = None
            if size >= WRITE_BYTES:
                size = 0
                self._write()

    def _pump_on(self) -> None:
        self._is_pumping_later = False
        if not self._is_over:
            self.flush()

    def pauseProducing(self) -> None:
        """Twisted: the transport's buffer is full."""
        self.write_blocked = True

    def resumeProducing(self) -> None:
        """Twisted: it has emptied."""
        self.write_blocked = False
        if self._is_paused and not self._is_held:
            self._resume()
        self.flush()

    def stopProducing(self) -> None:
        """Twisted: the transport is gone; :meth:`connectionLost` follows."""

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self.transport.pauseProducing()

    def _resume(self) -> None:
        if self._is_paused and not (self.write_blocked and unsent_bytes(self.transport) > UNSENT_BYTES):
            self._is_paused = False
            self.transport.resumeProducing()

    # --- streams come and go --------------------------------------------------------------------------------------

    def close_stream(self, stream: Stream, how: int) -> None:
        """Forget an open stream, but for how it ended."""
        del self.streams[stream.id]
        closed = self._closed
        closed[stream.id] = how
        if len(closed) > KNOWN_CLOSED:
            del closed[next(iter(closed))]
        stream.release()
        if not self.streams:
            self.on_last_stream()

    def reset_stream(self, stream: Stream, code: int) -> None:
        """End an open stream with RST_STREAM."""
        self.send(frames.reset_frame(stream.id, code))
        self.close_stream(stream, RESET_BY_US)

    def fail(self, fault: Http2Fault) -> None:
        """End the connection for a fault of the peer's, or of ours."""
        if not self._is_over:
            _log.debug("HTTP/2 connection ended", problem=fault.problem, code=fault.code)
            self.send(frames.goaway_frame(self._last_peer_id, fault.code, fault.problem.encode("ascii")))
            self.end()

    def end(self) -> None:
        """Say and hear nothing more, and close: RFC 9113 section 5.4.1."""
        self._is_over = True
        self._buffer = b""
        self._block = None
        self._ready.clear()
        self._swelling.clear()
        streams, self.streams = self.streams, {}
        self._write_last()
        for stream in streams.values():
            stream.on_connection_lost()
        self.transport.unregisterProducer()
        self._is_held = False
        if self._is_paused:
            self._is_paused = False
            self.transport.resumeProducing()
        self.close_transport()
        self.deadline = self.wheel.after(LINGER_S)
        self.wheel.watch(self)

    def close_transport(self) -> None:
        """Close our half, so that the peer gets to read what was sent."""
        self.transport.loseWriteConnection()

    def _write_last(self) -> None:
        if self._out:
            self._write()

    def on_deadline(self, now: float) -> None:
        """The wheel."""
        self.deadline = math.inf
        if self._is_over:
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.wheel.forget(self)
        self.wheel.forget_coarse(self)
        self._is_over = True
        self._out.clear()
        self._ready.clear()
        self._swelling.clear()
        streams, self.streams = self.streams, {}
        for stream in streams.values():
            stream.on_connection_lost()
