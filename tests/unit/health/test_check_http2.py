"""Checks of targets that speak HTTP/2, in virtual time."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from tests.helpers.http2_target import Http2Target
from tests.integration.h2_frames import (
    CANCEL,
    HTTP_1_1_REQUIRED,
    INTERNAL_ERROR,
    MAX_CONCURRENT_STREAMS,
    PREFACE,
    REFUSED_STREAM,
    goaway,
)
from tests.unit.health.checked import STEP_S, Case, CheckedDialer

from txgateway.config.groups import Pool
from txgateway.errors import UpstreamConnectFailed
from txgateway.health.check import MAX_BODY_BYTES
from txgateway.proxy.breaker import CircuitBreaker
from txgateway.proxy.multiplexed_pool import MultiplexedPool
from txgateway.proxy.target import Target


class Http2CheckedDialer(CheckedDialer):
    """Its connections speak HTTP/2."""

    case: Http2Case

    def finish(self, receiver: Any) -> None:
        if self.error is not None:
            receiver.dial_failed(self.error)
            return
        far = Http2Target(self.clock, self.case.wheel, greets=False, settings=self.case.announced)
        self.case.far.append(far)
        receiver.dialed(far.connection)


class Http2Case(Case):
    """A backend with one target.

    Attributes:
        far: the checks' connections.
        announced: settings of the target.
        http1_dialer: makes connections that speak HTTP/1.1.
    """

    kind = Http2CheckedDialer

    def __init__(self, **check: Any) -> None:
        self.far: list[Http2Target] = []
        self.announced: dict[int, int] = {}
        super().__init__(**{"fall": 1, "interval_s": 4, "timeout_s": 2, **check})
        self.http1_dialer = CheckedDialer(self.clock)

    def make(self, name: str) -> Target:
        dialer = Http2CheckedDialer(self.clock)
        dialer.case = self
        self.dialers.append(dialer)
        pool = MultiplexedPool(name, dialer, self.clock, self.wheel, Pool())
        breaker = CircuitBreaker(self.settings.breaker, Random(1))
        return Target(f"{name}:81", f"{name}:81".encode(), 1, pool, dialer, breaker, scheme="h2c")

    def begin(self) -> Http2Target:
        """Begin with the first check; returns its connection, of which the target has seen nothing."""
        self.start()
        (far,) = self.far
        return far

    def ask(self) -> Http2Target:
        """Begin with the first check, and let the target see it."""
        far = self.begin()
        far.turn()
        return far

    def result(self) -> tuple[str, str]:
        """Health and reason, when nothing else of the check is left."""
        ((_, health, why),) = self.backend.told
        self.checks.stop()
        for far in self.far:
            far.turn()
            assert far.closed
        assert not self.wheel._fine
        assert not self.wheel._coarse
        self.clock.advance(STEP_S)
        assert self.clock.getDelayedCalls() == []
        return health.value, why


def respond(far: Http2Target, *fields: tuple[str, str], status: str = "200", body: bytes = b"ok") -> None:
    far.link.send_headers(1, [(":status", status), *fields], ends=not body)
    if body:
        far.link.connection.send_data(1, body, end_stream=True)
    far.turn()


# --- a request ------------------------------------------------------------------------------------------------------------


def test_request_and_answer() -> None:
    case = Http2Case(path="/well")
    far = case.ask()
    (seen,) = far.requests.values()
    assert seen.pseudo == {":method": "GET", ":scheme": "http", ":authority": "t0:81", ":path": "/well"}
    assert seen.ordinary == [("user-agent", "txgateway-health")]
    assert seen.ended
    respond(far)
    assert case.result() == ("healthy", "status 200")
    assert not far.transport.aborted
    assert [one.code for one in far.link.goaways] == [0]


@pytest.mark.parametrize("status", ["404", "503"])
def test_status_that_is_not_expected(status: str) -> None:
    case = Http2Case(path="/well")
    respond(case.ask(), status=status)
    assert case.result() == ("unhealthy", f"status {status}")


def test_more_than_is_read() -> None:
    case = Http2Case(path="/well")
    far = case.ask()
    far.link.send_headers(1, [(":status", "200")])
    for _ in range(MAX_BODY_BYTES // 16384 + 1):
        far.link.connection.send_data(1, b"x" * 16384)
    far.turn()
    far.turn()
    assert far.requests[1].reset == CANCEL
    assert case.result() == ("healthy", "status 200")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (INTERNAL_ERROR, "connection closed before the response was complete"),
        (REFUSED_STREAM, "connection closed before the response was complete"),
    ],
)
def test_stream_that_is_reset(code: int, why: str) -> None:
    case = Http2Case(path="/well")
    far = case.ask()
    far.link.connection.reset_stream(1, code)
    far.turn()
    assert case.result() == ("unhealthy", why)


@pytest.mark.parametrize("last", [None, 0])
def test_target_that_requires_http1_is_asked_over_that(last: int | None) -> None:
    case = Http2Case(path="/well")
    (target,) = case.backend.targets
    target.scheme, target.tunnel_dialer = "https", case.http1_dialer
    far = case.ask()
    if last is None:
        far.link.connection.reset_stream(1, HTTP_1_1_REQUIRED)
        far.turn()
    else:
        far.raw(goaway(last, HTTP_1_1_REQUIRED))
    near = case.http1_dialer.target
    assert near.received().startswith(b"GET /well HTTP/1.1\r\n")
    near.answer()
    assert case.result() == ("healthy", "status 200")
    assert near.closed


def test_refused_check_is_not_repeated() -> None:
    case = Http2Case(path="/well")
    (target,) = case.backend.targets
    target.scheme, target.tunnel_dialer = "https", case.http1_dialer
    far = case.ask()
    far.link.connection.reset_stream(1, REFUSED_STREAM)
    far.turn()
    assert case.http1_dialer.targets == []
    assert case.result()[0] == "unhealthy"


def test_target_that_cannot_require_http1() -> None:
    case = Http2Case(path="/well")
    far = case.ask()
    far.link.connection.reset_stream(1, HTTP_1_1_REQUIRED)
    far.turn()
    assert case.result()[0] == "unhealthy"


def test_target_that_speaks_http1() -> None:
    case = Http2Case(path="/well")
    case.begin().transport.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    case.clock.advance(0)
    ((_, health, why),) = case.backend.told
    assert (health.value, why) == ("unhealthy", "invalid response")


def test_target_that_goes_away() -> None:
    case = Http2Case(path="/well")
    far = case.ask()
    far.raw(goaway(0))
    assert case.result()[0] == "unhealthy"


def test_target_that_takes_no_streams_says_nothing_of_itself() -> None:
    case = Http2Case(path="/well")
    case.announced = {MAX_CONCURRENT_STREAMS: 0}
    case.ask()
    assert case.backend.told == []
    case.checks.stop()


@pytest.mark.parametrize("greets", [True, False])
def test_target_that_does_not_answer_in_time(greets: bool) -> None:
    case = Http2Case(path="/well")
    far = case.begin()
    if greets:
        far.turn()
    case.wait(2)
    assert case.health == ["unhealthy"]
    assert case.whys == ["timeout after 2 s"]
    case.checks.stop()
    case.clock.advance(0)
    assert far.closed


# --- a connection -----------------------------------------------------------------------------------------------------------


def test_connection_is_enough() -> None:
    case = Http2Case()
    far = case.begin()
    ((_, health, why),) = case.backend.told
    assert (health.value, why) == ("healthy", "connected")
    case.checks.stop()
    assert far.transport.taken.startswith(PREFACE)
    far.turn()
    assert far.closed
    assert far.link.goaways
    assert not case.wheel._fine
    assert not case.wheel._coarse


def test_connection_that_is_not_made() -> None:
    case = Http2Case()
    case.fail_with(UpstreamConnectFailed("refused"))
    case.start()
    assert case.health == ["unhealthy"]
