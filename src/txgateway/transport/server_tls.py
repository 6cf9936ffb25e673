"""TLS between a client's socket and :class:`Http1ServerConnection`, over Twisted's memory BIO protocol.

The plain transport below sees records, the connection above sees what is in them, and everything that is true of a
plain connection is true here: one read is one delivery and one write is one send; reading stops and starts at the
socket; a close is a close, a half-close is one, and what is cut ends without the closing alert that would make it look
whole. Private parts of Twisted are used, under the pinned version range; a test fails when they change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IAddress, IOpenSSLServerConnectionCreator, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory, TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.transport.alpn import HTTP2
from txgateway.transport.client_certificate import forwarded_client_cert
from txgateway.transport.http1_factory import Http1ServerFactory
from txgateway.transport.server_contexts import ServerContexts, reason_of
from txgateway.transport.sockets import unsent_bytes

_log = Logger(__name__)

#: Most bytes in a record (RFC 8446 section 5.1).
_RECORD_BYTES = 2**14
#: Taken from OpenSSL at once: the records of what a full read from a backend becomes, in one send.
_SEND_BYTES = 72 * 1024
#: Most bytes of records that OpenSSL may add of its own accord while the client takes none.
UNREAD_BYTES = 64 * 1024
#: How long a client whose handshake failed has to read the alert that says why.
ALERT_S = 2.0
#: Failed handshakes are logged at most this often.
LOG_EVERY_S = 10.0

_TOO_SLOW = "not complete in time"
_LEFT = "the client left"


class HandshakeFailures:
    """Counts handshakes that fail, and logs some of them: scanners make thousands.

    Args:
        count: one more.
        seconds: of the clock.
        event: what the log calls them.
    """

    def __init__(
        self, count: Callable[[], None], seconds: Callable[[], float], event: str = "TLS handshake failed"
    ) -> None:
        self._count = count
        self._seconds = seconds
        self._event = event
        self._silent_until = -math.inf
        self._unsaid = 0

    def failed(self, peer_ip: str, problem: str) -> None:
        """One failed.

        Args:
            problem: a fixed text.
        """
        self._count()
        now = self._seconds()
        if now < self._silent_until:
            self._unsaid += 1
            return
        self._silent_until = now + LOG_EVERY_S
        unsaid, self._unsaid = self._unsaid, 0
        _log.info(self._event, problem=problem, client_ip=peer_ip, unsaid=unsaid)


class TlsServerTransport(TLSMemoryBIOProtocol):
    """The transport of one connection over TLS.

    A handshake has as long as a request's head. Until it is over the connection above hears nothing.

    Attributes:
        deadline: looked at by the wheel: of the handshake, then of its alert.
        contexts: that it began with; OpenSSL calls back into them.
    """

    factory: TlsServerFactory
    transport: Any
    wrappedProtocol: Any
    contexts: ServerContexts
    deadline: float = math.inf
    _has_spoken = False
    _has_said_goodbye = False
    _problem = ""
    _unread_bytes = 0

    # --- the handshake --------------------------------------------------------------------------------------------

    def makeConnection(self, transport: Any) -> None:
        wheel = self.factory.inner.wheel
        wheel.watch(self)  # first, for its time may have stood still
        self.deadline = wheel.after(self.factory.inner.limits.header_timeout_s)
        super().makeConnection(transport)
        self.wrappedProtocol.deadline = math.inf  # it is not idle yet

    def _checkHandshakeStatus(self) -> None:
        super()._checkHandshakeStatus()
        if self._handshakeDone and not self._aborted:
            inner = self.factory.inner
            self.deadline = math.inf
            inner.wheel.forget(self)
            connection = self.wrappedProtocol
            connection.deadline = inner.wheel.after(inner.limits.keepalive_timeout_s)
            connection.client_certificate = forwarded_client_cert(self._tlsConnection)
            if self._tlsConnection.get_alpn_proto_negotiated() == HTTP2:
                connection.become_http2()

    def on_deadline(self, now: float) -> None:
        """The handshake takes too long, or nobody reads the alert."""
        self.deadline = math.inf
        self._problem = self._problem or _TOO_SLOW
        self.abortConnection()

    # --- from the client ------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._lostTLSConnection:
            return
        self._tlsConnection.bio_write(data)
        if not self._handshakeDone:
            self._has_spoken = True
            self._checkHandshakeStatus()
            if not self._handshakeDone:
                return
        self._flushReceiveBIO()

    def _flushReceiveBIO(self) -> None:
        """Deliver what is in all records that have come, as one read."""
        connection = self._tlsConnection
        pieces = []
        end: SSL.Error | None = None
        try:
            while True:
                pieces.append(connection.recv(_RECORD_BYTES))
        except SSL.WantReadError:
            pass
        except SSL.Error as exc:
            end = exc
        if pieces and not self._aborted:
            self.wrappedProtocol.dataReceived(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if end is not None and not self._aborted and not self._lostTLSConnection:
            if isinstance(end, SSL.ZeroReturnError) and not self.wrappedProtocol.in_progress:
                self._shutdownTLS()
            self._tlsShutdownFinished(None)
        if self.connected and (size := self._flushSendBIO()):
            self._answered(size)

    def _answered(self, size: int) -> None:
        """OpenSSL has said something; whoever has it do so again and again without ever listening is cut.

        Each update of keys that a client asks for is a record more (RFC 8446 section 4.6.3), which nobody waits for.
        """
        self._unread_bytes = self._unread_bytes + size if unsent_bytes(self.transport) else 0
        if self._unread_bytes > UNREAD_BYTES:
            self.abortConnection()

    def _tlsShutdownFinished(self, reason: Failure | None) -> None:
        """TLS is over: the client said so, or ``reason`` did."""
        if self._lostTLSConnection:
            return
        self._lostTLSConnection = True
        self._flushSendBIO()  # there may be an alert that says why
        transport = self.transport
        if not self._handshakeDone:
            error = None if reason is None else reason.value
            self._problem = reason_of(error) if isinstance(error, SSL.Error) else _LEFT
            # Closed at once, with bytes in the kernel that nobody has read, the socket would take the alert along.
            transport.loseWriteConnection()
            self.deadline = self.factory.inner.wheel.after(ALERT_S)
        elif unsent_bytes(transport):
            transport.abortConnection()
        else:
            transport.unregisterProducer()  # one that is paused would hold up the close
            transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        factory = self.factory
        factory.inner.wheel.forget(self)
        if not self._handshakeDone and (self._has_spoken or self._problem):
            factory.failures.failed(self.wrappedProtocol.peer_ip, self._problem or _LEFT)
        self._lostTLSConnection = True  # every read was delivered whole, there is nothing left to deliver
        super().connectionLost(reason)

    # --- to the client --------------------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        if self._lostTLSConnection:
            return
        connection = self._tlsConnection
        sent, size = 0, len(data)
        try:
            while sent < size:
                sent += connection.send(data[sent : sent + _RECORD_BYTES] if size > _RECORD_BYTES else data)
        except SSL.Error:  # nothing of ours comes before the handshake, and there is no second one to wait for
            self._tlsShutdownFinished(None)
            return
        self._flushSendBIO()

    def _flushSendBIO(self) -> int:
        """Send all records that are ready; returns their bytes."""
        connection = self._tlsConnection
        sent, size = 0, _SEND_BYTES
        while size == _SEND_BYTES:
            try:
                records = connection.bio_read(_SEND_BYTES)
            except SSL.WantReadError:
                break
            size = len(records)
            sent += size
            self.transport.write(records)
        return sent

    # --- the end --------------------------------------------------------------------------------------------------

    def loseConnection(self) -> None:
        """Close after what was written has gone out, as over TCP: without waiting for the client's own alert."""
        if self.disconnecting or not self.connected:
            return
        if not self._handshakeDone:
            self.abortConnection()
            return
        self.disconnecting = True
        self._shutdownTLS()
        self.transport.loseConnection()

    def loseWriteConnection(self) -> None:
        """Send no more, and say so; what the client still sends is delivered."""
        self._shutdownTLS()
        self.transport.loseWriteConnection()

    def abortConnection(self) -> None:
        """Cut the connection, without the alert that would make an end of it (RFC 8446 section 6.1)."""
        self._aborted = True
        self.disconnecting = True
        self.transport.abortConnection()

    def _shutdownTLS(self) -> None:
        """Send the closing alert, once."""
        if self._aborted or self._has_said_goodbye or not self.connected:
            return
        self._has_said_goodbye = True
        try:
            self._tlsConnection.shutdown()
        except SSL.Error:  # the connection has failed; nobody needs a goodbye
            return
        self._flushSendBIO()


@implementer(IOpenSSLServerConnectionCreator)
class _Creator:
    def __init__(self, contexts: Callable[[], ServerContexts]) -> None:
        self._contexts = contexts

    def serverConnectionForTLS(self, tlsProtocol: Any) -> SSL.Connection:
        tlsProtocol.contexts = self._contexts()
        return tlsProtocol.contexts.connection()  # type: ignore[no-any-return]


class TlsServerFactory(TLSMemoryBIOFactory):
    """Where the connections of a listener over TLS come from.

    Args:
        inner: makes what is above TLS; its limits and its wheel are for the handshake as well.
        contexts: those for the next handshake.
        failures: told of handshakes that fail.
        clock: Twisted wants one.
    """

    protocol: Any = TlsServerTransport

    def __init__(
        self,
        inner: Http1ServerFactory,
        contexts: Callable[[], ServerContexts],
        failures: HandshakeFailures,
        clock: IReactorTime,
    ) -> None:
        super().__init__(_Creator(contexts), False, inner, clock)
        self.inner = inner
        self.failures = failures

    def buildProtocol(self, addr: IAddress | None) -> TLSMemoryBIOProtocol | None:  # type: ignore[override]
        connection: Any = self.inner.buildProtocol(addr)
        if connection is None:
            return None
        connection.scheme = b"https"
        return self.protocol(self, connection)  # type: ignore[no-any-return]
