"""Bodies flow as they come, at the pace of the slower side, and cost no memory."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Iterator

import pytest
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.client import Client
from tests.integration.harness import ONE_ATTEMPT, Gateway

MIB = 2**20
#: More than what the kernel's buffers of two connections hold together.
LARGE_BYTES = 64 * MIB
#: What may be on the way when one side has stopped: those buffers, and a little of the gateway's own.
ON_THE_WAY_BYTES = 40 * MIB
#: What the process may grow by, however much passes.
GROWTH_BYTES = 12 * MIB
PIECE = bytes(range(256)) * 256


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {**ONE_ATTEMPT, "GATEWAY_BACKEND_TARGET": module_backend.url, "GATEWAY_MAX_BODY_BYTES": "0"}
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


class Signal:
    """Lets a script wait for the test."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def give(self) -> None:
        self._event.set()

    def wait(self) -> None:
        assert self._event.wait(10), "the test gave no signal"


def test_first_bytes_of_an_answer_arrive_before_the_next_are_made(gateway: Gateway, backend: ScriptedBackend) -> None:
    seen = [Signal(), Signal(), Signal()]

    def drip(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number, signal in enumerate(seen):
            signal.wait()
            exchange.send(b"9\r\ndata: %d\n\n\r\n" % number)
        exchange.send(b"0\r\n\r\n")

    backend.script = drip
    with gateway.client() as client:
        client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.read_head()
        assert (head.status, head.header("Content-Type")) == (200, "text/event-stream")
        for number, signal in enumerate(seen):
            signal.give()
            assert client.read_chunk() == b"data: %d\n\n" % number
        assert client.read_chunk() == b""


def test_first_bytes_of_an_upload_arrive_before_the_next_are_sent(gateway: Gateway, backend: ScriptedBackend) -> None:
    pieces: list[bytes] = []
    taken = threading.Semaphore(0)

    def take(exchange: Exchange) -> None:
        while piece := exchange.read_chunk():
            pieces.append(piece)
            taken.release()
        exchange.read_fields()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    backend.script = take
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for letter in (b"a", b"b", b"c"):
            client.send(b"1\r\n%b\r\n" % letter)
            assert taken.acquire(timeout=10)
        client.send(b"0\r\n\r\n")
        assert client.read_response().status == 200
    assert pieces == [b"a", b"b", b"c"]


def test_answer_may_begin_while_the_request_is_still_coming(gateway: Gateway, backend: ScriptedBackend) -> None:
    def converse(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while piece := exchange.read_chunk():
            exchange.send(b"%x\r\n%b\r\n" % (len(piece), piece.upper()))
        exchange.read_fields()
        exchange.send(b"0\r\n\r\n")

    backend.script = converse
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.read_head().status == 200
        for word in (b"one", b"two"):
            client.send(b"3\r\n%b\r\n" % word)
            assert client.read_chunk() == word.upper()
        client.send(b"0\r\n\r\n")
        assert client.read_chunk() == b""


def test_slow_reader_slows_the_backend_down(gateway: Gateway, backend: ScriptedBackend) -> None:
    taken: list[int] = []
    stuck = Signal()

    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES)
        taken.append(exchange.send_while_taken(PIECE, LARGE_BYTES - len(PIECE)))
        stuck.give()
        exchange.send(b"x" * (LARGE_BYTES - taken[0]))

    backend.script = pour
    before = gateway.resident_bytes()
    with Client(gateway.port, receive_bytes=64 * 1024) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.read_head()
        stuck.wait()
        assert taken[0] < ON_THE_WAY_BYTES
        assert gateway.resident_bytes() - before < GROWTH_BYTES
        assert len(client.read_body(head)[0]) == LARGE_BYTES
    assert gateway.resident_bytes() - before < GROWTH_BYTES
    gateway.wait_until_free()


@pytest.mark.parametrize("coding", ["length", "chunked"])
def test_slow_backend_slows_the_client_down(gateway: Gateway, backend: ScriptedBackend, coding: str) -> None:
    go_on = Signal()

    def sip(exchange: Exchange) -> None:
        go_on.wait()
        exchange.read_body()
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    backend.script = sip
    before = gateway.resident_bytes()
    piece, framing = PIECE, b"Content-Length: %d\r\n" % LARGE_BYTES
    if coding == "chunked":
        piece, framing = b"10000\r\n%b\r\n" % PIECE, b"Transfer-Encoding: chunked\r\n"
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\n%b\r\n" % framing)
        whole = piece * (LARGE_BYTES // len(PIECE))
        client.socket.settimeout(1.0)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < len(whole):
                sent += client.socket.send(whole[sent : sent + MIB])
        client.socket.settimeout(10.0)
        assert sent < ON_THE_WAY_BYTES
        assert gateway.resident_bytes() - before < GROWTH_BYTES
        go_on.give()
        client.send(whole[sent:] + (b"0\r\n\r\n" if coding == "chunked" else b""))
        assert client.read_response().status == 200
    received = backend.received()
    assert hashlib.sha256(received.body).digest() == hashlib.sha256(PIECE * (LARGE_BYTES // len(PIECE))).digest()
    assert gateway.resident_bytes() - before < GROWTH_BYTES


def test_tens_of_mebibytes_each_way_leave_the_memory_as_it_was(gateway: Gateway, backend: ScriptedBackend) -> None:
    def mirror(exchange: Exchange) -> None:
        left = int(exchange.request.header("Content-Length") or 0)
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
        while left:
            piece = exchange.read_some()
            left -= len(piece)
            exchange.send(piece)

    backend.script = mirror
    before = gateway.resident_bytes()
    sums = []
    with gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES)

        def upload() -> None:
            for _ in range(LARGE_BYTES // len(PIECE)):
                client.send(PIECE)

        sender = threading.Thread(target=upload)
        sender.start()
        head, left, total = client.read_head(), LARGE_BYTES, hashlib.sha256()
        while left:
            piece = client.read_some()
            left -= len(piece)
            total.update(piece)
        sender.join(10)
        sums.append(total.digest())
    assert head.status == 200
    assert sums == [hashlib.sha256(PIECE * (LARGE_BYTES // len(PIECE))).digest()]
    assert gateway.resident_bytes() - before < GROWTH_BYTES


def test_many_clients_that_do_not_read_cost_little(gateway: Gateway, backend: ScriptedBackend) -> None:
    count = 20
    stuck = threading.Semaphore(0)

    def pour(exchange: Exchange) -> None:
        exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE_BYTES)
        exchange.send_while_taken(PIECE, LARGE_BYTES - len(PIECE), 0.5)
        stuck.release()
        exchange.wait_until_left()

    backend.script = pour
    before = gateway.resident_bytes()
    clients = [Client(gateway.port, receive_bytes=4096) for _ in range(count)]
    for client in clients:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for _ in clients:
        assert stuck.acquire(timeout=10)
    assert gateway.in_use()["active"] == count
    assert gateway.resident_bytes() - before < 4 * GROWTH_BYTES
    for client in clients:
        client.reset()
    gateway.wait_until_free()
    for _ in range(count):
        backend.wait_until_closed()


def test_slow_reader_of_a_mounted_file_gets_all_of_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("files")
    (directory / "large.bin").write_bytes(PIECE * 128)
    (directory / "files_of_a_user.py").write_text(
        f"from twisted.web.static import File\nroot = File({str(directory)!r})\n", encoding="utf-8"
    )
    environment = {
        "PYTHONPATH": str(directory),
        "GATEWAY_ROUTES": '{"routes": [{"name": "files", "path": "/", "resource": "files_of_a_user:root"}]}',
    }
    with Gateway(directory, environment) as gateway, Client(gateway.port, receive_bytes=16 * 1024) as client:
        client.send(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        response = client.read_response()
        assert hashlib.sha256(response.body).digest() == hashlib.sha256(PIECE * 128).digest()
        client.send(b"GET /large.bin HTTP/1.1\r\nHost: x\r\nRange: bytes=256-259\r\n\r\n")
        response = client.read_response()
        assert (response.status, response.body) == (206, b"\x00\x01\x02\x03")
        client.send(b"GET /large.bin HTTP/1.1\r\nHost: x\r\nIf-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n\r\n")
        assert client.read_response().status == 304


def test_head_in_many_small_pieces_is_read(gateway: Gateway, backend: ScriptedBackend) -> None:
    request = b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    with gateway.client() as client:
        for at in range(len(request)):
            client.send(request[at : at + 1])
        assert client.read_response().status == 200
    received = backend.received()
    assert (received.target, received.body, received.trailers) == (b"/slow", b"abc", [("X-T", "1")])


def test_answer_in_many_small_pieces_is_read(gateway: Gateway, backend: ScriptedBackend) -> None:
    answer = b"HTTP/1.1 200 OK\r\nX: y\r\nTransfer-Encoding: chunked\r\n\r\n3;e=1\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"

    def stutter(exchange: Exchange) -> None:
        for at in range(len(answer)):
            exchange.send(answer[at : at + 1])

    backend.script = stutter
    response = gateway.get("/")
    assert (response.header("X"), response.body, response.trailers) == ("y", b"abc", [("X-T", "1")])


def test_urgent_data_does_not_disturb(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        client.socket.send(b"!", socket.MSG_OOB)
        client.send(b"\r\n")
        assert client.read_response().status == 200
