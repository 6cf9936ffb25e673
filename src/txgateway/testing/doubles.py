"""Small doubles for one part at a time: a channel, a request over it, what a middleware wraps, who takes a body."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, LogLevel, globalLogPublisher
from zope.interface import implementer

from txgateway.request import GatewayRequest
from txgateway.testing.memory import MemoryTransport
from txgateway.transport.interfaces import RequestHead


class RecordingBody:
    """A body consumer that keeps what it gets."""

    def __init__(self) -> None:
        self.data = b""
        self.pieces = 0
        self.trailers: list[tuple[bytes, bytes]] | None = None

    def body_received(self, data: bytes) -> None:
        assert self.trailers is None
        self.data += data
        self.pieces += 1

    def body_ended(self, trailers: Any) -> None:
        assert self.trailers is None
        self.trailers = [(name, value) for _, name, value in trailers]


class StubChannel:
    """A server channel that keeps what a request tells it."""

    def __init__(self, seconds: Callable[[], float] = lambda: 0.0) -> None:
        self.seconds = seconds
        self.peer_ip = "192.0.2.1"
        self.scheme = b"http"
        self.local_port = 80
        self.client_certificate = b""
        self.forwarded: dict[bytes, Any] = {}
        self.write_blocked = False
        self.events: list[tuple[Any, ...]] = []
        self.ends_well = True
        self.factory = self
        self.clock = Clock()
        self.transport = MemoryTransport(self.clock)

    def names(self) -> list[str]:
        return [event[0] for event in self.events]

    def send_head(self, status: int, reason: bytes, headers: Any, length: int) -> None:
        self.events.append(("head", status, reason, [(name, value) for _, name, value in headers], length))

    def send_body(self, data: bytes) -> None:
        self.events.append(("body", data))

    def send_end(self, trailers: Any) -> bool:
        self.events.append(("end",))
        return self.ends_well

    def send_informational(self, status: int, headers: Any) -> None:
        self.events.append(("informational", status))

    def send_switching(self, headers: Any) -> None:
        self.events.append(("switching", [(name, value) for _, name, value in headers]))

    def become_tunnel(self, tunnel: Any) -> bytes:
        self.events.append(("tunnel", tunnel))
        return b"early"

    def send_continue(self) -> None:
        self.events.append(("continue",))

    def pause_body(self) -> None:
        self.events.append(("pause",))

    def resume_body(self) -> None:
        self.events.append(("resume",))

    def close_when_idle(self) -> None:
        self.events.append(("close when idle",))

    def reset(self) -> None:
        self.events.append(("reset",))

    def flush(self) -> None:
        pass


def stub_request(
    method: bytes = b"GET",
    target: bytes = b"/",
    fields: Mapping[bytes, bytes] | None = None,
    length: int = -1,
    version: bytes = b"HTTP/1.1",
    channel: StubChannel | None = None,
) -> GatewayRequest:
    """A request over a :class:`StubChannel`, as it comes from the transport."""
    headers = tuple((name.lower(), name, value) for name, value in (fields or {b"Host": b"a"}).items())
    head = RequestHead(method, target, version, headers, {low: value for low, _, value in headers}, length, True, b"")
    request = GatewayRequest(channel or StubChannel(), head)
    request.body_complete = length in {-1, 0}
    return request


class RecordingInner:
    """What a middleware wraps: keeps the request, answers 204."""

    def __init__(self) -> None:
        self.requests: list[GatewayRequest] = []

    def render(self, request: GatewayRequest) -> int:
        self.requests.append(request)
        return 1


@contextmanager
def logged_failures() -> Iterator[list[LogEvent]]:
    """What is logged at level error or worse meanwhile."""
    events: list[LogEvent] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_level") in {LogLevel.error, LogLevel.critical}:
            events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(observe)
