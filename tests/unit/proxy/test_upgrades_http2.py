"""WebSockets of HTTP/2 clients to HTTP/1.1 targets: the key is the gateway's, and so is the check of its answer."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.helpers.http2_client import Http2Client
from tests.integration.h2_frames import DATA, data_frame
from tests.unit.support import MemoryGateway

from txgateway.transport.websocket import websocket_accept

ASKS = (
    (b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":authority", b"a"),
    (b":path", b"/chat"), (b"sec-websocket-version", b"13"),
)  # fmt: skip


class Case:
    """A client that has asked for a WebSocket, of which the target knows."""

    def __init__(self) -> None:
        self.gateway = MemoryGateway(
            None,
            {
                "backends": {"b": {"targets": ["http://target"]}},
                "routes": [{"name": "r", "path": "/", "backend": "b", "upgrades": ["websocket"]}],
            },
        )
        server: Any = self.gateway  # has the same clock and factory
        self.client = Http2Client(server)
        self.client.request(1, ASKS, ends=False)
        self.gateway.clock.advance(0)
        self.asked = self.gateway.target.received()
        found = re.search(rb"\r\nSec-WebSocket-Key: ([^\r]*)\r\n", self.asked)
        assert found is not None
        self.key = found[1]

    def switch(self, *accepts: bytes) -> None:
        lines = [b"HTTP/1.1 101 Switching Protocols", b"Connection: Upgrade", b"Upgrade: websocket"]
        lines += [b"Sec-WebSocket-Accept: " + accept for accept in accepts]
        self.gateway.target.send(b"\r\n".join([*lines, b"", b""]))
        self.gateway.clock.advance(0)


def test_keys_are_fresh() -> None:
    assert Case().key != Case().key


def test_right_answer_opens_the_tunnel() -> None:
    case = Case()
    assert case.asked.startswith(b"GET /chat HTTP/1.1\r\n")
    case.switch(websocket_accept(case.key))
    assert case.client.status() == 200
    assert b"sec-websocket-accept" not in case.client.head()
    case.client.send(data_frame(1, b"\x81\x83\0\0\0\0one"))
    assert case.gateway.target.received() == b"\x81\x83\0\0\0\0one"
    case.gateway.target.send(b"\x81\x03two")
    assert [one.payload for one in case.client.of(DATA, 1)] == [b"\x81\x03two"]


@pytest.mark.parametrize(
    "accepts",
    [
        pytest.param([], id="none"),
        pytest.param([b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="], id="of another key"),
        pytest.param([b"right", b"right"], id="twice"),
        pytest.param([b""], id="empty"),
    ],
)
def test_wrong_answer_is_an_invalid_response(accepts: list[bytes]) -> None:
    case = Case()
    right = websocket_accept(case.key)
    case.switch(*[right if accept == b"right" else accept for accept in accepts])
    assert case.client.status() == 502
    assert case.gateway.log[-1].reason == "UPSTREAM_PROTOCOL_ERROR"
    assert case.gateway.target.closed
    case.gateway.assert_clean()
