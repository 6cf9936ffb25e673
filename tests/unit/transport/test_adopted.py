"""Listening sockets of others, over real sockets: who accepts, and what is left when somebody stops."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.endpoints import serverFromString
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Factory, Protocol

from txgateway.transport.adopted import adopt, lend
from txgateway.transport.sockets import use_immediate_writes


class Greeting(Protocol):
    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(b"hello")
        self.transport.loseConnection()


def factory() -> Factory:
    return Factory.forProtocol(Greeting)


async def greeting(reactor: Any, address: Any) -> bytes:
    def ask() -> bytes:
        with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
            client.settimeout(10)
            client.connect(address)
            return client.recv(100)

    from twisted.internet.threads import deferToThreadPool

    return await deferToThreadPool(reactor, reactor.getThreadPool(), ask)


@pytest_twisted.ensureDeferred
async def test_lent_listener_accepts_nothing_and_others_go_on_when_it_is_closed(reactor: PosixReactorBase) -> None:
    own = Factory()
    port: Any = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(own)
    address = ("127.0.0.1", port.getHost().port)
    descriptors = [os.dup(lend(port, own)) for _ in range(2)]
    adopted: list[Any] = [adopt(reactor, descriptor, factory()) for descriptor in descriptors]
    assert await greeting(reactor, address) == b"hello"
    await port.stopListening()
    assert await greeting(reactor, address) == b"hello"
    await adopted[0].stopListening()
    assert await greeting(reactor, address) == b"hello"
    assert adopted[1].getHost().port == address[1]
    await adopted[1].stopListening()
    with pytest.raises(ConnectionRefusedError), socket.socket() as client:
        client.connect(address)


@pytest_twisted.ensureDeferred
async def test_unix_path_is_left_as_it_is(reactor: PosixReactorBase, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    own = Factory()
    port: Any = await serverFromString(reactor, f"unix:{path}:mode=600:lockfile=0").listen(own)
    adopted: list[Any] = [adopt(reactor, os.dup(lend(port, own)), factory()) for _ in range(2)]
    assert path.stat().st_mode & 0o777 == 0o600
    assert await greeting(reactor, str(path)) == b"hello"
    await adopted[0].stopListening()
    assert path.exists()
    assert await greeting(reactor, str(path)) == b"hello"
    assert adopted[1].getHost().name == os.fsencode(path)
    await adopted[1].stopListening()
    assert path.exists()
    await port.stopListening()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_port_that_is_shared_takes_one_connection_at_a_time(reactor: PosixReactorBase) -> None:
    for is_others, expected in ((lambda: False, 1), (None, 5)):
        own = Factory()
        port: Any = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(own)
        adopted: Any = adopt(reactor, os.dup(lend(port, own)), factory())
        use_immediate_writes(adopted, is_others)
        clients = [socket.create_connection(("127.0.0.1", port.getHost().port)) for _ in range(5)]
        adopted.doRead()
        assert adopted.sessionno == expected
        for _ in range(4):  # it adapts to what it meets, but for those who share
            adopted.doRead()
        assert adopted.sessionno == 5
        for client in clients:
            client.close()
        await adopted.stopListening()
        await port.stopListening()


def test_descriptor_that_does_not_listen_is_refused(reactor: PosixReactorBase) -> None:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        descriptor = socket.socket(type=kind).detach()
        with pytest.raises(ValueError, match="is no stream socket that listens"):
            adopt(reactor, descriptor, factory())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="non-socket"):
        adopt(reactor, reader, factory())
    os.close(writer)


@pytest_twisted.ensureDeferred
async def test_listener_that_does_more_than_to_accept_cannot_be_lent(reactor: PosixReactorBase) -> None:
    own = Factory()
    port: Any = await serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(own)
    with pytest.raises(ValueError, match="can be shared"):
        lend(port, Factory())  # it was opened with another one, which is around this
    with pytest.raises(ValueError, match="can be shared"):
        lend(object(), own)
    await port.stopListening()
