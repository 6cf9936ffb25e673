"""What is tried again, and where."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from tests.unit.proxy.retrying import RetryingGateway, answered, problem
from tests.unit.support import message

from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.target import Health

POST = message(b"/", b"Content-Length: 5", method=b"POST", body=b"hello")
METHODS = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"POST", b"PATCH"]
REPEATED = [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"]

Fail = Callable[[RetryingGateway], None]


def reset(gateway: RetryingGateway) -> None:
    gateway.at("one").reset()


def close(gateway: RetryingGateway) -> None:
    gateway.at("one").end()


def break_head(gateway: RetryingGateway) -> None:
    gateway.at("one").send(b"HTTP/1.1 200 OK\r\nX-Half")
    gateway.at("one").reset()


def rave(gateway: RetryingGateway) -> None:
    gateway.at("one").send(b"220 mail.example ESMTP\r\n\r\n")


def exceed_per_try(gateway: RetryingGateway) -> None:
    gateway.wait(2)


def idle(gateway: RetryingGateway) -> None:
    gateway.wait(4)


def status(code: int) -> Fail:
    def answer(gateway: RetryingGateway) -> None:
        gateway.at("one").answer(b"no", status=b"%d No" % code)

    answer.__name__ = str(code)
    return answer


AFTER_SENDING = [reset, close, break_head, rave, exceed_per_try, status(502), status(503), status(504)]
TIMES = {"TIMEOUT_PER_TRY": "2s", "TIMEOUT_TOTAL": "10s"}


def failing(fail: Fail, method: bytes = b"GET", **environment: str) -> RetryingGateway:
    """A gateway at which a first attempt has failed at one."""
    gateway = RetryingGateway(2, **{**TIMES, **environment})
    gateway.get(method=method)
    fail(gateway)
    return gateway


# --- what is tried again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_refused_connection_is_tried_elsewhere_with_any_method(method: bytes) -> None:
    gateway = RetryingGateway()
    gateway.dialer_of("one").fails = True
    client = gateway.get(method=method)
    assert gateway.at("two").received().startswith(method + b" / HTTP/1.1\r\n")
    gateway.at("two").answer(b"" if method == b"HEAD" else b"ok")
    assert answered(client, method)[0] == 200
    assert (gateway.attempts, gateway.log[-1].target_label, gateway.reason) == (2, "two:80", None)
    gateway.assert_clean()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_connection_that_is_not_made_in_time_is_tried_elsewhere_with_any_method(method: bytes, body: bytes) -> None:
    gateway = RetryingGateway(2, TIMEOUT_PER_TRY="1s")
    gateway.dialer_of("one").holds = True
    fields = (b"Content-Length: 5",) if body else ()
    client = gateway.connect().send(message(b"/", *fields, method=method, body=body))
    gateway.wait(0.9)
    assert gateway.dialed == [0, 0]
    gateway.wait(0.2)
    assert gateway.dialed == [0, 1]
    assert gateway.dialer_of("one").cancelled == 1
    sent = gateway.at("two").received()
    assert sent.startswith(method)
    assert sent.endswith(b"\r\n\r\n" + body)
    gateway.at("two").answer(b"" if method == b"HEAD" else b"ok")
    assert answered(client, method)[0] == 200
    assert gateway.outcomes_of("one") == {"timeout": 1}
    gateway.assert_clean()


@pytest.mark.parametrize("fail", AFTER_SENDING)
@pytest.mark.parametrize("method", REPEATED)
def test_failed_attempt_is_tried_elsewhere(fail: Fail, method: bytes) -> None:
    gateway = RetryingGateway(2, **TIMES)
    client = gateway.get(method=method)
    assert gateway.loads == [1, 0]
    fail(gateway)
    assert gateway.loads == [0, 1]
    assert gateway.at("one").closed
    assert client.received() == b""
    body = b"" if method == b"HEAD" else b"ok"
    gateway.at("two").answer(body)
    assert answered(client, method) == (200, body)
    assert (gateway.attempts, gateway.reason, len(gateway.log)) == (2, None, 1)
    assert gateway.outcomes == {"success": 1}
    assert gateway.loads == [0, 0]
    gateway.assert_clean()


@pytest.mark.parametrize("fail", AFTER_SENDING)
@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_what_could_act_twice_is_not_tried_again_once_it_was_sent(fail: Fail, method: bytes) -> None:
    gateway = RetryingGateway(2, **TIMES)
    client = gateway.get(method=method)
    fail(gateway)
    assert gateway.dialed == [1, 0]
    assert client.response().status in {502, 503, 504}
    assert (gateway.attempts, gateway.outcomes) == (1, {})
    gateway.assert_clean()


def test_methods_may_be_configured() -> None:
    gateway = RetryingGateway(2, RETRY_METHODS="POST")
    client = gateway.connect().send(POST)
    gateway.at("one").reset()
    assert gateway.at("two").received().endswith(b"\r\n\r\nhello")
    gateway.at("two").answer()
    assert answered(client) == (200, b"ok")
    gateway = RetryingGateway(2, RETRY_METHODS="POST")
    client = gateway.get()
    gateway.at("one").reset()
    assert problem(client) == (502, "UPSTREAM_RESET")


@pytest.mark.parametrize(("methods", "is_repeated"), [("GET", False), ("GET,DELETE", True)])
def test_replay_that_cannot_connect_was_sent_before(methods: str, is_repeated: bool) -> None:
    gateway = RetryingGateway(2, RETRY_METHODS=methods)
    gateway.get()
    gateway.at("one").answer()
    gateway.get()
    gateway.at("two").answer()
    client = gateway.get(method=b"DELETE")
    assert b"DELETE" in gateway.at("one").received()
    gateway.dialer_of("one").fails = True
    gateway.at("one").reset()
    assert (b"DELETE" in gateway.at("two").received()) is is_repeated
    if is_repeated:
        gateway.at("two").answer()
        assert answered(client) == (200, b"ok")
    else:
        assert problem(client) == (502, "UPSTREAM_CONNECT_FAILED")
    gateway.assert_clean()


@pytest.mark.parametrize(
    ("on", "again"), [("429", {429}), ("5xx", {500, 501, 502, 503, 504, 599}), ("reset", set()), ("503", {503})]
)
@pytest.mark.parametrize("code", [200, 404, 429, 500, 501, 502, 503, 504, 599])
def test_statuses_are_those_that_are_configured(on: str, again: set[int], code: int) -> None:
    gateway = failing(status(code), RETRY_ON=on)
    assert gateway.dialed == [1, int(code in again)]


@pytest.mark.parametrize("code", [400, 404, 429, 500, 501])
def test_other_answers_are_passed_on(code: int) -> None:
    gateway = RetryingGateway()
    client = gateway.get()
    gateway.at("one").answer(b"mine", b"X-Own: 1", status=b"%d Own" % code)
    response = client.response()
    assert (response.status, response.body, response.get(b"x-own")) == (code, b"mine", b"1")
    assert gateway.dialed == [1, 0]


@pytest.mark.parametrize(
    ("on", "fail", "is_repeated"),
    [
        ("connect", reset, False),
        ("connect", exceed_per_try, False),
        ("timeout", exceed_per_try, True),
        ("timeout", rave, False),
        ("reset", rave, True),
        ("reset", exceed_per_try, False),
        ("503", reset, False),
    ],
)
def test_words_mean_what_they_say(on: str, fail: Fail, is_repeated: bool) -> None:
    assert failing(fail, RETRY_ON=on).dialed == [1, int(is_repeated)]


def test_silence_before_the_head_is_tried_elsewhere() -> None:
    gateway = RetryingGateway(2, TIMEOUT_IDLE="4s", TIMEOUT_TOTAL="0")
    client = gateway.get()
    gateway.wait(3.9)
    assert gateway.dialed == [1, 0]
    gateway.wait(0.2)
    assert gateway.dialed == [1, 1]
    gateway.wait(4.2)
    assert gateway.dialed == [2, 1]
    gateway.wait(4.2)
    assert problem(client) == (504, "UPSTREAM_TIMEOUT")
    gateway.assert_clean()


def test_one_attempt_means_no_retries() -> None:
    gateway = failing(reset, RETRY_MAX_ATTEMPTS="1")
    assert (gateway.dialed, gateway.attempts) == ([1, 0], 1)


# --- what is not ------------------------------------------------------------------------------------------------------


def test_nothing_is_tried_again_once_the_head_has_gone_out() -> None:
    gateway = RetryingGateway()
    client = gateway.get()
    gateway.at("one").send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
    gateway.at("one").reset()
    assert gateway.dialed == [1, 0]
    assert client.transport.aborted
    assert gateway.reason == "UPSTREAM_RESET"
    gateway.assert_clean()


@pytest.mark.parametrize("fail", [reset, status(503), exceed_per_try])
def test_nothing_is_tried_again_once_an_informational_answer_has_gone_out(fail: Fail) -> None:
    gateway = RetryingGateway(2, **TIMES)
    client = gateway.get()
    gateway.at("one").send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert client.received().startswith(b"HTTP/1.1 103 ")
    fail(gateway)
    assert gateway.dialed == [1, 0]
    assert client.response().status in {502, 503, 504}
    gateway.assert_clean()


def test_continue_from_a_target_commits_to_nothing() -> None:
    gateway = RetryingGateway()
    gateway.get()
    gateway.at("one").send(b"HTTP/1.1 100 Continue\r\n\r\n")
    gateway.at("one").reset()
    assert gateway.dialed == [1, 1]


@pytest.mark.parametrize("fail", [reset, status(503)])
def test_client_that_leaves_during_the_wait_leaves_nothing_behind(fail: Fail) -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="100s", RETRY_BACKOFF_MAX="100s")
    client = gateway.get()
    gateway.chance.seed(1)  # 13.4 of them
    fail(gateway)
    assert gateway.loads == [0, 0]
    assert gateway.log == []
    client.leave()
    assert (gateway.reason, gateway.log[-1].status, gateway.attempts) == ("CLIENT_GONE", 499, 1)
    gateway.wait(0.2)
    gateway.assert_clean()
    assert gateway.clock.getDelayedCalls() == []
    gateway.wait(20)
    assert (gateway.dialed, gateway.outcomes, len(gateway.log)) == ([1, 0], {}, 1)


def test_client_that_leaves_during_an_attempt_ends_it() -> None:
    gateway = RetryingGateway()
    client = gateway.get()
    gateway.at("one").reset()
    client.leave()
    assert gateway.at("two").closed
    assert (gateway.dialed, gateway.loads, gateway.outcomes) == ([1, 1], [0, 0], {})
    assert gateway.outcomes_of("two") == {"cancelled": 1}
    gateway.assert_clean()


def test_full_pool_is_not_tried_elsewhere() -> None:
    gateway = RetryingGateway(2, POOL_MAX_CONNECTIONS="1", POOL_MAX_PENDING="1")
    clients = [gateway.get() for _ in range(5)]
    assert problem(clients[4]) == (503, "POOL_EXHAUSTED")
    assert gateway.attempts == 1
    gateway.wait(1.2)  # GATEWAY_POOL_PENDING_TIMEOUT
    assert [problem(client) for client in clients[2:4]] == [(503, "POOL_EXHAUSTED")] * 2
    assert [record.attempts for record in gateway.log] == [1, 1, 1]
    assert [gateway.state_of(name) for name in ("one", "two")] == [BreakerState.CLOSED] * 2


def test_full_pool_of_the_second_target_is_the_answer() -> None:
    gateway = RetryingGateway(2, POOL_MAX_CONNECTIONS="1", POOL_MAX_PENDING="0")
    clients = [gateway.get() for _ in range(2)]
    gateway.at("one").reset()
    assert problem(clients[0]) == (503, "POOL_EXHAUSTED")
    assert (gateway.attempts, gateway.loads) == (2, [0, 1])
    assert gateway.outcomes_of("two") == {"cancelled": 1}


def test_own_refusals_are_not_tried_again() -> None:
    gateway = RetryingGateway(2, BREAKER_FAILURES="1")
    for name in ("one", "two"):
        gateway.fail(name, 1)
    assert problem(gateway.get()) == (503, "BREAKER_OPEN")
    assert gateway.attempts == 0
    for name in ("one", "two"):
        gateway.set_health(name, Health.UNHEALTHY)
    assert problem(gateway.get()) == (503, "NO_HEALTHY_TARGET")
    assert (gateway.attempts, gateway.dialed, gateway.outcomes) == (0, [0, 0], {})
    gateway.assert_clean()


def test_body_that_grows_too_large_is_not_tried_again() -> None:
    gateway = RetryingGateway(2, MAX_BODY_BYTES="10")
    client = gateway.connect().send(message(b"/", b"Transfer-Encoding: chunked", method=b"PUT", body=b"4\r\nabcd\r\n"))
    client.send(b"8\r\nabcdefgh\r\n")
    assert problem(client) == (413, "BODY_TOO_LARGE")
    assert (gateway.dialed, gateway.outcomes_of("one")) == ([1, 0], {"cancelled": 1})
    gateway.assert_clean()


# --- where, and as what -----------------------------------------------------------------------------------------------


def test_each_retry_goes_to_a_target_that_was_not_tried() -> None:
    gateway = RetryingGateway(3)
    gateway.get()
    seen = []
    for name in ("one", "two", "three"):
        seen.append(gateway.loads)
        gateway.at(name).reset()
    assert seen == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.parametrize("load_balancer", ["round_robin", "random", "least_request", "hash:client_ip"])
def test_retry_never_goes_where_the_last_attempt_failed_if_there_is_another_target(load_balancer: str) -> None:
    gateway = RetryingGateway(2, LOAD_BALANCER=load_balancer, RETRY_MAX_ATTEMPTS="6", BREAKER_ENABLED="false")
    for peer in range(20):
        gateway.get(peer=f"10.0.0.{peer}")
        tried = []
        for _ in range(6):
            (name,) = [name for name, load in zip(("one", "two"), gateway.loads, strict=True) if load]
            tried.append(name)
            gateway.at(name).reset()
        assert all(last != this for last, this in pairwise(tried)), tried


def test_target_that_is_alone_is_tried_again() -> None:
    gateway = RetryingGateway(1)
    client = gateway.get()
    for _ in range(3):
        gateway.at("one").reset()
    assert gateway.dialed == [3]
    assert problem(client) == (502, "UPSTREAM_RESET")
    assert gateway.attempts == 3
    assert gateway.outcomes == {"failure": 2}
    gateway.assert_clean()


def test_all_attempts_are_the_same_request() -> None:
    gateway = RetryingGateway(3)
    client = gateway.get(b"/a?b=c", b"X-Own: 1")
    sent = []
    for name in ("one", "two"):
        sent.append(gateway.at(name).received())
        gateway.at(name).reset()
    sent.append(gateway.at("three").received())
    assert sent[0].count(b"X-Request-ID: id-1\r\n") == 1
    assert sent[0].startswith(b"GET /a?b=c HTTP/1.1\r\nHost: one\r\n")
    assert [head.replace(b"Host: two", b"Host: one").replace(b"Host: three", b"Host: one") for head in sent] == (
        [sent[0]] * 3
    )
    gateway.at("three").answer()
    assert client.response().get(b"x-request-id") == b"id-1"


def test_last_answer_is_passed_on_as_it_is() -> None:
    gateway = RetryingGateway(1)
    client = gateway.get()
    for number in (1, 2, 3):
        gateway.at("one").answer(b"busy %d" % number, b"X-Number: %d" % number, status=b"503 Busy")
    response = client.response()
    assert (response.status, response.body, response.get(b"x-number")) == (503, b"busy 3", b"3")
    assert response.get(b"content-type") is None
    assert (gateway.attempts, gateway.reason, gateway.outcomes) == (3, None, {"failure": 2})
    assert gateway.loads == [0]
    gateway.assert_clean()


def test_last_failure_is_the_one_that_is_told() -> None:
    gateway = RetryingGateway(3)
    client = gateway.get()
    gateway.at("one").answer(status=b"503 Busy")
    gateway.dialer_of("three").fails = True
    gateway.at("two").send(b"rubbish\r\n\r\n")
    assert problem(client) == (502, "UPSTREAM_CONNECT_FAILED")
    assert (gateway.attempts, gateway.log[-1].target_label) == (3, "three:80")
    assert gateway.log[-1].upstream_s is None  # the first one's is not the last one's
    gateway.assert_clean()


def test_status_that_is_tried_again_is_no_success_of_a_retry() -> None:
    gateway = RetryingGateway(1, RETRY_ON="429")
    client = gateway.get()
    for _ in range(3):
        gateway.at("one").answer(status=b"429 Slow")
    assert client.response().status == 429
    assert gateway.outcomes == {"failure": 2}
