"""Dialling, pooled connections and the client protocol on real sockets: TCP, UNIX and TLS."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import trustme
from OpenSSL import SSL
from tests.helpers.backend import BackendConnection, RawBackend
from tests.helpers.upstream import RecordingHandler
from twisted.internet import ssl
from twisted.internet.defer import Deferred
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import Clock, deferLater

from txgateway.config.groups import Pool as PoolSettings
from txgateway.errors import GatewayError, UpstreamError
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.client_tls import TlsContext, TlsSettings
from txgateway.transport.dial import Dialer, TcpAddress, UnixAddress
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, ClientConnection, HeaderList
from txgateway.transport.sockets import ImmediateClient
from txgateway.transport.wheel import TimerWheel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HOST: HeaderList = [(b"host", b"Host", b"a")]


class AwaitedHandler(RecordingHandler):
    """Can be waited for: fires ``over`` when the exchange is over, ``head`` when it begins."""

    def __init__(self) -> None:
        super().__init__()
        self.over: Deferred[None] = Deferred()
        self.head: Deferred[None] = Deferred()
        self.blocked: Deferred[None] = Deferred()
        self.is_over = False

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        super().on_head(status, reason, headers, length)
        self.head.callback(None)

    def on_write_blocked(self) -> None:
        super().on_write_blocked()
        if not self.blocked.called:
            self.blocked.callback(None)

    def on_flush(self) -> None:
        super().on_flush()
        if not self.is_over and self.names[-1:] and self.names[-1] in {"end", "failed", "upgraded"}:
            self.is_over = True
            self.over.callback(None)


class AwaitedWaiter:
    """A pool's waiter that can be waited for."""

    needs_http2 = False

    def __init__(self) -> None:
        self.result: Deferred[ClientConnection] = Deferred()

    def on_connection(self, connection: ClientConnection) -> None:
        self.result.callback(connection)

    def on_unavailable(self, error: GatewayError) -> None:
        self.result.errback(error)


class Bench:
    def __init__(self, reactor: PosixReactorBase, address: TcpAddress | UnixAddress, tls: Any = None) -> None:
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.dialer = Dialer(reactor, self.wheel, address, 3.0, Http1ClientConnection, tls)
        self.pool = ConnectionPool(str(address), self.dialer, self.clock, self.wheel, PoolSettings(max_connections=2))

    async def connection(self) -> ClientConnection:
        waiter = AwaitedWaiter()
        found = self.pool.acquire(waiter)
        return found if found is not None else await waiter.result

    async def start(self, method: bytes = b"GET", length: int = NO_BODY, first: bytes = b"", ended: bool = True) -> Any:
        """A request under way: ``(connection, handler)``."""
        connection = await self.connection()
        handler = AwaitedHandler()
        connection.start(handler, method, b"/x", HOST, length, first, ended)
        return connection, handler


@asynccontextmanager
async def serving(
    reactor: PosixReactorBase, tls: Any = None, ssl_options: Any = None
) -> AsyncIterator[tuple[Bench, RawBackend]]:
    backend = RawBackend()
    port = backend.listen(reactor, ssl_options)
    bench = Bench(reactor, TcpAddress("127.0.0.1", port), tls)
    try:
        yield bench, backend
    finally:
        bench.pool.close()
        await backend.stop()
        bench.clock.advance(1)
        assert bench.clock.getDelayedCalls() == []


async def turns_until(reactor: PosixReactorBase, condition: Callable[[], bool]) -> None:
    """Let the reactor work until the condition holds; its turns are counted, not timed."""
    for _ in range(10_000):
        if condition():
            return
        await deferLater(reactor, 0)
    raise AssertionError("the condition never held")


async def failure_of(bench: Bench) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught:
        await bench.connection()
    assert repr(bench.pool).endswith("0 active, 0 idle, 0 pending>")
    return caught.value


# --- exchanges ------------------------------------------------------------------------------------------------------


@pytest_twisted.ensureDeferred
async def test_two_requests_share_one_connection(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        for number in range(2):
            connection, handler = await bench.start()
            assert connection.reused == (number == 1)
            peer = backend.connections[0] if number else await backend.accepted()
            assert await peer.head() == b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n"
            peer.send(OK)
            await handler.over
            assert handler.body == b"ok"
            assert repr(bench.pool).endswith("0 active, 1 idle, 0 pending>")
        assert len(backend.connections) == 1


@pytest_twisted.ensureDeferred
async def test_idle_connection_closed_by_the_backend_is_forgotten(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        _, handler = await bench.start()
        peer = await backend.accepted()
        peer.send(OK)
        await handler.over
        assert bench.pool.idle == 1
        peer.close()
        await turns_until(reactor, lambda: bench.pool.idle == 0)


@pytest.mark.parametrize("unasked", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"H", b"\r\n"])
@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest_twisted.ensureDeferred
async def test_bytes_sent_unasked_are_not_taken_for_the_next_response(
    reactor: PosixReactorBase, method: bytes, unasked: bytes
) -> None:
    async with serving(reactor) as (bench, backend):
        first, handler = await bench.start()
        peer = await backend.accepted()
        peer.send(OK)
        await handler.over
        raw: socket.socket = peer.transport.getHandle()
        raw.send(unasked)  # in the turn of the reuse: the reactor has not read it
        second, handler = await bench.start(method)
        assert second is not first
        peer = await backend.accepted()
        peer.send(OK)
        await handler.over
        assert handler.body == b"ok"


@pytest_twisted.ensureDeferred
async def test_probe_sees_the_end_before_the_reactor_does(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        _, handler = await bench.start()
        peer = await backend.accepted()
        peer.send(OK)
        await handler.over
        connection = bench.pool.acquire(AwaitedWaiter())
        assert connection is not None
        assert connection.is_alive()
        raw: socket.socket = peer.transport.getHandle()
        raw.shutdown(socket.SHUT_WR)  # the reactor has had no turn to read it
        assert not connection.is_alive()
        connection.cancel()


@pytest_twisted.ensureDeferred
async def test_connection_that_dies_at_reuse_says_that_it_was_reused(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        _, handler = await bench.start()
        peer = await backend.accepted()
        peer.send(OK)
        await handler.over
        _, handler = await bench.start()
        peer.close()
        await handler.over
        assert handler.names == ["failed"]
        assert handler.error.on_reused_connection
        assert not handler.error.response_started
        assert bench.pool.active == 0


@pytest_twisted.ensureDeferred
async def test_reset_during_a_response_until_close_fails(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        _, handler = await bench.start()
        peer = await backend.accepted()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        await handler.head
        peer.reset()
        await handler.over
        assert handler.names[-1] == "failed"


@pytest_twisted.ensureDeferred
async def test_early_refusal_of_an_upload_reaches_us_despite_the_reset(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        connection, handler = await bench.start(b"POST", UNKNOWN_LENGTH, b"x" * 1000, ended=False)
        peer = await backend.accepted()
        await peer.head()
        peer.transport.pauseProducing()
        connection.send_body(b"y" * 8_000_000)
        await handler.blocked
        peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await handler.over
        assert handler.names == ["blocked", "head", "body", "end"]
        assert bench.pool.active == bench.pool.idle == 0
        peer.transport.resumeProducing()
        await peer.lost


@pytest_twisted.ensureDeferred
async def test_large_upload_blocks_and_drains(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        size = 8_000_000
        connection, handler = await bench.start(b"POST", size, b"", ended=False)
        peer = await backend.accepted()
        await peer.head()
        peer.transport.pauseProducing()
        connection.send_body(b"y" * (size - 3))
        await handler.blocked
        peer.transport.resumeProducing()
        connection.send_body(b"end")
        connection.send_end([])
        await peer.until(b"end")
        peer.send(OK)
        await handler.over
        assert handler.names == ["blocked", "drained", "head", "body", "end"]
        assert bench.pool.idle == 1


@pytest_twisted.ensureDeferred
async def test_paused_response_waits_in_the_kernel(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        connection, handler = await bench.start()
        peer = await backend.accepted()
        size = 3_000_000
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await handler.head
        connection.pause_reading()
        peer.send(b"x" * size)
        other, other_handler = await bench.start()  # the reactor gets its turns
        other_peer = await backend.accepted()
        other_peer.send(OK)
        await other_handler.over
        assert handler.body == b""
        connection.resume_reading()
        await handler.over
        assert len(handler.body) == size
        assert other.reused


@pytest_twisted.ensureDeferred
async def test_queued_request_runs_when_a_connection_is_free(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, backend):
        one = await bench.start()
        await bench.start()
        waiter = AwaitedWaiter()
        assert bench.pool.acquire(waiter) is None
        assert repr(bench.pool).endswith("2 active, 0 idle, 1 pending>")
        peer = await backend.accepted()
        peer.send(OK)
        assert await waiter.result is one[0]


# --- dialling -------------------------------------------------------------------------------------------------------


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest_twisted.ensureDeferred
async def test_refused_connection_fails(reactor: PosixReactorBase) -> None:
    bench = Bench(reactor, TcpAddress("127.0.0.1", unused_port()))
    assert (await failure_of(bench)).reason == "UPSTREAM_CONNECT_FAILED"
    assert repr(bench.pool).startswith("<pool 127.0.0.1:")


@pytest_twisted.ensureDeferred
async def test_unknown_name_fails(reactor: PosixReactorBase) -> None:
    bench = Bench(reactor, TcpAddress("no-such-name.invalid", 80))
    assert (await failure_of(bench)).reason == "UPSTREAM_CONNECT_FAILED"


@pytest_twisted.ensureDeferred
async def test_name_resolved_off_the_reactor_thread(reactor: PosixReactorBase) -> None:
    backend = RawBackend()
    bench = Bench(reactor, TcpAddress("localhost", backend.listen(reactor)))
    connection = await bench.connection()
    assert connection.is_alive()
    connection.cancel()
    await backend.stop()


@pytest_twisted.ensureDeferred
async def test_unix_socket(reactor: PosixReactorBase, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    backend = RawBackend()
    backend.listen_unix(reactor, path)
    bench = Bench(reactor, UnixAddress(path))
    assert repr(bench.pool).startswith(f"<pool unix:{path}:")
    _, handler = await bench.start()
    peer = await backend.accepted()
    peer.send(OK)
    await handler.over
    assert handler.body == b"ok"
    bench.pool.close()
    await backend.stop()


@pytest_twisted.ensureDeferred
async def test_missing_unix_socket_fails(reactor: PosixReactorBase, tmp_path: Path) -> None:
    bench = Bench(reactor, UnixAddress(str(tmp_path / "none")))
    assert (await failure_of(bench)).reason == "UPSTREAM_CONNECT_FAILED"


@pytest_twisted.ensureDeferred
async def test_cancelled_dial_leaves_no_connection(reactor: PosixReactorBase) -> None:
    async with serving(reactor) as (bench, _):
        waiter = AwaitedWaiter()
        bench.pool.acquire(waiter)
        bench.pool.cancel(waiter)
        assert bench.pool.open_connections == 0
        assert not waiter.result.called
        for _ in range(10):
            await deferLater(reactor, 0)
        watched = [*reactor.getReaders(), *reactor.getWriters()]
        assert not any(isinstance(selectable, ImmediateClient) for selectable in watched)


def test_addresses_print_as_configured() -> None:
    assert str(TcpAddress("::1", 80)) == "[::1]:80"


# --- TLS ------------------------------------------------------------------------------------------------------------


def server_options(authority: trustme.CA, *names: str, wants_client: bool = False) -> Any:
    options = ssl.CertificateOptions(acceptableProtocols=[b"http/1.1"])
    context = options.getContext()
    authority.issue_cert(*names).configure_cert(context)
    if wants_client:
        authority.configure_trust(context)
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
    return options


def creator(host: str = "127.0.0.1", **settings: Any) -> Any:
    return TlsContext(TlsSettings(**settings)).for_host(host)


@pytest_twisted.ensureDeferred
async def test_tls_exchange_reuse_and_close(reactor: PosixReactorBase, authority: trustme.CA, ca_file: str) -> None:
    options = server_options(authority, "127.0.0.1")
    async with serving(reactor, creator(ca_file=ca_file), options) as (bench, backend):
        for _ in range(2):
            connection, handler = await bench.start()
            assert connection.is_alive()
            peer = backend.connections[0] if connection.reused else await backend.accepted()
            await peer.head()
            peer.send(OK)
            await handler.over
            assert handler.body == b"ok"
        assert len(backend.connections) == 1
        peer.transport.transport.pauseProducing()  # it will not answer our closing alert
        bench.pool.close()
        await turns_until(reactor, lambda: connection._lost is not None)


@pytest_twisted.ensureDeferred
async def test_response_until_close_over_tls_needs_the_closing_alert(
    reactor: PosixReactorBase, authority: trustme.CA, ca_file: str
) -> None:
    options = server_options(authority, "127.0.0.1")
    async with serving(reactor, creator(ca_file=ca_file), options) as (bench, backend):
        for is_clean in (True, False):
            _, handler = await bench.start()
            peer: BackendConnection = await backend.accepted()
            await peer.head()
            peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
            await handler.head
            if is_clean:
                peer.close()
            else:
                peer.transport.transport.loseConnection()
            await handler.over
            assert handler.names[-1] == ("end" if is_clean else "failed")


@pytest.mark.parametrize(
    ("names", "settings"),
    [
        (("other.example",), {}),  # wrong name
        (("127.0.0.1",), {"ca_file": None}),  # unknown authority
        (("127.0.0.1",), {"server_name": "other.example"}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_certificate_that_does_not_fit_fails(
    reactor: PosixReactorBase, authority: trustme.CA, ca_file: str, names: tuple[str, ...], settings: dict[str, Any]
) -> None:
    tls = creator(**{"ca_file": ca_file, **settings})
    async with serving(reactor, tls, server_options(authority, *names)) as (bench, _):
        assert (await failure_of(bench)).reason == "UPSTREAM_TLS_ERROR"


@pytest.mark.parametrize("settings", [{"verify": False}, {"server_name": "other.example", "min_version": "1.3"}])
@pytest_twisted.ensureDeferred
async def test_certificate_of_another_name_accepted_if_told_so(
    reactor: PosixReactorBase, authority: trustme.CA, ca_file: str, settings: dict[str, Any]
) -> None:
    tls = creator(**{"ca_file": ca_file, **settings})
    async with serving(reactor, tls, server_options(authority, "other.example")) as (bench, _):
        connection = await bench.connection()
        connection.cancel()


@pytest_twisted.ensureDeferred
async def test_client_certificate_shown(
    reactor: PosixReactorBase, authority: trustme.CA, ca_file: str, tmp_path: Path
) -> None:
    cert_file = tmp_path / "client.pem"
    authority.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(cert_file))
    options = server_options(authority, "127.0.0.1", wants_client=True)
    tls = creator(ca_file=ca_file, cert_file=str(cert_file))
    async with serving(reactor, tls, options) as (bench, backend):
        _, handler = await bench.start()
        peer = await backend.accepted()
        await peer.head()
        assert peer.transport.getPeerCertificate() is not None
        peer.send(OK)
        await handler.over


@pytest_twisted.ensureDeferred
async def test_plain_backend_behind_https_fails(reactor: PosixReactorBase, ca_file: str) -> None:
    async with serving(reactor, creator(ca_file=ca_file)) as (bench, backend):
        waiter = AwaitedWaiter()
        bench.pool.acquire(waiter)
        peer = await backend.accepted()
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(UpstreamError) as caught:
            await waiter.result
        assert caught.value.reason == "UPSTREAM_TLS_ERROR"


@pytest_twisted.ensureDeferred
async def test_handshake_that_stalls_times_out(reactor: PosixReactorBase, ca_file: str) -> None:
    async with serving(reactor, creator(ca_file=ca_file)) as (bench, backend):
        waiter = AwaitedWaiter()
        bench.pool.acquire(waiter)
        peer = await backend.accepted()
        await peer.until(b"\x16\x03")  # the client's hello
        bench.clock.pump([0.1] * 29)
        assert not waiter.result.called
        bench.clock.pump([0.1] * 3)
        with pytest.raises(UpstreamError) as caught:
            await waiter.result
        assert caught.value.reason == "UPSTREAM_TIMEOUT"
        await peer.lost


@pytest.fixture
def bad_file(tmp_path: Path) -> str:
    path = tmp_path / "bad.pem"
    path.write_text("not a certificate")
    return str(path)


def test_unusable_files_named_at_once(bad_file: str, ca_file: str, tmp_path: Path) -> None:
    for path in (bad_file, str(tmp_path / "none.pem")):
        with pytest.raises(ValueError, match=path):
            TlsContext(TlsSettings(ca_file=path))
        with pytest.raises(ValueError, match=path):
            TlsContext(TlsSettings(cert_file=path))
