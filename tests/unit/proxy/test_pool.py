from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.helpers.upstream import FakeConnection, FakeDialer, RecordingWaiter
from twisted.internet.task import Clock

from txgateway.config.groups import Pool as PoolSettings
from txgateway.errors import GatewayError, PoolExhausted, UpstreamConnectFailed
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.interfaces import ClientConnection
from txgateway.transport.wheel import TimerWheel


class Bench:
    """A pool with a clock, a dialer that obeys, and a shorthand for getting a connection."""

    def __init__(self, **settings: float) -> None:
        self.clock = Clock()
        self.dialer = FakeDialer()
        self.wheel = TimerWheel(self.clock)
        limits = PoolSettings(**{"max_connections": 2, "max_pending": 2, **settings})  # type: ignore[arg-type]
        self.pool = ConnectionPool("127.0.0.1:9000", self.dialer, self.clock, self.wheel, limits)

    def connection(self) -> FakeConnection:
        """One that is lent."""
        waiter = RecordingWaiter()
        found = self.pool.acquire(waiter)
        if found is None:
            return self.dialer.dials[-1].succeed()
        assert isinstance(found, FakeConnection)
        return found

    def waiter(self, *, fresh: bool = False) -> RecordingWaiter:
        waiter = RecordingWaiter()
        assert self.pool.acquire(waiter, fresh=fresh) is None
        return waiter


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.pool.close()
    bench.clock.advance(1)
    assert bench.clock.getDelayedCalls() == []


def test_repr_tells_the_counts(bench: Bench) -> None:
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 0 active, 0 idle, 0 pending>"
    waiter = bench.waiter()
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 0 active, 0 idle, 1 pending>"
    connection = bench.dialer.dials[0].succeed()
    assert waiter.connections == [connection]
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 1 active, 0 idle, 0 pending>"
    connection.finish()
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 0 active, 1 idle, 0 pending>"


def test_last_used_connection_is_lent_first(bench: Bench) -> None:
    first, second = bench.connection(), bench.connection()
    second.finish()
    first.finish()
    assert bench.pool.acquire(RecordingWaiter()) is first


def test_beyond_the_limit_waiters_queue_in_order(bench: Bench) -> None:
    lent = [bench.connection(), bench.connection()]
    one, two = bench.waiter(), bench.waiter()
    assert bench.dialer.dials == []
    lent[1].finish()
    assert (one.connections, two.connections) == ([lent[1]], [])
    lent[0].finish()
    assert two.connections == [lent[0]]
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 2 active, 0 idle, 0 pending>"


def test_full_queue_refuses(bench: Bench) -> None:
    bench.connection(), bench.connection()
    bench.waiter(), bench.waiter()
    with pytest.raises(PoolExhausted):
        bench.pool.acquire(RecordingWaiter())
    assert bench.pool.pending == 2


def test_waiting_too_long_refused_oldest_first() -> None:
    bench = Bench(pending_timeout_s=1.0)
    bench.connection(), bench.connection()
    one = bench.waiter()
    bench.clock.advance(0.5)
    two = bench.waiter()
    bench.clock.pump([0.1] * 5)
    assert one.errors == []
    bench.clock.pump([0.1] * 2)
    assert [type(error) for error in one.errors] == [PoolExhausted]
    assert two.errors == []
    bench.clock.pump([0.1] * 5)
    assert len(two.errors) == 1
    assert bench.pool.pending == 0


def test_released_connection_goes_to_the_queue_before_a_waiter_with_a_dial(bench: Bench) -> None:
    lent = bench.connection()
    dialing = bench.waiter()
    queued = bench.waiter()
    lent.finish()
    assert queued.connections == [lent]
    assert dialing.connections == []


def test_released_connection_overtakes_a_dial_whose_connection_is_kept(bench: Bench) -> None:
    lent = bench.connection()
    waiter = bench.waiter()
    lent.finish()
    assert waiter.connections == [lent]
    kept = bench.dialer.dials[0].succeed()
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 1 active, 1 idle, 0 pending>"
    assert kept.reused  # it can be as dead as any that was idle


def test_connection_of_an_overtaken_dial_serves_the_queue(bench: Bench) -> None:
    lent = bench.connection()
    waiter = bench.waiter()
    lent.finish()
    assert waiter.connections == [lent]
    queued = bench.waiter()
    connection = bench.dialer.dials[0].succeed()
    assert queued.connections == [connection]


def test_failed_dial_fails_its_owner_and_dials_for_the_queue(bench: Bench) -> None:
    one, two = bench.waiter(), bench.waiter()
    queued = bench.waiter()
    error = UpstreamConnectFailed()
    bench.dialer.dials[0].fail(error)
    assert one.errors == [error]
    assert two.times_told == queued.times_told == 0
    assert len(bench.dialer.dials) == 2
    connection = bench.dialer.dials[1].succeed()
    assert queued.connections == [connection]


def test_failure_of_an_overtaken_dial_fails_nobody(bench: Bench) -> None:
    lent = bench.connection()
    waiter = bench.waiter()
    lent.finish()
    bench.dialer.dials[0].fail(UpstreamConnectFailed())
    assert waiter.errors == []
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 1 active, 0 idle, 0 pending>"


def test_lost_connection_makes_room_for_the_queue(bench: Bench) -> None:
    lent = bench.connection()
    bench.connection()
    queued = bench.waiter()
    lent.close()
    assert bench.dialer.dials[0].succeed() is queued.connections[0]
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 2 active, 0 idle, 0 pending>"


def test_forgetting_twice_counts_once(bench: Bench) -> None:
    connection = bench.connection()
    bench.pool.forget(connection)
    bench.pool.forget(connection)
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 0 active, 0 idle, 0 pending>"


def test_idle_connection_that_ends_is_forgotten(bench: Bench) -> None:
    connection = bench.connection()
    connection.finish()
    connection.close()
    assert bench.pool.idle == 0
    assert bench.pool.acquire(RecordingWaiter()) is None


def test_cancelled_waiter_drops_its_dial(bench: Bench) -> None:
    waiter = bench.waiter()
    bench.pool.cancel(waiter)
    bench.pool.cancel(waiter)
    assert bench.dialer.cancelled == 1
    assert bench.pool.open_connections == bench.pool.pending == 0


def test_dial_of_a_cancelled_waiter_serves_the_queue(bench: Bench) -> None:
    one, _two = bench.waiter(), bench.waiter()
    queued = bench.waiter()
    bench.pool.cancel(one)
    assert bench.dialer.cancelled == 0
    connection = bench.dialer.dials[0].succeed()
    assert queued.connections == [connection]
    assert one.times_told == 0


def test_cancelled_in_the_queue_hears_nothing(bench: Bench) -> None:
    lent = bench.connection()
    bench.connection()
    queued = bench.waiter()
    bench.pool.cancel(queued)
    lent.finish()
    assert queued.times_told == 0
    assert bench.pool.idle == 1


# --- age ------------------------------------------------------------------------------------------------------------


def test_idle_connections_closed_after_their_time() -> None:
    bench = Bench(idle_timeout_s=30.0)
    one, two = bench.connection(), bench.connection()
    one.finish()
    bench.clock.pump([0.1] * 200)
    two.finish()
    bench.clock.pump([0.1] * 111)
    assert (one.is_open, two.is_open) == (False, True)
    bench.clock.pump([0.1] * 211)
    assert not two.is_open
    assert bench.clock.getDelayedCalls() == []


def test_connection_idle_for_too_long_never_lent() -> None:
    bench = Bench(idle_timeout_s=30.0)
    connection = bench.connection()
    connection.finish()
    bench.clock.rightNow += 30.0  # the wheel has not come round
    assert bench.pool.acquire(RecordingWaiter()) is None
    assert not connection.is_open


def test_old_connection_closed_when_released_and_not_lent_when_idle() -> None:
    bench = Bench(max_age_s=300.0, idle_timeout_s=1000.0)
    idle, lent = bench.connection(), bench.connection()
    bench.clock.rightNow += 299.0
    idle.finish()
    bench.clock.rightNow += 1.0
    lent.finish()
    assert not lent.is_open
    assert bench.pool.acquire(RecordingWaiter()) is None
    assert not idle.is_open


def test_idle_connection_lent_only_if_it_looks_alive(bench: Bench) -> None:
    connection, other = bench.connection(), bench.connection()
    other.finish()
    connection.finish()
    connection.looks_alive = False
    assert bench.pool.acquire(RecordingWaiter()) is other
    assert not connection.is_open
    other.finish()
    other.looks_alive = False
    assert bench.pool.acquire(RecordingWaiter()) is None
    assert not other.is_open


def test_released_connection_passed_on_only_if_it_looks_alive(bench: Bench) -> None:
    connection = bench.connection()
    bench.connection()
    waiter = bench.waiter()
    connection.looks_alive = False
    connection.finish()
    assert (waiter.connections, connection.is_open) == ([], False)
    assert bench.dialer.dials[0].succeed() is waiter.connections[0]


# --- fresh ----------------------------------------------------------------------------------------------------------


def test_fresh_waiter_gets_no_used_connection(bench: Bench) -> None:
    used = bench.connection()
    used.finish()
    waiter = bench.waiter(fresh=True)
    assert bench.dialer.dials[0].succeed() is waiter.connections[0]
    assert bench.pool.idle == 1


def test_idle_connection_makes_room_for_a_fresh_one(bench: Bench) -> None:
    one, two = bench.connection(), bench.connection()
    one.finish()
    two.finish()
    waiter = bench.waiter(fresh=True)
    assert (one.is_open, two.is_open) == (False, True)
    assert bench.dialer.dials[0].succeed() is waiter.connections[0]


def test_released_connection_passes_over_fresh_waiters(bench: Bench) -> None:
    one, two = bench.connection(), bench.connection()
    fresh, plain = bench.waiter(fresh=True), bench.waiter()
    one.finish()
    assert plain.connections == [one]
    two.finish()  # nobody wants a used one, so it makes room
    assert not two.is_open
    assert bench.dialer.dials[0].succeed() is fresh.connections[0]


# --- closing --------------------------------------------------------------------------------------------------------


def test_closed_pool_closes_idle_connections_and_lets_exchanges_end(bench: Bench) -> None:
    lent, idle = bench.connection(), bench.connection()
    idle.finish()
    bench.pool.close()
    with pytest.raises(PoolExhausted):
        bench.pool.acquire(RecordingWaiter())
    assert [lent.is_open, idle.is_open] == [True, False]
    lent.finish()
    assert [lent.is_open, idle.is_open] == [False, False]
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 0 active, 0 idle, 0 pending>"


def test_closed_pool_refuses_who_waits(bench: Bench) -> None:
    bench.connection()
    dialing, queued = bench.waiter(), bench.waiter()
    bench.pool.close()
    assert [type(error) for waiter in (dialing, queued) for error in waiter.errors] == [PoolExhausted] * 2
    assert bench.dialer.dials == []
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 1 active, 0 idle, 0 pending>"


def test_waiter_that_asks_again_when_refused_by_closing_is_refused(bench: Bench) -> None:
    class Stubborn(RecordingWaiter):
        def on_unavailable(self, error: GatewayError) -> None:
            super().on_unavailable(error)
            with pytest.raises(PoolExhausted):
                bench.pool.acquire(self)

    waiter = Stubborn()
    bench.pool.acquire(waiter)
    bench.pool.close()
    assert len(waiter.errors) == 1
    assert bench.pool.pending == 0


def test_waiter_that_gives_up_at_once_leaves_a_consistent_pool(bench: Bench) -> None:
    class Quitter(RecordingWaiter):
        def on_connection(self, connection: ClientConnection) -> None:
            super().on_connection(connection)
            connection.cancel()

    lent = bench.connection()
    bench.connection()
    quitter, queued = Quitter(), RecordingWaiter()
    bench.pool.acquire(quitter)
    bench.pool.acquire(queued)
    lent.finish()
    assert quitter.connections == [lent]
    assert bench.dialer.dials[0].succeed() is queued.connections[0]
    assert repr(bench.pool) == "<pool 127.0.0.1:9000: 2 active, 0 idle, 0 pending>"
