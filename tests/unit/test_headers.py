"""Header syntax, hosts, and which fields travel on."""

from __future__ import annotations

import pytest

from txgateway.headers import (
    NEVER_NOMINATED,
    connection_tokens,
    end_to_end,
    field_values,
    is_field_value,
    is_token,
    is_valid_host,
    normalize_host,
    split_list,
)


def fields(*names: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [(name.lower(), name, b"v") for name in names]


@pytest.mark.parametrize("value", [b"GET", b"x-a_b", b"!#$%&'*+-.^_`|~09"])
def test_token_is_accepted(value: bytes) -> None:
    assert is_token(value)


@pytest.mark.parametrize("value", [b"", b"a b", b"a:", b"a\n", b"\xe9", b'"', b"(", b"a\x00"])
def test_other_than_token_is_refused(value: bytes) -> None:
    assert not is_token(value)


@pytest.mark.parametrize("value", [b"", b"a", b"a b\tc", b"caf\xc3\xa9", b'"x,y"'])
def test_field_value_is_accepted(value: bytes) -> None:
    assert is_field_value(value)


@pytest.mark.parametrize("value", [b" a", b"a\t", b"a\nb", b"a\r", b"a\x00", b"\x7f", b"a\n"])
def test_other_than_field_value_is_refused(value: bytes) -> None:
    assert not is_field_value(value)


@pytest.mark.parametrize(
    "value",
    [
        b"example.com",
        b"Example.com.",
        b"a_b.local:8000",
        b"10.0.0.1:0",
        b"[::1]",
        b"[2001:db8::1]:65535",
        b"[::ffff:10.0.0.1]",
        b"a" * 253 + b".:65535",
    ],
)
def test_host_is_accepted(value: bytes) -> None:
    assert is_valid_host(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b":80",
        b"a:",
        b"a:65536",
        b"a:-1",
        b"a:080000",
        b"a:80:80",
        b"user@a",
        b"a/b",
        b"a b",
        b"a\n",
        b"a%2eb",
        b"\xe9.com",
        b"::1",
        b"[::1",
        b"[:::1]",
        b"[fe80::1%25eth0]",
        b"[v1.x]",
        b"[10.0.0.1]",
        b'a"b',
        b"a" * 261,
    ],
)
def test_other_than_host_is_refused(value: bytes) -> None:
    assert not is_valid_host(value)


@pytest.mark.parametrize(
    ("value", "normal"),
    [
        (b"Example.COM", b"example.com"),
        (b"example.com.:80", b"example.com"),
        (b"[::1]:80", b"[::1]"),
        (b"[2001:DB8:0:0::1]", b"[2001:db8::1]"),
        (b"", b""),
    ],
)
def test_host_is_normalized(value: bytes, normal: bytes) -> None:
    assert normalize_host(value) == normal


def test_values_of_all_lines_are_found_in_order() -> None:
    headers = [(b"a", b"A", b"1"), (b"b", b"B", b"2"), (b"a", b"a", b"3")]
    assert field_values(headers, b"a") == [b"1", b"3"]


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        (b"", []),
        (b" , ,", []),
        (b"a, b\t,c", [b"a", b"b", b"c"]),
        (b'a="x,y" , b', [b'a="x,y"', b"b"]),
        (rb'"x\",y", b', [rb'"x\",y"', b"b"]),
        (b'a, "b, c', [b"a", b'"b, c']),
        (b'a, "b\\', [b"a", b'"b\\']),
    ],
)
def test_list_is_split_outside_quotes(value: bytes, elements: list[bytes]) -> None:
    assert split_list(value) == elements


@pytest.mark.parametrize(
    ("value", "tokens"),
    [
        (b"keep-alive", {b"keep-alive"}),
        (b"Close , X-Foo,,x-foo", {b"close", b"x-foo"}),
        (b'"x, upgrade, a b', {b"upgrade"}),
        (b"", set()),
    ],
)
def test_connection_options_are_lowered_tokens(value: bytes, tokens: set[bytes]) -> None:
    assert connection_tokens(value) == tokens


CONNECTION_LEVEL = (
    b"Connection Content-Length HTTP2-Settings Keep-Alive Proxy-Authenticate Proxy-Authentication-Info "
    b"Proxy-Authorization Proxy-Connection TE Transfer-Encoding Upgrade"
).split()


@pytest.mark.parametrize("connection", [None, b"", b"keep-alive", b"Close", b"close, te"])
def test_hop_by_hop_fields_are_dropped_whatever_connection_says(connection: bytes | None) -> None:
    kept = fields(b"Host", b"X-A", b"Trailer")
    assert end_to_end(kept + fields(*CONNECTION_LEVEL), connection) == kept


def test_nominated_fields_are_dropped() -> None:
    headers = fields(b"X-Foo", b"X-Bar", b"X-Baz")
    assert end_to_end(headers, b"close, x-foo,X-BAZ") == fields(b"X-Bar")


def test_fields_that_decide_something_cannot_be_nominated() -> None:
    headers = fields(*sorted(NEVER_NOMINATED))
    assert end_to_end(headers, b"close, " + b", ".join(NEVER_NOMINATED)) == headers


@pytest.mark.parametrize("connection", [None, b"keep-alive, x-foo"])
def test_further_names_are_dropped(connection: bytes | None) -> None:
    headers = fields(b"X-A", b"Host", b"X-Foo2")
    assert end_to_end(headers, connection, frozenset({b"x-a", b"host"})) == fields(b"X-Foo2")
