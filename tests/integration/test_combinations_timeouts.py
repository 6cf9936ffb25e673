"""Time runs out, and failures are repeated, in all four combinations of versions."""

from __future__ import annotations

import json

import pytest
from tests.integration import h2_frames
from tests.integration.client import Response
from tests.integration.combinations import Combination
from tests.integration.combined_target import H2Served, Served


def assert_problem(combination: Combination, response: Response, path: str, status: int, reason: str) -> None:
    assert (response.status, json.loads(response.body)["reason"]) == (status, reason)
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (status, reason)
    combination.assert_free()


# --- time ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "reason"), [("idle", "UPSTREAM_TIMEOUT"), ("total", "DEADLINE_EXCEEDED"), ("try", "UPSTREAM_TIMEOUT")]
)
def test_target_that_does_not_answer(combination: Combination, kind: str, reason: str) -> None:
    path, caller = combination.path(kind), combination.caller()
    call = caller.open("GET", path)
    served = combination.target.next()
    response = call.response()
    assert response.header("Proxy-Status") == "txgateway; error=http_response_timeout"
    served.wait_until_left()
    assert_problem(combination, response, path, 504, reason)
    combination.target.handler = Served.answer
    assert caller.ask("GET", combination.path(kind)).body == b"ok"  # the client's connection goes on


def test_answer_that_falls_silent_is_cut(combination: Combination) -> None:
    path = combination.path("idle")
    call = combination.caller().open("GET", path)
    served = combination.target.next()
    served.head(200)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    assert call.is_cut()
    served.wait_until_left()
    line = combination.line(path)
    assert (line["status"], line["reason"], line["bytes_out"]) == (200, "UPSTREAM_TIMEOUT", 3)
    combination.assert_free()


@pytest.mark.parametrize("kind", ["total", "try"])
def test_time_of_an_answer_ends_with_its_head(combination: Combination, kind: str) -> None:
    call = combination.caller().open("GET", combination.path(kind))
    served = combination.target.next()
    served.head(200)
    assert call.head().status == 200
    # Another request runs out of time meanwhile, so that much time has passed.
    late = combination.path(kind)
    combination.target.handler = lambda other: other.wait_until_left()
    assert combination.caller().ask("GET", late).status == 504
    assert combination.caller().ask("GET", combination.path(kind)).status == 504
    served.send(b"late")
    served.end()
    assert call.response().body == b"late"


def test_upload_that_stalls(combination: Combination) -> None:
    path = combination.path("stalls")
    call = combination.caller().open("POST", path, length=100)
    call.send(b"abc")
    served = combination.target.next()
    assert served.read(3) == b"abc"
    response = call.response()
    served.wait_until_left()
    assert_problem(combination, response, path, 408, "REQUEST_TIMEOUT")


def test_target_that_takes_none_of_an_upload(combination: Combination) -> None:
    """It is the target that is late, not the client."""
    path = combination.path("idle")
    call = combination.caller().open("POST", path, length=None)
    served = combination.target.next()
    call.send_while_taken(2**26, silence_s=0.2)
    assert_problem(combination, call.response(), path, 504, "UPSTREAM_TIMEOUT")
    served.release()


# --- once more -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("how", ["cut", "vanish"])
def test_idempotent_request_whose_target_breaks_off_is_sent_again(
    combination: Combination, method: str, how: str
) -> None:
    path = combination.path("again")
    length = 5 if method == "PUT" else 0
    call = combination.caller().open(method, path, length=length)
    if length:
        call.send(b"hello")
        call.end()
    served = combination.target.next()
    assert served.rest() == b"hello"[:length]
    served.cut_or_vanish(how)
    served = combination.target.next()
    assert served.rest() == b"hello"[:length]
    served.answer(b"second")
    assert call.response().body == b"second"
    line = combination.line(path)
    assert (line["attempts"], line["reason"]) == (2, None)
    combination.assert_free()


def test_answer_that_is_worth_another_try_is_not_seen(combination: Combination) -> None:
    path = combination.path("again")
    call = combination.caller().open("GET", path)
    combination.target.next().head_only(503, ("Content-Length", "0"))
    combination.target.next().answer(b"second")
    assert call.response().body == b"second"
    assert combination.line(path)["attempts"] == 2


def test_last_answer_is_the_clients(combination: Combination) -> None:
    path = combination.path("again")
    call = combination.caller().open("GET", path)
    combination.target.next().head_only(503, ("Content-Length", "0"))
    combination.target.next().answer(b"still busy", 503)
    response = call.response()
    assert (response.status, response.body) == (503, b"still busy")


def test_request_that_may_not_be_repeated_is_not(combination: Combination) -> None:
    path = combination.path("again")
    call = combination.caller().open("POST", path, length=3)
    call.send(b"abc")
    call.end()
    served = combination.target.next()
    served.rest()
    served.cut()
    assert_problem(combination, call.response(), path, 502, "UPSTREAM_RESET")
    assert not combination.target.has_next()


def test_request_whose_answer_has_begun_is_not_repeated(combination: Combination) -> None:
    path = combination.path("again")
    call = combination.caller().open("GET", path)
    served = combination.target.next()
    served.head(200)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    served.cut()
    assert call.is_cut()
    assert combination.line(path)["attempts"] == 1
    assert not combination.target.has_next()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_refused_stream_is_sent_again_whatever_the_method(combination: Combination, method: str) -> None:
    """Only HTTP/2 can say that nothing was done; HTTP/1.1 can say it with 503 and no more."""
    path = combination.path()
    call = combination.caller().open(method, path, length=3 if method == "POST" else 0)
    if method == "POST":
        call.send(b"abc")
        call.end()
    served = combination.target.next()
    if isinstance(served, H2Served):
        served.exchange.reset(h2_frames.REFUSED_STREAM)
        served = combination.target.next()
    assert served.rest() == (b"abc" if method == "POST" else b"")
    served.answer()
    assert call.response().body == b"ok"
    assert combination.line(path)["attempts"] == (2 if combination.behind == "h2" else 1)


def test_only_a_connection_that_may_have_been_closed_before_is_replaced(combination: Combination) -> None:
    """A reset of HTTP/2's stream is an answer of a kind: the target has had the request, and has one attempt."""
    combination.target.handler = Served.answer
    caller = combination.caller()
    assert caller.ask("GET", combination.path()).status == 200
    combination.target.next()
    combination.target.handler = lambda served: served.cut()
    path = combination.path()
    assert_problem(combination, caller.ask("GET", path), path, 502, "UPSTREAM_RESET")
    assert combination.line(path)["attempts"] == (1 if combination.behind == "h2" else 2)


def test_connection_that_dies_in_the_pool_harms_nobody(combination: Combination) -> None:
    caller = combination.caller()
    for _ in range(5):
        call = caller.open("POST", combination.path(), length=2)
        call.send(b"hi")
        call.end()
        served = combination.target.next()
        served.answer()
        assert call.response().body == b"ok"
        served.vanish()
        combination.target.backend.wait_until_closed()
