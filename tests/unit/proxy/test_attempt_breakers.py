"""What breakers make of attempts, and attempts of breakers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.helpers.logs import logged
from tests.unit.proxy.retrying import GET, RetryingGateway, answered, problem
from tests.unit.support import MemoryClient, message

from txgateway.errors import UpstreamTlsError
from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.target import Health

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN
#: No retries unless a test is about them.
ALONE = {"RETRY_MAX_ATTEMPTS": "1"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


def lone(**environment: str) -> RetryingGateway:
    return RetryingGateway(1, **{**ALONE, **environment})


def exchange(gateway: RetryingGateway, status: bytes, name: str = "one") -> None:
    gateway.get()
    gateway.at(name).answer(status=status)


def opened(**environment: str) -> RetryingGateway:
    """One target, and a breaker that has opened just now."""
    gateway = lone(**environment)
    gateway.fail("one")
    assert gateway.state_of("one") is OPEN
    return gateway


# --- what counts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [b"502 Bad", b"503 Busy", b"504 Late"])
def test_five_faults_in_a_row_open_it(status: bytes) -> None:
    gateway = lone()
    with logged() as lines:
        for _ in range(4):
            exchange(gateway, status)
        assert (gateway.state_of("one"), lines) == (CLOSED, [])
        exchange(gateway, status)
    assert gateway.state_of("one") is OPEN
    assert lines == [("warn", "breaker: one:80 of backend b is open: 5 failures in a row")]
    assert gateway.outcomes_of("one") == {"error": 5}


@pytest.mark.parametrize("status", [b"200 OK", b"404 No", b"429 Slow", b"500 Oh", b"501 No", b"505 No"])
def test_other_answers_are_no_faults(status: bytes) -> None:
    gateway = lone()
    for _ in range(30):
        exchange(gateway, status)
    assert gateway.state_of("one") is CLOSED
    assert gateway.outcomes_of("one") == {"ok": 30}
    for _ in range(4):
        exchange(gateway, b"503 Busy")
    exchange(gateway, status)
    exchange(gateway, b"503 Busy")
    assert gateway.state_of("one") is CLOSED  # they are no longer in a row


def test_broken_connections_open_it() -> None:
    gateway = lone()
    gateway.get()
    gateway.at("one").reset()
    gateway.get()
    gateway.at("one").send(b"rubbish\r\n\r\n")
    gateway.dialer_of("one").fails = True
    gateway.get()
    gateway.get()
    assert gateway.state_of("one") is CLOSED
    gateway.get()
    assert gateway.state_of("one") is OPEN


def test_failed_handshakes_open_it() -> None:
    gateway = lone()
    gateway.dialer_of("one").holds = True
    for _ in range(5):
        client = gateway.get()
        gateway.dialer_of("one").waiting.pop().dial_failed(UpstreamTlsError("no"))
        assert problem(client) == (502, "UPSTREAM_TLS_ERROR")
    assert gateway.state_of("one") is OPEN


def test_time_per_try_counts_and_total_time_does_not() -> None:
    gateway = lone(TIMEOUT_TOTAL="1s", BREAKER_FAILURES="1")
    client = gateway.get()
    gateway.wait(1.2)
    assert problem(client) == (504, "DEADLINE_EXCEEDED")
    assert (gateway.state_of("one"), gateway.outcomes_of("one")) == (CLOSED, {"timeout": 1})
    gateway = lone(TIMEOUT_PER_TRY="1s", BREAKER_FAILURES="1")
    client = gateway.get()
    gateway.wait(1.2)
    assert problem(client) == (504, "UPSTREAM_TIMEOUT")
    assert (gateway.state_of("one"), gateway.outcomes_of("one")) == (OPEN, {"timeout": 1})


@pytest.mark.parametrize("end", ["reset", "end", "silence"])
def test_answer_that_breaks_off_in_its_body_counts(end: str) -> None:
    gateway = lone(BREAKER_FAILURES="1", TIMEOUT_IDLE="2s")
    client = gateway.get()
    gateway.at("one").send(HEAD + b"half")
    assert (gateway.state_of("one"), gateway.loads) == (CLOSED, [1])
    if end == "silence":
        gateway.wait(2.3)
    else:
        getattr(gateway.at("one"), end)()
    assert client.transport.aborted
    assert (gateway.state_of("one"), gateway.loads) == (OPEN, [0])


@pytest.mark.parametrize("begun", [b"", HEAD + b"half"])
def test_client_that_leaves_does_not_count(begun: bytes) -> None:
    gateway = lone(BREAKER_FAILURES="1")
    client = gateway.get()
    gateway.at("one").send(begun)
    client.leave()
    assert (gateway.state_of("one"), gateway.outcomes_of("one")) == (CLOSED, {"cancelled": 1})


def test_client_that_leaves_neither_ends_a_row_of_failures() -> None:
    gateway = lone()
    for _ in range(4):
        exchange(gateway, b"503 Busy")
    gateway.get().leave()
    exchange(gateway, b"503 Busy")
    assert gateway.state_of("one") is OPEN


@pytest.mark.parametrize("attempts", ["1", "3"])
def test_free_replay_counts_for_nothing(attempts: str) -> None:
    gateway = RetryingGateway(1, RETRY_MAX_ATTEMPTS=attempts, RETRY_BUDGET_MIN="0", BREAKER_FAILURES="1")
    for _ in range(3):
        client = gateway.get()
        gateway.at("one").answer()
        client.received()
        client.send(GET)
        gateway.at("one").end()  # which was reused
        assert gateway.loads == [1]
        gateway.at("one").answer()
        assert answered(client) == (200, b"ok")
        assert gateway.attempts == 2
        gateway.at("one").end()
    assert gateway.state_of("one") is CLOSED
    assert (gateway.outcomes, gateway.outcomes_of("one")) == ({}, {"ok": 6})


def test_replay_that_fails_too_counts_once_and_is_the_only_one() -> None:
    gateway = RetryingGateway(2, RETRY_MAX_ATTEMPTS="3", BREAKER_FAILURES="3")
    for name in ("one", "two"):
        exchange(gateway, b"200 OK", name)
    client = gateway.get()
    gateway.at("one").end()
    gateway.at("one").end()
    assert (gateway.state_of("one"), gateway.loads) == (CLOSED, [0, 1])
    gateway.at("two").end()  # reused, too, but the request has had its replay
    assert gateway.loads == [1, 0]
    gateway.at("one").answer()
    assert answered(client) == (200, b"ok")
    assert (gateway.attempts, gateway.outcomes) == (4, {"failure": 1, "success": 1})
    assert [gateway.outcomes_of(name) for name in ("one", "two")] == [{"ok": 2, "error": 1}, {"ok": 1, "error": 1}]


# --- what open ones do ------------------------------------------------------------------------------------------------


def test_requests_go_elsewhere() -> None:
    gateway = RetryingGateway(2, **ALONE)
    gateway.fail("one")
    for _ in range(4):
        gateway.get()
    assert gateway.loads == [0, 4]


def test_retry_that_would_find_no_target_is_not_made() -> None:
    gateway = RetryingGateway(1, BREAKER_FAILURES="2")
    client = gateway.get()
    for _ in range(2):
        gateway.at("one").answer(b"mine", status=b"503 Busy")
    assert answered(client) == (503, b"mine")
    assert (gateway.attempts, gateway.outcomes) == (2, {"failure": 1})


def test_all_that_opened_during_the_wait_leave_breaker_open() -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="1s", RETRY_BACKOFF_MAX="1s")
    client = gateway.get()
    gateway.at("one").reset()
    for name in ("one", "two"):
        gateway.fail(name)
    gateway.wait(1.1)
    assert problem(client) == (503, "BREAKER_OPEN")
    assert gateway.attempts == 1
    gateway.assert_clean()


@pytest.mark.parametrize("after_s", [0, 10, 26])
def test_all_open_is_told_with_the_time_until_one_may_be_tried(after_s: int) -> None:
    gateway = RetryingGateway(2, **ALONE)
    gateway.fail("one")
    gateway.clock.advance(1)
    gateway.fail("two")
    gateway.clock.advance(after_s)
    response = gateway.get().response()
    assert (response.status, response.problem["reason"]) == (503, "BREAKER_OPEN")
    told = int(response.get(b"retry-after") or 0)
    left = gateway.target_named("one").breaker.wait_s(gateway.clock.seconds())
    assert told == max(1, math.ceil(left))
    assert 1 <= told <= 30
    assert gateway.dialed == [0, 0]
    gateway.assert_clean()


# --- probes -----------------------------------------------------------------------------------------------------------


def probing(**environment: str) -> tuple[RetryingGateway, MemoryClient]:
    """The open time is over, and one request is the probe."""
    gateway = opened(**environment)
    gateway.clock.advance(30)
    client = gateway.get()
    assert (gateway.state_of("one"), gateway.loads) == (HALF_OPEN, [1])
    return gateway, client


def assert_refused(gateway: RetryingGateway) -> None:
    response = gateway.get().response()
    assert (response.problem["reason"], response.get(b"retry-after")) == ("BREAKER_OPEN", b"1")
    assert gateway.loads == [1]


def test_one_probe_is_made_while_others_are_refused() -> None:
    gateway, client = probing()
    for _ in range(3):
        assert_refused(gateway)
    gateway.at("one").answer()
    assert answered(client) == (200, b"ok")
    assert gateway.state_of("one") is CLOSED
    for _ in range(3):
        gateway.get()
    assert gateway.loads == [3]


def test_head_is_enough_for_a_probe() -> None:
    gateway, client = probing()
    gateway.at("one").send(HEAD)
    assert (gateway.state_of("one"), gateway.loads) == (CLOSED, [1])
    gateway.get()
    assert gateway.loads == [2]
    client.leave()  # which takes nothing back
    assert (gateway.state_of("one"), gateway.loads) == (CLOSED, [1])


def test_switch_is_enough_for_a_probe() -> None:
    gateway = RetryingGateway(1, {"upgrades": ["echo"]}, **ALONE)
    gateway.fail("one")
    gateway.clock.advance(30)
    gateway.get(b"/", b"Connection: Upgrade", b"Upgrade: echo")
    gateway.at("one").send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert (gateway.state_of("one"), gateway.loads) == (CLOSED, [1])


@pytest.mark.parametrize("status", [b"200 OK", b"404 No", b"429 Slow", b"500 Oh"])
def test_any_answer_but_a_fault_closes_it(status: bytes) -> None:
    gateway, _ = probing(RETRY_ON="429", RETRY_MAX_ATTEMPTS="2")
    gateway.at("one").answer(status=status)
    assert gateway.state_of("one") is CLOSED


@pytest.mark.parametrize("how", ["503", "reset", "per try"])
def test_failed_probe_opens_it_for_twice_as_long(how: str) -> None:
    gateway, client = probing(TIMEOUT_PER_TRY="1s")
    if how == "503":
        gateway.at("one").answer(status=b"503 Busy")
    elif how == "reset":
        gateway.at("one").reset()
    else:
        gateway.wait(1.2)
    assert client.response().status in {502, 503, 504}
    assert gateway.state_of("one") is OPEN
    assert 54 - 0.2 <= gateway.target_named("one").breaker.wait_s(gateway.clock.seconds()) <= 60


@pytest.mark.parametrize("how", ["leaves", "total time", "body too large", "full pool"])
def test_probe_that_says_nothing_frees_its_place(how: str) -> None:
    gateway = opened(TIMEOUT_TOTAL="2s", MAX_BODY_BYTES="4", POOL_MAX_CONNECTIONS="1", POOL_MAX_PENDING="0")
    gateway.clock.advance(30)
    if how == "full pool":
        holder: Any = gateway.pool  # its one connection is with somebody else
        holder._active = 1
        assert problem(gateway.get()) == (503, "POOL_EXHAUSTED")
        holder._active = 0
    elif how == "body too large":
        client = gateway.connect().send(message(b"/", b"Transfer-Encoding: chunked", method=b"PUT"))
        assert_refused(gateway)
        client.send(b"5\r\nhello\r\n")
        assert problem(client) == (413, "BODY_TOO_LARGE")
    else:
        client = gateway.get()
        assert_refused(gateway)
        if how == "leaves":
            client.leave()
        else:
            gateway.wait(2.2)
    assert (gateway.state_of("one"), gateway.loads) == (HALF_OPEN, [0])
    gateway.get()
    assert_refused(gateway)
    gateway.at("one").answer()
    assert gateway.state_of("one") is CLOSED


def test_probe_may_be_a_retry() -> None:
    gateway = RetryingGateway(2)
    gateway.fail("two")
    gateway.clock.advance(30)
    client = gateway.get()
    gateway.at("one").reset()
    assert (gateway.state_of("two"), gateway.loads) == (HALF_OPEN, [0, 1])
    gateway.at("two").answer()
    assert answered(client) == (200, b"ok")
    assert gateway.state_of("two") is CLOSED


def test_failed_probe_is_retried_elsewhere() -> None:
    gateway = RetryingGateway(2)
    gateway.fail("one")
    gateway.clock.advance(30)
    clients = [gateway.get(), gateway.get()]
    assert gateway.loads == [1, 1]
    gateway.at("one").reset()
    assert (gateway.state_of("one"), gateway.loads) == (OPEN, [0, 2])
    for dialed in gateway.dialer_of("two").targets:
        dialed.answer()
    assert [answered(client) for client in clients] == [(200, b"ok")] * 2
    assert gateway.attempts + gateway.log[0].attempts == 3


def test_free_replay_of_a_probe_is_still_the_probe() -> None:
    gateway = lone(POOL_IDLE_TIMEOUT="100s")
    client = gateway.get()
    gateway.at("one").answer()
    client.received()
    gateway.fail("one")
    gateway.clock.advance(30)
    client.send(GET)
    gateway.at("one").end()
    assert len(gateway.dialer_of("one").targets) == 2
    assert_refused(gateway)
    gateway.at("one").answer()
    assert gateway.state_of("one") is CLOSED


def test_target_that_checks_find_well_may_be_probed_at_once() -> None:
    gateway = opened(PANIC_PERCENT="0")
    gateway.set_health("one", Health.UNHEALTHY)
    assert problem(gateway.get()) == (503, "NO_HEALTHY_TARGET")
    gateway.set_health("one", Health.HEALTHY)
    assert gateway.state_of("one") is HALF_OPEN
    gateway.get()
    assert_refused(gateway)
