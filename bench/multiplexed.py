"""The far ends of HTTP/2 connections in memory, for ``python -m bench driver``: they send, and read as little as they can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bench.load import SHAPES

#: Connections and streams of each, as ``h2load -c8 -m10`` has them.
CONNECTIONS, STREAMS = 8, 10
ANSWER_FIELDS = (
    (b":status", b"200"),
    (b"server", b"nginx/1.22.1"),
    (b"date", b"Sun, 22 Nov 2026 21:55:20 GMT"),
    (b"content-type", b"application/json"),
    (b"content-length", b"132"),
)
BODY = b"x" * 132
_MAX_WINDOW = 2**31 - 1
#: DATA that is credited at once, so that it is no matter what that costs.
_CREDIT_BYTES = 2**20
_HEADERS, _DATA = 0x1, 0x0


class TurnEnds:
    """Calls what was asked for once a turn is over, as the gateway's reactor does.

    Args:
        clock: of the pipeline, which gets the method that connections look for.
    """

    def __init__(self, clock: Any) -> None:
        self._calls: list[Any] = []
        clock.at_turn_end = self._calls.append

    def end(self) -> None:
        """All that happens at the same time has happened."""
        calls = self._calls[:]
        self._calls.clear()
        for call in calls:
            call()


class Client:
    """A client of one connection.

    Args:
        connection: the gateway's end, with a transport.
        own: a field that differs from request to request, in turn, or nothing.
    """

    def __init__(self, connection: Any, shape: str, own: Iterator[tuple[bytes, bytes, bytes]] | None) -> None:
        from txgateway.transport.http2 import frames
        from txgateway.transport.http2.header_encoder import HeaderEncoder

        self._connection = connection
        self._frames = frames
        self._encoder = HeaderEncoder()
        self._own = own
        self._fields = [
            (b":method", b"", b"GET"),
            (b":scheme", b"", b"http"),
            (b":authority", b"", b"127.0.0.1:8000"),
            (b":path", b"", b"/api/v1/resumes?page=1"),
            *((name.lower().encode(), b"", value.encode()) for name, value in SHAPES[shape]),
        ]
        self._next_id = 1
        self._owed = 0
        connection.dataReceived(
            frames.PREFACE + frames.settings_frame(()) + frames.window_frame(0, _MAX_WINDOW - frames.DEFAULT_WINDOW)
        )

    def ask(self) -> None:
        """As many requests as there may be at once, in one read."""
        frames = self._frames
        parts = []
        for _ in range(STREAMS):
            fields = self._fields if self._own is None else [*self._fields, next(self._own)]
            block = self._encoder.encode(fields)
            parts += (frames.frame_header(len(block), _HEADERS, 0x5, self._next_id), block)
            self._next_id += 2
        self._owed += STREAMS * len(BODY)
        if self._owed >= _CREDIT_BYTES:
            parts.append(frames.window_frame(0, self._owed))
            self._owed = 0
        self._connection.dataReceived(b"".join(parts))


class Target:
    """A target's end of a connection, which answers all alike.

    Args:
        connection: the gateway's end, with a transport.
    """

    def __init__(self, connection: Any) -> None:
        from txgateway.transport.http2 import frames
        from txgateway.transport.http2.header_encoder import HeaderEncoder

        self._connection = connection
        self._frames = frames
        self._encoder = HeaderEncoder()
        self._fields = [(name, b"", value) for name, value in ANSWER_FIELDS]
        connection.transport.written.clear()  # the preface
        settings = ((frames.MAX_CONCURRENT_STREAMS, 128),)
        connection.dataReceived(frames.settings_frame(settings) + frames.SETTINGS_ACK)

    def answer(self, written: Sequence[bytes]) -> None:
        """Answer the requests in what the gateway has written, in one read."""
        frames = self._frames
        parts = []
        data = b"".join(written)
        position = 0
        while position < len(data):
            high, low, kind, _, stream_id = frames.read_header(data, position)
            position += frames.HEADER_BYTES + (high << 16 | low)
            if kind == _HEADERS:
                block = self._encoder.encode(self._fields)
                parts += (
                    frames.frame_header(len(block), _HEADERS, 0x4, stream_id),
                    block,
                    frames.frame_header(len(BODY), _DATA, 0x1, stream_id),
                    BODY,
                )
        if parts:
            self._connection.dataReceived(b"".join(parts))
