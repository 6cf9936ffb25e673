from __future__ import annotations

from typing import Any

import pytest

from txgateway.telemetry import b3
from txgateway.telemetry.propagation import PROPAGATORS, Propagation
from txgateway.telemetry.trace_context import RANDOM, Parent

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{SPAN}-01".encode()


def read(propagators: tuple[str, ...], *fields: tuple[bytes, bytes]) -> tuple[Parent | None, dict[bytes, bytes]]:
    headers = tuple((name.lower(), name, value) for name, value in fields)
    parent, passed = Propagation(propagators).read(headers, {lowered: value for lowered, _, value in headers})
    return parent, {name: value for _, name, value in passed}


def ids(parent: Parent | None) -> tuple[str, str, bool | None] | None:
    return None if parent is None else (parent.trace_id, parent.span_id, parent.sampled)


def written(propagators: tuple[str, ...], **how: Any) -> list[tuple[bytes, bytes]]:
    how = {"is_sampled": True, "flags": 0, **how}
    return [(name, value) for _, name, value in Propagation(propagators).write(TRACE, SPAN, **how)]


W3C = ("tracecontext", "baggage")


def test_state_goes_on_only_with_a_valid_parent() -> None:
    state = (b"tracestate", b"a=1")
    assert read(W3C, (b"traceparent", TRACEPARENT), state)[1] == {b"tracestate": b"a=1"}
    assert read(W3C, state) == (None, {})
    assert read(W3C, (b"traceparent", TRACEPARENT + b"x"), state) == (None, {})
    assert read(W3C, (b"traceparent", TRACEPARENT), (b"Traceparent", TRACEPARENT), state) == (None, {})


def test_several_lines_of_state_are_one_in_their_order() -> None:
    lines = [(b"tracestate", b"a=1"), (b"Accept", b"*/*"), (b"TraceState", b"b=2"), (b"TRACESTATE", b"c=3")]
    parent, passed = read(W3C, (b"TraceParent", TRACEPARENT), *lines)
    assert ids(parent) == (TRACE, SPAN, True)
    assert passed == {b"tracestate": b"a=1,b=2,c=3"}


def test_malformed_state_does_not_touch_the_parent() -> None:
    parent, passed = read(W3C, (b"traceparent", TRACEPARENT), (b"tracestate", b"a=1,a=2"))
    assert ids(parent) == (TRACE, SPAN, True)
    assert passed == {}


def test_baggage_goes_on_whatever_becomes_of_the_trace() -> None:
    assert read(W3C, (b"baggage", b"a=1"), (b"Baggage", b"b=2")) == (None, {b"baggage": b"a=1,b=2"})
    assert read(W3C, (b"traceparent", b"nonsense"), (b"baggage", b"a=1")) == (None, {b"baggage": b"a=1"})
    assert read(W3C, (b"baggage", b"a b")) == (None, {})
    assert read(("tracecontext",), (b"baggage", b"a=1")) == (None, {})


@pytest.mark.parametrize(
    ("propagators", "names"),
    [
        (("tracecontext",), {b"traceparent", b"tracestate"}),
        (("baggage",), {b"baggage"}),
        (("b3",), {b"b3", *b3.MULTI}),
        (("b3multi",), {b"b3", *b3.MULTI}),
        (("none",), set()),
        (PROPAGATORS, {b"traceparent", b"tracestate", b"baggage", b"b3", *b3.MULTI}),
    ],
)
def test_only_the_headers_of_named_propagators_are_answered_for(propagators: Any, names: set[bytes]) -> None:
    assert Propagation(propagators).names == names


def test_nothing_is_read_or_written_without_propagators() -> None:
    assert read(("none",), (b"traceparent", TRACEPARENT), (b"b3", b"0")) == (None, {})
    assert written(("none",)) == []


def test_what_is_written_is_read_back() -> None:
    assert written(W3C, flags=RANDOM) == [(b"traceparent", TRACEPARENT[:-2] + b"03")]
    assert written(W3C, is_sampled=False) == [(b"traceparent", TRACEPARENT[:-2] + b"00")]
    for propagators in (("tracecontext",), ("b3",), ("b3multi",), ("b3", "tracecontext", "b3multi")):
        for is_sampled in (True, False):
            parent, _ = read(propagators, *written(propagators, is_sampled=is_sampled))
            assert ids(parent) == (TRACE, SPAN, is_sampled)


def test_the_last_propagator_that_finds_something_is_believed() -> None:
    fields = ((b"traceparent", TRACEPARENT), (b"b3", b"%b-%b-0" % (b"a" * 32, b"b" * 16)))
    assert ids(read(("tracecontext", "b3"), *fields)[0]) == ("a" * 32, "b" * 16, False)
    assert ids(read(("b3", "tracecontext"), *fields)[0]) == (TRACE, SPAN, True)
    assert ids(read(("tracecontext", "b3"), fields[0], (b"b3", b"nonsense"))[0]) == (TRACE, SPAN, True)


def test_a_parent_passes_unchanged_only_where_nothing_else_has_to_be_written() -> None:
    parent, _ = read(W3C, (b"traceparent", TRACEPARENT))
    assert parent is not None
    assert Propagation(W3C).write_unchanged(parent) == ((b"traceparent", b"traceparent", TRACEPARENT),)
    assert Propagation(("tracecontext", "b3")).write_unchanged(parent) == ()
    future, _ = read(W3C, (b"traceparent", b"01" + TRACEPARENT[2:]))
    assert future is not None
    assert Propagation(W3C).write_unchanged(future) == ()


# --- B3 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"%b-%b" % (TRACE.encode(), SPAN.encode()), (TRACE, SPAN, None)),
        (b"%b-%b-1" % (TRACE.encode(), SPAN.encode()), (TRACE, SPAN, True)),
        (b"%b-%b-0" % (TRACE.encode(), SPAN.encode()), (TRACE, SPAN, False)),
        (b"%b-%b-d" % (TRACE.encode(), SPAN.encode()), (TRACE, SPAN, True)),
        (b"%b-%b-1-05e3ac9a4f6e3b90" % (TRACE.encode(), SPAN.encode()), (TRACE, SPAN, True)),
        (b"8448eb211c80319c-%b-1" % SPAN.encode(), ("0" * 16 + "8448eb211c80319c", SPAN, True)),
        (b"0", ("", "", False)),
        (b"1", ("", "", True)),
        (b"d", ("", "", True)),
    ],
)
def test_b3_in_one_field(value: bytes, expected: tuple[str, str, bool | None]) -> None:
    assert ids(read(("b3",), (b"b3", value))[0]) == expected
    assert ids(read(("b3multi",), (b"B3", value))[0]) == expected


@pytest.mark.parametrize(
    "value",
    [b"", b"2", b"-", b"%b" % TRACE.encode(), b"%b-%b-2" % (TRACE.encode(), SPAN.encode()),
     b"%b-%b-1-" % (TRACE.encode(), SPAN.encode()), b"%b-%b-" % (TRACE.encode(), SPAN.encode()),
     b"%b-%b" % (TRACE.upper().encode(), SPAN.encode()), b"%b-%b" % (b"0" * 32, SPAN.encode()),
     b"%b-%b" % (TRACE.encode(), b"0" * 16), b"%b-%b" % (TRACE[1:].encode(), SPAN.encode()),
     b"%b-%b-1-05e3ac9a4f6e3b901" % (TRACE.encode(), SPAN.encode())],
)  # fmt: skip
def test_malformed_b3_is_none(value: bytes) -> None:
    assert read(("b3",), (b"b3", value)) == (None, {})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "1"}, (TRACE, SPAN, True)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "0"}, (TRACE, SPAN, False)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Sampled": "true"}, (TRACE, SPAN, True)),
        ({"TraceId": TRACE, "SpanId": SPAN}, (TRACE, SPAN, None)),
        ({"TraceId": TRACE, "SpanId": SPAN, "Flags": "1"}, (TRACE, SPAN, True)),
        ({"TraceId": TRACE[16:], "SpanId": SPAN, "ParentSpanId": SPAN}, ("0" * 16 + TRACE[16:], SPAN, None)),
        ({"Sampled": "0"}, ("", "", False)),
        ({"Flags": "1"}, ("", "", True)),
        ({"TraceId": TRACE}, None),
        ({"SpanId": SPAN}, None),
        ({"TraceId": TRACE, "SpanId": "0" * 16}, None),
        ({"TraceId": "0" * 32, "SpanId": SPAN}, None),
        ({"TraceId": TRACE + "0", "SpanId": SPAN}, None),
        ({"Sampled": "2"}, None),
        ({"Sampled": "d"}, ("", "", True)),
    ],
)
def test_b3_in_several_fields(fields: dict[str, str], expected: tuple[str, str, bool | None] | None) -> None:
    lines = [(b"X-B3-" + name.encode(), value.encode()) for name, value in fields.items()]
    assert ids(read(("b3multi",), *lines)[0]) == expected
    assert ids(read(("b3",), *lines)[0]) == expected


def test_one_b3_field_goes_before_several_unless_it_is_malformed() -> None:
    several = [(b"X-B3-TraceId", TRACE.encode()), (b"X-B3-SpanId", SPAN.encode())]
    assert ids(read(("b3",), (b"b3", b"0"), *several)[0]) == ("", "", False)
    assert ids(read(("b3",), (b"b3", b"x"), *several)[0]) == (TRACE, SPAN, None)


def test_a_repeated_b3_field_is_none() -> None:
    assert read(("b3",), (b"b3", b"0"), (b"B3", b"1")) == (None, {})
    several = [(b"X-B3-TraceId", TRACE.encode()), (b"X-B3-SpanId", SPAN.encode())]
    assert ids(read(("b3",), *several, (b"Via", b"a"), (b"Via", b"b"))[0]) == (TRACE, SPAN, None)
    assert read(("b3",), *several, several[0]) == (None, {})


def test_debug_is_kept() -> None:
    debug, _ = read(("b3",), (b"b3", b"%b-%b-d" % (TRACE.encode(), SPAN.encode())))
    assert debug is not None
    assert debug.is_debug
    assert written(("b3",), is_debug=True) == [(b"b3", f"{TRACE}-{SPAN}-d".encode())]
    assert written(("b3multi",), is_debug=True) == [
        (b"X-B3-TraceId", TRACE.encode()), (b"X-B3-SpanId", SPAN.encode()), (b"X-B3-Flags", b"1")
    ]  # fmt: skip
    assert (b"X-B3-Sampled", b"0") in written(("b3multi",), is_sampled=False)
