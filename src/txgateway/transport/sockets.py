"""Stream transports that write at once, or within the same turn of the reactor, when nothing is queued.

Stock transports queue every write, arm the poller, and send at the next turn of the reactor: two ``epoll_ctl`` calls
and a loop turn for a response of a few hundred bytes. These try the socket first and fall back to the stock queue for
whatever it does not take. On a reactor that has an outbox, small writes of a turn wait there for each other, since a
send that wakes a neighbour costs the sender several times as much as one to a neighbour that is awake. Private parts of
Twisted are used here (buffers and ``_makeTransport``), under the pinned version range.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet import error, tcp, unix
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.python.failure import Failure

_WOULD_BLOCK = frozenset((errno.EAGAIN, errno.EWOULDBLOCK, errno.ENOBUFS))
_READ_BYTES = 65536
#: A transport holds no more than this for the outbox: of larger writes the copying would cost more than the waking.
HELD_BYTES = 8192
#: How long a listening port rests that found no descriptor, or no memory, for a connection.
REST_S = 0.1
#: As many connections as may wait to be accepted, at most, unless the kernel was told otherwise.
MAX_WAITING = 4096
#: How long a connection is left to other processes before it is looked at again.
YIELD_S = 0.001
#: The system's ways to say that this process, not the other side, lacks something.
SHORTAGES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


class _ImmediateWrites:
    """Mixin above a stock stream transport: see the module's text."""

    _send_failed = False
    #: Written, and not yet shown to the socket; the transport is in the outbox exactly as long as there is some.
    _held = b""
    _outbox: list[_ImmediateWrites] | None = None

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A client for which there was no socket has no reactor either.
        self._outbox = getattr(getattr(self, "reactor", None), "outbox", None)

    def write(self: Any, data: bytes) -> None:
        """Send ``data`` now, or in this turn, as far as the socket takes it; queue the rest."""
        if (
            self._tempDataLen
            or self.dataBuffer
            or self.disconnecting
            or self._writeDisconnecting
            or not self.connected
            or self.TLS
            or self._aborting
            or not data
            or data.__class__ is not bytes  # the stock method refuses what is none
            or (self.producer is not None and not self.streamingProducer)
        ):
            self.send_held()
            super().write(data)  # type: ignore[misc]
            return
        held, outbox = self._held, self._outbox
        if outbox is None or len(data) + len(held) > HELD_BYTES:
            self._held = b""
            self._send(held + data if held else data)
        elif held:
            self._held = held + data
        else:
            self._held = data
            outbox.append(self)

    def send_held(self) -> None:
        """Show the socket what is held; called by the reactor, and by whatever must come after it."""
        if held := self._held:
            self._held = b""
            self._send(held)

    def _send(self: Any, data: bytes) -> None:
        try:
            sent = self.socket.send(data)
        except OSError as exc:
            if exc.errno not in _WOULD_BLOCK:
                # The queue will meet the same error and report the loss; until then an EOF must not pass for a
                # clean end of a message.
                self._send_failed = True
            sent = 0
        if sent != len(data):
            super().write(data[sent:] if sent else data)  # type: ignore[misc]

    def writeSequence(self, chunks: Any) -> None:
        """Join and :meth:`write`: one system call beats several."""
        self.write(b"".join(chunks))

    def doRead(self: Any) -> Any:
        """One ``recv`` and straight to the protocol."""
        try:
            data = self.socket.recv(_READ_BYTES)
        except OSError as exc:
            return None if exc.errno in _WOULD_BLOCK else CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self.protocol.dataReceived(data)
        return None

    def connectionLost(self, reason: Failure) -> None:
        """Stock, but what is held goes first, and an end after a failed send is a loss."""
        self.send_held()
        if self._send_failed and reason.check(error.ConnectionDone):
            reason = Failure(error.ConnectionLost())
        super().connectionLost(reason)  # type: ignore[misc]

    def loseConnection(self, *args: Any) -> None:
        """Stock, after what is held."""
        self.send_held()
        super().loseConnection(*args)  # type: ignore[misc]

    def loseWriteConnection(self) -> None:
        """Stock, after what is held."""
        self.send_held()
        super().loseWriteConnection()  # type: ignore[misc]

    def abortConnection(self) -> None:
        """Stock, after what is held."""
        self.send_held()
        super().abortConnection()  # type: ignore[misc]

    def unsent_bytes(self: Any) -> int:
        """Bytes accepted by :meth:`write` that the socket has not taken yet, although it was asked."""
        self.send_held()
        return len(self.dataBuffer) - self.offset + self._tempDataLen  # type: ignore[no-any-return]


class ImmediateServer(_ImmediateWrites, tcp.Server):
    """Server side of an accepted TCP connection."""


class ImmediateClient(_ImmediateWrites, tcp.Client):
    """Our side of a TCP connection to a target."""


class ImmediateUnixServer(_ImmediateWrites, unix.Server):
    """Server side of an accepted UNIX-socket connection."""


class ImmediateUnixClient(_ImmediateWrites, unix.Client):
    """Our side of a UNIX-socket connection to a target."""


class ImmediateConnector(tcp.Connector):
    """A TCP connector whose transports write at once; same constructor as :class:`tcp.Connector`."""

    def _makeTransport(self) -> ImmediateClient:
        return ImmediateClient(self.host, self.port, self.bindAddress, self, self.reactor)


class ImmediateUnixConnector(unix.Connector):
    """A UNIX-socket connector whose transports write at once; same constructor as :class:`unix.Connector`."""

    def _makeTransport(self) -> ImmediateUnixClient:  # type: ignore[override]
        return ImmediateUnixClient(self.address, self, self.reactor, self.checkPID)


def use_immediate_writes(port: Any, is_others: Callable[[], bool] | None = None) -> None:
    """Make a listening port build immediate transports, and rest in a shortage; other kinds of ports are left alone.

    Args:
        is_others: asked before each connection whether to leave it to other processes, for :data:`YIELD_S`, that accept
            from the same socket. The stock port takes up to 100 at once, and ever more, from under their noses.
    """
    if isinstance(port, unix.Port):
        port.transport = ImmediateUnixServer
    elif isinstance(port, tcp.Port):
        port.transport = ImmediateServer
    else:
        return
    _rest_in_a_shortage(port, is_others)


def _rest_in_a_shortage(port: Any, is_others: Callable[[], bool] | None) -> None:
    """Let ``port`` accept nothing for a while when it finds that descriptors have run out.

    The stock port closes who is waiting, by means of a descriptor that it keeps for this. But it may have lost that to
    another thread; and the whole system may be short. Then it returns, and the poller reports it again at once.
    """
    accept = port.doRead

    def wake() -> None:
        if port.connected and not port.disconnecting:
            port.startReading()

    def do_read() -> None:
        accepted = port.sessionno
        if is_others is not None:
            if is_others():
                port.stopReading()
                port.reactor.callLater(YIELD_S, wake)
                return
            port.numberAccepts = 1  # which each call adapts to what it met
        accept()
        if port.sessionno == accepted and _is_short() and port.connected:
            port.stopReading()
            port.reactor.callLater(REST_S, wake)

    port.doRead = do_read


def accept_waiting(port: Any) -> None:
    """Take the connections that the kernel has made already: they would be reset when ``port`` is closed."""
    if isinstance(port, tcp.Port) and port.connected:  # that of UNIX sockets is one of these too
        port.numberAccepts = MAX_WAITING
        type(port).doRead(port)  # whether or not others should have some of them


def _is_short() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        return exc.errno in SHORTAGES
    return False


def unsent_bytes(transport: Any) -> int:
    """Bytes a transport has queued, of records if it is over TLS; 0 where it cannot tell."""
    method = getattr(transport, "unsent_bytes", None)
    return method() if method is not None else 0


def has_left(transport: Any) -> bool:
    """Whether the other side has closed or reset the connection, also while nobody reads and the poller looks away.

    Args:
        transport: over TLS, or not.
    """
    beneath = getattr(transport, "transport", transport)
    handle = beneath.getHandle() if hasattr(beneath, "getHandle") else None
    if not isinstance(handle, socket.socket):
        return False
    poll = select.poll()
    poll.register(handle, select.POLLRDHUP)
    return bool(poll.poll(0))


def look_at(transport: Any) -> Callable[[int], Sequence[object]]:
    """What says, when called with 0, whether the transport's socket has something to read, by something or nothing.

    It costs a fourth of a look with MSG_PEEK, which makes an exception each time that there is nothing. A transport
    without a socket of its own, as under TLS, never has anything.
    """
    poll = select.poll()
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    if isinstance(handle, socket.socket):
        poll.register(handle, select.POLLIN)
    return poll.poll
