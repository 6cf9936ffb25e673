"""What is used of the codec, which is no public part of it, and what both directions of header compression share."""

from __future__ import annotations

from importlib.metadata import version

import hpack
import pytest
from jh2._hazmat import Decoder, Encoder, OversizedHeaderListError  # type: ignore[import-untyped]
from jh2.hpack.huffman_constants import REQUEST_CODES_LENGTH  # type: ignore[import-untyped]

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ConnectionFault
from txgateway.transport.http2.hpack import (
    STATIC_TABLE,
    TABLE_BYTES,
    read_huffman,
    read_integer,
    write_integer,
)


def test_static_table_is_that_of_the_rfc() -> None:
    assert STATIC_TABLE == hpack.table.HeaderTable.STATIC_TABLE
    assert hpack.table.HeaderTable.DEFAULT_SIZE == TABLE_BYTES


@pytest.mark.parametrize("mask", [0x0F, 0x1F, 0x3F, 0x7F])
@pytest.mark.parametrize(
    "value", [0, 1, 14, 15, 16, 30, 31, 62, 63, 64, 126, 127, 128, 142, 254, 255, 1337, 2**20, 2**27]
)
def test_integers_there_and_back(value: int, mask: int) -> None:
    block = b"before" + write_integer(value, mask, 0) + b"behind"
    assert write_integer(value, mask, 0) == bytes(hpack.hpack.encode_integer(value, mask.bit_length()))
    assert read_integer(block, 6, mask) == (value, len(block) - 6)
    assert write_integer(value, mask, 0x80 if mask < 0x7F else 0)[0] & mask == min(value, mask)


def test_huffman_code_that_is_malformed_spoils_no_other() -> None:
    for code in (b"\xff\xff\xff\xff", b"\x18", b"\x1f\xff"):
        with pytest.raises(ConnectionFault) as caught:
            read_huffman(bytes((0x80 | len(code),)) + code, code)
        assert caught.value.code == COMPRESSION_ERROR
        assert read_huffman(b"\x81\x1f", b"\x1f") == b"a"


def test_huffman_code_may_be_long() -> None:
    text = b"a" * 100_000
    block = bytes(hpack.Encoder().encode([(b"x", text)]))
    code = block[block.index(b"\xff") + 4 :]
    assert read_huffman(block[-len(code) - 4 :], code) == text


def test_private_part_of_the_codec_is_still_what_we_use() -> None:
    """Of a library that may move it: if this fails, look at :mod:`txgateway.transport.http2.hpack` again."""
    assert version("jh2").split(".")[0] == "5"
    one = Decoder(1000)
    assert one.decode(b"\x82", True) == [(b":method", b"GET", False)]
    assert type(one.decode(b"\x82", True)[0]) is tuple
    with pytest.raises(OversizedHeaderListError):
        Decoder(10).decode(b"\x82", True)
    assert Decoder(11).decode(b"\x82", True)  # less than the limit, and without the overhead of a field
    one.max_header_list_size = 10
    with pytest.raises(OversizedHeaderListError):
        one.decode(b"\x82", True)
    writer = Encoder()
    assert writer.header_table_size == 4096
    writer.header_table_size = 0
    assert writer.encode([], True) == b"\x20"
    assert writer.encode([(b":method", b"GET", False), (b"a", b"b", True)], True) == b"\x82\x10\x01a\x81\x8f"
    assert len(REQUEST_CODES_LENGTH) == 257
    assert (REQUEST_CODES_LENGTH[ord("a")], REQUEST_CODES_LENGTH[0], REQUEST_CODES_LENGTH[256]) == (5, 13, 30)


@pytest.mark.parametrize("block", [b"\x40", b"\x00\x01x", b"\xff"])
def test_codec_alone_panics(block: bytes) -> None:
    """The walk in front of it is still needed; and what it raises is no Exception."""
    with pytest.raises(BaseException, match="out of bounds") as caught:
        Decoder(1000).decode(block, True)
    assert not isinstance(caught.value, Exception)


@pytest.mark.parametrize("block", [b"\x82\x20", b"\x00\x81\x18\x01y"])
def test_codec_alone_takes_what_is_forbidden(block: bytes) -> None:
    assert Decoder(1000).decode(block, True)
