"""Targets in memory that speak HTTP/2: the ``h2`` library as a server at the far end of a connection of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from attrs import Factory, define
from h2 import events
from tests.helpers.upstream import FakeDial, FakeDialer, RecordingHandler
from tests.integration import h2_frames
from tests.integration.h2_link import Link, fields_of
from tests.integration.wire import Fields
from tests.unit.support import MemoryTransport
from twisted.internet.task import Clock

from txgateway.errors import GatewayError
from txgateway.transport.http2.client import Http2ClientConnection
from txgateway.transport.http2.client_stream import ClientStream
from txgateway.transport.interfaces import NO_BODY, HeaderList
from txgateway.transport.wheel import TICK_S, TimerWheel

HOST: HeaderList = [(b"host", b"Host", b"a.test")]
UPGRADE: HeaderList = [
    *HOST,
    (b"sec-websocket-key", b"Sec-WebSocket-Key", b"dGhlIHNhbXBsZSBub25jZQ=="),
    (b"sec-websocket-version", b"Sec-WebSocket-Version", b"13"),
]
#: That belongs to the key above (RFC 6455 section 1.3).
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@define
class Seen:
    """What the target has of a request."""

    fields: Fields
    body: bytes = b""
    trailers: Fields = Factory(list)
    ended: Any = False
    reset: Any = None

    @property
    def pseudo(self) -> dict[str, str]:
        return {name: value for name, value in self.fields if name.startswith(":")}

    @property
    def ordinary(self) -> Fields:
        return [field for field in self.fields if not field[0].startswith(":")]


class RecordingSharer:
    """Keeps what a shared connection tells its owner."""

    def __init__(self) -> None:
        self.ready = self.spare = 0
        self.errors: list[GatewayError] = []
        self.has_http1 = False
        self.wants_http1 = 0

    def on_http1_required(self) -> bool:
        self.wants_http1 += 1
        return self.has_http1

    def on_ready(self, connection: Http2ClientConnection) -> None:
        self.ready += 1

    def on_spare(self, connection: Http2ClientConnection) -> None:
        self.spare += 1

    def forget_shared(self, connection: Http2ClientConnection, error: GatewayError) -> None:
        self.errors.append(error)


class Http2Target:
    """One connection as the target sees it, with all that it needs around it.

    Args:
        clock, wheel: given if others share them.
        greets: introduces itself at once.
        settings: that it announces.

    Attributes:
        requests: by stream.
        reads: makes room again for what it has received.
        faults: what the library did not like.
    """

    def __init__(
        self,
        clock: Clock | None = None,
        wheel: TimerWheel | None = None,
        *,
        greets: bool = True,
        scheme: bytes = b"http",
        settings: Mapping[int, int] | None = None,
    ) -> None:
        self.clock = clock or Clock()
        self.wheel = wheel or TimerWheel(self.clock)
        self.link = Link(is_client=False, settings=settings or {})
        self.requests: dict[int, Seen] = {}
        self.reads = True
        self.owner = RecordingSharer()
        self.connection = Http2ClientConnection(self.wheel, self.clock, scheme)
        self.connection.owner = self.owner
        self.transport = MemoryTransport(self.clock)
        self.transport.protocol = self.connection
        self.connection.makeConnection(self.transport)
        if greets:
            self.turn()

    @property
    def closed(self) -> Any:
        return self.transport.closed or self.transport.aborted

    def request(
        self,
        method: bytes = b"GET",
        path: bytes = b"/x",
        headers: HeaderList = HOST,
        length: int = NO_BODY,
        first: bytes = b"",
        *,
        ended: bool = True,
        upgrade: bytes = b"",
        handler: RecordingHandler | None = None,
    ) -> Exchange:
        """Begin an exchange and let the target see it."""
        exchange = Exchange(self, self.connection.exchange(), handler or RecordingHandler())
        exchange.stream.start(exchange.handler, method, path, headers, length, first, ended, upgrade)
        self.turn()
        return exchange

    # --- the far end ---

    def turn(self) -> None:
        """Let all bytes on their way arrive, at either end."""
        self.clock.advance(0)
        while True:
            for event in self.link.feed(self.transport.received()):
                self._on_event(event)
            data = self.link.take()
            if not data:
                break
            self.transport.send(data)
            self.clock.advance(0)

    def raw(self, *reads: bytes) -> None:
        """Send bytes that the library knows nothing of, one read each."""
        for data in reads:
            self.transport.send(data)
            self.clock.advance(0)
        self.turn()

    def grant(self, size: int, stream: int | None = None) -> None:
        """Make room for more, on the connection or on a stream."""
        self.link.connection.increment_flow_control_window(size, stream)
        self.turn()

    def change(self, settings: Mapping[int, int]) -> None:
        """Announce other settings."""
        self.link.connection.update_settings(dict(settings))
        self.turn()

    def wait(self, seconds: float) -> None:
        """Let time pass, tick by tick, and the target answer."""
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)
            self.turn()

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                self.requests[event.stream_id] = Seen(fields_of(event.headers))
            case events.DataReceived():
                self.requests[event.stream_id].body += event.data
                if self.reads and event.flow_controlled_length:
                    self.link.connection.increment_flow_control_window(event.flow_controlled_length)
                    if event.stream_ended is None:
                        self.link.connection.increment_flow_control_window(
                            event.flow_controlled_length, event.stream_id
                        )
            case events.TrailersReceived():
                self.requests[event.stream_id].trailers = fields_of(event.headers)
            case events.StreamEnded():
                self.requests[event.stream_id].ended = True
            case events.StreamReset():
                self.requests[event.stream_id].reset = int(event.error_code)
            case _:
                pass


class Exchange:
    """One exchange from both ends.

    Attributes:
        stream: what the gateway has.
        handler: hears of it there.
    """

    def __init__(self, target: Http2Target, stream: ClientStream, handler: RecordingHandler) -> None:
        self.target = target
        self.stream = stream
        self.handler = handler

    @property
    def id(self) -> int:
        return self.stream.id

    @property
    def seen(self) -> Seen:
        """What the target has of the request."""
        return self.target.requests[self.id]

    @property
    def reset(self) -> Any:
        """The code with which the gateway has ended the stream."""
        return self.seen.reset

    def head(self, status: int = 200, *fields: tuple[str, str], ends: bool = False) -> None:
        """The target sends a head, or with another status than of three digits any list of fields."""
        self.fields((":status", str(status)), *fields, ends=ends)

    def fields(self, *fields: tuple[str, str], ends: bool = False) -> None:
        """The target sends a header block."""
        self.target.link.send_headers(self.id, fields, ends=ends)
        self.target.turn()

    def data(self, data: bytes, *, ends: bool = False) -> None:
        """The target sends DATA, which must fit."""
        link = self.target.link
        while len(data) > link.connection.max_outbound_frame_size:
            size = link.connection.max_outbound_frame_size
            link.connection.send_data(self.id, data[:size])
            data = data[size:]
        link.connection.send_data(self.id, data, end_stream=ends)
        self.target.turn()

    def answer(self, body: bytes = b"ok", status: int = 200, *fields: tuple[str, str]) -> None:
        """A whole response."""
        self.head(status, *fields, ends=not body)
        if body:
            self.data(body, ends=True)

    def send_reset(self, code: int) -> None:
        """The target resets the stream."""
        self.target.link.connection.reset_stream(self.id, code)
        self.target.turn()

    def raw_fields(self, *fields: tuple[bytes, bytes], ends: bool = False) -> None:
        """Any header block, right or wrong, past the library."""
        self.target.raw(raw_headers(self.id, fields, ends=ends))

    def raw_block(self, block: bytes, *, ends: bool = False) -> None:
        """The target sends a header block, past the library."""
        flags = h2_frames.END_HEADERS | (h2_frames.END_STREAM if ends else 0)
        self.target.raw(h2_frames.frame(h2_frames.HEADERS, flags, self.id, block))

    def send(self, data: bytes) -> None:
        """The gateway sends some of the request's body."""
        self.stream.send_body(data)
        self.target.turn()

    def send_end(self, *trailers: tuple[bytes, bytes]) -> None:
        """The gateway ends the request."""
        self.stream.send_end([(name.lower(), name, value) for name, value in trailers])
        self.target.turn()

    def resume(self) -> None:
        self.stream.resume_reading()
        self.target.turn()

    def cancel(self) -> None:
        self.stream.cancel()
        self.target.turn()


def raw_headers(stream: int, fields: Iterable[tuple[bytes, bytes]], *, ends: bool = False) -> bytes:
    """HEADERS with a block that no table remembers."""
    flags = h2_frames.END_HEADERS | (h2_frames.END_STREAM if ends else 0)
    return h2_frames.frame(h2_frames.HEADERS, flags, stream, h2_frames.literal_block(fields))


class Http2Dial(FakeDial):
    """May also make a connection that speaks HTTP/2."""

    dialer: Http2Dialer

    def greet(self, **settings: Any) -> Http2Target:
        """The target agrees on HTTP/2, and has not said anything yet."""
        self.dialer.dials.remove(self)
        target = Http2Target(self.dialer.clock, self.dialer.wheel, greets=False, **settings)
        self.dialer.targets.append(target)
        self.receiver.dialed(target.connection)
        return target

    def succeed_with_http2(self, **settings: Any) -> Http2Target:
        """The target agrees on HTTP/2, and introduces itself."""
        target = self.greet(**settings)
        target.turn()
        return target


class Http2Dialer(FakeDialer):
    """Keeps dials until the test decides about them."""

    dials: list[Http2Dial]  # type: ignore[assignment]

    def __init__(self, clock: Clock, wheel: TimerWheel) -> None:
        super().__init__()
        self.clock = clock
        self.wheel = wheel
        self.targets: list[Http2Target] = []

    def dial(self, receiver: Any) -> Http2Dial:
        dial = Http2Dial(self, receiver)
        self.dials.append(dial)
        return dial


def failure(exchange: Exchange) -> tuple[type, bool, bool, bool]:
    """The error and its three flags: written, response started, on a reused connection."""
    error = exchange.handler.error
    assert error is not None
    assert exchange.handler.names.count("failed") == 1
    assert exchange.handler.events[-1] == ("flush",)
    assert exchange.handler.events[-2][0] == "failed"
    return type(error), error.bytes_written, error.response_started, error.on_reused_connection
