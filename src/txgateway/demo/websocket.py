"""``/ws``: a WebSocket that says back what it is told, text as text and bytes as bytes (RFC 6455)."""

from __future__ import annotations

from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Request
from twisted.web.websocket import WebSocketResource, WebSocketTransport


class EchoSocket:
    """One client's socket; provides twisted.web's ``WebSocketProtocol``."""

    _transport: WebSocketTransport

    def negotiationStarted(self, transport: WebSocketTransport) -> None:
        self._transport = transport

    def negotiationFinished(self) -> None: ...

    def pongReceived(self, payload: bytes) -> None: ...

    def textMessageReceived(self, message: str) -> None:
        self._transport.sendTextMessage(message)

    def bytesMessageReceived(self, data: bytes | bytearray) -> None:
        self._transport.sendBytesMessage(bytes(data))

    def connectionLost(self, reason: Failure) -> None: ...


class EchoSocketFactory:
    """Makes an :class:`EchoSocket` for each upgrade."""

    def buildProtocol(self, request: Request) -> EchoSocket:
        return EchoSocket()


class UpgradeOnly(WebSocketResource):
    """Answers a request that asks for no upgrade with 426 (RFC 9110 section 15.5.22), and upgrades all others."""

    def render_GET(self, request: Request) -> bytes | int:
        if request.getHeader(b"upgrade") is not None:
            return super().render_GET(request)
        request.setResponseCode(426)
        request.setHeader(b"upgrade", b"websocket")
        request.setHeader(b"content-type", b"application/json")
        return b'{"error": "this is a WebSocket"}\n'


def echo_socket() -> Resource:
    """The resource to mount."""
    return UpgradeOnly(EchoSocketFactory())
