"""A backend that speaks HTTP/2 by the ``h2`` library, and does what a test tells it to: one thread for each request."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import trustme
from h2 import events
from h2.exceptions import ProtocolError
from tests.integration import h2_frames
from tests.integration.backend import Received, ScriptedBackend
from tests.integration.h2_exchange import H2Exchange, H2Received, Handler, echo, hang, reset_with, respond
from tests.integration.h2_frames import ENABLE_CONNECT_PROTOCOL, INITIAL_WINDOW_SIZE, MAX_CONCURRENT_STREAMS, FrameWire
from tests.integration.h2_link import Goaway, Link, fields_of
from tests.integration.wire import TIMEOUT_S, ConnectionEnded

__all__ = [
    "H2Backend",
    "H2Exchange",
    "H2Received",
    "Handler",
    "Session",
    "echo",
    "hang",
    "reset_with",
    "respond",
    "server_context",
]


class Session:
    """One connection of a backend.

    Attributes:
        number: from 1.
        link: the library's state, with counts of frames and the gateway's GOAWAYs; to be used with ``changed`` held.
        changed: told of everything that comes.
        most_streams: that were ever open at once.
        is_mute: nothing leaves any more, as if the machine had died.
    """

    def __init__(self, backend: H2Backend, sock: socket.socket, number: int, link: Link) -> None:
        self.number = number
        self.link = link
        self.changed = threading.Condition(threading.RLock())
        self.most_streams = 0
        self.is_mute = False
        self.is_over = False
        self._is_leaving = False
        self._backend = backend
        self._socket = sock
        self._exchanges: dict[int, H2Exchange] = {}

    def serve(self) -> None:
        """Until the connection is over."""
        self._socket.settimeout(TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            with self.changed:
                self.flush()
            while data := self._read():
                with self.changed:
                    if self not in self._backend.sessions:
                        self._backend.sessions.append(self)
                    self._take_in(data)
                    self.changed.notify_all()
        finally:
            with self.changed:
                self.is_over = True
                self.changed.notify_all()

    def flush(self) -> None:
        """Send what the link has to send."""
        data = self.link.take()
        if data and not self.is_mute:
            self._socket.sendall(data)

    def send_raw(self, frames: bytes) -> None:
        """Frames that the library knows nothing of."""
        with self.changed:
            self._socket.sendall(frames)

    def goaway(self, last_stream: int = h2_frames.LARGEST_STREAM, code: int = h2_frames.NO_ERROR) -> None:
        """Announce the end; streams go on, and what comes after it still comes to the handlers."""
        self.send_raw(h2_frames.goaway(last_stream, code))

    def change_settings(self, settings: Mapping[int, int]) -> None:
        """Announce other settings in the middle of the connection."""
        with self.changed:
            self.link.connection.update_settings(dict(settings))
            self.flush()

    def close(self) -> None:
        """Close the connection without a word: in good order as TCP sees it, if all was read."""
        self._is_leaving = True
        with suppress(OSError):  # it may be over
            # Wakes the reading thread, which closes. That of ssl would go on without TLS.
            socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def _read(self) -> bytes:
        """What comes next. Reads and writes of TLS take turns, for OpenSSL does not do both at once."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            if not isinstance(self._socket, ssl.SSLSocket) or not self._socket.pending():
                poll.poll()
            if self._is_leaving:
                return b""
            with self.changed:
                self._socket.settimeout(0.0)
                try:
                    return self._socket.recv(65536)
                except (BlockingIOError, ssl.SSLWantReadError):
                    pass
                finally:
                    self._socket.settimeout(TIMEOUT_S)

    def _take_in(self, data: bytes) -> None:
        try:
            for event in self.link.feed(data):
                self._on_event(event)
        finally:
            self.flush()

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                self._on_request(event)
            case events.DataReceived():
                if event.flow_controlled_length:  # streams do not take each other's room
                    self.link.connection.increment_flow_control_window(event.flow_controlled_length)
                self._exchanges[event.stream_id].on_data(event.data, event.flow_controlled_length)
            case events.TrailersReceived():
                self._exchanges[event.stream_id].request.trailers = fields_of(event.headers)
            case events.StreamEnded():
                self._exchanges[event.stream_id].is_ended = True
            case events.StreamReset():
                if event.remote_reset:
                    self._exchanges[event.stream_id].reset_code = int(event.error_code)
            case _:
                pass

    def _on_request(self, event: events.RequestReceived) -> None:
        fields = fields_of(event.headers)
        pseudo = {name: value for name, value in fields if name.startswith(":")}
        request = H2Received(
            method=pseudo[":method"],
            target=pseudo.get(":path", "").encode("latin-1"),
            version="HTTP/2",
            fields=[(name, value) for name, value in fields if not name.startswith(":")],
            connection=self.number,
            pseudo=pseudo,
            stream=event.stream_id,
        )
        exchange = self._exchanges[event.stream_id] = H2Exchange(self, request)
        self.most_streams = max(self.most_streams, self.link.connection.open_inbound_streams)
        self._backend.begin(exchange)


def server_context(authority: trustme.CA, *protocols: str, host: str = "127.0.0.1") -> ssl.SSLContext:
    """A server's certificate, and the protocols that it takes, best first; ``h2`` if none is given."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    context.set_alpn_protocols(list(protocols or ("h2",)))
    return context


class H2Backend(ScriptedBackend):
    """Listens on a free port of the loopback interface, as a context manager.

    Over TLS a client that does not choose ``h2`` is spoken HTTP/1.1 with, by the ``script`` of
    :class:`ScriptedBackend`; its requests come to :meth:`received_over_http1`.

    Args:
        tls: makes it speak TLS; see :func:`server_context`.
        max_streams: announced; a client that opens more is a fault.
        initial_window: of each stream. Room on the connection is made at once, on a stream when it is read.
        takes_connect: announces that extended CONNECT is possible.
        settings: announced beside these.

    Attributes:
        handler: for each request that comes from now on.
        handlers: for requests with a path, over ``handler``.
        raw: has the next connections for itself, frame by frame, if it is set; ``FrameWire.greet_back`` begins them.
        sessions: HTTP/2 connections so far on which something was said.
    """

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        max_streams: int = 100,
        initial_window: int = 65_535,
        takes_connect: bool = False,
        settings: Mapping[int, int] | None = None,
    ) -> None:
        self.handler: Handler = respond()
        self.handlers: dict[str, Handler] = {}
        self.raw: Callable[[FrameWire], None] | None = None
        self.sessions: list[Session] = []
        self.settings = {
            MAX_CONCURRENT_STREAMS: max_streams,
            INITIAL_WINDOW_SIZE: initial_window,
            ENABLE_CONNECT_PROTOCOL: int(takes_connect),
            **(settings or {}),
        }
        super().__init__(tls=tls)
        self.url = f"{'https' if tls else 'h2c'}://127.0.0.1:{self.port}"

    def renew(self) -> None:
        """Forget the past: for the next test."""
        super().renew()
        self.handler = respond()
        self.handlers.clear()
        self.raw = None

    def received(self) -> H2Received:
        """The next request over HTTP/2 that has come, or comes; the body is read when the handler has done so."""
        received = super().received()
        assert isinstance(received, H2Received), received
        return received

    def received_over_http1(self) -> Received:
        """The next request over HTTP/1.1."""
        received = super().received()
        assert not isinstance(received, H2Received), received
        return received

    @property
    def pings(self) -> int:
        """PINGs that came on all connections."""
        return sum(session.link.pings for session in self.sessions)

    @property
    def goaways(self) -> list[Goaway]:
        """GOAWAYs that came on all connections."""
        return [goaway for session in self.sessions for goaway in session.link.goaways]

    @property
    def most_streams(self) -> int:
        """The most streams that were ever open at once on one connection."""
        return max((session.most_streams for session in self.sessions), default=0)

    def begin(self, exchange: H2Exchange) -> None:
        """A session: a request has come."""
        path = exchange.request.pseudo.get(":path", "").partition("?")[0]
        handler = self.handlers.get(path, self.handler)
        self._received.put(exchange.request)
        threading.Thread(target=self._handle, args=(handler, exchange), daemon=True).start()

    def _handle(self, handler: Handler, exchange: H2Exchange) -> None:
        try:
            handler(exchange)
        except (OSError, ConnectionEnded):
            pass  # the other side left, which tests look at from the outside
        except ProtocolError as exc:
            if not exchange.session.is_over:
                self.faults.append(exc)
        except BaseException as exc:  # noqa: BLE001 -- handed to the test's own thread
            self.faults.append(exc)

    def _serve_requests(self, sock: Any, number: int) -> None:
        if isinstance(sock, ssl.SSLSocket) and sock.selected_alpn_protocol() != "h2":
            super()._serve_requests(sock, number)
            return
        if self.raw is not None:
            self.raw(FrameWire(sock))
            return
        Session(self, sock, number, Link(is_client=False, settings=self.settings)).serve()
