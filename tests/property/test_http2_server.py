"""The server side of HTTP/2 against another implementation's client: whatever happens when, all of it arrives whole."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define
from h2 import events
from hypothesis import given
from hypothesis import strategies as st
from tests.integration.h2_frames import (
    CANCEL,
    INITIAL_WINDOW_SIZE,
)
from tests.integration.h2_link import Link
from tests.unit.support import MemoryTransport, Server, logged_failures

from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.http2.server import CONNECTION_WINDOW, STREAM_WINDOW
from txgateway.transport.http2.stream import MAX_QUEUED
from txgateway.transport.interfaces import UNKNOWN_LENGTH

_SIZES = [0, 1, 100, 5000, 20_000, 70_000, 270_000]
_TRAILERS: list[list[tuple[str, str]]] = [[], [("x-sum", "1"), ("x-more", "2")]]


def body(seed: int, size: int) -> bytes:
    """Whose pieces all differ."""
    return (bytes((seed + number * 7) % 251 for number in range(251)) * (size // 251 + 1))[:size]


@define(eq=False, repr=False)
class Exchange:
    """One request and its answer, as both sides are to see them.

    Attributes:
        request, answer: bodies.
        piece: in which the answer is made.
        is_cancelled: the client resets it at some point.
    """

    request: bytes
    answer: bytes
    request_trailers: list[tuple[str, str]]
    answer_trailers: list[tuple[str, str]]
    piece: int
    declares: bool
    is_cancelled: bool
    # The client's side.
    sent: int = 0
    is_sent: bool = False
    got: bytes = b""
    got_trailers: list[tuple[str, str]] = Factory(list)
    is_over: bool = False
    reset: int | None = None
    # The server's.
    gateway_request: Any = None
    received: bytes = b""
    received_trailers: list[tuple[str, str]] | None = None
    made: int = 0
    is_blocked: bool = False
    is_stopped: bool = False
    is_paused: bool = False

    # The consumer of the request's body ...

    def body_received(self, data: bytes) -> None:
        assert data
        assert not self.is_paused
        self.received += data

    def body_ended(self, trailers: Any) -> None:
        assert self.received_trailers is None
        self.received_trailers = [(name.decode(), value.decode()) for name, _, value in trailers]

    # ... and the producer of the answer's.

    def pauseProducing(self) -> None:
        self.is_blocked = True

    def resumeProducing(self) -> None:
        self.is_blocked = False

    def stopProducing(self) -> None:
        self.is_stopped = True

    def serve(self, request: Any) -> None:
        self.gateway_request = request
        request.producer = self

    def step(self) -> None:
        """The answer goes on by a piece, if it may."""
        request = self.gateway_request
        if request is None or request.ended or self.is_blocked:
            return
        if not request.responded:
            request.respond(200, b"", [], len(self.answer) if self.declares else UNKNOWN_LENGTH)
        piece = self.answer[self.made : self.made + self.piece]
        self.made += len(piece)
        if piece:
            request.send_body(piece)
        if self.made == len(self.answer) and self.received_trailers is not None:
            request.end([(name.encode(), name.encode(), value.encode()) for name, value in self.answer_trailers])
        else:
            request.flush()


#: What an exchange is made of: sizes of the bodies, their trailers, the answer's pieces, whether lengths are declared,
#: and whether it is cancelled.
exchanges = st.tuples(
    st.sampled_from(_SIZES),
    st.sampled_from(_SIZES),
    st.sampled_from(_TRAILERS),
    st.sampled_from(_TRAILERS),
    st.sampled_from([1000, 16_384, 65_536]),
    st.booleans(),
    st.sampled_from([False, False, False, True]),
)


class Conversation:
    """Both ends, and what is on its way between them."""

    def __init__(self, plans: list[Exchange], window: int, data: st.DataObject) -> None:
        self.draw = data.draw
        self.server = Server(self.dispatch)
        self.transport = MemoryTransport(self.server.clock)
        opened = self.server.factory.buildProtocol(None)
        assert isinstance(opened, Http1ServerConnection)
        opened.makeConnection(self.transport)
        self.connection = opened.become_http2()
        self.transport.protocol = self.connection
        self.link = Link(is_client=True, settings={INITIAL_WINDOW_SIZE: window})
        self.streams: dict[int, Exchange] = {}
        self.plans = plans
        self.on_way = b""
        self.max_queued = 0

    def dispatch(self, request: Any) -> None:
        self.streams[int(request.uri[1:])].serve(request)

    def begin(self, plan: Exchange) -> None:
        stream = 2 * len(self.streams) + 1
        self.streams[stream] = plan
        fields = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", f"/{stream}")]
        if plan.declares and not plan.request_trailers:
            fields.append(("content-length", str(len(plan.request))))
        plan.is_sent = not plan.request and not plan.request_trailers
        self.link.send_headers(stream, fields, ends=plan.is_sent)

    def upload(self, stream: int, plan: Exchange) -> None:
        """The client sends on, as far as its windows allow."""
        if plan.is_sent or plan.is_over or plan.reset is not None:
            return
        size = min(self.link.sendable(stream), len(plan.request) - plan.sent)
        piece = plan.request[plan.sent : plan.sent + size]
        plan.sent += size
        is_last = plan.sent == len(plan.request)
        if is_last and plan.request_trailers:
            if piece:
                self.link.connection.send_data(stream, piece)
            self.link.send_headers(stream, plan.request_trailers, ends=True)
            plan.is_sent = True
        elif piece or is_last:
            self.link.connection.send_data(stream, piece, end_stream=is_last)
            plan.is_sent = is_last

    def client_takes(self) -> None:
        """What has come to the client, whose reading makes room."""
        if self.transport.unsent:
            self.transport.take()
        for event in self.link.feed(self.transport.received()):
            stream = getattr(event, "stream_id", None)
            plan = self.streams.get(stream or 0)
            if plan is None:
                assert not isinstance(event, events.ConnectionTerminated)
                continue
            assert stream is not None
            if isinstance(event, events.DataReceived):
                plan.got += event.data
                size = event.flow_controlled_length
                if size:
                    self.link.connection.acknowledge_received_data(size, stream)
            elif isinstance(event, events.TrailersReceived):
                plan.got_trailers = [(bytes(name).decode(), bytes(value).decode()) for name, value in event.headers]
            elif isinstance(event, events.StreamEnded):
                plan.is_over = True
            elif isinstance(event, events.StreamReset):
                plan.reset = int(event.error_code)

    def deliver(self, size: int | None) -> None:
        """Bytes of the client's arrive, in one read."""
        self.on_way += self.link.take()
        size = len(self.on_way) if size is None else size
        data, self.on_way = self.on_way[:size], self.on_way[size:]
        self.transport.send(data)

    def act(self) -> None:
        """Something happens somewhere."""
        action = self.draw(st.integers(0, 8))
        if action == 0 and len(self.streams) < len(self.plans):
            self.begin(self.plans[len(self.streams)])
        elif action == 1:
            self.client_takes()
        elif action == 2:
            self.deliver(self.draw(st.sampled_from([1, 9, 100, 16_384, None])))
        elif action == 3:
            self.transport.takes = not self.transport.takes
        elif action == 4:
            self.server.clock.advance(0)
        elif self.streams:
            stream = self.draw(st.sampled_from(sorted(self.streams)))
            plan = self.streams[stream]
            self.act_on(action, stream, plan)
        for stream_state in self.connection.streams.values():
            assert stream_state._held_bytes <= STREAM_WINDOW
            self.max_queued = max(self.max_queued, stream_state.queued)

    def act_on(self, action: int, stream: int, plan: Exchange) -> None:
        request = plan.gateway_request
        if action == 5:
            self.upload(stream, plan)
        elif action == 6:
            plan.step()
        elif action == 7 and request is not None and not request.ended:
            if not request.body_wanted:
                request.want_body(plan)
            elif plan.is_paused:
                plan.is_paused = False
                request.resume_body()
            elif not request.body_complete:
                plan.is_paused = True
                request.pause_body()
        elif action == 8 and plan.is_cancelled and not plan.is_over and plan.reset is None:
            self.link.connection.reset_stream(stream, CANCEL)
            plan.reset = -1

    def finish(self) -> None:
        """Everything that is left happens, in order."""
        self.transport.takes = True
        while len(self.streams) < len(self.plans):
            self.begin(self.plans[len(self.streams)])
        for _ in range(200):
            for stream, plan in self.streams.items():
                if plan.reset is None:
                    self.upload(stream, plan)
                request = plan.gateway_request
                if request is not None and not request.ended:
                    if not request.body_wanted:
                        request.want_body(plan)
                    elif plan.is_paused:
                        plan.is_paused = False
                        request.resume_body()
                    for _ in range(10):
                        plan.step()
            self.deliver(None)
            self.server.clock.advance(0)
            self.client_takes()
            if all(plan.is_over or plan.reset is not None for plan in self.plans):
                break
        self.deliver(None)
        self.server.clock.advance(0)


def assert_whole(plan: Exchange) -> None:
    assert plan.received == plan.request
    assert plan.received_trailers == plan.request_trailers
    assert plan.got == plan.answer
    assert plan.got_trailers == plan.answer_trailers
    assert plan.gateway_request.reason is None


@given(
    chosen=st.lists(exchanges, min_size=1, max_size=5),
    window=st.sampled_from([1, 100, 5000, 65_535, 1_000_000]),
    steps=st.integers(0, 80),
    data=st.data(),
)
def test_all_that_is_sent_arrives_whole_both_ways(
    chosen: list[tuple[int, int, Any, Any, int, bool, bool]], window: int, steps: int, data: st.DataObject
) -> None:
    plans = [
        Exchange(body(number, asked), body(number + 100, min(answered, 50 * window)), *others)  # a window a turn
        for number, (asked, answered, *others) in enumerate(chosen)
    ]
    with logged_failures() as failures:
        conversation = Conversation(plans, window, data)
        for _ in range(steps):
            conversation.act()
        conversation.finish()
    assert not failures
    assert not conversation.link.goaways
    for plan in plans:
        if plan.reset is None:
            assert plan.is_over
            assert_whole(plan)
        else:
            assert plan.reset == -1
            assert plan.gateway_request is None or plan.gateway_request.ended
            assert plan.request.startswith(plan.received)
            assert plan.answer.startswith(plan.got)
    assert conversation.max_queued <= MAX_QUEUED + 65_536
    connection = conversation.connection
    assert not connection.streams
    assert not connection._ready
    assert connection._receive_left + connection._consumed == CONNECTION_WINDOW
