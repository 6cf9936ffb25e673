"""A gateway that is told to stop, or not to speak HTTP/2, in all four combinations of versions."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration import h2_frames as h2
from tests.integration.client import Client
from tests.integration.combinations import COMBINATIONS, Combination, World
from tests.integration.combined_client import H2Caller
from tests.integration.combined_target import Served
from tests.integration.h2_frames import FrameWire, connected
from tests.integration.harness import wait_until


@pytest.fixture(params=COMBINATIONS)
def stopping(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Combination]:
    """A gateway of its own, which is to be stopped."""
    with ExitStack() as stack:
        made = Combination(World(tmp_path, stack, GATEWAY_DRAIN_TIMEOUT="10s"), request.param)
        yield made
        made.close()


@pytest.fixture
def stop(stopping: Combination) -> Callable[[], None]:
    """Send the signal, and wait until no further connection is taken."""

    def send() -> None:
        os.kill(stopping.gateway.pid, signal.SIGTERM)
        wait_until(lambda: stopping.gateway.admin("/health/ready").status == 503, "readiness says no")

    return send


def test_request_under_way_is_finished(stopping: Combination, stop: Callable[[], None]) -> None:
    path, caller = stopping.path(), stopping.caller()
    idle = stopping.caller()
    call = caller.open("POST", path, length=None)
    call.send(b"one")
    served = stopping.target.next()
    assert served.read(3) == b"one"
    stop()
    assert idle.is_gone()
    call.send(b"two")  # even of the request there is more to come
    call.end(("X-Sum", "1"))
    assert served.rest() == b"onetwo"
    served.head(200)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    served.send(b"def")
    served.end(("X-Sum", "2"))
    response = call.response()
    assert (response.body, response.trailers[0][1]) == (b"abcdef", "2")
    if isinstance(caller, H2Caller):
        assert caller.client.goaway().code == h2.NO_ERROR
    else:
        assert response.header("Connection") == "close"
    assert caller.is_gone()
    caller.close()
    assert stopping.gateway.stop() == 0
    line = stopping.line(path)
    assert (line["status"], line["reason"]) == (200, None)


def test_tunnel_is_ended_by_its_ends(stopping: Combination, stop: Callable[[], None]) -> None:
    """Of a WebSocket the client is told, and then it is up to both."""
    caller = stopping.caller()
    call = caller.upgrade(path := stopping.path("ws"))
    served = stopping.target.next()
    served.switch()
    assert call.head().status in {101, 200}
    stop()
    assert call.read(4) == b"\x88\x02\x03\xe9"  # Close: 1001, going away
    call.send(b"\x88\x82\0\0\0\0\x03\xe9")
    assert served.read(8) == b"\x88\x82\0\0\0\0\x03\xe9"
    call.end()
    served.rest()
    assert caller.is_gone()
    caller.close()
    assert stopping.gateway.stop() == 0
    assert stopping.line(path)["status"] == 101


@pytest.mark.parametrize("stopping", ["h2-h1", "h2-h2"], indirect=True)
def test_goaway_comes_in_two_steps_and_later_streams_are_refused(
    stopping: Combination, stop: Callable[[], None]
) -> None:
    """So that no request is lost which the client sent before it knew (RFC 9113 section 6.8)."""
    with FrameWire(connected(stopping.gateway.port)) as wire:
        wire.greet()
        wire.send_request(1, "GET", stopping.path())
        first = stopping.target.next()
        stop()
        begin = wire.read_goaway()
        assert (begin.last_stream, begin.error_code) == (h2.LARGEST_STREAM, h2.NO_ERROR)
        wire.send_request(3, "GET", stopping.path())  # the client did not know
        second = stopping.target.next()
        farewell = wire.read_kind(h2.PING)
        assert not farewell.is_ack
        wire.send(h2.ping(farewell.payload, is_ack=True))
        end = wire.read_goaway()
        assert (end.last_stream, end.error_code) == (3, h2.NO_ERROR)
        wire.send_request(5, "GET", stopping.path())  # and now it should
        assert wire.read_reset(5) == h2.REFUSED_STREAM
        second.answer(b"second")
        assert wire.read_response(3).body == b"second"
        first.answer(b"first")
        assert wire.read_response(1).body == b"first"
        assert wire.is_gone()
    assert not stopping.target.has_next()
    assert stopping.gateway.stop() == 0


def test_what_does_not_end_in_time_is_refused_or_cut(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = World(tmp_path, stack, GATEWAY_DRAIN_TIMEOUT="200ms")
        combinations = [Combination(world, name) for name in COMBINATIONS]
        begun, waiting = [], []
        for combination in combinations:
            stack.callback(combination.close)
            begun.append(call := combination.caller().open("GET", combination.path()))
            combination.target.next().head(200)
            assert call.head().status == 200
            waiting.append(combination.caller().open("GET", combination.path()))
            combination.target.next()
        os.kill(world.gateway.pid, signal.SIGTERM)
        for call in waiting:
            response = call.response()
            assert (response.status, response.json()["reason"]) == (503, "DRAINING")
        assert all(call.is_cut() for call in begun)
        assert world.gateway.stop() == 0
        (cut,) = [line for line in world.gateway.lines if line["event"] == "cut off"]
        assert cut["count"] == 2 * len(COMBINATIONS)


# --- not spoken ----------------------------------------------------------------------------------------------------------


def test_http2_that_is_switched_off_is_not_spoken(tmp_path: Path) -> None:
    """Its preface is a request like any other that cannot be; targets may speak it all the same."""
    with ExitStack() as stack:
        world = World(tmp_path, stack, GATEWAY_HTTP2="false")
        with Client(world.gateway.port) as client:
            client.send(h2.PREFACE + h2.settings_frame())
            response = client.read_response()
            assert (response.status, response.header("Connection")) in [(400, "close"), (505, "close")]
            assert client.is_gone()
        assert world.gateway.metric("gateway_connections", protocol="h2") == 0
        for name in ("h1-h1", "h1-h2"):
            combination = Combination(world, name)
            combination.target.handler = Served.answer
            assert combination.caller().ask("POST", combination.path(), body=b"abc").body == b"ok"
            combination.close()
