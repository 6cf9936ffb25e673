"""Trace headers from anybody: nothing raises, nothing grows, and what is written can be read."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.propagators.textmap import Getter
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from txgateway.telemetry.propagation import PROPAGATORS, Propagation
from txgateway.telemetry.trace_context import (
    MAX_BAGGAGE_BYTES,
    RANDOM,
    STATE_BYTES_PASSED,
    parse_baggage,
    parse_traceparent,
    parse_tracestate,
)

NAMES = sorted(Propagation(PROPAGATORS).names)
ids = st.tuples(
    st.text("0123456789abcdef", min_size=32, max_size=32).filter(lambda text: text.strip("0")),
    st.text("0123456789abcdef", min_size=16, max_size=16).filter(lambda text: text.strip("0")),
)
propagators = st.lists(st.sampled_from([name for name in PROPAGATORS if name != "none"]), min_size=1, unique=True)
near_parent = st.from_regex(re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}.{0,5}", re.ASCII)).map(
    lambda text: text.encode("utf-8", "surrogateescape")
)
pieces = st.sampled_from(
    [b"a", b"=", b",", b";", b" ", b"\t", b"0", b"-", b"@", b"_", b"A", b"\xff", b"\x00", b"a=1", b"b=2"]
)
near_list = st.lists(pieces, max_size=80).map(b"".join)
values = st.one_of(st.binary(max_size=80), near_parent, near_list, st.just(b"x=" + b"y" * 20_000))
headers = st.lists(st.tuples(st.sampled_from(NAMES), values), max_size=8)


@given(propagators, headers)
def test_whatever_comes_is_read_or_left(names: list[str], fields: list[tuple[bytes, bytes]]) -> None:
    received = tuple((name, name, value) for name, value in fields)
    propagation = Propagation(names)
    parent, passed = propagation.read(received, dict(fields))
    for lowered, _, value in passed:
        assert lowered in propagation.names
        assert 0 < len(value) <= (STATE_BYTES_PASSED if lowered == b"tracestate" else MAX_BAGGAGE_BYTES)
        assert re.fullmatch(rb"[\x20-\x7e\t]+", value)
    if parent is not None and parent.trace_id:
        assert re.fullmatch("[0-9a-f]{32}", parent.trace_id)
        assert re.fullmatch("[0-9a-f]{16}", parent.span_id)
        assert parent.trace_id.strip("0")
        assert parent.span_id.strip("0")
        for lowered, _, value in propagation.write_unchanged(parent):
            assert parse_traceparent([value]) is not None, lowered


@given(propagators, ids, st.booleans(), st.sampled_from([0, RANDOM]))
def test_what_is_written_is_read_back(names: list[str], trace: tuple[str, str], is_sampled: bool, flags: int) -> None:
    propagation = Propagation(names)
    fields = propagation.write(*trace, is_sampled=is_sampled, flags=flags)
    parent, passed = propagation.read(fields, {lowered: value for lowered, _, value in fields})
    assert passed == ()
    if not fields:
        assert parent is None
        return
    assert parent is not None
    assert (parent.trace_id, parent.span_id, parent.sampled) == (*trace, is_sampled)
    if names[-1] == "tracecontext":
        assert parent.flags == flags


@given(st.lists(near_list | st.binary(max_size=40), max_size=4))
def test_what_is_passed_on_passes_again_unchanged(lines: list[bytes]) -> None:
    for parse in (parse_tracestate, parse_baggage):
        passed = parse(lines) if lines else b""
        assert not passed or parse([passed]) == passed


@given(st.lists(st.integers(1, 256), min_size=1, max_size=32))
def test_a_shortened_state_is_a_part_of_the_whole_in_its_order(sizes: list[int]) -> None:
    members = [b"k%d=" % at + b"v" * size for at, size in enumerate(sizes)]
    left = parse_tracestate([b",".join(members)]).split(b",")
    whole = iter(members)
    assert left == [b""] or all(member in whole for member in left)
    if sum(map(len, members)) + len(members) - 1 <= STATE_BYTES_PASSED:
        assert left == members


class _Lines(Getter[dict[str, list[str]]]):
    def get(self, carrier: dict[str, list[str]], key: str) -> list[str] | None:
        return carrier.get(key)

    def keys(self, carrier: dict[str, list[str]]) -> list[str]:
        return list(carrier)


@given(near_parent)
def test_a_valid_parent_is_the_one_that_the_sdk_sees(value: bytes) -> None:
    parent = parse_traceparent([value])
    if parent is None or not value.isascii():
        return
    carrier = {"traceparent": [value.decode("ascii").strip()]}
    theirs = get_current_span(TraceContextTextMapPropagator().extract(carrier, getter=_Lines())).get_span_context()
    if theirs.is_valid:
        assert (f"{theirs.trace_id:032x}", f"{theirs.span_id:016x}") == (parent.trace_id, parent.span_id)
        assert theirs.trace_flags.sampled is parent.sampled
