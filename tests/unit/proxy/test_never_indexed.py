"""A field that no table may have (RFC 7541 section 6.2.3) stays one on its way through the gateway, both ways."""

from __future__ import annotations

import pytest
from tests.helpers.http2_client import GET, Http2Client
from tests.integration.h2_frames import END_HEADERS, END_STREAM, HEADERS, frame
from tests.unit.proxy.test_attempts_http2 import Http2Gateway

SECRET = b"\x10\x09x-api-key\x01s"
PLAIN = b"\x00\x09x-api-key\x01s"
ENDS = END_HEADERS | END_STREAM


def started() -> tuple[Http2Gateway, Http2Client]:
    """A gateway that has answered one request, so that all connections are open."""
    gateway = Http2Gateway()
    client = Http2Client(gateway)  # type: ignore[arg-type]
    client.request(1)
    gateway.turn()
    gateway.answer(0)
    client.look()
    assert client.body() == b"ok"
    return gateway, client


@pytest.mark.parametrize("times", [1, 3])
def test_of_a_request(times: int) -> None:
    gateway, client = started()
    (target,) = gateway.targets
    for number in range(times):
        for field, is_kept in ((PLAIN, False), (SECRET, True)):
            stream = 3 + 4 * number + 2 * is_kept
            client.send(frame(HEADERS, ENDS, stream, client.block(GET) + field))
            gateway.clock.advance(0)
            written = target.connection.transport.received()
            assert (SECRET in written) is is_kept
            assert (b"x-api-key" in written) is (is_kept or number == 0)  # the plain one is in the table by then


def test_of_a_response() -> None:
    gateway, client = started()
    (target,) = gateway.targets
    client.request(3)
    gateway.turn()
    target.raw(frame(HEADERS, ENDS, 3, b"\x88" + SECRET))
    gateway.turn()
    assert SECRET in client.transport.received()
