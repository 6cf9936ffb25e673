"""A scripted client that speaks HTTP/2 by the ``h2`` library: it fails where the other side breaks the rules.

It has no thread: what came is looked at, and acknowledged, only while a call waits for something.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import Self

from attrs import Factory, define
from h2 import events
from tests.integration.client import Head, Response
from tests.integration.h2_frames import CANCEL, ENABLE_PUSH, INITIAL_WINDOW_SIZE, connected, request_fields
from tests.integration.h2_link import Goaway, Link, StreamReset, fields_of
from tests.integration.secure import HOST
from tests.integration.wire import TIMEOUT_S, ConnectionEnded, Fields, Wire

FIRST_WINDOW = 65_535


@define
class ClientStream:
    """What has come of a response so far.

    Attributes:
        head: the final one.
        is_ended: by the other side, in good order.
        reset_code: of its RST_STREAM.
        is_granting: what comes is made room for again; see :meth:`H2Client.stall`.
        held_bytes: that came and were not made room for.
        pieces: sizes of the DATA frames, without the empty ones.
    """

    head: Head | None = None
    informational: list[Head] = Factory(list)
    body: bytearray = Factory(bytearray)
    trailers: Fields = Factory(list)
    is_ended: bool = False
    reset_code: int | None = None
    is_granting: bool = True
    held_bytes: int = 0
    pieces: list[int] = Factory(list)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come."""
        return self.is_ended or self.reset_code is not None


class H2Client:
    """One connection to a port of the loopback interface, as a context manager; the server's SETTINGS have come.

    Args:
        port: there, or a socket that is connected already.
        context: makes it speak TLS, and has to offer ``h2``; see :func:`tests.integration.h2_frames.h2_context`.
        host: to ask for over TLS, and the authority of requests.
        receive_bytes: size of the kernel's receive buffer, for clients that are to be slow.
        initial_window: of each stream, for what it receives.
        connection_window: of all streams together; what comes on any is made room for at once, unless
            ``is_granting_connection`` is false.
        settings: announced beside these.

    Attributes:
        link: the library's state, with counts of frames.
        streams: by number.
        ended: how the server's bytes ended: ``end`` or ``reset``, which over TLS looks like an end; empty as long as they
            go on.
    """

    def __init__(
        self,
        port: int | socket.socket,
        context: ssl.SSLContext | None = None,
        *,
        host: str = HOST,
        receive_bytes: int = 0,
        initial_window: int = FIRST_WINDOW,
        connection_window: int = FIRST_WINDOW,
        settings: Mapping[int, int] | None = None,
        is_granting_connection: bool = True,
    ) -> None:
        self.host = host
        self.scheme = "http" if context is None else "https"
        self.is_granting_connection = is_granting_connection
        self.streams: dict[int, ClientStream] = {}
        self.ended = ""
        self._pongs: set[bytes] = set()
        self._has_settings = False
        announced = {ENABLE_PUSH: 0, INITIAL_WINDOW_SIZE: initial_window, **(settings or {})}
        self.link = Link(is_client=True, settings=announced, connection_window=connection_window)
        self.wire = Wire(connected(port, context, host=host, receive_bytes=receive_bytes))
        self.socket = self.wire.socket
        try:
            if isinstance(self.socket, ssl.SSLSocket):
                assert self.socket.selected_alpn_protocol() == "h2", "the server does not speak HTTP/2"
            self._flush()
            self.wait(lambda: self._has_settings, "the server's SETTINGS")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave without a GOAWAY, as most clients do."""
        self.wire.close()

    def reset(self) -> None:
        """Leave with a TCP reset."""
        self.wire.reset()

    # --- requests ------------------------------------------------------------------------------------------------

    def open(self, fields: Iterable[tuple[str, str]], *, ends: bool = False) -> int:
        """Open a stream with any header list; returns its number."""
        stream = self.link.connection.get_next_available_stream_id()
        self.link.send_headers(stream, fields, ends=ends)
        self.streams[stream] = ClientStream()
        self._flush()
        return stream

    def request(
        self, method: str, path: str, *fields: tuple[str, str], body: bytes | None = b"", authority: str = ""
    ) -> int:
        """Open a stream and send the whole request; without its end if ``body`` is None. Returns its number."""
        pseudo = request_fields(method, path, *fields, authority=authority or self.host, scheme=self.scheme)
        stream = self.open(pseudo, ends=body == b"")
        if body:
            self.send_data(stream, body, ends=True)
        return stream

    def get(self, path: str, *fields: tuple[str, str], method: str = "GET") -> Response:
        """The response to a request without a body."""
        return self.response(self.request(method, path, *fields))

    def post(self, path: str, body: bytes, *fields: tuple[str, str]) -> Response:
        """The response to a request with a body, whose length is not announced."""
        return self.response(self.request("POST", path, *fields, body=body))

    def connect(self, path: str, protocol: str = "websocket", *fields: tuple[str, str]) -> int:
        """Open a stream with an extended CONNECT (RFC 8441); returns its number."""
        pseudo = request_fields("CONNECT", path, *fields, authority=self.host, scheme=self.scheme)
        return self.open([*pseudo[:1], (":protocol", protocol), *pseudo[1:]])

    @property
    def may_connect(self) -> bool:
        """Whether the server takes extended CONNECTs."""
        return bool(self.link.connection.remote_settings.enable_connect_protocol)

    def send_data(self, stream: int, data: bytes, *, ends: bool = False) -> None:
        """Send all of it, as the windows allow.

        Raises:
            StreamReset: the server did not want all.
        """
        at = 0
        while at < len(data):
            self._look()
            self.wait(lambda: self._may_send(stream), f"room for the rest of {len(data) - at} bytes")
            size = min(len(data) - at, self.link.sendable(stream))
            at += size
            self.link.connection.send_data(stream, data[at - size : at], end_stream=ends and at == len(data))
            self._flush()
        if ends and not data:
            self.end(stream)

    def send_while_granted(self, stream: int, limit_bytes: int, *, silence_s: float = 1.0) -> int:
        """Send zeros until the server grants no more for a while; returns how many bytes it took."""
        sent = 0
        while sent < limit_bytes:
            try:
                self.wait(lambda: self._may_send(stream), "room", timeout_s=silence_s)
            except TimeoutError:
                break
            size = min(limit_bytes - sent, self.link.sendable(stream))
            self.link.connection.send_data(stream, bytes(size))
            sent += size
            self._flush()
        return sent

    def end(self, stream: int) -> None:
        """End our half of a stream with an empty DATA."""
        self.link.connection.end_stream(stream)
        self._flush()

    def send_trailers(self, stream: int, *fields: tuple[str, str]) -> None:
        """End our half of a stream with trailers."""
        self.link.send_headers(stream, fields, ends=True)
        self._flush()

    def reset_stream(self, stream: int, code: int = CANCEL) -> None:
        """Give a stream up."""
        self.link.connection.reset_stream(stream, code)
        self._flush()

    def ping(self, data: bytes = b"12345678", *, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for the answer to a PING: by then the server has read all that was sent before it."""
        self._pongs.discard(data)
        self.link.connection.ping(data)
        self._flush()
        self.wait(lambda: data in self._pongs, "the answer to a PING", timeout_s=timeout_s)

    # --- windows -------------------------------------------------------------------------------------------------

    def stall(self, stream: int) -> None:
        """From now on nothing that comes on a stream is made room for."""
        self.streams[stream].is_granting = False

    def grant(self, stream: int, count: int) -> None:
        """Room for so many bytes more, on a stream that is stalled."""
        self.link.connection.increment_flow_control_window(count, stream)
        self._flush()

    def grant_connection(self, count: int) -> None:
        """Room for so many bytes more on all streams together."""
        self.link.connection.increment_flow_control_window(count)
        self._flush()

    def resume(self, stream: int) -> None:
        """End a stall: make room for all that came meanwhile, and for what comes."""
        one = self.streams[stream]
        one.is_granting, held, one.held_bytes = True, one.held_bytes, 0
        if held and not one.is_over:
            self.grant(stream, held)

    def change_settings(self, settings: Mapping[int, int]) -> None:
        """Announce other settings in the middle of the connection."""
        self.link.connection.update_settings(dict(settings))
        self._flush()

    # --- responses -----------------------------------------------------------------------------------------------

    def head(self, stream: int) -> Head:
        """The final response head, once it comes."""
        one = self._wait_for(stream, lambda one: one.head is not None, "a response head")
        assert one.head is not None
        return one.head

    def body(self, stream: int, count: int) -> bytes:
        """All of the body so far, once it has so many bytes."""
        return bytes(self._wait_for(stream, lambda one: len(one.body) >= count, f"{count} bytes of a body").body)

    def response(self, stream: int) -> Response:
        """The whole response.

        Raises:
            StreamReset: it ended otherwise.
        """
        one = self._wait_for(stream, lambda one: one.is_ended, "the end of a response")
        head = one.head
        assert head is not None, "an end without a head"
        return Response(head.status, "", head.fields, bytes(one.body), one.trailers, one.informational)

    def informational(self, stream: int, count: int = 1) -> list[Head]:
        """The 1xx responses, once there are so many."""
        return self._wait_for(
            stream, lambda one: len(one.informational) >= count, f"{count} informational responses"
        ).informational

    def reset_code(self, stream: int) -> int:
        """The code of the server's RST_STREAM, once it comes, behind a whole response or not."""
        one = self.streams[stream]
        self.wait(lambda: one.reset_code is not None, f"a reset of stream {stream}")
        assert one.reset_code is not None
        return one.reset_code

    def goaway(self, count: int = 1) -> Goaway:
        """The last GOAWAY, once so many have come."""
        self.wait(lambda: len(self.link.goaways) >= count, "a GOAWAY")
        return self.link.goaways[-1]

    def is_gone(self) -> bool:
        """Whether the server closes the connection, in whatever way, within the bound."""
        try:
            self.wait(lambda: False, "the end")
        except ConnectionEnded:
            return True
        except TimeoutError:
            pass
        return False

    # --- waiting -------------------------------------------------------------------------------------------------

    def wait(self, is_so: Callable[[], bool], what: str, *, timeout_s: float = TIMEOUT_S) -> None:
        """Take in what comes until it is so.

        Raises:
            ConnectionEnded: the connection ended before it was.
            TimeoutError: it never was.
        """
        deadline = monotonic() + timeout_s
        while not is_so():
            if self.ended:
                raise ConnectionEnded(f"{self.ended} before {what}; {self.link.goaways}")
            left_s = deadline - monotonic()
            if left_s <= 0 or not self._take_in(left_s):
                raise TimeoutError(f"never came: {what}; {self.link.goaways}")

    def _wait_for(self, stream: int, is_so: Callable[[ClientStream], bool], what: str) -> ClientStream:
        one = self.streams[stream]
        self.wait(lambda: is_so(one) or one.is_over, f"{what} of stream {stream}")
        if not is_so(one):
            assert one.reset_code is not None, f"stream {stream} ended before {what}"
            raise StreamReset(one.reset_code)
        return one

    def _may_send(self, stream: int) -> bool:
        code = self.streams[stream].reset_code
        if code is not None:
            raise StreamReset(code)
        return self.link.sendable(stream) > 0

    def _look(self) -> None:
        """Take in what is there already, so that neither side waits for the other."""
        while not self.ended and select.select([self.socket], [], [], 0)[0] and self._take_in(0.001):
            pass

    def _take_in(self, timeout_s: float) -> bool:
        """One read; whether there was any."""
        self.socket.settimeout(timeout_s)
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            self.ended = "reset"
            return True
        finally:
            self.socket.settimeout(TIMEOUT_S)
        if not data:
            self.ended = "end"
        try:
            for event in self.link.feed(data):
                self._on_event(event)
        finally:
            self._flush()
        return True

    def _flush(self) -> None:
        data = self.link.take()
        try:
            if data and not self.ended:
                self.wire.send(data)
        except ConnectionError:
            pass  # what the server said before it left is still to be read

    def _on_event(self, event: events.Event) -> None:
        match event:
            case events.InformationalResponseReceived():
                self.streams[event.stream_id].informational.append(_head(event.headers))
            case events.ResponseReceived():
                self.streams[event.stream_id].head = _head(event.headers)
            case events.DataReceived():
                self._on_data(event)
            case events.TrailersReceived():
                self.streams[event.stream_id].trailers = fields_of(event.headers)
            case events.StreamEnded():
                self.streams[event.stream_id].is_ended = True
            case events.StreamReset():
                if event.remote_reset:
                    self.streams[event.stream_id].reset_code = int(event.error_code)
            case events.PingAckReceived():
                self._pongs.add(event.ping_data)
            case events.RemoteSettingsChanged():
                self._has_settings = True
            case _:
                pass

    def _on_data(self, event: events.DataReceived) -> None:
        one, size, connection = self.streams[event.stream_id], event.flow_controlled_length, self.link.connection
        one.body += event.data
        if event.data:
            one.pieces.append(len(event.data))
        if one.is_granting and self.is_granting_connection:
            connection.acknowledge_received_data(size, event.stream_id)
        elif size and self.is_granting_connection:
            connection.increment_flow_control_window(size)
        elif size and one.is_granting and event.stream_ended is None:
            connection.increment_flow_control_window(size, event.stream_id)
        one.held_bytes += 0 if one.is_granting else size


def _head(headers: Iterable[tuple[bytes | str, bytes | str]]) -> Head:
    fields = fields_of(headers)
    assert [name for name, _ in fields if name.startswith(":")] == [":status"], fields
    return Head(int(fields[0][1]), "", fields[1:])
