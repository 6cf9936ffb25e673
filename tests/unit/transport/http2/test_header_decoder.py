"""Header compression, the receiving direction: RFC 7541's examples, what it forbids, what is too much, what is known."""

from __future__ import annotations

import pytest

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from txgateway.transport.http2.floods import TABLE_UPDATE_BYTES
from txgateway.transport.http2.header_decoder import (
    MAX_KNOWN_BLOCK_BYTES,
    MAX_KNOWN_BYTES,
    HeaderDecoder,
    MalformedField,
)
from txgateway.transport.http2.hpack import STATIC_TABLE, NeverIndexed, write_integer

MAX_LIST = 128 * 1024
#: Puts ``x: y`` into the table, whose first entry it is from then on.
ADD_XY = b"\x40\x01x\x01y"
#: Field 62, the newest of the table's.
NEWEST = b"\xbe"


def decoder(max_list: int = MAX_LIST) -> HeaderDecoder:
    return HeaderDecoder(max_list)


def fields_of(block: bytes, by: HeaderDecoder | None = None) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, _, value in (by or decoder()).decode(block)]


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


def test_table_size_updates_in_front_are_a_bounded_number() -> None:
    assert fields_of(b"\x20" * TABLE_UPDATE_BYTES + b"\x82") == [(b":method", b"GET")]
    assert code_of(b"\x20" * (TABLE_UPDATE_BYTES + 1) + b"\x82") == ENHANCE_YOUR_CALM


def test_empty_strings_and_blocks_are_fields_of_their_own() -> None:
    assert fields_of(b"") == []
    assert fields_of(b"\x00\x00\x00") == [(b"", b"")]
    assert fields_of(b"\x00\x80\x80") == [(b"", b"")]
    assert fields_of(b"\x00\x01x\x80") == [(b"x", b"")]


def test_field_that_no_table_may_have_says_so() -> None:
    fields = decoder().decode(b"\x10\x01x\x01y\x1f\x00\x01y\x00\x01x\x01y\x0f\x00\x01y" + ADD_XY + b"\x82")
    assert [type(field) for field in fields] == [NeverIndexed] * 2 + [tuple] * 4
    assert [name for name, _, _ in fields] == [b"x", b"accept-charset", b"x", b"accept-charset", b"x", b":method"]
    assert all(field[0] is field[1] for field in fields)


# --- the table -----------------------------------------------------------------------------------------------------------------------


def added(name: bytes, value_bytes: int) -> bytes:
    """A literal of so many bytes that goes into the table."""
    return b"\x40" + write_integer(len(name), 0x7F, 0) + name + write_integer(value_bytes, 0x7F, 0) + b"v" * value_bytes


def test_oldest_fields_give_way() -> None:
    one = decoder()
    for letter in (b"a", b"b", b"c"):
        one.decode(added(letter, 1333))  # 1,366 bytes each: three are two too many
    assert [name for name, _ in fields_of(b"\xbe\xbf", one)] == [b"c", b"b"]
    assert code_of(b"\xc0", one) == COMPRESSION_ERROR
    one = decoder()
    for letter in (b"a", b"b", b"c"):
        one.decode(added(letter, 1332))  # and so there is room
    assert [name for name, _ in fields_of(b"\xbe\xbf\xc0", one)] == [b"c", b"b", b"a"]


@pytest.mark.parametrize(("size", "left"), [(68, [b"z", b"x"]), (67, [b"z"]), (34, [b"z"]), (33, [])])
def test_smaller_table_keeps_the_newest(size: int, left: list[bytes]) -> None:
    one = decoder()
    one.decode(ADD_XY + b"\x40\x01z\x01z")
    block = write_integer(size, 0x1F, 0x20) + bytes(0xBE + at for at in range(len(left)))
    assert [name for name, _ in fields_of(block, one)] == left
    assert code_of(bytes((0xBE + len(left),)), one) == COMPRESSION_ERROR


@pytest.mark.parametrize(("value_bytes", "is_kept"), [(4063, True), (4064, False)])
def test_field_as_large_as_the_table_is_alone_there_and_a_larger_one_empties_it(
    value_bytes: int, is_kept: bool
) -> None:
    one = decoder()
    one.decode(ADD_XY)
    one.decode(added(b"b", value_bytes))
    if is_kept:
        assert [name for name, _ in fields_of(NEWEST, one)] == [b"b"]
        assert code_of(b"\xbf", one) == COMPRESSION_ERROR
    else:
        assert code_of(NEWEST, one) == COMPRESSION_ERROR


# --- malformed fields ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        b"\x00\x01",
        b"\x01X\x00",
        b"\x02:x\x00",
        b"\x01x\x02 y",
        b"\x01x\x02y\t",
        b"\x01x\x03a\x00b",
        b"\x07upgrade\x00",
        b"\x01\x00\x00",
    ],
)
def test_malformed_field_is_all_there_is_of_its_message_and_stays_in_the_table(field: bytes) -> None:
    field = field + b"1" if field == b"\x00\x01" else field
    one = decoder()
    for block in (b"\x82\x40" + field + b"\x86", b"\x82\xbe", b"\xbe\x82", b"\x00" + field):
        (malformed,) = one.decode(block)
        assert type(malformed) is MalformedField
        assert malformed.problem
    assert fields_of(b"\x82\x86", one) == [(b":method", b"GET"), (b":scheme", b"http")]
    assert fields_of(b"\x20\x82", one) == [(b":method", b"GET")]


def test_malformed_field_of_the_static_table_is_one_too() -> None:
    for index, (name, _) in enumerate(STATIC_TABLE, 1):
        one = decoder()
        fields = one.decode(b"\x00\x01x\x01y" + bytes((0x80 | index,)))
        is_malformed = name == b"transfer-encoding"
        assert [type(field) for field in fields] == ([MalformedField] if is_malformed else [tuple, tuple])
        assert fields[-1][0] == name
        literal = b"\x00\x01x\x01y" + write_integer(index, 0x0F, 0) + b"\x01y"
        assert [type(field) for field in one.decode(literal)] == ([MalformedField] if is_malformed else [tuple, tuple])


# --- what is too much ----------------------------------------------------------------------------------------------------------------

_BIG = b"\x40\x01x\x7f\xa1\x1e" + b"v" * 4000


@pytest.mark.parametrize(
    ("block", "fields"),
    [(b"\x00\x01a\x00", 33), (b"\x82", 42), (NEWEST, 4033)],
    ids=["literals", "indexed", "from the table"],
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
    malformed = b"\x80"  # which nobody comes to
    assert code_of(b"\x82" * (MAX_LIST // 32 + 1) + malformed) == ENHANCE_YOUR_CALM


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
    for count in (1, 2, 50):
        one = decoder()
        for number in range(400):
            block = b"\x00\x03%03d\x00" % number + b"\x82" * (count - 1)
            one.decode(block)
            one.remember(block, number)
            assert sum(len(block) + 128 * count for block in one._known) <= MAX_KNOWN_BYTES
        one.remember(block, "again")
        assert one.known(block) == "again"
    one = decoder()
    for size, is_known in ((MAX_KNOWN_BLOCK_BYTES, True), (MAX_KNOWN_BLOCK_BYTES + 1, False)):
        block = b"\x00\x01a\x7f\xf9\x06" + b"v" * 1016 + b"\x82" * (size - 1022)
        one.decode(block)
        one.remember(block, 1)
        assert (one.known(block) is not None) == is_known
