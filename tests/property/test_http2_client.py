"""Exchanges of an HTTP/2 connection, in any interleaving and any pieces, with any pauses and windows, come out whole."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from attrs import Factory, define
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.http2_target import HOST, Exchange, Http2Target
from tests.helpers.upstream import RecordingHandler
from tests.integration.h2_frames import INITIAL_WINDOW_SIZE, REFUSED_STREAM

from txgateway.transport.interfaces import UNKNOWN_LENGTH

_SIZES = [0, 1, 100, 5000, 20_000, 70_000, 140_000]
_TRAILERS = [(), (("x-sum", "1"), ("x-more", "2"))]


@define
class Plan:
    """What becomes of an exchange.

    Attributes:
        fate: ``whole``, or how it ends before that.
        response: its body.
        request: its body.
        sent, answered: bytes of either that have been sent so far.
    """

    fate: str
    request: bytes
    response: bytes
    request_trailers: Any
    response_trailers: Any
    hints: int
    exchange: Any = None
    handler: Any = Factory(RecordingHandler)
    sent: int = 0
    answered: int = 0
    is_request_over: bool = False
    is_response_over: bool = False
    is_head_sent: bool = False
    is_over_early: bool = False


def body(seed: int, size: int) -> bytes:
    return bytes((seed + number * 7) % 251 for number in range(251)) * (size // 251 + 1)


plans = st.lists(
    st.builds(
        lambda seed, fate, asked, answered, trailers, more, hints: Plan(
            fate, body(seed, asked)[:asked], body(seed + 1, answered)[:answered], trailers, more, hints
        ),
        st.integers(0, 200),
        st.sampled_from(["whole", "whole", "whole", "cancelled", "refused"]),
        st.sampled_from(_SIZES),
        st.sampled_from(_SIZES),
        st.sampled_from(_TRAILERS),
        st.sampled_from(_TRAILERS),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=4,
)


class Run:
    """Drives the exchanges, one step of one of them after the other."""

    def __init__(self, todo: list[Plan], draw: Any) -> None:
        self.plans = todo
        self.draw = draw
        self.target = Http2Target(settings={INITIAL_WINDOW_SIZE: draw(st.sampled_from([1, 1000, 65_535, 200_000]))})
        self.target.reads = False
        self.turn()

    def turn(self) -> None:
        """Bytes arrive, in pieces that Hypothesis chooses."""
        target = self.target
        target.clock.advance(0)
        for event in target.link.feed(target.transport.received()):
            target._on_event(event)
        data = target.link.take()
        size = self.draw(st.sampled_from([1 << 30, 1 << 30, 9, 1000, 16_393]))
        size = max(size, len(data) // 50)
        for start in range(0, len(data), size):
            target.transport.send(data[start : start + size])
            target.clock.advance(0)

    def step(self, plan: Plan) -> None:
        """One thing happens to an exchange, if it can."""
        if plan.exchange is None:
            stream = self.target.connection.exchange()
            plan.exchange = Exchange(self.target, stream, plan.handler)
            has_body = bool(plan.request or plan.request_trailers)
            length = UNKNOWN_LENGTH if has_body else -1
            stream.start(plan.handler, b"POST", b"/", HOST, length, b"", not has_body)
            plan.is_request_over = not has_body
            self.turn()
        elif not plan.is_over_early:
            step = self.draw(
                st.sampled_from([self.ask, self.answer, self.answer, self.pace, self.make_room, self.quit])
            )
            step(plan)
            self.turn()

    def ask(self, plan: Plan) -> None:
        size = self.draw(st.sampled_from([1, 1000, 30_000, 200_000]))
        if plan.sent < len(plan.request):
            plan.exchange.stream.send_body(plan.request[plan.sent : plan.sent + size])
            plan.sent += size
        elif not plan.is_request_over:
            plan.is_request_over = True
            plan.exchange.stream.send_end(
                [(name.encode(), name.encode(), value.encode()) for name, value in plan.request_trailers]
            )

    def answer(self, plan: Plan) -> None:
        link, stream = self.target.link, plan.exchange.id
        if not plan.is_request_over or not plan.exchange.seen.ended:
            return  # else the exchange would be over before the request is
        if plan.hints:
            plan.hints -= 1
            link.send_headers(stream, [(":status", "103")])
        elif not plan.is_head_sent:
            plan.is_head_sent = True
            link.send_headers(stream, [(":status", "200")])
        elif plan.answered < len(plan.response):
            size = min(self.draw(st.sampled_from([1, 1000, 16_384])), link.sendable(stream))
            if size:
                piece = plan.response[plan.answered : plan.answered + size]
                is_last = plan.answered + size >= len(plan.response) and not plan.response_trailers
                link.connection.send_data(stream, piece, end_stream=is_last)
                plan.answered += size
                plan.is_response_over = is_last
        elif not plan.is_response_over:
            plan.is_response_over = True
            if plan.response_trailers:
                link.send_headers(stream, plan.response_trailers, ends=True)
            else:
                link.connection.send_data(stream, b"", end_stream=True)

    def pace(self, plan: Plan) -> None:
        if self.draw(st.booleans()):
            plan.exchange.stream.pause_reading()
        else:
            plan.exchange.stream.resume_reading()

    def make_room(self, plan: Plan) -> None:
        connection = self.target.link.connection
        if self.draw(st.booleans()):
            connection.increment_flow_control_window(self.draw(st.sampled_from([1, 10_000, 200_000])))
        elif self.draw(st.booleans()):
            size = self.draw(st.sampled_from([1, 1000, 65_535, 200_000]))
            connection.update_settings({INITIAL_WINDOW_SIZE: size})
        elif not plan.exchange.seen.ended:
            connection.increment_flow_control_window(self.draw(st.sampled_from([1, 10_000, 200_000])), plan.exchange.id)

    def quit(self, plan: Plan) -> None:
        if plan.fate == "cancelled" and not is_told(plan):
            plan.is_over_early = True
            plan.exchange.stream.cancel()
        elif plan.fate == "refused" and not plan.is_head_sent and not plan.response_trailers:
            plan.is_over_early = True
            self.target.link.connection.reset_stream(plan.exchange.id, REFUSED_STREAM)

    def finish(self) -> None:
        """Everything that was begun comes to its end."""
        target = self.target
        target.reads = True
        target.link.connection.increment_flow_control_window(2_000_000)
        target.link.connection.update_settings({INITIAL_WINDOW_SIZE: 1_000_000})
        for plan in self.plans:
            if plan.exchange is None:
                self.step(plan)
            while not plan.is_over_early and not is_told(plan):
                plan.exchange.stream.resume_reading()
                self.ask(plan)
                self.answer(plan)
                target.turn()


def is_told(plan: Plan) -> bool:
    return bool({"end", "failed"}.intersection(plan.handler.names))


@given(plans, st.data())
def test_every_exchange_comes_out_whole(todo: list[Plan], data: st.DataObject) -> None:
    run = Run(todo, data.draw)
    for _ in range(data.draw(st.integers(0, 80))):
        run.step(data.draw(st.sampled_from(todo)))
    run.finish()
    for plan in todo:
        names = [name for name in plan.handler.names if name not in {"body", "blocked", "drained", "informational"}]
        seen = plan.exchange.seen
        if plan.is_over_early:
            assert names == (["failed"] if plan.fate == "refused" else ["head"] * plan.handler.names.count("head"))
            assert plan.request.startswith(seen.body)
            assert plan.response.startswith(plan.handler.body)
            assert seen.reset == (8 if plan.fate == "cancelled" else None)
            continue
        assert names == ["head", "end"]
        assert plan.handler.body == plan.response
        assert all(event[1] for event in plan.handler.events if event[0] == "body")
        trailers = [(name.encode(), value.encode()) for name, value in plan.response_trailers]
        assert plan.handler.events[-2:] == [("end", trailers), ("flush",)]
        assert (seen.body, seen.trailers, seen.ended) == (plan.request, list(plan.request_trailers), True)
        assert seen.reset is None
        blocks = [name for name in plan.handler.names if name in {"blocked", "drained"}]
        assert all(one != other for one, other in pairwise(blocks))
    connection = run.target.connection
    assert not connection.streams
    assert not run.target.closed
    assert connection.completed == sum(not plan.is_over_early for plan in todo)
