"""The demo backend over real sockets, as the gateway and its users reach it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from treq.client import HTTPClient
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.interfaces import IListeningPort
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.websocket import WebSocketClientEndpoint, WebSocketTransport

from txgateway import demo


class Running:
    def __init__(self, reactor: PosixReactorBase, port: IListeningPort, clock: Clock) -> None:
        self.reactor = reactor
        self.clock = clock
        address = port.getHost()
        assert isinstance(address, IPv4Address)
        self.address = address
        self.port_number = address.port
        self.url = f"http://127.0.0.1:{self.port_number}"
        self.http = HTTPClient(Agent(reactor))


@pytest.fixture
def running(reactor: PosixReactorBase) -> Iterator[Running]:
    clock = Clock()
    port = pytest_twisted.blockon(demo.start(reactor, clock))
    yield Running(reactor, port, clock)
    pytest_twisted.blockon(port.stopListening())


class Raw(Protocol):
    """Sends one request and hands out what comes back, piece by piece."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.pieces: DeferredQueue[bytes] = DeferredQueue()
        self._seen = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self._request)

    def dataReceived(self, data: bytes) -> None:
        self.pieces.put(data)

    async def until(self, expected: bytes) -> bytes:
        while expected not in self._seen:
            self._seen += await self.pieces.get()
        return self._seen


class Socket:
    """A WebSocket client that keeps what it is told."""

    def __init__(self) -> None:
        self.messages: DeferredQueue[str | bytes] = DeferredQueue()
        self.lost: Deferred[None] = Deferred()

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        self.transport = transport

    def negotiationFinished(self) -> None: ...

    def pongReceived(self, payload: bytes) -> None: ...

    def textMessageReceived(self, message: str) -> None:
        self.messages.put(message)

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        self.messages.put(bytes(data))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost.callback(None)


class SocketFactory:
    def buildProtocol(self, url: str) -> Socket:
        return Socket()


@pytest_twisted.ensureDeferred
async def test_demo_listens_on_the_loopback_interface_only(running: Running) -> None:
    assert running.address.host == "127.0.0.1"


@pytest_twisted.ensureDeferred
async def test_any_path_is_echoed(running: Running) -> None:
    response = await running.http.put(f"{running.url}/anything?a=1", data=b"hello")
    echoed = await response.json()
    assert (echoed["method"], echoed["path"], echoed["body"]) == ("PUT", "/anything?a=1", "hello")


@pytest.mark.parametrize("size", [0, 1, 300_000])
@pytest_twisted.ensureDeferred
async def test_upload_returns_the_same_bytes_and_type(running: Running, size: int) -> None:
    sent = b"\x00z" * size
    response = await running.http.post(
        f"{running.url}/upload", data=sent, headers=Headers({"Content-Type": ["image/x-test"]})
    )
    assert response.headers.getRawHeaders(b"content-type") == [b"image/x-test"]
    assert response.length == len(sent)
    assert await response.content() == sent


@pytest_twisted.ensureDeferred
async def test_events_tick_until_the_client_leaves(running: Running) -> None:
    raw = Raw(b"GET /events HTTP/1.1\r\nHost: demo\r\n\r\n")
    await connectProtocol(HostnameEndpoint(running.reactor, b"127.0.0.1", running.port_number), raw)
    await raw.until(b"id: 0\n")
    running.clock.advance(1.0)
    await raw.until(b"id: 1\n")


@pytest_twisted.ensureDeferred
async def test_web_socket_echoes_text_as_text_and_bytes_as_bytes(running: Running) -> None:
    endpoint = WebSocketClientEndpoint.new(running.reactor, f"ws://127.0.0.1:{running.port_number}/ws")
    socket = await endpoint.connect(SocketFactory())
    for message in ("grüß", "", "x" * 100_000):
        socket.transport.sendTextMessage(message)
        assert await socket.messages.get() == message
    socket.transport.sendBytesMessage(b"\xff\x00")
    assert await socket.messages.get() == b"\xff\x00"
    socket.transport.loseConnection()
    await socket.lost
