"""The sending half of an HTTP/2 connection: frames are collected, streams take turns, and one write takes all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from zope.interface import implementer

from txgateway.transport.http2 import frames
from txgateway.transport.http2.floods import EARNED, EMPTY_FRAMES, EMPTY_FRAMES_PER_S, UNSENT_BYTES, Allowance
from txgateway.transport.http2.frames import DATA, END_HEADERS, END_STREAM, HEADERS
from txgateway.transport.http2.header_encoder import HeaderEncoder
from txgateway.transport.http2.stream import Stream
from txgateway.transport.interfaces import Headers
from txgateway.transport.sockets import unsent_bytes
from txgateway.transport.wheel import TimerWheel

#: Sent in one turn at most, by streams that take turns; and in one write.
TURN_BYTES: Final = 256 * 1024
WRITE_BYTES: Final = 64 * 1024


@implementer(IPushProducer)
class FrameSender(TwistedProtocol):
    """Collects what goes to the peer, within the windows, until :meth:`flush`.

    Args:
        wheel: for deadlines.
        clock: for what is left for the next turn.

    Attributes:
        write_blocked: the transport's buffer is full.
        send_window, initial_send_window: what the peer allows.
        flushes: counts writes, for who wants to know whether output is still here.
    """

    transport: Any
    write_blocked = False
    _is_over = False  # nothing of what comes matters any more

    def __init__(self, wheel: TimerWheel, clock: IReactorTime) -> None:
        self.wheel = wheel
        self.clock = clock
        self.flushes = 0
        self.send_window = self.initial_send_window = frames.DEFAULT_WINDOW
        self.encoder = HeaderEncoder()
        self._out: list[bytes | memoryview] = []  # of which the first is always bytes
        self._collected = 0
        self._ready: dict[Stream, None] = {}  # whose output waits for its turn, in order
        self._swelling: set[Stream] = set()  # whose output has grown since the last flush
        self._is_held = False  # the rest of a read waits for the next turn
        self._is_paused = False
        self._is_pumping_later = False
        self._is_reading = False
        self._is_flushed_soon = False
        self._at_turn_end: Callable[[Callable[[], None]], None] | None = getattr(clock, "at_turn_end", None)
        self._empty_frames = Allowance(EMPTY_FRAMES, EMPTY_FRAMES_PER_S, wheel.now)

    def send(self, frame: bytes) -> None:
        """One frame, or several; :meth:`flush` follows."""
        self._out.append(frame)

    def send_headers(self, stream: Stream, fields: Headers, flags: int) -> None:
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

    def send_data(self, stream: Stream, data: bytes | memoryview, flags: int) -> None:
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
        header = bytes(self._out[index])
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
        self.transport.write(b"".join(out))

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
