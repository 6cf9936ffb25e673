"""Windows for what clients send: at most a window waits, and only what was taken is credited."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import POST, Http2Client
from tests.integration.h2_frames import (
    DATA,
    FLOW_CONTROL_ERROR,
    PADDED,
    data_frame,
    frame,
    ping,
    window_update,
)
from tests.unit.support import Body, Server

from txgateway.transport.http2.server import CONNECTION_WINDOW, STREAM_WINDOW

WINDOW = 65_535


def opened(settings: dict[int, int] | None = None, streams: int = 1) -> tuple[Server, Http2Client]:
    server = Server()
    client = Http2Client(server, settings or {})
    for number in range(streams):
        client.request(2 * number + 1)
    return server, client


# --- what we receive --------------------------------------------------------------------------------------------------------------


def upload(size: int, piece: int = 16_384) -> list[bytes]:
    return [data_frame(1, bytes(min(piece, size - at))) for at in range(0, size, piece)]


def uploading() -> tuple[Server, Http2Client]:
    server, client = opened(streams=0)
    client.request(1, POST, ends=False)
    return server, client


def test_bytes_that_are_taken_are_credited_to_both_windows() -> None:
    server, client = uploading()
    body = Body()
    server.request.want_body(body)
    for _ in range(8):
        client.send(*upload(STREAM_WINDOW // 2))
    assert len(body.data) == 4 * STREAM_WINDOW
    for stream in (0, 1):
        first = CONNECTION_WINDOW - WINDOW if stream == 0 else 0
        assert client.credited(stream) - first == 4 * STREAM_WINDOW
    assert client.is_open


def test_bytes_that_wait_are_at_most_a_window_and_not_credited() -> None:
    server, client = uploading()
    client.send(*upload(STREAM_WINDOW))
    assert client.connection.streams[1]._held_bytes == STREAM_WINDOW
    assert client.credited() == CONNECTION_WINDOW - WINDOW
    assert not client.credited(1)
    client.request(3, POST, ends=False)
    other = Body()
    server.request.want_body(other)
    client.send(data_frame(3, b"passes", ends=True))
    assert other.data == b"passes"
    client.send(data_frame(1, b"x"))
    assert client.resets() == {1: FLOW_CONTROL_ERROR}
    assert server.requests[0].reason == "BAD_REQUEST"
    assert client.credited() - (CONNECTION_WINDOW - WINDOW) >= STREAM_WINDOW
    assert client.is_open


def test_only_what_was_delivered_is_credited() -> None:
    class Sipping(Body):
        def body_received(self, data: bytes) -> None:
            super().body_received(data)
            if len(self.data) >= STREAM_WINDOW // 2:
                request.pause_body()

    server, client = uploading()
    request = server.request
    client.send(*upload(STREAM_WINDOW))
    body = Sipping()
    request.want_body(body)
    assert len(body.data) == STREAM_WINDOW // 2
    assert client.credited(1) == STREAM_WINDOW // 2
    request.resume_body()
    assert len(body.data) == STREAM_WINDOW // 2 + 16_384
    assert client.credited(1) == STREAM_WINDOW // 2
    while len(body.data) < STREAM_WINDOW:
        request.resume_body()
    assert client.credited(1) == STREAM_WINDOW


@pytest.mark.parametrize("how", ["reset", "fault", "answer"])
def test_bytes_that_wait_go_back_to_the_connection_with_their_stream(how: str) -> None:
    server, client = uploading()
    client.send(*upload(STREAM_WINDOW))
    if how == "reset":
        client.send(frame(3, 0, 1, bytes(4)))
    elif how == "fault":
        client.send(window_update(0, 1))
    else:
        server.request.answer(200, [], b"")
    client.send(ping())
    assert client.credited() - (CONNECTION_WINDOW - WINDOW) == STREAM_WINDOW
    assert client.connection._receive_left == CONNECTION_WINDOW


def test_padding_is_credited_to_both_windows_at_once() -> None:
    _, client = uploading()
    for _ in range(STREAM_WINDOW // 2 // 250 + 1):
        client.send(frame(DATA, PADDED, 1, b"\xf9" + bytes(249)))
    assert client.credited(1) > STREAM_WINDOW // 2 - 250
    assert client.connection.streams[1]._held_bytes == 0


def test_more_than_the_connections_window_ends_the_connection() -> None:
    server = Server()
    client = Http2Client(server)
    for stream in (1, 3, 5, 7):
        client.request(stream, POST, ends=False)
        client.send(*[frame(DATA, 0, stream, bytes(16_384))] * (STREAM_WINDOW // 16_384))
    client.request(9, POST, ends=False)
    assert client.is_open
    client.send(data_frame(9, b"x"))
    client.assert_ended(FLOW_CONTROL_ERROR, 9)


def test_stream_whose_end_came_gets_no_more_window() -> None:
    server, client = uploading()
    client.send(*upload(STREAM_WINDOW - 1), data_frame(1, b"x", ends=True))
    body = Body()
    server.request.want_body(body)
    assert body.trailers == []
    assert not client.credited(1)
    assert client.credited() > CONNECTION_WINDOW - WINDOW
