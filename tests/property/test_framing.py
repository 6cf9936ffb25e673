"""Whatever the split, the framing decoders see the same message; whatever the bytes, they do not crash."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.upstream import RecordingHandler, RecordingOwner
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from txgateway.transport.framing import (
    MAX_CHUNK_LINE_BYTES,
    MAX_CHUNK_OVERHEAD_BYTES,
    ChunkedDecoder,
    FramingError,
    encode_chunk,
    encode_last_chunk,
    parse_trailers,
)
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.interfaces import NO_BODY, HeaderList

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda text: b"X-" + text.encode())
VALUES = st.text('abc "=;,', max_size=20).map(lambda text: text.strip().encode())
TRAILERS = st.lists(st.tuples(TOKENS, VALUES), max_size=4)
EXTENSIONS = st.sampled_from([b"", b";a", b";a=b", b' ; a="b c"', b";\xff\t"])
CUTS = st.lists(st.integers(0, 400), max_size=12)


def split(wire: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(wire)}), len(wire)]
    return [wire[start:end] for start, end in pairwise(edges)]


@st.composite
def chunked(draw: st.DrawFn) -> tuple[bytes, bytes, HeaderList]:
    """``(wire, body, trailers)``"""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=6))
    wire = b""
    for piece in pieces:
        line, data = encode_chunk(piece).split(b"\r\n", 1)
        size = draw(st.sampled_from([line, line.upper(), b"00" + line]))
        wire += size + draw(EXTENSIONS) + b"\r\n" + data
    trailers: HeaderList = [(name.lower(), name, value) for name, value in draw(TRAILERS)]
    return wire + encode_last_chunk(trailers), b"".join(pieces), trailers


@given(chunked(), st.binary(max_size=20), CUTS)
def test_chunked_body_in_any_split_decoded_alike(
    message: tuple[bytes, bytes, HeaderList], leftover: bytes, cuts: list[int]
) -> None:
    wire, body, trailers = message
    decoder = ChunkedDecoder()
    received = b""
    rest = b""
    for data in split(wire + leftover, cuts):
        if decoder.done:
            rest += data
        else:
            received += decoder.feed(data)
    assert decoder.done
    assert received == body
    assert decoder.trailers == trailers
    assert decoder.leftover + rest == leftover


@given(chunked(), st.integers(0, 300), st.binary(max_size=3), CUTS)
@example((b"1\r\na\r\n0\r\n\r\n", b"a", []), 3, b"\n", [4])
def test_mutated_chunked_body_in_any_split_judged_alike(
    message: tuple[bytes, bytes, HeaderList], position: int, inserted: bytes, cuts: list[int]
) -> None:
    wire = message[0]
    position %= len(wire) + 1
    wire = wire[:position] + inserted + wire[position + 1 :]

    def judge(reads: list[bytes]) -> tuple[bool, bool, bytes]:
        decoder = ChunkedDecoder()
        received = b""
        try:
            for data in reads:
                if not decoder.done:
                    received += decoder.feed(data)
        except FramingError:
            return True, False, b""
        return False, decoder.done, received

    assert judge([wire]) == judge(split(wire, cuts)) == judge([bytes([byte]) for byte in wire])


@given(st.binary(max_size=200), CUTS)
def test_random_bytes_never_crash_the_decoder(data: bytes, cuts: list[int]) -> None:
    decoder = ChunkedDecoder()
    with suppress(FramingError):
        for read in split(data, cuts):
            if not decoder.done:
                decoder.feed(read)


# --- the rules once more, plainly -------------------------------------------------------------------------------------


class PlainDecoder:
    """Reads one chunk after the other; what is fast in the real one must give what this gives, read by read."""

    def __init__(self) -> None:
        self.done = False
        self.leftover = b""
        self.trailers: HeaderList = []
        self._held = b""
        self._left = 0
        self._in_chunk = self._in_trailers = False
        self._overhead_bytes = 0

    def feed(self, data: bytes) -> bytes:
        data, self._held = self._held + data, b""
        body = b""
        while data and not self._in_trailers:
            body += data[: self._left]
            data, self._left = data[self._left :], max(0, self._left - len(data))
            if self._left:
                return body
            if self._in_chunk:
                if not b"\r\n".startswith(data[:2]):
                    raise FramingError("chunk data is not followed by CRLF")
                if len(data) < 2:
                    self._held = data
                    return body
            start = 2 if self._in_chunk else 0
            line, newline, rest = data[start:].partition(b"\n")
            if len(line + newline) > MAX_CHUNK_LINE_BYTES:
                raise FramingError("chunk-size line is too long")
            if not newline:
                self._held = data
                return body
            self._take_size_line(line)
            data = rest
        if self._in_trailers:
            self._take_trailers(data)
        return body

    def _take_size_line(self, line: bytes) -> None:
        match = re.fullmatch(rb"([0-9A-Fa-f]{1,16})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)\r", line)
        if match is None:
            raise FramingError("malformed chunk-size line")
        self._left = int(match[1], 16)
        self._in_chunk, self._in_trailers = True, self._left == 0
        extra = self._overhead_bytes + len(match[2]) - 2 * self._left
        self._overhead_bytes = max(0, extra)
        if extra > MAX_CHUNK_OVERHEAD_BYTES:
            raise FramingError("too many chunk extensions")

    def _take_trailers(self, data: bytes) -> None:
        if data.startswith(b"\r\n"):
            section, self.leftover, self.done = b"", data[2:], True
            return
        section, end, self.leftover = data.partition(b"\r\n\r\n")
        if not end:
            self._held = data
            return
        self.trailers = parse_trailers(section + end)
        self.done = True


DIGITS = st.sampled_from([b"%x", b"%X", b"0%x", b"%016x"])
#: Of small and large chunks, with what a size line may have behind the size.
SHAPES = st.tuples(
    st.one_of(st.integers(1, 17), st.integers(1, 300)),
    DIGITS,
    st.sampled_from([b"", b"", b"", b";", b";a", b" ;a", b"\t; b", b";" + b"\xff" * 29, b";" + b"x" * 30, b";" * 900]),
)


@st.composite
def runs(draw: st.DrawFn) -> bytes:
    """A chunked body of which many chunks are alike, whose data looks like chunks, or a spoiled one."""
    wire = b""
    for (size, digits, extension), count in draw(st.lists(st.tuples(SHAPES, st.integers(1, 70)), max_size=5)):
        data = draw(st.sampled_from([b"x", b"\r\n1\r\nx", b"\r", b"\n", b"1\r\n", b"0\r\n\r\n"])) * size
        wire += (digits % size + extension + b"\r\n" + data[:size] + b"\r\n") * count
    wire += draw(st.sampled_from([b"0\r\n\r\n", b"00\r\n\r\n", b"0;a\r\nX-A: b\r\n\r\n", b""])) + draw(
        st.binary(max_size=8)
    )
    if wire and draw(st.booleans()):
        at = draw(st.integers(0, len(wire)))
        spoiled = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b"0", b"g", b"00000000000000000", b" "]))
        wire = wire[:at] + spoiled + wire[at + draw(st.integers(0, 2)) :]
    return wire


def reading(decoder: ChunkedDecoder | PlainDecoder, reads: list[bytes]) -> list[object]:
    """What each read gave, and how it ended."""
    told: list[object] = []
    beyond = b""
    try:
        for data in reads:
            if decoder.done:
                beyond += data
                continue
            body = decoder.feed(data)
            while decoder.leftover and not decoder.done:
                body += decoder.feed(decoder.leftover)
            told.append(body)
    except FramingError as error:
        return [*told, str(error)]
    return [*told, decoder.done, decoder.leftover + beyond, decoder.trailers]


@given(runs(), st.lists(st.integers(0, 20_000), max_size=12), st.integers(0, 40))
@example(b"1\r\nx\r\n" * 40 + b"1;a\r\nx\r\n" * 5000 + b"1\r\nx\r\n" * 40 + b"0\r\n\r\nrest", [], 0)
@example(b"1;aaa\r\nx\r\n" * 4090 + b"1\r\nx\r\n" * 10 + b"1;aaa\r\nx\r\n" * 30, [100, 30_000], 0)
@example((b"2" + b";" * 4000 + b"\r\nxx\r\n" + b"1\r\nx\r\n" * 2000) * 2, [], 0)
@example(b"1\r\nx\r\n" * 20 + b"0\r\nA : b\r\n\r\n", [], 1)
@example(b"1\r\nx\r\n" + b"0" * 15 + b"1\r\nx\r\n" + b"0" * 16 + b"1\r\nx\r\n", [], 0)
@example(b"1\r\nx\r\n" + b"fff;" + b"a" * 4093 + b"\r\n", [], 0)
@example((b"5\r\nabcde\r\n" + b"1;" + b"a" * 4000 + b"\r\nx\r\n" + b"800\r\n" + b"x" * 2048 + b"\r\n") * 2, [], 0)
@example(b"5\r\nabcde\r\n" + b"1;aaa\r\nx\r\n" * 3000, [], 0)
@example(b"11\r\n" + b"x" * 17 + b"\r\n" + b"1;a\r\nx\r\n2;a\r\nxy\r\n" * 3000 + b"0\r\n\r\n", [], 0)
def test_each_read_gives_what_chunk_by_chunk_reading_gives(wire: bytes, cuts: list[int], step: int) -> None:
    if step:  # many reads of one size, so that chunks end where reads end
        reads = [wire[at : at + step] for at in range(0, len(wire), step)]
    else:
        edges = [0, *sorted({cut % (len(wire) + 1) for cut in cuts}), len(wire)]
        reads = [wire[start:end] for start, end in pairwise(edges)]
    assert reading(ChunkedDecoder(), reads) == reading(PlainDecoder(), reads)


# --- whole responses ------------------------------------------------------------------------------------------------


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    wire = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * draw(st.integers(0, 2))
    version = draw(st.sampled_from([b"1.1", b"1.0"]))
    status = draw(st.sampled_from([b"200 OK", b"204 No Content", b"304 Not Modified", b"500 "]))
    head = b"HTTP/" + version + b" " + status + b"\r\n"
    for name, value in draw(TRAILERS):
        head += name + b": " + value + b"\r\n"
    head += draw(st.sampled_from([b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"]))
    body = draw(st.binary(max_size=60))
    kind = draw(st.sampled_from(["length", "chunked", "close"]))
    if kind == "length":
        return wire + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    if kind == "chunked":
        return wire + head + b"Transfer-Encoding: chunked\r\n\r\n" + draw(chunked())[0]
    return wire + head + b"\r\n" + body


def transcript(reads: list[bytes], *, is_head: bool, pause_at: int = -1) -> list[object]:
    """What a handler is told about a response that arrives like this and then ends."""
    connection = Http1ClientConnection()
    connection.owner = owner = RecordingOwner()
    connection.makeConnection(transport := StringTransport())
    handler = RecordingHandler()
    connection.start(handler, b"HEAD" if is_head else b"GET", b"/", [], NO_BODY, b"", True)
    for number, data in enumerate(reads):
        if number == pause_at:
            connection.pause_reading()
        if not transport.disconnecting and not transport.disconnected:
            connection.dataReceived(data)
        if number == pause_at:
            connection.resume_reading()
    released = owner.released
    connection.connectionLost(Failure(ConnectionDone()))
    assert handler.names[-1] in {"end", "failed"}
    assert owner.forgotten
    return [*handler.transcript(), released]


@given(responses(), CUTS, st.booleans(), st.integers(-1, 8))
def test_response_in_any_split_told_alike(wire: bytes, cuts: list[int], is_head: bool, pause_at: int) -> None:
    whole = transcript([wire], is_head=is_head)
    reads = split(wire, cuts)
    told = transcript(reads, is_head=is_head, pause_at=pause_at)
    # Bytes behind the end close the connection in either case, but are noticed before or after its release.
    assert told[:-1] == whole[:-1]
    assert told == transcript(reads, is_head=is_head)


@given(responses(), st.integers(0, 300), st.binary(max_size=3), CUTS, st.booleans())
def test_mutated_response_in_any_split_judged_alike(
    wire: bytes, position: int, inserted: bytes, cuts: list[int], is_head: bool
) -> None:
    position %= len(wire) + 1
    wire = wire[:position] + inserted + wire[position + 1 :]
    whole = transcript([wire], is_head=is_head)
    told = transcript(split(wire, cuts), is_head=is_head)
    assert ("failed", "UpstreamProtocolError") in told or told[:-1] == whole[:-1]
    assert (("failed", "UpstreamProtocolError") in told) == (("failed", "UpstreamProtocolError") in whole)
