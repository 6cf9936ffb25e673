"""Whole exchanges in all four combinations of versions: methods, bodies, informational responses, trailers, reuse."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.integration.client import Response
from tests.integration.combinations import Combination
from tests.integration.combined_target import Served

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def is_said(response: Response, length: int) -> bool:
    return response.header("Content-Length") == str(length)


# --- methods and bodies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_methods_without_a_body(combination: Combination, method: str) -> None:
    path = combination.path()
    call = combination.caller().open(method, f"{path}?a=1&b=%20")
    served = combination.target.next()
    assert (served.request.method, served.request.target) == (method, f"{path}?a=1&b=%20".encode())
    assert served.rest() == b""
    assert not served.request.headers("Transfer-Encoding") + served.request.headers("Content-Length")
    served.head_only(200, ("Content-Length", "2")) if method == "HEAD" else served.answer(b"ok")
    response = call.response()
    assert (response.status, response.body) == (200, b"" if method == "HEAD" else b"ok")
    assert is_said(response, 2)


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("is_known", [True, False])
def test_methods_with_a_body(combination: Combination, method: str, is_known: bool) -> None:
    call = combination.caller().open(method, combination.path(), length=7 if is_known else None)
    call.send(b"one")
    served = combination.target.next()
    assert served.read(3) == b"one"
    call.send(b"-two")
    call.end()
    assert served.rest() == b"one-two"
    assert served.request.header("Content-Length") == ("7" if is_known else None)
    assert served.request.headers("Transfer-Encoding") == (
        [] if is_known or combination.behind == "h2" else ["chunked"]
    )
    served.answer(b"three", 201)
    response = call.response()
    assert (response.status, response.body) == (201, b"three")


def test_answers_of_known_and_unknown_length(combination: Combination) -> None:
    caller = combination.caller()
    for length in (5, None):
        call = caller.open("GET", combination.path())
        served = combination.target.next()
        served.head(200, length=length)
        served.send(b"ab")
        assert call.read(2) == b"ab"
        served.send(b"cde")
        served.end()
        response = call.response()
        assert (response.body, response.header("Content-Length")) == (b"abcde", None if length is None else "5")


@pytest.mark.parametrize("is_known", [True, False])
def test_empty_bodies(combination: Combination, is_known: bool) -> None:
    said = [("Content-Length", "0")] if is_known else []
    caller, path = combination.caller(), combination.path()
    for _ in range(3):  # a head that repeats is not read again
        call = caller.open("POST", path, *said, length=0 if is_known else None)
        if not is_known:
            call.end()
        served = combination.target.next()
        assert served.rest() == b""
        served.head(200, length=0 if is_known else None)
        served.end()
        response = call.response()
        assert (response.status, response.body) == (200, b"")
        if is_known:
            assert served.request.header("Content-Length") == "0"
            assert is_said(response, 0)


@pytest.mark.parametrize(("method", "status", "length"), [
    ("HEAD", 200, "1234"), ("GET", 304, "1234"), ("GET", 204, None), ("HEAD", 404, None),
])  # fmt: skip
def test_answers_that_are_heads_only(combination: Combination, method: str, status: int, length: str | None) -> None:
    caller = combination.caller()
    call = caller.open(method, combination.path())
    said = [] if length is None else [("Content-Length", length)]
    combination.target.next().head_only(status, ("ETag", '"x"'), *said)
    response = call.response()
    assert (response.status, response.body, response.header("ETag")) == (status, b"", '"x"')
    assert response.header("Content-Length") == length
    combination.target.handler = Served.answer
    assert caller.ask("GET", combination.path()).body == b"ok"  # nothing is left over on either connection


# --- informational responses ---------------------------------------------------------------------------------------------


def test_early_hints_are_relayed_as_they_come(combination: Combination) -> None:
    call = combination.caller().open("GET", combination.path())
    served = combination.target.next()
    for number in range(2):
        served.inform(103, ("Link", f"</{number}.css>; rel=preload"))
        hint = call.inform()
        assert (hint.status, hint.header("Link")) == (103, f"</{number}.css>; rel=preload")
    served.answer()
    assert call.response().body == b"ok"
    assert len(call.informational) == 2


def test_client_that_waits_is_invited(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path(), ("Expect", "100-continue"), length=3)
    assert call.inform().status == 100
    call.send(b"abc")
    call.end()
    served = combination.target.next()
    assert (served.rest(), served.request.headers("Expect")) == (b"abc", [])
    served.answer()
    assert call.response().status == 200


def test_client_that_is_refused_is_not_invited(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path("small"), ("Expect", "100-continue"), length=30)
    response = call.response()
    assert (response.status, response.json()["reason"], call.informational) == (413, "BODY_TOO_LARGE", [])
    assert not combination.target.has_next()


def test_targets_own_invitation_is_not_relayed(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path(), length=3)
    served = combination.target.next()
    served.inform(100)
    served.inform(103)
    assert call.inform().status == 103
    call.send(b"abc")
    call.end()
    served.answer()
    assert [head.status for head in call.response().informational] == [103]


# --- trailers ------------------------------------------------------------------------------------------------------------


def test_trailers_of_requests(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path(), ("Trailer", "X-Sum"), length=None)
    call.send(b"abc")
    call.end(("X-Sum", "1"), ("X-Sum", "2"), ("X-More", "é"))
    served = combination.target.next()
    assert served.rest() == b"abc"
    assert [(name.lower(), value) for name, value in served.trailers] == [
        ("x-sum", "1"), ("x-sum", "2"), ("x-more", "é"),
    ]  # fmt: skip
    served.answer()
    assert call.response().status == 200


def test_trailers_of_a_request_without_a_body(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path(), length=None)
    call.end(("X-Sum", "0"))
    served = combination.target.next()
    assert (served.rest(), len(served.trailers)) == (b"", 1)
    served.answer()
    assert call.response().status == 200


@pytest.mark.parametrize("body", [b"", b"abc"])
def test_trailers_of_answers(combination: Combination, body: bytes) -> None:
    call = combination.caller().open("GET", combination.path(), ("TE", "trailers"))
    served = combination.target.next()
    assert served.request.header("TE") == "trailers"
    served.head(200, ("Trailer", "X-Sum"))
    if body:
        served.send(body)
    served.end(("X-Sum", "1"), ("X-More", "2"))
    response = call.response()
    assert response.body == body
    assert [(name.lower(), value) for name, value in response.trailers] == [("x-sum", "1"), ("x-more", "2")]


def test_trailers_that_belong_into_a_head_are_dropped(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path(), length=None)
    call.end(("Host", "evil.test"), ("Content-Length", "7"), ("Authorization", "x"), ("X-Sum", "1"))
    served = combination.target.next()
    served.rest()
    assert [(name.lower(), value) for name, value in served.trailers] == [("x-sum", "1")]
    served.head(200)
    served.end(("Content-Length", "7"), ("Set-Cookie", "a=b"), ("X-Sum", "1"))
    assert [(name.lower(), value) for name, value in call.response().trailers] == [("x-sum", "1")]


# --- connections ---------------------------------------------------------------------------------------------------------


def test_one_connection_on_either_side_serves_one_request_after_the_other(combination: Combination) -> None:
    combination.target.handler = lambda served: served.answer(served.rest())
    caller, connections = combination.caller(), set()
    for number in range(10):
        body = b"%d" % number
        assert caller.ask("POST", combination.path(), body=body).body == body
        connections.add(combination.target.next().request.connection)
    assert len(connections) == 1


def test_requests_at_the_same_time_share_a_connection_if_they_can(combination: Combination) -> None:
    count = 10
    callers = (
        [combination.caller()] * count if combination.front == "h2" else [combination.caller() for _ in range(count)]
    )
    calls = [caller.open("GET", combination.path()) for caller in callers]
    all_served = [combination.target.next() for _ in calls]
    for served in reversed(all_served):
        served.answer(served.request.target)
    bodies = [call.response().body for call in calls]
    assert sorted(bodies) == sorted(served.request.target for served in all_served)
    assert len(set(bodies)) == count
    connections = {served.request.connection for served in all_served}
    assert len(connections) == (1 if combination.behind == "h2" else count)
    combination.assert_free()


def test_answers_that_overtake_each_other_find_their_requests(combination: Combination) -> None:
    """Each of many requests, of many clients, gets its own answer, whatever comes first."""
    gate = threading.Barrier(8)

    def mirror(served: Served) -> None:
        gate.wait(10)  # all eight are here
        served.answer(served.request.target * 3000)

    combination.target.handler = mirror

    def ask(number: int) -> bool:
        path = f"{combination.path()}/{number}"
        return combination.caller().ask("GET", path).body == path.encode() * 3000

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(24)))


# --- the record ----------------------------------------------------------------------------------------------------------


def test_log_and_metrics_know_the_version(combination: Combination) -> None:
    front, behind = combination.front, combination.behind
    before = combination.gateway.metric("gateway_connections", protocol=front)
    caller = combination.caller()
    combination.gateway.wait_for_metric("gateway_connections", before + 1, protocol=front)
    combination.target.handler = Served.answer
    path = combination.path()
    caller.ask("POST", path, body=b"12345")
    line = combination.line(path)
    assert line["protocol"] == caller.version
    assert (line["method"], line["status"], line["reason"], line["attempts"]) == ("POST", 200, None, 1)
    assert (line["bytes_in"], line["bytes_out"], line["route"]) == (5, 2, f"{behind}-plain")
    assert line["target"] == f"127.0.0.1:{combination.target.backend.port}"
    caller.close()
    combination.gateway.wait_for_metric("gateway_connections", before, protocol=front)
