"""What a dial leaves behind, on real sockets: nothing for the collector, which would stop everything to look for it."""

from __future__ import annotations

import gc
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from tests.helpers.upstream import RecordingOwner
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from txgateway.errors import GatewayError
from txgateway.transport.dial import Dialer, TcpAddress, UnixAddress
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.sockets import ImmediateClient, ImmediateUnixClient
from txgateway.transport.wheel import TimerWheel

TIMES = 20
KINDS = (ImmediateClient, ImmediateUnixClient)


class Receiver:
    def __init__(self) -> None:
        self.told: Deferred[Any] = Deferred()

    def dialed(self, protocol: Any) -> None:
        self.told.callback(protocol)

    def dial_failed(self, error: GatewayError) -> None:
        self.told.errback(error)


@pytest.fixture(params=["tcp", "unix"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, Any]]:
    family = socket.AF_INET if request.param == "tcp" else socket.AF_UNIX
    with closing(socket.socket(family)) as listening:
        listening.bind(("127.0.0.1", 0) if request.param == "tcp" else str(tmp_path / "s"))
        listening.listen(2 * TIMES)
        name = listening.getsockname()
        yield listening, TcpAddress(*name) if request.param == "tcp" else UnixAddress(name)


def clients() -> int:
    return sum(isinstance(thing, KINDS) for thing in gc.get_objects())


@pytest_twisted.ensureDeferred
async def test_connection_that_has_gone_leaves_no_cycle(reactor: Any, listener: tuple[socket.socket, Any]) -> None:
    _, address = listener
    dialer = Dialer(reactor, TimerWheel(reactor), address, 3.0, Http1ClientConnection)
    gc.collect()
    gc.disable()
    try:
        before = clients()
        for _ in range(TIMES):
            receiver = Receiver()
            dialer.dial(receiver)
            protocol = await receiver.told
            protocol.owner = RecordingOwner()
            protocol.close()
            del protocol, receiver
        for _ in range(5):
            await deferLater(reactor, 0, lambda: None)
        assert clients() - before <= 1  # a frame of this test may hold the last
    finally:
        gc.enable()
