"""Frames of HTTP/2 as bytes, right or wrong, for what no library would send; and a connection that sends and reads them.

Header sections go through ``hpack``. Nothing here keeps the rules of streams and windows: that is the test's business.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Self

import hpack
import trustme
from attrs import frozen
from tests.integration.client import Head, Response
from tests.integration.secure import HOST, client_context
from tests.integration.wire import TIMEOUT_S, Fields, Wire

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES = 9

#: Types of frames.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

#: Flags. ``END_STREAM`` of DATA and HEADERS is the same bit as ``ACK`` of SETTINGS and PING.
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

#: Settings (RFC 9113 section 6.5.2, RFC 8441 section 3).
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)
ENABLE_CONNECT_PROTOCOL = 8

#: Error codes (RFC 9113 section 7).
(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, HTTP_1_1_REQUIRED,
) = range(14)  # fmt: skip

#: As a client sends it: without the reserved bit, and the largest one there is.
LARGEST_STREAM = LARGEST_WINDOW = 2**31 - 1


@frozen
class Frame:
    """A frame as it came.

    Attributes:
        kind: its type.
    """

    kind: int
    flags: int
    stream: int
    payload: bytes

    @property
    def is_ack(self) -> bool:
        """Of SETTINGS or PING: whether it acknowledges."""
        return bool(self.flags & ACK)

    @property
    def ends_stream(self) -> bool:
        """Of HEADERS or DATA: whether it is the last of its stream."""
        return bool(self.flags & END_STREAM)

    @property
    def last_stream(self) -> int:
        """Of GOAWAY."""
        return _number(self.payload[:4])

    @property
    def error_code(self) -> int:
        """Of RST_STREAM or GOAWAY."""
        return _number(self.payload[4:8] if self.kind == GOAWAY else self.payload)

    @property
    def debug(self) -> bytes:
        """Of GOAWAY: what it says beyond the code."""
        return self.payload[8:]

    @property
    def increment(self) -> int:
        """Of WINDOW_UPDATE."""
        return _number(self.payload)

    @property
    def settings(self) -> dict[int, int]:
        """Of SETTINGS."""
        return dict(struct.iter_unpack("!HI", self.payload))

    @property
    def content(self) -> bytes:
        """Of DATA, HEADERS: the payload without padding and priority."""
        payload = self.payload
        if self.flags & PADDED:
            payload = payload[1 : len(payload) - payload[0]]
        if self.kind == HEADERS and self.flags & HAS_PRIORITY:
            payload = payload[5:]
        return payload


def _number(octets: bytes) -> int:
    return int.from_bytes(octets, "big") & LARGEST_STREAM


# --- frames as bytes -----------------------------------------------------------------------------------------------------


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"", *, length: int | None = None) -> bytes:
    """Any frame; ``length`` lies about its payload, and a stream above 2^31 sets the reserved bit."""
    announced = len(payload) if length is None else length
    return announced.to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def settings_frame(settings: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> bytes:
    """SETTINGS; pairs may name a setting more than once."""
    pairs = settings.items() if isinstance(settings, Mapping) else settings
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", name, value) for name, value in pairs))


def settings_ack() -> bytes:
    """The acknowledgement of the other side's SETTINGS."""
    return frame(SETTINGS, ACK)


def data_frame(stream: int, data: bytes = b"", *, ends: bool = False) -> bytes:
    """DATA without padding."""
    return frame(DATA, END_STREAM if ends else 0, stream, data)


def window_update(increment: int, stream: int = 0) -> bytes:
    """WINDOW_UPDATE; of the connection unless a stream is given."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def rst_stream(stream: int, code: int = CANCEL) -> bytes:
    """RST_STREAM."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def goaway(last_stream: int = 0, code: int = NO_ERROR, debug: bytes = b"") -> bytes:
    """GOAWAY."""
    return frame(GOAWAY, payload=struct.pack("!II", last_stream, code) + debug)


def ping(payload: bytes = b"12345678", *, is_ack: bool = False) -> bytes:
    """PING."""
    return frame(PING, ACK if is_ack else 0, payload=payload)


def literal_block(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A header section that neither side has to remember anything of (RFC 7541 section 6.2.2), whatever is in it."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields)


def _string(octets: bytes) -> bytes:
    length = len(octets)
    if length < 127:
        return bytes((length,)) + octets
    encoded, left = [127], length - 127
    while left >= 128:
        encoded.append(left % 128 + 128)
        left //= 128
    return bytes((*encoded, left)) + octets


def request_fields(
    method: str = "GET", path: str = "/", *fields: tuple[str, str], authority: str = HOST, scheme: str = "http"
) -> Fields:
    """The header list of an ordinary request."""
    pseudo = [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]
    return [*pseudo, *fields]


# --- connections ---------------------------------------------------------------------------------------------------------


def h2_context(authority: trustme.CA, *protocols: str, certificate: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """What trusts the authority and offers these protocols; ``h2`` if none is given."""
    context = client_context(authority, certificate)
    context.set_alpn_protocols(list(protocols or ("h2",)))
    return context


def connected(
    port: int | socket.socket, context: ssl.SSLContext | None = None, *, host: str | None = HOST, receive_bytes: int = 0
) -> socket.socket:
    """A socket that is connected to a port of the loopback interface, over TLS if there is a context.

    Args:
        port: there, or a socket that is connected to where the gateway is.
    """
    sock = port if isinstance(port, socket.socket) else socket.socket()
    sock.settimeout(TIMEOUT_S)
    if receive_bytes:  # takes effect only before the connection is made
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        if isinstance(port, int):
            sock.connect(("127.0.0.1", port))
        return sock if context is None else context.wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


class FrameWire(Wire):
    """A connection whose frames are the test's own, as a context manager; nothing is sent or answered unasked.

    Args:
        sock: connected; see :func:`connected`.

    Attributes:
        encoder: of header sections that are sent.
        decoder: of those that came.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.encoder = hpack.Encoder()
        self.decoder = hpack.Decoder()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- sending -------------------------------------------------------------------------------------------------

    def greet(self, settings: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> dict[int, int]:
        """Send the preface and SETTINGS, read the server's and acknowledge them; returns the server's."""
        self.send(PREFACE + settings_frame(settings))
        first = self.read_frame()
        assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0), first
        self.send(settings_ack())
        return first.settings

    def greet_back(self, settings: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> dict[int, int]:
        """As a server: read the preface and SETTINGS, send ours, and acknowledge; returns the client's."""
        assert self.read_exactly(len(PREFACE)) == PREFACE
        first = self.read_frame()
        assert (first.kind, first.flags, first.stream) == (SETTINGS, 0, 0), first
        self.send(settings_frame(settings) + settings_ack())
        return first.settings

    def block(self, fields: Iterable[tuple[str, str]], *, huffman: bool = True) -> bytes:
        """A header section, compressed for this connection; each must be sent, or the other side loses track."""
        encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        return self.encoder.encode(encoded, huffman=huffman)

    def headers_frame(self, stream: int, fields: Iterable[tuple[str, str]], *, ends: bool = True) -> bytes:
        """HEADERS with the whole section."""
        return frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), stream, self.block(fields))

    def send_headers(self, stream: int, fields: Iterable[tuple[str, str]], *, ends: bool = True) -> None:
        """Send HEADERS with the whole section."""
        self.send(self.headers_frame(stream, fields, ends=ends))

    def send_request(self, stream: int, method: str = "GET", path: str = "/", *fields: tuple[str, str]) -> None:
        """Send an ordinary request without a body."""
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        self.send_headers(stream, request_fields(method, path, *fields, scheme=scheme))

    # --- reading -------------------------------------------------------------------------------------------------

    def read_frame(self) -> Frame:
        """The next frame."""
        head = self.read_exactly(HEAD_BYTES)
        payload = self.read_exactly(int.from_bytes(head[:3], "big"))
        return Frame(head[3], head[4], _number(head[5:]), payload)

    def read_frames_until(self, is_wanted: Callable[[Frame], bool]) -> list[Frame]:
        """All frames up to the first that is wanted, which is the last of them.

        Raises:
            ConnectionEnded: the connection ended before it came.
            TimeoutError: it never came, whatever else did.
        """
        deadline = monotonic() + TIMEOUT_S
        frames: list[Frame] = []
        try:
            while not frames or not is_wanted(frames[-1]):
                self.socket.settimeout(max(deadline - monotonic(), 0.001))
                frames.append(self.read_frame())
        finally:
            if self.socket.fileno() >= 0:
                self.socket.settimeout(TIMEOUT_S)
        return frames

    def read_kind(self, kind: int, stream: int | None = None) -> Frame:
        """The next frame of this type, and of this stream if one is given; others before it are dropped.

        Header sections that are dropped go through the decoder, so that later ones can still be read.
        """
        frames = self.read_frames_until(lambda one: one.kind == kind and stream in {None, one.stream})
        for one in frames[:-1]:
            if one.kind == HEADERS:
                self.fields_of(one)
        return frames[-1]

    def read_goaway(self) -> Frame:
        """The next GOAWAY."""
        return self.read_kind(GOAWAY)

    def read_reset(self, stream: int) -> int:
        """The code of a stream's RST_STREAM, once it comes."""
        return self.read_kind(RST_STREAM, stream).error_code

    def read_ping_ack(self, payload: bytes = b"12345678") -> None:
        """Read until a PING is acknowledged; until then all was taken in that was sent before it."""
        self.read_frames_until(lambda one: one.kind == PING and one.is_ack and one.payload == payload)

    def fields_of(self, one: Frame) -> Fields:
        """The fields of HEADERS that hold the whole section; to be called once for each, in order."""
        assert one.flags & END_HEADERS, "continued"
        decoded = self.decoder.decode(one.content, raw=True)
        return [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in decoded]

    def read_response(self, stream: int) -> Response:
        """The response of a stream, whole; frames of other streams are dropped, and no window is opened."""
        informational: list[Head] = []
        head: Head | None = None
        trailers: Fields = []
        body = b""
        while True:
            one = self.read_frames_until(lambda one: one.kind in {DATA, HEADERS, RST_STREAM, GOAWAY})[-1]
            fields = self.fields_of(one) if one.kind == HEADERS else []
            assert one.kind != GOAWAY, one
            if one.stream != stream:
                continue
            assert one.kind != RST_STREAM, one
            if one.kind == DATA:
                body += one.content
            elif head is not None:
                trailers = fields
            elif (found := Head(int(fields[0][1]), "", fields[1:])).status < 200:
                informational.append(found)
            else:
                head = found
            if one.ends_stream:
                assert head is not None, "an end without a head"
                return Response(head.status, "", head.fields, body, trailers, informational)
