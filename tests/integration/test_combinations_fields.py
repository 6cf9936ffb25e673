"""Heads in all four combinations of versions: what passes, what stays on its hop, and what the gateway says itself."""

from __future__ import annotations

import re
from typing import Final

import pytest
from tests.integration.client import Head
from tests.integration.combinations import Combination
from tests.integration.combined_client import Field
from tests.integration.combined_target import Served
from tests.integration.secure import HOST
from tests.integration.wire import Fields

#: Names with values that are hard to carry.
HARD: Final[list[Field]] = [
    ("X-Repeated", "1"), ("X-Other", "between"), ("X-Repeated", "2"), ("X-Repeated", "1"),
    ("X-Empty", ""), ("X-Comma", "a, b,,c"), ("X-Quoted", '"a\\\\" b"'), ("X-Inner", "a  b\tc"),
    ("X-Latin", "gr\xfc\xdf"), ("X-Colon", ": :"), ("X-Long", "x" * 6000), ("x-!#$%&'*+-.^`|~09", "token"),
]  # fmt: skip
#: Of a connection of HTTP/1.1, with what it names.
HOP: Final[list[Field]] = [
    ("Connection", "keep-alive, X-Hop"), ("X-Hop", "1"), ("Keep-Alive", "timeout=5"), ("Proxy-Connection", "keep-alive"),
]  # fmt: skip
HOP_NAMES = {"connection", "x-hop", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"}


def exchanged(combination: Combination, *sent: Field, answered: tuple[Field, ...] = ()) -> tuple[Served, Head]:
    """One request and its answer, as they arrived."""
    call = combination.caller().open("GET", combination.path(), *sent)
    served = combination.target.next()
    served.answer(b"ok", 200, *answered)
    return served, call.response()


def ours(fields: Fields, wanted: list[Field]) -> Fields:
    """What arrived of these names, which are lowered."""
    names = {name.lower() for name, _ in wanted}
    return [(name.lower(), value) for name, value in fields if name.lower() in names]


def lowered(fields: list[Field]) -> Fields:
    return [(name.lower(), value) for name, value in fields]


# --- what passes ---------------------------------------------------------------------------------------------------------


def test_repeated_and_hard_fields_pass_both_ways_in_order(combination: Combination) -> None:
    served, response = exchanged(combination, *HARD, answered=tuple(HARD))
    assert ours(served.request.fields, HARD) == lowered(HARD)
    assert ours(response.fields, HARD) == lowered(HARD)


def test_many_fields_pass_both_ways(combination: Combination) -> None:
    sent = [(f"X-Field-{number}", "v" * number) for number in range(85)]
    answered = [(f"X-Field-{number}", "v" * number) for number in range(150)]
    served, response = exchanged(combination, *sent, answered=tuple(answered))
    assert ours(served.request.fields, sent) == lowered(sent)
    assert ours(response.fields, answered) == lowered(answered)


def test_heads_that_differ_from_request_to_request_are_not_mixed_up(combination: Combination) -> None:
    caller = combination.caller()
    for number in (1, 2, 1, 1, 3):
        fields = [("X-Same", "same"), ("X-Number", str(number))]
        call = caller.open("GET", combination.path(), *fields)
        served = combination.target.next()
        served.answer(b"ok", 200, *fields)
        assert ours(served.request.fields, fields) == ours(call.response().fields, fields) == lowered(fields)


def test_names_keep_their_spelling_as_far_as_the_versions_allow(combination: Combination) -> None:
    name = "x-MiXeD-Name"
    served, response = exchanged(combination, (name, "1"), answered=((name, "1"),))
    is_kept = (combination.front, combination.behind) == ("h1", "h1")
    expected = name if is_kept else name.lower()
    assert (expected, "1") in served.request.fields
    assert (expected, "1") in response.fields
    if combination.behind == "h2":
        assert all(found == found.lower() for found, _ in served.request.fields)


def test_pieces_of_a_cookie_are_one_field_at_the_target(combination: Combination) -> None:
    if combination.front == "h2":
        served, _ = exchanged(combination, ("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2"), ("cookie", "c=3; d=4"))
    else:
        served, _ = exchanged(combination, ("Cookie", "a=1; b=2; c=3; d=4"))
    assert "; ".join(served.request.headers("Cookie")) == "a=1; b=2; c=3; d=4"
    if combination.behind == "h1":
        assert len(served.request.headers("Cookie")) == 1


def test_cookies_of_answers_stay_apart(combination: Combination) -> None:
    cookies = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("Set-Cookie", "a=3, x")]
    _, response = exchanged(combination, answered=tuple(cookies))
    assert response.headers("Set-Cookie") == [value for _, value in cookies]


@pytest.mark.parametrize("status", [200, 201, 206, 299, 301, 400, 404, 418, 451, 500, 599])
def test_statuses_pass(combination: Combination, status: int) -> None:
    call = combination.caller().open("GET", combination.path())
    combination.target.next().answer(b"body", status, ("Location", "/elsewhere"))
    response = call.response()
    assert (response.status, response.body, response.header("Location")) == (status, b"body", "/elsewhere")


# --- what does not -------------------------------------------------------------------------------------------------------


def test_fields_of_a_connection_stay_there(combination: Combination) -> None:
    """HTTP/2 has none of them, so they come from where HTTP/1.1 is spoken."""
    sent = HOP if combination.front == "h1" else []
    answered = HOP if combination.behind == "h1" else []
    served, response = exchanged(combination, *sent, answered=tuple(answered))
    assert HOP_NAMES.isdisjoint(name.lower() for name, _ in served.request.fields)
    assert HOP_NAMES.isdisjoint(name.lower() for name, _ in response.fields)


def test_te_says_trailers_and_nothing_else(combination: Combination) -> None:
    served, _ = exchanged(combination, ("TE", "trailers" if combination.front == "h2" else "deflate, trailers;q=1"))
    expected = ["trailers"] if combination.front == "h2" else []
    assert served.request.headers("TE") in (expected, ["trailers"])
    assert served.request.headers("Connection") == (
        ["TE"] if combination.behind == "h1" and served.request.headers("TE") else []
    )


def test_date_is_the_targets_or_the_gateways(combination: Combination) -> None:
    date = "Tue, 15 Nov 1994 08:12:31 GMT"
    _, response = exchanged(combination, answered=(("Date", date), ("Server", "x/1.0")))
    assert (response.headers("Date"), response.headers("Server")) == ([date], ["x/1.0"])
    _, response = exchanged(combination)
    assert len(response.headers("Date")) == 1
    assert response.headers("Server") == []


# --- what the gateway says -----------------------------------------------------------------------------------------------


def test_host_and_authority(combination: Combination) -> None:
    served, _ = exchanged(combination, ("Host", "api.test:8080"))
    assert served.host == f"127.0.0.1:{combination.target.backend.port}"
    assert served.request.headers("Host") == ([served.host] if combination.behind == "h1" else [])
    assert served.request.headers("X-Forwarded-Host") == ["api.test:8080"]


def test_pseudo_fields_at_the_target(combination: Combination) -> None:
    call = combination.caller().open("DELETE", f"{combination.path()}?a=%2F&b")
    served = combination.target.next()
    served.answer()
    call.response()
    assert served.request.target.endswith(b"?a=%2F&b")
    if combination.behind == "h2":
        pseudo = getattr(served.request, "pseudo")  # noqa: B009 -- HTTP/2 only
        assert pseudo == {
            ":method": "DELETE", ":scheme": "http", ":authority": served.host,
            ":path": served.request.target.decode(),
        }  # fmt: skip


def test_via_tells_the_version_that_a_message_came_in(combination: Combination) -> None:
    caller = combination.caller()
    call = caller.open("GET", combination.path(), ("Via", "1.0 outer"))
    served = combination.target.next()
    served.answer(b"ok", 200, ("Via", "1.0 inner"))
    assert ", ".join(served.request.headers("Via")) == f"1.0 outer, {caller.via}"
    assert ", ".join(call.response().headers("Via")) == f"1.0 inner, {combination.target.version} txgateway"


def test_target_is_told_of_the_client_and_claims_are_replaced(combination: Combination) -> None:
    claims = (
        ("X-Forwarded-For", "203.0.113.9"), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "claimed.test"),
        ("X-Real-IP", "203.0.113.9"), ("Forwarded", "for=203.0.113.9"), ("X-Request-ID", "claimed"),
    )  # fmt: skip
    served, response = exchanged(combination, *claims)
    expected = {
        "X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "http", "X-Forwarded-Host": HOST,
        "X-Forwarded-Port": str(combination.gateway.port), "X-Real-IP": "127.0.0.1",
        "Forwarded": f"for=127.0.0.1;host={HOST};proto=http",
    }  # fmt: skip
    assert {name: served.request.header(name) for name in expected} == expected
    assert re.fullmatch(r"[0-9a-f]{32}", served.request.header("X-Request-ID") or "")
    assert response.header("X-Request-ID") == served.request.header("X-Request-ID")


def test_one_connection_tells_each_host_apart(combination: Combination) -> None:
    caller = combination.caller()
    for host in ("a.test", "b.test", "a.test", "a.test"):
        call = caller.open("GET", combination.path(), ("Host", host))
        served = combination.target.next()
        served.answer()
        call.response()
        assert served.request.header("X-Forwarded-Host") == host


def test_error_of_the_gateway_itself(combination: Combination) -> None:
    caller = combination.caller()
    response = caller.ask("GET", f"/nowhere{combination.path()}")
    assert (response.status, response.json()["reason"]) == (404, "NO_ROUTE")
    assert response.header("Content-Type") == "application/problem+json"
    assert response.headers("Via") == []
    assert caller.ask("GET", f"/nowhere{combination.path()}").status == 404
