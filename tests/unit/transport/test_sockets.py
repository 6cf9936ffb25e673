"""Immediate transports on real sockets: whatever happens, they do what the stock ones do, only sooner."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import tcp, unix
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import ClientFactory, Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from txgateway.transport import sockets
from txgateway.transport.sockets import (
    ImmediateClient,
    ImmediateConnector,
    ImmediateServer,
    ImmediateUnixClient,
    ImmediateUnixConnector,
    ImmediateUnixServer,
    accept_waiting,
    unsent_bytes,
    use_immediate_writes,
)

BIG = bytes(range(256)) * 16 * 1024  # 4 MiB, more than the kernel takes


class End(Protocol):
    """One end of a connection; keeps what it gets."""

    transport: Any

    def __init__(self) -> None:
        self.received = bytearray()
        self.made: Deferred[End] = Deferred()
        self.lost: Deferred[type[Exception]] = Deferred()
        self._wanted: tuple[int, Deferred[None]] | None = None

    def connectionMade(self) -> None:
        self.made.callback(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._check()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        kinds = (ConnectionDone, ConnectionAborted, ConnectionLost)
        self.lost.callback(next(kind for kind in kinds if reason.check(kind)))

    def until(self, size: int) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._wanted = (size, done)
        self._check()
        return done

    def _check(self) -> None:
        if self._wanted is not None and len(self.received) >= self._wanted[0]:
            (_, done), self._wanted = self._wanted, None
            done.callback(None)


class Push:
    """A streaming producer that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.resumed: Deferred[None] = Deferred()

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")
        self.resumed.callback(None)

    def stopProducing(self) -> None:
        self.told.append("stop")


class Pull:
    """Writes a piece each time it is asked, then closes; as static.File does."""

    def __init__(self, transport: Any, pieces: list[bytes]) -> None:
        self.transport = transport
        self.pieces = pieces
        self.asked = 0

    def resumeProducing(self) -> None:
        self.asked += 1
        self.transport.write(self.pieces.pop(0))
        if not self.pieces:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def stopProducing(self) -> None:
        pass


class Outbox(list[Any]):
    """Tells its holders at the next turn, as the gateway's own reactor does at the end of each."""

    def __init__(self, reactor: PosixReactorBase) -> None:
        self._reactor = reactor
        super().__init__()

    def append(self, holder: Any) -> None:
        super().append(holder)
        self._reactor.callLater(0, self.tell)

    def tell(self) -> None:
        while self:
            self.pop(0).send_held()


class Pair:
    """A server's end of the kind under test, and a stock client's end."""

    def __init__(self, reactor: PosixReactorBase, kind: str, directory: Path) -> None:
        self.reactor = reactor
        self.server, self.client = End(), End()
        factory = Factory.forProtocol(lambda: self.server)
        client_factory = ClientFactory.forProtocol(lambda: self.client)
        if kind.endswith("unix"):
            path = str(directory / "socket")
            self.port = reactor.listenUNIX(path, factory)
        else:
            self.port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.outbox = Outbox(reactor) if kind.startswith("held") else None
        if not kind.startswith("stock"):
            use_immediate_writes(self.port)
        if kind.endswith("unix"):
            reactor.connectUNIX(path, client_factory)
        else:
            reactor.connectTCP("127.0.0.1", self.port.getHost().port, client_factory)  # type: ignore[arg-type]

    async def made(self) -> tuple[End, End]:
        await self.server.made
        await self.client.made
        if self.outbox is not None:
            self.server.transport._outbox = self.outbox
        # Else a kernel with large buffers may take all of a large write.
        self.server.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        return self.server, self.client

    def close(self) -> Deferred[Any]:
        for end in (self.server, self.client):
            if end.transport is not None and not end.lost.called:
                end.transport.abortConnection()
        return self.port.stopListening()  # type: ignore[no-any-return]


KINDS = ["stock-tcp", "immediate-tcp", "held-tcp", "stock-unix", "immediate-unix", "held-unix"]
every_kind = pytest.mark.parametrize("pair", KINDS, indirect=True)
every_tcp = pytest.mark.parametrize("pair", KINDS[:3], indirect=True)
every_held = pytest.mark.parametrize("pair", ["held-tcp", "held-unix"], indirect=True)


@pytest.fixture
def pair(request: pytest.FixtureRequest, reactor: PosixReactorBase, tmp_path: Path) -> Iterator[Pair]:
    made = Pair(reactor, request.param, tmp_path)
    yield made
    pytest_twisted.blockon(made.close())


def is_immediate(end: End) -> bool:
    return isinstance(end.transport, (ImmediateServer, ImmediateUnixServer))


@every_kind
@pytest_twisted.ensureDeferred
async def test_small_write_arrives(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.write(b"a")
    server.transport.write(b"")
    server.transport.writeSequence([b"b", b"", b"c"])
    assert unsent_bytes(server.transport) == 0
    await client.until(3)
    assert client.received == b"abc"


@pytest.mark.parametrize("pair", ["immediate-tcp", "immediate-unix"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_immediate_write_is_sent_before_the_reactor_turns(pair: Pair) -> None:
    server, client = await pair.made()
    assert is_immediate(server)
    server.transport.write(b"now")
    assert client.transport.socket.recv(10, socket.MSG_PEEK) == b"now"
    assert server.transport not in pair.reactor.getWriters()


def nothing_has_come(end: End) -> bool:
    with pytest.raises(BlockingIOError):
        end.transport.socket.recv(10, socket.MSG_PEEK)
    return True


@every_held
@pytest_twisted.ensureDeferred
async def test_held_writes_leave_together_when_the_outbox_is_told(pair: Pair) -> None:
    server, client = await pair.made()
    assert pair.outbox is not None
    server.transport.write(b"one")
    server.transport.writeSequence([b"two", b"six"])
    assert nothing_has_come(client)
    assert pair.outbox == [server.transport]
    pair.outbox.tell()
    assert client.transport.socket.recv(10, socket.MSG_PEEK) == b"onetwosix"
    server.transport.write(b"!")
    assert pair.outbox == [server.transport]
    await client.until(10)
    assert client.received == b"onetwosix!"


@every_held
@pytest_twisted.ensureDeferred
async def test_no_more_is_held_than_a_few_kilobytes(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.write(b"a" * sockets.HELD_BYTES)
    assert nothing_has_come(client)
    server.transport.write(b"b")
    assert client.transport.socket.recv(sockets.HELD_BYTES + 10, socket.MSG_PEEK) == b"a" * sockets.HELD_BYTES + b"b"
    server.transport.write(b"c")
    await client.until(sockets.HELD_BYTES + 2)
    assert client.received == b"a" * sockets.HELD_BYTES + b"bc"


@every_held
@pytest.mark.parametrize("then", ["loseConnection", "loseWriteConnection", "abortConnection", "unsent_bytes"])
@pytest_twisted.ensureDeferred
async def test_what_comes_after_a_held_write_finds_it_sent(pair: Pair, then: str) -> None:
    server, client = await pair.made()
    server.transport.write(b"held")
    getattr(server.transport, then)()
    assert client.transport.socket.recv(10, socket.MSG_PEEK) == b"held"


@every_held
@pytest_twisted.ensureDeferred
async def test_pull_producer_comes_after_what_is_held(pair: Pair) -> None:
    """Even if the socket takes nothing more, so that both are queued."""
    server, client = await pair.made()
    client.transport.pauseProducing()
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += server.transport.socket.send(bytes(65536))
    server.transport.write(b"head ")
    assert pair.outbox
    server.transport.registerProducer(Pull(server.transport, [b"first ", b"second"]), False)
    client.transport.resumeProducing()
    assert await client.lost is ConnectionDone
    assert client.received == bytes(filled) + b"head first second"


@every_held
@pytest_twisted.ensureDeferred
async def test_held_write_is_sent_to_a_client_that_says_no_more(pair: Pair) -> None:
    """Its end may be the next event of the same turn."""
    server, client = await pair.made()
    server.transport.write(b"answer")
    server.transport.connectionLost(Failure(ConnectionDone()))
    assert client.transport.socket.recv(10, socket.MSG_PEEK) == b"answer"


@every_kind
@pytest_twisted.ensureDeferred
async def test_slow_reader_gets_everything_in_order_and_the_producer_waits(pair: Pair) -> None:
    server, client = await pair.made()
    producer = Push()
    server.transport.registerProducer(producer, True)
    client.transport.pauseProducing()
    server.transport.write(BIG)
    if is_immediate(server):  # and more than may be held
        assert 0 < unsent_bytes(server.transport) < len(BIG)  # the kernel has taken some at once
    assert producer.told == ["pause"]
    server.transport.write(b"then")
    server.transport.writeSequence([b" and", b" then"])
    assert set(producer.told) == {"pause"}
    client.transport.resumeProducing()
    await producer.resumed
    assert producer.told[-1] == "resume"
    assert unsent_bytes(server.transport) == 0
    server.transport.write(b" again")
    expected = BIG + b"then and then again"
    await client.until(len(expected))
    assert client.received == expected
    server.transport.unregisterProducer()


@every_kind
@pytest_twisted.ensureDeferred
async def test_close_after_a_large_write_comes_after_its_last_byte(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.write(BIG)
    server.transport.loseConnection()
    assert await client.lost is ConnectionDone
    assert client.received == BIG
    assert await server.lost is ConnectionDone


@every_kind
@pytest_twisted.ensureDeferred
async def test_close_after_a_small_write_comes_after_it(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.write(b"bye")
    server.transport.loseConnection()
    assert await client.lost is ConnectionDone
    assert client.received == b"bye"


@every_kind
@pytest_twisted.ensureDeferred
async def test_half_close_leaves_the_other_direction_open(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.write(BIG)
    server.transport.loseWriteConnection()
    await client.until(len(BIG))
    client.transport.write(b"x")
    client.transport.loseConnection()
    assert await server.lost is ConnectionDone
    assert server.received == b"x"
    server.transport.write(b"late")  # dropped


@every_kind
@pytest_twisted.ensureDeferred
async def test_abort_drops_what_is_queued(pair: Pair) -> None:
    server, client = await pair.made()
    client.transport.pauseProducing()
    server.transport.write(BIG)
    server.transport.abortConnection()
    server.transport.write(b"late")
    assert await server.lost is ConnectionAborted
    client.transport.resumeProducing()
    await client.lost
    assert len(client.received) < len(BIG)
    assert BIG.startswith(bytes(client.received))


@every_kind
@pytest_twisted.ensureDeferred
async def test_write_behind_an_abort_is_never_sent(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.abortConnection()
    server.transport.write(b"late")
    await client.lost
    assert client.received == b""


@every_kind
@pytest_twisted.ensureDeferred
async def test_pull_producer_is_asked_at_the_pace_of_the_reader(pair: Pair) -> None:
    server, client = await pair.made()
    client.transport.pauseProducing()
    pieces = [BIG[at : at + 65536] for at in range(0, len(BIG), 65536)]
    producer = Pull(server.transport, list(pieces))
    server.transport.registerProducer(producer, False)
    server.transport.reactor.callLater(0, client.transport.resumeProducing)
    assert producer.asked <= 1
    assert await client.lost is ConnectionDone
    assert client.received == BIG
    assert producer.asked == len(pieces)


@every_tcp
@pytest_twisted.ensureDeferred
async def test_connection_that_was_reset_is_lost_and_not_done(pair: Pair) -> None:
    server, client = await pair.made()
    server.transport.pauseProducing()  # so that a write is what meets the reset
    client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.transport.abortConnection()
    await client.lost
    server.transport.write(b"x")
    server.transport.resumeProducing()
    assert await server.lost is ConnectionLost


@every_tcp
@pytest_twisted.ensureDeferred
async def test_end_behind_a_failed_write_is_a_loss(pair: Pair) -> None:
    server, _ = await pair.made()
    if is_immediate(server):
        # The kernel tells an error once: whoever reads next sees a plain end.
        server.transport.socket.shutdown(socket.SHUT_WR)
        server.transport.write(b"x")
        server.transport.stopWriting()
        server.transport.connectionLost(Failure(ConnectionDone()))
        assert await server.lost is ConnectionLost
    else:
        server.transport.socket.shutdown(socket.SHUT_WR)
        server.transport.write(b"x")
        assert await server.lost is ConnectionLost


@every_kind
@pytest_twisted.ensureDeferred
async def test_write_from_within_a_read_is_answered_in_order(pair: Pair) -> None:
    server, client = await pair.made()

    def echo(data: bytes) -> None:
        server.received += data
        server.transport.write(data)

    server.dataReceived = echo  # type: ignore[method-assign]
    client.transport.write(BIG)
    await client.until(len(BIG))
    assert client.received == BIG


@every_kind
@pytest_twisted.ensureDeferred
async def test_text_is_refused(pair: Pair) -> None:
    server, _ = await pair.made()
    with pytest.raises(TypeError):
        server.transport.write("text")


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_client_side_writes_at_once_too(reactor: PosixReactorBase, tmp_path: Path, family: str) -> None:
    server, client = End(), End()
    factory = Factory.forProtocol(lambda: server)
    client_factory = ClientFactory.forProtocol(lambda: client)
    connector: Any
    if family == "tcp":
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        connector = ImmediateConnector("127.0.0.1", port.getHost().port, client_factory, 30, None, reactor)  # type: ignore[arg-type]
    else:
        port = reactor.listenUNIX(str(tmp_path / "socket"), factory)
        connector = ImmediateUnixConnector(str(tmp_path / "socket"), client_factory, 30, reactor, 0)
    connector.connect()
    await server.made
    await client.made
    assert isinstance(client.transport, (ImmediateClient, ImmediateUnixClient))
    client.transport.write(b"now")
    assert server.transport.socket.recv(10, socket.MSG_PEEK) == b"now"
    client.transport.write(BIG)
    await server.until(len(BIG) + 3)
    assert server.received == b"now" + BIG
    client.transport.loseConnection()
    assert await server.lost is ConnectionDone
    await client.lost
    await port.stopListening()


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_connections_that_wait_are_accepted_before_the_port_closes(
    reactor: PosixReactorBase, tmp_path: Path, family: str
) -> None:
    made: list[End] = []

    def build() -> End:
        made.append(End())
        return made[-1]

    factory = Factory.forProtocol(build)
    if family == "tcp":
        port = reactor.listenTCP(0, factory, backlog=20, interface="127.0.0.1")
    else:
        port = reactor.listenUNIX(str(tmp_path / "socket"), factory, backlog=20)
    use_immediate_writes(port, lambda: True)  # whoever it may be that has not taken them yet
    place = port.socket.getsockname()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket(port.socket.family)) for _ in range(9)]
        for client in clients:
            client.connect(place)
            client.send(b"x")
        port.numberAccepts = 1  # as the port itself may have found enough
        accept_waiting(port)
        await port.stopListening()
        assert len(made) == 9
        for end in made:
            await end.until(1)
            end.transport.loseConnection()
        for end in made:
            assert await end.lost is ConnectionDone
    accept_waiting(port)  # closed: nothing to be had


def test_only_stream_ports_are_changed() -> None:
    class Other:
        transport = None

    other = Other()
    use_immediate_writes(other)
    assert other.transport is None


def test_transport_that_cannot_tell_has_nothing_unsent() -> None:
    assert unsent_bytes(object()) == 0


def test_kinds_are_the_stock_ones_with_the_writes_on_top() -> None:
    pairs = [
        (ImmediateServer, tcp.Server), (ImmediateClient, tcp.Client),
        (ImmediateUnixServer, unix.Server), (ImmediateUnixClient, unix.Client),
    ]  # fmt: skip
    for ours, stock in pairs:
        assert ours.__mro__[1] is sockets._ImmediateWrites
        assert ours.__mro__[2] is stock


# --- a shortage of descriptors ----------------------------------------------------------------------------------------

_SHORT_OF_DESCRIPTORS = """
import os, resource, socket, sys
from txgateway.transport.reactor import install
install()
from twisted.internet import protocol, reactor, tcp
from txgateway.transport.sockets import REST_S, use_immediate_writes

class Greeting(protocol.Protocol):
    def connectionMade(self):
        print("accepted", flush=True)
        reactor.stop()

port = reactor.listenTCP(0, protocol.Factory.forProtocol(Greeting), interface="127.0.0.1")
use_immediate_writes(port)
attempts = 0
accept = port.doRead
def counted():
    global attempts
    attempts += 1
    accept()
port.doRead = counted
clients = [socket.create_connection(port.socket.getsockname())]
if sys.argv[1] == "lost":
    tcp._reservedFD._fileDescriptor.close()
    tcp._reservedFD._fileDescriptor = None
lowest = os.open(os.devnull, os.O_RDONLY)
os.close(lowest)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))

def enough_again():
    print(attempts, flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    clients.append(socket.create_connection(port.socket.getsockname()))

reactor.callLater(3.5 * REST_S, enough_again)
reactor.callLater(20, reactor.stop)
reactor.run()
"""


@pytest.mark.parametrize("reserve", ["kept", "lost"])
def test_listening_port_rests_while_descriptors_are_short_and_goes_on_after(reserve: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SHORT_OF_DESCRIPTORS, reserve], capture_output=True, text=True, check=True, timeout=60
    )
    attempts, accepted = done.stdout.split()
    assert 1 <= int(attempts) <= 5
    assert accepted == "accepted"
