from __future__ import annotations

import pytest

from txgateway.transport.framing import (
    CHUNKS_A_FEED,
    LAST_CHUNK,
    MAX_CHUNK_LINE_BYTES,
    MAX_TRAILER_BYTES,
    MAX_TRAILER_FIELDS,
    ChunkedDecoder,
    FramingError,
    encode_chunk,
    encode_last_chunk,
    parse_content_length,
    parse_trailers,
)


def test_chunks_joined_and_leftover_kept() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\nHTTP/1.1") == b"hello world"
    assert decoder.done
    assert decoder.leftover == b"HTTP/1.1"
    assert decoder.trailers == []


def test_one_byte_at_a_time_same_result() -> None:
    decoder = ChunkedDecoder()
    wire = b'a;x="\xff"\r\n0123456789\r\nA\r\nabcdefghij\r\n000\r\nX-Sum: 1\r\n\r\n'
    assert b"".join(decoder.feed(bytes([byte])) for byte in wire) == b"0123456789abcdefghij"
    assert decoder.done
    assert decoder.trailers == [(b"x-sum", b"X-Sum", b"1")]


@pytest.mark.parametrize(
    "wire",
    [
        b"0x3\r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"-1\r\n",
        b"1_0\r\n",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\n",
        b"3\rabc\r\n",
        b"3;a\x00\r\nabc\r\n",
        b"3;a\x7f\r\nabc\r\n",
        b"3;a\rb\r\nabc\r\n",
        b"3;a\nb\r\nabc\r\n",
        b"3a;\nabc",
        b"g\r\n",
        b"\r\n",
        b";a=b\r\n",
        b"11111111111111111\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\rX",
        b"3\r\nabc0\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\n A: b\r\n\r\n",
        b"0\r\nA: b\r\n c\r\n\r\n",
        b"0\r\nA: b\nC: d\r\n\r\n",
        b"0\r\nA: \x00\r\n\r\n",
        b"0\r\nno colon\r\n\r\n",
    ],
)
def test_malformed_chunking_refused_in_any_split(wire: bytes) -> None:
    with pytest.raises(FramingError):
        ChunkedDecoder().feed(wire)
    decoder = ChunkedDecoder()
    with pytest.raises(FramingError):
        for byte in wire:
            decoder.feed(bytes([byte]))


def test_chunk_line_at_limit_accepted_and_above_refused() -> None:
    def line(length: int) -> bytes:
        return b"fff;" + b"a" * (length - 6) + b"\r\n"

    ChunkedDecoder().feed(line(MAX_CHUNK_LINE_BYTES))
    with pytest.raises(FramingError):
        ChunkedDecoder().feed(line(MAX_CHUNK_LINE_BYTES + 1))
    with pytest.raises(FramingError):  # and not kept until a line end comes
        ChunkedDecoder().feed(line(MAX_CHUNK_LINE_BYTES + 3)[:-2])


def test_extensions_far_above_the_data_refused() -> None:
    chunk = b"1;" + b"a" * 500 + b"\r\nx\r\n"
    decoder = ChunkedDecoder()
    with pytest.raises(FramingError):
        for _ in range(10):
            decoder.feed(chunk)


def test_small_extension_on_each_of_many_chunks_accepted() -> None:
    chunk = b"400;chunk-signature=" + b"a" * 64 + b"\r\n" + b"x" * 1024 + b"\r\n"
    decoder = ChunkedDecoder()
    for _ in range(200):
        assert len(decoder.feed(chunk)) == 1024


def test_run_of_small_chunks_is_read_in_one_call_whatever_its_length() -> None:
    decoder = ChunkedDecoder()
    wire = b"1\r\n\n\r\n2\r\n\r\n\r\nF\r\n" + b"d" * 15 + b"\r\n"
    assert decoder.feed(wire * CHUNKS_A_FEED) == (b"\n\r\n" + b"d" * 15) * CHUNKS_A_FEED
    assert decoder.leftover == b""


def test_chunks_that_are_read_one_by_one_are_left_over_beyond_so_many() -> None:
    decoder = ChunkedDecoder()
    wire = b"1;a\r\nx\r\n" * (2 * CHUNKS_A_FEED)
    assert decoder.feed(wire) == b"x" * CHUNKS_A_FEED
    assert not decoder.done
    assert decoder.feed(decoder.leftover) == b"x" * CHUNKS_A_FEED
    assert decoder.leftover in {b"", b"\r\n"}
    assert decoder.feed(decoder.leftover + b"0\r\n\r\nrest") == b""
    assert (decoder.done, decoder.leftover) == (True, b"rest")


def test_first_byte_of_a_chunk_is_given_when_it_comes() -> None:
    decoder = ChunkedDecoder()
    wire = b"3\r\nabc\r\n" * 40
    assert [decoder.feed(bytes([byte])) for byte in wire] == [b"", b"", b"", b"a", b"b", b"c", b"", b""] * 40


def test_trailers_that_override_headers_dropped() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(
        b"0\r\nContent-Length: 5\r\nHost: evil\r\nAuthorization: x\r\nX-Forwarded-For: 1.2.3.4\r\nX-Request-ID: 1\r\n"
        b"Upgrade: x\r\nConnection: upgrade\r\nSet-Cookie: a=b\r\nContent-Digest: ok\r\nGrpc-Status: 0\r\n\r\n"
    )
    assert [name for _, name, _ in decoder.trailers] == [b"Content-Digest", b"Grpc-Status"]


def test_trailer_section_too_large_refused_before_its_end() -> None:
    with pytest.raises(FramingError):
        ChunkedDecoder().feed(b"0\r\nA: " + b"b" * MAX_TRAILER_BYTES)


def test_trailer_fields_above_limit_refused() -> None:
    decoder = ChunkedDecoder()
    decoder.feed(b"0\r\n" + b"A: b\r\n" * MAX_TRAILER_FIELDS + b"\r\n")
    assert len(decoder.trailers) == MAX_TRAILER_FIELDS
    with pytest.raises(FramingError):
        ChunkedDecoder().feed(b"0\r\n" + b"A: b\r\n" * (MAX_TRAILER_FIELDS + 1) + b"\r\n")


def test_encoding_is_what_decoder_reads() -> None:
    decoder = ChunkedDecoder()
    wire = encode_chunk(b"x" * 300) + encode_last_chunk([(b"x-a", b"X-A", b"1")]) + b"rest"
    assert wire.startswith(b"12c\r\nxxx")
    assert decoder.feed(wire) == b"x" * 300
    assert decoder.trailers == [(b"x-a", b"X-A", b"1")]
    assert decoder.leftover == b"rest"
    assert encode_last_chunk([]) == LAST_CHUNK == b"0\r\n\r\n"


@pytest.mark.parametrize(("value", "length"), [(b"0", 0), (b"007", 7), (b" 12\t", 12), (b"9" * 18, 10**18 - 1)])
def test_content_length_of_digits_accepted(value: bytes, length: int) -> None:
    assert parse_content_length(value) == length


@pytest.mark.parametrize("value", [b"", b"+3", b"-3", b"3, 3", b"0x3", b"1_0", b"3.0", b"9" * 19, "٣".encode()])
def test_content_length_of_anything_else_refused(value: bytes) -> None:
    with pytest.raises(FramingError):
        parse_content_length(value)


def test_trailer_has_no_blanks_at_its_ends_and_nothing_that_the_head_answers_for() -> None:
    section = b"A:  b \t\r\nStrict-Transport-Security: x\r\nAccess-Control-Allow-Origin: *\r\nRateLimit: x\r\n\r\n"
    assert parse_trailers(section) == [(b"a", b"A", b"b")]
