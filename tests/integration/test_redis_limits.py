"""Limits on a real Redis-compatible server: the script against the pure arithmetic, and everything that goes wrong."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import hiredis
import pytest
import pytest_twisted
import trustme
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.redis_server import RedisServer
from tests.property.limit_strategies import limits, steps_us
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher
from twisted.protocols.portforward import ProxyFactory

from txgateway.ratelimit import Decision, Limit
from txgateway.ratelimit.redis import SCRIPT, RedisLimiters

PASSWORD = "p@ss/w:rd %"
QUOTED = "p%40ss%2Fw%3Ard%20%25"
_PATIENCE_S = 10.0
_FRESH = count()

LIMIT = Limit.of([(4, 3600)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One to maltreat, with a password."""
    with RedisServer(tmp_path, password=PASSWORD) as running:
        yield running


# --- the script ---------------------------------------------------------------------------------------------------


def with_given_time() -> bytes:
    """The script with the time taken from two keys, and nothing forgotten as the server's own time goes by."""
    script, times = re.subn(rb"redis\.call\('TIME'\)", b"{redis.call('GET', 's'), redis.call('GET', 'us')}", SCRIPT)
    script, expiries = re.subn(rb", 'PX', .*\)\n", b")\n", script)
    assert (times, expiries) == (1, 1)
    return script


class Script:
    """The script on the server, in a time of the test's choice."""

    def __init__(self, server: RedisServer, limit: Limit) -> None:
        self._server = server
        self._limit = limit
        self._key = f"history:{next(_FRESH)}"
        self._script = with_given_time()

    def take(self, now_us: int) -> Decision:
        self._server.command("MSET", "s", now_us // 1_000_000, "us", now_us % 1_000_000)
        numbers = (self._limit.tick_us, *(number for bucket in self._limit.numbers for number in bucket))
        reply = self._server.command("EVAL", self._script, 1, self._key, *numbers)
        assert isinstance(reply, list), reply
        return Decision(self._limit, reply[0] == 1, reply[1:])


@given(limit=limits(), start_us=st.integers(1, 2**51), steps=st.lists(steps_us(backwards=True), max_size=20))
@example(limit=Limit.of([(3, 1)]), start_us=10**15, steps=[0, 0, 0, 0, -(10**9), 10, 333_333, 1])
@example(limit=Limit.of([(999_999_937, 3600)], 10**9), start_us=1, steps=[0, 1, 999, 1000, 3600 * 10**6])
def test_script_decides_like_the_pure_arithmetic(
    server: RedisServer, limit: Limit, start_us: int, steps: list[int]
) -> None:
    script, now_us = Script(server, limit), start_us
    state = limit.full(now_us // limit.tick_us)
    for step in steps:
        now_us = max(1, now_us + step)
        expected, got = limit.take(state, now_us // limit.tick_us), script.take(now_us)
        assert (got.allowed, got.levels) == (expected.allowed, expected.levels)


def test_keys_vanish_when_their_buckets_are_full(server: RedisServer) -> None:
    numbers = [1, 3600 * 10**6 // 4, 1, 3600 * 10**6]
    server.command("EVAL", SCRIPT, 1, "ttl", *numbers)
    assert 899_000 < server.command("PTTL", "ttl") <= 900_001
    server.command("EVAL", SCRIPT, 1, "ttl", *numbers)
    assert 1_799_000 < server.command("PTTL", "ttl") <= 1_800_001


@pytest.mark.parametrize("state", ["", "x", "12", "-5 -7", "9" * 40])
def test_state_that_somebody_else_wrote_does_no_harm(server: RedisServer, state: str) -> None:
    server.command("SET", "foreign", state)
    reply = server.command("EVAL", SCRIPT, 1, "foreign", 1, 250_000, 1, 1_000_000)
    assert isinstance(reply, list)
    assert 0 <= reply[1] <= 1_000_000


# --- the adapter --------------------------------------------------------------------------------------------------


class World:
    """Limiters on a server, over the reactor."""

    def __init__(self, reactor: PosixReactorBase, url: str, timeout_s: float = 2.0, workers: int = 2) -> None:
        self.reactor = reactor
        self.limiters = RedisLimiters(reactor, url, timeout_s, workers, Random(1))
        self.place = f"place-{next(_FRESH)}"

    async def take(self, times: int = 1, policy: str = "local", key: bytes = b"k") -> list[Decision]:
        """So many decisions at once."""
        limiter = self.held = self.limiters.limiter(self.place, LIMIT, policy)
        answers = [limiter.take(key) for _ in range(times)]
        return [await answer if isinstance(answer, Deferred) else answer for answer in answers]

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Look until it is so."""
        for _ in range(int(_PATIENCE_S / 0.01)):
            if is_so():
                return
            await deferLater(self.reactor, 0.01)
        raise AssertionError("never came true")

    async def until_up(self) -> None:
        await self.until(lambda: not self.limiters.degraded)

    async def until_down(self) -> None:
        """Ask until it is known to be down."""
        for _ in range(100):
            if self.limiters.degraded:
                return
            await self.take()
        raise AssertionError("never noticed")


Scenario = Callable[[World], Awaitable[None]]


async def play(reactor: PosixReactorBase, url: str, scenario: Scenario, timeout_s: float = 2.0) -> None:
    """Run a scenario, and see that nothing of it is left."""
    before = set(reactor.getDelayedCalls())
    world = World(reactor, url, timeout_s)
    await world.limiters.start()
    try:
        await scenario(world)
    finally:
        await world.limiters.close()
    for _ in range(5):  # a connection given up in its first turn takes some more to go
        await deferLater(reactor, 0)
    assert [call for call in reactor.getDelayedCalls() if call not in before] == []


async def decides_together(world: World) -> None:
    assert not world.limiters.degraded
    assert [d.allowed for d in await world.take(6)] == [True] * 4 + [False] * 2
    assert not any(d.store_failed for d in await world.take())


@pytest_twisted.ensureDeferred
async def test_two_gateways_share_their_buckets(reactor: PosixReactorBase, server: RedisServer) -> None:
    async def scenario(world: World) -> None:
        other = World(reactor, server.url)
        other.place = world.place
        await other.limiters.start()
        assert [d.allowed for d in await world.take(3)] == [True] * 3
        assert [d.allowed for d in await other.take(2)] == [True, False]
        await other.limiters.close()

    await play(reactor, server.url, scenario)


@pytest.mark.parametrize("form", ["password", "user", "unix", "name"])
@pytest_twisted.ensureDeferred
async def test_every_form_of_url_connects(reactor: PosixReactorBase, own_server: RedisServer, form: str) -> None:
    own_server.command("ACL", "SETUSER", "gate:way", "on", f">{PASSWORD}", "+@all", "~txgateway:*")
    url = {
        "password": f"redis://:{QUOTED}@127.0.0.1:{own_server.port}/3",
        "user": f"redis://gate%3Away:{QUOTED}@127.0.0.1:{own_server.port}/3",
        "name": f"redis://{QUOTED}@localhost:{own_server.port}/3",
        "unix": f"unix://:{QUOTED}@{own_server.socket_path}?db=3",
    }[form]
    await play(reactor, url, decides_together)
    assert b"db3:keys=" in own_server.command("INFO", "keyspace")


@pytest.mark.parametrize(("host", "trusted"), [("localhost", True), ("127.0.0.1", False), ("localhost", False)])
@pytest_twisted.ensureDeferred
async def test_tls_needs_a_trusted_certificate_for_the_host(
    reactor: PosixReactorBase,
    server: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    trusted: bool,
) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    # Where the name is wrong, the authority is right, and the other way round.
    is_name_wrong = host != "localhost"
    (authority if trusted or is_name_wrong else stranger).cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    options = CertificateOptions()
    authority.issue_cert("localhost").configure_cert(options.getContext())
    port = reactor.listenSSL(0, ProxyFactory("127.0.0.1", server.port), options, interface="127.0.0.1")

    async def is_refused(world: World) -> None:
        assert world.limiters.degraded
        assert (await world.take())[0].store_failed

    await play(reactor, f"rediss://{host}:{port.getHost().port}", decides_together if trusted else is_refused)
    await maybeDeferred(port.stopListening)


@pytest_twisted.ensureDeferred
async def test_wrong_password_is_a_store_error_until_it_is_right(
    reactor: PosixReactorBase, own_server: RedisServer
) -> None:
    events: list[LogEvent] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)

    async def scenario(world: World) -> None:
        assert world.limiters.degraded
        assert (await world.take())[0].store_failed
        own_server.command("CONFIG", "SET", "requirepass", "hunter2")
        await world.until_up()

    try:
        await play(reactor, f"redis://:hunter2@127.0.0.1:{own_server.port}", scenario)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert "hunter2" not in repr(events)
    messages = [event["log_format"].format(**event) for event in events if "store" in event]
    assert "WRONGPASS" in messages[0]
    assert messages[1].startswith("rate limit store is up: redis://127.0.0.1:")


async def killed(world: World, server: RedisServer) -> None:
    server.kill()
    await world.until_down()


async def read_only(world: World, server: RedisServer) -> None:
    server.command("REPLICAOF", "127.0.0.1", server.port)
    await world.until_down()


async def out_of_memory(world: World, server: RedisServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")
    await world.until_down()


TROUBLES: dict[str, tuple[Callable[[World, RedisServer], Awaitable[None]], Callable[[RedisServer], Any]]] = {
    "killed": (killed, RedisServer.start),
    "read-only": (read_only, lambda server: server.command("REPLICAOF", "NO", "ONE")),
    "out of memory": (out_of_memory, lambda server: server.command("CONFIG", "SET", "maxmemory", "0")),
}


@pytest.mark.parametrize("trouble", TROUBLES)
@pytest_twisted.ensureDeferred
async def test_store_in_trouble_is_replaced_by_the_policies_until_it_is_back(
    reactor: PosixReactorBase, own_server: RedisServer, trouble: str
) -> None:
    begin, end = TROUBLES[trouble]

    async def scenario(world: World) -> None:
        assert not (await world.take())[0].store_failed
        await begin(world, own_server)
        locally = await world.take(5, key=b"other")
        assert all(d.store_failed for d in locally)
        assert [d.allowed for d in locally] == [True] * 2 + [False] * 3  # half of four: there are two workers
        assert [d.allowed for d in await world.take(5, "open")] == [True] * 5
        assert [d.allowed for d in await world.take(2, "closed")] == [False] * 2
        end(own_server)
        await world.until_up()
        assert not (await world.take())[0].store_failed

    await play(reactor, own_server.url.replace(PASSWORD, QUOTED), scenario)


@pytest_twisted.ensureDeferred
async def test_frozen_server_costs_one_deadline_and_then_nothing(
    reactor: PosixReactorBase, own_server: RedisServer
) -> None:
    async def scenario(world: World) -> None:
        with own_server.frozen():
            decided = await world.take(50)
            assert all(d.store_failed for d in decided)
            await world.until_down()
            assert isinstance(world.held.take(b"k"), Decision)
        await world.until_up()
        assert not (await world.take())[0].store_failed

    await play(reactor, own_server.url.replace(PASSWORD, QUOTED), scenario, timeout_s=0.05)


@pytest.mark.parametrize("command", [("FLUSHALL",), ("SCRIPT", "FLUSH"), ("CLIENT", "KILL", "TYPE", "normal")])
@pytest_twisted.ensureDeferred
async def test_flushed_server_goes_on_at_once(
    reactor: PosixReactorBase, own_server: RedisServer, command: tuple[str, ...]
) -> None:
    async def scenario(world: World) -> None:
        assert not (await world.take())[0].store_failed
        own_server.command(*command)
        if command[0] == "CLIENT":
            await world.until_down()
            await world.until_up()
        decided = await world.take(40)
        assert not any(d.store_failed for d in decided)
        assert sum(d.allowed for d in decided) == (4 if command[0] == "FLUSHALL" else 3)

    await play(reactor, own_server.url.replace(PASSWORD, QUOTED), scenario)


@pytest_twisted.ensureDeferred
async def test_server_that_is_not_redis_is_a_store_error(reactor: PosixReactorBase, server: RedisServer) -> None:
    from twisted.internet.protocol import Factory, Protocol

    class Babbler(Protocol):
        def dataReceived(self, data: bytes) -> None:
            self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")  # type: ignore[union-attr]

    port = reactor.listenTCP(0, Factory.forProtocol(Babbler), interface="127.0.0.1")

    async def scenario(world: World) -> None:
        assert world.limiters.degraded
        assert (await world.take())[0].store_failed

    await play(reactor, f"redis://127.0.0.1:{port.getHost().port}", scenario)
    await maybeDeferred(port.stopListening)


def test_adapter_fits_the_installed_txredisapi() -> None:
    import txredisapi

    assert issubclass(txredisapi.RedisProtocol, txredisapi.HiredisProtocol), "hiredis is not in use"
    assert hiredis.Reader is not None
    made = partial(
        txredisapi.HiredisProtocol, charset=None, convertNumbers=False, username=None, password=None, dbid=None
    )
    assert made()._ready is False
