"""Who gets which connection of a pool whose connections are shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.integration.h2_frames import MAX_CONCURRENT_STREAMS, REFUSED_STREAM, goaway
from tests.unit.proxy.multiplexing import Bench, limited

from txgateway.errors import PoolExhausted, UpstreamConnectFailed, UpstreamProtocolError, UpstreamReset, UpstreamTimeout
from txgateway.proxy.multiplexed_pool import is_multiplexed
from txgateway.transport.http2.client import GREETING_TIMEOUT_S

# --- one connection for many --------------------------------------------------------------------------------------------


def test_cold_burst_is_one_dial_and_one_connection() -> None:
    bench = Bench()
    waiters = bench.ask(50)
    assert (len(bench.dialer.dials), bench.counts) == (1, (0, 0, 50, 1))
    target = bench.dialer.dials[0].greet()
    assert all(waiter.times_told == 0 for waiter in waiters)
    assert bench.counts == (0, 0, 50, 1)
    target.turn()
    assert [waiter.exchange.id for waiter in waiters] == list(range(1, 101, 2))
    assert all(waiter.times_told == 1 for waiter in waiters)
    assert bench.counts == (1, 0, 0, 1)
    for waiter in waiters:
        waiter.exchange.answer()
    assert bench.counts == (0, 1, 0, 1)
    assert bench.one().exchange.target is target
    assert repr(bench.pool) == "<pool t: 1 active, 0 idle, 0 pending>"


def test_burst_beyond_a_connection_dials_another() -> None:
    bench = Bench()
    waiters = bench.ask(102)
    assert len(bench.dialer.dials) == 2
    first, second = bench.open(), bench.open()
    assert [len(one.requests) for one in (first, second)] == [100, 2]
    assert all(waiter.times_told == 1 for waiter in waiters)


def test_queue_is_bounded_by_what_dials_may_bring() -> None:
    bench = Bench(max_pending=3)
    bench.ask(2 * 100 + 3)
    assert len(bench.dialer.dials) == 2
    with pytest.raises(PoolExhausted):
        bench.ask()
    assert bench.pool.pending == 203


@pytest.mark.parametrize("streams", [1, 3])
def test_target_that_takes_less_than_was_thought_gets_further_connections(streams: int) -> None:
    bench = Bench(max_connections=3)
    waiters = bench.ask(10)
    assert len(bench.dialer.dials) == 1
    bench.open(**limited(streams))
    assert sum(waiter.times_told for waiter in waiters) == streams
    for _ in range(2):
        bench.open(**limited(streams))
    assert bench.dialer.dials == []
    assert [len(target.requests) for target in bench.dialer.targets] == [streams] * 3
    assert bench.pool.pending == 10 - 3 * streams
    while any(not waiter.connections for waiter in waiters):
        for waiter in waiters:
            if waiter.exchange is not None and waiter.handler.names == []:
                waiter.exchange.answer()
    assert bench.pool.open_connections == 3


def test_target_that_is_known_to_take_one_is_dialed_for_each() -> None:
    bench = Bench(max_connections=4)
    bench.one()
    bench.open(**limited(1))
    bench.ask(3)
    assert len(bench.dialer.dials) == 3


def test_full_connection_makes_room_for_who_waits_longest() -> None:
    bench = Bench(max_connections=1)
    first = bench.one()
    bench.open(**limited(1))
    second, third = bench.ask(2)
    assert bench.counts == (1, 0, 2, 1)
    with pytest.raises(PoolExhausted):
        bench.ask()
    first.exchange.answer()
    assert (second.times_told, third.times_told) == (1, 0)
    second.exchange.cancel()
    assert (second.times_told, third.times_told) == (1, 1)
    assert third.exchange.stream.reused


def test_queue_has_a_deadline() -> None:
    bench = Bench(max_connections=1, pending_timeout_s=1.0)
    bench.one()
    bench.open(**limited(1))
    waiter = bench.one()
    bench.wait(0.8)
    assert waiter.times_told == 0
    bench.wait(0.4)
    assert waiter.error is PoolExhausted
    assert bench.pool.pending == 0


def test_limit_that_grows_lets_more_in() -> None:
    bench = Bench(max_connections=1)
    bench.one()
    target = bench.open(**limited(1))
    waiter = bench.one()
    target.change({MAX_CONCURRENT_STREAMS: 2})
    assert waiter.times_told == 1


def test_limit_that_shrinks_is_kept() -> None:
    bench = Bench(max_connections=1)
    first, second = bench.ask(2)
    target = bench.open()
    target.change({MAX_CONCURRENT_STREAMS: 1})
    waiter = bench.one()
    first.exchange.answer()
    assert waiter.times_told == 0
    second.exchange.answer()
    assert waiter.times_told == 1


def test_target_that_takes_nothing() -> None:
    bench = Bench(max_connections=1, pending_timeout_s=1.0)
    first, second = bench.ask(2)
    target = bench.open(**limited(0))
    assert first.error is PoolExhausted
    assert second.times_told == 0
    target.change({MAX_CONCURRENT_STREAMS: 1})
    assert second.times_told == 1


# --- dials that come to nothing -----------------------------------------------------------------------------------------


def refuse(bench: Bench) -> None:
    bench.dialer.dials[0].fail(UpstreamConnectFailed())


def greet_in_http1(bench: Bench) -> None:
    bench.dialer.dials[0].greet().transport.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def go_away(bench: Bench) -> None:
    target = bench.dialer.dials[0].greet()
    target.transport.send(target.link.take() + goaway())


def close(bench: Bench) -> None:
    bench.dialer.dials[0].greet().transport.end()


def say_nothing(bench: Bench) -> None:
    bench.dialer.dials[0].greet()
    for _ in range(round(GREETING_TIMEOUT_S * 10) + 15):
        bench.clock.advance(0.1)


@pytest.mark.parametrize(
    ("fail", "error"),
    [
        (refuse, UpstreamConnectFailed),
        (greet_in_http1, UpstreamProtocolError),
        (go_away, UpstreamReset),
        (close, UpstreamReset),
        (say_nothing, UpstreamTimeout),
    ],
)
def test_who_queues_behind_a_dial_shares_its_fate(fail: Callable[[Bench], None], error: type) -> None:
    bench = Bench(max_pending=10, pending_timeout_s=60)
    waiters = bench.ask(5)
    fail(bench)
    assert [waiter.error for waiter in waiters] == [error] * 5
    assert bench.counts == (0, 0, 0, 0)
    assert not any(one.errors[0].bytes_written for one in waiters)  # type: ignore[attr-defined]
    assert len(bench.ask(2)) == 2
    assert len(bench.dialer.dials) == 1


@pytest.mark.parametrize("streams", [1, 2])
def test_failed_dial_beside_a_connection_leaves_the_queue_alone(streams: int) -> None:
    bench = Bench(pending_timeout_s=5)
    first, *_ = bench.ask(streams)
    bench.open(**limited(streams))
    second, third = bench.ask(2)  # a dial for one, and the other queues
    assert len(bench.dialer.dials) == 1
    refuse(bench)
    assert second.error is UpstreamConnectFailed
    assert (third.times_told, len(bench.dialer.dials)) == (0, 1)  # it has one of its own now
    first.exchange.answer()
    assert third.times_told == 1


def test_two_dials_one_of_which_fails() -> None:
    bench = Bench(max_pending=200)
    waiters = bench.ask(102)
    refuse(bench)
    assert sum(waiter.times_told for waiter in waiters) == 1
    bench.open()
    assert sum(waiter.times_told for waiter in waiters) >= 101


# --- HTTP/1.1 after all ---------------------------------------------------------------------------------------------------


def test_target_that_speaks_http1_gets_a_connection_for_each() -> None:
    bench = Bench(tunnels=True, max_connections=3, max_pending=5)
    waiters = bench.ask(5)
    assert len(bench.dialer.dials) == 1
    first = bench.dialer.dials[0].succeed()
    assert waiters[0].connections == [first]
    assert len(bench.dialer.dials) == 2  # as many as may be
    others = [bench.dialer.dials[0].succeed() for _ in range(2)]
    assert [waiter.connections for waiter in waiters] == [[first], [others[0]], [others[1]], [], []]
    assert bench.counts == (3, 0, 2, 3)
    first.finish()
    assert waiters[3].connections == [first]
    others[0].close()
    assert len(bench.dialer.dials) == 1
    bench.dialer.dials[0].succeed()
    assert waiters[4].times_told == 1


def test_target_that_is_known_to_speak_http1_is_dialed_for_each() -> None:
    bench = Bench(tunnels=True)
    bench.one()
    bench.dialer.dials[0].succeed().close()
    bench.ask(2)
    assert len(bench.dialer.dials) == 2
    with pytest.raises(PoolExhausted):
        bench.ask(3)


def test_who_queues_for_http1_does_not_share_the_fate_of_a_dial() -> None:
    bench = Bench(tunnels=True, max_connections=1)
    bench.one()
    bench.dialer.dials[0].succeed().close()
    first, second = bench.ask(2)
    refuse(bench)
    assert first.error is UpstreamConnectFailed
    assert (second.times_told, len(bench.dialer.dials)) == (0, 1)


def test_idle_http1_connection_is_used_again() -> None:
    bench = Bench(tunnels=True)
    waiter = bench.one()
    connection = bench.dialer.dials[0].succeed()
    assert waiter.connections == [connection]
    connection.finish()
    assert bench.counts == (0, 1, 0, 1)
    assert bench.one().connections == [connection]


# --- fresh ------------------------------------------------------------------------------------------------------------------


def test_fresh_is_another_connection() -> None:
    bench = Bench()
    first = bench.one()
    old = bench.open()
    first.exchange.send_reset(REFUSED_STREAM)
    again = bench.one(fresh=True)
    assert again.times_told == 0
    assert len(bench.dialer.dials) == 1
    bench.one().exchange.answer()  # others go on, on the old one
    new = bench.open()
    assert again.exchange.target is new
    assert new is not old
    assert bench.pool.open_connections == 2


def test_fresh_behind_a_dial_that_fails_is_forgotten() -> None:
    bench = Bench()
    waiters = [bench.one(), bench.one(fresh=True)]
    refuse(bench)
    assert [waiter.error for waiter in waiters] == [UpstreamConnectFailed] * 2
    assert bench.pool._fresh == set()


def test_fresh_takes_the_place_of_an_idle_one() -> None:
    bench = Bench(max_connections=1)
    first = bench.one()
    old = bench.open()
    first.exchange.cancel()
    assert bench.counts == (0, 1, 0, 1)
    again = bench.one(fresh=True)
    assert len(bench.dialer.dials) == 1
    assert old.closed
    assert again.times_told == 0
    bench.open()
    assert again.times_told == 1


def test_fresh_shares_where_there_is_no_room_for_another() -> None:
    bench = Bench(max_connections=1)
    bench.one()
    target = bench.open()
    again = bench.one(fresh=True)
    assert again.exchange.target is target
    assert bench.dialer.dials == []


def test_fresh_waits_for_a_full_one_where_there_is_no_room_for_another() -> None:
    bench = Bench(max_connections=1)
    first = bench.one()
    bench.open(**limited(1))
    again = bench.one(fresh=True)
    assert again.times_told == 0
    first.exchange.answer()
    assert again.times_told == 1


@pytest.mark.parametrize("most", [1, 2])
def test_fresh_behind_a_dial_takes_what_comes_of_it(most: int) -> None:
    bench = Bench(max_connections=most)
    first, again = bench.one(), bench.one(fresh=True)
    bench.open()
    assert (first.times_told, again.times_told) == (1, 1)
    assert bench.dialer.dials == []


def test_fresh_behind_dials_that_bring_too_little_shares_in_the_end() -> None:
    bench = Bench(max_connections=3, max_pending=9)
    first, _ = bench.ask(2)
    bench.open(**limited(2))
    bench.one()  # has a dial, which may bring two
    again = bench.one(fresh=True)  # so this one queues
    bench.one()  # and this one has a dial again
    assert len(bench.dialer.dials) == 2
    bench.open(**limited(1))
    bench.open(**limited(1))
    assert (again.times_told, bench.counts) == (0, (3, 0, 1, 3))
    first.exchange.answer()
    assert again.exchange.target is first.exchange.target


def test_is_multiplexed() -> None:
    assert [is_multiplexed(scheme) for scheme in ("h2c", "https", "http", "unix")] == [True, True, False, False]
