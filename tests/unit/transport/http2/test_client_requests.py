"""What goes to a target over HTTP/2: heads, bodies within the windows, trailers; and when the target has heard enough."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import frames_in
from tests.helpers.http2_target import HOST, Http2Target
from tests.helpers.upstream import RecordingHandler
from tests.integration.h2_frames import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    NO_ERROR,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)

from txgateway.transport.http2.client import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW
from txgateway.transport.http2.stream import MAX_QUEUED
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList

FIRST_WINDOW = 65_535


def fields(*pairs: tuple[bytes, bytes]) -> HeaderList:
    return [(name.lower(), name, value) for name, value in pairs]


# --- the connection's beginning ---------------------------------------------------------------------------------------


def test_preface_settings_and_window_go_out_in_one_write_before_anything_is_heard() -> None:
    target = Http2Target(greets=False)
    assert target.transport.writes == 1
    sent = target.transport.received()
    assert sent.startswith(PREFACE)
    settings, window = frames_in(sent[len(PREFACE) :])
    assert (settings.kind, settings.flags, settings.stream) == (SETTINGS, 0, 0)
    assert settings.settings == {2: 0, 4: STREAM_WINDOW, 6: 64 * 1024}
    assert (window.kind, window.stream, window.increment) == (WINDOW_UPDATE, 0, CONNECTION_WINDOW - FIRST_WINDOW)
    assert CONNECTION_WINDOW == MAX_STREAMS * STREAM_WINDOW
    assert target.connection.spare == 0


def test_exchanges_may_begin_once_the_target_has_sent_its_settings() -> None:
    target = Http2Target(greets=False)
    assert target.owner.ready == 0
    target.turn()
    assert (target.owner.ready, target.connection.spare) == (1, MAX_STREAMS)
    target.change({INITIAL_WINDOW_SIZE: 5})
    assert target.owner.ready == 1


# --- heads --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [b"http", b"https"])
def test_head_is_pseudo_fields_and_then_fields_with_lowered_names(scheme: bytes) -> None:
    target = Http2Target(scheme=scheme)
    headers = fields(
        (b"X-One", b"1"), (b"HOST", b"a.test:81"), (b"TE", b"trailers"), (b"Cookie", b"a=b; c=d"), (b"x-one", b"2")
    )
    exchange = target.request(b"GET", b"/p?q=%20", headers)
    assert exchange.seen.fields == [
        (":method", "GET"), (":scheme", scheme.decode()), (":authority", "a.test:81"), (":path", "/p?q=%20"),
        ("x-one", "1"), ("te", "trailers"), ("cookie", "a=b; c=d"), ("x-one", "2"),
    ]  # fmt: skip
    assert exchange.seen.ended
    assert exchange.id == 1
    assert target.request().id == 3


def test_fields_of_a_connection_are_not_sent() -> None:
    target = Http2Target()
    names = (b"Connection", b"Proxy-Connection", b"Keep-Alive", b"Transfer-Encoding", b"Upgrade")
    kept = ((b"X-Kept", b"1"), (b"Sec-WebSocket-Key", b"2"))
    exchange = target.request(headers=HOST + fields(*[(name, b"x") for name in names], *kept))
    assert exchange.seen.ordinary == [("x-kept", "1"), ("sec-websocket-key", "2")]


@pytest.mark.parametrize(
    ("length", "first", "ended", "declared"),
    [
        (NO_BODY, b"", True, []),
        (0, b"", True, [("content-length", "0")]),
        (5, b"hello", True, [("content-length", "5")]),
        (5, b"he", False, [("content-length", "5")]),
        (UNKNOWN_LENGTH, b"he", False, []),
        (UNKNOWN_LENGTH, b"", False, []),
    ],
)
def test_declared_length(length: int, first: bytes, ended: bool, declared: list[tuple[str, str]]) -> None:
    exchange = Http2Target().request(b"POST", length=length, first=first, ended=ended)
    assert (exchange.seen.ordinary, exchange.seen.body, exchange.seen.ended) == (declared, first, ended)


@pytest.mark.parametrize("name", [b"authorization", b"cookie", b"traceparent"])
def test_secrets_stay_out_of_the_table(name: bytes) -> None:
    target = Http2Target()
    target.request(headers=HOST + fields((name, b"s3cret"), (b"x-other", b"1")))
    table = dict(target.link.connection.decoder.header_table.dynamic_entries)
    assert name not in table
    assert table[b"x-other"] == b"1"


def test_large_head_is_continued() -> None:
    target = Http2Target()
    exchange = target.connection.exchange()
    value = b"\x80" * 20_000  # has no short Huffman code
    exchange.start(RecordingHandler(), b"GET", b"/", HOST + fields((b"x-large", value)), NO_BODY, b"", True)
    head, *others = frames_in(target.transport.taken)
    assert (head.kind, head.flags, len(head.payload)) == (HEADERS, END_STREAM, 16384)
    assert {other.kind for other in others} == {CONTINUATION}
    assert [other.flags for other in others][-1] == END_HEADERS
    target.turn()
    assert target.requests[1].ordinary == [("x-large", value.decode("latin-1"))]
    assert target.requests[1].ended


# --- bodies -------------------------------------------------------------------------------------------------------------


def sent_frames(target: Http2Target) -> list[tuple[int, int, int]]:
    """Kind, flags and size of what has come, which the target gets to see as well."""
    frames = [(one.kind, one.flags, len(one.payload)) for one in frames_in(target.transport.taken)]
    target.turn()
    return frames


def take_all(target: Http2Target) -> None:
    """A slow target takes what there is for it."""
    while target.transport.unsent:
        target.transport.take()
        target.turn()


def test_request_without_a_body_is_one_frame() -> None:
    target = Http2Target()
    stream = target.request(ended=False).stream
    target.connection.exchange()
    stream.send_end([])
    assert sent_frames(target) == [(DATA, END_STREAM, 0)]
    assert target.requests[1].ended


def test_end_goes_with_the_last_data_of_the_same_write() -> None:
    target = Http2Target()
    stream = target.connection.exchange()
    stream.start(RecordingHandler(), b"PUT", b"/", HOST, 5, b"hello", True)
    (head, data) = frames_in(target.transport.taken)
    assert (head.kind, head.flags) == (HEADERS, END_HEADERS)
    assert (data.kind, data.flags, data.payload) == (DATA, END_STREAM, b"hello")
    assert target.transport.writes == 3  # preface, acknowledgement, and all of this


def test_data_behind_the_end_and_nothing_at_all_are_not_sent() -> None:
    target = Http2Target()
    exchange = target.request(b"PUT", ended=False, length=UNKNOWN_LENGTH)
    exchange.stream.send_body(b"")
    assert sent_frames(target) == []
    exchange.send(b"abc")
    exchange.send_end()
    exchange.stream.send_body(b"late")
    exchange.stream.send_end([])
    assert sent_frames(target) == []
    assert (exchange.seen.body, exchange.seen.ended) == (b"abc", True)


def test_trailers_end_the_request() -> None:
    exchange = Http2Target().request(b"POST", length=UNKNOWN_LENGTH, first=b"body", ended=False)
    exchange.send_end((b"X-Sum", b"1"), (b"x-more", b"2"))
    assert exchange.seen.body == b"body"
    assert exchange.seen.trailers == [("x-sum", "1"), ("x-more", "2")]
    assert exchange.seen.ended


def test_body_larger_than_the_windows_blocks_and_drains() -> None:
    target = Http2Target()
    target.reads = False
    exchange = target.request(b"PUT", length=200_000, first=b"a" * 100_000, ended=False)
    assert exchange.handler.names == ["blocked"]
    exchange.send(b"b" * 100_000)  # on its way already
    exchange.send_end()
    assert exchange.handler.names == ["blocked"]
    assert len(exchange.seen.body) == FIRST_WINDOW
    target.grant(200_000)
    target.grant(200_000, exchange.id)
    assert exchange.seen.body == b"a" * 100_000 + b"b" * 100_000
    assert exchange.seen.ended
    assert exchange.handler.names == ["blocked"]  # nobody is to go on
    assert not [frame for frame in frames_in(target.transport.taken) if frame.kind == RST_STREAM]


def test_drained_comes_when_all_that_waited_is_sent() -> None:
    target = Http2Target()
    target.reads = False
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, ended=False)
    exchange.send(b"x" * FIRST_WINDOW)
    exchange.send(b"y" * MAX_QUEUED)
    assert exchange.handler.names == []
    exchange.send(b"z")
    assert exchange.handler.names == ["blocked"]
    target.grant(FIRST_WINDOW)
    target.grant(MAX_QUEUED, exchange.id)
    assert exchange.handler.names == ["blocked"]
    target.grant(1, exchange.id)
    assert exchange.handler.names == ["blocked", "drained"]
    assert len(exchange.seen.body) == FIRST_WINDOW + MAX_QUEUED + 1


def test_stream_that_is_not_read_holds_up_no_other() -> None:
    target = Http2Target()
    target.grant(1_000_000)
    target.reads = False
    slow = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"s" * 200_000, ended=False)
    quick = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"q" * 60_000, ended=True)
    assert (len(slow.seen.body), slow.handler.names) == (FIRST_WINDOW, ["blocked"])
    assert (len(quick.seen.body), quick.seen.ended, quick.handler.names) == (60_000, True, [])


def test_full_transport_blocks_and_its_drain_goes_on() -> None:
    target = Http2Target()
    target.reads = False
    target.grant(10_000_000)
    target.change({INITIAL_WINDOW_SIZE: 10_000_000})
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, ended=False)
    target.transport.takes = False
    exchange.stream.send_body(b"x" * 500_000)
    assert exchange.handler.names == ["blocked"]
    assert len(target.transport.unsent) < 200_000  # the rest waits where it can still be dropped
    take_all(target)
    assert len(exchange.seen.body) == 500_000
    assert exchange.handler.names == ["blocked", "drained"]


def test_streams_take_turns() -> None:
    target = Http2Target()
    target.reads = False
    one = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"1" * FIRST_WINDOW, ended=False)
    two = target.request(b"PUT", length=UNKNOWN_LENGTH, ended=False)
    one.send(b"1" * 50_000)
    two.send(b"2" * 50_000)
    target.grant(100_000, one.id)
    target.link.connection.increment_flow_control_window(65_536)
    target.transport.send(target.link.take())
    streams = [frame.stream for frame in frames_in(target.transport.taken) if frame.kind == DATA]
    assert streams == [two.id, one.id, two.id, one.id]


# --- changes of the windows -----------------------------------------------------------------------------------------------


def test_larger_initial_window_lets_waiting_bodies_go_on() -> None:
    target = Http2Target(settings={INITIAL_WINDOW_SIZE: 10})
    target.reads = False
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"x" * 25, ended=True)
    assert (len(exchange.seen.body), exchange.seen.ended) == (10, False)
    target.change({INITIAL_WINDOW_SIZE: 20})
    assert (len(exchange.seen.body), exchange.seen.ended) == (20, False)
    target.change({INITIAL_WINDOW_SIZE: 25})
    assert (len(exchange.seen.body), exchange.seen.ended) == (25, True)


def test_smaller_initial_window_takes_back_what_was_granted() -> None:
    target = Http2Target(settings={INITIAL_WINDOW_SIZE: 100})
    target.reads = False
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, first=b"x" * 100, ended=False)
    target.change({INITIAL_WINDOW_SIZE: 40})  # 60 too many
    exchange.send(b"y" * 50)
    target.grant(60, exchange.id)
    assert len(exchange.seen.body) == 100
    target.grant(50, exchange.id)
    assert len(exchange.seen.body) == 150


def test_window_that_shrinks_while_the_transport_is_full_is_kept() -> None:
    target = Http2Target(settings={INITIAL_WINDOW_SIZE: 300_000})
    target.reads = False
    target.grant(1_000_000)
    exchange = target.request(b"PUT", length=UNKNOWN_LENGTH, ended=False)
    target.transport.takes = False
    exchange.stream.send_body(b"x" * 250_000)
    on_its_way = sum(len(one.payload) for one in frames_in(target.transport.unsent) if one.kind == DATA)
    assert 0 < on_its_way < 250_000
    target.change({INITIAL_WINDOW_SIZE: on_its_way - 1000})
    take_all(target)  # in which the library would complain
    assert len(exchange.seen.body) == on_its_way
    target.change({INITIAL_WINDOW_SIZE: 250_000})
    take_all(target)
    assert exchange.seen.body == b"x" * 250_000


# --- a response before the request is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("resets", [True, False])
def test_complete_response_ends_a_request_that_is_not_sent(resets: bool) -> None:
    target = Http2Target()
    target.reads = False
    exchange = target.request(b"POST", length=UNKNOWN_LENGTH, first=b"x" * 100_000, ended=False)
    target.link.send_headers(exchange.id, [(":status", "413")])
    target.link.connection.send_data(exchange.id, b"too large", end_stream=True)
    if resets:
        target.link.connection.reset_stream(exchange.id, NO_ERROR)
    target.turn()
    assert exchange.handler.names == ["blocked", "head", "body", "end"]
    assert exchange.handler.body == b"too large"
    assert not target.connection.streams
    if not resets:
        assert exchange.reset == NO_ERROR
    exchange.stream.send_body(b"more")
    exchange.stream.send_end([])
    assert sent_frames(target) == []
    target.request().answer()
    assert target.connection.completed == 2


def test_reset_behind_a_complete_response_keeps_what_is_held_of_it() -> None:
    target = Http2Target(settings={INITIAL_WINDOW_SIZE: 1_000_000})
    target.reads = False
    exchange = target.request(b"POST", length=UNKNOWN_LENGTH, first=b"x" * 100_000, ended=False)
    exchange.head(200)
    exchange.stream.pause_reading()
    exchange.data(b"whole", ends=True)
    exchange.send_reset(NO_ERROR)
    assert exchange.handler.names == ["blocked", "head", "drained"]  # so that the client gets rid of the rest
    target.link.connection.increment_flow_control_window(100_000)
    target.transport.send(target.link.take())
    exchange.stream.send_body(b"more")
    exchange.stream.send_end([])
    assert sent_frames(target) == []
    exchange.resume()
    assert exchange.handler.names == ["blocked", "head", "drained", "body", "end"]
    assert exchange.handler.body == b"whole"
    assert target.connection.completed == 1
    assert not target.connection.streams


def test_reset_before_the_end_of_the_response_fails_it() -> None:
    exchange = Http2Target().request(b"POST", length=UNKNOWN_LENGTH, ended=False)
    exchange.head(200)
    exchange.data(b"half")
    exchange.send_reset(NO_ERROR)
    assert exchange.handler.names == ["head", "body", "failed"]
    assert exchange.handler.events[-2] == ("failed", "UpstreamReset")


def test_request_goes_on_behind_a_response_that_has_only_begun() -> None:
    exchange = Http2Target().request(b"POST", length=UNKNOWN_LENGTH, ended=False)
    exchange.head(200)
    exchange.send(b"one")
    exchange.data(b"ONE")
    exchange.send(b"two")
    exchange.send_end()
    exchange.data(b"TWO", ends=True)
    assert (exchange.seen.body, exchange.handler.body) == (b"onetwo", b"ONETWO")
    assert exchange.reset is None
