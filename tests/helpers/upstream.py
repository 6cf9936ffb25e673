"""Doubles for the client side: a handler that records, an owner that records, a connection for pools, a dialer."""

from __future__ import annotations

from typing import Any

from txgateway.errors import GatewayError, UpstreamError
from txgateway.transport.dial import Dialing, DialReceiver
from txgateway.transport.http1_client import ConnectionOwner
from txgateway.transport.interfaces import ClientConnection, HeaderList, ResponseHandler


class RecordingHandler:
    """Keeps what it is told, one tuple an event, ``("flush",)`` included."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.error: UpstreamError | None = None

    def on_informational(self, status: int, headers: HeaderList) -> None:
        self.events.append(("informational", status, [(name, value) for _, name, value in headers]))

    def on_upgraded(self, connection: ClientConnection, headers: HeaderList, early: bytes) -> None:
        self.events.append(("upgraded", [(name, value) for _, name, value in headers], early))

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        self.events.append(("head", status, reason, [(name, value) for _, name, value in headers], length))

    def on_body(self, data: bytes) -> None:
        self.events.append(("body", data))

    def on_end(self, trailers: HeaderList) -> None:
        self.events.append(("end", [(name, value) for _, name, value in trailers]))

    def on_failed(self, error: UpstreamError) -> None:
        self.error = error
        self.events.append(("failed", type(error).__name__))

    def on_flush(self) -> None:
        self.events.append(("flush",))

    def on_write_blocked(self) -> None:
        self.events.append(("blocked",))

    def on_write_drained(self) -> None:
        self.events.append(("drained",))

    @property
    def names(self) -> list[str]:
        """Names of the events, flushes left out."""
        return [event[0] for event in self.events if event[0] != "flush"]

    @property
    def body(self) -> bytes:
        return b"".join(event[1] for event in self.events if event[0] == "body")

    def transcript(self) -> list[tuple[Any, ...]]:
        """The events with the body joined and flushes left out: the same for every split of the input."""
        told = [event for event in self.events if event[0] not in {"body", "flush"}]
        return [*told, ("whole body", self.body)]


class RecordingOwner:
    """Keeps what a connection tells its owner."""

    def __init__(self) -> None:
        self.released = 0
        self.forgotten = 0

    def release(self, connection: object) -> None:
        self.released += 1

    def forget(self, connection: object) -> None:
        self.forgotten += 1


class FakeConnection:
    """A connection as a pool sees it."""

    owner: ConnectionOwner

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.reused = False
        self.version = b"1.1"
        self.is_lent = False
        self.opened_at = self.idle_since = 0.0
        self.is_open = True
        self.looks_alive = True

    def __repr__(self) -> str:
        return f"<connection {self.number}>"

    def finish(self) -> None:
        """Its exchange ends cleanly."""
        self.reused = True
        self.owner.release(self)  # type: ignore[arg-type]

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.owner.forget(self)  # type: ignore[arg-type]

    cancel = close

    def is_alive(self) -> bool:
        return self.is_open and self.looks_alive

    def start(
        self,
        handler: ResponseHandler,
        method: bytes,
        target: bytes,
        headers: HeaderList,
        length: int,
        first: bytes,
        ended: bool,
        upgrade: bytes = b"",
    ) -> None:
        raise NotImplementedError

    def send_body(self, data: bytes) -> None:
        raise NotImplementedError

    def send_end(self, trailers: HeaderList) -> None:
        raise NotImplementedError

    def pause_reading(self) -> None:
        raise NotImplementedError

    def resume_reading(self) -> None:
        raise NotImplementedError


class FakeDial:
    """A dial that the test decides about."""

    def __init__(self, dialer: FakeDialer, receiver: DialReceiver[Any]) -> None:
        self.dialer = dialer
        self.receiver = receiver

    def cancel(self) -> None:
        self.dialer.dials.remove(self)
        self.dialer.cancelled += 1

    def succeed(self) -> FakeConnection:
        self.dialer.dials.remove(self)
        connection = FakeConnection(len(self.dialer.connections))
        self.dialer.connections.append(connection)
        self.receiver.dialed(connection)
        return connection

    def fail(self, error: UpstreamError) -> None:
        self.dialer.dials.remove(self)
        self.receiver.dial_failed(error)


class FakeDialer:
    """Keeps dials until the test decides about them."""

    def __init__(self) -> None:
        self.dials: list[FakeDial] = []
        self.connections: list[FakeConnection] = []
        self.cancelled = 0

    def dial(self, receiver: DialReceiver[Any]) -> Dialing:
        dial = FakeDial(self, receiver)
        self.dials.append(dial)
        return dial


class RecordingWaiter:
    """Keeps what a pool tells it."""

    needs_http2 = False

    def __init__(self) -> None:
        self.connections: list[ClientConnection] = []
        self.errors: list[GatewayError] = []

    def on_connection(self, connection: ClientConnection) -> None:
        self.connections.append(connection)

    def on_unavailable(self, error: GatewayError) -> None:
        self.errors.append(error)

    @property
    def times_told(self) -> int:
        return len(self.connections) + len(self.errors)
