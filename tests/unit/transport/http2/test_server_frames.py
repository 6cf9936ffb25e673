"""Frames that break a rule of RFC 9113 sections 3 to 6, and what each brings: nothing is answered with silence."""

from __future__ import annotations

from typing import Any

import pytest
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    CONTINUATION,
    DATA,
    ENABLE_CONNECT_PROTOCOL,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    data_frame,
    frame,
    literal_block,
    ping,
    rst_stream,
    settings_ack,
    settings_frame,
    window_update,
)
from tests.unit.support import Body, Server, logged_failures, message, read_responses

from txgateway.transport.http2.server import CONNECTION_WINDOW, STREAM_WINDOW
from txgateway.transport.http2.streams import LINGER_BYTES, LINGER_S

BLOCK = literal_block(GET)
OPEN = frame(HEADERS, END_HEADERS, 1, literal_block(POST))
#: SETTINGS that both ends of the table know of each other.
WINDOW = 65_535


def answering() -> Server:
    return Server(lambda request: request.answer(200, [], b"ok"))


def wanting() -> Server:
    """Takes all bodies, answers nothing."""
    return Server(lambda request: request.want_body(Body()))


# --- beginning (section 3.4) ----------------------------------------------------------------------------------------------


def test_server_speaks_first_and_says_what_it_takes() -> None:
    client = Http2Client(Server(), greets=False)
    settings, window = client.look()
    assert (settings.kind, settings.flags, settings.stream) == (SETTINGS, 0, 0)
    assert settings.settings == {
        MAX_CONCURRENT_STREAMS: 100,
        INITIAL_WINDOW_SIZE: STREAM_WINDOW,
        MAX_HEADER_LIST_SIZE: 16 * 1024 + 32 * 100,
        ENABLE_CONNECT_PROTOCOL: 1,
        9: 1,
    }
    assert (window.kind, window.stream, window.increment) == (WINDOW_UPDATE, 0, CONNECTION_WINDOW - WINDOW)


def test_preface_in_single_bytes_and_frames_too() -> None:
    server = answering()
    client = Http2Client(server, greets=False)
    wire = PREFACE + settings_frame({INITIAL_WINDOW_SIZE: 100}) + client.headers(1) + ping()
    client.send(*[wire[at : at + 1] for at in range(len(wire))])
    assert client.status() == 200
    assert client.body() == b"ok"
    assert [one.is_ack for one in client.of(PING)] == [True]


@pytest.mark.parametrize("at", [0, 3, 16, 23])
def test_bad_preface_ends_the_connection(at: int) -> None:
    client = Http2Client(Server(), greets=False)
    client.send(PREFACE[:at] + b"x")
    client.assert_ended(PROTOCOL_ERROR, 0)


def test_plain_client_that_knows_is_served() -> None:
    server = answering()
    plain = server.connect()
    wire = PREFACE + settings_frame() + frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK)
    plain.send(wire[:10], wire[10:])
    assert plain.received().endswith(b"ok")
    assert server.request.clientproto == b"HTTP/2"
    assert server.request.client_ip == "127.0.0.1"
    assert [one.protocol for one in server.factory.connections] == ["h2"]


def test_preface_behind_a_request_is_no_preface() -> None:
    server = answering()
    plain = server.connect().send(message(b"/"), PREFACE)
    assert [one.status for one in read_responses(plain.received())] == [200, 505]


@pytest.mark.parametrize(
    "first",
    [ping(), window_update(1), settings_ack(), frame(0x20), frame(HEADERS, END_HEADERS | END_STREAM, 1, BLOCK)],
)
def test_settings_come_first(first: bytes) -> None:
    server = Server()
    client = Http2Client(server, greets=False).send(PREFACE + first)
    client.assert_ended(PROTOCOL_ERROR, 0)
    assert not server.requests


# --- what ends the connection ---------------------------------------------------------------------------------------------

_CONNECTION_FAULTS: dict[str, tuple[bytes, int]] = {
    # 4.2, 4.3
    "4.2 DATA too large": (OPEN + frame(DATA, 0, 1, b"x" * 16_385), FRAME_SIZE_ERROR),
    "4.2 HEADERS too large": (frame(HEADERS, END_HEADERS, 1, b"x" * 16_385), FRAME_SIZE_ERROR),
    "4.2 unknown too large": (frame(0x20, 0, 0, b"x" * 16_385), FRAME_SIZE_ERROR),
    "4.2 largest there is, cut short": (frame(PING, 0, 0, b"x", length=2**24 - 1), FRAME_SIZE_ERROR),
    "4.3 PRIORITY in a block": (
        frame(HEADERS, END_STREAM, 1, BLOCK[:5]) + frame(PRIORITY, 0, 1, bytes(5)), PROTOCOL_ERROR,
    ),
    "4.3 HEADERS of another in a block": (
        frame(HEADERS, END_STREAM, 1, BLOCK[:5]) + frame(HEADERS, END_HEADERS | END_STREAM, 3, BLOCK), PROTOCOL_ERROR,
    ),
    "5.5 unknown in a block": (frame(HEADERS, END_STREAM, 1, BLOCK[:5]) + frame(0x20, 0, 0, b"x"), PROTOCOL_ERROR),
    # 5.1.1
    "5.1.1 even": (frame(HEADERS, END_HEADERS | END_STREAM, 2, BLOCK), PROTOCOL_ERROR),
    # 6.1
    "6.1 DATA of nothing": (data_frame(0, b"x"), PROTOCOL_ERROR),
    "6.1 DATA padded beyond": (OPEN + frame(DATA, PADDED, 1, b"\x05xxxx"), PROTOCOL_ERROR),
    "6.1 DATA padded without a length": (OPEN + frame(DATA, PADDED, 1), FRAME_SIZE_ERROR),
    # 6.2
    "6.2 HEADERS of nothing": (frame(HEADERS, END_HEADERS | END_STREAM, 0, BLOCK), PROTOCOL_ERROR),
    "6.2 HEADERS padded beyond": (
        frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, bytes([len(BLOCK) + 1]) + BLOCK), PROTOCOL_ERROR,
    ),
    "6.2 HEADERS padded without a length": (frame(HEADERS, END_HEADERS | PADDED, 1), FRAME_SIZE_ERROR),
    "6.2 HEADERS without their priority": (frame(HEADERS, END_HEADERS | HAS_PRIORITY, 1, b"1234"), FRAME_SIZE_ERROR),
    "6.2 HEADERS padded without their priority": (
        frame(HEADERS, END_HEADERS | HAS_PRIORITY | PADDED, 1, b"\x001234"), FRAME_SIZE_ERROR,
    ),
    "6.2 HEADERS padded over their priority": (
        frame(HEADERS, END_HEADERS | HAS_PRIORITY | PADDED, 1, b"\x0112345"), PROTOCOL_ERROR,
    ),
    # 6.3
    "6.3 PRIORITY of another size and of an idle stream": (frame(PRIORITY, 0, 9, bytes(6)), FRAME_SIZE_ERROR),
    "6.3 PRIORITY of nothing": (frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL_ERROR),
    "5.3.1 PRIORITY of itself": (frame(PRIORITY, 0, 1, b"\0\0\0\x01\x10"), PROTOCOL_ERROR),
    "5.3.1 exclusive PRIORITY of itself": (frame(PRIORITY, 0, 1, b"\x80\0\0\x01\x10"), PROTOCOL_ERROR),
    # 6.4
    "6.4 RST_STREAM of nothing": (rst_stream(0), PROTOCOL_ERROR),
    "6.4 RST_STREAM of an idle stream": (rst_stream(1), PROTOCOL_ERROR),
    "6.4 RST_STREAM of an even stream": (rst_stream(2), PROTOCOL_ERROR),
    "6.4 RST_STREAM too short": (OPEN + frame(RST_STREAM, 0, 1, bytes(3)), FRAME_SIZE_ERROR),
    "6.4 RST_STREAM too long": (OPEN + frame(RST_STREAM, 0, 1, bytes(5)), FRAME_SIZE_ERROR),
    # 6.5
    "6.5 SETTINGS ack with something": (frame(SETTINGS, 1, 0, bytes(6)), FRAME_SIZE_ERROR),
    "6.5 SETTINGS of a stream": (frame(SETTINGS, 0, 1, bytes(6)), PROTOCOL_ERROR),
    "6.5 SETTINGS of another size": (frame(SETTINGS, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    "6.5 SETTINGS of half a setting": (frame(SETTINGS, 0, 0, bytes(9)), FRAME_SIZE_ERROR),
    "6.5.2 push neither": (settings_frame({ENABLE_PUSH: 2}), PROTOCOL_ERROR),
    "6.5.2 connect neither": (settings_frame({ENABLE_CONNECT_PROTOCOL: 2}), PROTOCOL_ERROR),
    "9218 priorities neither": (settings_frame({9: 2}), PROTOCOL_ERROR),
    "6.5.2 window too large": (settings_frame({INITIAL_WINDOW_SIZE: 2**31}), FLOW_CONTROL_ERROR),
    "6.5.2 frames too small": (settings_frame({MAX_FRAME_SIZE: 2**14 - 1}), PROTOCOL_ERROR),
    "6.5.2 frames too large": (settings_frame({MAX_FRAME_SIZE: 2**24}), PROTOCOL_ERROR),
    # 6.6
    "6.6 PUSH_PROMISE": (OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + BLOCK), PROTOCOL_ERROR),
    # 6.7
    "6.7 PING of a stream": (frame(PING, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "6.7 PING too short": (frame(PING, 0, 0, bytes(6)), FRAME_SIZE_ERROR),
    "6.7 PING ack too long": (frame(PING, 1, 0, bytes(9)), FRAME_SIZE_ERROR),
    # 6.8
    "6.8 GOAWAY of a stream": (frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL_ERROR),
    "6.8 GOAWAY too short": (frame(GOAWAY, 0, 0, bytes(7)), FRAME_SIZE_ERROR),
    # 6.9
    "6.9 WINDOW_UPDATE of nothing": (window_update(0), PROTOCOL_ERROR),
    "6.9 WINDOW_UPDATE too short": (frame(WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of a stream, too long": (OPEN + frame(WINDOW_UPDATE, 0, 1, bytes(5)), FRAME_SIZE_ERROR),
    "6.9 WINDOW_UPDATE of an idle stream": (window_update(1, 1), PROTOCOL_ERROR),
    "6.9 WINDOW_UPDATE of an even stream": (window_update(1, 2), PROTOCOL_ERROR),
    "6.9.1 connection's window too large": (window_update(2**31 - WINDOW), FLOW_CONTROL_ERROR),
    "6.9.1 in two steps": (window_update(2**31 - 1 - WINDOW) + window_update(1), FLOW_CONTROL_ERROR),
    "6.9.2 streams' windows too large": (
        OPEN + window_update(2**31 - 1 - WINDOW, 1) + settings_frame({INITIAL_WINDOW_SIZE: WINDOW + 1}),
        FLOW_CONTROL_ERROR,
    ),
    # 6.10
    "6.10 CONTINUATION of nothing": (frame(CONTINUATION, END_HEADERS, 0, BLOCK), PROTOCOL_ERROR),
    "6.10 CONTINUATION alone": (frame(CONTINUATION, END_HEADERS, 1, BLOCK), PROTOCOL_ERROR),
    "6.10 CONTINUATION behind the end": (OPEN + frame(CONTINUATION, END_HEADERS, 1, BLOCK), PROTOCOL_ERROR),
    "6.10 CONTINUATION behind DATA": (
        OPEN + data_frame(1, b"x") + frame(CONTINUATION, END_HEADERS, 1, BLOCK), PROTOCOL_ERROR,
    ),
    "6.10 CONTINUATION of another": (
        frame(HEADERS, END_STREAM, 1, BLOCK[:5]) + frame(CONTINUATION, END_HEADERS, 3, BLOCK[5:]), PROTOCOL_ERROR,
    ),
    "6.10 DATA in a block": (frame(HEADERS, 0, 1, BLOCK[:5]) + data_frame(1, b"x"), PROTOCOL_ERROR),
    # 5.1: idle
    "5.1 DATA of an idle stream": (data_frame(1, b"x"), PROTOCOL_ERROR),
    "5.1 DATA of an even stream": (data_frame(2, b"x"), PROTOCOL_ERROR),
}  # fmt: skip


@pytest.mark.parametrize(("wire", "code"), _CONNECTION_FAULTS.values(), ids=_CONNECTION_FAULTS)
def test_fault_of_a_connection_ends_it(wire: bytes, code: int) -> None:
    server = wanting()
    client = Http2Client(server)
    with logged_failures() as failures:
        client.send(wire)
        assert client.goaway is not None
        client.send(ping())
        client.assert_ended(code, 1 if wire.startswith(OPEN) else 0)
    assert not failures
    assert not client.of(PING)
    assert all(request.ended and request.reason == "CLIENT_GONE" for request in server.requests)
    assert client.log[-1].debug


@pytest.mark.parametrize("whole", [True, False])
def test_head_whose_stream_depends_on_itself_ends_the_connection(whole: bool) -> None:
    client = Http2Client(wanting())
    flags = END_STREAM | HAS_PRIORITY | (END_HEADERS if whole else 0)
    client.send(frame(HEADERS, flags, 1, b"\0\0\0\x01\x10" + BLOCK))
    client.assert_ended(PROTOCOL_ERROR, 1 if whole else 0)


def test_connection_that_ended_waits_for_its_client_a_little_and_reads_a_little() -> None:
    server = answering()
    client = Http2Client(server).send(frame(PING))
    assert client.transport.half_closed
    assert not client.transport.aborted
    server.wait(LINGER_S - 0.2)
    assert not client.transport.closed
    server.wait(0.5)
    assert client.transport.closed
    assert not server.factory.connections
    client = Http2Client(server).send(frame(PING))
    client.transport.send(bytes(LINGER_BYTES))
    assert not client.transport.aborted
    client.send(b"x")
    assert client.transport.closed


def test_client_that_closes_after_goaway_ends_it_at_once() -> None:
    server = answering()
    client = Http2Client(server).send(frame(PING))
    client.transport.end()
    assert client.transport.closed
    assert not server.factory.connections
    server.wait(10)
    assert not server.wheel._fine
    assert not server.wheel._coarse


def test_fault_in_what_serves_requests_ends_the_connection_and_no_more() -> None:
    def serve(request: Any) -> None:
        raise ValueError

    client = Http2Client(Server(serve))
    with logged_failures() as failures:
        client.request(1)
    assert len(failures) == 1
    client.assert_ended(2, 1)


# --- what is ignored, or answered -------------------------------------------------------------------------------------------

_HARMLESS: dict[str, bytes] = {
    "4.1 unknown type": frame(0x16, 0xFF, 0, b"whatever") + frame(0xFF, 0, 1, b""),
    "4.1 unknown flags": frame(PING, 0x16 & ~1, 0, bytes(8)) + frame(SETTINGS, 0xFE),
    "4.1 reserved bit": frame(PING, 0, 2**31, bytes(8)) + frame(WINDOW_UPDATE, 0, 2**31, b"\x80\0\0\x01"),
    "5.3 PRIORITY of an idle stream": frame(PRIORITY, 0, 5, bytes(5)),
    "6.5.2 unknown setting": settings_frame({0x16: 2**32 - 1}),
    "6.5.2 least and most": settings_frame(
        [(HEADER_TABLE_SIZE, 2**32 - 1), (ENABLE_PUSH, 0), (ENABLE_PUSH, 1), (MAX_CONCURRENT_STREAMS, 0),
         (INITIAL_WINDOW_SIZE, 2**31 - 1), (MAX_FRAME_SIZE, 2**14), (MAX_FRAME_SIZE, 2**24 - 1),
         (MAX_HEADER_LIST_SIZE, 0), (ENABLE_CONNECT_PROTOCOL, 0)]
    ),
    "6.5 ack that nobody waits for": settings_ack() * 2,
    "6.7 ack that nobody waits for": ping(is_ack=True),
    "6.9 largest window": window_update(2**31 - 1 - WINDOW),
}  # fmt: skip


@pytest.mark.parametrize("wire", _HARMLESS.values(), ids=_HARMLESS)
def test_harmless_frames_change_nothing(wire: bytes) -> None:
    client = Http2Client(answering())
    client.send(wire, ping(b"sentinel"))
    client.request(7)
    assert client.status(7) == 200
    assert client.has_ended(7)
    assert [one.payload for one in client.of(PING)][-1] == b"sentinel"
    assert client.is_open


def test_ping_is_answered_with_the_same_bytes_and_an_answer_is_not() -> None:
    client = Http2Client(Server()).send(ping(b"abcdefgh") + ping(b"ABCDEFGH", is_ack=True) + ping(b"12345678"))
    assert [(one.payload, one.is_ack) for one in client.look()] == [(b"abcdefgh", True), (b"12345678", True)]


def test_each_settings_is_acknowledged_once_and_after_it_is_applied() -> None:
    server = Server()
    client = Http2Client(server, {INITIAL_WINDOW_SIZE: 0}).request(1)
    server.request.answer(200, [], b"ok")
    assert not client.body()
    client.send(settings_frame({INITIAL_WINDOW_SIZE: 1}) + settings_frame({INITIAL_WINDOW_SIZE: 2}))
    assert [(one.kind, one.flags, one.payload) for one in client.look()] == [
        (SETTINGS, 1, b""),
        (SETTINGS, 1, b""),
        (DATA, 1, b"ok"),
    ]


def test_settings_apply_in_order_and_the_last_counts() -> None:
    server = answering()
    Http2Client(server, [(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)])
    client = Http2Client(server, [(INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)]).request(1)
    assert client.body() == b"o"


@pytest.mark.parametrize("size", [0, 100, 4096, 2**32 - 1])
def test_table_of_the_client_is_kept_to(size: int) -> None:
    server = Server(lambda request: request.answer(200, [(b"x-a", b"X-A", b"1" * 50)], b""))
    client = Http2Client(server, {HEADER_TABLE_SIZE: size})
    client.decoder.max_allowed_table_size = min(size, 4096)
    for stream in (1, 3, 5):
        assert client.request(stream).head(stream)[b"x-a"] == b"1" * 50
    client.send(settings_frame([(HEADER_TABLE_SIZE, 0), (HEADER_TABLE_SIZE, 4096)]))
    client.request(7)
    assert client.of(HEADERS, 7)[0].payload[0] & 0xE0 == 0x20  # RFC 7541 section 4.2: the table was emptied
    assert client.head(7)[b"x-a"] == b"1" * 50
