from __future__ import annotations

import re
from typing import Any

import pytest
from tests.unit.support import EPOCH_S, MemoryGateway, message

from txgateway.telemetry.access_log import AccessLog

ALL = {"GATEWAY_SERVER_TIMING": "all"}


def timing(response: Any) -> dict[str, float]:
    """What the header tells, in milliseconds."""
    value = response.get(b"server-timing")
    assert value is not None
    found = {}
    for part in value.decode().split(", "):
        match = re.fullmatch(r"([a-z]+);dur=([0-9]+\.[0-9]{3})", part)
        assert match, part
        found[match[1]] = float(match[2])
    return found


def test_upstream_and_gateway_share_the_time_until_the_head() -> None:
    gateway = MemoryGateway(ALL)
    client = gateway.get()
    gateway.clock.advance(0.25)
    gateway.target.answer()
    told = timing(client.response())
    assert told == {"gw": 0.0, "queue": 0.0, "connect": 0.0, "upstream": 250.0}
    (request,) = gateway.log
    assert request.phases == told
    assert request.upstream_s == 0.25


def test_connection_that_is_waited_for_is_told_apart_from_a_place_in_the_queue() -> None:
    gateway = MemoryGateway({**ALL, "GATEWAY_POOL_MAX_CONNECTIONS": "1"})
    gateway.dialer.holds = True
    first, second = gateway.get(), gateway.get()
    gateway.clock.advance(0.5)
    gateway.dialer.holds = False
    for receiver in gateway.dialer.waiting[:]:
        gateway.dialer.waiting.remove(receiver)
        gateway.dialer.finish(receiver)
    gateway.clock.advance(0.125)
    gateway.target.answer()
    assert timing(first.response()) == {"gw": 500.0, "queue": 0.0, "connect": 500.0, "upstream": 125.0}
    gateway.target.answer()
    assert timing(second.response()) == {"gw": 625.0, "queue": 625.0, "upstream": 0.0}


def test_wait_in_the_bulkhead_is_queue() -> None:
    gateway = MemoryGateway(
        {**ALL, "GATEWAY_BULKHEAD_MAX_CONCURRENT": "1", "GATEWAY_BULKHEAD_MAX_QUEUE": "1"},
    )
    first = gateway.get()
    second = gateway.get()
    gateway.clock.advance(0.5)
    gateway.target.answer()
    assert timing(first.response())["queue"] == 0.0
    gateway.clock.advance(0.25)
    gateway.target.answer()
    told = timing(second.response())
    assert (told["queue"], told["gw"], told["upstream"]) == (500.0, 500.0, 250.0)


def test_checks_have_their_phases_and_a_refusal_tells_how_far_it_came() -> None:
    gateway = MemoryGateway({**ALL, "GATEWAY_JWT_SECRET": "x" * 32, "GATEWAY_RATE_LIMIT": "1/h"})
    response = gateway.get().response()
    assert response.status == 401
    assert list(timing(response)) == ["gw", "auth", "limit"]
    response = gateway.get().response()
    assert response.status == 429
    assert list(timing(response)) == ["gw", "limit"]
    assert list(timing(gateway.get(b"/%00").response())) == ["gw"]


def test_off_is_off() -> None:
    gateway = MemoryGateway()
    client = gateway.get()
    gateway.target.answer()
    assert client.response().get(b"server-timing") is None
    assert gateway.log[0].phases is None


def test_trusted_are_told_and_others_are_measured() -> None:
    gateway = MemoryGateway({"GATEWAY_SERVER_TIMING": "trusted", "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8"})
    for peer, is_told in (("10.1.2.3", True), ("192.0.2.1", False)):
        client = gateway.get(peer=peer)
        gateway.target.answer()
        assert (client.response().get(b"server-timing") is not None) is is_told
        assert gateway.log[-1].phases is not None


def test_backends_own_line_stays() -> None:
    gateway = MemoryGateway(ALL)
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nServer-Timing: db;dur=3\r\nContent-Length: 0\r\n\r\n")
    lines = [value for name, value in client.response().fields if name.lower() == b"server-timing"]
    assert lines[0] == b"db;dur=3"
    assert lines[1].startswith(b"gw;dur=")


@pytest.mark.parametrize("mode", ["off", "all"])
def test_log_has_the_numbers_where_they_are_measured(mode: str) -> None:
    lines: list[bytes] = []

    class Sink:
        dropped = 0

        def put(self, data: bytes) -> None:
            lines.append(data)

    gateway = MemoryGateway({"GATEWAY_SERVER_TIMING": mode})
    log = AccessLog(Sink(), lambda: EPOCH_S, gateway.clock, "json")  # type: ignore[arg-type]
    client = gateway.connect().send(message(b"/"))
    gateway.clock.advance(0.25)
    gateway.target.answer()
    assert client.response().status == 200
    log.record(gateway.log[0])
    log.flush()
    assert (b'"timing":{' in lines[0]) is (mode == "all")
    assert (b'"upstream":250.0' in lines[0]) is (mode == "all")
