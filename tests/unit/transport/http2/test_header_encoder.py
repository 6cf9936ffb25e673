"""Header compression, the sending direction: what another implementation reads, and what never gets into a table."""

from __future__ import annotations

import hpack
import pytest

from txgateway.transport.http2.header_encoder import (
    MAX_CHANGES,
    MAX_KNOWN_FIELDS,
    MAX_NAMES,
    NOT_IN_TABLE,
    HeaderEncoder,
)
from txgateway.transport.http2.hpack import NeverIndexed

MAX_LIST = 128 * 1024


Pairs = list[tuple[bytes, bytes]]


def encoded(encoder: HeaderEncoder, pairs: Pairs) -> bytes:
    return encoder.encode([(name, name.title(), value) for name, value in pairs])


def read(reader: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes, bool]]:
    return [(bytes(field[0]), bytes(field[1]), field.indexable) for field in reader.decode(block, raw=True)]


def test_encoder_is_understood_and_keeps_secrets_out_of_the_table() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    pairs = [(b":status", b"200"), (b"x-a", b"1"), (b"set-cookie", b"s=1"), (b"etag", b"e")]
    for _ in range(3):
        block = encoded(encoder, pairs)
        assert read(reader, block) == [(name, value, name != b"set-cookie") for name, value in pairs]
    assert block == b"\x88\xbe\x1f\x28\x03s=1\x0f\x13\x01e"  # two indexes, and literals whose names are indexes
    assert [bytes(name) for name, _ in reader.header_table.dynamic_entries] == [b"x-a"]


def test_what_was_in_the_table_is_looked_for_again_when_the_table_is_another_one() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    many = [(b"x-%d" % number, b"v" * 100) for number in range(60)]  # more than the table has room for
    for pairs in (
        [(b"x-a", b"1")],
        [(b"x-b", b"2"), (b"x-a", b"1")],
        many,
        [(b"x-a", b"1"), (b"x-59", b"v" * 100)],
        many,
    ):
        for _ in range(3):
            assert [field[:2] for field in read(reader, encoded(encoder, pairs))] == pairs


def test_known_field_alone_is_not_sent_by_an_old_index() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    first, second = [(b"x-a", b"1")], [(b"x-b", b"2")]
    for pairs in (first, first, second, first):
        assert [field[:2] for field in read(reader, encoded(encoder, pairs))] == pairs


def test_known_field_is_not_sent_by_its_index_in_a_table_that_is_smaller_now() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    pairs = [(b"x-a", b"1")]
    for _ in range(2):
        read(reader, encoded(encoder, pairs))
    encoder.limit_table(0)
    reader.max_allowed_table_size = 0
    for sent in ([(b"etag", b"e")], pairs):
        assert [field[:2] for field in read(reader, encoded(encoder, sent))] == sent


@pytest.mark.parametrize("size", [0, 1, 126, 127, 128, 254, 255, 256, 127 + 128, 5_000, 20_000])
@pytest.mark.parametrize("name", [b"etag", b"location", b"authorization", b":path", b"x-request-id", b"traceparent"])
def test_literals_have_the_length_of_their_value(name: bytes, size: int) -> None:
    pairs = [(name, b"v" * size), (b"x-a", b"1")]
    encoder, reader = HeaderEncoder(), hpack.Decoder(max_header_list_size=MAX_LIST)
    for _ in range(3):  # as what is not known, and as what is
        assert [field[:2] for field in read(reader, encoded(encoder, pairs))] == pairs


def test_fields_that_are_known_to_be_in_the_table_are_a_bounded_number() -> None:
    encoder = HeaderEncoder()
    for number in range(3 * MAX_KNOWN_FIELDS):  # spelled differently, they are different fields of a header list
        encoder.encode([(b"x-a", b"X-%d" % number, b"1")])
        assert len(encoder._known) <= MAX_KNOWN_FIELDS


@pytest.mark.parametrize("sizes", [[0], [100], [4096, 0], [0, 4096], [2**32 - 1]])
def test_encoder_keeps_to_the_smallest_table_that_the_peer_named(sizes: list[int]) -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    pairs = [(b"x-%d" % number, b"v" * 20) for number in range(20)]
    for _ in range(2):
        reader.decode(encoded(encoder, pairs))
    for size in sizes:
        encoder.limit_table(size)
    reader.max_allowed_table_size = min(*sizes, 4096)
    for begin in ([], [(b"etag", b"e")], []):  # a literal first does not hide that the table is smaller
        decoded = read(reader, encoded(encoder, [*begin, *pairs]))
        assert [field[:2] for field in decoded] == [*begin, *pairs]
        assert reader.header_table_size <= min(*sizes, 4096)


def test_names_that_are_never_indexed_are_lowered() -> None:
    assert all(name == name.lower() for name in NOT_IN_TABLE)
    assert {b"authorization", b"cookie", b"set-cookie"} <= NOT_IN_TABLE


def test_field_that_came_as_never_indexed_stays_that() -> None:
    """RFC 7541 section 6.2.3: for an intermediary it is a MUST."""
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    plain = (b"x-api-key", b"X-API-Key", b"1")
    for _ in range(3):
        assert read(reader, encoder.encode([plain])) == [(b"x-api-key", b"1", True)]
    for _ in range(3):
        block = encoder.encode([NeverIndexed(plain), (b"x-b", b"x-b", b"2")])
        assert read(reader, block) == [(b"x-api-key", b"1", False), (b"x-b", b"2", True)]
    for name in (b"x-secret", b"etag", b"x-request-id", b"cookie"):
        for _ in range(3):
            assert read(reader, encoder.encode([NeverIndexed((name, name, b"s"))])) == [(name, b"s", False)]
        assert name not in {bytes(name) for name, _ in reader.header_table.dynamic_entries}


def names_in(reader: hpack.Decoder) -> list[bytes]:
    return [bytes(name) for name, _ in reader.header_table.dynamic_entries]


def test_field_that_changes_each_time_is_kept_out_of_the_table_in_the_end() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    for number in range(3 * MAX_CHANGES):
        pairs = [(b"x-a", b"1"), (b"x-run", b"%d" % number), (b"link", b"<a>"), (b"link", b"<b>"), (b"x-b", b"2")]
        block = encoded(encoder, pairs)
        assert read(reader, block) == [(name, value, True) for name, value in pairs]
    assert len(block) == 4 + len(b"\x00\x05x-run\x0247")
    assert names_in(reader).count(b"x-run") <= MAX_CHANGES + 1
    assert encoder._known


def test_field_that_changes_now_and_then_stays_in_the_table() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    for number in range(20 * MAX_CHANGES):
        block = encoded(encoder, [(b"date", b"second %d" % (number // 10))])
        read(reader, block)
    assert len(block) == 1


def test_names_that_are_watched_are_a_bounded_number() -> None:
    encoder, reader = HeaderEncoder(), hpack.Decoder()
    for number in range((MAX_CHANGES + 2) * 3 * MAX_NAMES):
        pairs = [(b"x-%d" % (number % (3 * MAX_NAMES)), b"%d" % number)]
        assert [field[:2] for field in read(reader, encoded(encoder, pairs))] == pairs
        assert len(encoder._seen) + len(encoder._changing) <= MAX_NAMES
