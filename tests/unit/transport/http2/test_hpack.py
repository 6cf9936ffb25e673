"""Header compression: RFC 7541's examples, what it forbids, what is too much, and what we rely on of the codec."""

from __future__ import annotations

from importlib.metadata import version

import hpack
import pytest
from jh2._hazmat import Decoder, Encoder, OversizedHeaderListError  # type: ignore[import-untyped]
from jh2.hpack.huffman_constants import REQUEST_CODES_LENGTH  # type: ignore[import-untyped]

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from txgateway.transport.http2.hpack import (
    MAX_KNOWN_BLOCK_BYTES,
    MAX_KNOWN_BLOCKS,
    NEVER_INDEXED,
    EncodedField,
    HeaderDecoder,
    HeaderEncoder,
)

MAX_LIST = 128 * 1024
#: Puts ``x: y`` into the table, whose first entry it is from then on.
ADD_XY = b"\x40\x01x\x01y"
#: Field 62, the newest of the table's.
NEWEST = b"\xbe"


def decoder(max_list: int = MAX_LIST) -> HeaderDecoder:
    return HeaderDecoder(max_list)


def fields_of(block: bytes, by: HeaderDecoder | None = None) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value, _ in (by or decoder()).decode(block)]


def code_of(block: bytes, by: HeaderDecoder | None = None) -> int:
    with pytest.raises(ConnectionFault) as caught:
        (by or decoder()).decode(block)
    return caught.value.code


# --- appendix C --------------------------------------------------------------------------------------------------------------------

_FIRST = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"www.example.com")]
_REQUESTS = [
    _FIRST,
    [*_FIRST, (b"cache-control", b"no-cache")],
    [
        (b":method", b"GET"), (b":scheme", b"https"), (b":path", b"/index.html"), (b":authority", b"www.example.com"),
        (b"custom-key", b"custom-value"),
    ],
]  # fmt: skip
_DATES = [b"Mon, 21 Oct 2013 20:13:21 GMT", b"Mon, 21 Oct 2013 20:13:22 GMT"]
_COOKIE = b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"


def _response(status: bytes, date: bytes, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    head = [(b":status", status), (b"cache-control", b"private"), (b"date", date)]
    return [*head, (b"location", b"https://www.example.com"), *more]


_RESPONSES = [
    _response(b"302", _DATES[0]),
    _response(b"307", _DATES[0]),
    [
        (b":status", b"200"), (b"cache-control", b"private"), (b"date", _DATES[1]),
        (b"location", b"https://www.example.com"), (b"content-encoding", b"gzip"), (b"set-cookie", _COOKIE),
    ],
]  # fmt: skip

#: RFC 7541, appendix C: blocks that one decoder reads in turn.
EXAMPLES: dict[str, tuple[list[str], list[list[tuple[bytes, bytes]]]]] = {
    "C.2.1": (["400a637573746f6d2d6b65790d637573746f6d2d686561646572"], [[(b"custom-key", b"custom-header")]]),
    "C.2.2": (["040c2f73616d706c652f70617468"], [[(b":path", b"/sample/path")]]),
    "C.2.3": (["100870617373776f726406736563726574"], [[(b"password", b"secret")]]),
    "C.2.4": (["82"], [[(b":method", b"GET")]]),
    "C.3": (
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        _REQUESTS,
    ),
    "C.4": (
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        _REQUESTS,
    ),
    # Of C.5 and C.6, whose table is of 256 bytes, which the decoder is told by an update in front.
    "C.5": (
        [
            ("3fe1014803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d"),
            "4803333037c1c0bf",
            ("88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48"
            "514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31"),
        ],
        _RESPONSES,
    ),
    "C.6": (
        [
            ("3fe101488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82"
            "ae43d3"),
            "4883640effc1c0bf",
            ("88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af"
            "27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"),
        ],
        _RESPONSES,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("blocks", "lists"), EXAMPLES.values(), ids=EXAMPLES)
def test_examples_of_the_rfc(blocks: list[str], lists: list[list[tuple[bytes, bytes]]]) -> None:
    one = decoder()
    assert [fields_of(bytes.fromhex(block), one) for block in blocks] == lists


# --- what is forbidden ---------------------------------------------------------------------------------------------------------------

_MALFORMED: dict[str, bytes] = {
    "4.2 table size behind a field": b"\x82\x20",
    "4.2 table size behind a literal": ADD_XY + b"\x3f\xe1\x0f",
    "6.3 table size beyond ours": b"\x3f\xe2\x1f",
    "6.3 table size far beyond": b"\x3f\xff\xff\xff\x7f",
    "6.1 index 0": b"\x80",
    "2.3.3 index beyond the tables": b"\xbe",
    "2.3.3 index far beyond": b"\xff\xff\xff\x7f",
    "2.3.3 name beyond the tables": b"\x7e\x01y",
    "2.3.3 unindexed name beyond the tables": b"\x0f\x7f\x01y",
    "5.1 integer too large": b"\xff" + b"\xff" * 10 + b"\x00",
    "5.1 integer too long": b"\xff" + b"\x80" * 10 + b"\x00",
    "5.1 length too large": b"\x40\x7f\xff\xff\xff\xff\xff\x0f",
    "5.2 padding of eight ones": b"\x00\x82\x1f\xff\x01y",
    "5.2 padding of a byte alone": b"\x00\x81\xff\x01y",
    "5.2 padding of zeros": b"\x00\x81\x18\x01y",
    "5.2 padding of zeros in a value": b"\x00\x01x\x81\x18",
    "5.2 padding of zeros in an indexed literal": b"\x40\x01x\x81\x18",
    "5.2 padding of zeros in the value of a known name": b"\x44\x81\x18",
    "5.2 EOS": b"\x00\x84\xff\xff\xff\xff\x01y",
    "5.2 EOS in a value": b"\x00\x01x\x84\xff\xff\xff\xfc",
    "5.2 EOS behind a letter": b"\x00\x01x\x85\x1f\xff\xff\xff\xff",
}


@pytest.mark.parametrize("block", _MALFORMED.values(), ids=_MALFORMED)
@pytest.mark.parametrize("before", [b"", b"\x82\x86"], ids=["alone", "behind fields"])
def test_malformed_block_is_a_compression_error(block: bytes, before: bytes) -> None:
    assert code_of(before + block) == COMPRESSION_ERROR


@pytest.mark.parametrize(
    "literal",
    [
        b"\x40\x0bcustom-name\x0ccustom-value",
        b"\x00\x88\x25\xa8\x49\xe9\x5b\xa9\x7d\x7f\x89\x25\xa8\x49\xe9\x5b\xb8\xe8\xb4\xbf",
        b"\x10\x01x\x7f\x05" + b"v" * 132,
        b"\x0f\x1f\x04abcd",
        b"\xff\x00",
        b"\x3f\xe1\x1f",
    ],
)
def test_block_that_is_cut_short_is_a_compression_error_at_every_length(literal: bytes) -> None:
    for size in range(1, len(literal)):
        assert code_of(literal[:size]) == COMPRESSION_ERROR, size
        assert code_of(b"\x20\x82"[1:] + literal[:size]) == COMPRESSION_ERROR, size


def test_table_size_updates_in_front_are_taken() -> None:
    one = decoder()
    assert fields_of(ADD_XY, one) == [(b"x", b"y")]
    assert fields_of(NEWEST, one) == [(b"x", b"y")]
    assert fields_of(b"\x20\x3f\xe1\x1f\x82", one) == [(b":method", b"GET")]
    assert code_of(NEWEST, one) == COMPRESSION_ERROR


def test_empty_strings_and_blocks_are_fields_of_their_own() -> None:
    assert fields_of(b"") == []
    assert fields_of(b"\x00\x00\x00") == [(b"", b"")]
    assert fields_of(b"\x00\x80\x80") == [(b"", b"")]


def test_field_that_no_table_may_have_says_so() -> None:
    assert decoder().decode(b"\x10\x01x\x01y\x00\x01x\x01y" + ADD_XY) == [
        (b"x", b"y", True),
        (b"x", b"y", False),
        (b"x", b"y", False),
    ]


# --- what is too much ----------------------------------------------------------------------------------------------------------------

_BIG = b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000


@pytest.mark.parametrize(
    ("block", "fields"),
    [(b"\x00\x01a\x00", 33), (b"\x00\x00\x00", 32), (b"\x82", 42), (NEWEST, 4033)],
    ids=["literals", "nothing at all", "indexed", "from the table"],
)
def test_list_is_as_large_as_the_rfc_counts_it(block: bytes, fields: int) -> None:
    limit = 10_000
    for count in (1, limit // fields):
        one = decoder(limit)
        one.decode(_BIG)
        assert len(one.decode(block * count)) == count
    for count in (limit // fields + 1, limit // 32 + 1, limit):
        one = decoder(limit)
        one.decode(_BIG)
        assert code_of(block * count, one) == ENHANCE_YOUR_CALM


def test_list_may_be_as_large_as_its_limit_to_the_byte() -> None:
    block = b"\x00\x01a\x00" * 10
    assert len(decoder(330).decode(block)) == 10
    assert code_of(block, decoder(329)) == ENHANCE_YOUR_CALM


def test_bomb_is_not_decoded_to_its_end() -> None:
    one = decoder()
    one.decode(_BIG)
    assert code_of(NEWEST * 64 * 1024, one) == ENHANCE_YOUR_CALM


# --- blocks that repeat --------------------------------------------------------------------------------------------------------------


def test_block_is_known_only_while_it_means_the_same() -> None:
    one = decoder()
    one.decode(ADD_XY)
    one.remember(ADD_XY, "changes the table")
    assert one.known(ADD_XY) is None
    for block in (b"\x82" + NEWEST, b"\x82\x00\x01a\x01b"):
        one.decode(block)
        one.remember(block, block)
        assert one.known(block) == block
    assert one.known(b"\x82") is None
    one.decode(b"\x82")
    assert one.known(b"\x82" + NEWEST) is not None
    one.decode(b"\x40\x01a\x01b")
    assert one.known(b"\x82" + NEWEST) is None
    assert fields_of(b"\x82" + NEWEST, one) == [(b":method", b"GET"), (b"a", b"b")]


@pytest.mark.parametrize("change", [ADD_XY, b"\x44\x01/", b"\x20", b"\x3f\xe1\x0f", b"\x20\x82"])
def test_any_change_of_the_table_forgets_all_that_was_known(change: bytes) -> None:
    one = decoder()
    one.decode(b"\x82")
    one.remember(b"\x82", 1)
    one.decode(change)
    assert one.known(b"\x82") is None
    one.remember(change, 1)
    assert one.known(change) is None


def test_what_is_known_is_bounded() -> None:
    one = decoder()
    for number in range(MAX_KNOWN_BLOCKS + 10):
        block = b"\x00\x01a\x02%02d" % number
        one.decode(block)
        one.remember(block, number)
    assert len(one._known) == MAX_KNOWN_BLOCKS
    one = decoder()
    for size, is_known in ((MAX_KNOWN_BLOCK_BYTES, True), (MAX_KNOWN_BLOCK_BYTES + 1, False)):
        block = b"\x82" * size
        one.decode(block)
        one.remember(block, 1)
        assert (one.known(block) is not None) == is_known


# --- encoding ----------------------------------------------------------------------------------------------------------------------------


def test_encoder_is_understood_and_keeps_secrets_out_of_the_table() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    fields: list[EncodedField] = [(b":status", b"200", False), (b"x-a", b"1", False), (b"set-cookie", b"s=1", True)]
    for _ in range(3):
        block = encoder.encode(fields)
        decoded = reader.decode(block, raw=True)
        assert [(bytes(name), bytes(value)) for name, value in decoded] == [(n, v) for n, v, _ in fields]
        assert [field.indexable for field in decoded] == [True, True, False]
    assert len(block) < 12
    assert (b"set-cookie", b"s=1") not in reader.header_table.dynamic_entries


@pytest.mark.parametrize("sizes", [[0], [100], [4096, 0], [0, 4096], [2**32 - 1]])
def test_encoder_keeps_to_the_smallest_table_that_the_peer_named(sizes: list[int]) -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    fields = [(b"x-%d" % number, b"v" * 20, False) for number in range(20)]
    reader.decode(encoder.encode(fields))
    for size in sizes:
        encoder.limit_table(size)
    reader.max_allowed_table_size = min(*sizes, 4096)
    for _ in range(2):
        decoded = reader.decode(encoder.encode(fields), raw=True)
        assert [(bytes(name), bytes(value)) for name, value in decoded] == [(n, v) for n, v, _ in fields]
        assert reader.header_table_size <= min(*sizes, 4096)


def test_names_that_are_never_indexed_are_lowered() -> None:
    assert all(name == name.lower() for name in NEVER_INDEXED)
    assert {b"authorization", b"cookie", b"set-cookie"} <= NEVER_INDEXED


# --- what is used of the codec ----------------------------------------------------------------------------------------------------


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
    assert writer.encode([(b":method", b"GET", False), (b"a", b"b", True)], True) == b"\x20\x82\x10\x01a\x81\x8f"
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
