"""One request at an HTTP/2 backend, and what becomes of it: the handler's choice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from attrs import Factory, define
from tests.integration import h2_frames
from tests.integration.backend import Received
from tests.integration.h2_link import Link, StreamReset
from tests.integration.wire import TIMEOUT_S, ConnectionEnded

if TYPE_CHECKING:
    from tests.integration.h2_backend import Session


@define
class H2Received(Received):
    """A request as it came.

    Attributes:
        pseudo: the pseudo header fields, which ``fields`` does not have.
        stream: its number.
    """

    pseudo: dict[str, str] = Factory(dict)
    stream: int = 0


class H2Exchange:
    """One request on a backend's connection; what happens next is the handler's choice.

    Every wait ends with :class:`StreamReset` when the gateway resets the stream, and with ``ConnectionEnded`` when the
    connection is over; a handler may let both pass.
    """

    def __init__(self, session: Session, request: H2Received) -> None:
        self.session = session
        self.request = request
        self.stream = request.stream
        self.reset_code: int | None = None
        self.is_ended = False
        self._pieces: list[tuple[bytes, int]] = []

    # --- the request ---------------------------------------------------------------------------------------------

    def read_some(self) -> bytes:
        """The next piece of the body, for which there is room again then; empty at the end."""
        session, data = self.session, b""
        with session.changed:
            while not data:
                self._wait(lambda: bool(self._pieces) or self.is_ended, "more of a request")
                if not self._pieces:
                    break
                data, size = self._pieces.pop(0)
                if size and not self.is_ended:
                    session.link.connection.increment_flow_control_window(size, self.stream)
                    session.flush()
        self.request.body += data
        return data

    def read_body(self) -> bytes:
        """The rest of the request; trailers are in the request then."""
        while self.read_some():
            pass
        return self.request.body

    # --- the response --------------------------------------------------------------------------------------------

    def send_informational(self, status: int, *fields: tuple[str, str]) -> None:
        """A 1xx response."""
        self.send_fields([(":status", str(status)), *fields])

    def send_head(self, status: int = 200, *fields: tuple[str, str], ends: bool = False) -> None:
        """The response head; with ``ends`` all there is, as in a trailers-only response."""
        self.send_fields([(":status", str(status)), *fields], ends=ends)

    def send_trailers(self, *fields: tuple[str, str]) -> None:
        """Trailers, which end the response."""
        self.send_fields(fields, ends=True)

    def send_fields(self, fields: Iterable[tuple[str, str]], *, ends: bool = False) -> None:
        """Any header list, right or wrong."""
        with self._sending() as link:
            link.send_headers(self.stream, fields, ends=ends)

    def send_data(self, data: bytes, *, ends: bool = False) -> None:
        """Send all of it, as the windows allow."""
        at = 0
        while at < len(data):
            with self.session.changed:
                self._wait(lambda: self._room() > 0, f"room for the rest of {len(data) - at} bytes")
                size = min(len(data) - at, self._room())
                at += size
                self.session.link.connection.send_data(
                    self.stream, data[at - size : at], end_stream=ends and at == len(data)
                )
                self.session.flush()
        if ends and not data:
            with self._sending() as link:
                link.connection.end_stream(self.stream)

    def send_while_granted(self, limit_bytes: int, *, silence_s: float = 1.0) -> int:
        """Send zeros until the gateway grants no more for a while; returns how many bytes it took."""
        sent = 0
        while sent < limit_bytes:
            with self.session.changed:
                if not self.session.changed.wait_for(lambda: self._is_lost() or self._room() > 0, silence_s):
                    break
                self._check()
                size = min(limit_bytes - sent, self._room())
                self.session.link.connection.send_data(self.stream, bytes(size))
                self.session.flush()
            sent += size
        return sent

    def answer(self, body: bytes = b"ok", status: int = 200, *fields: tuple[str, str]) -> None:
        """A whole response with its length."""
        self.send_head(status, ("content-length", str(len(body))), *fields, ends=not body)
        if body:
            self.send_data(body, ends=True)

    # --- other ends ----------------------------------------------------------------------------------------------

    def reset(self, code: int = h2_frames.INTERNAL_ERROR) -> None:
        """Give the stream up."""
        with self._sending() as link:
            link.connection.reset_stream(self.stream, code)

    def refuse(self) -> None:
        """Say that nothing was done for the request."""
        self.reset(h2_frames.REFUSED_STREAM)

    def wait_for(self, told: threading.Event) -> None:
        """Wait until the test says so."""
        assert told.wait(TIMEOUT_S), "the test gave no signal"

    def wait_until_left(self) -> int | None:
        """Wait until the gateway resets the stream, and return its code; None if it closes the connection."""
        with self.session.changed:
            assert self.session.changed.wait_for(self._is_lost, TIMEOUT_S), "the gateway did not give the stream up"
            return self.reset_code

    # --- inside --------------------------------------------------------------------------------------------------

    def on_data(self, data: bytes, size: int) -> None:
        """The session: something came; ``size`` is what it takes of the windows."""
        self._pieces.append((data, size))

    def _room(self) -> int:
        return 0 if self._is_lost() else self.session.link.sendable(self.stream)

    def _is_lost(self) -> bool:
        return self.reset_code is not None or self.session.is_over

    def _check(self) -> None:
        if self.reset_code is not None:
            raise StreamReset(self.reset_code)
        if self.session.is_over:
            raise ConnectionEnded("the connection is over")

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        assert self.session.changed.wait_for(lambda: self._is_lost() or is_so(), TIMEOUT_S), f"never came: {what}"
        if not is_so():
            self._check()

    @contextmanager
    def _sending(self) -> Iterator[Link]:
        """What is put into the link in the block leaves at its end."""
        with self.session.changed:
            self._check()
            yield self.session.link
            self.session.flush()


Handler = Callable[[H2Exchange], None]


def respond(body: bytes = b"ok", status: int = 200, *fields: tuple[str, str]) -> Handler:
    """Read the whole request and answer it."""

    def handler(exchange: H2Exchange) -> None:
        exchange.read_body()
        exchange.answer(body, status, *fields)

    return handler


def reset_with(code: int) -> Handler:
    """Reset the stream at once."""
    return lambda exchange: exchange.reset(code)


def hang(exchange: H2Exchange) -> None:
    """Read the whole request and say nothing until the gateway gives up."""
    exchange.read_body()
    exchange.wait_until_left()


def echo(exchange: H2Exchange) -> None:
    """Send every piece back as it comes: of a body, or of an extended CONNECT."""
    exchange.send_head(200)
    while data := exchange.read_some():
        exchange.send_data(data)
    exchange.send_data(b"", ends=True)
