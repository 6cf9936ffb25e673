"""What a target answers over HTTP/2: heads, bodies, trailers; and what is no response."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_target import Exchange, Http2Target, raw_headers
from tests.integration import h2_frames
from tests.integration.h2_frames import PROTOCOL_ERROR, STREAM_CLOSED, data_frame

from txgateway.transport.http2.client_stream import MAX_INFORMATIONAL
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH

STATUS = (b":status", b"200")


# --- whole responses ----------------------------------------------------------------------------------------------------


def test_head_body_and_end_are_told_with_one_flush_a_read() -> None:
    target = Http2Target()
    exchange = target.request()
    link = target.link
    link.send_headers(1, [(":status", "201"), ("content-length", "5"), ("x-one", "1"), ("x-one", "2")])
    link.connection.send_data(1, b"hel")
    link.connection.send_data(1, b"lo", end_stream=True)
    target.turn()
    assert exchange.handler.events == [
        ("head", 201, b"", [(b"x-one", b"1"), (b"x-one", b"2")], 5),
        ("body", b"hel"),
        ("body", b"lo"),
        ("end", []),
        ("flush",),
    ]
    assert (exchange.stream.version, exchange.stream.reused, exchange.stream.is_alive()) == (b"2", False, True)
    assert target.owner.spare == 1
    assert exchange.reset is None


def test_fields_of_one_hop_are_not_passed_on() -> None:
    exchange = Http2Target().request()
    exchange.raw_fields(STATUS, (b"te", b"trailers"), (b"http2-settings", b"x"), (b"x-one", b"1"), ends=True)
    assert exchange.handler.events[0] == ("head", 200, b"", [(b"x-one", b"1")], NO_BODY)


def test_exchanges_share_the_connection_in_any_order() -> None:
    target = Http2Target()
    first, second = target.request(), target.request()
    assert not second.stream.reused
    second.head(200)
    first.head(404)
    second.data(b"2")
    first.data(b"1", ends=True)
    second.data(b"2", ends=True)
    assert first.handler.transcript() == [("head", 404, b"", [], UNKNOWN_LENGTH), ("end", []), ("whole body", b"1")]
    assert second.handler.transcript() == [("head", 200, b"", [], UNKNOWN_LENGTH), ("end", []), ("whole body", b"22")]
    assert target.request().stream.reused


def test_trailers() -> None:
    exchange = Http2Target().request()
    exchange.head(200)
    exchange.data(b"body")
    exchange.fields(("grpc-status", "0"), ("content-length", "5"), ("x-sum", "1"), ends=True)
    assert exchange.handler.names == ["head", "body", "end"]
    assert exchange.handler.events[-2] == ("end", [(b"grpc-status", b"0"), (b"x-sum", b"1")])


def test_head_that_comes_again_is_told_like_the_first_and_is_nobodys_to_change() -> None:
    target = Http2Target()
    events = []
    for _ in range(4):
        exchange = target.request()
        heads: list[Any] = []
        exchange.handler.on_head = lambda *head, heads=heads: heads.append(head)  # type: ignore[method-assign]
        exchange.raw_fields(STATUS, (b"date", b"now"), (b"set-cookie", b"a"), (b"content-length", b"2"))
        exchange.data(b"ok", ends=True)
        ((status, _, headers, length),) = heads
        events.append((status, list(headers), length, list(headers.names), headers.wire, exchange.handler.body))
        headers.grow([(b"via", b"Via", b"x")], {b"via": b""}, b"Via: x\r\n")
        headers.pop(0)
    fields = [(b"date", b"date", b"now"), (b"set-cookie", b"set-cookie", b"a")]
    names = [b"date", b"set-cookie", b"content-length"]
    wire = b"date: now\r\nset-cookie: a\r\n"
    assert events == [(200, fields, 2, names, wire if number else b"", b"ok") for number in range(4)]


def test_length_of_a_head_that_comes_again_is_that_of_its_own_body() -> None:
    target = Http2Target()
    for method, ends in ((b"HEAD", True), (b"GET", False), (b"HEAD", True), (b"GET", False)):
        exchange = target.request(method)
        exchange.raw_fields(STATUS, (b"content-length", b"2"), ends=ends)
        if not ends:
            exchange.data(b"ok", ends=True)
        assert exchange.handler.names[-1] == "end"
        assert exchange.handler.events[0] == ("head", 200, b"", [], 2)


def test_head_that_is_known_is_no_trailers() -> None:
    target = Http2Target()
    for known in (b"\x88", b"\x89"):
        target.request().raw_block(known, ends=True)
        exchange = target.request()
        exchange.raw_block(known)
        exchange.raw_block(known, ends=True)
        assert exchange.handler.names == ["head", "failed"]
        assert exchange.reset == PROTOCOL_ERROR


def test_head_that_ends_the_stream_is_all_there_is() -> None:
    exchange = Http2Target().request(b"POST", length=0)
    exchange.head(200, ("grpc-status", "5"), ends=True)
    assert exchange.handler.events == [("head", 200, b"", [(b"grpc-status", b"5")], NO_BODY), ("end", []), ("flush",)]


@pytest.mark.parametrize(
    ("method", "status", "fields", "length"),
    [
        (b"HEAD", 200, [("content-length", "500")], 500),
        (b"HEAD", 200, [], NO_BODY),
        (b"GET", 204, [], NO_BODY),
        (b"GET", 204, [("content-length", "0")], NO_BODY),
        (b"GET", 304, [("content-length", "500")], 500),
        (b"GET", 304, [], NO_BODY),
        (b"GET", 200, [("content-length", "0")], 0),
    ],
)
@pytest.mark.parametrize("in_data", [True, False])
def test_no_body(method: bytes, status: int, fields: list[tuple[str, str]], length: int, in_data: bool) -> None:
    target = Http2Target()
    exchange = target.request(method)
    exchange.head(status, *fields, ends=not in_data)
    if in_data:
        target.raw(data_frame(1, ends=True))
        length = UNKNOWN_LENGTH if (method, status, fields) == (b"GET", 200, []) else length
    assert exchange.handler.transcript() == [("head", status, b"", [], length), ("end", []), ("whole body", b"")]


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", b"200"), (b"GET", b"204"), (b"GET", b"304")])
def test_body_where_there_is_none(method: bytes, status: bytes) -> None:
    target = Http2Target()
    exchange = target.request(method)
    target.raw(raw_headers(1, [(b":status", status)]), data_frame(1, b"x", ends=True))
    assert exchange.handler.names == ["head", "failed"]
    assert exchange.reset == PROTOCOL_ERROR


def test_padding_and_priority_are_no_part_of_it() -> None:
    target = Http2Target()
    exchange = target.request()
    block = h2_frames.literal_block([STATUS, (b"x-one", b"1")])
    flags = h2_frames.END_HEADERS | h2_frames.PADDED | h2_frames.HAS_PRIORITY
    target.raw(
        h2_frames.frame(h2_frames.HEADERS, flags, 1, b"\3" + bytes(4) + b"\x10" + block + bytes(3)),
        h2_frames.frame(h2_frames.DATA, h2_frames.PADDED | h2_frames.END_STREAM, 1, b"\5body" + bytes(5)),
    )
    assert exchange.handler.transcript() == [
        ("head", 200, b"", [(b"x-one", b"1")], UNKNOWN_LENGTH), ("end", []), ("whole body", b"body"),
    ]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 5, 9, 10])
def test_bytes_may_come_in_any_pieces(size: int) -> None:
    target = Http2Target()
    exchange = target.request()
    block = h2_frames.literal_block([STATUS])
    data = (
        h2_frames.frame(h2_frames.HEADERS, 0, 1, block[:3])
        + h2_frames.frame(h2_frames.CONTINUATION, 0, 1, block[3:5])
        + h2_frames.frame(h2_frames.CONTINUATION, h2_frames.END_HEADERS, 1, block[5:])
        + data_frame(1, b"hello")
        + data_frame(1, b"!", ends=True)
    )
    target.raw(*[data[start : start + size] for start in range(0, len(data), size)])
    assert exchange.handler.transcript()[1:] == [("end", []), ("whole body", b"hello!")]


# --- informational --------------------------------------------------------------------------------------------------------


def test_informational_responses_come_before_the_head() -> None:
    exchange = Http2Target().request()
    exchange.head(103, ("link", "</a>"))
    exchange.head(100)
    exchange.answer()
    assert exchange.handler.names == ["informational", "informational", "head", "body", "end"]
    assert exchange.handler.events[0] == ("informational", 103, [(b"link", b"</a>")])


def test_informational_responses_have_a_limit() -> None:
    target = Http2Target()
    good, bad = target.request(), target.request()
    for _ in range(MAX_INFORMATIONAL):
        good.head(102)
        bad.head(102)
    bad.raw_fields((b":status", b"102"))
    good.answer()
    assert good.handler.names == ["informational"] * MAX_INFORMATIONAL + ["head", "body", "end"]
    assert bad.handler.names == ["informational"] * MAX_INFORMATIONAL + ["failed"]
    assert bad.reset == PROTOCOL_ERROR


@pytest.mark.parametrize(("status", "ends"), [(b"101", False), (b"101", True), (b"103", True)])
def test_informational_responses_that_there_are_not(status: bytes, ends: bool) -> None:
    exchange = Http2Target().request()
    exchange.raw_fields((b":status", status), ends=ends)
    assert exchange.handler.names == ["failed"]
    assert exchange.handler.events[0] == ("failed", "UpstreamProtocolError")
    assert exchange.reset == PROTOCOL_ERROR


# --- what is no response --------------------------------------------------------------------------------------------------


def assert_fails_alone(target: Http2Target, exchange: Exchange, code: int = PROTOCOL_ERROR) -> None:
    """The exchange has failed, and the others have not."""
    assert exchange.handler.names[-1] == "failed"
    assert exchange.handler.events[-2] == ("failed", "UpstreamProtocolError")
    assert exchange.reset == code
    assert target.owner.spare == 1
    sibling = target.request()
    sibling.raw_fields(STATUS, ends=True)
    assert sibling.handler.names == ["head", "end"]
    assert not target.closed


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([], id="nothing"),
        pytest.param([(b"x", b"1")], id="no status"),
        pytest.param([(b":status", b"")], id="empty"),
        pytest.param([(b":status", b"20")], id="two digits"),
        pytest.param([(b":status", b"2000")], id="four digits"),
        pytest.param([(b":status", b"099")], id="below"),
        pytest.param([(b":status", b"600")], id="above"),
        pytest.param([(b":status", b"+20")], id="sign"),
        pytest.param([STATUS, STATUS], id="twice"),
        pytest.param([(b"x", b"1"), STATUS], id="late"),
        pytest.param([STATUS, (b":path", b"/")], id="of a request"),
        pytest.param([STATUS, (b"X-Upper", b"1")], id="upper case"),
        pytest.param([STATUS, (b"x y", b"1")], id="no token"),
        pytest.param([STATUS, (b"", b"1")], id="no name"),
        pytest.param([STATUS, (b"x", b"a\r\nb: c")], id="line end"),
        pytest.param([STATUS, (b"x", b"a\0")], id="null"),
        pytest.param([STATUS, (b"x", b" a")], id="blank"),
        pytest.param([STATUS, (b"connection", b"close")], id="connection"),
        pytest.param([STATUS, (b"transfer-encoding", b"chunked")], id="transfer-encoding"),
        pytest.param([STATUS, (b"content-length", b"+1")], id="no length"),
        pytest.param([STATUS, (b"content-length", b"1"), (b"content-length", b"2")], id="two lengths"),
    ],
)
def test_malformed_head(fields: list[tuple[bytes, bytes]]) -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.raw_fields(*fields)
    assert_fails_alone(target, exchange)
    error = exchange.handler.error
    assert error is not None
    assert (error.bytes_written, error.response_started, error.on_reused_connection) == (True, False, False)


@pytest.mark.parametrize(
    ("trailers", "ends"),
    [
        pytest.param([(b"x", b"1")], False, id="no end"),
        pytest.param([STATUS], True, id="pseudo-header field"),
        pytest.param([(b"X", b"1")], True, id="upper case"),
        pytest.param([(b"connection", b"close")], True, id="of a connection"),
    ],
)
def test_malformed_trailers(trailers: list[tuple[bytes, bytes]], ends: bool) -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.raw_fields(STATUS)
    exchange.raw_fields(*trailers, ends=ends)
    assert_fails_alone(target, exchange)
    assert exchange.handler.names == ["head", "failed"]


@pytest.mark.parametrize(
    ("length", "frames"),
    [
        pytest.param(b"5", [data_frame(1, b"four", ends=True)], id="short"),
        pytest.param(b"5", [data_frame(1, b"four"), data_frame(1, ends=True)], id="short, with an empty end"),
        pytest.param(b"5", [data_frame(1, b"four"), raw_headers(1, [(b"x", b"1")], ends=True)], id="short, trailers"),
        pytest.param(b"5", [data_frame(1, b"sixsix")], id="long"),
        pytest.param(b"5", [data_frame(1, b"five."), data_frame(1, b"!", ends=True)], id="longer and longer"),
        pytest.param(b"0", [data_frame(1, b"!")], id="nothing at all"),
    ],
)
def test_body_of_another_length(length: bytes, frames: list[bytes]) -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.raw_fields(STATUS, (b"content-length", length))
    target.raw(*frames)
    assert_fails_alone(target, exchange)
    assert len(exchange.handler.body) <= int(length)
    assert exchange.handler.error is not None
    assert exchange.handler.error.response_started


def test_length_of_a_body_that_does_not_come() -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.raw_fields(STATUS, (b"content-length", b"5"), ends=True)
    assert_fails_alone(target, exchange)
    assert exchange.handler.names == ["failed"]


def test_data_before_the_head() -> None:
    target = Http2Target()
    exchange = target.request()
    target.raw(data_frame(1, b"x"))
    assert_fails_alone(target, exchange)


@pytest.mark.parametrize("late", [data_frame(1, b"more"), raw_headers(1, [(b"x", b"1")], ends=True)])
def test_frames_behind_the_end_while_it_is_held(late: bytes) -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.raw_fields(STATUS)
    exchange.stream.pause_reading()
    target.raw(data_frame(1, b"all", ends=True), late)
    assert_fails_alone(target, exchange, STREAM_CLOSED)
