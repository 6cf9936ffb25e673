"""The streams of an HTTP/2 connection, how each ends, and how the connection does."""

from __future__ import annotations

import math
from typing import Any, Final

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgateway.transport.http2 import frames
from txgateway.transport.http2.codes import Http2Fault
from txgateway.transport.http2.floods import LOST_STREAMS, Turns
from txgateway.transport.http2.sending import FrameSender
from txgateway.transport.http2.stream import Stream
from txgateway.transport.wheel import TimerWheel

_log = Logger(__name__)

#: After GOAWAY for a fault, what the peer still sends is read and dropped for this long, and up to this much, so that
#: the kernel does not reset the connection before the peer has read why.
LINGER_S: Final = 5.0
LINGER_BYTES: Final = 16 * 1024 * 1024
#: Streams of which it is known how they ended.
KNOWN_CLOSED: Final = 256

#: How a stream ended: as it should, by RST_STREAM of ours, or by the peer's.
ENDED, RESET_BY_US, RESET_BY_PEER = range(3)


class StreamKeeper(FrameSender):
    """Keeps the open streams, and remembers of the last others how they ended.

    Attributes:
        deadline: looked at by the wheel.
        streams: the open ones, by their number.
        turns: shared with others that may be flooded at the same time.
    """

    deadline: float = math.inf

    def __init__(self, wheel: TimerWheel, clock: IReactorTime, turns: Turns | None = None) -> None:
        super().__init__(wheel, clock)
        self.turns = turns or Turns(clock)
        self.streams: dict[int, Any] = {}
        self._untold: list[Any] = []  # which have not heard yet that the connection is gone
        self._closed: dict[int, int] = {}
        self._last_peer_id = 0
        self._dropped = 0

    def on_last_stream(self) -> None:
        """No stream is open any more."""

    def on_all_told(self) -> None:
        """All streams know that the connection is gone."""

    def open_stream(self, stream: Stream) -> None:
        """A stream begins."""
        self.streams[stream.id] = stream
        stream.is_open = True

    def close_stream(self, stream: Stream, how: int) -> None:
        """Forget an open stream, but for how it ended."""
        del self.streams[stream.id]
        stream.is_open = False
        self.remember_closed(stream.id, how)
        stream.release()
        if not self.streams:
            self.on_last_stream()

    def remember_closed(self, stream_id: int, how: int) -> None:
        """Keep how a stream ended, while there is room."""
        closed = self._closed
        closed[stream_id] = how
        if len(closed) > KNOWN_CLOSED:
            del closed[next(iter(closed))]

    def reset_stream(self, stream: Stream, code: int) -> None:
        """End an open stream with RST_STREAM."""
        self.send(frames.reset_frame(stream.id, code))
        self.close_stream(stream, RESET_BY_US)

    def fail(self, fault: Http2Fault) -> None:
        """End the connection for a fault of the peer's, or of ours."""
        if not self._is_over:
            _log.debug("HTTP/2 connection ended", problem=fault.problem, code=fault.code)
            self.send(frames.goaway_frame(self.last_taken(), fault.code, fault.problem.encode("ascii")))
            self.end()

    def last_taken(self) -> int:
        """The last of the peer's streams that was more than refused, for GOAWAY."""
        return self._last_peer_id

    def end(self) -> None:
        """Say and hear nothing more, and close: RFC 9113 section 5.4.1."""
        self._is_over = True
        self.forget_input()
        self._ready.clear()
        self._swelling.clear()
        self._take_streams()
        self._write_last()
        self._tell_some()
        self.transport.unregisterProducer()
        self._is_held = False
        if self._is_paused:
            self._is_paused = False
            self.transport.resumeProducing()
        self.close_transport()
        self.deadline = self.wheel.after(LINGER_S)
        self.wheel.watch(self)

    def forget_input(self) -> None:
        """What was read in part will not be complete."""

    def close_transport(self) -> None:
        """Close our half, so that the peer gets to read what was sent."""
        self.transport.loseWriteConnection()

    def _drop(self, data: bytes) -> None:
        self._dropped += len(data)
        if self._dropped > LINGER_BYTES:
            self.transport.abortConnection()

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
        self.forget_input()
        self._out.clear()
        self._ready.clear()
        self._swelling.clear()
        if self.streams:
            self._take_streams()
            self._tell_some()

    def _take_streams(self) -> None:
        streams, self.streams = list(self.streams.values()), {}
        for stream in streams:
            stream.is_open = False
        self._untold += streams

    def _tell_some(self) -> bool:
        """Tell so many in a turn that the connection is gone, for each may be a request whose end is work."""
        told, self._untold = self._untold[:LOST_STREAMS], self._untold[LOST_STREAMS:]
        if self._untold:
            self.turns.wait(self._tell_some)
        for stream in told:
            try:
                stream.on_connection_lost()
            except Exception:  # nothing may cross into the reactor, and the others are to hear of it too
                _log.failure("fault at the end of a stream")
        if not self._untold:
            self.on_all_told()
        return True
