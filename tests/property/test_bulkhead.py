"""Any interleaving of requests, ends, departures and time: no permit is lost, none is made, nobody is overtaken."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.unit.support import StubChannel, stub_request
from twisted.internet.task import Clock

from txgateway.errors import BulkheadFull, UpstreamReset
from txgateway.middleware.bulkhead import Bulkhead, Permits
from txgateway.middleware.recovery import Recovery
from txgateway.request import GatewayRequest
from txgateway.transport.wheel import TICK_S, TimerWheel

STEPS = settings(stateful_step_count=40)


class Waiter:
    """Checks that it is told rightly, and may do something else at that moment."""

    def __init__(self, machine: PermitsMachine, temper: str, wait_s: int) -> None:
        self.machine = machine
        self.temper = temper
        self.until = machine.now + wait_s

    def on_permit(self) -> None:
        machine = self.machine
        assert machine.waiting[0] is self, "overtaken"
        machine.waiting.pop(0)
        machine.holds()
        self.disturb()

    def on_expired(self) -> None:
        assert self.until <= self.machine.now, "too early"
        self.machine.waiting.remove(self)
        self.disturb()

    def disturb(self) -> None:
        machine = self.machine
        if self.temper == "quick" and machine.held:
            machine.give_back()
        elif self.temper == "stubborn":
            machine.ask(Waiter(machine, "calm", 2))
        elif self.temper == "pushing" and machine.waiting:
            machine.leave(machine.waiting[0])


TEMPERS = st.sampled_from(["calm", "quick", "quick", "stubborn", "pushing"])


class PermitsMachine(RuleBasedStateMachine):
    permits: Permits | None = None

    @initialize(count=st.integers(1, 3), max_waiting=st.integers(0, 4))
    def build(self, count: int, max_waiting: int) -> None:
        self.count, self.max_waiting = count, max_waiting
        self.permits = Permits(count, max_waiting)
        self.held = 0
        self.waiting: list[Waiter] = []
        self.now = 0

    def holds(self) -> None:
        self.held += 1
        assert self.held <= self.count, "one too many"

    def ask(self, waiter: Waiter) -> None:
        assert self.permits is not None
        is_free = self.held < self.count and not self.waiting
        assert self.permits.take() is is_free
        if is_free:
            self.holds()
            return
        is_full = len(self.waiting) >= self.max_waiting
        try:
            self.permits.wait(waiter, waiter.until)
        except BulkheadFull:
            assert is_full
        else:
            assert not is_full
            self.waiting.append(waiter)

    def give_back(self) -> None:
        assert self.permits is not None
        self.held -= 1
        self.permits.release()

    def leave(self, waiter: Waiter) -> None:
        assert self.permits is not None
        self.waiting.remove(waiter)
        self.permits.leave(waiter)
        self.permits.leave(waiter)

    @rule(temper=TEMPERS, wait_s=st.integers(1, 4))
    def somebody_asks(self, temper: str, wait_s: int) -> None:
        self.ask(Waiter(self, temper, wait_s))

    @precondition(lambda self: self.permits and self.held)
    @rule()
    def somebody_is_done(self) -> None:
        self.give_back()

    @precondition(lambda self: self.permits and self.waiting)
    @rule(data=st.data())
    def somebody_leaves(self, data: st.DataObject) -> None:
        self.leave(data.draw(st.sampled_from(self.waiting)))

    @precondition(lambda self: self.permits)
    @rule(seconds=st.integers(0, 3))
    def time_passes(self, seconds: int) -> None:
        assert self.permits is not None
        self.now += seconds
        following = self.permits.expire(self.now)
        assert all(waiter.until > self.now for waiter in self.waiting), "forgotten"
        assert following == min((waiter.until for waiter in self.waiting), default=math.inf)

    @invariant()
    def counts_are_true(self) -> None:
        if self.permits is not None:
            assert repr(self.permits) == f"<permits: {self.count - self.held} free, {len(self.waiting)} waiting>"
            assert not self.waiting or self.held == self.count, "waits for nothing"

    def teardown(self) -> None:
        if self.permits is not None:
            while self.held:
                self.give_back()
            assert repr(self.permits) == f"<permits: {self.count} free, 0 waiting>"


class End:
    """Keeps what is admitted; does at once what the path says."""

    def __init__(self) -> None:
        self.admitted: list[GatewayRequest] = []

    def render(self, request: GatewayRequest) -> int:
        self.admitted.append(request)
        if request.uri == b"/fails":
            raise UpstreamReset
        if request.uri == b"/breaks":
            raise ValueError
        if request.uri == b"/quick":
            request.answer(204, [], b"")
        return 1


ENDS: dict[str, Any] = {
    "complete": lambda request: request.answer(200, [], b"x"),
    "client leaves": GatewayRequest.client_gone,
    "backend fails": lambda request: request.fail(UpstreamReset()),
    "cut": lambda request: (request.respond(200, b"", [], -2), request.send_body(b"x"), request.fail(UpstreamReset())),
    "tunnel": lambda request: (request.switch_protocols([], None), request.tunnel_ended(None)),
}


class BulkheadMachine(RuleBasedStateMachine):
    bulkhead: Bulkhead | None = None

    @initialize(
        count=st.integers(1, 3),
        max_queue=st.integers(0, 4),
        timeout_s=st.sampled_from([0.2, 1.0]),
        total_s=st.sampled_from([0.0, 0.6]),
    )
    def build(self, count: int, max_queue: int, timeout_s: float, total_s: float) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.end = End()
        self.count, self.max_queue, self.timeout_s, self.total_s = count, max_queue, timeout_s, total_s
        self.bulkhead = Bulkhead(self.end, count, max_queue, timeout_s, total_s, self.wheel, self.clock)
        self.requests: list[GatewayRequest] = []

    @property
    def running(self) -> list[GatewayRequest]:
        return [request for request in self.end.admitted if not request.ended]

    @property
    def waiting(self) -> list[GatewayRequest]:
        return [request for request in self.requests if not request.ended and request not in self.end.admitted]

    def limit(self, request: GatewayRequest) -> tuple[float, str]:
        """How long it may wait, and what becomes of it then."""
        if self.total_s and self.total_s < self.timeout_s and request.body_complete:
            return self.total_s, "DEADLINE_EXCEEDED"
        return self.timeout_s, "BULKHEAD_FULL"

    @rule(path=st.sampled_from([b"/", b"/", b"/", b"/quick", b"/fails", b"/breaks"]), has_body=st.booleans())
    def request_comes(self, path: bytes, has_body: bool) -> None:
        assert self.bulkhead is not None
        request = stub_request(target=path, length=5 if has_body else -1, channel=StubChannel(self.clock.seconds))
        is_full = len(self.running) == self.count
        waiting = len(self.waiting)
        self.requests.append(request)
        Recovery(self.bulkhead).render(request)
        assert (request in self.end.admitted) is not is_full
        if is_full:
            assert request.ended is (waiting == self.max_queue)
            assert request.reason in {None, "BULKHEAD_FULL"}

    @precondition(lambda self: self.bulkhead and self.running)
    @rule(data=st.data(), how=st.sampled_from(sorted(ENDS)))
    def request_ends(self, data: st.DataObject, how: str) -> None:
        ENDS[how](data.draw(st.sampled_from(self.running)))

    @precondition(lambda self: self.bulkhead and self.waiting)
    @rule(data=st.data())
    def client_leaves_the_queue(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.waiting)).client_gone()

    @precondition(lambda self: self.bulkhead)
    @rule(ticks=st.integers(1, 8))
    def time_passes(self, ticks: int) -> None:
        for _ in range(ticks):
            before = self.waiting
            self.clock.advance(TICK_S)
            for request in before:
                limit_s, reason = self.limit(request)
                waited_s = self.clock.seconds() - request.started_at
                if request.ended and request not in self.end.admitted:
                    assert waited_s >= limit_s - 1e-9, "too early"
                    assert request.reason == reason
                else:
                    assert waited_s < limit_s + TICK_S + 1e-9, "forgotten"

    @invariant()
    def permits_are_where_the_requests_are(self) -> None:
        if self.bulkhead is None:
            return
        running, waiting = len(self.running), len(self.waiting)
        assert repr(self.bulkhead) == f"<bulkhead <permits: {self.count - running} free, {waiting} waiting>>"
        assert not waiting or running == self.count
        order = [self.requests.index(request) for request in self.end.admitted]
        assert order == sorted(set(order)), "overtaken"

    def teardown(self) -> None:
        if self.bulkhead is None:
            return
        while self.running:
            self.running[0].client_gone()
        assert repr(self.bulkhead) == f"<bulkhead <permits: {self.count} free, 0 waiting>>"
        self.clock.pump([TICK_S] * 20)
        assert self.clock.getDelayedCalls() == []


def test_permits_keep_their_promises() -> None:
    run_state_machine_as_test(PermitsMachine, settings=STEPS)


def test_bulkhead_keeps_its_promises() -> None:
    run_state_machine_as_test(BulkheadMachine, settings=STEPS)
