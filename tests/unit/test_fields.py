"""Lists of response fields behave the same with and without what they know of themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgateway.fields import Fields, ReceivedHeaders, has_field, replaced
from txgateway.transport.interfaces import Header, HeaderList

NAMES = [b"A", b"a", b"B", b"Via", b"Date"]
headers = st.builds(
    lambda name, value: (name.lower(), name, value), st.sampled_from(NAMES), st.sampled_from([b"1", b""])
)
header_lists = st.lists(headers, max_size=5)


def lines(fields: HeaderList) -> bytes:
    return b"".join(b"%b: %b\r\n" % (name, value) for _, name, value in fields)


def received(fields: HeaderList, *, with_lines: bool = True) -> ReceivedHeaders:
    names = {lowered: value for lowered, _, value in fields}
    return ReceivedHeaders(fields, names, lines(fields) if with_lines else b"")


def sent(fields: HeaderList) -> bytes:
    """As a response writer serialises them."""
    if isinstance(fields, ReceivedHeaders) and fields.names is not None:
        return fields.wire + lines(fields[fields.shared :])
    return lines(fields)


@given(header_lists, st.lists(st.tuples(header_lists, st.booleans()), max_size=4), st.booleans())
def test_changes_are_those_of_a_plain_list(
    first: HeaderList, steps: list[tuple[HeaderList, bool]], ready: bool
) -> None:
    plain: HeaderList = list(first)
    known: HeaderList = received(first, with_lines=ready)
    for added, replaces in steps:
        fields = Fields(added)
        plain = fields.replaced_in(plain) if replaces else fields.added_to(plain)
        known = fields.replaced_in(known) if replaces else fields.added_to(known)
    assert list(known) == plain
    assert sent(known) == lines(plain)
    for name in (b"a", b"b", b"via", b"date"):
        assert has_field(plain, name) == any(lowered == name for lowered, _, _ in plain)
        if not isinstance(known, ReceivedHeaders):
            assert has_field(known, name) == has_field(plain, name)
        elif has_field(plain, name):
            assert has_field(known, name)


A: Header = (b"a", b"A", b"1")
B: Header = (b"b", b"B", b"2")


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.append(B),
        lambda fields: fields.extend([B]),
        lambda fields: fields.insert(0, B),
        lambda fields: fields.__iadd__([B]),
        lambda fields: fields.__setitem__(0, B),
        lambda fields: fields.__delitem__(0),
        lambda fields: fields.__imul__(2),
        lambda fields: fields.pop(),
        lambda fields: fields.remove(A),
        lambda fields: fields.clear(),
        lambda fields: fields.reverse(),
        lambda fields: fields.sort(),
    ],
)
def test_list_that_somebody_changes_in_place_is_one_like_all_others(change: Callable[[HeaderList], object]) -> None:
    plain: HeaderList = [A]
    known = received([A])
    change(plain)
    change(known)
    assert known.names is None
    assert list(known) == plain
    assert sent(replaced(known, [B], {b"b": b""}, b"B: 2\r\n")) == lines(replaced(plain, [B], {b"b": b""}, b"B: 2\r\n"))


def test_lines_follow_as_long_as_everybody_brings_theirs() -> None:
    known = received([A])
    Fields([B]).added_to(known)
    assert (known.shared, known.wire) == (2, b"A: 1\r\nB: 2\r\n")
