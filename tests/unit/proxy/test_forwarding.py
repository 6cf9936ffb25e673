from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support import MemoryClient, MemoryGateway, logged_failures, message, read_responses
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import NoRoute
from txgateway.proxy.attempts import IDEMPOTENT

GET = message(b"/")
POST = message(b"/", b"Content-Length: 5", method=b"POST")
CHUNKED = message(b"/", b"Transfer-Encoding: chunked", method=b"POST")
TIMES = {
    "GATEWAY_TIMEOUT_TOTAL": "5s",
    "GATEWAY_TIMEOUT_IDLE": "20s",
    "GATEWAY_BODY_TIMEOUT": "3s",
    "GATEWAY_POOL_IDLE_TIMEOUT": "100s",
}
UPGRADES = {
    "backends": {"b": {"targets": ["http://target"]}},
    "routes": [{"name": "r", "path": "/", "backend": "b", "upgrades": ["echo"], "timeout": {"idle": "20s"}}],
}


def warm(gateway: MemoryGateway) -> MemoryClient:
    """A client after one exchange, which leaves a connection in the pool."""
    client = gateway.connect().send(GET)
    gateway.target.answer()
    assert client.response().status == 200
    gateway.target.received()
    return client


def reason(gateway: MemoryGateway) -> str | None:
    result: str | None = gateway.log[-1].reason
    return result


# --- the one free replay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", sorted(IDEMPOTENT - {b"TRACE"}))
@pytest.mark.parametrize("body", [b"", b"hello"])
def test_dead_pooled_connection_is_replayed_once_on_a_fresh_one(method: bytes, body: bytes) -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    fields = (b"Content-Length: 5",) if body else ()
    client.send(message(b"/again", *fields, method=method, body=body))
    first = gateway.target
    sent = first.received()
    first.end()
    assert len(gateway.dialer.targets) == 2
    assert gateway.target.received() == sent
    gateway.target.answer()
    (response,) = read_responses(client.received(), [method])
    assert response.status == 200
    assert (gateway.log[-1].attempts, reason(gateway)) == (2, None)


def test_replay_is_never_repeated() -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(GET)
    gateway.target.end()
    gateway.target.end()
    assert len(gateway.dialer.targets) == 2
    assert client.response().problem["reason"] == "UPSTREAM_RESET"
    gateway.assert_clean()


@pytest.mark.parametrize("sent", [POST + b"hello", message(b"/", method=b"PATCH"), message(b"/", method=b"POST")])
def test_what_could_act_twice_is_not_replayed(sent: bytes) -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(sent)
    gateway.target.end()
    assert len(gateway.dialer.targets) == 1
    assert client.response().problem["reason"] == "UPSTREAM_RESET"


def test_unfinished_body_is_replayed_as_far_as_it_came() -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(message(b"/", b"Content-Length: 5", method=b"PUT", body=b"he"))
    gateway.target.end()
    assert len(gateway.dialer.targets) == 2
    client.send(b"llo")
    sent = gateway.target.received()
    assert sent.endswith(b"\r\n\r\nhello")
    gateway.target.answer()
    assert client.response().status == 200
    gateway.assert_clean()


def test_fresh_connection_that_dies_is_not_replayed() -> None:
    gateway = MemoryGateway()
    client = gateway.get()
    gateway.target.end()
    assert len(gateway.dialer.targets) == 1
    assert client.response().problem["reason"] == "UPSTREAM_RESET"


@pytest.mark.parametrize("begun", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_connection_that_dies_after_its_first_byte_is_not_replayed(begun: bytes) -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(GET)
    gateway.target.send(begun)
    gateway.target.end()
    assert len(gateway.dialer.targets) == 1
    assert client.response().problem["reason"] == "UPSTREAM_RESET"


def test_replay_that_cannot_connect_fails_as_such() -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(GET)
    gateway.dialer.fails = True
    gateway.target.end()
    assert client.response().problem["reason"] == "UPSTREAM_CONNECT_FAILED"
    gateway.assert_clean()


@pytest.mark.parametrize("message", [GET, POST + b"hello"])
def test_connection_that_looks_dead_is_avoided(message: bytes) -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    dead = gateway.target
    dead.connection.looks_alive = False
    client.send(message)
    assert len(gateway.dialer.targets) == 2
    assert dead.closed
    assert dead.received() == b""
    gateway.target.answer()
    assert client.response().status == 200
    assert gateway.log[-1].attempts == 1


def test_what_cannot_be_replayed_uses_a_living_connection() -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(POST + b"hello")
    assert len(gateway.dialer.targets) == 1
    gateway.target.answer()
    assert client.response().status == 200


# --- request bodies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reads", "wire"),
    [
        ([POST + b"hello"], b"Content-Length: 5\r\n\r\nhello"),
        ([POST, b"he", b"llo"], b"Content-Length: 5\r\n\r\nhello"),
        ([CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"], b"Content-Length: 5\r\n\r\nhello"),
        (
            [CHUNKED + b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"],
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
        ),
        (
            [CHUNKED, b"2\r\nhe\r\n", b"3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n"],
            b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
        ),
        ([CHUNKED + b"0\r\n\r\n"], b"Content-Length: 0\r\n\r\n"),
        ([message(b"/", b"Content-Length: 0", method=b"POST")], b"Content-Length: 0\r\n\r\n"),
    ],
)
def test_body_reaches_the_target_framed_anew(reads: list[bytes], wire: bytes) -> None:
    gateway = MemoryGateway()
    client = gateway.connect().send(*reads)
    received = gateway.target.received()
    assert received.endswith(b"\r\nX-Request-ID: id-1\r\n" + wire)
    assert received.count(b"Content-Length") + received.count(b"Transfer-Encoding") == 1
    gateway.target.answer()
    assert client.response().status == 200


def test_body_that_came_while_waiting_for_a_connection_is_sent() -> None:
    gateway = MemoryGateway()
    gateway.dialer.holds = True
    client = gateway.connect().send(POST + b"he")
    assert not client.transport.is_reading
    client.send(b"llo")
    gateway.dialer.finish(gateway.dialer.waiting.pop())
    gateway.clock.advance(0)
    assert gateway.target.received().endswith(b"\r\n\r\nhello")


def test_body_is_invited_only_when_a_connection_is_there() -> None:
    gateway = MemoryGateway()
    gateway.dialer.holds = True
    client = gateway.connect().send(message(b"/", b"Content-Length: 5", b"Expect: 100-continue", method=b"POST"))
    assert client.received() == b""
    gateway.dialer.finish(gateway.dialer.waiting.pop())
    assert client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    received = gateway.target.received()
    assert received.endswith(b"hello")
    assert b"xpect" not in received
    gateway.target.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    gateway.target.answer()
    assert client.response().status == 200  # the target's own 100 is not repeated


def test_early_hints_are_relayed() -> None:
    gateway = MemoryGateway()
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
    assert client.received() == b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


# --- deadlines ----------------------------------------------------------------------------------------------------------


def failed(gateway: MemoryGateway, client: MemoryClient) -> str:
    """The reason of the answer; everything is freed."""
    result: str = client.response().problem["reason"]
    gateway.assert_clean()
    assert all(target.closed for target in gateway.dialer.targets)
    return result


def test_total_time_without_a_head_is_deadline_exceeded() -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.get()
    gateway.wait(4.9)
    assert client.received() == b""
    gateway.wait(0.4)
    assert failed(gateway, client) == "DEADLINE_EXCEEDED"


def test_idle_target_before_the_head_is_upstream_timeout() -> None:
    gateway = MemoryGateway({**TIMES, "GATEWAY_TIMEOUT_TOTAL": "0"})
    client = gateway.get()
    gateway.wait(19.8)
    assert client.received() == b""
    gateway.wait(0.5)
    assert failed(gateway, client) == "UPSTREAM_TIMEOUT"


def test_total_time_includes_waiting_for_a_connection() -> None:
    gateway = MemoryGateway({**TIMES, "GATEWAY_TIMEOUT_TOTAL": "2s"})
    gateway.dialer.holds = True
    client = gateway.get()
    gateway.wait(2.3)
    assert failed(gateway, client) == "DEADLINE_EXCEEDED"
    assert gateway.dialer.cancelled == 1


def test_total_time_counts_from_the_end_of_the_body() -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.connect().send(POST)
    for _ in range(4):
        gateway.wait(2.5)
        client.send(b"x")
    gateway.wait(2.5)
    client.send(b"x")
    gateway.wait(4.7)
    assert client.received() == b""
    gateway.wait(0.5)
    assert failed(gateway, client) == "DEADLINE_EXCEEDED"


def test_stalled_body_is_request_timeout() -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.connect().send(POST, b"he")
    gateway.wait(2.8)
    assert client.received() == b""
    gateway.wait(0.5)
    assert failed(gateway, client) == "REQUEST_TIMEOUT"


def test_target_that_stops_reading_the_body_is_upstream_timeout() -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.connect().send(message(b"/", b"Content-Length: 200000", method=b"POST"))
    gateway.target.transport.takes = False
    client.send(b"x" * 100_000)
    assert not client.transport.is_reading
    gateway.wait(19.5)
    assert client.received() == b""
    gateway.wait(1)
    assert failed(gateway, client) == "UPSTREAM_TIMEOUT"


@pytest.mark.parametrize("is_chunked", [False, True])
def test_silence_in_the_middle_of_the_answer_cuts_it(is_chunked: bool) -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.get()
    framing = b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n" if is_chunked else b"Content-Length: 9\r\n\r\nx"
    gateway.target.send(b"HTTP/1.1 200 OK\r\n" + framing)
    for _ in range(3):
        gateway.wait(15)
        gateway.target.send(b"1\r\nx\r\n" if is_chunked else b"x")
    assert not client.transport.aborted
    gateway.wait(20.5)
    assert client.transport.aborted
    assert (gateway.log[-1].status, reason(gateway)) == (200, "UPSTREAM_TIMEOUT")
    gateway.assert_clean()


def test_upload_keeps_an_answered_exchange_alive() -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.connect().send(CHUNKED)
    gateway.target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(4):
        gateway.wait(15)
        client.send(b"1\r\nx\r\n")
    assert not client.transport.aborted
    gateway.wait(20.5)
    assert client.transport.aborted


def test_client_that_stops_reading_is_cut_and_a_slow_one_is_not() -> None:
    gateway = MemoryGateway(TIMES)
    client = gateway.connect()
    client.transport.takes = False
    client.send(GET)
    gateway.target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", b"x" * 100_000)
    assert not gateway.target.transport.is_reading
    for _ in range(4):
        gateway.wait(19)
        client.transport.take(1000)
    assert not client.transport.aborted
    gateway.wait(41)
    assert client.transport.aborted
    assert reason(gateway) == "REQUEST_TIMEOUT"
    gateway.assert_clean()


# --- backpressure -------------------------------------------------------------------------------------------------------


def test_slow_client_holds_the_target_up() -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    client.transport.takes = False
    client.send(GET)
    gateway.target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n", *[b"x" * 50_000] * 6)
    assert not gateway.target.transport.is_reading
    assert len(client.transport.unsent) <= 150_000
    for _ in range(10):
        client.transport.take()
        gateway.clock.advance(0)
        assert len(client.transport.unsent) <= 150_000
    assert client.response().body == b"x" * 300_000
    assert gateway.target.transport.is_reading
    gateway.assert_clean()


def test_slow_target_holds_the_client_up() -> None:
    gateway = MemoryGateway()
    client = gateway.connect().send(message(b"/", b"Content-Length: 300000", method=b"POST"))
    target = gateway.target.transport
    target.takes = False
    client.send(*[b"x" * 50_000] * 6)
    assert not client.transport.is_reading
    for _ in range(10):
        assert len(target.unsent) <= 150_000
        target.take()
        gateway.clock.advance(0)
    assert target.taken.endswith(b"x" * 300_000)
    gateway.target.answer()
    assert client.response().status == 200


# --- a client that leaves ---------------------------------------------------------------------------------------------------


def gone(gateway: MemoryGateway, client: MemoryClient, status: int) -> None:
    with logged_failures() as failures:
        client.leave()
        gateway.clock.advance(0)
    assert not failures
    assert (gateway.log[-1].status, reason(gateway)) == (status, "CLIENT_GONE")
    gateway.assert_clean()
    assert all(target.closed for target in gateway.dialer.targets)
    gateway.wait(40)  # until the pool has forgotten its idle connections, too
    assert gateway.clock.getDelayedCalls() == []


def test_client_gone_while_dialing_cancels_the_dial() -> None:
    gateway = MemoryGateway()
    gateway.dialer.holds = True
    client = gateway.get()
    gone(gateway, client, 499)
    assert gateway.dialer.cancelled == 1


def test_client_gone_in_the_queue_leaves_it() -> None:
    gateway = MemoryGateway({"GATEWAY_POOL_MAX_CONNECTIONS": "1"})
    first = gateway.get()
    client = gateway.get()
    assert gateway.pool.pending == 1
    client.leave()
    assert gateway.pool.pending == 0
    gateway.target.answer()
    assert first.response().status == 200
    assert len(gateway.dialer.targets) == 1


def test_client_gone_in_its_body_closes_the_target() -> None:
    gateway = MemoryGateway()
    client = gateway.connect().send(POST, b"he")
    gone(gateway, client, 499)


def test_client_gone_before_the_head_closes_the_target() -> None:
    gateway = MemoryGateway()
    gone(gateway, gateway.get(), 499)


def test_client_gone_in_the_answer_closes_the_target() -> None:
    gateway = MemoryGateway()
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
    gone(gateway, client, 200)


def test_client_gone_while_it_is_slow_closes_the_target() -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    client.transport.takes = False
    client.send(GET)
    gateway.target.send(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", b"x" * 100_000)
    gone(gateway, client, 200)


def test_client_gone_while_its_replay_waits_cancels_that() -> None:
    gateway = MemoryGateway()
    client = warm(gateway)
    client.send(GET)
    gateway.dialer.holds = True
    gateway.target.end()
    assert gateway.pool.pending == 1
    gone(gateway, client, 499)


# --- answers --------------------------------------------------------------------------------------------------------------


def test_broken_off_answer_is_visibly_broken_off() -> None:
    gateway = MemoryGateway()
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel")
    gateway.target.end()
    assert client.transport.aborted
    assert not client.received().endswith(b"0\r\n\r\n")
    assert (gateway.log[-1].status, reason(gateway)) == (200, "UPSTREAM_RESET")


def test_trailers_reach_the_client() -> None:
    gateway = MemoryGateway()
    client = gateway.get()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-T: 1\r\n\r\n")
    assert client.response().trailers == [(b"X-T", b"1")]


def test_early_answer_to_an_unfinished_upload_ends_both_connections() -> None:
    gateway = MemoryGateway()
    client = gateway.connect().send(POST, b"he")
    gateway.target.answer(b"no", status=b"413 No")
    response = client.response()
    assert (response.status, response.body, response.get(b"connection")) == (413, b"no", b"close")
    assert gateway.target.closed
    assert client.transport.half_closed
    client.send(b"llo" + GET)
    assert len(gateway.log) == 1
    assert reason(gateway) is None
    gateway.assert_clean()


def test_answer_that_begins_before_the_upload_ends_does_not_stop_it() -> None:
    gateway = MemoryGateway()
    client = gateway.connect().send(CHUNKED)
    gateway.target.received()
    gateway.target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    client.send(b"2\r\nhi\r\n0\r\n\r\n")
    assert gateway.target.received() == b"2\r\nhi\r\n0\r\n\r\n"
    gateway.target.send(b"1\r\nb\r\n0\r\n\r\n")
    assert client.response().body == b"ab"


def test_upload_that_grows_too_large_behind_an_answer_cuts_it() -> None:
    gateway = MemoryGateway({"GATEWAY_MAX_BODY_BYTES": "5"})
    client = gateway.connect().send(CHUNKED)
    gateway.target.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send(b"6\r\nhello!\r\n")
    assert client.transport.aborted
    assert gateway.target.closed
    assert reason(gateway) == "BODY_TOO_LARGE"


def test_refused_connection_is_502() -> None:
    gateway = MemoryGateway()
    gateway.dialer.fails = True
    client = gateway.get()
    response = client.response()
    assert response.problem["reason"] == "UPSTREAM_CONNECT_FAILED"
    assert response.get(b"proxy-status") == b"txgateway; error=connection_refused"
    assert client.send(GET).response().status == 502  # the connection lives on


def test_full_queue_is_503() -> None:
    gateway = MemoryGateway({"GATEWAY_POOL_MAX_CONNECTIONS": "1", "GATEWAY_POOL_MAX_PENDING": "1"})
    gateway.get()
    waiting, refused = gateway.get(), gateway.get()
    assert refused.response().problem["reason"] == "POOL_EXHAUSTED"
    gateway.wait(1.3)
    assert waiting.response().problem["reason"] == "POOL_EXHAUSTED"


@pytest.mark.parametrize(("error", "status"), [(NoRoute(), 404), (ValueError("x"), 500)])
def test_hook_that_refuses_the_answer_replaces_it(error: Exception, status: int) -> None:
    gateway = MemoryGateway()
    inner = gateway.pipeline._entry
    client = gateway.connect()

    def refuse(request: Any) -> None:
        raise error

    class Hooked:
        def render(self, request: Any) -> Any:
            request.before_head(refuse)
            return inner.render(request)

    gateway.pipeline._entry = Hooked()
    client.send(GET)
    with logged_failures() as failures:
        gateway.target.answer(b"secret")
    assert len(failures) == (status == 500)
    response = client.response()
    assert response.status == status
    assert b"secret" not in response.body
    assert gateway.target.closed
    gateway.assert_clean()


def test_same_head_again_gives_the_same_fields_with_another_id() -> None:
    gateway = MemoryGateway()
    client = gateway.connect()
    seen = []
    for path in (b"/1", b"/2", b"/3"):
        client.send(message(path, b"X-A: 1"))
        seen.append(gateway.target.received())
        gateway.target.answer()
    first, second, third = (lines.split(b"\r\n") for lines in seen)
    assert [line for line in first if line[:3] not in (b"GET", b"X-R")] == [
        line for line in third if line[:3] not in (b"GET", b"X-R")
    ]
    assert (second[0], third[0]) == (b"GET /2 HTTP/1.1", b"GET /3 HTTP/1.1")
    assert [b"X-Request-ID: id-%d" % number in lines for number, lines in enumerate((first, second, third), 1)] == [
        True, True, True,
    ]  # fmt: skip
    client.send(message(b"/4", b"X-A: 2"))
    assert b"\r\nX-A: 2\r\n" in gateway.target.received()


# --- upgrades -------------------------------------------------------------------------------------------------------------

ASK = message(b"/", b"Connection: upgrade", b"Upgrade: echo")
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"


def switched() -> tuple[MemoryGateway, MemoryClient]:
    gateway = MemoryGateway(document=UPGRADES)
    client = gateway.connect().send(ASK + b"early")
    received = gateway.target.received()
    assert b"\r\nConnection: upgrade\r\nUpgrade: echo\r\n" in received
    gateway.target.send(SWITCH + b"hello")
    (head, rest) = client.received().split(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert rest == b"hello"
    assert gateway.target.received() == b"early"
    return gateway, client


def test_bytes_pass_both_ways_after_a_switch_and_it_is_logged_at_its_end() -> None:
    gateway, client = switched()
    client.send(b"ping")
    assert gateway.target.received() == b"ping"
    gateway.target.send(b"pong")
    assert client.received() == b"pong"
    assert gateway.log == []
    gateway.target.end()
    assert client.transport.half_closed
    assert (gateway.log[0].status, reason(gateway)) == (101, None)
    assert (gateway.log[0].bytes_in, gateway.log[0].bytes_out) == (9, 9)
    gateway.assert_clean()


def test_client_that_leaves_closes_the_tunnel() -> None:
    gateway, client = switched()
    client.leave()
    gateway.clock.advance(0)
    assert gateway.target.closed
    assert reason(gateway) is None
    gateway.assert_clean()


def test_silent_tunnel_is_cut() -> None:
    gateway, client = switched()
    gateway.wait(19)
    client.send(b"x")
    gateway.wait(19)
    gateway.target.send(b"x")
    gateway.wait(19)
    assert gateway.log == []
    gateway.wait(2)
    assert client.transport.aborted
    assert gateway.target.closed
    assert (gateway.log[0].status, reason(gateway)) == (101, "UPSTREAM_TIMEOUT")
    gateway.assert_clean()


def test_slow_end_of_a_tunnel_holds_the_other_up() -> None:
    gateway, client = switched()
    client.transport.takes = False
    gateway.target.send(b"x" * 100_000)
    assert not gateway.target.transport.is_reading
    client.transport.take()
    gateway.clock.advance(0)
    assert gateway.target.transport.is_reading
    gateway.target.transport.takes = False
    client.send(b"x" * 100_000)
    assert not client.transport.is_reading
    gateway.target.transport.take()
    assert client.transport.is_reading


def test_upgrade_that_the_route_does_not_list_is_an_ordinary_request() -> None:
    gateway = MemoryGateway()
    gateway.connect().send(ASK)
    received = gateway.target.received()
    assert b"pgrade" not in received


def test_refused_switch_is_an_ordinary_answer() -> None:
    gateway = MemoryGateway(document=UPGRADES)
    client = gateway.connect().send(ASK)
    gateway.target.answer(b"no", status=b"403 No")
    assert client.response().status == 403
    assert client.send(GET).transport.is_reading


def test_hook_that_fails_at_a_switch_ends_both_sides() -> None:
    gateway = MemoryGateway(document=UPGRADES)
    inner = gateway.pipeline._entry

    def refuse(request: Any) -> None:
        raise ValueError("x")

    class Hooked:
        def render(self, request: Any) -> Any:
            request.before_head(refuse)
            inner.render(request)
            return NOT_DONE_YET

    gateway.pipeline._entry = Hooked()
    client = gateway.connect().send(ASK)
    with logged_failures() as failures:
        gateway.target.send(SWITCH)
    assert len(failures) == 1
    assert client.transport.aborted
    assert gateway.target.closed
    assert reason(gateway) == "INTERNAL_ERROR"
    gateway.assert_clean()
