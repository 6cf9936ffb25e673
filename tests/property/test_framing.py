"""Whatever the split, the framing decoders see the same message; whatever the bytes, they do not crash."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.upstream import RecordingHandler, RecordingOwner
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from txgateway.transport.framing import ChunkedDecoder, FramingError, encode_chunk, encode_last_chunk
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
