from __future__ import annotations

import math
from typing import Any

import pytest
from tests.unit.support import MemoryClient, MemoryGateway, StubChannel, logged_failures, stub_request
from twisted.internet.task import Clock
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from txgateway.errors import BulkheadFull, UpstreamReset
from txgateway.middleware.bulkhead import Bulkhead, Permits
from txgateway.request import GatewayRequest
from txgateway.transport.wheel import TICK_S, TimerWheel


class Waiter:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_permit(self) -> None:
        self.told.append("permit")

    def on_expired(self) -> None:
        self.told.append("expired")


class End:
    """Keeps what is admitted; answers or fails what it is told to at once."""

    def __init__(self) -> None:
        self.admitted: list[GatewayRequest] = []
        self.answers_at_once = False
        self.error: Exception | None = None

    def render(self, request: GatewayRequest) -> int:
        self.admitted.append(request)
        if self.error is not None:
            raise self.error
        if self.answers_at_once:
            request.answer(204, [], b"")
        return 1


class Decorated:
    """A bulkhead with its end and its time."""

    def __init__(
        self, max_concurrent: int = 1, max_queue: int = 0, queue_timeout_s: float = 1.0, total_s: float = 0.0
    ) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.end = End()
        self.bulkhead = Bulkhead(
            self.end, max_concurrent, max_queue, queue_timeout_s, total_s, self.wheel, self.clock
        )  # fmt: skip

    def request(self, length: int = -1) -> GatewayRequest:
        """One that has been rendered; the error is raised, as no Recovery is above."""
        request = stub_request(length=length, channel=StubChannel(self.clock.seconds))
        self.bulkhead.render(request)
        return request

    def wait(self, ticks: int) -> None:
        self.clock.pump([TICK_S] * ticks)

    def state(self) -> str:
        return repr(self.bulkhead)


def state(free: int, waiting: int = 0) -> str:
    return f"<bulkhead <permits: {free} free, {waiting} waiting>>"


# --- permits -----------------------------------------------------------------------------------------------------------


def test_permits_go_to_who_asks_until_there_are_none() -> None:
    permits = Permits(2, 0)
    assert [permits.take() for _ in range(3)] == [True, True, False]
    permits.release()
    assert permits.take()
    with pytest.raises(BulkheadFull):
        permits.wait(Waiter(), 1.0)


def test_released_permit_goes_to_who_waits_longest() -> None:
    permits = Permits(1, 2)
    assert permits.take()
    first, second = Waiter(), Waiter()
    permits.wait(first, 9.0)
    permits.wait(second, 5.0)
    permits.release()
    assert (first.told, second.told) == (["permit"], [])
    assert not permits.take()
    permits.release()
    assert second.told == ["permit"]
    assert repr(permits) == "<permits: 0 free, 0 waiting>"


def test_who_left_is_told_nothing_and_its_place_is_free() -> None:
    permits = Permits(1, 1)
    assert permits.take()
    gone, next_one = Waiter(), Waiter()
    permits.wait(gone, 1.0)
    permits.leave(gone)
    permits.leave(gone)
    permits.wait(next_one, 1.0)
    permits.release()
    assert permits.expire(2.0) == math.inf
    assert (gone.told, next_one.told) == ([], ["permit"])


def test_only_those_whose_time_is_up_expire_whatever_their_order() -> None:
    permits = Permits(1, 3)
    assert permits.take()
    waiters = [Waiter(), Waiter(), Waiter()]
    for waiter, until in zip(waiters, (3.0, 1.0, 2.0), strict=True):
        permits.wait(waiter, until)
    assert permits.expire(0.5) == 1.0
    assert permits.expire(2.0) == 3.0
    assert [waiter.told for waiter in waiters] == [[], ["expired"], ["expired"]]
    permits.release()
    assert waiters[0].told == ["permit"]


def test_nobody_overtakes_the_queue_while_a_permit_is_handed_on() -> None:
    class Curious(Waiter):
        def on_permit(self) -> None:
            super().on_permit()
            permits.release()
            overtook.append(permits.take())

    overtook: list[bool] = []
    permits = Permits(1, 2)
    assert permits.take()
    last = Waiter()
    permits.wait(Curious(), 1.0)
    permits.wait(last, 1.0)
    permits.release()
    assert overtook == [False]
    assert last.told == ["permit"]


def test_waiter_that_leaves_while_others_expire_is_told_nothing() -> None:
    class Pushing(Waiter):
        def on_expired(self) -> None:
            super().on_expired()
            permits.leave(other)

    permits = Permits(1, 2)
    assert permits.take()
    other = Waiter()
    permits.wait(Pushing(), 1.0)
    permits.wait(other, 1.0)
    assert permits.expire(1.0) == math.inf
    assert other.told == []


# --- the decorator -----------------------------------------------------------------------------------------------------


def test_is_a_resource_and_passes_on_what_the_inner_one_returns() -> None:
    decorated = Decorated()
    verifyObject(IResource, decorated.bulkhead)
    assert decorated.bulkhead.render(stub_request()) == 1


def test_request_beyond_the_limit_is_refused_at_once_and_leaves_nothing_behind() -> None:
    decorated = Decorated(max_concurrent=2)
    running = [decorated.request(), decorated.request()]
    for _ in range(3):
        with pytest.raises(BulkheadFull):
            decorated.request()
    assert decorated.end.admitted == running
    assert decorated.state() == state(0)
    assert decorated.clock.getDelayedCalls() == []


def test_permit_is_held_until_the_body_ends_not_the_head() -> None:
    decorated = Decorated()
    request = decorated.request()
    request.respond(200, b"", [], 2)
    request.send_body(b"o")
    assert decorated.state() == state(0)
    request.send_body(b"k")
    request.end([])
    assert decorated.state() == state(1)


@pytest.mark.parametrize(
    "end",
    [
        lambda request: request.answer(200, [], b"x"),
        lambda request: request.client_gone(),
        lambda request: request.fail(UpstreamReset()),
        lambda request: request.abort(),
        lambda request: (request.switch_protocols([], None), request.tunnel_ended("UPSTREAM_TIMEOUT")),
    ],
    ids=["answer", "client gone", "error", "abort", "tunnel"],
)
def test_every_end_gives_the_permit_back_once(end: Any) -> None:
    decorated = Decorated()
    request = decorated.request()
    end(request)
    request.fail(UpstreamReset())
    request.client_gone()
    assert request.ended
    assert decorated.state() == state(1)


def test_tunnel_holds_its_permit() -> None:
    decorated = Decorated()
    request = decorated.request()
    request.switch_protocols([], None)  # type: ignore[arg-type]
    assert decorated.state() == state(0)
    request.tunnel_ended(None)
    assert decorated.state() == state(1)


def test_error_below_gives_the_permit_back_with_its_answer() -> None:
    decorated = Decorated()
    decorated.end.error = UpstreamReset()
    request = stub_request()
    with pytest.raises(UpstreamReset):
        decorated.bulkhead.render(request)
    request.fail(decorated.end.error)  # which is what Recovery does
    assert decorated.state() == state(1)


def test_request_that_is_over_already_takes_no_permit() -> None:
    decorated = Decorated()
    request = stub_request()
    request.client_gone()
    assert decorated.bulkhead.render(request) is NOT_DONE_YET
    assert decorated.end.admitted == []
    assert decorated.state() == state(1)


def test_waiting_requests_go_on_in_order_as_permits_come_free() -> None:
    decorated = Decorated(max_queue=2)
    first, second, third = (decorated.request() for _ in range(3))
    with pytest.raises(BulkheadFull):
        decorated.request()
    assert decorated.end.admitted == [first]
    assert decorated.state() == state(0, 2)
    first.answer(200, [], b"")
    assert decorated.end.admitted == [first, second]
    second.client_gone()
    assert decorated.end.admitted == [first, second, third]
    third.answer(200, [], b"")
    assert decorated.state() == state(1)
    decorated.wait(11)
    assert decorated.clock.getDelayedCalls() == []


def test_client_that_leaves_the_queue_frees_its_place_at_once() -> None:
    decorated = Decorated(max_queue=1)
    first, second = decorated.request(), decorated.request()
    second.client_gone()
    assert decorated.state() == state(0)
    third = decorated.request()
    first.answer(200, [], b"")
    assert decorated.end.admitted == [first, third]


def test_request_that_has_waited_too_long_is_refused_and_the_others_wait_on() -> None:
    decorated = Decorated(max_queue=2, queue_timeout_s=0.35)
    first, second = decorated.request(), decorated.request()
    decorated.wait(2)
    third = decorated.request()
    decorated.wait(1)
    assert (second.ended, third.ended) == (False, False)
    decorated.wait(1)
    assert (second.status, second.reason, third.ended) == (503, "BULKHEAD_FULL", False)
    assert decorated.state() == state(0, 1)
    decorated.wait(2)
    assert third.reason == "BULKHEAD_FULL"
    assert decorated.clock.getDelayedCalls() == []
    first.answer(200, [], b"")
    assert decorated.state() == state(1)
    assert decorated.end.admitted == [first]


def test_total_time_that_is_up_in_the_queue_ends_the_wait() -> None:
    decorated = Decorated(max_queue=2, queue_timeout_s=1.0, total_s=0.25)
    decorated.request()
    complete, unread = decorated.request(), decorated.request(length=5)
    decorated.wait(3)
    assert (complete.status, complete.reason) == (504, "DEADLINE_EXCEEDED")
    assert not unread.ended  # its total time has not begun
    decorated.wait(8)
    assert unread.reason == "BULKHEAD_FULL"


def test_time_that_was_spent_above_counts_against_the_total_time() -> None:
    decorated = Decorated(max_queue=1, queue_timeout_s=1.0, total_s=0.55)
    decorated.request()
    request = stub_request(channel=StubChannel(decorated.clock.seconds))
    decorated.wheel.watch(decorated.bulkhead)  # so that ticks are where they are in a busy gateway
    decorated.wait(3)
    decorated.bulkhead.render(request)
    decorated.wait(3)
    assert request.reason == "DEADLINE_EXCEEDED"


def test_a_thousand_waiters_that_are_answered_at_once_are_no_deep_recursion() -> None:
    decorated = Decorated(max_queue=3000)
    first = decorated.request()
    waiting = [decorated.request() for _ in range(3000)]
    decorated.end.answers_at_once = True
    with logged_failures() as failures:
        first.answer(200, [], b"")
    assert failures == []
    assert all(request.status == 204 for request in waiting)
    assert decorated.end.admitted == [first, *waiting]
    assert decorated.state() == state(1)


@pytest.mark.parametrize(("error", "reason"), [(UpstreamReset(), "UPSTREAM_RESET"), (ValueError(), "INTERNAL_ERROR")])
def test_waiter_that_fails_when_its_turn_comes_is_answered_and_the_next_one_goes_on(
    error: Exception, reason: str
) -> None:
    decorated = Decorated(max_queue=2)
    first, second, third = (decorated.request() for _ in range(3))
    decorated.end.error = error
    with logged_failures() as failures:
        first.answer(200, [], b"")
    assert bool(failures) is isinstance(error, ValueError)
    assert [second.reason, third.reason] == [reason, reason]
    assert decorated.state() == state(1)


# --- in a whole gateway ------------------------------------------------------------------------------------------------


def gateway(route: dict[str, Any] | None = None, **environment: str) -> MemoryGateway:
    variables = {f"GATEWAY_BULKHEAD_{name}": value for name, value in environment.items()}
    document = {
        "backends": {"a": {"targets": ["http://target"]}},
        "routes": [
            {"name": "slow", "path": "/", "backend": "a", **(route or {})},
            {"name": "other", "path": "/other", "backend": "a"},
        ],
    }
    return MemoryGateway(variables, document)


def upload(running: MemoryGateway, *fields: bytes) -> MemoryClient:
    return running.connect().send(
        b"\r\n".join((b"POST / HTTP/1.1", b"Host: a", b"Content-Length: 5", *fields, b"", b""))
    )  # fmt: skip


def test_route_that_is_full_says_so_and_another_one_goes_on() -> None:
    running = gateway(MAX_CONCURRENT="1")
    client = running.get()
    response = running.get().response()
    assert (response.status, response.problem["reason"]) == (503, "BULKHEAD_FULL")
    assert response.get(b"proxy-status") == b"txgateway; error=connection_limit_reached"
    assert response.get(b"retry-after") is None
    other = running.get(b"/other")
    running.target.answer()
    assert other.response().status == 200
    running.dialer.targets[0].answer()
    assert client.response().status == 200
    assert [request.reason for request in running.log] == ["BULKHEAD_FULL", None, None]
    running.assert_clean()


def test_route_s_own_key_goes_before_the_environment() -> None:
    running = gateway({"bulkhead": {"max_concurrent": 2}}, MAX_CONCURRENT="1")
    clients = [running.get() for _ in range(3)]
    assert [client.received()[:12] for client in clients] == [b"", b"", b"HTTP/1.1 503"]


def test_body_and_continue_of_a_waiting_request_wait_too() -> None:
    running = gateway(MAX_CONCURRENT="1", MAX_QUEUE="1")
    running.get()
    client = upload(running, b"Expect: 100-continue")
    assert client.received() == b""
    assert not client.transport.is_reading
    assert len(running.dialer.targets) == 1
    running.target.answer()
    assert client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"hello")
    assert running.target.received().endswith(b"\r\n\r\nhello")
    running.target.answer()
    assert client.response().status == 200
    running.wait(1.1)
    running.assert_clean()


def test_waiting_request_that_is_refused_was_not_told_to_continue() -> None:
    running = gateway(MAX_CONCURRENT="1", MAX_QUEUE="1", QUEUE_TIMEOUT="500ms")
    running.get()
    client = upload(running, b"Expect: 100-continue")
    running.wait(0.7)
    assert client.response().problem["reason"] == "BULKHEAD_FULL"


def test_upload_that_waited_has_its_whole_body_timeout_and_total_time() -> None:
    running = gateway(
        {"body_timeout": "600ms", "timeout": {"total": "600ms"}}, MAX_CONCURRENT="1", MAX_QUEUE="1", QUEUE_TIMEOUT="5s"
    )
    running.get()
    client = upload(running)
    running.wait(0.5)
    running.target.answer()
    running.wait(0.5)
    client.send(b"hello")
    running.wait(0.5)
    assert client.received() == b""
    running.wait(0.3)
    assert client.response().problem["reason"] == "DEADLINE_EXCEEDED"
    running.wait(5)
    running.assert_clean()


def test_time_in_the_queue_counts_against_the_total_time() -> None:
    running = gateway({"timeout": {"total": "1s"}}, MAX_CONCURRENT="1", MAX_QUEUE="2", QUEUE_TIMEOUT="5s")
    running.get()
    running.wait(0.3)
    admitted, waiting = running.get(), running.get()
    running.wait(0.4)
    running.target.answer()
    running.wait(0.4)
    assert admitted.received() == waiting.received() == b""
    running.wait(0.3)
    assert admitted.response().problem["reason"] == "DEADLINE_EXCEEDED"
    assert waiting.response().problem["reason"] == "DEADLINE_EXCEEDED"
    running.wait(5)
    running.assert_clean()


def test_what_is_refused_above_neither_waits_nor_is_told_that_the_route_is_full() -> None:
    running = gateway(
        {"allowed_methods": ["GET"], "rate_limit": {"rate": "2/m", "key": "ip"}}, MAX_CONCURRENT="1", MAX_QUEUE="1"
    )
    clients = [running.get(), running.get()]
    assert running.get(method=b"PUT").response().status == 405
    assert running.get().response().status == 429
    assert [client.received() for client in clients] == [b"", b""]


def test_request_without_a_token_does_not_wait() -> None:
    document = {
        "backends": {"a": {"targets": ["http://target"]}},
        "routes": [
            {"name": "r", "path": "/", "backend": "a", "bulkhead": {"max_concurrent": 1}},
        ],
    }
    running = MemoryGateway(
        {"GATEWAY_JWT_SECRET": "x" * 32, "GATEWAY_JWT_PUBLIC_PATHS": "/public", "GATEWAY_JWT_AUDIENCE": "a"}, document
    )
    running.get(b"/public")
    assert running.get(b"/public").response().status == 503
    assert running.get(b"/private").response().status == 401
