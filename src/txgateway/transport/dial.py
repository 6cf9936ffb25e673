"""Opening connections to a target: name resolution, TCP or UNIX sockets, TLS, all within one timeout.

A dial reports to its receiver only later, never from within :meth:`Dialer.dial`. What speaks over the connection
takes over once it is usable, with TLS after the handshake; until then a greeter holds its place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Generic, Protocol, TypeVar, cast

from attrs import frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IHandshakeListener,
    IHostnameResolver,
    IHostResolution,
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory, connectionDone
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.errors import (
    GatewayError,
    PoolExhausted,
    UpstreamConnectFailed,
    UpstreamNameUnknown,
    UpstreamTimeout,
    UpstreamTlsError,
)
from txgateway.transport.sockets import SHORTAGES, ImmediateConnector, ImmediateUnixConnector
from txgateway.transport.wheel import TimerWheel

_log = Logger(__name__)

#: Most addresses of one target that a dial tries.
MAX_ADDRESSES = 8
#: How often a target's dialer says that there is no descriptor for its connections.
SHORTAGE_LOG_S = 10.0

P = TypeVar("P", bound=IProtocol)
P_contra = TypeVar("P_contra", contravariant=True)


@frozen
class TcpAddress:
    """A TCP target.

    Attributes:
        host: a name, or an IPv4 or IPv6 literal without brackets.
        port: 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@frozen
class UnixAddress:
    """A target on a UNIX stream socket, by the path of its file."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


class DialReceiver(Protocol[P_contra]):
    """Whom a dial reports to, exactly once unless it is cancelled."""

    def dialed(self, protocol: P_contra) -> None:
        """The connection is usable; its TLS handshake, if any, is done."""

    def dial_failed(self, error: GatewayError) -> None:
        """There is no connection: an UpstreamError, or PoolExhausted when it is this process that lacks something."""


class Dialing(Protocol):
    """A dial in progress."""

    def cancel(self) -> None:
        """Give it up; the receiver hears nothing."""


class Dialer(Generic[P]):
    """Opens connections to one target.

    Args:
        reactor: a POSIX reactor with a name resolver.
        wheel: keeps the connect timeout.
        address: of the target.
        connect_timeout_s: for resolution, connection and TLS handshake together.
        make_protocol: makes what will speak over the connection.
        tls: from :meth:`.client_tls.TlsContext.for_host`, or None for a plain connection.
        addresses: see below.
        by_protocol: makes what will speak instead, by what was agreed on with ALPN.

    Attributes:
        addresses: IPv4 and IPv6 literals that a dial tries in turn, at most MAX_ADDRESSES of them, instead of resolving
            the host of a TCP address; none: each dial resolves it. May be replaced at any time, for the next dial.
    """

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        address: TcpAddress | UnixAddress,
        connect_timeout_s: float,
        make_protocol: Callable[[], P],
        tls: IOpenSSLClientConnectionCreator | None = None,
        addresses: Sequence[str] = (),
        by_protocol: Mapping[bytes, Callable[[], P]] = MappingProxyType({}),
    ) -> None:
        self.address = address
        self.addresses = addresses
        self._reactor = reactor
        self._wheel = wheel
        self._connect_timeout_s = connect_timeout_s
        self._make_protocol = make_protocol
        self._by_protocol = by_protocol
        self._tls = tls
        self._next_shortage_log_at = -math.inf

    def __str__(self) -> str:
        return str(self.address)

    def dial(self, receiver: DialReceiver[P]) -> Dialing:
        """Begin to open a connection; ``receiver`` hears of it after this has returned.

        Failures it is told: UpstreamConnectFailed (refused, unreachable, no such name), UpstreamTimeout,
        UpstreamTlsError (handshake or verification), PoolExhausted (no descriptor for a socket).
        """
        dial = _Dial(self._reactor, self._wheel, receiver, self._made, self._tls, self._note_shortage)
        dial.begin(self.address, self._connect_timeout_s, self.addresses)
        return dial

    def _made(self, negotiated: bytes | None) -> P:
        return self._by_protocol.get(negotiated or b"", self._make_protocol)()

    def _note_shortage(self, problem: str) -> None:
        if self._wheel.now >= self._next_shortage_log_at:
            self._next_shortage_log_at = self._wheel.now + SHORTAGE_LOG_S
            _log.warn("cannot open a socket to {target}: {problem}", target=str(self), problem=problem)


@implementer(IResolutionReceiver)
class _Dial(Generic[P]):
    """One dial: resolve if need be, then one address after the other until one accepts."""

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        receiver: DialReceiver[P],
        make_protocol: Callable[[bytes | None], P],
        tls: IOpenSSLClientConnectionCreator | None,
        note_shortage: Callable[[str], None],
    ) -> None:
        self.deadline = math.inf
        self._reactor = reactor
        self._wheel = wheel
        self._receiver: DialReceiver[P] | None = receiver
        self._make_protocol = make_protocol
        self._tls = tls
        self._note_shortage = note_shortage
        self._gives_up_at = math.inf
        self._connector: IConnector | None = None
        self._greeter: _Greeter[P] | None = None
        self._addresses: list[tuple[str, int]] = []
        self._last_error: GatewayError = UpstreamNameUnknown("the name has no address")

    def begin(self, address: TcpAddress | UnixAddress, connect_timeout_s: float, addresses: Sequence[str]) -> None:
        self._wheel.watch(self)
        self.deadline = self._gives_up_at = self._wheel.after(connect_timeout_s)
        if isinstance(address, UnixAddress):
            factory = self._factory()
            self._connect(ImmediateUnixConnector(address.path, factory, None, self._reactor, 0))
        elif addresses or isIPAddress(address.host) or isIPv6Address(address.host):
            self._addresses += [(host, address.port) for host in (addresses or (address.host,))[:MAX_ADDRESSES]]
            self._try_next()
        else:
            resolver: IHostnameResolver = self._reactor.nameResolver
            resolver.resolveHostName(self, address.host, address.port)

    # --- resolution ----------------------------------------------------------------------------------------------

    def resolutionBegan(self, resolution: IHostResolution) -> None:
        """Twisted: the resolver has begun."""

    def addressResolved(self, address: IAddress) -> None:
        """Twisted: one more address."""
        if isinstance(address, IPv4Address | IPv6Address) and len(self._addresses) < MAX_ADDRESSES:
            self._addresses.append((address.host, address.port))

    def resolutionComplete(self) -> None:
        """Twisted: no more addresses."""
        if self._receiver is not None:
            self._try_next()

    # --- connecting ----------------------------------------------------------------------------------------------

    def _try_next(self) -> None:
        if not self._addresses:
            self._fail(self._last_error)
            return
        # Each address gets its share of the time that is left, so that one that drops packets does not use up all.
        now = self._wheel.now
        self.deadline = now + (self._gives_up_at - now) / len(self._addresses)
        host, port = self._addresses.pop(0)
        self._connect(ImmediateConnector(host, port, self._factory(), cast("float", None), None, self._reactor))

    def _connect(self, connector: Any) -> None:
        self._connector = connector  # it may be done before this returns
        try:
            connector.connect()
        except OSError as exc:  # a UNIX socket could not be made, which TCP connectors report like any other failure
            self._connector = None
            self._reactor.callLater(0, self.connect_failed, exc.errno, str(exc))

    def _factory(self) -> Any:
        factory: Any = _GreeterFactory(self)
        if self._tls is not None:
            return _TlsFactory(self._tls, True, factory, clock=self._reactor)
        return factory

    def connected(self, greeter: _Greeter[P]) -> None:
        """A socket is connected; with TLS, the handshake begins."""
        self._greeter = greeter
        transport: Any = greeter.transport
        transport.setTcpNoDelay(True)
        if self._tls is None:
            self.ready(greeter)

    def ready(self, greeter: _Greeter[P]) -> None:
        """The connection is usable: put the real protocol in the greeter's place."""
        receiver = self._finish()
        if receiver is None:
            return
        transport: Any = greeter.transport
        if self._tls is None:
            protocol = self._make_protocol(None)
            transport.protocol = protocol
        else:
            protocol = self._make_protocol(transport.negotiatedProtocol)
            transport.wrappedProtocol = protocol
        protocol.makeConnection(transport)
        self._let_go()
        receiver.dialed(protocol)

    def connect_failed(self, error_number: int | None, text: str) -> None:
        """There is no connection to this address, whoever is to blame."""
        if error_number in SHORTAGES:
            self._note_shortage(text)
            self.attempt_failed(PoolExhausted(text))
        else:
            self.attempt_failed(UpstreamConnectFailed(text))

    def attempt_failed(self, error: GatewayError) -> None:
        """This address did not do.

        TLS failures are final, since all addresses should have the same certificate; so are shortages of our own.
        """
        if self._receiver is None:
            return
        self._connector = self._greeter = None
        self._last_error = error
        if isinstance(error, UpstreamTlsError | PoolExhausted):
            self._fail(error)
        else:
            self._try_next()

    def on_deadline(self, now: float) -> None:
        """The wheel: this address, or all of it, took too long."""
        self._drop_connection()
        self._last_error = UpstreamTimeout("connect timeout")
        if self._addresses and now < self._gives_up_at:
            self._try_next()
        else:
            self._fail(self._last_error)

    def cancel(self) -> None:
        """Give up; the receiver hears nothing."""
        self._finish()
        self._drop_connection()

    def _fail(self, error: GatewayError) -> None:
        receiver = self._finish()
        if receiver is not None:
            receiver.dial_failed(error)

    def _finish(self) -> DialReceiver[P] | None:
        receiver, self._receiver = self._receiver, None
        self.deadline = math.inf
        self._wheel.forget(self)
        return receiver

    def _drop_connection(self) -> None:
        connector, greeter = self._let_go()
        if greeter is not None:
            transport: Any = greeter.transport
            transport.abortConnection()
        elif connector is not None:
            connector.stopConnecting()

    def _let_go(self) -> tuple[Any, _Greeter[P] | None]:
        """Forget what was dialed, and be forgotten, so that no cycle is left for the collector of each connection."""
        connector: Any = self._connector
        greeter = self._greeter
        self._connector = self._greeter = None
        if connector is not None:
            factory = connector.factory
            getattr(factory, "wrappedFactory", factory).dial = None
        if greeter is not None:
            greeter.dial = None
            if connector is not None:
                connector.transport = None  # only of use to who wants to stop it
        return connector, greeter


class _GreeterFactory(ClientFactory["_Greeter[Any]"]):
    noisy = False

    def __init__(self, dial: _Dial[Any]) -> None:
        self.dial: _Dial[Any] | None = dial

    def buildProtocol(self, addr: IAddress | None) -> _Greeter[Any]:
        return _Greeter(self.dial)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if self.dial is not None:
            cause = reason.value
            error_number = cause.osError if isinstance(cause, ConnectError) else None
            self.dial.connect_failed(error_number, reason.getErrorMessage())


class _TlsFactory(TLSMemoryBIOFactory):
    """Passes on what a client factory is told."""

    def startedConnecting(self, connector: IConnector) -> None:
        """Twisted: nothing to do."""

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.wrappedFactory.clientConnectionFailed(connector, reason)

    def clientConnectionLost(self, connector: IConnector, reason: Failure) -> None:
        """Twisted: the protocol knows already."""


@implementer(IHandshakeListener)
class _Greeter(TwistedProtocol, Generic[P]):
    """Holds a connection's place until it is usable."""

    def __init__(self, dial: _Dial[P] | None) -> None:
        self.dial = dial

    def connectionMade(self) -> None:
        if self.dial is not None:
            self.dial.connected(self)

    def handshakeCompleted(self) -> None:
        if self.dial is not None:
            self.dial.ready(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Only a TLS handshake leaves time for this.
        if self.dial is not None:
            self.dial.attempt_failed(UpstreamTlsError(reason.getErrorMessage()))
