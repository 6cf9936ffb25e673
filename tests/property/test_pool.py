"""Any interleaving of requests, dials, ends, cancellations and time keeps the pool's promises."""

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
from tests.helpers.upstream import FakeConnection, FakeDialer, RecordingWaiter
from twisted.internet.task import Clock

from txgateway.config.groups import Pool as PoolSettings
from txgateway.errors import PoolExhausted, UpstreamConnectFailed
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.interfaces import ClientConnection
from txgateway.transport.wheel import TimerWheel


class Waiter(RecordingWaiter):
    """Checks that nobody else has what it gets; may give the connection up at once, or ask again when refused."""

    def __init__(self, machine: PoolMachine, temper: str, *, fresh: bool) -> None:
        super().__init__()
        self.machine = machine
        self.temper = temper
        self.fresh = fresh

    def on_connection(self, connection: ClientConnection) -> None:
        super().on_connection(connection)
        self.machine.lent_to(self, connection)

    def on_unavailable(self, error: Any) -> None:
        super().on_unavailable(error)
        self.machine.waiting.remove(self)
        if self.temper == "stubborn":
            self.machine.ask(Waiter(self.machine, "calm", fresh=self.fresh))


class PoolMachine(RuleBasedStateMachine):
    @initialize(
        max_connections=st.integers(1, 3),
        max_pending=st.integers(0, 3),
        idle_timeout_s=st.sampled_from([0.5, 3.0]),
        max_age_s=st.sampled_from([2.0, 10.0]),
    )
    def build(self, max_connections: int, max_pending: int, idle_timeout_s: float, max_age_s: float) -> None:
        self.clock = Clock()
        self.dialer = FakeDialer()
        self.limits = PoolSettings(
            max_connections=max_connections,
            max_pending=max_pending,
            pending_timeout_s=1.0,
            idle_timeout_s=idle_timeout_s,
            max_age_s=max_age_s,
        )
        self.pool = ConnectionPool("t", self.dialer, self.clock, TimerWheel(self.clock), self.limits)
        self.waiting: list[Waiter] = []
        self.lent: list[FakeConnection] = []
        self.is_closed = False

    # --- what the machine checks whenever something is lent -------------------------------------------------------

    def lent_to(self, waiter: Waiter, connection: ClientConnection) -> None:
        assert isinstance(connection, FakeConnection)
        assert connection not in self.lent, "lent to two"
        assert connection.is_open
        assert not self.is_closed, "lent after close"
        assert not (waiter.fresh and connection.reused)
        age = self.clock.seconds() - connection.opened_at
        assert not connection.reused or age < self.limits.max_age_s
        if waiter in self.waiting:
            self.waiting.remove(waiter)
        if waiter.temper == "quitting":
            connection.cancel()
        else:
            self.lent.append(connection)

    def ask(self, waiter: Waiter) -> None:
        self.waiting.append(waiter)
        try:
            connection = self.pool.acquire(waiter, fresh=waiter.fresh)
        except PoolExhausted:
            self.waiting.remove(waiter)
            full = len(self.lent) + len(self.dialer.dials) >= self.limits.max_connections
            assert self.is_closed or full, "refused with room"
        else:
            if connection is not None:
                assert waiter.times_told == 0
                self.lent_to(waiter, connection)

    # --- what may happen ------------------------------------------------------------------------------------------

    @rule(temper=st.sampled_from(["calm", "quitting", "stubborn"]), fresh=st.booleans())
    def request(self, temper: str, fresh: bool) -> None:
        self.ask(Waiter(self, temper, fresh=fresh))

    @precondition(lambda self: self.dialer.dials)
    @rule(data=st.data())
    def dial_succeeds(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.dialer.dials)).succeed()

    @precondition(lambda self: self.dialer.dials)
    @rule(data=st.data())
    def dial_fails(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.dialer.dials)).fail(UpstreamConnectFailed())

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def exchange_ends(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.lent))
        self.lent.remove(connection)
        connection.finish()

    @precondition(lambda self: self.dialer.connections)
    @rule(data=st.data())
    def connection_is_lost(self, data: st.DataObject) -> None:
        connection = data.draw(st.sampled_from(self.dialer.connections))
        if connection in self.lent:
            self.lent.remove(connection)
        connection.close()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def waiter_cancels(self, data: st.DataObject) -> None:
        waiter = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove(waiter)
        self.pool.cancel(waiter)
        told = waiter.times_told
        self.pool.cancel(waiter)
        assert waiter.times_told == told

    @rule(ticks=st.integers(1, 20))
    def time_passes(self, ticks: int) -> None:
        self.clock.pump([0.1] * ticks)

    @precondition(lambda self: not self.is_closed)
    @rule(chance=st.integers(0, 9))
    def close(self, chance: int) -> None:
        if chance == 0:
            self.is_closed = True
            self.pool.close()

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def counts_are_true_and_within_limits(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert pool.active == len(self.lent)
        idle = [c for c in self.dialer.connections if c.is_open and c not in self.lent]
        assert pool.idle == len(idle)
        assert pool.open_connections == len(self.lent) + len(idle) + len(self.dialer.dials)
        assert pool.open_connections <= self.limits.max_connections

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "pool"):
            return
        pool = self.pool
        assert pool.pending == len(self.waiting)
        if self.waiting:
            assert not self.is_closed
            # Somebody waits: then there is no room, or for each of them a dial is under way.
            has_room = pool.open_connections < self.limits.max_connections
            assert not has_room or len(self.dialer.dials) >= len(self.waiting)
            assert pool.idle == 0 or len(self.dialer.dials) >= len(self.waiting)

    def teardown(self) -> None:
        if not hasattr(self, "pool"):
            return
        self.is_closed = True
        self.pool.close()
        for connection in list(self.lent):
            self.lent.remove(connection)
            connection.finish()
        assert repr(self.pool) == "<pool t: 0 active, 0 idle, 0 pending>"
        assert self.waiting == []
        assert not any(connection.is_open for connection in self.dialer.connections)
        self.clock.pump([0.1] * 11)
        assert self.clock.getDelayedCalls() == []


def test_pool_keeps_its_promises() -> None:
    run_state_machine_as_test(PoolMachine, settings=settings(stateful_step_count=40))
