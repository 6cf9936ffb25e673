"""Bodies in all four combinations of versions: they flow as they come, at the pace of the slower side, byte for byte."""

from __future__ import annotations

import hashlib
import threading

import pytest
from tests.integration.combinations import Combination
from tests.integration.combined_client import Call
from tests.integration.combined_target import Served

MIB = 2**20
LARGE = bytes(range(256)) * (3 * MIB // 256) + b"the end"
#: More than windows and the kernel's buffers hold together.
ENDLESS_BYTES = 64 * MIB
#: What may be on the way when one side has stopped: those buffers, and a little of the gateway's own.
ON_THE_WAY_BYTES = 40 * MIB
#: The same where a window of HTTP/2 keeps the target from filling the kernel's buffers on its side.
WINDOWED_BYTES = 8 * MIB
#: What the process may grow by, however much passes.
GROWTH_BYTES = 8 * MIB


def same(one: bytes, other: bytes) -> bool:
    """Compares what is too long to be printed."""
    return hashlib.sha256(one).digest() == hashlib.sha256(other).digest()


# --- as it comes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [9, None])
def test_answer_arrives_piece_by_piece(combination: Combination, length: int | None) -> None:
    """The next piece is made only when the one before it has arrived."""
    call = combination.caller().open("GET", combination.path())
    served = combination.target.next()
    served.head(200, length=length)
    assert call.head().status == 200
    for piece in (b"one", b"two", b"six"):
        served.send(piece)
        assert call.read(3) == piece
    served.end()
    assert call.response().body == b"onetwosix"


@pytest.mark.parametrize("length", [9, None])
def test_request_arrives_piece_by_piece(combination: Combination, length: int | None) -> None:
    call = combination.caller().open("POST", combination.path(), length=length)
    served = combination.target.next()  # before any of the body is sent
    for piece in (b"one", b"two", b"six"):
        call.send(piece)
        assert served.read(3) == piece
    call.end()
    assert served.rest() == b"onetwosix"
    served.answer()
    assert call.response().status == 200


def test_both_halves_converse(combination: Combination) -> None:
    call = combination.caller().open("POST", combination.path(), length=None)
    served = combination.target.next()
    served.head(200)
    assert call.head().status == 200
    for word in (b"one", b"two", b"six"):
        call.send(word)
        served.send(served.read(3).upper())
        assert call.read(3) == word.upper()
    call.end(("X-Sum", "1"))
    assert served.rest() == b"onetwosix"
    assert len(served.trailers) == 1
    served.end(("X-Sum", "2"))
    response = call.response()
    assert (response.body, response.trailers[0][1]) == (b"ONETWOSIX", "2")


def test_answer_may_end_after_a_half_that_came_before(combination: Combination) -> None:
    """The request ends long after the answer began, and long before it ends."""
    call = combination.caller().open("POST", combination.path(), length=None)
    served = combination.target.next()
    served.head(200)
    served.send(b"first")
    assert call.read(5) == b"first"
    call.send(b"question")
    call.end()
    assert served.rest() == b"question"
    served.send(b"second")
    assert call.read(6) == b"second"
    served.end()
    assert call.response().body == b"firstsecond"


# --- large ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_known", [True, False])
def test_large_bodies_pass_byte_for_byte(combination: Combination, is_known: bool) -> None:
    def mirror(served: Served) -> None:
        body = served.rest()
        served.head(200, length=len(body) if is_known else None)
        served.send(body)
        served.end()

    combination.target.handler = mirror
    path = combination.path()
    call = combination.caller().open("PUT", path, length=len(LARGE) if is_known else None)
    call.send(LARGE)
    call.end()
    assert same(call.response().body, LARGE)
    assert same(combination.target.next().request.body, LARGE)
    line = combination.line(path)
    assert (line["bytes_in"], line["bytes_out"]) == (len(LARGE), len(LARGE))
    combination.assert_free()


def test_large_bodies_pass_both_ways_at_once(combination: Combination) -> None:
    """Each piece goes back while the next comes."""
    size = 64 * 1024

    def echo(served: Served) -> None:
        served.head(200)
        for _ in range(24):
            served.send(served.read(size))
        served.rest()
        served.end()

    combination.target.handler = echo
    call = combination.caller().open("POST", combination.path(), length=None)
    for number in range(24):
        piece = bytes([number]) * size
        call.send(piece)
        assert same(call.read(size), piece)
    call.end()
    assert len(call.response().body) == 24 * size


def test_answers_of_many_streams_do_not_get_into_each_other(combination: Combination) -> None:
    if combination.front == "h1":
        callers = [combination.caller() for _ in range(6)]
    else:
        callers = [combination.caller()] * 6
    combination.target.handler = lambda served: served.answer(served.request.target[-1:] * 200_000)
    calls = [caller.open("GET", f"{combination.path()}/{number}") for number, caller in enumerate(callers)]
    for number, call in enumerate(calls):
        assert same(call.response().body, b"%d" % number * 200_000)


# --- at the pace of the slower side --------------------------------------------------------------------------------------


def test_client_that_does_not_read_pauses_the_target(combination: Combination) -> None:
    taken: list[int] = []
    is_stuck = threading.Event()

    def pour(served: Served) -> None:
        served.head(200, length=ENDLESS_BYTES)
        taken.append(served.send_while_taken(ENDLESS_BYTES - 1))
        is_stuck.set()
        served.send(b"x" * MIB)
        served.wait_until_left()

    combination.target.handler = pour
    before = combination.gateway.resident_bytes()
    caller = combination.caller(receive_bytes=64 * 1024)
    call = caller.open("GET", combination.path())
    assert call.head().status == 200
    call.stall()
    assert is_stuck.wait(10)
    assert taken[0] < (WINDOWED_BYTES if combination.behind == "h2" else ON_THE_WAY_BYTES)
    assert combination.gateway.resident_bytes() - before < GROWTH_BYTES
    if combination.front == "h2":  # nobody else waits for it
        combination.target.handler = Served.answer
        assert caller.ask("GET", combination.path()).body == b"ok"
    call.resume()
    assert_zeros_then_x(call, taken[0])
    call.leave()
    combination.assert_free()
    assert combination.gateway.resident_bytes() - before < GROWTH_BYTES


def assert_zeros_then_x(call: Call, zeros: int) -> None:
    """What was on the way arrives, and what is made after it."""
    left = zeros
    while left:
        size = min(left, MIB)
        assert same(call.read(size), bytes(size))
        left -= size
    assert call.read(100) == b"x" * 100


def test_target_that_does_not_read_pauses_the_client(combination: Combination) -> None:
    go_on = threading.Event()
    sizes: list[int] = []

    def sip(served: Served) -> None:
        assert go_on.wait(20)
        body = served.rest()
        sizes.append(len(body))
        assert same(body, bytes(len(body) - 3) + b"end")
        served.answer()

    combination.target.handler = sip
    before = combination.gateway.resident_bytes()
    caller = combination.caller()
    call = caller.open("POST", combination.path(), length=None)
    sent = call.send_while_taken(ENDLESS_BYTES)
    assert sent < (WINDOWED_BYTES if combination.front == "h2" else ON_THE_WAY_BYTES)
    assert combination.gateway.resident_bytes() - before < GROWTH_BYTES
    if combination.front == "h2":  # nobody else waits for it
        combination.target.handler = Served.answer
        assert caller.ask("POST", combination.path(), body=b"abc").body == b"ok"
    go_on.set()
    call.send(bytes(100_000))
    call.send(b"end")
    call.end()
    assert call.response().status == 200
    assert sizes == [sent + 100_003]
    assert combination.gateway.resident_bytes() - before < GROWTH_BYTES
    combination.assert_free()
