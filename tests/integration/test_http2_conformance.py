"""What RFC 9113, 7541 and 8441 demand of a server, by frames of the test's own: over TCP and over TLS, to the real gateway."""

from __future__ import annotations

import ssl
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha1

import pytest
import trustme
from tests.integration.backend import Exchange, Script, ScriptedBackend, answer, answer_and_close, hang
from tests.integration.combinations import document
from tests.integration.h2_frames import (
    COMPRESSION_ERROR,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    GOAWAY,
    HAS_PRIORITY,
    HEADER_TABLE_SIZE,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    LARGEST_WINDOW,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    PUSH_PROMISE,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    FrameWire,
    connected,
    data_frame,
    frame,
    h2_context,
    literal_block,
    ping,
    request_fields,
    rst_stream,
    settings_frame,
    window_update,
)
from tests.integration.harness import Gateway, routes
from tests.integration.secure import certificate_variables
from tests.integration.wire import values_of

PATH = "/h1/plain/a"
_WINDOW = 65_535
_CONNECTION_WINDOW = 1024 * 1024
_BODY = bytes(range(256)) * 1200
_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def block(method: bytes = b"GET", path: bytes = PATH.encode(), *fields: tuple[bytes, bytes]) -> bytes:
    """A request's header section that leaves the tables alone."""
    pseudo = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"gateway.test")]
    return literal_block([*pseudo, *fields])


def head(stream: int = 1, *, ends: bool = True, more: bytes = b"", before: bytes = b"", of: bytes = b"") -> bytes:
    """HEADERS of a request; ``before`` and ``more`` surround its section."""
    flags = END_HEADERS | (END_STREAM if ends else 0)
    return frame(HEADERS, flags, stream, before + (of or block() if ends else of or block(b"POST")) + more)


class Front:
    """A way into a gateway: over TCP, or over TLS."""

    def __init__(self, gateway: Gateway, context: ssl.SSLContext | None) -> None:
        self.gateway = gateway
        self.context = context

    def connect(self) -> FrameWire:
        """A connection on which nothing was said."""
        return FrameWire(connected(self.gateway.port, self.context))

    def greeted(self) -> FrameWire:
        """A connection on which everything may be said."""
        wire = self.connect()
        wire.greet()
        return wire


@pytest.fixture(scope="module")
def fronts(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, authority: trustme.CA
) -> Iterator[dict[str, Front]]:
    directory = tmp_path_factory.mktemp("gateways")
    settings = routes(document({"h1": module_backend.url}))
    secure = {**settings, **certificate_variables(directory, authority)}
    with ExitStack() as stack:
        yield {
            "tcp": Front(stack.enter_context(Gateway(directory, settings)), None),
            "tls": Front(stack.enter_context(Gateway(directory, secure)), h2_context(authority)),
        }


@pytest.fixture(params=["tcp", "tls"])
def front(request: pytest.FixtureRequest, fronts: dict[str, Front], backend: ScriptedBackend) -> Front:
    return fronts[request.param]


def assert_serves(wire: FrameWire, stream: int) -> None:
    """The connection goes on, and its header sections are still understood."""
    wire.send(ping(b"stillon?"))
    wire.read_ping_ack(b"stillon?")
    wire.send(head(stream))
    found = wire.read_frames_until(lambda one: one.kind in {HEADERS, GOAWAY} and one.stream in {0, stream})[-1]
    assert found.kind == HEADERS, found


# --- faults of the connection --------------------------------------------------------------------------------------------

#: What is sent behind the greeting, and the code of GOAWAY; behind ``None`` the answer to what was sent is waited for.
_FATAL: dict[str, tuple[list[bytes | None], int]] = {
    "9113 4.2 header of a frame too large": ([frame(DATA, 0, 1, length=16_385)], FRAME_SIZE_ERROR),
    "9113 4.2 extension too large": ([frame(0x77, 0, 0, length=16_385)], FRAME_SIZE_ERROR),
    "9113 4.2 DATA without the length of its padding": (
        [head(ends=False), frame(DATA, PADDED | END_STREAM, 1)], FRAME_SIZE_ERROR,
    ),
    "9113 5.1 DATA behind a whole exchange": ([head(), None, data_frame(1, b"x")], STREAM_CLOSED),
    "9113 5.1 HEADERS behind a whole exchange": ([head(), None, head()], STREAM_CLOSED),
    "9113 5.1.1 even number": ([head(2)], PROTOCOL_ERROR),
    "9113 5.1.1 number lower than one before": ([head(5), None, head(3)], PROTOCOL_ERROR),
    "9113 5.5 extension in a header section": (
        [frame(HEADERS, END_STREAM, 1, block()), frame(0x77)], PROTOCOL_ERROR,
    ),
    "9113 6.2 padding over the priority": (
        [frame(HEADERS, END_HEADERS | HAS_PRIORITY | PADDED, 1, b"\1" + bytes(5))], PROTOCOL_ERROR,
    ),
    "9113 6.4 PRIORITY of another size, of an idle stream": ([frame(PRIORITY, 0, 7, bytes(4))], FRAME_SIZE_ERROR),
    "9113 6.4 RST_STREAM of an idle stream": ([rst_stream(1)], PROTOCOL_ERROR),
    "9113 6.5 SETTINGS of a stream": ([frame(SETTINGS, 0, 1)], PROTOCOL_ERROR),
    "9113 6.5.2 push that is neither on nor off": ([settings_frame({2: 2})], PROTOCOL_ERROR),
    "9113 6.5.2 frames that are too small": ([settings_frame({MAX_FRAME_SIZE: 16_383})], PROTOCOL_ERROR),
    "9113 6.7 PING of a stream": ([frame(PING, 0, 1, bytes(8))], PROTOCOL_ERROR),
    "9113 6.9 WINDOW_UPDATE of nothing but the reserved bit": (
        [frame(WINDOW_UPDATE, 0, 0, b"\x80\0\0\0")], PROTOCOL_ERROR,
    ),
    "9113 6.9.1 window above the largest": ([window_update(LARGEST_WINDOW)], FLOW_CONTROL_ERROR),
    "9113 6.9.2 stream's window above the largest, by SETTINGS": (
        [head(ends=False), window_update(LARGEST_WINDOW - _WINDOW, 1), settings_frame({INITIAL_WINDOW_SIZE: _WINDOW + 1})],
        FLOW_CONTROL_ERROR,
    ),
    "9113 6.10 CONTINUATION of nothing": ([frame(CONTINUATION, END_HEADERS, 1, block())], PROTOCOL_ERROR),
    "9113 8.4 PUSH_PROMISE": ([head(ends=False), frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + block())], PROTOCOL_ERROR),
    "7541 2.3.3 index beyond the tables": ([head(more=b"\xfe")], COMPRESSION_ERROR),
    "7541 2.3.3 name beyond the tables": ([head(more=b"\x7f\x3f\1x")], COMPRESSION_ERROR),
    "7541 4.2 table size behind a field": ([head(more=b"\x21")], COMPRESSION_ERROR),
    "7541 5.1 integer without an end": ([head(more=b"\x7f" + b"\xff" * 10 + b"\1")], COMPRESSION_ERROR),
    "7541 5.2 end of string in a string": ([head(more=b"\0\1x\x84" + b"\xff" * 4)], COMPRESSION_ERROR),
    "7541 5.2 padding of a byte": ([head(more=b"\0\1x\x82\x1f\xff")], COMPRESSION_ERROR),
    "7541 5.2 padding of zeros": ([head(more=b"\0\1x\x81\x18")], COMPRESSION_ERROR),
    "7541 6.1 index 0": ([head(more=b"\x80")], COMPRESSION_ERROR),
    "7541 6.3 table larger than it may be": ([head(before=b"\x3f\xe2\x1f")], COMPRESSION_ERROR),
}  # fmt: skip


@pytest.mark.parametrize("name", _FATAL)
def test_fault_is_told_and_the_connection_closed(front: Front, name: str) -> None:
    steps, code = _FATAL[name]
    with front.greeted() as wire:
        for step in steps:
            if step is None:
                wire.read_frames_until(lambda one: one.kind in {DATA, HEADERS} and one.ends_stream)
            else:
                wire.send(step)
        assert wire.read_goaway().error_code == code
        assert wire.is_at_end()


@pytest.mark.parametrize("rest", [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", ping(), b"\xff" * 20, PREFACE])
def test_garbage_behind_the_preface_is_a_fault(front: Front, rest: bytes) -> None:
    with front.connect() as wire:
        wire.send(PREFACE + rest)
        assert wire.read_frame().kind == SETTINGS
        assert wire.read_goaway().error_code in {PROTOCOL_ERROR, FRAME_SIZE_ERROR}
        assert wire.is_at_end()


def test_preface_comes_byte_by_byte(front: Front) -> None:
    with front.connect() as wire:
        for at in range(len(PREFACE)):
            wire.send(PREFACE[at : at + 1])
        wire.send(settings_frame())
        assert_serves(wire, 1)


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
def test_over_tls_http2_has_to_be_agreed_on(
    fronts: dict[str, Front], authority: trustme.CA, protocols: tuple[str, ...]
) -> None:
    context = h2_context(authority, *(protocols or ("h2",)))
    if not protocols:
        context = ssl.create_default_context()
        authority.configure_trust(context)
    with FrameWire(connected(fronts["tls"].gateway.port, context)) as wire:
        wire.send(PREFACE + settings_frame() + head())
        assert wire.read_until(b"\r\n").startswith(b"HTTP/1.1 505 ")


# --- faults of a stream --------------------------------------------------------------------------------------------------

#: Stream 1 is open, of a request without or with an end whose target does not answer; what is sent, and RST_STREAM's code.
_OF_STREAM: dict[str, tuple[bool, bytes, int]] = {
    "9113 5.1 DATA behind the end": (True, data_frame(1, b"x"), STREAM_CLOSED),
    "9113 5.1 HEADERS behind the end": (True, head(), STREAM_CLOSED),
    "9113 6.3 PRIORITY of another size": (True, frame(PRIORITY, 0, 1, bytes(4)), FRAME_SIZE_ERROR),
    "9113 6.9 WINDOW_UPDATE of nothing": (True, window_update(0, 1), PROTOCOL_ERROR),
    "9113 6.9.1 window above the largest": (True, window_update(LARGEST_WINDOW, 1), FLOW_CONTROL_ERROR),
    "9113 8.1 trailers without an end": (
        False, frame(HEADERS, END_HEADERS, 1, literal_block([(b"x", b"1")])), PROTOCOL_ERROR,
    ),
    "9113 8.1 trailers with a pseudo-header field": (
        False, frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b":path", b"/")])), PROTOCOL_ERROR,
    ),
    "9113 8.2.2 trailers with a field of the connection": (
        False, frame(HEADERS, END_HEADERS | END_STREAM, 1, literal_block([(b"connection", b"x")])), PROTOCOL_ERROR,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _OF_STREAM)
def test_fault_of_a_stream_ends_it_and_no_other(front: Front, backend: ScriptedBackend, name: str) -> None:
    has_ended, wrong, code = _OF_STREAM[name]
    backend.script = hang
    with front.greeted() as wire:
        wire.send(head(ends=has_ended))
        backend.received()
        wire.send(wrong)
        assert wire.read_reset(1) == code
        backend.wait_until_closed()
        backend.script = answer()
        assert_serves(wire, 3)


@pytest.mark.parametrize("named", ["", "user@gateway.test", "a b", "a:b", "gate/way", "gateway.test:99999", "[::1"])
def test_authority_that_is_none_is_refused(front: Front, backend: ScriptedBackend, named: str) -> None:
    with front.greeted() as wire:
        wire.send_headers(1, request_fields("GET", PATH, authority=named))
        assert wire.read_response(1).status == 400
        assert not backend.has_received()


def test_field_of_the_connection_is_malformed_however_it_is_said(front: Front) -> None:
    """By the static table, with its name, with a new name, and by the dynamic table."""
    with front.greeted() as wire:
        for number, said in enumerate((b"\0\1x\1y\xb9", b"\x0f\x2a\7chunked", b"\x40\x0aconnection\1x", b"\xbe")):
            wire.send(head(2 * number + 1, more=said))
            assert wire.read_reset(2 * number + 1) == PROTOCOL_ERROR
        assert_serves(wire, 9)


# --- windows and tables --------------------------------------------------------------------------------------------------


def _post(stream: int, path: str = "/nowhere", *fields: tuple[bytes, bytes]) -> bytes:
    return head(stream, ends=False, of=block(b"POST", path.encode(), *fields))


#: Streams with bodies that nobody takes.
_UNWANTED: dict[str, Callable[[int, bytes], bytes]] = {
    "answered early": lambda stream, body: _post(stream) + body,
    "reset by the client": lambda stream, body: _post(stream) + rst_stream(stream) + body,
    "malformed": lambda stream, body: _post(stream, PATH, (b"connection", b"x")) + body,
    "longer than declared": lambda stream, body: _post(stream, PATH, (b"content-length", b"5")) + body,
    "faulty": lambda stream, body: _post(stream) + window_update(0, stream) + body,
    "held until a reset": lambda stream, body: tunnel(stream) + body + rst_stream(stream),
}


@pytest.mark.parametrize("name", _UNWANTED)
def test_bytes_that_nobody_takes_make_room_for_others(front: Front, name: str) -> None:
    sent, room, stream = 0, _CONNECTION_WINDOW, 1
    with front.greeted() as wire:
        assert wire.read_kind(WINDOW_UPDATE, 0).increment == _CONNECTION_WINDOW - _WINDOW
        while sent < 2 * _CONNECTION_WINDOW:
            wire.send(_UNWANTED[name](stream, data_frame(stream, bytes(16_000)) * 2))
            sent, room, stream = sent + 32_000, room - 32_000, stream + 2
            while room < _CONNECTION_WINDOW // 2:
                room += wire.read_kind(WINDOW_UPDATE, 0).increment
        wire.send(ping(b"thatsall"))
        found = wire.read_frames_until(lambda one: one.kind in {PING, GOAWAY})[-1]
        assert found.kind == PING


def test_window_that_settings_take_back_has_to_be_positive_again(front: Front, backend: ScriptedBackend) -> None:
    backend.script = answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(_BODY) + _BODY)
    with front.connect() as wire:
        wire.greet({INITIAL_WINDOW_SIZE: 10})
        wire.send(head())
        assert len(wire.read_kind(DATA).payload) == 10
        wire.send(settings_frame({INITIAL_WINDOW_SIZE: 0}) + window_update(10, 1) + ping())
        assert DATA not in {one.kind for one in wire.read_frames_until(lambda one: one.kind == PING)}
        wire.send(window_update(5, 1))
        assert wire.read_kind(DATA).payload == _BODY[10:15]
        wire.send(settings_frame({INITIAL_WINDOW_SIZE: 20, MAX_FRAME_SIZE: 2**24 - 1}))
        assert wire.read_kind(DATA).payload == _BODY[15:35]
        wire.send(window_update(2**20) + window_update(2**20, 1))
        rest = wire.read_frames_until(lambda one: one.kind == DATA and one.ends_stream)
        assert b"".join(one.payload for one in rest if one.kind == DATA) == _BODY[35:]


def test_answers_keep_to_a_table_that_shrinks_and_grows(front: Front) -> None:
    """The decoder here fails where a smaller table is not announced, or a larger one used."""
    with front.connect() as wire:
        wire.greet({MAX_HEADER_LIST_SIZE: 1})  # which is advice
        for number, size in enumerate((4096, 100, 4096, 0, 50, 2**32 - 1, 0)):
            wire.send(settings_frame({HEADER_TABLE_SIZE: size}))
            wire.read_frames_until(lambda one: one.kind == SETTINGS and one.is_ack)
            wire.decoder.max_allowed_table_size = size
            for stream in (4 * number + 1, 4 * number + 3):
                wire.send(head(stream))
                assert wire.read_response(stream).status == 200


# --- what comes from HTTP/1.1 -------------------------------------------------------------------------------------------

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_HOP = b"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 1\r\nProxy-Connection: 1\r\nTE: gzip\r\nUpgrade: h2c\r\nX-Mine: 1\r\n"
#: Answers of a target, and what is made of each.
_ANSWERS: dict[str, tuple[Script, int]] = {
    "9113 8.2.2 fields of the connection": (answer(b"HTTP/1.1 200 OK\r\n" + _HOP + b"Content-Length: 2\r\n\r\nok"), 200),
    "9113 8.2.2 the same in an informational one": (answer(b"HTTP/1.1 103 x\r\n" + _HOP + b"\r\n" + _OK), 200),
    "9113 8.6 101 that nobody asked for": (
        answer_and_close(b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"), 502,
    ),
    "9113 8.3 field that would be a pseudo-header field": (
        answer_and_close(b"HTTP/1.1 200 OK\r\n:status: 404\r\nContent-Length: 0\r\n\r\n"), 502,
    ),
    "9113 8.2.1 line end in a value": (answer_and_close(b"HTTP/1.1 200 OK\r\nX: a\rb\r\nContent-Length: 0\r\n\r\n"), 502),
    "9112 6.3 body until the end": (answer_and_close(b"HTTP/1.0 200 OK\r\n\r\nok"), 200),
}  # fmt: skip


@pytest.mark.parametrize("name", _ANSWERS)
def test_answer_of_http1_becomes_one_of_http2(front: Front, backend: ScriptedBackend, name: str) -> None:
    backend.script, status = _ANSWERS[name]
    with front.greeted() as wire:
        wire.send(head())
        response = wire.read_response(1)
        assert (response.status, response.body == b"ok") == (status, status == 200)
        fields = sum([one.fields for one in response.informational], response.fields)
        names = {name for name, _ in fields}
        assert names.isdisjoint(("connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade"))
        assert all(name == name.lower() and not name.startswith(":") and name != "x-hop" for name in names)
        assert values_of(fields, "x-mine") == (["1"] if "8.2.2" in name else [])


# --- tunnels (RFC 8441) -------------------------------------------------------------------------------------------------


def take_upgrade(exchange: Exchange) -> None:
    """Switch, with fields that are of no use in a 101, and wait for the end."""
    key = exchange.request.header("Sec-WebSocket-Key") or ""
    accept = b64encode(sha1(key.encode() + _SALT, usedforsecurity=False).digest())
    exchange.send(b"HTTP/1.1 101 x\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nUpgrade: websocket\r\n")
    exchange.send(b"Content-Length: 0\r\nSec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    exchange.wait_until_left()


def tunnel(stream: int = 1, *, ends: bool = False) -> bytes:
    """HEADERS of an extended CONNECT, with a length that means nothing there."""
    fields = [(b":method", b"CONNECT"), (b":protocol", b"websocket"), (b":scheme", b"http"), (b":path", b"/h1/ws/a")]
    rest = [(b":authority", b"gateway.test"), (b"sec-websocket-version", b"13"), (b"content-length", b"0")]
    return head(stream, ends=ends, of=literal_block(fields + rest))


@pytest.mark.parametrize("ends", [True, False])
def test_headers_in_a_tunnel_are_a_fault(front: Front, backend: ScriptedBackend, ends: bool) -> None:
    backend.script = take_upgrade
    with front.greeted() as wire:
        wire.send(tunnel())
        assert {name for name, _ in wire.fields_of(wire.read_kind(HEADERS))}.isdisjoint(("content-length", "x-hop"))
        request = backend.received()
        assert not request.headers("Content-Length")
        wire.send(frame(HEADERS, END_HEADERS | (END_STREAM if ends else 0), 1, literal_block([(b"x", b"1")])))
        assert wire.read_reset(1) == PROTOCOL_ERROR
        backend.wait_until_closed()
        backend.script = answer()
        assert_serves(wire, 3)


def test_end_that_comes_with_the_head_is_the_tunnels(front: Front, backend: ScriptedBackend) -> None:
    backend.script = take_upgrade
    with front.greeted() as wire:
        wire.send(tunnel(ends=True))
        wire.read_frames_until(lambda one: one.kind in {HEADERS, DATA} and one.ends_stream)
        backend.received()
        backend.wait_until_closed()
