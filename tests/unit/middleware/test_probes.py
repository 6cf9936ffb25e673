from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support import Inner, MemoryGateway, StubChannel, message, stub_request
from twisted.web.resource import Resource

from txgateway.middleware.probes import Probes


class Live(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"up"


@pytest.mark.parametrize("target", [b"/health/live", b"/health/live?x=1"])
def test_probe_is_answered_here(target: bytes) -> None:
    channel = StubChannel()
    inner = Inner()
    request = stub_request(target=target, channel=channel)
    Probes(inner, {b"/health/live": Live()}).render(request)
    assert channel.events[0][1] == 200
    assert channel.events[1] == ("body", b"up")
    assert (inner.requests, request.path) == ([], b"/health/live")


@pytest.mark.parametrize("target", [b"/health", b"/health/live/", b"/health/liver", b"/x?/health/live", b"*"])
def test_everything_else_goes_on(target: bytes) -> None:
    inner = Inner()
    request = stub_request(target=target)
    Probes(inner, {b"/health/live": Live()}).render(request)
    assert inner.requests == [request]


def test_probe_is_neither_logged_nor_counted_and_carries_an_id() -> None:
    gateway = MemoryGateway(probes={b"/health/live": Live()})
    client = gateway.connect().send(message(b"/health/live"))
    response = client.response()
    assert (response.status, response.body, response.get(b"x-request-id")) == (200, b"up", b"id-1")
    assert response.get(b"content-type") is None
    assert gateway.log == []
    assert gateway.dialer.targets == []
