"""A client in memory whose frames are the test's own, at the far end of a server connection of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import hpack
from tests.integration.h2_frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEAD_BYTES,
    HEADERS,
    PREFACE,
    RST_STREAM,
    WINDOW_UPDATE,
    Frame,
    frame,
    settings_ack,
    settings_frame,
)
from tests.unit.support import MemoryTransport, Server

from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.http2.server import Http2ServerConnection

Field = tuple[bytes, bytes]

GET = ((b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/"))
POST = ((b":method", b"POST"), *GET[1:])


def frames_in(data: bytes) -> list[Frame]:
    """All frames in ``data``, which must hold whole ones only."""
    found = []
    while data:
        size = HEAD_BYTES + int.from_bytes(data[:3], "big")
        assert len(data) >= size, "a frame is cut off"
        found.append(Frame(data[3], data[4], int.from_bytes(data[5:9], "big"), data[HEAD_BYTES:size]))
        data = data[size:]
    return found


class Http2Client:
    """One connection as the client sees it.

    Args:
        server: that it connects to.
        greets: the preface and SETTINGS are exchanged at once, and what came of it is read.
        settings: that the client announces.

    Attributes:
        log: all frames that came, in order.
        fields: by stream, the header sections that came of it.
    """

    def __init__(
        self, server: Server, settings: Mapping[int, int] | Iterable[tuple[int, int]] = (), *, greets: bool = True
    ) -> None:
        self.clock = server.clock
        self.transport = MemoryTransport(server.clock)
        opened = server.factory.buildProtocol(None)
        assert isinstance(opened, Http1ServerConnection)
        opened.makeConnection(self.transport)
        self.connection: Http2ServerConnection = opened.become_http2()
        self.transport.protocol = self.connection
        self.log: list[Frame] = []
        self.fields: dict[int, list[dict[bytes, bytes]]] = {}
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()
        self._unread = 0
        self._partial = b""
        self._block = b""
        if greets:
            self.send(PREFACE + settings_frame(settings), settings_ack())
            self.look()

    # --- sending ------------------------------------------------------------------------------------------------------

    def send(self, *reads: bytes) -> Http2Client:
        """Bytes arrive at the gateway, one read each."""
        for data in reads:
            self.transport.send(data)
        self.clock.advance(0)
        return self

    def block(self, fields: Iterable[Field]) -> bytes:
        """A header section, compressed; it has to be sent."""
        return bytes(self.encoder.encode(fields))

    def headers(self, stream: int, fields: Iterable[Field] = GET, *, ends: bool = True, flags: int = 0) -> bytes:
        """HEADERS with the whole section."""
        return frame(HEADERS, flags | END_HEADERS | (END_STREAM if ends else 0), stream, self.block(fields))

    def request(self, stream: int, fields: Iterable[Field] = GET, *, ends: bool = True) -> Http2Client:
        """Send HEADERS."""
        return self.send(self.headers(stream, fields, ends=ends))

    # --- looking ------------------------------------------------------------------------------------------------------

    def look(self) -> list[Frame]:
        """The frames that came since the last look."""
        self._partial += self.transport.received()
        size = 0
        while len(self._partial) - size >= HEAD_BYTES:
            end = size + HEAD_BYTES + int.from_bytes(self._partial[size : size + 3], "big")
            if end > len(self._partial):
                break
            size = end
        found = frames_in(self._partial[:size])
        self._partial = self._partial[size:]
        for one in found:
            assert len(one.payload) <= 16_384
            assert not self._block or one.kind == 9
            if one.kind == HEADERS or one.kind == 9:
                self._block += one.content
                if one.flags & END_HEADERS:
                    section = self.decoder.decode(self._block, raw=True)
                    self._block = b""
                    fields = {bytes(name): bytes(value) for name, value in section}
                    self.fields.setdefault(one.stream, []).append(fields)
        self.log += found
        return found

    def kinds(self) -> list[tuple[int, int]]:
        """Type and stream of the frames that came since the last look."""
        return [(one.kind, one.stream) for one in self.look()]

    def head(self, stream: int = 1) -> dict[bytes, bytes]:
        """The last header section of a stream."""
        self.look()
        return self.fields[stream][-1]

    def status(self, stream: int = 1) -> int:
        """Of the response, or of what comes before it."""
        return int(self.head(stream)[b":status"])

    def of(self, kind: int, stream: int | None = None) -> list[Frame]:
        """All frames of a type, and of a stream if one is given, that came so far."""
        self.look()
        return [one for one in self.log if one.kind == kind and stream in {None, one.stream}]

    def body(self, stream: int = 1) -> bytes:
        """The DATA of a stream so far."""
        return b"".join(one.content for one in self.of(DATA, stream))

    def has_ended(self, stream: int = 1) -> bool:
        """Whether END_STREAM came, with the last of a stream's frames and no other."""
        ends = [one.ends_stream for one in self.of(DATA, stream) + self.of(HEADERS, stream)]
        assert sum(ends) <= 1
        last = [one for one in self.log if one.stream == stream and one.kind in {DATA, HEADERS}][-1:]
        assert any(ends) == any(one.ends_stream for one in last)
        return any(ends)

    def resets(self) -> dict[int, int]:
        """Code by stream of all RST_STREAM so far; none of them is reset twice."""
        found = self.of(RST_STREAM)
        assert len({one.stream for one in found}) == len(found)
        return {one.stream: one.error_code for one in found}

    def credited(self, stream: int = 0) -> int:
        """Bytes of all WINDOW_UPDATE so far."""
        return sum(one.increment for one in self.of(WINDOW_UPDATE, stream))

    @property
    def goaway(self) -> tuple[int, int] | None:
        """Last stream and code of the last GOAWAY; each says no more than the one before."""
        found = self.of(GOAWAY)
        streams = [one.last_stream for one in found]
        assert streams == sorted(streams, reverse=True)
        return (found[-1].last_stream, found[-1].error_code) if found else None

    @property
    def is_open(self) -> bool:
        """Whether nothing says that the connection ends."""
        self.look()
        transport = self.transport
        return self.goaway is None and not (transport.half_closed or transport.closed or transport.aborted)

    def assert_ended(self, code: int, last_stream: int) -> None:
        """The connection has ended with GOAWAY, which is the last that was said; what comes now changes nothing."""
        self.look()
        assert self.log[-1].kind == GOAWAY, self.log
        assert (self.log[-1].error_code, self.log[-1].last_stream) == (code, last_stream), self.log[-1]
        self.goaway  # noqa: B018 -- looks at all of them
        assert self.transport.half_closed
        assert not self.connection.streams
        self.send(self.headers(last_stream + 2 | 1))
        assert not self.look()
