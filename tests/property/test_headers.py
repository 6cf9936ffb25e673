"""What holds for every header section."""

from __future__ import annotations

import httptools
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from txgateway.headers import (
    HOP_BY_HOP,
    NEVER_NOMINATED,
    connection_tokens,
    end_to_end,
    is_field_value,
    is_valid_host,
    normalize_host,
    parse_field_line,
    split_list,
)

NAMES = [b"X-A", b"x-a", b"X-B", b"Host", b"Cookie", b"Accept", b"TE", b"Upgrade", b"Content-Length", b"Keep-Alive"]
header_lists = st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=3))).map(
    lambda pairs: [(name.lower(), name, value) for name, value in pairs]
)
options = st.sampled_from([*NAMES, b"close", b"keep-alive", b"transfer-encoding", b'"', b" ", b"", b"\x00"])
connections = st.none() | st.lists(options, max_size=5).map(b", ".join) | st.binary(max_size=20)
names_to_drop = st.frozensets(st.sampled_from([name.lower() for name in NAMES]), max_size=2)


@given(header_lists, connections, names_to_drop)
@settings(deadline=None)
def test_end_to_end_is_idempotent(
    headers: list[tuple[bytes, bytes, bytes]], connection: bytes | None, also_drop: frozenset[bytes]
) -> None:
    once = end_to_end(headers, connection, also_drop)
    assert end_to_end(once, connection, also_drop) == once


@given(header_lists, connections, names_to_drop)
@settings(deadline=None)
def test_end_to_end_keeps_exactly_the_fields_that_nothing_ends(
    headers: list[tuple[bytes, bytes, bytes]], connection: bytes | None, also_drop: frozenset[bytes]
) -> None:
    nominated = {option.strip(b" \t").lower() for option in (connection or b"").split(b",")} - NEVER_NOMINATED
    expected = [header for header in headers if header[0] not in HOP_BY_HOP | also_drop | nominated]
    assert end_to_end(headers, connection, also_drop) == expected


@given(st.binary(max_size=30))
@settings(deadline=None)
def test_connection_options_are_never_empty_and_can_be_read_back(value: bytes) -> None:
    tokens = connection_tokens(value)
    assert connection_tokens(b", ".join(tokens)) == tokens
    assert b"" not in tokens


@given(st.lists(st.sampled_from([b"a", b",", b'"', b"\\", b" "]), max_size=12).map(b"".join))
@settings(deadline=None)
def test_list_elements_lose_nothing_but_commas_and_space(value: bytes) -> None:
    elements = split_list(value)
    assert b"".join(elements).replace(b",", b"").replace(b" ", b"") == value.replace(b",", b"").replace(b" ", b"")
    assert all(element and element == element.strip(b" ") for element in elements)
    for element in elements:
        assert split_list(element) == [element]


@given(
    st.lists(st.sampled_from([b"a", b"B", b".", b":", b"1", b"[", b"]", b"::1", b"@", b"%", b" "]), max_size=6).map(
        b"".join
    )
)
@settings(deadline=None, max_examples=300)
def test_valid_host_is_a_field_value_and_normalizes_to_a_stable_form(value: bytes) -> None:
    if is_valid_host(value):
        assert is_field_value(value)
        normal = normalize_host(value)
        assert normalize_host(normal) == normal == normal.lower()


class _Collector:
    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value.strip(b" \t")))


pieces = st.sampled_from(
    [b"A", b"x-b", b":", b" ", b"\t", b"\r", b"\n", b"\x00", b"\x7f", b"\xe4", b"!", b"(", b'"', b"1", b","]
)
field_lines = st.one_of(st.lists(pieces, max_size=8).map(b"".join), st.binary(max_size=12))


@given(st.lists(field_lines, min_size=1, max_size=3))
@settings(deadline=None, max_examples=500)
def test_line_that_we_take_for_a_field_is_the_same_field_to_llhttp(lines: list[bytes]) -> None:
    fields = [field for line in lines if (field := parse_field_line(line)) is not None]
    collector = _Collector()
    good = b"".join(line + b"\r\n" for line in lines if parse_field_line(line) is not None)
    # Framing fields have rules of their own there.
    assume(not {b"connection", b"content-length", b"transfer-encoding", b"upgrade"} & {field[0] for field in fields})
    httptools.HttpResponseParser(collector).feed_data(b"HTTP/1.1 200 OK\r\n" + good + b"\r\n")
    assert collector.fields == [(name, value) for _, name, value in fields]
