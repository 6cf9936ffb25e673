"""An attacker as a process of its own: ``python -m tests.load.flooder PORT FLOOD SECONDS``.

It keeps some connections to a gateway on the loopback interface, speaks HTTP/2 on them by prior knowledge, sends its
flood as fast as it is taken, and connects again whenever one of them ends. It says ``ready``, begins once a line comes
on standard input, ends by itself, and says on one line of JSON what became of its connections (:class:`Tally`).
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count, repeat

import click
from attrs import Factory, asdict, define, frozen
from tests.integration import h2_frames as h2
from tests.integration.h2_frames import frame, literal_block, rst_stream, settings_frame, window_update

CONNECTIONS = 4
#: Streams of one connection that the gateway lets be open at once.
STREAMS = 100
#: Paths of a target's that answers never, and with more than anybody keeps.
ENDLESS = b"/flood/endless"
LARGE = b"/flood/large/4194304"
#: Error codes (RFC 9113 section 7).
CODES = (
    "NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED",
    "FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED",
)  # fmt: skip
#: Frames, and streams, that are handed to the kernel together.
FRAMES_AT_ONCE = 1000
STREAMS_AT_ONCE = 50
READ_BYTES = 256 * 1024
#: The machine's time is the gateway's first: an attacker is elsewhere.
NICE = 10


@frozen
class Flood:
    """What one connection sends.

    Attributes:
        opening: once, behind the SETTINGS.
        pieces: then these, one after the other.
        settings: of the connection.
        reads: what the gateway answers; otherwise the socket is left alone.
        data_bytes: of DATA in each piece, which the windows have to allow.
    """

    opening: bytes = b""
    pieces: Callable[[], Iterator[bytes]] = lambda: iter(())
    settings: Mapping[int, int] = {}
    reads: bool = True
    data_bytes: int = 0


# --- what is sent ------------------------------------------------------------------------------------------------


def request(path: bytes, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> bytes:
    """The header block of a request."""
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":authority", b"load.test"), (b":path", path)]
    return literal_block([*pseudo, *fields])


def headers(stream: int, block: bytes, *, ends: bool = True) -> bytes:
    """HEADERS with a whole block."""
    return frame(h2.HEADERS, h2.END_HEADERS | (h2.END_STREAM if ends else 0), stream, block)


def over_and_over(one: bytes) -> Callable[[], Iterator[bytes]]:
    """The same frame for ever."""
    return lambda: repeat(one * FRAMES_AT_ONCE)


def streams(begin: Callable[[int], bytes], first: int = 1) -> Callable[[], Iterator[bytes]]:
    """What ``begin`` makes of each new stream."""

    def pieces() -> Iterator[bytes]:
        for start in count(first, 2 * STREAMS_AT_ONCE):
            yield b"".join(map(begin, range(start, start + 2 * STREAMS_AT_ONCE, 2)))

    return pieces


def bomb() -> bytes:
    """A block of one frame that stands for fifty megabytes of fields."""
    name, value = b"x-bomb", b"b" * 3900
    indexed = (
        b"\x40" + bytes((len(name),)) + name + b"\x7f" + bytes((0x80 | (3900 - 127) & 0x7F, (3900 - 127) >> 7)) + value
    )
    return request(ENDLESS) + indexed + b"\xbe" * 12_000


GET = request(ENDLESS)
#: Blocks of one frame that are well-formed, and whose reading is all of their use: as many fields as may be, and more
#: updates than that.
MANY_FIELDS = GET + literal_block([(b"a", b"")]) * 1900
MANY_UPDATES = b"\x20" * 16_000 + request(b"/flood")
POST = request(ENDLESS, method=b"POST")
ONE_BYTE_MORE = request(ENDLESS, (b"content-length", b"1"), method=b"POST")
MALFORMED = request(ENDLESS, (b"Upper", b"case"))
ALL_STREAMS = range(1, 2 * STREAMS, 2)
UPLOAD = headers(1, POST, ends=False)
#: A header block that begins, and never ends.
OPEN_BLOCK = frame(h2.HEADERS, 0, 1, b"\x00")

FLOODS: Mapping[str, Flood] = {
    "rapid-reset": Flood(pieces=streams(lambda one: headers(one, GET) + rst_stream(one))),
    "continuation-small": Flood(OPEN_BLOCK, over_and_over(frame(h2.CONTINUATION, 0, 1, b"\x00"))),
    "continuation-empty": Flood(OPEN_BLOCK, over_and_over(frame(h2.CONTINUATION, 0, 1))),
    "continuation-large": Flood(OPEN_BLOCK, lambda: repeat(frame(h2.CONTINUATION, 0, 1, bytes(2**14)))),
    "settings": Flood(pieces=over_and_over(settings_frame({h2.HEADER_TABLE_SIZE: 4096}))),
    "ping": Flood(pieces=over_and_over(h2.ping())),
    "priority": Flood(pieces=over_and_over(frame(h2.PRIORITY, 0, 1, b"\x00\x00\x00\x03\x10"))),
    "empty-data": Flood(UPLOAD, over_and_over(h2.data_frame(1))),
    "window-connection": Flood(pieces=over_and_over(window_update(1))),
    "window-stream": Flood(UPLOAD, over_and_over(window_update(1, 1))),
    "unknown-type": Flood(pieces=over_and_over(frame(0xFA, 0, 1, b"x"))),
    "hpack-bomb": Flood(pieces=streams(lambda one: headers(one, bomb()))),
    "hpack-fields": Flood(pieces=streams(lambda one: headers(one, MANY_FIELDS))),
    "hpack-updates": Flood(pieces=streams(lambda one: headers(one, MANY_UPDATES))),
    "zero-window": Flood(
        b"".join(headers(one, request(LARGE)) for one in ALL_STREAMS), settings={h2.INITIAL_WINDOW_SIZE: 0}
    ),
    "slow-read": Flood(
        window_update(2**30) + b"".join(headers(one, request(LARGE)) for one in ALL_STREAMS),
        settings={h2.INITIAL_WINDOW_SIZE: h2.LARGEST_WINDOW},
        reads=False,
    ),
    "reset-by-zero-window-update": Flood(pieces=streams(lambda one: headers(one, GET) + window_update(0, one))),
    "reset-by-window-overflow": Flood(
        pieces=streams(lambda one: headers(one, GET) + window_update(h2.LARGEST_WINDOW, one))
    ),
    "reset-by-data-behind-end": Flood(pieces=streams(lambda one: headers(one, GET) + h2.data_frame(one))),
    "reset-by-trailers": Flood(
        pieces=streams(
            lambda one: headers(one, POST, ends=False) + headers(one, literal_block([(b"a", b"b")]), ends=False)
        )
    ),
    "reset-by-length": Flood(
        pieces=streams(lambda one: headers(one, ONE_BYTE_MORE, ends=False) + h2.data_frame(one, b"12"))
    ),
    "reset-by-malformed": Flood(pieces=streams(lambda one: headers(one, MALFORMED))),
    "too-many-streams": Flood(
        b"".join(headers(one, GET) for one in ALL_STREAMS), streams(lambda one: headers(one, GET), 2 * STREAMS + 1)
    ),
    "one-byte-data": Flood(UPLOAD, over_and_over(h2.data_frame(1, b"1")), data_bytes=FRAMES_AT_ONCE),
}


# --- connections -------------------------------------------------------------------------------------------------


@define
class Tally:
    """What became of it all.

    Attributes:
        goaways, resets: how many by error code.
        ended: connections that the gateway ended, and of these ``aborted`` without an end of the stream of bytes.
        unheard: connections that it ended without GOAWAY.
        left_open: when the time was over.
        sent_bytes: to the kernel.
    """

    connections: int = 0
    goaways: Counter[str] = Factory(Counter)
    resets: Counter[str] = Factory(Counter)
    ended: int = 0
    aborted: int = 0
    unheard: int = 0
    left_open: int = 0
    sent_bytes: int = 0


class _Connection:
    """One connection, until it ends."""

    def __init__(self, port: int, flood: Flood, tally: Tally) -> None:
        self._flood, self._tally = flood, tally
        self._pieces = flood.pieces()
        self._unsent = memoryview(h2.PREFACE + settings_frame(flood.settings) + flood.opening)
        self._received = b""
        self._windows = [65_535, 65_535]  # of the connection and of stream 1
        self._stream_window = 65_535
        self._has_goaway = self._has_all_sent = False
        tally.connections += 1
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    @property
    def events(self) -> int:
        """What to wait for; an end is always told."""
        is_open = self._unsent or (self._flood.data_bytes <= min(self._windows) and not self._has_all_sent)
        wants_out = is_open and not self._has_goaway
        return (select.POLLIN if self._flood.reads else 0) | (select.POLLOUT if wants_out else 0)

    def on_events(self, events: int) -> bool:
        """Go on; False if this was its end."""
        tally = self._tally
        try:
            if events & ~select.POLLOUT and not self._read():
                tally.ended += 1
            else:
                if events & select.POLLOUT:
                    self._write()
                return True
        except OSError:
            tally.ended += 1
            tally.aborted += 1
        tally.unheard += not self._has_goaway
        self.socket.close()
        return False

    def _write(self) -> None:
        if not self._unsent:
            piece = next(self._pieces, None)
            if piece is None:
                self._has_all_sent = True
                return
            self._unsent = memoryview(piece)
            self._windows = [left - self._flood.data_bytes for left in self._windows]
        sent = self.socket.send(self._unsent)
        self._tally.sent_bytes += sent
        self._unsent = self._unsent[sent:]

    def _read(self) -> bool:
        data = self.socket.recv(READ_BYTES)
        received = self._received + data
        position = 0
        while len(received) - position >= h2.HEAD_BYTES:
            begin = position + h2.HEAD_BYTES
            end = begin + int.from_bytes(received[position : position + 3], "big")
            if len(received) < end:
                break
            stream = int.from_bytes(received[begin - 4 : begin], "big")
            self._on_frame(h2.Frame(received[position + 3], received[position + 4], stream, received[begin:end]))
            position = end
        self._received = received[position:]
        return bool(data)

    def _on_frame(self, one: h2.Frame) -> None:
        if one.kind == h2.GOAWAY:
            self._has_goaway = True
            self._tally.goaways[CODES[one.error_code]] += 1
        elif one.kind == h2.RST_STREAM:
            self._tally.resets[CODES[one.error_code]] += 1
        elif one.kind == h2.WINDOW_UPDATE and one.stream <= 1:
            self._windows[one.stream] += one.increment
        elif one.kind == h2.SETTINGS and not one.is_ack:
            size = one.settings.get(h2.INITIAL_WINDOW_SIZE, self._stream_window)
            self._windows[1] += size - self._stream_window
            self._stream_window = size


def attack(port: int, flood: Flood, seconds: float) -> Tally:
    """Keep the connections for so long."""
    tally = Tally()
    poll = select.poll()
    found: dict[int, _Connection] = {}
    end_at = time.monotonic() + seconds
    while time.monotonic() < end_at:
        while len(found) < CONNECTIONS:
            fresh = _Connection(port, flood, tally)
            found[fresh.socket.fileno()] = fresh
        for number, one in found.items():
            poll.register(number, one.events)
        for number, events in poll.poll(100):
            if not found[number].on_events(events):
                poll.unregister(number)
                del found[number]
    tally.left_open = len(found)
    for one in found.values():
        one.socket.close()
    return tally


def main(port: int, name: str, seconds: float) -> None:
    """One flood."""
    os.nice(NICE)
    click.echo("ready")
    if sys.stdin.readline():
        click.echo(json.dumps(asdict(attack(port, FLOODS[name], seconds))))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
