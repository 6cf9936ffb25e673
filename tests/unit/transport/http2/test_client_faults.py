"""Faults of a target that speaks HTTP/2, or does not: they end the connection, and all that is under way on it."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import frames_in
from tests.helpers.http2_target import Http2Target, failure, raw_headers
from tests.helpers.upstream import RecordingHandler
from tests.integration import h2_frames
from tests.integration.h2_frames import (
    ENABLE_PUSH,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    data_frame,
    frame,
    rst_stream,
    settings_frame,
    window_update,
)
from tests.unit.support import logged_failures

from txgateway.errors import UpstreamProtocolError
from txgateway.transport.http2.floods import EMPTY_FRAMES

STATUS = (b":status", b"200")


def push_promise(stream: int) -> bytes:
    block = h2_frames.literal_block([(b":method", b"GET"), (b":path", b"/"), (b":scheme", b"http")])
    return frame(h2_frames.PUSH_PROMISE, h2_frames.END_HEADERS, stream, (2).to_bytes(4, "big") + block)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(push_promise(1), PROTOCOL_ERROR, id="push"),
        pytest.param(settings_frame({ENABLE_PUSH: 1}), PROTOCOL_ERROR, id="push announced"),
        pytest.param(raw_headers(2, [STATUS]), PROTOCOL_ERROR, id="stream of its own"),
        pytest.param(raw_headers(5, [STATUS]), PROTOCOL_ERROR, id="stream that is to come"),
        pytest.param(data_frame(5, b"x"), PROTOCOL_ERROR, id="data of a stream that is to come"),
        pytest.param(rst_stream(5), PROTOCOL_ERROR, id="reset of a stream that is to come"),
        pytest.param(window_update(1, 5), PROTOCOL_ERROR, id="window of a stream that is to come"),
        pytest.param(data_frame(0, b"x"), PROTOCOL_ERROR, id="data of no stream"),
        pytest.param(window_update(0), PROTOCOL_ERROR, id="no room"),
        pytest.param(window_update(2**31 - 1), FLOW_CONTROL_ERROR, id="too much room"),
        pytest.param(settings_frame({4: 2**31}), FLOW_CONTROL_ERROR, id="too large a window"),
        pytest.param(frame(h2_frames.DATA, length=16385), FRAME_SIZE_ERROR, id="large frame"),
        pytest.param(frame(h2_frames.HEADERS, 0, 1, b"") + data_frame(1), PROTOCOL_ERROR, id="interrupted head"),
        pytest.param(frame(h2_frames.HEADERS, 4, 1, b"\xff\xff\xff"), h2_frames.COMPRESSION_ERROR, id="bad block"),
        pytest.param(h2_frames.ping() * (EMPTY_FRAMES + 1), ENHANCE_YOUR_CALM, id="flood"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", FRAME_SIZE_ERROR, id="another protocol"),
    ],
)
def test_fault_ends_the_connection_and_all_on_it(frames: bytes, code: int) -> None:
    target = Http2Target()
    exchange, other = target.request(), target.request()
    target.transport.send(frames)
    target.clock.pump([0.0] * 5)  # a flood takes several turns
    sent = [one for one in frames_in(target.transport.received()) if one.kind == h2_frames.GOAWAY]
    assert [one.error_code for one in sent] == [code]
    assert failure(exchange) == (UpstreamProtocolError, True, False, False)
    assert failure(other) == (UpstreamProtocolError, True, False, False)
    assert [type(error) for error in target.owner.errors] == [UpstreamProtocolError]
    assert target.closed
    target.clock.advance(10)
    assert not target.wheel._fine


def test_headers_of_a_stream_that_has_ended_end_the_connection() -> None:
    target = Http2Target()
    target.request().answer()
    target.transport.send(raw_headers(1, [STATUS]))
    (one,) = frames_in(target.transport.received())
    assert (one.kind, one.error_code) == (h2_frames.GOAWAY, STREAM_CLOSED)


@pytest.mark.parametrize(
    "greeting",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", id="HTTP/1.1"),
        pytest.param(b"220 mail.test ESMTP\r\n", id="mail"),
        pytest.param(h2_frames.ping(), id="no settings"),
        pytest.param(h2_frames.settings_ack(), id="an acknowledgement"),
    ],
)
def test_what_does_not_begin_with_settings_is_not_http2(greeting: bytes) -> None:
    target = Http2Target(greets=False)
    target.transport.send(greeting)
    target.clock.advance(0)
    assert target.owner.ready == 0
    assert [type(error) for error in target.owner.errors] == [UpstreamProtocolError]
    assert str(target.owner.errors[0]).startswith("not HTTP/2")
    assert target.closed


def test_handler_that_raises_ends_the_connection() -> None:
    class Broken(RecordingHandler):
        def on_head(self, *arguments: object) -> None:
            raise RuntimeError("boom")

    target = Http2Target()
    broken, sibling = target.request(handler=Broken()), target.request()
    with logged_failures() as events:
        broken.head(200)
    assert len(events) == 1
    assert sibling.handler.names == ["failed"]
    assert target.closed
