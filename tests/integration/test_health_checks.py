"""Active checks on real sockets: TCP, UNIX and TLS targets that answer well, badly, slowly or not at all."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
import trustme
from tests.helpers.backend import BackendConnection, RawBackend
from tests.helpers.logs import logged
from twisted.internet import ssl
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import deferLater

from txgateway.config import Backend as BackendSettings
from txgateway.config.groups import BackendTls, HealthCheck
from txgateway.config.targets import target as parse_target
from txgateway.health.active import HealthChecks
from txgateway.health.state import Health
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import TargetMaker
from txgateway.proxy.target import Target
from txgateway.telemetry.metrics import TargetMetrics
from txgateway.transport.wheel import TimerWheel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
#: More than anything here takes that is not broken, in seconds.
PATIENCE_S = 10.0

Script = Callable[[BackendConnection], Any]


class QueueingBackend(Backend):
    """The real one, whose verdicts can be waited for."""

    def __init__(self, *arguments: Any) -> None:
        self.verdicts: DeferredQueue[tuple[Health, str]] = DeferredQueue()
        super().__init__(*arguments)

    def set_health(self, target: Target, health: Health, why: str) -> None:
        super().set_health(target, health, why)
        self.verdicts.put((health, why))


class Bench:
    """One target under checks; one failure is enough, and two successes.

    Args:
        url: of the target.
        tls: how its certificate is judged.
        check: settings of the checks, over those that suit most tests.
    """

    def __init__(self, reactor: PosixReactorBase, url: str, tls: dict[str, Any] | None = None, **check: Any) -> None:
        self.reactor = reactor
        numbers = {"interval_s": 100, "timeout_s": PATIENCE_S, "fall": 1, "rise": 2, **check}
        settings = BackendSettings(
            "b", (parse_target(url),), tls=BackendTls(**tls or {}), health_check=HealthCheck(**numbers)
        )
        self.wheel = TimerWheel(reactor)
        maker = TargetMaker(settings, reactor, self.wheel, 0, Random(1), lambda _: TargetMetrics())
        self.backend = QueueingBackend(settings, [maker.make(settings.targets[0])], reactor.seconds, Random(1))
        self.checks = HealthChecks(self.backend, reactor, self.wheel, Random(1))

    async def verdict(self) -> tuple[str, str]:
        """Health and reason after the next check."""
        found: Deferred[tuple[Health, str]] = self.backend.verdicts.get()
        health, why = await found.addTimeout(PATIENCE_S, self.reactor)
        return health.value, why

    async def turns_until(self, is_so: Callable[[], bool]) -> None:
        """Let the reactor work until it is so; its turns are counted, not timed."""
        for _ in range(100_000):
            if is_so():
                return
            await deferLater(self.reactor, 0)
        raise AssertionError("never came true")


class Server:
    """A target that does the same with every connection.

    Attributes:
        script: told each connection once its request is there.
        heads: of the requests.
    """

    def __init__(self, reactor: PosixReactorBase, script: Script | None, tls: Any = None, path: str = "") -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.raw = RawBackend()
        self.raw.on_connection = self._accepted  # type: ignore[method-assign]
        if path:
            self.raw.listen_unix(reactor, path)
            self.url = f"unix:{path}"
        else:
            self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.raw.listen(reactor, tls)}"

    def _accepted(self, connection: BackendConnection) -> None:
        self.raw.connections.append(connection)
        if self.script is not None:
            connection.head().addCallback(self._asked, connection)

    def _asked(self, head: bytes, connection: BackendConnection) -> None:
        self.heads.append(head)
        if self.script is not None:
            self.script(connection)


@asynccontextmanager
async def serving(
    reactor: PosixReactorBase,
    script: Script | None,
    server_tls: Any = None,
    *,
    socket_path: str = "",
    scheme: str = "",
    **options: Any,
) -> AsyncIterator[tuple[Bench, Server]]:
    """A target that does this, and its checks, already begun; nothing may be left of them at the end."""
    before = set(reactor.getDelayedCalls())
    server = Server(reactor, script, server_tls, socket_path)
    url = server.url if not scheme else server.url.replace("http:", f"{scheme}:")
    bench = Bench(reactor, url, **options)
    try:
        bench.checks.start()
        yield bench, server
    finally:
        bench.checks.stop()
        await bench.turns_until(lambda: all(connection.is_lost for connection in server.raw.connections))
        await server.raw.stop()
        await bench.turns_until(lambda: not set(reactor.getDelayedCalls()) - before)


def answer(data: bytes = OK) -> Script:
    return lambda connection: connection.send(data)


def hang(_: BackendConnection) -> None:
    """Say nothing more."""


def drip(reactor: Any, data: bytes) -> Script:
    """Send one byte of it after the other, forty a second."""

    def send(connection: BackendConnection, number: int = 0) -> None:
        if not connection.is_lost and number < len(data):
            connection.send(data[number : number + 1])
            reactor.callLater(0.025, send, connection, number + 1)

    return send


# --- HTTP -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "verdict"),
    [
        pytest.param(answer(), ("healthy", "status 200"), id="well"),
        pytest.param(answer(b"HTTP/1.1 204 No\r\n\r\n"), ("healthy", "status 204"), id="no body"),
        pytest.param(
            answer(b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno"), ("unhealthy", "status 500"), id="error"
        ),
        pytest.param(
            answer(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"),
            ("healthy", "status 302"),
            id="redirect",
        ),
        pytest.param(answer(b"\0\xff nonsense\r\n\r\n"), ("unhealthy", "invalid response"), id="garbage"),
        pytest.param(
            answer(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 2_000_000),
            ("healthy", "status 200"),
            id="huge body",
        ),
        pytest.param(
            answer(b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 2_000_000), ("healthy", "status 200"), id="body without end"
        ),
        pytest.param(
            lambda connection: connection.reset(),
            ("unhealthy", "connection closed before the response was complete"),
            id="reset",
        ),
        pytest.param(
            lambda connection: (connection.send(OK[:-1]), connection.close()),
            ("unhealthy", "connection closed before the response was complete"),
            id="cut off",
        ),
    ],
)
@pytest_twisted.ensureDeferred
async def test_request(reactor: PosixReactorBase, script: Script, verdict: tuple[str, str]) -> None:
    async with serving(reactor, script, path="/well") as (bench, server):
        assert await bench.verdict() == verdict
        (head,) = server.heads
        assert head.startswith(b"GET /well HTTP/1.1\r\n")
        assert b"User-Agent: txgateway-health\r\n" in head


@pytest_twisted.ensureDeferred
async def test_redirect_is_not_followed_where_it_is_not_expected(reactor: PosixReactorBase) -> None:
    script = answer(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    async with serving(reactor, script, path="/", expect="200") as (bench, server):
        assert await bench.verdict() == ("unhealthy", "status 302")
        assert len(server.heads) == 1


@pytest.mark.parametrize("kind", ["hang", "slow drip"])
@pytest_twisted.ensureDeferred
async def test_target_that_is_too_slow(reactor: PosixReactorBase, kind: str) -> None:
    script = hang if kind == "hang" else drip(reactor, b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + b"x" * 999)
    async with serving(reactor, script, path="/", timeout_s=0.3) as (bench, server):
        began = reactor.seconds()
        assert await bench.verdict() == ("unhealthy", "timeout after 0.3 s")
        assert 0.25 <= reactor.seconds() - began < PATIENCE_S
        await server.raw.connections[0].lost


# --- a connection -----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_port_that_accepts(reactor: PosixReactorBase) -> None:
    async with serving(reactor, None) as (bench, server):
        assert await bench.verdict() == ("healthy", "connected")
        await bench.turns_until(lambda: len(server.raw.connections) == 1)
        (connection,) = server.raw.connections
        await connection.lost
        assert connection.received == b""


@pytest.mark.parametrize("check", [{}, {"path": "/"}])
@pytest_twisted.ensureDeferred
async def test_port_that_nobody_listens_on(reactor: PosixReactorBase, check: dict[str, Any]) -> None:
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        bench = Bench(reactor, f"http://127.0.0.1:{reserved.getsockname()[1]}", **check)
        await bench.checks.start()
        assert await bench.verdict() == ("unhealthy", "connect refused")
        bench.checks.stop()


@pytest_twisted.ensureDeferred
async def test_port_that_drops_packets(reactor: PosixReactorBase, silent_port: int) -> None:
    bench = Bench(reactor, f"http://127.0.0.1:{silent_port}", timeout_s=0.3)
    await bench.checks.start()
    assert await bench.verdict() == ("unhealthy", "timeout after 0.3 s")
    bench.checks.stop()


@pytest_twisted.ensureDeferred
async def test_stop_while_connecting(reactor: PosixReactorBase, silent_port: int) -> None:
    before = set(reactor.getDelayedCalls())
    bench = Bench(reactor, f"http://127.0.0.1:{silent_port}", path="/")
    first = bench.checks.start()
    await deferLater(reactor, 0)
    sockets = [reader for reader in (*reactor.getReaders(), *reactor.getWriters()) if _peer_port(reader) == silent_port]
    assert sockets
    bench.checks.stop()
    await first
    await bench.turns_until(lambda: not set(reactor.getDelayedCalls()) - before)
    still = [*reactor.getReaders(), *reactor.getWriters()]
    assert not any(reader in still for reader in sockets)


def _peer_port(reader: Any) -> int:
    return reader.realAddress[1] if hasattr(reader, "realAddress") else 0


# --- UNIX sockets -----------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_unix_socket(reactor: PosixReactorBase, tmp_path: Path) -> None:
    async with serving(reactor, answer(), socket_path=str(tmp_path / "s"), path="/well") as (bench, server):
        assert await bench.verdict() == ("healthy", "status 200")
        assert b"\r\nHost: localhost\r\n" in server.heads[0]


@pytest.mark.parametrize(
    ("is_there", "why"), [(False, "connect failed: no such file or directory"), (True, "connect refused")]
)
@pytest_twisted.ensureDeferred
async def test_unix_socket_that_nobody_listens_on(
    reactor: PosixReactorBase, tmp_path: Path, is_there: bool, why: str
) -> None:
    path = tmp_path / "s"
    if is_there:
        with closing(socket.socket(socket.AF_UNIX)) as listener:
            listener.bind(str(path))
    bench = Bench(reactor, f"unix:{path}")
    await bench.checks.start()
    assert await bench.verdict() == ("unhealthy", why)
    bench.checks.stop()


# --- TLS --------------------------------------------------------------------------------------------------------------


def server_tls(authority: trustme.CA, name: str) -> Any:
    options = ssl.CertificateOptions(acceptableProtocols=[b"http/1.1"])
    authority.issue_cert(name).configure_cert(options.getContext())
    return options


@pytest.mark.parametrize("check", [{}, {"path": "/well"}])
@pytest.mark.parametrize(
    ("name", "is_known", "why"),
    [
        ("127.0.0.1", True, ""),
        ("127.0.0.1", False, "TLS handshake failed: certificate verify failed"),
        ("other.example", True, "TLS handshake failed: certificate of another name"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_certificate(
    reactor: PosixReactorBase,
    authority: trustme.CA,
    ca_file: str,
    check: dict[str, Any],
    name: str,
    is_known: bool,
    why: str,
) -> None:
    tls = server_tls(authority if is_known else trustme.CA(), name)
    async with serving(reactor, answer(), tls, tls={"ca_file": ca_file}, **check) as (bench, server):
        well = ("healthy", "status 200" if check else "connected")
        assert await bench.verdict() == (("unhealthy", why) if why else well)
        await bench.turns_until(lambda: len(server.raw.connections) == 1)
        await server.raw.connections[0].lost
        assert len(server.heads) == (1 if check and not why else 0)


@pytest_twisted.ensureDeferred
async def test_tls_target_that_says_nothing(reactor: PosixReactorBase) -> None:
    async with serving(reactor, None, scheme="https", timeout_s=0.3) as (bench, server):
        assert await bench.verdict() == ("unhealthy", "timeout after 0.3 s")
        await server.raw.connections[0].lost
        assert server.raw.connections[0].received[:1] == b"\x16"  # its part of the handshake came


@pytest_twisted.ensureDeferred
async def test_tls_target_that_speaks_plain_text(reactor: PosixReactorBase) -> None:
    async with serving(reactor, None, scheme="https") as (bench, server):
        await bench.turns_until(lambda: len(server.raw.connections) == 1)
        server.raw.connections[0].send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        health, why = await bench.verdict()
        assert health == "unhealthy"
        assert why.startswith("TLS handshake failed")


# --- round after round ------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_target_goes_and_comes_back_and_the_rounds_go_on(reactor: PosixReactorBase) -> None:
    async with serving(reactor, answer(), path="/", interval_s=0.05, timeout_s=0.5) as (bench, server):
        assert await bench.verdict() == ("healthy", "status 200")
        server.script = lambda connection: connection.reset()
        while (await bench.verdict())[0] != "unhealthy":
            pass
        # What no check should do is survived as well: the target's dialer is broken for a while.
        (target,) = bench.backend.targets
        dialer, broken = target.dialer, object()
        target.dialer = broken  # type: ignore[assignment]
        with logged() as lines:
            while (await bench.verdict())[1] != "internal error":
                pass
            assert await bench.verdict() == ("unhealthy", "internal error")
        assert ("critical", "health check raised an exception") in lines
        target.dialer = dialer
        server.script = answer()
        while (await bench.verdict())[1] != "status 200":
            pass
        assert target.health is Health.UNHEALTHY  # one success is not enough to come back
        assert await bench.verdict() == ("healthy", "status 200")
        assert len(server.raw.connections) == len(server.heads) >= 4  # each check on a connection of its own
