"""Targets that break the rules of HTTP/2, or stretch them: the client gets an answer, and nobody else notices."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from time import monotonic

import pytest
import trustme
from attrs import frozen
from tests.integration import h2_frames as h2
from tests.integration.backend import OK
from tests.integration.backend import answer as answer_in_http1
from tests.integration.client import Client, Response
from tests.integration.h2_backend import H2Backend, server_context
from tests.integration.h2_frames import CONTINUATION, DATA, HEADERS, FrameWire, frame, literal_block
from tests.integration.harness import ONE_ATTEMPT, Gateway, routes, wait_until
from tests.integration.wire import ConnectionEnded

#: What an attack may make the gateway keep, and how long it may last.
MEMORY_BYTES = 24 * 1024 * 1024
PATIENCE_S = 5.0
TIMES = {
    "GATEWAY_TIMEOUT_PER_TRY": "700ms",
    "GATEWAY_TIMEOUT_TOTAL": "3s",
    "GATEWAY_TIMEOUT_IDLE": "700ms",
    "GATEWAY_BODY_TIMEOUT": "2s",
}
FLOOD_BYTES = 4 * 1024 * 1024
STORM = 60

Attack = Callable[[FrameWire], None]


@frozen
class Case:
    """An attack, and what comes of it.

    Attributes:
        status: that the client gets; 0: the answer breaks off.
        reason: in the log.
        goaway, reset: what the gateway says to the target; None: nothing.
    """

    attack: Attack
    status: int = 502
    reason: str | None = "UPSTREAM_PROTOCOL_ERROR"
    goaway: int | None = None
    reset: int | None = None


def send(*parts: bytes) -> Attack:
    return lambda wire: wire.send(b"".join(parts))


def flood(data: bytes, first: bytes = b"", size: int = FLOOD_BYTES) -> Attack:
    """As far as the gateway takes it."""

    def attack(wire: FrameWire) -> None:
        wire.send(first)
        many = data * (1 + 16_384 // len(data))
        for _ in range(size // len(many)):
            wire.send(many)

    return attack


def head(stream: int, *fields: tuple[bytes, bytes], status: bytes = b"200", ends: bool = False) -> bytes:
    return section(literal_block([(b":status", status), *fields]), stream, ends=ends)


def section(block: bytes, stream: int = 1, *, ends: bool = False) -> bytes:
    """A header section, in as many frames as it takes."""
    first, *more = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    flags = (h2.END_STREAM if ends else 0) | (0 if more else h2.END_HEADERS)
    frames = [frame(HEADERS, flags, stream, first)]
    frames += [frame(CONTINUATION, 0 if part is not more[-1] else h2.END_HEADERS, stream, part) for part in more]
    return b"".join(frames)


def settings(**values: int) -> bytes:
    return h2.settings_frame({getattr(h2, name): value for name, value in values.items()})


ANSWER = head(1) + h2.data_frame(1, b"ok", ends=True)
#: One large field for the table, and many references to it.
BOMB = b"\x88\x40\x01x\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 10_000
GAMES = settings(MAX_FRAME_SIZE=2**24 - 1, HEADER_TABLE_SIZE=0) + settings(HEADER_TABLE_SIZE=2**32 - 1)

CASES = {
    "flood of SETTINGS": Case(flood(h2.settings_frame()), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of PING": Case(flood(h2.ping()), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of PING answers": Case(flood(h2.ping(is_ack=True)), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of empty DATA": Case(flood(h2.data_frame(1), head(1)), 0, goaway=h2.ENHANCE_YOUR_CALM),
    "flood of unknown frames": Case(flood(frame(99)), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of PRIORITY": Case(flood(frame(h2.PRIORITY, 0, 1, bytes(5))), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of WINDOW_UPDATE": Case(flood(h2.window_update(1)), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of GOAWAY": Case(flood(h2.goaway(1)), goaway=h2.ENHANCE_YOUR_CALM),
    "flood of RST_STREAM": Case(flood(h2.rst_stream(1)), reason="UPSTREAM_RESET", goaway=h2.ENHANCE_YOUR_CALM),
    "flood of 1xx": Case(flood(head(1, status=b"103")), reset=h2.PROTOCOL_ERROR),
    "endless CONTINUATION": Case(
        flood(frame(CONTINUATION, 0, 1, literal_block([(b"a", b"b")])), frame(HEADERS, 0, 1, b"\x88")),
        goaway=h2.ENHANCE_YOUR_CALM,
    ),
    "empty CONTINUATION": Case(
        flood(frame(CONTINUATION, 0, 1), frame(HEADERS, 0, 1, b"\x88")), goaway=h2.ENHANCE_YOUR_CALM
    ),
    "many settings at once": Case(
        send(frame(h2.SETTINGS, payload=struct.pack("!HI", 99, 1) * 2000)), goaway=h2.ENHANCE_YOUR_CALM
    ),
    "HPACK bomb": Case(send(section(BOMB)), goaway=h2.ENHANCE_YOUR_CALM),
    "fields beyond the limit": Case(
        send(section(b"\x88" + literal_block((b"x-%d" % number, b"v" * 100) for number in range(1000)))),
        goaway=h2.ENHANCE_YOUR_CALM,
    ),
    "trailers beyond the limit": Case(
        send(head(1), section(literal_block((b"x-%d" % number, b"v" * 50) for number in range(1500)), ends=True)),
        0,
        goaway=h2.ENHANCE_YOUR_CALM,
    ),
    "broken HPACK": Case(send(section(b"\xff\xff\xff\xff\xff\x0f")), goaway=h2.COMPRESSION_ERROR),
    "connection's window overflows": Case(send(h2.window_update(2**31 - 1)), goaway=h2.FLOW_CONTROL_ERROR),
    "stream's window overflows": Case(send(h2.window_update(2**31 - 1, 1)), reset=h2.FLOW_CONTROL_ERROR),
    "window of nothing": Case(send(h2.window_update(0)), goaway=h2.PROTOCOL_ERROR),
    "DATA before HEADERS": Case(send(h2.data_frame(1, b"x")), reset=h2.PROTOCOL_ERROR),
    "DATA behind the end": Case(send(ANSWER, h2.data_frame(1, b"x")), 200, None, goaway=h2.STREAM_CLOSED),
    "push": Case(send(frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, b"\0\0\0\2\x82\x87\x84")), goaway=h2.PROTOCOL_ERROR),
    "announced push": Case(send(settings(ENABLE_PUSH=1)), goaway=h2.PROTOCOL_ERROR),
    "answer to nothing": Case(send(head(3, ends=True)), goaway=h2.PROTOCOL_ERROR),
    "answer on stream 2": Case(send(head(2, ends=True)), goaway=h2.PROTOCOL_ERROR),
    "answer on stream 0": Case(send(head(0, ends=True)), goaway=h2.PROTOCOL_ERROR),
    "limit below what is open": Case(send(settings(MAX_CONCURRENT_STREAMS=0), ANSWER), 200, None),
    "GOAWAY twice, falling": Case(send(h2.goaway(2**31 - 1), h2.goaway(1), ANSWER), 200, None, h2.NO_ERROR),
    "GOAWAY twice, rising": Case(send(h2.goaway(1), h2.goaway(2**31 - 1), ANSWER), 200, None, h2.NO_ERROR),
    "GOAWAY, then silence": Case(send(h2.goaway(1)), 504, "UPSTREAM_TIMEOUT", h2.NO_ERROR, h2.CANCEL),
    "stream is refused": Case(send(h2.rst_stream(1, h2.REFUSED_STREAM)), reason="UPSTREAM_RESET"),
    "HTTP/1.1 is required": Case(send(h2.rst_stream(1, h2.HTTP_1_1_REQUIRED)), reason="UPSTREAM_RESET"),
    "101": Case(send(head(1, status=b"101")), reset=h2.PROTOCOL_ERROR),
    "trailers that do not end": Case(send(head(1), head(1)), 0, reset=h2.PROTOCOL_ERROR),
    "body longer than declared": Case(
        send(head(1, (b"content-length", b"1")), h2.data_frame(1, b"ok", ends=True)), 0, reset=h2.PROTOCOL_ERROR
    ),
    "body shorter than declared": Case(
        send(head(1, (b"content-length", b"3")), h2.data_frame(1, b"ok", ends=True)), 0, reset=h2.PROTOCOL_ERROR
    ),
    "two lengths": Case(
        send(head(1, *[(b"content-length", b"%d" % size) for size in (2, 3)])), reset=h2.PROTOCOL_ERROR
    ),
    "games with settings": Case(send(GAMES * 10, ANSWER), 200, None),
    "impossible frame size": Case(send(settings(MAX_FRAME_SIZE=2**24)), goaway=h2.PROTOCOL_ERROR),
    "frame too large": Case(send(frame(DATA, 0, 1, length=2**24 - 1)), goaway=h2.FRAME_SIZE_ERROR),
    "frame cut short": Case(send(ANSWER[:12]), 504, "UPSTREAM_TIMEOUT", reset=h2.CANCEL),
    "block interrupted": Case(send(frame(HEADERS, 0, 1, b"\x88"), h2.ping()), goaway=h2.PROTOCOL_ERROR),
    "silence": Case(send(), 504, "UPSTREAM_TIMEOUT", reset=h2.CANCEL),
    "HTTP/1.1 after all": Case(send(OK), goaway=h2.FRAME_SIZE_ERROR),
}


class Bad(H2Backend):
    """Is told each time what to do once it is asked, and keeps what the gateway says then."""

    def behave(self, attack: Attack, first: bytes = b"") -> None:
        """From now on."""
        self.renew()
        self.goaways_read: list[int] = []
        self.resets_read: list[int] = []
        self.wires: list[FrameWire] = []

        def serve(wire: FrameWire) -> None:
            self.wires.append(wire)
            with suppress(ConnectionEnded, OSError):
                wire.send(first or h2.settings_frame())
                wire.read_exactly(len(h2.PREFACE))
                wire.read_kind(HEADERS)
                attack(wire)
            with suppress(ConnectionEnded, OSError):
                while True:
                    one = wire.read_frame()
                    if one.kind == h2.GOAWAY:
                        self.goaways_read.append(one.error_code)
                    elif one.kind == h2.RST_STREAM:
                        self.resets_read.append(one.error_code)

        self.raw = serve

    def leave(self) -> None:
        """Close all connections."""
        for wire in self.wires:
            with suppress(OSError):
                wire.socket.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def backends(authority: trustme.CA) -> Iterator[dict[str, H2Backend]]:
    with ExitStack() as stack:
        made = {
            "bad": Bad(),
            "good": H2Backend(),
            "secure": H2Backend(tls=server_context(authority, "h2")),
            "old": H2Backend(tls=server_context(authority, "http/1.1")),
        }
        for backend in made.values():
            stack.enter_context(backend)
        yield made


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, backends: dict[str, H2Backend], authority: trustme.CA
) -> Iterator[Gateway]:
    directory = tmp_path_factory.mktemp("gateway")
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    tls = {"ca_file": str(directory / "ca.pem")}
    document = {
        "backends": {
            name: {"targets": [one.url], **({"tls": tls} if one.url.startswith("https") else {})}
            for name, one in backends.items()
        },
        "routes": [{"name": name, "path": f"/{name}", "backend": name} for name in backends],
    }
    with Gateway(directory, {**ONE_ATTEMPT, **TIMES, **routes(document)}) as running:
        assert running.get("/good").status == 200
        yield running
        assert "Traceback" not in running.output_text


@pytest.fixture
def bad(gateway: Gateway, backends: dict[str, H2Backend]) -> Iterator[Bad]:
    """That no connection leads to; in the end nobody else has suffered, and there is nothing left."""
    backend = backends["bad"]
    assert isinstance(backend, Bad)
    memory, begun = gateway.resident_bytes(), monotonic()
    yield backend
    assert monotonic() - begun < PATIENCE_S
    assert gateway.resident_bytes() - memory < MEMORY_BYTES
    assert gateway.get("/good").status == 200
    gateway.wait_until_free()
    backend.leave()
    wait_until(lambda: not gateway.status()["backends"][0]["targets"][0]["idle"], "no connection is left")


def answered(gateway: Gateway, request: bytes = b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n") -> tuple[int, str | None]:
    """The status, 0 if the answer breaks off, and the reason."""
    lines = len(gateway.lines)
    response: Response | None = None
    with suppress(ConnectionEnded, ConnectionError):
        response = gateway.ask(request)
    line = gateway.wait_for_line(after=lines, event="request", path=request.split()[1].decode())
    return 0 if response is None else response.status, line.get("reason")


@pytest.mark.parametrize("name", CASES)
def test_attack(gateway: Gateway, bad: Bad, name: str) -> None:
    case = CASES[name]
    bad.behave(case.attack)
    assert answered(gateway) == (case.status, case.reason)
    for said, read in ((case.goaway, bad.goaways_read), (case.reset, bad.resets_read)):
        if said is not None:
            wait_until(lambda said=said, read=read: said in read, f"the target is told {said}")  # type: ignore[misc]


def test_upload_to_a_target_that_makes_no_room(gateway: Gateway, bad: Bad) -> None:
    bad.behave(send(), settings(INITIAL_WINDOW_SIZE=0))
    head = b"POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n"
    assert answered(gateway, head + bytes(100_000)) == (504, "UPSTREAM_TIMEOUT")
    wait_until(lambda: bad.resets_read == [h2.CANCEL], "the stream is given up")


def test_whole_upload_to_a_target_that_makes_no_room(gateway: Gateway, bad: Bad) -> None:
    bad.behave(send(), settings(INITIAL_WINDOW_SIZE=0))
    head = b"POST /bad HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
    assert answered(gateway, head + bytes(1000)) == (504, "UPSTREAM_TIMEOUT")
    wait_until(lambda: bad.resets_read == [h2.CANCEL], "the stream is given up")


def test_answer_beyond_the_window(gateway: Gateway, bad: Bad) -> None:
    """The client does not read, so that no more room is made."""
    bad.behave(flood(h2.data_frame(1, bytes(16_384)), head(1), 20 * FLOOD_BYTES))
    lines = len(gateway.lines)
    with Client(gateway.port, receive_bytes=4096) as client:
        client.send(b"GET /bad HTTP/1.1\r\nHost: a\r\n\r\n")
        gateway.wait_for_line(after=lines, event="request", reason="UPSTREAM_PROTOCOL_ERROR")


def test_target_that_does_not_introduce_itself(gateway: Gateway, bad: Bad) -> None:
    bad.behave(send(), h2.ping()[:4])
    assert answered(gateway) == (504, "UPSTREAM_TIMEOUT")


def test_target_that_takes_no_streams(gateway: Gateway, bad: Bad) -> None:
    bad.behave(send(), settings(MAX_CONCURRENT_STREAMS=0))
    assert answered(gateway) == (503, "POOL_EXHAUSTED")


def test_storm_of_refusals(gateway: Gateway, bad: Bad) -> None:
    def refuse(wire: FrameWire) -> None:
        stream = 1
        while True:
            wire.send(h2.rst_stream(stream, h2.REFUSED_STREAM))
            stream = wire.read_kind(HEADERS).stream

    bad.behave(refuse)
    answers: list[int] = []
    clients = [threading.Thread(target=lambda: answers.append(gateway.get("/bad").status)) for _ in range(STORM)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert set(answers) <= {502, 503}
    assert len(answers) == STORM


# --- ALPN lies --------------------------------------------------------------------------------------------------------------


def test_target_that_agrees_on_http2_and_speaks_http1(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    backends["secure"].raw = lambda wire: wire.send(OK)
    request = b"GET /secure HTTP/1.1\r\nHost: a\r\n\r\n"
    assert answered(gateway, request) == (502, "UPSTREAM_PROTOCOL_ERROR")
    gateway.wait_until_free()


def test_target_that_agrees_on_http1_and_speaks_http2(gateway: Gateway, backends: dict[str, H2Backend]) -> None:
    backends["old"].script = answer_in_http1(h2.settings_frame() + ANSWER)
    request = b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n"
    assert answered(gateway, request) == (504, "UPSTREAM_TIMEOUT")  # it has not sent a line yet
    gateway.wait_until_free()
