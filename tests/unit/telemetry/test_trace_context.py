"""The cases of the W3C's own test suite for trace contexts, and the limits that it does not try."""

from __future__ import annotations

import pytest

from txgateway.telemetry.trace_context import (
    MAX_BAGGAGE_BYTES,
    MAX_BAGGAGE_MEMBERS,
    MAX_STATE_BYTES,
    RANDOM,
    SAMPLED,
    STATE_BYTES_PASSED,
    format_traceparent,
    parse_baggage,
    parse_traceparent,
    parse_tracestate,
)

TRACE = b"12345678901234567890123456789012"
SPAN = b"1234567890123456"
VALID = b"00-%b-%b-01" % (TRACE, SPAN)


def seen(*values: bytes) -> tuple[str, str, bool | None, int] | None:
    parent = parse_traceparent(values)
    return None if parent is None else (parent.trace_id, parent.span_id, parent.sampled, parent.flags)


# --- traceparent ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "sampled", "flags"),
    [
        (VALID, True, 0),
        (b"00-%b-%b-00" % (TRACE, SPAN), False, 0),
        (b"00-%b-%b-02" % (TRACE, SPAN), False, RANDOM),
        (b"00-%b-%b-03" % (TRACE, SPAN), True, RANDOM),
        (b"00-%b-%b-ff" % (TRACE, SPAN), True, RANDOM),
        (b"00-%b-%b-fc" % (TRACE, SPAN), False, 0),
        (b"00-%b-%b-01" % (b"0" * 31 + b"1", b"0" * 15 + b"1"), True, 0),
        # Higher versions: flags by what version 00 knew of them in the beginning.
        (b"cc-%b-%b-01" % (TRACE, SPAN), True, 0),
        (b"cc-%b-%b-03-what-the-future-will-be-like" % (TRACE, SPAN), True, 0),
        (b"01-%b-%b-00-" % (TRACE, SPAN), False, 0),
        (b"fe-%b-%b-01" % (TRACE, SPAN), True, 0),
        # Spaces around it, wherever a transport has left them.
        (b"\t " + VALID + b" \t", True, 0),
    ],
)
def test_traceparent_that_is_valid(value: bytes, sampled: bool, flags: int) -> None:
    ids = value.strip().split(b"-")
    assert seen(value) == (ids[1].decode(), ids[2].decode(), sampled, flags)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-",
        VALID + b".",
        VALID + b"-what-the-future-will-be-like",
        VALID + b"-",
        b"cc-%b-%b-01.what-the-future-will-be-like" % (TRACE, SPAN),
        b"cc-%b-%b-01x" % (TRACE, SPAN),
        b"ff-%b-%b-01" % (TRACE, SPAN),
        b".0-%b-%b-01" % (TRACE, SPAN),
        b"0.-%b-%b-01" % (TRACE, SPAN),
        b"000-%b-%b-01" % (TRACE, SPAN),
        b"0000-%b-%b-01" % (TRACE, SPAN),
        b"0-%b-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-.%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b.-%b-01" % (TRACE[1:], SPAN),
        b"00-%b3-%b-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE[1:], SPAN),
        b"00-%b-%b-01" % (TRACE, b"0" * 16),
        b"00-%b-.%b-01" % (TRACE, SPAN[1:]),
        b"00-%b-%b.-01" % (TRACE, SPAN[1:]),
        b"00-%b-%b7-01" % (TRACE, SPAN),
        b"00-%b-%b-01" % (TRACE, SPAN[1:]),
        b"00-%b-%b-.0" % (TRACE, SPAN),
        b"00-%b-%b-0." % (TRACE, SPAN),
        b"00-%b-%b-001" % (TRACE, SPAN),
        b"00-%b-%b-1" % (TRACE, SPAN),
        # Lower case only.
        b"00-%b-%b-01" % (b"A" + TRACE[1:], SPAN),
        b"00-%b-%b-01" % (TRACE, b"F" + SPAN[1:]),
        b"00-%b-%b-0A" % (TRACE, SPAN),
        b"CC-%b-%b-01" % (TRACE, SPAN),
        VALID.replace(b"-", b"_"),
        VALID + b"\n",
        b"%b, %b" % (VALID, VALID),
        b"cc-%b-%b-01-" % (TRACE, SPAN) + b"x" * 512,
        b"00-%s-%s-01" % (("\u0661" * 16).encode(), SPAN),
    ],
)
def test_traceparent_that_is_not(value: bytes) -> None:
    assert seen(value) is None


def test_two_traceparents_are_none_even_if_they_agree() -> None:
    assert seen(VALID, VALID) is None
    assert seen() is None


@pytest.mark.parametrize(
    ("value", "may_pass"),
    [
        (b"00-%b-%b-00" % (TRACE, SPAN), True),
        (b"00-%b-%b-03" % (TRACE, SPAN), True),
        (b"00-%b-%b-04" % (TRACE, SPAN), False),
        (b"01-%b-%b-00" % (TRACE, SPAN), False),
        (b"01-%b-%b-00-more" % (TRACE, SPAN), False),
    ],
)
def test_only_what_is_wholly_understood_may_pass_unchanged(value: bytes, may_pass: bool) -> None:
    parent = parse_traceparent([b" " + value])
    assert parent is not None
    assert parent.unchanged == (value if may_pass else b"")


def test_traceparent_is_written_in_version_00() -> None:
    assert format_traceparent("a" * 32, "b" * 16, SAMPLED | RANDOM) == b"00-%b-%b-03" % (b"a" * 32, b"b" * 16)
    assert format_traceparent("a" * 32, "b" * 16, 0) == b"00-%b-%b-00" % (b"a" * 32, b"b" * 16)


# --- tracestate -------------------------------------------------------------------------------------------------------

KEY_CHARACTERS = b"abcdefghijklmnopqrstuvwxyz0123456789_-*/"
VALUE_CHARACTERS = bytes(byte for byte in range(0x20, 0x7F) if byte not in b",=")
MANY = [b"bar%02d=%02d" % (number, number) for number in range(1, 34)]


@pytest.mark.parametrize(
    ("lines", "passed"),
    [
        ([b"foo=1"], b"foo=1"),
        ([b"foo=1,bar=2"], b"foo=1,bar=2"),
        ([b"foo=1,bar=2", b"rojo=1,congo=2", b"baz=3"], b"foo=1,bar=2,rojo=1,congo=2,baz=3"),
        ([b"foo=1", b""], b"foo=1"),
        ([b"", b"foo=1"], b"foo=1"),
        ([b"foo=1,,bar=2,"], b"foo=1,bar=2"),
        ([b"foo=1 \t , \t bar=2, \t baz=3"], b"foo=1,bar=2,baz=3"),
        ([b"foo=1\t \t,\t \tbar=2,\t \tbaz=3"], b"foo=1,bar=2,baz=3"),
        ([b"\t foo=1 \t"], b"foo=1"),
        ([b"foo= 1"], b"foo= 1"),
        ([KEY_CHARACTERS + b"=" + VALUE_CHARACTERS], KEY_CHARACTERS + b"=" + VALUE_CHARACTERS),
        ([KEY_CHARACTERS + b"@a-z0-9_-*/=" + VALUE_CHARACTERS], KEY_CHARACTERS + b"@a-z0-9_-*/=" + VALUE_CHARACTERS),
        ([b"foo=1", b"z" * 256 + b"=1"], b"foo=1," + b"z" * 256 + b"=1"),
        ([b"foo=1", b"t" * 241 + b"@" + b"v" * 14 + b"=1"], b"foo=1," + b"t" * 241 + b"@" + b"v" * 14 + b"=1"),
        ([b"foo=" + b"x" * 256], b"foo=" + b"x" * 256),
        ([b"0foo=1,0t@s=2"], b"0foo=1,0t@s=2"),
        ([b",".join(MANY[:32])], b",".join(MANY[:32])),
    ],
)
def test_tracestate_that_is_passed_on(lines: list[bytes], passed: bytes) -> None:
    assert parse_tracestate(lines) == passed


@pytest.mark.parametrize(
    "lines",
    [
        [b""],
        [b" , ,"],
        [b"foo=1,foo=1"],
        [b"foo=1,foo=2"],
        [b"foo=1", b"foo=1"],
        [b"foo=1", b"bar=2", b"foo=2"],
        [b"foo =1"],
        [b"FOO=1"],
        [b"foo.bar=1"],
        [b"@foo=1,bar=2"],
        [b"foo@=1,bar=2"],
        [b"foo@@bar=1,bar=2"],
        [b"foo@bar@baz=1,bar=2"],
        [b"foo@0bar=1"],
        [b"foo=1", b"t" * 242 + b"@v=1"],
        [b"foo=1", b"t@" + b"v" * 15 + b"=1"],
        [b"_foo=1"],
        [b"foo"],
        [b"=1"],
        [b"foo=bar=baz"],
        [b"foo=,bar=3"],
        [b"foo=\xe9"],
        [b"foo=a\tb"],
        [b"foo=1", b"z" * 257 + b"=1"],
        [b"foo=" + b"x" * 257],
        [b",".join(MANY)],
        [b"foo=1" + b"," * 64],
        [b"foo=1;bar=2" + b" " * MAX_STATE_BYTES],
    ],
)
def test_tracestate_that_is_dropped_as_a_whole(lines: list[bytes]) -> None:
    assert parse_tracestate(lines) == b""


def test_tracestate_that_is_too_long_loses_its_long_members_first_and_then_the_last() -> None:
    def member(key: bytes, size: int) -> bytes:
        return key + b"=" + b"x" * (size - len(key) - 1)

    a, b, c, d = member(b"a", 129), member(b"b", 128), member(b"c", 250), member(b"d", 100)
    assert parse_tracestate([b",".join((a, b, c, d))]) == b",".join((a, b, d))
    assert parse_tracestate([b",".join((c, b, a, d))]) == b",".join((c, b, d))
    exact = [member(b"k%d" % number, 127) for number in range(4)]
    assert parse_tracestate([b",".join(exact)]) == b",".join(exact)
    assert len(b",".join(exact)) == STATE_BYTES_PASSED - 1
    assert parse_tracestate([b",".join((*exact, b"z=1"))]) == b",".join(exact)
    short = [member(b"s%02d" % number, 40) for number in range(20)]
    assert parse_tracestate([b",".join(short)]) == b",".join(short[:12])


# --- baggage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "passed"),
    [
        ([b"userId=alice"], b"userId=alice"),
        ([b"a=1,b=2"], b"a=1,b=2"),
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b"a=1;p;q=r,b=%20"], b"a=1;p;q=r,b=%20"),
        ([b"a = 1 ; p ; q = r , b = 2"], b"a = 1 ; p ; q = r,b = 2"),
        ([b"a="], b"a="),
        ([b"a=b=c"], b"a=b=c"),
        ([b"a=1,a=2"], b"a=1,a=2"),
        ([b"a=1,,b=2"], b"a=1,b=2"),
    ],
)
def test_baggage_that_is_passed_on(lines: list[bytes], passed: bytes) -> None:
    assert parse_baggage(lines) == passed


@pytest.mark.parametrize(
    "value", [b"", b"a", b"=1", b"a b=1", b'a="1"', b"a=1 2", b"a=\xe9", b"a=1;", b"a=1;=2", b"a=\\"]
)
def test_baggage_that_is_dropped(value: bytes) -> None:
    assert parse_baggage([value]) == b""


def test_baggage_has_limits() -> None:
    members = [b"k%d=v" % number for number in range(MAX_BAGGAGE_MEMBERS)]
    assert parse_baggage([b",".join(members)]) == b",".join(members)
    assert parse_baggage([b",".join((*members, b"z=1"))]) == b""
    fits = b"a=" + b"x" * (MAX_BAGGAGE_BYTES - 2)
    assert parse_baggage([fits]) == fits
    assert parse_baggage([fits + b"x"]) == b""
    assert parse_baggage([fits[:4096], b"b=" + b"x" * 4096]) == b""
