"""Any interleaving of requests, dials, ends, changes of limits and time keeps the promises of a pool that shares."""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.helpers.http2_target import Http2Target
from tests.helpers.upstream import FakeConnection
from tests.integration.h2_frames import (
    ENABLE_CONNECT_PROTOCOL,
    HTTP_1_1_REQUIRED,
    MAX_CONCURRENT_STREAMS,
    REFUSED_STREAM,
    goaway,
)
from tests.unit.proxy import multiplexing
from tests.unit.proxy.multiplexing import Bench

from txgateway.errors import PoolExhausted, UpstreamConnectFailed
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.interfaces import ClientConnection

MAX_PENDING = 3


class Waiter(multiplexing.Waiter):
    """Checks what it gets; may give the exchange up at once, ask again when refused, or need HTTP/2."""

    def __init__(self, machine: PoolMachine, temper: str) -> None:
        super().__init__(machine.bench)
        self.machine = machine
        self.temper = temper
        self.needs_http2 = temper == "picky"
        self.is_cancelled = False

    def on_connection(self, connection: ClientConnection) -> None:
        assert not self.is_cancelled
        assert not self.machine.is_closed, "lent after close"
        if self in self.machine.waiting:
            self.machine.waiting.remove(self)
        if isinstance(connection, FakeConnection):
            assert connection.is_open
            assert connection not in self.machine.lent, "lent to two"
        else:
            shared: Any = connection
            assert shared.connection.spare > 0, "more than the target takes"
        super().on_connection(connection)
        if self.temper == "quitting":
            connection.cancel()
        elif isinstance(connection, FakeConnection):
            self.machine.lent.append(connection)
        else:
            self.machine.sharing.append(self)

    def on_unavailable(self, error: Any) -> None:
        assert not self.is_cancelled
        super().on_unavailable(error)
        self.machine.waiting.remove(self)
        if self.temper == "stubborn":
            self.machine.ask(Waiter(self.machine, "calm"))


class PoolMachine(RuleBasedStateMachine):
    @initialize(max_connections=st.integers(1, 3), max_age_s=st.sampled_from([2.0, 100.0]), has_http1=st.booleans())
    def build(self, max_connections: int, max_age_s: float, has_http1: bool) -> None:
        self.max_connections = max_connections
        self.bench = Bench(
            tunnels=has_http1,
            max_connections=max_connections,
            max_pending=MAX_PENDING,
            pending_timeout_s=1.0,
            idle_timeout_s=3.0,
            max_age_s=max_age_s,
        )
        self.pool = self.bench.pool
        self.http1 = self.pool._http1
        self.waiting: list[Waiter] = []
        self.everybody: list[Waiter] = []
        self.sharing: list[Waiter] = []
        self.lent: list[FakeConnection] = []
        self.is_closed = False

    @property
    def targets(self) -> list[Http2Target]:
        """Those whose connection is open and introduced."""
        return [one for one in self.bench.dialer.targets if not one.closed and one.connection._is_ready]

    def under_way(self) -> list[Waiter]:
        """Who shares a connection and has heard no end."""
        self.sharing = [one for one in self.sharing if not {"end", "failed"}.intersection(one.handler.names)]
        return self.sharing

    @property
    def pools(self) -> list[ConnectionPool]:
        return [self.pool] if self.http1 is None else [self.pool, self.http1]

    def ask(self, waiter: Waiter, **how: bool) -> None:
        self.everybody.append(waiter)
        self.waiting.append(waiter)
        try:
            connection = self.pool.acquire(waiter, **how)
        except PoolExhausted:
            self.waiting.remove(waiter)
            waiter.is_cancelled = True
            assert self.is_closed or self.pool.pending >= MAX_PENDING, "refused with room"
        else:
            if connection is not None:
                assert waiter.times_told == 0
                waiter.on_connection(connection)

    # --- what may happen ------------------------------------------------------------------------------------------

    @rule(temper=st.sampled_from(["calm", "quitting", "stubborn", "picky"]), fresh=st.booleans(), tunnel=st.booleans())
    def request(self, temper: str, fresh: bool, tunnel: bool) -> None:
        self.ask(Waiter(self, temper), fresh=fresh, tunnel=tunnel)

    @precondition(lambda self: self.bench.dialer.dials)
    @rule(data=st.data(), streams=st.integers(0, 3), connects=st.integers(0, 1), is_slow=st.booleans())
    def dial_brings_http2(self, data: st.DataObject, streams: int, connects: int, is_slow: bool) -> None:
        dial = data.draw(st.sampled_from(self.bench.dialer.dials))
        target = dial.greet(settings={MAX_CONCURRENT_STREAMS: streams, ENABLE_CONNECT_PROTOCOL: connects})
        if not is_slow:
            target.turn()

    @precondition(lambda self: self.bench.dialer.dials)
    @rule(data=st.data())
    def dial_brings_http1(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.bench.dialer.dials)).succeed()

    @precondition(lambda self: self.bench.dialer.dials)
    @rule(data=st.data())
    def dial_fails(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.bench.dialer.dials)).fail(UpstreamConnectFailed())

    @precondition(lambda self: self.bench.tunnel_dialer.dials)
    @rule(data=st.data(), succeeds=st.booleans())
    def tunnels_dial_ends(self, data: st.DataObject, succeeds: bool) -> None:
        dial = data.draw(st.sampled_from(self.bench.tunnel_dialer.dials))
        if succeeds:
            dial.succeed()
        else:
            dial.fail(UpstreamConnectFailed())

    @rule()
    def bytes_arrive(self) -> None:
        self.bench.turn()

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), how=st.sampled_from(["answered", "refused", "unwanted", "cancelled"]))
    def exchange_ends(self, data: st.DataObject, how: str) -> None:
        waiter = data.draw(st.sampled_from(self.under_way()))
        if how == "cancelled":
            self.sharing.remove(waiter)
            waiter.exchange.stream.cancel()
            return
        waiter.exchange.target.turn()  # so that the target knows of it
        if how == "answered":
            waiter.exchange.answer()
        else:
            waiter.exchange.send_reset(REFUSED_STREAM if how == "refused" else HTTP_1_1_REQUIRED)
        assert waiter.handler.names[-1] in {"end", "failed"}

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), is_good=st.booleans())
    def http1_exchange_ends(self, data: st.DataObject, is_good: bool) -> None:
        connection = data.draw(st.sampled_from(self.lent))
        self.lent.remove(connection)
        if is_good:
            connection.finish()
        else:
            connection.close()

    @precondition(lambda self: self.targets)
    @rule(data=st.data(), how=st.sampled_from(["lost", "goaway", "fault"]))
    def connection_ends(self, data: st.DataObject, how: str) -> None:
        target = data.draw(st.sampled_from(self.targets))
        if how == "lost":
            target.transport.end()
        elif how == "goaway":
            target.raw(goaway(data.draw(st.integers(0, 9)), data.draw(st.sampled_from([0, HTTP_1_1_REQUIRED]))))
        else:
            target.transport.send(b"\0" * 9)
            target.clock.advance(0)

    @precondition(lambda self: self.targets)
    @rule(data=st.data(), streams=st.integers(0, 3))
    def limit_changes(self, data: st.DataObject, streams: int) -> None:
        data.draw(st.sampled_from(self.targets)).change({MAX_CONCURRENT_STREAMS: streams})

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def waiter_cancels(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        waiter.is_cancelled = True
        self.pool.cancel(waiter)
        self.pool.cancel(waiter)

    @rule(ticks=st.integers(1, 20))
    def time_passes(self, ticks: int) -> None:
        self.bench.wait(ticks / 10)

    @precondition(lambda self: not self.is_closed)
    @rule(chance=st.integers(0, 9))
    def close(self, chance: int) -> None:
        if chance == 0:
            self.is_closed = True
            self.pool.close()

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def limits_hold(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert pool.open_connections <= self.max_connections
        assert sum(one._active for one in self.pools) == len(self.lent)
        connections = self.bench.dialer.connections + self.bench.tunnel_dialer.connections
        idle = [one for one in connections if one.is_open and one not in self.lent]
        assert sum(len(one._idle) for one in self.pools) == len(idle)
        shared = [one for one in self.targets if not one.connection._is_forgotten]
        assert set(pool._shared) == {one.connection for one in shared}
        greeting = [one for one in self.bench.dialer.targets if one.connection in pool._greeting]
        dials = len(self.bench.dialer.dials) + len(greeting) + len(self.bench.tunnel_dialer.dials)
        assert sum(one.own_connections for one in self.pools) == len(self.lent) + len(idle) + len(shared) + dials
        assert not self.is_closed or not (idle or shared or dials)

    @invariant()
    def everybody_is_told_once(self) -> None:
        if not hasattr(self, "pool"):
            return
        assert self.pool.pending == len(self.waiting)
        for pool in self.pools:
            assert pool._fresh <= {*self.waiting}
        if self.pool._http1_until > self.bench.clock.seconds():
            assert all(waiter.needs_http2 for waiter in (*self.pool._pending, *self.pool._dial_of))
        for waiter in self.everybody:
            assert waiter.times_told == int(waiter not in self.waiting and not waiter.is_cancelled)
        assert not self.is_closed or not self.waiting

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        if not hasattr(self, "pool") or not self.waiting:
            return
        pool = self.pool
        for one in self.pools:
            if one._is_short(len(one._pending)):
                assert one.open_connections == self.max_connections, "room, and nobody dials"
                assert not any(each._idle for each in self.pools), "an idle one that could give way"
        if pool._pending and not pool._dials:
            assert not any(connection.spare > 0 for connection in pool._shared), "room on a connection"
        if any(waiter not in pool._fresh for waiter in (*pool._pending, *pool._dial_of)):
            assert not any(connection.spare > 0 for connection in pool._shared), "room on a connection"
        if self.http1 is not None and self.http1._pending:
            assert all(connection.is_busy for connection in pool._shared), "an idle one that could give way"

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.is_closed = True
        self.pool.close()
        for connection in list(self.lent):
            self.lent.remove(connection)
            connection.finish()
        for waiter in list(self.under_way()):
            waiter.exchange.stream.cancel()
        assert repr(self.pool) == "<pool t: 0 active, 0 idle, 0 pending>"
        assert self.waiting == []
        self.bench.wait(7)
        assert all(target.closed for target in self.bench.dialer.targets)
        assert self.bench.clock.getDelayedCalls() == []


def test_pool_keeps_its_promises() -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(stateful_step_count=40))
