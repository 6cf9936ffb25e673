"""When something is tried again, and how often in all."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from tests.unit.proxy.retrying import TICK_S, RetryingGateway, answered, problem
from tests.unit.support import EPOCH_S, MemoryClient, message

from txgateway.proxy.breaker import BreakerState

EXPECTED = b"X-Envoy-Expected-Rq-Timeout-Ms"


def retry_at(gateway: RetryingGateway, name: str = "two", limit_s: float = 100.0) -> float:
    """Seconds until the next connection to a target, to the millisecond; -1 if there is none."""
    before, dialer = gateway.clock.seconds(), gateway.dialer_of(name)
    dialed = len(dialer.targets)
    while len(dialer.targets) == dialed:
        if gateway.clock.seconds() - before > limit_s:
            return -1.0
        gateway.clock.advance(0.001)
    return gateway.clock.seconds() - before


def busy(gateway: RetryingGateway, name: str, *fields: bytes, status: bytes = b"503 Busy") -> None:
    gateway.at(name).answer(b"busy", *fields, status=status)


# --- backoff ----------------------------------------------------------------------------------------------------------


def test_backoff_is_drawn_from_zero_to_a_limit_that_doubles() -> None:
    gateway = RetryingGateway(
        1, RETRY_BACKOFF="100ms", RETRY_BACKOFF_MAX="300ms", RETRY_MAX_ATTEMPTS="5", BREAKER_ENABLED="false"
    )
    delays: list[list[float]] = [[], [], [], []]
    for _ in range(100):
        gateway.get()
        for drawn in delays:
            gateway.at("one").reset()
            drawn.append(retry_at(gateway, "one"))
        gateway.at("one").answer()
        gateway.pool.close()
        gateway.pool._is_closed = False
    limits = [0.1, 0.2, 0.3, 0.3]
    for drawn, limit in zip(delays, limits, strict=True):
        assert 0 < min(drawn) < limit * 0.1
        assert limit * 0.9 < max(drawn) <= limit + 0.0011
        assert limit * 0.4 < sum(drawn) / 100 < limit * 0.6


def test_no_backoff_means_at_once() -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="0")
    gateway.get()
    gateway.at("one").reset()
    assert gateway.dialed == [1, 1]
    assert gateway.clock.seconds() == 0.0


def test_nothing_is_under_way_during_the_wait() -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="10s", RETRY_BACKOFF_MAX="10s")
    client = gateway.get()
    gateway.at("one").reset()
    assert (gateway.loads, gateway.log, client.received()) == ([0, 0], [], b"")
    gateway.wait(10)
    assert gateway.loads == [0, 1]
    gateway.at("two").answer()
    assert answered(client) == (200, b"ok")


# --- the total time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_wait_that_does_not_fit_into_the_total_time_is_not_begun(seed: int) -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="1000s", RETRY_BACKOFF_MAX="1000s", TIMEOUT_TOTAL="5s")
    gateway.chance.seed(seed)  # each of which draws more than 5 ms of them
    client = gateway.get()
    gateway.at("one").reset()
    assert problem(client) == (502, "UPSTREAM_RESET")
    assert (gateway.attempts, gateway.clock.seconds(), gateway.outcomes) == (1, 0.0, {})
    gateway.assert_clean()


@pytest.mark.parametrize(("after_s", "is_repeated"), [(1.9, True), (2.1, False)])
def test_what_is_left_of_the_total_time_decides(after_s: float, is_repeated: bool) -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="5s")
    client = gateway.get()
    gateway.wait(after_s)
    busy(gateway, "one", b"Retry-After: 3")
    gateway.wait(3.1)
    assert gateway.dialed == [1, int(is_repeated)]
    if is_repeated:
        assert client.received() == b""
        gateway.wait(0.2)
        assert problem(client) == (504, "DEADLINE_EXCEEDED")
    else:
        assert answered(client) == (503, b"busy")
    gateway.assert_clean()


def test_total_time_is_for_all_attempts_together_and_nobody_s_fault() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="5s", TIMEOUT_PER_TRY="3s", BREAKER_FAILURES="1")
    client = gateway.get()
    gateway.wait(3.1)
    assert gateway.loads == [0, 1]
    gateway.wait(5 - 3.1 - TICK_S)
    assert client.received() == b""
    gateway.wait(0.2)
    assert problem(client) == (504, "DEADLINE_EXCEEDED")
    assert gateway.attempts == 2
    assert [gateway.state_of(name) for name in ("one", "two")] == [BreakerState.OPEN, BreakerState.CLOSED]
    assert [gateway.outcomes_of(name) for name in ("one", "two")] == [{"timeout": 1}, {"timeout": 1}]
    assert gateway.outcomes == {"failure": 1}
    gateway.assert_clean()


def test_last_attempt_that_takes_too_long_is_upstream_timeout() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="30s", TIMEOUT_PER_TRY="1s", RETRY_MAX_ATTEMPTS="2")
    client = gateway.get()
    gateway.wait(1.1)
    assert gateway.loads == [0, 1]
    gateway.wait(0.9)
    assert client.received() == b""
    gateway.wait(0.2)
    assert problem(client) == (504, "UPSTREAM_TIMEOUT")
    assert gateway.outcomes == {"failure": 1}


def test_total_time_that_ends_first_is_deadline_exceeded_without_a_retry() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="2s", TIMEOUT_PER_TRY="5s")
    client = gateway.get()
    gateway.wait(2.1)
    assert problem(client) == (504, "DEADLINE_EXCEEDED")
    assert gateway.attempts == 1


@pytest.mark.parametrize(
    ("times", "reason"), [("TIMEOUT_PER_TRY", "UPSTREAM_TIMEOUT"), ("TIMEOUT_TOTAL", "DEADLINE_EXCEEDED")]
)
def test_target_that_does_not_read_a_whole_body_gets_no_more_time(times: str, reason: str) -> None:
    gateway = RetryingGateway(2, **{times: "2s"}, RETRY_MAX_BODY="1MiB", RETRY_MAX_ATTEMPTS="2")
    for name in ("one", "two"):
        gateway.get()
        gateway.at(name).answer()
    gateway.at("two").transport.takes = False
    client = gateway.connect().send(message(b"/", b"Content-Length: 200000", method=b"PUT"), b"x" * 200_000)
    busy(gateway, "one")
    assert len(gateway.at("two").transport.unsent) > 200_000
    gateway.wait(2 - TICK_S)
    assert client.received() == b""
    gateway.wait(0.3)
    assert problem(client) == (504, reason)
    assert gateway.at("two").closed
    gateway.assert_clean()


def uploading(gateway: RetryingGateway, seconds: float) -> MemoryClient:
    """A client that has sent two of five bytes, and took so long."""
    client = gateway.connect().send(message(b"/", b"Content-Length: 5", method=b"PUT"))
    gateway.wait(seconds - 1)
    client.send(b"he")
    gateway.wait(1)
    return client


def test_total_time_of_a_retry_begins_with_the_end_of_the_body() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="5s")
    client = uploading(gateway, 20)
    gateway.dialer_of("two").holds = True
    gateway.at("one").reset()
    gateway.wait(2)  # for the connection
    assert client.received() == b""
    gateway.dialer_of("two").finish(gateway.dialer_of("two").waiting.pop())
    gateway.wait(2)
    client.send(b"llo")
    gateway.wait(4.9)
    assert client.received() == b""
    gateway.wait(0.2)
    assert problem(client) == (504, "DEADLINE_EXCEEDED")
    assert gateway.at("two").received().endswith(b"\r\n\r\nhello")
    gateway.assert_clean()


def test_upload_is_not_held_up_longer_than_the_total_time() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="5s")
    client = uploading(gateway, 20)
    busy(gateway, "one", b"Retry-After: 3600")
    assert client.response().status == 503
    gateway.wait(0.2)
    gateway.assert_clean()


def test_end_of_the_body_during_a_dial_leaves_the_time_per_try() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="20s", TIMEOUT_PER_TRY="2s")
    gateway.dialer_of("two").holds = True
    client = uploading(gateway, 1)
    gateway.at("one").reset()
    client.connection.dataReceived(b"llo")  # though it is paused, as TLS may
    gateway.dialer_of("two").finish(gateway.dialer_of("two").waiting.pop())
    gateway.clock.advance(0)
    assert gateway.at("two").received().endswith(b"\r\n\r\nhello")
    gateway.wait(1.9)
    assert gateway.loads == [0, 1]
    gateway.wait(0.3)
    assert gateway.loads == [1, 0]
    assert gateway.outcomes_of("two") == {"timeout": 1}


# --- Retry-After ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"502 Bad", b"503 Busy", b"504 Late", b"429 Slow"])
def test_target_that_asks_for_time_gets_it(status: bytes) -> None:
    gateway = RetryingGateway(2, RETRY_ON="429,502,503,504")
    client = gateway.get()
    busy(gateway, "one", b"Retry-After: 2", status=status)
    assert retry_at(gateway) == pytest.approx(2.0, abs=0.002)
    gateway.at("two").answer()
    assert answered(client) == (200, b"ok")


def test_date_is_waited_for() -> None:
    gateway = RetryingGateway(2)
    gateway.wait(1)
    gateway.get()
    busy(gateway, "one", b"Retry-After: " + formatdate(EPOCH_S + 5, usegmt=True).encode())
    assert retry_at(gateway) == pytest.approx(4.0, abs=0.002)


@pytest.mark.parametrize("value", [b"0", b"soon", b"-1", b"Fri, 15 Jan 2020 08:00:00 GMT", b""])
def test_what_asks_for_no_time_is_not_waited_for(value: bytes) -> None:
    gateway = RetryingGateway(2)
    gateway.get()
    busy(gateway, "one", b"Retry-After: " + value)
    assert gateway.dialed == [1, 1]


def test_longer_backoff_wins_over_retry_after() -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="8s", RETRY_BACKOFF_MAX="8s")
    gateway.chance.seed(3)  # 0.2379 of it
    gateway.get()
    busy(gateway, "one", b"Retry-After: 1")
    assert retry_at(gateway) == pytest.approx(8 * 0.23796, abs=0.002)


@pytest.mark.parametrize(
    "value", [b"30", b"31", b"99999999999999999999", formatdate(EPOCH_S + 99, usegmt=True).encode()]
)
def test_wait_that_is_too_long_is_the_client_s(value: bytes) -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="30s")
    client = gateway.get()
    busy(gateway, "one", b"Retry-After: " + value)
    response = client.response()
    assert (response.status, response.body, response.get(b"retry-after")) == (503, b"busy", value)
    assert (gateway.attempts, gateway.reason, gateway.outcomes) == (1, None, {})
    gateway.assert_clean()


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("requests", "percent", "minimum"), [(10, 20, 3), (100, 20, 3), (100, 0, 0), (50, 50, 0)])
def test_budget_bounds_all_attempts(requests: int, percent: int, minimum: int) -> None:
    gateway = RetryingGateway(
        2, RETRY_BUDGET_PERCENT=str(percent), RETRY_BUDGET_MIN=str(minimum), BREAKER_ENABLED="false"
    )
    for dialer in gateway.dialers.values():
        dialer.fails = True
    clients = []
    for _ in range(requests):
        clients.append(gateway.get())
        gateway.clock.advance(0.05)
    assert {problem(client) for client in clients} == {(502, "UPSTREAM_CONNECT_FAILED")}
    attempts = sum(record.attempts for record in gateway.log)
    retries = attempts - requests
    assert retries == requests * percent // 100 + minimum
    assert gateway.outcomes.get("failure", 0) == retries
    assert gateway.outcomes.get("budget", 0) > 0
    gateway.assert_clean()


def test_budget_that_is_spent_passes_the_answer_on() -> None:
    gateway = RetryingGateway(1, RETRY_BUDGET_PERCENT="0", RETRY_BUDGET_MIN="1")
    client = gateway.get()
    busy(gateway, "one")
    busy(gateway, "one")
    assert answered(client) == (503, b"busy")
    assert (gateway.attempts, gateway.outcomes) == (2, {"failure": 1, "budget": 1})
    gateway.wait(11.1)
    client = gateway.get()
    busy(gateway, "one")
    gateway.at("one").answer()
    assert answered(client) == (200, b"ok")
    assert gateway.outcomes == {"failure": 1, "budget": 1, "success": 1}


# --- what targets are told of it --------------------------------------------------------------------------------------


def told(gateway: RetryingGateway, name: str) -> list[bytes]:
    """What a target has been told of the time."""
    head = gateway.at(name).received().partition(b"\r\n\r\n")[0]
    fields = [line.partition(b": ") for line in head.split(b"\r\n")]
    return [value for field, _, value in fields if field.lower() == EXPECTED.lower()]


def test_targets_are_told_what_is_left() -> None:
    gateway = RetryingGateway(3, TIMEOUT_PROPAGATE="true", TIMEOUT_TOTAL="10s", TIMEOUT_PER_TRY="4s")
    client = gateway.get(b"/", EXPECTED.lower() + b": 77")
    assert told(gateway, "one") == [b"4000"]
    gateway.wait(3)
    gateway.at("one").reset()
    assert told(gateway, "two") == [b"4000"]
    gateway.wait(3.5)
    gateway.at("two").reset()
    assert told(gateway, "three") in ([b"3500"], [b"3499"])
    gateway.at("three").answer()
    assert answered(client) == (200, b"ok")


def test_repeated_head_is_told_afresh() -> None:
    gateway = RetryingGateway(1, TIMEOUT_PROPAGATE="true", TIMEOUT_TOTAL="10s")
    client = gateway.connect()
    for _ in range(3):
        client.send(message(b"/", EXPECTED + b": 77"))
        assert told(gateway, "one") == [b"10000"]
        gateway.at("one").answer()
        assert answered(client) == (200, b"ok")


def test_nothing_is_told_without_a_limit() -> None:
    gateway = RetryingGateway(2, TIMEOUT_PROPAGATE="true", TIMEOUT_TOTAL="0", TIMEOUT_PER_TRY="0")
    gateway.get()
    assert told(gateway, "one") == []


def test_client_s_own_word_passes_untouched_otherwise() -> None:
    gateway = RetryingGateway(2, TIMEOUT_TOTAL="10s")
    gateway.get(b"/", EXPECTED + b": 77")
    assert told(gateway, "one") == [b"77"]
    gateway.at("one").reset()
    assert told(gateway, "two") == [b"77"]
    gateway.get()
    assert told(gateway, "one") == []
