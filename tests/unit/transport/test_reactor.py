"""The gateway's reactor against the stock one, and the private parts of Twisted that this package stands on."""

from __future__ import annotations

import hashlib
import inspect
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from twisted.internet import abstract, base, epollreactor, posixbase, ssl, tcp, unix
from twisted.internet._sslverify import ClientTLSOptions, IOpenSSLTrustRoot
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python import log

from txgateway.transport.reactor import MAX_OUTBOX, GatewayReactor

# --- one contract on both reactors ------------------------------------------------------------------------------------

SCENARIOS = '''
import errno, json, os, socket, sys
from twisted.logger import globalLogPublisher
if sys.argv[1] == "gateway":
    from txgateway.transport.reactor import install
    install()
else:
    from twisted.internet import epollreactor
    epollreactor.install()
from twisted.internet import reactor, defer, protocol, error, task, threads

told = {"reactor": type(reactor).__name__}
failures = []

def observe(event):
    failure = event.get("log_failure") or event.get("failure")
    if failure is not None:
        failures.append(failure.type.__name__)

globalLogPublisher.addObserver(observe)

class End(protocol.Protocol):
    def __init__(self):
        self.data, self.made, self.lost = b"", defer.Deferred(), defer.Deferred()
        self.got = None
    def connectionMade(self): self.made.callback(self)
    def dataReceived(self, data):
        self.data += data
        if self.got is not None:
            self.got.callback(None)
            self.got = None
    def connectionLost(self, reason): self.lost.callback(reason.type.__name__)

class Raises(End):
    def dataReceived(self, data): raise ValueError("read")

class RaisesAtEnd(End):
    def connectionLost(self, reason):
        super().connectionLost(reason)
        raise ValueError("end")

async def pair(kind=End):
    server, client = kind(), End()
    port = reactor.listenTCP(0, protocol.Factory.forProtocol(lambda: server), interface="127.0.0.1")
    reactor.connectTCP("127.0.0.1", port.getHost().port, protocol.ClientFactory.forProtocol(lambda: client))
    await server.made
    await client.made
    await port.stopListening()
    return server, client

async def turns(number):
    for _ in range(number):
        await task.deferLater(reactor, 0)

async def echo():
    server, client = await pair()
    server.got = defer.Deferred()
    client.transport.write(b"x" * 10)
    await server.got
    client.transport.loseConnection()
    return [len(server.data), await server.lost, await client.lost]

async def large():
    server, client = await pair()
    server.transport.write(b"x" * 3_000_000)
    server.transport.loseConnection()
    return [await client.lost, len(client.data), await server.lost]

async def reset():
    server, client = await pair()
    client.transport.abortConnection()
    return [await server.lost, await client.lost]

async def hang_up_while_paused():
    server, client = await pair()
    server.transport.pauseProducing()
    server.transport.write(b"x" * 10_000_000)  # what is not read is still watched for writing
    client.transport.pauseProducing()
    await turns(5)
    client.transport.abortConnection()
    await client.lost
    return [await server.lost]

async def raising_reader():
    server, client = await pair(Raises)
    other, other_client = await pair()
    client.transport.write(b"x")
    lost = [await server.lost, await client.lost]
    other.got = defer.Deferred()
    other_client.transport.write(b"still served")
    await other.got
    other_client.transport.loseConnection()
    return [*lost, other.data.decode(), sorted(set(failures))]

async def raising_at_end():
    server, client = await pair(RaisesAtEnd)
    other, other_client = await pair()
    client.transport.loseConnection()
    await server.lost
    other.got = defer.Deferred()
    other_client.transport.write(b"still served")
    await other.got
    other_client.transport.loseConnection()
    await other.lost
    return [other.data.decode(), "ValueError" in failures]

async def removed_by_the_one_before():
    readers, read = [], []
    class Reader:
        def __init__(self):
            self.fd, write = os.pipe()
            os.write(write, b"x")
        def fileno(self): return self.fd
        def logPrefix(self): return "reader"
        def connectionLost(self, reason): pass
        def doRead(self):
            read.append(self)
            for reader in readers:
                reactor.removeReader(reader)
    readers += [Reader() for _ in range(6)]
    for reader in readers:
        reactor.addReader(reader)
    await turns(3)
    return [len(read), list(failures)]

class Bad:
    """A reader whose descriptor goes away."""
    def __init__(self):
        self.read, self.write = os.pipe()
        self.went = defer.Deferred()
        self.fd = self.read
    def fileno(self): return self.fd
    def logPrefix(self): return "bad"
    def doRead(self): return None
    def connectionLost(self, reason): self.went.callback(reason.type.__name__)
    readConnectionLost = connectionLost

async def descriptor_gone():
    bad = Bad()
    reactor.addReader(bad)
    os.write(bad.write, b"x")
    bad.fd = -1
    return [await bad.went]

async def pipe_hang_up():
    reader = Bad()
    reactor.addReader(reader)
    os.close(reader.write)
    return [await reader.went]

async def timers():
    order = []
    for delay in (0.02, 0.0, 0.01):
        reactor.callLater(delay, order.append, delay)
    started = reactor.seconds()
    await task.deferLater(reactor, 0.03)
    return [order, reactor.seconds() - started >= 0.03]

async def from_thread():
    return [await threads.deferToThread(lambda: threads.blockingCallFromThread(reactor, lambda: 7))]

async def run():
    for scenario in (echo, large, reset, hang_up_while_paused, raising_reader, raising_at_end,
                     removed_by_the_one_before, descriptor_gone, pipe_hang_up, timers, from_thread):
        failures.clear()
        told[scenario.__name__] = await scenario()
    await turns(3)
    told["left over"] = [repr(one) for one in reactor.getReaders() + reactor.getWriters()
                         if one not in reactor._internalReaders]

from twisted.python.failure import Failure
protocol.Failure = Failure
def done(result):
    if isinstance(result, Failure):
        sys.stderr.write(result.getTraceback())
    reactor.stop()
reactor.callWhenRunning(lambda: defer.ensureDeferred(run()).addBoth(done))
reactor.run()
sys.stdout.write(json.dumps(told))
'''

#: What both must do.
CONTRACT = {
    "echo": [10, "ConnectionDone", "ConnectionDone"],
    "large": ["ConnectionDone", 3_000_000, "ConnectionDone"],
    "reset": ["ConnectionLost", "ConnectionAborted"],
    "hang_up_while_paused": ["ConnectionLost"],
    "raising_reader": ["ValueError", "ConnectionDone", "still served", ["ValueError"]],
    "raising_at_end": ["still served", True],
    "removed_by_the_one_before": [1, []],
    "pipe_hang_up": ["ConnectionDone"],
    "descriptor_gone": ["ConnectionFdescWentAway"],
    "timers": [[0.0, 0.01, 0.02], True],
    "from_thread": [7],
    "left over": [],
}


@pytest.mark.parametrize(("kind", "name"), [("stock", "EPollReactor"), ("gateway", "GatewayReactor")])
def test_both_reactors_keep_the_contract(kind: str, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCENARIOS, kind], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout or "{}")
    assert told.pop("reactor", None) == name, done.stderr
    assert told == CONTRACT, done.stderr


def test_installed_reactor_of_the_user_stays() -> None:
    code = (
        "from twisted.internet import selectreactor; selectreactor.install()\n"
        "from txgateway.transport.reactor import install; install()\n"
        "from twisted.internet import reactor; print(type(reactor).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "SelectReactor"


def test_time_is_monotonic() -> None:
    import time

    assert GatewayReactor.seconds is time.monotonic


# --- the outbox -------------------------------------------------------------------------------------------------------


class Holder:
    """A transport that holds something; what it is told ends up in a common list."""

    def __init__(self, told: list[str], name: str, then: Any = None) -> None:
        self._told, self._name, self._then = told, name, then

    def send_held(self) -> None:
        self._told.append(self._name)
        if self._then is not None:
            self._then()


class Reader:
    """Something to read is always there; each read makes one more holder."""

    def __init__(self, reactor: GatewayReactor, told: list[str], name: str) -> None:
        self._reactor, self._told, self._name = reactor, told, name
        self.mine, self._others = socket.socketpair()
        self._others.send(b"x")
        reactor.addReader(self)

    def fileno(self) -> int:
        return self.mine.fileno()

    def doRead(self) -> None:
        self.mine.recv(1)
        self._told.append("read")
        self._reactor.outbox.append(Holder(self._told, self._name))

    def close(self) -> None:
        self._reactor.removeReader(self)
        self.mine.close()
        self._others.close()


@pytest.fixture
def gateway_reactor() -> Iterator[GatewayReactor]:
    reactor = GatewayReactor()
    yield reactor
    for reader in list(reactor._internalReaders):
        reader.connectionLost(None)
    reactor._poller.close()


def test_holders_of_a_turn_are_told_at_its_end_and_when_they_are_many(gateway_reactor: GatewayReactor) -> None:
    told: list[str] = []
    with ExitStack() as stack:
        for number in range(MAX_OUTBOX + 3):
            stack.callback(Reader(gateway_reactor, told, f"sent {number}").close)
        gateway_reactor.doPoll(0)
    kinds = [entry.split()[0] for entry in told]
    assert kinds == ["read"] * MAX_OUTBOX + ["sent"] * MAX_OUTBOX + ["read"] * 3 + ["sent"] * 3
    assert gateway_reactor.outbox == []


def test_holders_of_timers_are_told_before_the_reactor_waits(gateway_reactor: GatewayReactor) -> None:
    told: list[str] = []
    gateway_reactor.outbox.append(Holder(told, "sent"))
    gateway_reactor.callLater(0, gateway_reactor.outbox.append, Holder(told, "later"))
    gateway_reactor.doPoll(0)
    assert told == ["sent"]
    gateway_reactor.runUntilCurrent()
    gateway_reactor.doPoll(0)
    assert told == ["sent", "later"]


def test_holders_of_what_ends_the_turn_are_told_too(gateway_reactor: GatewayReactor) -> None:
    told: list[str] = []

    def collect() -> None:
        gateway_reactor.outbox.append(Holder(told, "collected"))

    with ExitStack() as stack:
        stack.callback(Reader(gateway_reactor, told, "sent").close)
        gateway_reactor.outbox.append(Holder(told, "first", lambda: gateway_reactor.at_turn_end(collect)))
        gateway_reactor.doPoll(0)
    assert told == ["first", "read", "sent", "collected"]


def test_holder_that_fails_keeps_no_other_from_being_told(gateway_reactor: GatewayReactor) -> None:
    told: list[str] = []

    def fail() -> None:
        raise ValueError("send")

    events: list[dict[str, Any]] = []
    log.addObserver(events.append)
    try:
        gateway_reactor.outbox += [Holder(told, "one", fail), Holder(told, "two")]
        gateway_reactor.doPoll(0)
    finally:
        log.removeObserver(events.append)
    assert told == ["one", "two"]
    assert [event["failure"].type for event in events if event["isError"]] == [ValueError]


# --- private parts ------------------------------------------------------------------------------------------------------


def digest(function: Any) -> str:
    """Of a function's source."""
    return hashlib.sha256(inspect.getsource(function).encode()).hexdigest()[:16]


#: What was read and replicated, or is called around. A change means: read the new one, then adapt, then note it here.
KNOWN = {
    epollreactor.EPollReactor.doPoll: "09b62ae68ef01b4b",
    posixbase._PollLikeMixin._doReadOrWrite: "5ffee55b79492b00",
    posixbase._DisconnectSelectableMixin._disconnectSelectable: "9d6de0e555ea44fe",
    abstract.FileDescriptor.doWrite: "a986d7b1b1054e43",
    abstract.FileDescriptor.write: "3e46c97fc173bc7e",
    abstract.FileDescriptor.loseConnection: "e13b8468f05208ae",
    abstract.FileDescriptor._isSendBufferFull: "9d19c2cb703629f5",
    abstract.FileDescriptor._maybePauseProducer: "529bd8438e1a279f",
    tcp.Connection.doRead: "20ac74ffecd6b7f2",
    tcp.Connection.writeSomeData: "2dd0d4209260b94e",
    tcp.Connection.connectionLost: "dd7a9a87035a2084",
    tcp._AbortingMixin.abortConnection: "c948f3ef21c1822c",
    tcp.Connector._makeTransport: "46ede39bbf87ab8f",
    unix.Connector._makeTransport: "a8ff0aa8b49c99ad",
}


@pytest.mark.parametrize("function", KNOWN, ids=lambda function: function.__qualname__)
def test_replicated_part_of_twisted_is_the_known_one(function: Any) -> None:
    assert digest(function) == KNOWN[function], f"{function.__qualname__} has changed: read it, then adapt transport/"


def test_attributes_of_the_reactor_are_there() -> None:
    reactor = epollreactor.EPollReactor()
    try:
        assert callable(reactor._poller.poll)
        assert isinstance(reactor._selectables, dict)
        parameters = list(inspect.signature(reactor._doReadOrWrite).parameters)
        assert parameters == ["selectable", "fd", "event"]
        parameters = list(inspect.signature(reactor._disconnectSelectable).parameters)
        assert parameters[:3] == ["selectable", "why", "isRead"]
        assert isinstance(reactor._POLL_DISCONNECTED, int)
        assert isinstance(posixbase._NO_FILEDESC, Exception)
        assert callable(base.ReactorBase.seconds)
    finally:
        for reader in list(reactor._internalReaders):
            reader.connectionLost(None)
        reactor._poller.close()


def test_attributes_of_transports_are_there() -> None:
    descriptor = abstract.FileDescriptor(reactor=object())  # type: ignore[arg-type]
    assert (descriptor._tempDataLen, descriptor._tempDataBuffer) == (0, [])
    assert (descriptor.dataBuffer, descriptor.offset) == (b"", 0)
    assert not any((descriptor.disconnecting, descriptor._writeDisconnecting, descriptor._writeDisconnected))
    assert (descriptor.producer, descriptor.streamingProducer) == (None, False)
    assert descriptor.bufferSize == 65536
    assert tcp.Connection._aborting is False
    assert tcp.Connection.TLS is False
    assert tcp.Port.transport is tcp.Server
    assert unix.Port.transport is unix.Server


def test_makers_of_transports_take_the_known_arguments() -> None:
    def names(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    assert names(tcp.Client.__init__) == ["self", "host", "port", "bindAddress", "connector", "reactor"]
    assert names(tcp.Connector.__init__) == ["self", "host", "port", "factory", "timeout", "bindAddress", "reactor"]
    assert names(unix.Client.__init__) == ["self", "filename", "connector", "reactor", "checkPID"]
    assert names(unix.Connector.__init__) == ["self", "address", "factory", "timeout", "reactor", "checkPID"]


def test_parts_of_tls_are_there() -> None:
    assert list(inspect.signature(ClientTLSOptions.__init__).parameters)[1:3] == ["createConnection", "hostname"]
    assert list(inspect.signature(ssl.CertificateOptions._makeTLSConnection).parameters) == ["self", "protocol"]
    assert "_addCACertsToContext" in IOpenSSLTrustRoot.names()


def test_parts_of_tls_that_the_server_changes_are_there() -> None:
    ours = {
        "_checkHandshakeStatus", "_flushReceiveBIO", "_flushSendBIO", "_shutdownTLS", "_tlsShutdownFinished", "_write",
    }  # fmt: skip
    own = vars(TLSMemoryBIOProtocol)
    assert ours | {"abortConnection", "dataReceived", "loseConnection", "makeConnection"} <= own.keys()
    assert "loseWriteConnection" not in own
    assert (own["_handshakeDone"], own["_lostTLSConnection"], own["_aborted"]) == (False, False, False)
    # What else there is must not have a way of its own to the records, or to an end.
    assert {name for name in own if not name.startswith("__")} - ours == {
        "_aborted", "_bufferedWrite", "_handshakeDone", "_lostTLSConnection", "_producer", "_reason",
        "_unbufferPendingWrites", "abortConnection", "connectionLost", "dataReceived", "failVerification",
        "getHandle", "getPeerCertificate", "loseConnection", "makeConnection", "negotiatedProtocol",
        "registerProducer", "unregisterProducer", "write", "writeSequence",
    }  # fmt: skip
