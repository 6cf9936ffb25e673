"""Header compression against another implementation of it: the same fields, or an error where it has one."""

from __future__ import annotations

import re

import hpack
from hypothesis import example, given
from hypothesis import strategies as st

from txgateway.transport.http2.codes import COMPRESSION_ERROR, ConnectionFault
from txgateway.transport.http2.header_decoder import HeaderDecoder, MalformedField
from txgateway.transport.http2.header_encoder import NOT_IN_TABLE, SECRET, HeaderEncoder
from txgateway.transport.http2.hpack import NeverIndexed

MAX_LIST = 128 * 1024
TABLE = 4096

Pairs = list[tuple[bytes, bytes]]
#: Name, value, and whether no table may have it.
Decoded = list[tuple[bytes, bytes, bool]]

names = st.one_of(
    st.sampled_from([b":method", b":path", b":status", b"accept", b"cookie", b"x-a", b"x-b", b"content-length"]),
    st.binary(max_size=8),
)
values = st.one_of(
    st.sampled_from([b"", b"GET", b"/", b"200", b"gzip, deflate", b"a", b"0123456789" * 9]),
    st.binary(max_size=40),
)
lists = st.lists(st.tuples(names, values), max_size=8)


def literal(name: bytes, value: bytes, first: int) -> bytes:
    """A literal with a new name and without Huffman code."""
    return bytes((first,)) + length(name) + name + length(value) + value


def length(octets: bytes, mask: int = 127, high: int = 0) -> bytes:
    return integer(len(octets), mask, high)


def integer(value: int, mask: int, high: int) -> bytes:
    if value < mask:
        return bytes((high | value,))
    encoded = [high | mask]
    value -= mask
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    return bytes((*encoded, value))


#: What an encoder may write, part by part, whether or not it means anything at that place.
parts = st.one_of(
    st.integers(0, 80).map(lambda index: integer(index, 127, 0x80)),
    st.builds(literal, names, values, st.sampled_from([0x00, 0x10, 0x40])),
    st.builds(
        lambda index, value, kind: integer(index, *kind) + length(value) + value,
        st.integers(1, 80),
        values,
        st.sampled_from([(63, 0x40), (15, 0x00), (15, 0x10)]),
    ),
    st.builds(lambda value: b"\x40\x01h" + huffman(value), values),
    st.integers(0, TABLE + 2).map(lambda size: integer(size, 31, 0x20)),
)


def huffman(value: bytes) -> bytes:
    coded = bytes(hpack.Encoder().encode([(b"h", value)], huffman=True))
    return coded[coded.index(b"\x40") + 2 :] if coded[1:2] == b"\x81" else length(value) + value


class Other:
    """The other implementation, with our limits."""

    def __init__(self) -> None:
        self._decoder = hpack.Decoder(max_header_list_size=MAX_LIST)
        self._decoder.max_allowed_table_size = TABLE

    def decode(self, block: bytes) -> Decoded | None:
        try:
            fields = self._decoder.decode(block, raw=True)
        except hpack.HPACKError:
            return None
        return judged([(bytes(field[0]), bytes(field[1]), not field.indexable) for field in fields])


_PSEUDO = {b":method", b":scheme", b":authority", b":path", b":protocol", b":status"}
_OF_CONNECTIONS = {b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"}
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?", re.DOTALL)


def is_malformed(name: bytes, value: bytes) -> bool:
    """RFC 9113 section 8.2, of a field alone."""
    if name in _PSEUDO:
        return False
    return not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or name in _OF_CONNECTIONS


def judged(fields: Decoded) -> Decoded:
    """Only the first malformed field, if there is one; whether a table may have it is no matter then."""
    malformed = [(name, value, False) for name, value, _ in fields if is_malformed(name, value)]
    return malformed[:1] or fields


def ours(decoder: HeaderDecoder, block: bytes) -> Decoded | None:
    try:
        fields = decoder.decode(block)
        assert all(type(field) is MalformedField for field in fields if is_malformed(field[0], field[2]))
        return [(field[0], field[2], type(field) is NeverIndexed) for field in fields]
    except ConnectionFault as fault:
        if fault.code != COMPRESSION_ERROR:
            raise
        return None


def has_long_integer(block: bytes) -> bool:
    """Of more octets than we read (RFC 7541 section 5.1 leaves it to the reader)."""
    return any(all(octet >= 0x80 for octet in block[at : at + 4]) for at in range(len(block) - 3))


@given(sent=st.lists(lists, min_size=1, max_size=6), data=st.data())
def test_blocks_of_another_encoder_mean_what_it_meant(sent: list[Pairs], data: st.DataObject) -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(MAX_LIST)
    for pairs in sent:
        if data.draw(st.booleans(), label="resize"):
            encoder.header_table_size = data.draw(st.sampled_from([0, 40, 100, 500, TABLE]), label="size")
        block = bytes(encoder.encode(pairs, huffman=data.draw(st.booleans(), label="huffman")))
        known = decoder.known(block)
        meant = ours(decoder, block)
        assert meant == judged([(name, value, False) for name, value in pairs])
        assert known is None or known == meant
        decoder.remember(block, meant)


@example(blocks=[[b"\x82"], [b"\x40\x01x\x01y"], [b"\x82"]])
@given(blocks=st.lists(st.lists(parts, max_size=6), min_size=1, max_size=6))
def test_any_parts_mean_the_same_to_both_and_what_is_known_stays_true(blocks: list[list[bytes]]) -> None:
    decoder, other = HeaderDecoder(MAX_LIST), Other()
    for block in [b"".join(parts) for parts in blocks for _ in range(2)]:  # each twice, so that it may be known
        expected = other.decode(block)
        known = decoder.known(block)
        assert known is None or known == expected
        got = ours(decoder, block)
        assert got == expected, block
        if got is None:
            return
        decoder.remember(block, got)


@given(sent=st.lists(lists, min_size=1, max_size=4), data=st.data())
def test_damaged_blocks_mean_the_same_to_both_or_are_malformed(sent: list[Pairs], data: st.DataObject) -> None:
    encoder, decoder, other = hpack.Encoder(), HeaderDecoder(MAX_LIST), Other()
    for pairs in sent:
        block = bytes(encoder.encode(pairs, huffman=data.draw(st.booleans(), label="huffman")))
        if block and data.draw(st.booleans(), label="damage"):
            block = damaged(block, data)
        expected, got = other.decode(block), ours(decoder, block)
        if got is None and expected is not None:
            assert has_long_integer(block), block
        else:
            assert got == expected, block
        if got is None:
            return


def damaged(block: bytes, data: st.DataObject) -> bytes:
    """With a bit flipped, or cut short, or both."""
    if data.draw(st.booleans(), label="flip"):
        bit = data.draw(st.integers(0, 8 * len(block) - 1), label="bit")
        octets = bytearray(block)
        octets[bit // 8] ^= 1 << bit % 8
        block = bytes(octets)
    if data.draw(st.booleans(), label="cut"):
        block = block[: data.draw(st.integers(0, len(block) - 1), label="size")]
    return block


@given(block=st.binary(max_size=60))
def test_garbage_means_the_same_to_both_or_is_malformed(block: bytes) -> None:
    expected, got = Other().decode(block), ours(HeaderDecoder(MAX_LIST), block)
    assert got == expected or (got is None and has_long_integer(block))


@given(sent=st.lists(lists, min_size=1, max_size=5), data=st.data())
def test_our_blocks_mean_to_another_decoder_what_we_meant(sent: list[Pairs], data: st.DataObject) -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder(max_header_list_size=MAX_LIST)
    smallest = TABLE
    for pairs in sent:
        sizes = data.draw(st.lists(st.sampled_from([0, 33, 100, 500, TABLE, 2**32 - 1]), max_size=2), label="sizes")
        for size in sizes:
            encoder.limit_table(size)
            smallest = min(smallest, size)
            reader.max_allowed_table_size = smallest
        fields = [(name, name.upper(), value) for name, value in pairs]
        for _ in range(data.draw(st.integers(1, 3), label="times")):  # by the third, what can be is in the table
            decoded = reader.decode(encoder.encode(fields), raw=True)
            assert [(bytes(field[0]), bytes(field[1])) for field in decoded] == pairs
            assert [field.indexable for field in decoded] == [name not in SECRET for name, _ in pairs]
        assert NOT_IN_TABLE.isdisjoint(bytes(name) for name, _ in reader.header_table.dynamic_entries)
