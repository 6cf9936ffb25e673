"""One exchange's part of an HTTP/2 connection: what it may send, what it has received, and how far it has come."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

from txgateway.transport.http2 import frames
from txgateway.transport.http2.codes import PROTOCOL_ERROR, StreamFault
from txgateway.transport.http2.fields import read_trailers
from txgateway.transport.http2.frames import END_STREAM
from txgateway.transport.interfaces import UNKNOWN_LENGTH, HeaderList

if TYPE_CHECKING:
    from txgateway.transport.http2.connection import Http2Connection

#: Bytes that may wait for the peer before whoever makes them is asked to stop; what one read brings comes on top.
MAX_QUEUED: Final = 16 * 1024


class Stream:
    """A stream, from its first HEADERS on.

    Args:
        connection: it is part of.
        stream_id: its number.

    Attributes:
        send_window: bytes that the peer still takes.
        receive_left: bytes that it may still send.
        queued: bytes that wait for a window, or for the transport.
        is_open: it has begun and not ended; its connection's to say.
        is_local_closed, is_remote_closed: END_STREAM was sent, was received.
        write_blocked: whoever makes output has been asked to stop.
    """

    __slots__ = (
        "_consumed",
        "_end",
        "_held",
        "_held_bytes",
        "_held_end",
        "_is_delivering",
        "_is_paused",
        "_left",
        "_queue",
        "_tail",
        "_tail_flush",
        "connection",
        "id",
        "is_local_closed",
        "is_open",
        "is_remote_closed",
        "queued",
        "receive_left",
        "send_window",
        "write_blocked",
    )

    connection: Any

    def __init__(self, connection: Http2Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.send_window = connection.initial_send_window
        self.receive_left = connection.stream_window
        self.queued = 0
        self.is_open = self.is_local_closed = self.is_remote_closed = False
        self.write_blocked = False
        self._queue: deque[bytes | memoryview] | None = None
        self._end: HeaderList | None = None  # the trailers behind what is queued
        self._tail = self._tail_flush = -1
        self._consumed = 0
        self._left = UNKNOWN_LENGTH  # of what is received
        self._held: deque[bytes] | None = None  # received, and not delivered yet
        self._held_bytes = 0
        self._held_end: HeaderList | None = None
        self._is_paused = self._is_delivering = False

    # --- what an end of the connection says -----------------------------------------------------------------------

    def on_data(self, data: bytes) -> None:
        """Some of the body."""
        raise NotImplementedError

    def on_body_end(self, trailers: HeaderList) -> None:
        """The body is complete."""
        raise NotImplementedError

    def on_fault(self, fault: StreamFault) -> None:
        """The stream was reset for a fault of the peer's."""
        raise NotImplementedError

    def on_connection_lost(self) -> None:
        """The connection is gone, and with it the stream."""
        raise NotImplementedError

    def on_blocked(self) -> None:
        """Whoever makes output is to stop."""
        raise NotImplementedError

    def on_drained(self) -> None:
        """And may go on."""
        raise NotImplementedError

    def on_sent_all(self) -> None:
        """END_STREAM has been sent."""
        raise NotImplementedError

    # --- sending --------------------------------------------------------------------------------------------------

    def mark_tail(self, index: int) -> None:
        """Remember where among the connection's output the last frame of this stream begins."""
        self._tail = index
        self._tail_flush = self.connection.flushes

    def write(self, data: bytes) -> None:
        """Send some of a body, now or when windows and transport allow it."""
        connection = self.connection
        size = len(data)
        if (
            not self.queued
            and size <= self.send_window
            and size <= connection.send_window
            and size <= frames.FRAME_BYTES
            and not connection.write_blocked
        ):
            connection.send_data(self, data, 0)
            return
        if self._queue is None:
            self._queue = deque()
        self._queue.append(data)
        self.queued += size
        connection.swells(self)

    def finish(self, trailers: HeaderList) -> None:
        """The body is complete."""
        if self.queued:
            self._end = trailers
        else:
            self._send_end(trailers)

    def _send_end(self, trailers: HeaderList) -> None:
        connection = self.connection
        if trailers:
            connection.send_headers(self, trailers, END_STREAM)
        elif self._tail_flush == connection.flushes:
            connection.end_tail(self._tail)
        else:
            connection.send_data(self, b"", END_STREAM)
        self.is_local_closed = True
        self.on_sent_all()

    def send_some(self) -> int:
        """Send one frame of what is queued, within the windows; returns its bytes."""
        connection, queue = self.connection, self._queue
        piece = queue[0]  # type: ignore[index]
        limit = min(frames.FRAME_BYTES, self.send_window, connection.send_window)
        if len(piece) <= limit:
            queue.popleft()  # type: ignore[union-attr]
        else:  # a view, for what is left of a long piece is not to be copied for each frame
            view = memoryview(piece)
            queue[0] = view[limit:]  # type: ignore[index]
            piece = view[:limit]
        size = len(piece)
        self.queued -= size
        connection.send_data(self, piece, 0)
        if not self.queued:
            if self._end is not None:
                self._send_end(self._end)
                return size
            if self.write_blocked:
                self.write_blocked = False
                self.on_drained()
        return size

    def look_at_queue(self) -> None:
        """Ask for a stop if too much waits."""
        if self.queued > MAX_QUEUED and not self.write_blocked and self._end is None:
            self.write_blocked = True
            self.on_blocked()

    # --- receiving ------------------------------------------------------------------------------------------------

    def check_length(self, size: int, *, has_ended: bool) -> None:
        """Hold the body to its declared length, if it has one.

        Raises:
            StreamFault: it is another one (RFC 9113 section 8.1.1).
        """
        if self._left >= 0:
            self._left -= size
            if self._left < 0 or (has_ended and self._left):
                raise StreamFault(PROTOCOL_ERROR, "body of another length")

    def receive(self, data: bytes, *, has_ended: bool) -> None:
        """DATA within the windows; held bytes are at most a window.

        Raises:
            StreamFault: the body is not as long as it was declared.
        """
        try:
            self.check_length(len(data), has_ended=has_ended)
        except StreamFault:
            self.connection.credit(len(data))  # nobody will take them
            raise
        if has_ended:
            self.is_remote_closed = True
        if self._is_paused or self._held is not None:
            if self._held is None:
                self._held = deque()
            if data:
                self._held.append(data)
                self._held_bytes += len(data)
        elif data:
            self.credit(len(data))
            self.on_data(data)
        if has_ended:
            self.receive_end([])

    def receive_trailers(self, fields: HeaderList, *, has_ended: bool) -> None:
        """A header block behind the head's.

        Raises:
            StreamFault: it is none of trailers.
        """
        if not has_ended:
            raise StreamFault(PROTOCOL_ERROR, "trailers that do not end the stream")
        trailers = read_trailers(fields)
        self.check_length(0, has_ended=True)
        self.receive_end(trailers)

    def receive_end(self, trailers: HeaderList) -> None:
        """The peer has sent everything; what is held is delivered before the end of it."""
        self.is_remote_closed = True
        if self._held is None:
            self.on_body_end(trailers)
        else:
            self._held_end = trailers

    def pause(self) -> None:
        """Deliver nothing: the peer can send as much as the window has room for, which is held."""
        self._is_paused = True

    def resume(self) -> None:
        """Deliver what is held, and then what comes."""
        if not self._is_paused:
            return
        self._is_paused = False
        if self._held is not None and not self._is_delivering:
            self._is_delivering = True
            self._deliver()
            self._is_delivering = False
            self.connection.flush_soon()

    def take_held(self) -> bytes:
        """What is held, without waiting for :meth:`resume`, which this makes needless; an end comes a turn later."""
        held, self._held_bytes = b"".join(self._held or ()), 0
        self._held = None
        self._is_paused = False
        if held:
            self.credit(len(held))
        if self._held_end is not None:
            self._held = deque()
            self._is_paused = True
            self.connection.clock.callLater(0, self.resume)
        return held

    def _deliver(self) -> None:
        while self._held and not self._is_paused:
            data = self._held.popleft()
            self._held_bytes -= len(data)
            self.credit(len(data))
            self.on_data(data)
        if self._held is not None and not self._is_paused:
            self._held = None
            end, self._held_end = self._held_end, None
            if end is not None:
                self.on_body_end(end)

    def credit(self, size: int) -> None:
        """The body's receiver has taken bytes."""
        connection = self.connection
        connection.credit(size)
        if not self.is_remote_closed:
            self._consumed += size
            if self._consumed >= connection.stream_window // 2:
                self.receive_left += self._consumed
                connection.send(frames.window_frame(self.id, self._consumed))
                self._consumed = 0

    def drop_output(self) -> None:
        """Nobody wants what is queued."""
        self.queued = 0
        self._queue = self._end = None
        self.connection.drop_output(self)

    def release(self) -> None:
        """The stream is no more: what it holds goes back to the connection's window."""
        self.drop_output()
        self._held = None
        held, self._held_bytes = self._held_bytes, 0
        if held:
            self.connection.credit(held)
