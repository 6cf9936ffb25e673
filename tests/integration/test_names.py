"""Names over real sockets: a resolver on the real reactor, and listeners at several addresses of the loopback."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest
import pytest_twisted
from tests.helpers.backend import BackendConnection, RawBackend
from tests.helpers.resolver import TableResolver
from twisted.internet._resolver import GAIResolver
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.iweb import IResponse

from txgateway.config import Backend as BackendSettings
from txgateway.config.targets import target as parse_target
from txgateway.errors import UpstreamConnectFailed, UpstreamNameUnknown
from txgateway.proxy.agent import PoolAgent
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import BackendBuilder
from txgateway.proxy.names import NameWatch
from txgateway.proxy.target import Outcome, Target
from txgateway.telemetry.metrics import Tally, TargetMetrics
from txgateway.transport.lookup import Lookups
from txgateway.transport.wheel import TimerWheel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
NAME = "svc.test"
PATIENCE_S = 10.0
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")


class _Body(Protocol):
    """Collects a body; fires with it when it ended well."""

    def __init__(self) -> None:
        self.data = b""
        self.whole: Deferred[bytes] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if reason.check(ResponseDone):
            self.whole.callback(self.data)
        else:
            self.whole.errback(reason)


class Site:
    """One server at several addresses and one port, and a backend of its name."""

    def __init__(self, reactor: PosixReactorBase, table: dict[str, tuple[str, ...]]) -> None:
        self.reactor = reactor
        self.table = table
        self.servers: dict[str, RawBackend] = {}
        self.port = 0
        self.wheel = TimerWheel(reactor)

    def listen(self, *hosts: str) -> None:
        """At the same port everywhere, which is free at the first."""
        for host in hosts:
            server = self.servers[host] = RawBackend()
            server._port = self.reactor.listenTCP(self.port, server, interface=host)
            self.port = server._port.getHost().port

    def build(self, name: str = NAME) -> tuple[Backend, NameWatch]:
        settings = BackendSettings("b", (parse_target(f"http://{name}:{self.port}"),), dns_refresh_s=3600.0)
        builder = BackendBuilder(self.reactor, self.wheel, 0, Random(1), lambda *_: TargetMetrics(), lambda _: Tally())
        built = builder.build(settings)
        assert built.watch is not None
        self.backend, self.watch = built.backend, built.watch
        return self.backend, self.watch

    def ask(self, target: Target) -> Deferred[IResponse]:
        """A request to a target, as it is begun by whoever forwards one."""
        target.begin(self.reactor.seconds())
        return PoolAgent(target.pool).request(b"GET", b"http://svc/")

    def settle(self, target: Target) -> None:
        target.settle(Outcome.OK, self.reactor.seconds(), 0, is_fault=False, is_probe=False)

    async def host_that_serves(self, target: Target) -> str:
        """Where a request to a target arrives."""
        asked = self.ask(target)
        await self.until(lambda: any(self.begun(server) for server in self.servers.values()))
        host, server = next((host, server) for host, server in self.servers.items() if self.begun(server))
        peer = self.begun(server)[0]
        await peer.head()
        peer.send(OK)
        response = await asked
        body = _Body()
        response.deliverBody(body)
        assert await body.whole == b"ok"
        self.settle(target)
        return host

    @staticmethod
    def begun(server: RawBackend) -> list[BackendConnection]:
        """Connections that have a request."""
        return [peer for peer in server.connections if peer.received]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor work until the condition holds; bounded by time, since the wheel's seconds are real."""
        limit = self.reactor.seconds() + PATIENCE_S
        while not condition():
            assert self.reactor.seconds() < limit, "the condition never held"
            await deferLater(self.reactor, 0.005)

    @property
    def addresses(self) -> list[str]:
        return [target.address for target in self.backend.targets]


@asynccontextmanager
async def site_at(reactor: PosixReactorBase, *hosts: str, listen: Sequence[str] | None = None) -> AsyncIterator[Site]:
    table = {NAME: hosts}
    before = reactor.installNameResolver(TableResolver(reactor.nameResolver, table))
    site = Site(reactor, table)
    try:
        site.listen(*(hosts if listen is None else listen))
        yield site
    finally:
        reactor.installNameResolver(before)
        site.watch.stop()
        site.backend.close()
        for server in site.servers.values():
            await server.stop()
        site.wheel.stop()


@pytest_twisted.ensureDeferred
async def test_each_address_of_a_name_is_served(reactor: PosixReactorBase) -> None:
    async with site_at(reactor, *HOSTS) as site:
        backend, watch = site.build()
        await watch.start()
        assert site.addresses == [f"{host}:{site.port}" for host in HOSTS]
        assert [await site.host_that_serves(target) for target in backend.targets] == list(HOSTS)
        assert {target.label for target in backend.targets} == {f"{NAME}:{site.port}"}


@pytest_twisted.ensureDeferred
async def test_download_from_an_address_that_has_gone_runs_to_its_end(reactor: PosixReactorBase) -> None:
    async with site_at(reactor, *HOSTS) as site:
        backend, watch = site.build()
        await watch.start()
        gone = backend.targets[0]
        asked = site.ask(gone)
        peer = await site.servers[HOSTS[0]].accepted()
        await peer.head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfir")
        body = _Body()
        (await asked).deliverBody(body)
        await site.until(lambda: body.data == b"fir")

        site.table[NAME] = HOSTS[1:]
        backend.on_connect_failed()
        await site.until(lambda: len(backend.targets) == 2)
        assert gone in watch.draining
        assert [await site.host_that_serves(target) for target in backend.targets] == list(HOSTS[1:])
        peer.send(b"st ")
        await site.until(lambda: body.data == b"first ")
        assert not gone.pool._is_closed
        peer.send(b"end")
        assert await body.whole == b"first end"
        assert not peer.is_lost

        site.settle(gone)
        await peer.lost  # an idle connection, closed with its pool
        assert not watch.draining
        assert gone.pool._is_closed


@pytest.mark.parametrize("hosts", [("::1", "127.0.0.1"), ("127.0.0.1", "::1")])
@pytest_twisted.ensureDeferred
async def test_name_with_an_address_of_each_family_is_served_where_it_listens(
    reactor: PosixReactorBase, hosts: tuple[str, ...]
) -> None:
    async with site_at(reactor, *hosts, listen=["127.0.0.1"]) as site:
        backend, watch = site.build()
        await watch.start()
        (target,) = backend.targets
        assert site.addresses == [f"{NAME}:{site.port}"]
        assert await site.host_that_serves(target) == "127.0.0.1"


@pytest_twisted.ensureDeferred
async def test_connection_that_failed_finds_the_name_at_its_new_address(reactor: PosixReactorBase) -> None:
    async with site_at(reactor, HOSTS[0], listen=[HOSTS[1]]) as site:
        backend, watch = site.build()
        await watch.start()
        (before,) = backend.targets
        with pytest.raises(UpstreamConnectFailed):
            await site.ask(before)
        site.settle(before)
        site.table[NAME] = (HOSTS[1],)
        backend.on_connect_failed()
        await site.until(lambda: backend.targets != (before,))
        (after,) = backend.targets
        assert await site.host_that_serves(after) == HOSTS[1]
        assert after.address == before.address


@pytest_twisted.ensureDeferred
async def test_name_that_does_not_exist_is_dialed_by_name_until_it_does(reactor: PosixReactorBase) -> None:
    async with site_at(reactor, listen=[HOSTS[0]]) as site:
        backend, watch = site.build()
        await watch.start()
        (before,) = backend.targets
        with pytest.raises(UpstreamNameUnknown):
            await site.ask(before)
        site.settle(before)
        site.table[NAME] = (HOSTS[0],)
        assert await site.host_that_serves(before) == HOSTS[0]


@pytest_twisted.ensureDeferred
async def test_reactors_own_resolver_finds_localhost(reactor: PosixReactorBase) -> None:
    async with site_at(reactor, listen=["127.0.0.1"]) as site:
        backend, watch = site.build("localhost")
        await watch.start()
        (target,) = backend.targets
        dialer: Any = target.dialer
        assert "127.0.0.1" in dialer.addresses
        assert set(dialer.addresses) <= {"127.0.0.1", "::1"}
        assert await site.host_that_serves(target) == "127.0.0.1"


# --- getaddrinfo in its thread ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(24, "too many open files"), UnicodeError("label too long")])
@pytest_twisted.ensureDeferred
async def test_whatever_getaddrinfo_raises_is_told(reactor: PosixReactorBase, error: Exception) -> None:
    def fail(*_: object) -> Any:
        raise error

    stock: Any = GAIResolver
    lookups = Lookups(stock(reactor, reactor.getThreadPool, fail))
    for _ in range(2):
        told: Deferred[Sequence[IAddress]] = Deferred()
        lookups.ask(NAME, told.callback)
        assert await told.addTimeout(PATIENCE_S, reactor) == []


@pytest_twisted.ensureDeferred
async def test_thread_that_hangs_is_the_only_one_for_its_name(reactor: PosixReactorBase) -> None:
    calls: list[object] = []
    gate = threading.Event()

    def hang(name: object, *_: object) -> Any:
        calls.append(name)
        gate.wait(PATIENCE_S)
        return []

    stock: Any = GAIResolver
    lookups = Lookups(stock(reactor, reactor.getThreadPool, hang))
    told: Deferred[Sequence[IAddress]] = Deferred()
    for _ in range(5):
        lookups.ask(NAME, told.callback)
        await deferLater(reactor, 0)
    gate.set()
    assert await told.addTimeout(PATIENCE_S, reactor) == []
    assert calls == [NAME]
