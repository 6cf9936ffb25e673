"""The Redis side in virtual time: real adapter and real txredisapi, a server whose replies the test writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from random import Random
from typing import Any

import hiredis
import pytest
from tests.unit.support import logged_failures
from twisted.internet import error
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.ratelimit import Decision, Limit
from txgateway.ratelimit.redis import SCRIPT, RedisLimiters

TIMEOUT_S = 0.05


class _Transport(StringTransport):
    """Reports a lost connection in the next turn, as Twisted's do."""

    def __init__(self, server: Server, clock: Clock) -> None:
        super().__init__()
        self.server = server
        self.clock = clock
        self.writes = 0
        self.protocol: Any = None
        self.reader = hiredis.Reader()

    def write(self, data: bytes) -> None:
        self.writes += 1
        self.reader.feed(data)
        while (command := self.reader.gets()) is not False:
            self.server.commands.append((self, command))
            self.clock.callLater(self.server.delay_s, self.server.answer, self, command)

    def send(self, data: bytes) -> None:
        if self.connected:
            self.protocol.dataReceived(data)

    def lose(self) -> None:
        if self.connected:
            self.connected = False
            self.protocol.connectionLost(Failure(error.ConnectionDone()))

    def abortConnection(self) -> None:
        self.clock.callLater(0, self.lose)

    loseConnection = abortConnection


@implementer(IStreamClientEndpoint)
class Server:
    """What the limiters connect to.

    Attributes:
        accepts: connections succeed; otherwise they are refused.
        replies: to ``EVAL`` and ``EVALSHA``; None is silence.
        login: to ``AUTH``.
        delay_s: until a reply.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.accepts = True
        self.login: bytes | None = b"+OK\r\n"
        self.replies: Callable[[list[bytes]], bytes | None] = lambda command: b"*2\r\n:1\r\n:0\r\n"
        self.commands: list[tuple[_Transport, list[bytes]]] = []
        self.connections: list[_Transport] = []
        self.attempts = 0
        self.delay_s = 0.0

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        self.attempts += 1
        done: Deferred[Any] = Deferred()
        self.clock.callLater(0, self._connect, factory, done)
        return done

    def _connect(self, factory: IProtocolFactory, done: Deferred[Any]) -> None:
        if done.called:
            return
        if not self.accepts:
            done.errback(error.ConnectionRefusedError())
            return
        transport = _Transport(self, self.clock)
        self.connections.append(transport)
        protocol: Any = factory.buildProtocol(None)  # type: ignore[arg-type]
        transport.protocol = protocol
        protocol.makeConnection(transport)
        done.callback(protocol)

    def answer(self, transport: _Transport, command: list[bytes]) -> None:
        reply = (
            self.login if command[0] == b"AUTH" else b"+OK\r\n" if command[0] == b"SELECT" else self.replies(command)
        )
        if reply is not None:
            transport.send(reply)

    def names(self) -> list[bytes]:
        return [command[0] for _, command in self.commands]


class World:
    """Limiters connected to a server."""

    def __init__(self, url: str = "redis://cache", **changes: Any) -> None:
        self.clock = Clock()
        self.server = Server(self.clock)
        for name, value in changes.items():
            setattr(self.server, name, value)
        self.limiters = RedisLimiters(self.clock, url, TIMEOUT_S, 2, Random(1), self.server)
        self.limit = Limit.of([(4, 1)])
        self.known = self.limiters.start()
        self.wait()

    def wait(self, seconds: float = 0.0) -> None:
        """Let this time pass, and whatever is due at once happen."""
        self.clock.advance(seconds)
        for _ in range(10):
            self.clock.advance(0)

    @property
    def degraded(self) -> Any:  # Any: mypy takes what was asserted once for unchanged by what happens next
        return self.limiters.degraded

    def turn(self, seconds: float) -> None:
        """One turn of a reactor: of the timers, only those that are there now."""
        self.clock.rightNow += seconds
        for call in [call for call in self.clock.calls if call.getTime() <= self.clock.rightNow]:
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def take(self, on_store_error: str = "local", key: bytes = b"k") -> list[Decision]:
        """What was decided so far, in a list that fills."""
        decided: list[Decision] = []
        limiter = self.limiters.limiter("default", self.limit, on_store_error)
        self.held = limiter
        answer = limiter.take(key)
        if isinstance(answer, Deferred):
            answer.addCallback(decided.append)
        else:
            decided.append(answer)
        return decided

    def close(self) -> None:
        gone: list[None] = []
        self.limiters.close().addCallback(gone.append)
        self.wait()
        assert gone == [None]
        assert self.clock.getDelayedCalls() == []


def only_trials(command: list[bytes]) -> bytes | None:
    return b"*2\r\n:1\r\n:0\r\n" if command[3].endswith(b"trial") else None


def warnings(events: list[LogEvent]) -> list[str]:
    return [event["log_format"].format(**event) for event in events if "store" in event]


@pytest.fixture
def log() -> Any:
    events: list[LogEvent] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    yield events
    globalLogPublisher.removeObserver(observer)


def test_decision_is_the_scripts() -> None:
    world = World(replies=lambda command: b"*2\r\n:0\r\n:7\r\n")
    assert world.known.called
    assert not world.degraded
    decided = world.take()
    world.wait()
    assert [(d.allowed, d.levels, d.store_failed) for d in decided] == [(False, [7], False)]
    assert world.server.commands[-1][1][3:] == [b"txgateway:limit:default|4/1s+4|k", b"1", b"250000", b"1", b"1000000"]
    world.close()


def test_decisions_of_one_turn_leave_in_one_write() -> None:
    world = World()
    written = [connection.writes for connection in world.server.connections]
    decided = [world.take() for _ in range(32)]
    world.wait()
    assert all(d[0].allowed and not d[0].store_failed for d in decided)
    assert sum(connection.writes for connection in world.server.connections) == sum(written) + 1
    assert world.server.names()[-32:] == [b"EVALSHA"] * 32
    world.close()


def test_flushed_scripts_are_sent_again_within_the_same_decision() -> None:
    world = World()
    world.server.replies = lambda c: b"*2\r\n:1\r\n:5\r\n" if c[0] == b"EVAL" else b"-NOSCRIPT No matching script\r\n"
    decided = [world.take(), world.take()]
    world.wait()
    assert [d[0].levels for d in decided] == [[5], [5]]
    assert world.server.commands[-1][1][1] == SCRIPT
    assert not world.degraded
    world.close()


@pytest.mark.parametrize(
    "reply",
    [
        b"-READONLY You can't write against a read only replica.\r\n", b"-LOADING Redis is loading\r\n",
        b"-OOM command not allowed\r\n", b"-NOAUTH Authentication required.\r\n", b"$5\r\nhello\r\n", b"*1\r\n$1\r\n1\r\n",
        b"HTTP/1.1 400 Bad Request\r\n", b"*2\r\n:1\r\n:0\r\n+extra\r\n*2\r\n:1\r\n:0\r\n+more\r\n", b"*0\r\n",
        b"*4\r\n:1\r\n:0\r\n:0\r\n:0\r\n",
    ],
)  # fmt: skip
def test_error_or_nonsense_is_a_store_error_and_the_store_is_down(reply: bytes) -> None:
    world = World()
    world.server.replies = lambda command: reply
    decided = [world.take() for _ in range(2)]
    world.wait()
    world.take()  # over the other connection
    world.wait()
    assert all(d[0].allowed for d in decided)
    assert any(d[0].store_failed for d in decided)
    assert world.degraded
    world.close()


def test_servers_error_is_told_and_cut(log: list[LogEvent]) -> None:
    world = World(replies=lambda command: b"-READONLY " + b"x" * 5000 + b"\r\n")
    assert warnings(log)[0].startswith("rate limit store is down: redis://cache:6379/0: error: READONLY xx")
    assert len(warnings(log)[0]) < 300
    world.close()


def test_late_reply_is_a_store_error_after_the_deadline_and_not_before() -> None:
    world = World(replies=only_trials)
    decided = world.take()
    world.wait()
    world.wait(TIMEOUT_S - 0.001)
    assert decided == []
    world.wait(0.001)
    assert [d.store_failed for d in decided] == [True]
    world.close()


def test_reply_that_waits_in_the_socket_while_we_are_late_is_in_time() -> None:
    world = World(replies=only_trials)
    decided = world.take()
    world.wait()
    transport = world.server.commands[-1][0]
    world.turn(1.0)  # this process did nothing for a second; the sockets are read after the timers
    transport.send(b"*2\r\n:1\r\n:3\r\n")
    world.wait()
    assert [(d.levels, d.store_failed) for d in decided] == [([3], False)]
    world.close()


def test_while_it_is_down_decisions_are_made_at_once_and_only_probes_are_sent(log: list[LogEvent]) -> None:
    world = World(accepts=False)
    assert world.known.called
    assert world.degraded
    for _ in range(3):
        assert world.take()[0].store_failed
    assert world.server.commands == []
    attempts = world.server.attempts
    for _ in range(100):
        world.wait(0.1)
    assert 2 * 10 <= world.server.attempts - attempts <= 2 * 25  # two connections, pauses of at most a second
    world.server.accepts = True
    world.wait(1.0)
    assert not world.degraded
    decided = world.take()
    world.wait()
    assert not decided[0].store_failed
    assert warnings(log) == [
        "rate limit store is down: redis://cache:6379/0: cannot connect: Connection was refused by other side.",
        "rate limit store is up: redis://cache:6379/0",
    ]
    world.close()


def test_connection_that_never_comes_is_given_up_and_tried_again() -> None:
    world = World()
    silent: list[Deferred[Any]] = []
    world.server._connect = lambda factory, done: silent.append(done)  # type: ignore[method-assign]
    for connection in world.server.connections:
        connection.lose()
    assert world.degraded
    for _ in range(50):
        world.wait(0.1)
    assert len(silent) >= 4
    del world.server._connect
    for _ in range(30):
        world.wait(0.1)
    assert not world.degraded
    world.close()


def test_lost_connection_fails_what_waits_and_the_other_one_carries_on() -> None:
    world = World(replies=only_trials)
    decided = world.take()
    world.wait()
    world.server.commands[-1][0].lose()
    assert [d.store_failed for d in decided] == [True]
    assert not world.degraded
    world.wait(0.1)
    assert len(world.server.connections) == 3
    world.close()


def test_server_that_is_slower_than_the_deadline_stays_down() -> None:
    world = World()
    world.server.delay_s = 2 * TIMEOUT_S
    world.take()
    for _ in range(100):
        world.wait(0.05)
        world.take()
        if world.degraded:
            break
    for _ in range(200):
        world.wait(0.05)
        assert world.degraded
    world.server.delay_s = TIMEOUT_S / 2
    for _ in range(40):
        world.wait(0.05)
    assert not world.degraded
    world.close()


def test_pauses_grow_when_the_server_passes_its_trials_and_fails_then() -> None:
    world = World()
    for _ in range(100):
        for connection in list(world.server.connections):
            connection.lose()
        world.wait(0.1)
    assert world.server.attempts <= 2 * 25
    for _ in range(30):
        world.wait(0.5)
    attempts = world.server.attempts
    world.server.connections[-1].lose()
    world.server.connections[-2].lose()
    world.wait(0.05)
    assert world.server.attempts == attempts + 2
    world.close()


def test_store_that_takes_connections_but_no_writes_stays_down() -> None:
    world = World(replies=lambda command: b"-READONLY\r\n")
    for _ in range(30):
        world.wait(0.1)
        assert world.degraded
    world.server.replies = lambda command: b"*2\r\n:1\r\n:0\r\n"
    world.wait(1.0)
    assert not world.degraded
    world.close()


@pytest.mark.parametrize("end", ["refused", "lost", "silent"])
def test_failed_login_is_not_the_end(end: str, log: list[LogEvent]) -> None:
    with logged_failures() as failures:
        world = World("redis://:hunter2@cache/4", login=b"-WRONGPASS invalid\r\n" if end == "refused" else None)
        for _ in range(30):
            if end == "lost":
                for connection in list(world.server.connections):
                    connection.lose()
            world.wait(0.1)
            assert world.degraded
        world.server.login = b"+OK\r\n"
        for _ in range(30):
            world.wait(0.1)
        assert not world.degraded
        assert world.server.names()[-4:].count(b"EVAL") >= 1
        world.close()
    assert failures == []
    assert "hunter2" not in repr(log)
    down, up = warnings(log)
    assert end != "refused" or "WRONGPASS" in down
    assert up == "rate limit store is up: redis://cache:6379/4"


@pytest.mark.parametrize(("policy", "allowed", "levels"), [("local", True, 1), ("open", True, 0), ("closed", False, 0)])
def test_policy_decides_without_the_store(policy: str, allowed: bool, levels: int) -> None:
    world = World(accepts=False)
    for _ in range(2):
        decision = world.take(policy)[0]
        assert (decision.allowed, len(decision.levels), decision.store_failed) == (allowed, levels, True)
    third = world.take(policy)[0]
    assert third.allowed is (policy == "open")  # locally, two workers share four requests
    world.close()


def test_client_that_leaves_takes_nothing_with_it() -> None:
    world = World()
    limiter = world.limiters.limiter("default", world.limit)
    gone = limiter.take(b"k")
    assert isinstance(gone, Deferred)
    gone.addErrback(lambda _: None)
    gone.cancel()
    decided = world.take()
    world.wait()
    assert not decided[0].store_failed
    world.close()


def test_close_decides_what_is_under_way_and_leaves_nothing() -> None:
    world = World(replies=only_trials)
    sent = world.take()
    world.wait()
    unsent = world.take()
    world.close()
    assert [d.store_failed for d in (*sent, *unsent)] == [True, True]
    assert all(not connection.connected for connection in world.server.connections)


def test_same_place_and_limit_and_policy_give_the_same_limiter() -> None:
    world = World()
    limit = Limit.of([(4, 1)])
    first = world.limiters.limiter("a", limit)
    assert world.limiters.limiter("a", Limit.of([(4, 1)])) is first
    for other in (world.limiters.limiter("b", limit), world.limiters.limiter("a", Limit.of([(5, 1)]))):
        assert other.prefix != first.prefix
    assert world.limiters.limiter("a", limit, "open").prefix == first.prefix
    assert world.limiters.limiter("a b|c", limit).prefix.startswith(b"txgateway:limit:#")
    world.close()


def test_room_is_imported_without_a_reactor() -> None:
    program = "import sys, txgateway.ratelimit.redis; sys.exit('twisted.internet.reactor' in sys.modules)"
    environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", program], check=False, env=environment).returncode == 0


@pytest.mark.parametrize("level", [-(2**63), -1, 2**62])
def test_level_that_no_bucket_can_have_is_taken_for_the_nearest(level: int) -> None:
    world = World()
    capacity = world.limit.numbers[0][2]
    decision = world.limiters.limiter("r", world.limit).read([0, level])
    assert decision.levels == [0 if level < 0 else capacity]
    assert 0 <= decision.retry_after_s <= 1
    world.limiters.close()
