"""Request bodies of attempts after the first: all of them, once each, at the pace of who takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.logs import logged
from tests.unit.proxy.retrying import GET, RetryingGateway, answered, problem
from tests.unit.support import MemoryClient, MemoryTarget, message

PUT = message(b"/", b"Content-Length: 5", method=b"PUT")
CHUNKED = message(b"/", b"Transfer-Encoding: chunked", method=b"PUT")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
BUFFER_BYTES = 65536


def taken(target: MemoryTarget) -> tuple[bytes, list[bytes]]:
    """The one request body that a target has received, and its trailer lines."""
    head, end, rest = target.received().partition(b"\r\n\r\n")
    assert end
    lines = head.split(b"\r\n")
    lengths = [int(line.partition(b": ")[2]) for line in lines if line.lower().startswith(b"content-length")]
    if b"Transfer-Encoding: chunked" not in lines:
        assert lengths == [len(rest)]
        return rest, []
    assert lengths == []
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        assert end
        if size == b"0":
            break
        body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    *trailers, empty, nothing = rest.split(b"\r\n")
    assert (empty, nothing) == (b"", b"")
    return body, trailers


def finish(gateway: RetryingGateway, client: MemoryClient, name: str = "two") -> None:
    gateway.at(name).answer()
    assert answered(client) == (200, b"ok")
    gateway.assert_clean()


def refuse(gateway: RetryingGateway) -> None:
    gateway.at("one").answer(b"busy", status=b"503 Busy")


def reset(gateway: RetryingGateway) -> None:
    gateway.at("one").reset()


FAILURES = [reset, refuse]
Fail = Callable[[RetryingGateway], None]


# --- bodies in pieces, before, during and after -----------------------------------------------------------------------


@pytest.mark.parametrize("fail", FAILURES)
@pytest.mark.parametrize(
    ("reads", "body", "trailers"),
    [
        ([PUT, b"hello"], b"hello", []),
        ([PUT, b"h", b"e", b"l", b"l", b"o"], b"hello", []),
        ([PUT + b"he", b"llo"], b"hello", []),
        ([CHUNKED, b"5\r\nhello\r\n", b"0\r\n\r\n"], b"hello", []),
        ([CHUNKED, b"2\r\nhe\r\n", b"3\r\nll", b"o\r\n", b"0\r\nX-T: 1\r\n\r\n"], b"hello", [b"X-T: 1"]),
        ([CHUNKED, b"0\r\nX-T: 1\r\nX-U: 2\r\n\r\n"], b"", [b"X-T: 1", b"X-U: 2"]),
        ([CHUNKED, b"0\r\n\r\n"], b"", []),
    ],
)
def test_body_is_whole_wherever_the_failure_falls(
    fail: Fail, reads: list[bytes], body: bytes, trailers: list[bytes]
) -> None:
    for before in range(1, len(reads) + 1):
        gateway = RetryingGateway()
        client = gateway.connect().send(*reads[:before])
        fail(gateway)
        client.send(*reads[before:])
        assert taken(gateway.at("two")) == (body, trailers)
        finish(gateway, client)
        assert gateway.log[-1].bytes_in == len(body)


@given(is_chunked=st.booleans(), data=st.data())
def test_no_byte_is_lost_or_doubled(is_chunked: bool, data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.binary(min_size=1, max_size=20), min_size=1, max_size=6))
    body = b"".join(pieces)
    trailers = [b"X-T: 1"] if is_chunked and data.draw(st.booleans()) else []
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    reads = [b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece for piece in pieces]
    if is_chunked:
        reads.append(b"0\r\n" + b"".join(line + b"\r\n" for line in trailers) + b"\r\n")
    wire = message(b"/", length, method=b"PUT") + b"".join(reads)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(wire) - 1), max_size=8)))
    reads = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    fails_at = sorted(data.draw(st.lists(st.integers(0, len(reads)), max_size=2)))
    waits = data.draw(st.booleans())

    gateway = RetryingGateway(3, RETRY_BACKOFF="1s" if waits else "0", RETRY_BACKOFF_MAX="1s")
    client = gateway.connect()
    names = iter(("one", "two", "three"))
    name = next(names)
    for number, read in enumerate([*reads, b""]):
        for _ in range(fails_at.count(number)):
            gateway.wait(1.1 if waits and data.draw(st.booleans()) else 0)
            if gateway.dialer_of(name).targets and not gateway.at(name).closed:
                gateway.at(name).reset()
                name = next(names)
        client.send(read)
    gateway.wait(2.2)
    assert taken(gateway.at(name)) == (body, trailers)
    finish(gateway, client, name)


@pytest.mark.parametrize("fail", FAILURES)
def test_body_that_comes_during_the_wait_is_not_read_before_it_is_over(fail: Fail) -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="1s", RETRY_BACKOFF_MAX="1s")
    client = gateway.connect().send(PUT, b"he")
    fail(gateway)
    assert not client.transport.is_reading
    client.send(b"llo")
    gateway.wait(1.1)
    assert client.transport.is_reading
    assert taken(gateway.at("two")) == (b"hello", [])
    finish(gateway, client)


def test_body_that_comes_in_spite_of_the_pause_is_kept_however_long_it_is() -> None:
    gateway = RetryingGateway(3, RETRY_BACKOFF="1s", RETRY_BACKOFF_MAX="1s", RETRY_MAX_BODY="4")
    client = gateway.connect().send(message(b"/", b"Content-Length: 12", method=b"PUT"), b"some")
    gateway.at("one").reset()
    client.connection.dataReceived(b" more")  # as TLS may
    gateway.wait(1.1)
    client.send(b"yet")
    assert taken(gateway.at("two")) == (b"some moreyet", [])
    finish(gateway, client)


def test_upload_goes_on_to_the_second_target() -> None:
    gateway = RetryingGateway()
    client = gateway.connect().send(CHUNKED, b"2\r\nhe\r\n")
    gateway.at("one").reset()
    assert gateway.at("two").received().endswith(b"\r\n\r\n2\r\nhe\r\n")
    client.send(b"3\r\nllo\r\n")
    assert gateway.at("two").received() == b"3\r\nllo\r\n"
    client.send(b"0\r\n\r\n")
    assert gateway.at("two").received() == b"0\r\n\r\n"
    finish(gateway, client)
    client.send(GET)  # and the connection is good for more
    assert gateway.loads == [0, 1]
    finish(gateway, client)


def test_body_that_waited_for_a_connection_that_never_came_is_sent_to_the_next() -> None:
    gateway = RetryingGateway()
    gateway.dialer_of("one").holds = True
    client = gateway.connect().send(PUT.replace(b"PUT", b"POST") + b"he")
    client.send(b"llo")
    (waiting,) = gateway.dialer_of("one").waiting
    gateway.dialer_of("one").fails = True
    gateway.dialer_of("one").finish(waiting)
    gateway.clock.advance(0)
    assert taken(gateway.at("two")) == (b"hello", [])
    finish(gateway, client)


# --- how much is kept -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [99, 100, 101])
@pytest.mark.parametrize("pieces", [1, 3])
def test_larger_body_than_is_kept_is_not_sent_twice(size: int, pieces: int) -> None:
    gateway = RetryingGateway(2, RETRY_MAX_BODY="100")
    client = gateway.connect()
    with logged() as lines:
        client.send(message(b"/", b"Content-Length: %d" % size, method=b"PUT"))
        step = -(-size // pieces)
        for start in range(0, size, step):
            client.send(b"x" * min(step, size - start))
        gateway.at("one").reset()
    told = [line for line in lines if "not retried" in line[1]]
    if size <= 100:
        assert told == []
        assert taken(gateway.at("two")) == (b"x" * size, [])
        finish(gateway, client)
        return
    assert told == [("info", "not retried: more of the request body was sent than retry.max_body keeps")]
    assert gateway.dialed == [1, 0]
    assert problem(client) == (502, "UPSTREAM_RESET")
    assert (gateway.attempts, gateway.outcomes) == (1, {"body_too_large": 1})
    gateway.assert_clean()


def test_body_that_grows_too_large_to_keep_loses_only_its_next_retry() -> None:
    gateway = RetryingGateway(3, RETRY_MAX_BODY="4")
    client = gateway.connect().send(PUT, b"he")
    gateway.at("one").reset()
    client.send(b"llo")
    gateway.at("two").answer(b"mine", status=b"503 Busy")
    assert answered(client) == (503, b"mine")
    assert gateway.dialed == [1, 1, 0]
    assert gateway.outcomes == {"failure": 1, "body_too_large": 1}
    gateway.assert_clean()


def test_body_is_not_the_reason_when_the_attempts_are_spent() -> None:
    gateway = RetryingGateway(2, RETRY_MAX_BODY="4", RETRY_MAX_ATTEMPTS="2")
    client = gateway.connect().send(PUT)
    gateway.at("one").reset()
    client.send(b"hello")
    with logged() as lines:
        gateway.at("two").reset()
    assert not [line for line in lines if "not retried" in line[1]]
    assert gateway.outcomes == {"failure": 1}


# --- 100-continue, HEAD, upgrades -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fail", FAILURES)
def test_client_is_invited_once(fail: Fail) -> None:
    gateway = RetryingGateway()
    client = gateway.connect().send(message(b"/", b"Content-Length: 5", b"Expect: 100-continue", method=b"PUT"))
    assert client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    fail(gateway)
    assert client.received() == b""
    client.send(b"hello")
    assert taken(gateway.at("two")) == (b"hello", [])
    finish(gateway, client)


def test_client_is_invited_when_the_second_target_is_there() -> None:
    gateway = RetryingGateway(2, RETRY_BACKOFF="1s", RETRY_BACKOFF_MAX="1s")
    gateway.dialer_of("one").fails = True
    client = gateway.connect().send(message(b"/", b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
    assert client.received() == b""
    gateway.wait(1.1)
    assert client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    assert taken(gateway.at("two")) == (b"hello", [])
    finish(gateway, client)


def test_answer_to_head_has_no_body_after_a_retry() -> None:
    gateway = RetryingGateway()
    client = gateway.get(method=b"HEAD")
    gateway.at("one").send(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n")
    gateway.at("two").send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
    response = client.response(b"HEAD")
    assert (response.status, response.get(b"content-length"), response.body) == (200, b"7", b"")
    gateway.assert_clean()


@pytest.mark.parametrize("fail", FAILURES)
def test_switch_is_tried_again_before_it_has_happened(fail: Fail) -> None:
    gateway = RetryingGateway(2, {"upgrades": ["echo"]})
    client = gateway.get(b"/", b"Connection: Upgrade", b"Upgrade: echo")
    fail(gateway)
    assert b"\r\nUpgrade: echo\r\n" in gateway.at("two").received()
    gateway.at("two").send(SWITCH + b"early")
    assert client.received().endswith(b"\r\n\r\nearly")
    client.send(b"ping")
    assert gateway.at("two").received() == b"ping"
    gateway.at("two").reset()
    gateway.wait(0.2)
    assert client.received() == b""
    assert (gateway.dialed, gateway.attempts, len(gateway.log)) == ([1, 1], 2, 1)
    gateway.assert_clean()


# --- backpressure -----------------------------------------------------------------------------------------------------

LARGE = 4 * BUFFER_BYTES


def upload_to_a_slow_target(**environment: str) -> tuple[RetryingGateway, MemoryClient]:
    """One that holds its client up, with more under way than fits into its buffer."""
    gateway = RetryingGateway(2, RETRY_MAX_BODY="1MiB", BODY_TIMEOUT="5s", TIMEOUT_IDLE="60s", **environment)
    client = gateway.connect().send(message(b"/", b"Content-Length: %d" % LARGE, method=b"PUT"))
    gateway.at("one").transport.takes = False
    client.send(b"x" * (2 * BUFFER_BYTES))
    assert not client.transport.is_reading
    return gateway, client


def test_slow_first_target_does_not_hold_up_the_second() -> None:
    gateway, client = upload_to_a_slow_target()
    gateway.at("one").reset()
    assert client.transport.is_reading
    client.send(b"y" * (2 * BUFFER_BYTES))
    assert taken(gateway.at("two")) == (b"x" * 2 * BUFFER_BYTES + b"y" * 2 * BUFFER_BYTES, [])
    finish(gateway, client)


def test_client_that_stalls_after_a_retry_is_to_blame_itself() -> None:
    gateway, client = upload_to_a_slow_target()
    gateway.at("one").reset()
    gateway.wait(5.4)
    assert problem(client) == (408, "REQUEST_TIMEOUT")
    assert gateway.outcomes_of("two") == {"cancelled": 1}


def test_second_target_that_is_slow_from_the_start_holds_the_client_up() -> None:
    gateway, client = upload_to_a_slow_target()
    gateway.dialer_of("two").holds = True
    gateway.at("one").reset()
    second = slow_dial(gateway, "two")
    assert not client.transport.is_reading
    second.transport.take()
    assert client.transport.is_reading
    client.send(b"y" * (2 * BUFFER_BYTES))
    second.transport.take()
    assert taken(second) == (b"x" * 2 * BUFFER_BYTES + b"y" * 2 * BUFFER_BYTES, [])
    finish(gateway, client)


def test_first_target_that_is_slow_from_the_start_holds_the_client_up() -> None:
    gateway = RetryingGateway(1)
    gateway.dialer_of("one").holds = True
    body = b"x" * BUFFER_BYTES
    client = gateway.connect().send(message(b"/", b"Content-Length: %d" % LARGE, method=b"POST", body=body))
    target = slow_dial(gateway, "one")
    assert not client.transport.is_reading
    target.transport.take()
    assert client.transport.is_reading
    client.send(b"y" * (LARGE - BUFFER_BYTES))
    target.transport.take()
    assert taken(target) == (body + b"y" * (LARGE - BUFFER_BYTES), [])
    finish(gateway, client, "one")


def slow_dial(gateway: RetryingGateway, name: str) -> MemoryTarget:
    """A dial that waits comes to a target that takes nothing yet."""
    (receiver,) = gateway.dialer_of(name).waiting
    second = MemoryTarget(gateway.clock)
    second.transport.takes = False
    gateway.dialer_of(name).targets.append(second)
    receiver.dialed(second.connection)
    return second


def test_body_waits_for_the_connection_of_a_free_replay() -> None:
    gateway = RetryingGateway(1, RETRY_MAX_BODY="1MiB", RETRY_MAX_ATTEMPTS="1", BODY_TIMEOUT="5s", TIMEOUT_IDLE="60s")
    client = gateway.get()
    gateway.at("one").answer()
    client.received()
    gateway.at("one").received()
    client.send(message(b"/", b"Content-Length: %d" % LARGE, method=b"PUT"))
    dead = gateway.at("one")
    dead.transport.takes = False
    client.send(b"x" * (2 * BUFFER_BYTES))
    gateway.dialer_of("one").holds = True
    dead.reset()
    client.send(b"y" * BUFFER_BYTES)
    assert not client.transport.is_reading
    assert gateway.log == [gateway.log[0]]
    (receiver,) = gateway.dialer_of("one").waiting
    gateway.dialer_of("one").finish(receiver)
    gateway.clock.advance(0)
    assert client.transport.is_reading
    gateway.wait(5.4)
    assert problem(client) == (408, "REQUEST_TIMEOUT")  # not the target's fault
    body: Any = gateway.at("one").received().partition(b"\r\n\r\n")[2]
    assert body == b"x" * 2 * BUFFER_BYTES + b"y" * BUFFER_BYTES
    gateway.assert_clean()
