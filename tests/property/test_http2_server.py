"""The server side of HTTP/2 against another implementation's client, and against frames that make no sense."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define
from h2 import events
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.http2_client import GET, POST, Http2Client
from tests.integration.h2_frames import (
    CANCEL,
    GOAWAY,
    INITIAL_WINDOW_SIZE,
    PREFACE,
    frame,
    literal_block,
    settings_frame,
)
from tests.integration.h2_link import Link
from tests.property.strategies import splits
from tests.unit.support import MemoryTransport, Server, logged_failures

from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.http2.floods import EMPTY_FRAMES
from txgateway.transport.http2.server import CONNECTION_WINDOW, MAX_STREAMS, STREAM_WINDOW
from txgateway.transport.http2.streams import KNOWN_CLOSED
from txgateway.transport.interfaces import UNKNOWN_LENGTH

_SIZES = [0, 1, 100, 5000, 20_000, 70_000, 300_000]
_TRAILERS: list[list[tuple[str, str]]] = [[], [("x-sum", "1"), ("x-more", "2")]]


def body(seed: int, size: int) -> bytes:
    """Whose pieces all differ."""
    return (bytes((seed + number * 7) % 251 for number in range(251)) * (size // 251 + 1))[:size]


@define(eq=False)
class Exchange:
    """One request and its answer, as both sides are to see them.

    Attributes:
        request, answer: bodies.
        piece: in which the answer is made.
        is_cancelled: the client resets it at some point.
    """

    seed: int
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


exchanges = st.builds(
    lambda seed, asked, answered, trailers, more, piece, declares, cancelled: Exchange(
        seed, body(seed, asked), body(seed + 1, answered), trailers, more, piece, declares, cancelled == 0
    ),
    st.integers(0, 200),
    st.sampled_from(_SIZES),
    st.sampled_from(_SIZES),
    st.sampled_from(_TRAILERS),
    st.sampled_from(_TRAILERS),
    st.sampled_from([1000, 16_384, 65_536]),
    st.booleans(),
    st.integers(0, 5),
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
        if plan.is_sent or plan.is_over:
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
        for _ in range(400):
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
    plans=st.lists(exchanges, min_size=1, max_size=5),
    window=st.sampled_from([0, 1, 1000, 65_535, 1_000_000]),
    steps=st.integers(0, 80),
    data=st.data(),
)
def test_all_that_is_sent_arrives_whole_both_ways(
    plans: list[Exchange], window: int, steps: int, data: st.DataObject
) -> None:
    with logged_failures() as failures:
        conversation = Conversation(plans, max(window, 1), data)
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
    assert conversation.max_queued <= 16 * 1024 + 65_536
    connection = conversation.connection
    assert not connection.streams
    assert not connection._ready
    assert connection._receive_left + connection._consumed == CONNECTION_WINDOW


# --- frames that make no sense ---------------------------------------------------------------------------------------------------

_streams = st.sampled_from([0, 1, 2, 3, 5, 7, 2**31 - 1, 2**31 + 1])
_blocks = st.one_of(
    st.just(literal_block(GET)),
    st.just(literal_block(POST)),
    st.just(literal_block([(b"x-t", b"1")])),
    st.just(literal_block([*POST, (b"content-length", b"5")])),
    st.just(literal_block([(b":method", b"CONNECT"), (b":protocol", b"websocket"), *GET[1:]])),
    st.binary(max_size=30),
)
_numbers = st.sampled_from([0, 1, 100, 2**16, 2**31 - 1, 2**32 - 1]).map(lambda number: number.to_bytes(4, "big"))
_payloads = st.one_of(st.binary(max_size=20), _numbers, _blocks, st.integers(0, 30).map(bytes))
_settings = st.lists(
    st.tuples(st.integers(0, 10), st.sampled_from([0, 1, 2, 100, 2**14, 2**16, 2**24, 2**31 - 1, 2**31])), max_size=3
).map(settings_frame)
_flags = st.one_of(st.sampled_from([0, 1, 4, 5, 0xC, 0x25, 0x2C]), st.integers(0, 255))
garbage = st.lists(
    st.one_of(
        st.builds(frame, st.integers(0, 11), _flags, _streams, _payloads),
        st.builds(frame, st.just(1), st.sampled_from([4, 5, 5, 0, 1]), _streams, _blocks),
        st.builds(frame, st.just(0), st.sampled_from([0, 1, 8, 9]), _streams, _payloads),
        st.builds(frame, st.sampled_from([3, 8]), st.just(0), _streams, _numbers),
        _settings,
    ),
    max_size=25,
)


class Careless:
    """Serves in one of several ways, by turns."""

    def __init__(self, ways: list[int]) -> None:
        self.ways = ways
        self.server = Server(self.serve)

    def body_received(self, data: bytes) -> None:
        pass

    def body_ended(self, trailers: Any) -> None:
        pass

    def serve(self, request: Any) -> None:
        way = self.ways[len(self.server.requests) % len(self.ways)]
        if way in {1, 3}:
            request.want_body(self)
        if way in {2, 3}:
            request.answer(403, [], bytes(100_000))
        elif way == 4:
            request.respond(200 if request.upgrade == b"" else 404, b"", [], UNKNOWN_LENGTH)
            request.send_body(b"some")
        elif way == 5:
            request.abort()


@given(
    frames=garbage,
    ways=st.lists(st.integers(0, 5), min_size=1, max_size=5),
    is_split=st.booleans(),
    data=st.data(),
)
@example(frames=[frame(1, 5, 1, literal_block(GET))] * 2, ways=[2], is_split=False, data=None)
def test_frames_that_make_no_sense_harm_nobody(
    frames: list[bytes], ways: list[int], is_split: bool, data: st.DataObject | None
) -> None:
    careless = Careless(ways)
    server = careless.server
    with logged_failures() as failures:
        client = Http2Client(server, greets=False)
        wire = PREFACE + settings_frame() + b"".join(frames)
        for read in data.draw(splits(wire)) if is_split and data is not None else [wire]:
            client.send(read)
        assert_sane(client)
        if client.goaway is None:
            client.send(frame(6, 0, 0, b"sentinel"))
            assert_sane(client)
        client.transport.end()
        server.clock.advance(0)
        assert client.transport.closed
        assert all(request.ended for request in server.requests + server.refused)
        assert not server.factory.connections
        server.wait(3)
        assert not (server.wheel._fine or server.wheel._coarse)
    assert not failures


def assert_sane(client: Http2Client) -> None:
    """It is open, or ended with GOAWAY; and what it holds is bounded."""
    connection, transport = client.connection, client.transport
    client.look()
    assert not transport.aborted
    assert (client.goaway is not None and client.log[-1].kind == GOAWAY) == transport.half_closed
    assert len(connection.streams) <= MAX_STREAMS
    assert len(connection._closed) <= KNOWN_CLOSED
    assert connection._receive_left <= CONNECTION_WINDOW
    assert 0 <= connection._empty_frames._left <= EMPTY_FRAMES
    if transport.half_closed:
        assert not connection.streams
        assert connection._buffer == b""
        assert connection._block is None


@given(data=st.data(), raw=st.binary(max_size=300))
def test_garbage_harms_nobody(data: st.DataObject, raw: bytes) -> None:
    with logged_failures() as failures:
        client = Http2Client(Server(), greets=False)
        for read in data.draw(splits(PREFACE + raw)):
            client.send(read)
        assert_sane(client)
    assert not failures
