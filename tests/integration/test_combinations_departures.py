"""Either side leaves, in all four combinations of versions: the other is told, and nothing stays in use."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest
from tests.integration.client import Response
from tests.integration.combinations import Combination
from tests.integration.combined_client import Call, Caller, H2Caller
from tests.integration.combined_target import Served
from tests.integration.h2_frames import NO_ERROR

Leave = Callable[[Caller, Call], None]


def politely(_caller: Caller, call: Call) -> None:
    """HTTP/1.1: close; HTTP/2: RST_STREAM."""
    call.leave()


def abruptly(caller: Caller, _call: Call) -> None:
    """A reset of the connection."""
    caller.vanish()


leaves = pytest.mark.parametrize("leave", [politely, abruptly])
breaks_off = pytest.mark.parametrize("how", ["cut", "vanish"])


def assert_gone(combination: Combination, path: str, status: int) -> None:
    line = combination.line(path)
    assert (line["status"], line["reason"], line["level"]) == (status, "CLIENT_GONE", "INFO")
    combination.assert_free()


def assert_going_on(combination: Combination, caller: Caller) -> None:
    """Of HTTP/2 only one stream was over; of HTTP/1.1 the connection is, and others are served."""
    combination.target.handler = Served.answer
    if combination.front == "h1":
        assert caller.is_gone()
        caller = combination.caller()
    assert caller.ask("POST", combination.path(), body=b"abc").body == b"ok"


def assert_problem(combination: Combination, response: Response, path: str, status: int, reason: str) -> None:
    assert (response.status, json.loads(response.body)["reason"]) == (status, reason)
    assert response.header("Content-Type") == "application/problem+json"
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (status, reason)
    combination.assert_free()


# --- the client leaves ---------------------------------------------------------------------------------------------------


@leaves
def test_client_leaves_before_the_head(combination: Combination, leave: Leave) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("GET", path)
    served = combination.target.next()
    assert combination.gateway.in_use() == {"in_flight": 1, "active": 1, "pending": 0}
    leave(caller, call)
    served.wait_until_left()
    assert_gone(combination, path, 499)


@leaves
def test_client_leaves_in_the_body(combination: Combination, leave: Leave) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("GET", path)
    served = combination.target.next()
    served.head(200)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    leave(caller, call)
    served.wait_until_left()
    assert_gone(combination, path, 200)
    assert combination.line(path)["bytes_out"] == 3


@leaves
@pytest.mark.parametrize("length", [100, None])
def test_client_leaves_during_its_upload(combination: Combination, leave: Leave, length: int | None) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=length)
    call.send(b"abc")
    served = combination.target.next()
    assert served.read(3) == b"abc"
    leave(caller, call)
    served.wait_until_left()
    assert_gone(combination, path, 499)
    assert combination.line(path)["bytes_in"] == 3


@leaves
def test_client_leaves_during_both(combination: Combination, leave: Leave) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=None)
    call.send(b"abc")
    served = combination.target.next()
    assert served.read(3) == b"abc"
    served.head(200)
    served.send(b"def")
    assert call.read(3) == b"def"
    leave(caller, call)
    served.wait_until_left()
    assert_gone(combination, path, 200)


@leaves
def test_client_leaves_while_the_gateway_waits_for_it_to_read(combination: Combination, leave: Leave) -> None:
    is_stuck, has_left = threading.Event(), threading.Event()

    def pour(served: Served) -> None:
        served.head(200, length=2**27)
        served.send_while_taken(2**26)
        is_stuck.set()
        served.wait_until_left()
        has_left.set()

    combination.target.handler = pour
    path, caller = combination.path(), combination.caller(receive_bytes=4096)
    call = caller.open("GET", path)
    assert call.head().status == 200
    call.stall()
    assert is_stuck.wait(10)
    leave(caller, call)
    assert has_left.wait(10)
    assert_gone(combination, path, 200)


def test_others_go_on_when_a_client_leaves(combination: Combination) -> None:
    """The target's connection, if it is shared, and the client's, if it is."""
    first = combination.caller()
    second = first if combination.front == "h2" else combination.caller()
    calls = [first.open("GET", combination.path()), second.open("GET", combination.path())]
    all_served = [combination.target.next() for _ in calls]
    all_served.sort(key=lambda served: served.request.target)
    calls[0].leave()
    all_served[0].wait_until_left()
    all_served[1].answer(b"still here")
    assert calls[1].response().body == b"still here"
    combination.assert_free()


# --- the target breaks off -----------------------------------------------------------------------------------------------


@breaks_off
def test_target_breaks_off_before_the_head(combination: Combination, how: str) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=3)
    call.send(b"abc")
    call.end()
    served = combination.target.next()
    assert served.rest() == b"abc"
    served.cut_or_vanish(how)
    response = call.response()
    assert_problem(combination, response, path, 502, "UPSTREAM_RESET")
    assert response.header("Proxy-Status") == "txgateway; error=connection_terminated"
    combination.target.handler = Served.answer
    assert caller.ask("GET", combination.path()).body == b"ok"  # the client's connection goes on


@breaks_off
@pytest.mark.parametrize("length", [10, None])
def test_target_breaks_off_in_the_body(combination: Combination, how: str, length: int | None) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("GET", path)
    served = combination.target.next()
    served.head(200, length=length)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    served.cut_or_vanish(how)
    assert call.is_cut()
    line = combination.line(path)
    assert (line["status"], line["reason"], line["bytes_out"]) == (200, "UPSTREAM_RESET", 3)
    combination.assert_free()
    assert_going_on(combination, caller)


@breaks_off
def test_target_breaks_off_behind_the_head(combination: Combination, how: str) -> None:
    """Nothing of the body has come: even so there is no end of it."""
    path, caller = combination.path(), combination.caller()
    call = caller.open("GET", path)
    served = combination.target.next()
    served.head(200)
    assert call.head().status == 200
    served.cut_or_vanish(how)
    assert call.is_cut()
    assert combination.line(path)["reason"] == "UPSTREAM_RESET"
    combination.assert_free()


@breaks_off
def test_target_breaks_off_during_the_upload(combination: Combination, how: str) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=100)
    call.send(b"abc")
    served = combination.target.next()
    assert served.read(3) == b"abc"
    served.cut_or_vanish(how)
    assert_problem(combination, call.response(), path, 502, "UPSTREAM_RESET")
    assert_going_on(combination, caller)


@breaks_off
def test_target_breaks_off_during_both(combination: Combination, how: str) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=None)
    call.send(b"abc")
    served = combination.target.next()
    assert served.read(3) == b"abc"
    served.head(200)
    served.send(b"def")
    assert call.read(3) == b"def"
    served.cut_or_vanish(how)
    assert call.is_cut()
    assert combination.line(path)["reason"] == "UPSTREAM_RESET"
    combination.assert_free()
    assert_going_on(combination, caller)


def test_target_ends_short_of_what_it_declared(combination: Combination) -> None:
    """HTTP/1.1: the connection's end; HTTP/2: END_STREAM, which is malformed."""
    path, caller = combination.path(), combination.caller()
    call = caller.open("GET", path)
    served = combination.target.next()
    served.head(200, length=10)
    served.send(b"abc")
    assert call.read(3) == b"abc"
    served.vanish() if combination.behind == "h1" else served.end()
    assert call.is_cut()
    reason = "UPSTREAM_RESET" if combination.behind == "h1" else "UPSTREAM_PROTOCOL_ERROR"
    assert combination.line(path)["reason"] == reason
    combination.assert_free()


# --- early answers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1000, None])
def test_upload_beyond_the_limit_gets_an_answer(combination: Combination, length: int | None) -> None:
    path, caller = combination.path("small"), combination.caller()
    other = caller.open("GET", combination.path()) if combination.front == "h2" else None
    other_served = combination.target.next() if other is not None else None
    call = caller.open("POST", path, length=length)
    if length is None:
        call.send(b"x" * 10)
        served = combination.target.next()
        assert served.read(10) == b"x" * 10
        call.send(b"x")
        served.wait_until_left()
    assert_413(call.response())
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (413, "BODY_TOO_LARGE")
    if other is not None and other_served is not None:
        other_served.answer(b"other")
        assert other.response().body == b"other"
    assert not combination.target.has_next()
    combination.assert_free()
    assert_going_on(combination, caller)


def assert_413(response: Response) -> None:
    assert (response.status, json.loads(response.body)["reason"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("length", [10**6, None])
def test_answer_of_the_target_before_the_body_is_sent(combination: Combination, length: int | None) -> None:
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=length)
    call.send(b"abc")
    served = combination.target.next()
    assert served.read(3) == b"abc"
    served.head(401, ("WWW-Authenticate", "Basic"), length=2)
    served.send(b"no")
    served.end()
    response = call.response()
    assert (response.status, response.body, response.header("WWW-Authenticate")) == (401, b"no", "Basic")
    if isinstance(caller, H2Caller):  # the client may stop (RFC 9113 section 8.1)
        assert caller.client.reset_code(1) == NO_ERROR
    served.wait_until_left()
    line = combination.line(path)
    assert (line["status"], line["reason"]) == (401, None)
    combination.assert_free()
    assert_going_on(combination, caller)


def test_early_answer_is_whole_however_much_the_client_still_sends(combination: Combination) -> None:
    """The client is in the middle of sending, and looks only when it cannot send any more."""

    def refuse(served: Served) -> None:
        served.read(1)
        served.head(403, length=200_000)
        served.send(b"n" * 200_000)
        served.end()
        served.wait_until_left()

    combination.target.handler = refuse
    path, caller = combination.path(), combination.caller()
    call = caller.open("POST", path, length=None)
    send_as_far_as_wanted(call, b"x" * 65536, 40)
    response = call.response()
    assert (response.status, len(response.body)) == (403, 200_000)
    combination.assert_free()
    assert_going_on(combination, caller)


def send_as_far_as_wanted(call: Call, piece: bytes, times: int) -> int:
    """HTTP/2 tells when to stop; HTTP/1.1 reads and drops it."""
    for number in range(times):
        try:
            call.send(piece)
        except AssertionError:  # reset: no more of it
            return number
    return times
