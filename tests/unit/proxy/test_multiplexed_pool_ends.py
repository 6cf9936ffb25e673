"""Pools whose connections are shared: tunnels, who gives up, connections that come to an end, and the pool's end."""

from __future__ import annotations

import pytest
from tests.integration.h2_frames import ENABLE_CONNECT_PROTOCOL, MAX_CONCURRENT_STREAMS, goaway
from tests.unit.proxy.multiplexing import Bench, limited

from txgateway.errors import PoolExhausted, UpstreamConnectFailed

CONNECTS = {"settings": {ENABLE_CONNECT_PROTOCOL: 1}}


# --- tunnels --------------------------------------------------------------------------------------------------------------


def test_tunnel_has_an_http1_connection_while_nothing_is_known() -> None:
    bench = Bench(tunnels=True)
    waiter = bench.one(tunnel=True)
    assert (len(bench.dialer.dials), len(bench.tunnel_dialer.dials)) == (0, 1)
    assert bench.counts == (0, 0, 1, 1)
    connection = bench.tunnel_dialer.dials[0].succeed()
    assert waiter.connections == [connection]
    assert bench.counts == (1, 0, 0, 1)
    connection.finish()
    assert bench.counts == (0, 1, 0, 1)


@pytest.mark.parametrize(("connects", "streams"), [(0, 100), (1, 1), (1, 0)])
def test_tunnel_has_an_http1_connection_where_no_shared_one_takes_it(connects: int, streams: int) -> None:
    bench = Bench(tunnels=True)
    bench.one()
    bench.open(settings={ENABLE_CONNECT_PROTOCOL: connects, MAX_CONCURRENT_STREAMS: streams})
    bench.one(tunnel=True)
    assert len(bench.tunnel_dialer.dials) == 1


def test_tunnel_has_an_http1_connection_where_more_is_under_way_than_may_be() -> None:
    bench = Bench(tunnels=True)
    bench.ask(2)
    target = bench.open(**CONNECTS)
    target.change({MAX_CONCURRENT_STREAMS: 1})
    bench.one(tunnel=True)
    assert len(bench.tunnel_dialer.dials) == 1


def test_tunnel_shares_a_connection_that_takes_it() -> None:
    bench = Bench(tunnels=True)
    first = bench.one()
    target = bench.open(**CONNECTS)
    waiter = bench.one(tunnel=True)
    assert waiter.exchange.target is first.exchange.target is target
    assert bench.tunnel_dialer.dials == []


def test_tunnel_to_a_target_that_always_speaks_http2_waits_for_that() -> None:
    bench = Bench()
    waiter = bench.one(tunnel=True)
    bench.open()
    assert waiter.times_told == 1
    assert waiter.exchange is not None


def test_waiter_for_a_tunnel_may_cancel() -> None:
    bench = Bench(tunnels=True)
    waiter = bench.one(tunnel=True)
    bench.pool.cancel(waiter)
    assert (bench.tunnel_dialer.cancelled, bench.pool.pending, waiter.times_told) == (1, 0, 0)


# --- who gives up -----------------------------------------------------------------------------------------------------------


def test_dial_is_dropped_with_its_only_waiter() -> None:
    bench = Bench()
    waiter = bench.one()
    bench.pool.cancel(waiter)
    assert (bench.dialer.cancelled, bench.counts) == (1, (0, 0, 0, 0))
    bench.pool.cancel(waiter)
    assert waiter.times_told == 0


def test_connection_that_has_not_introduced_itself_is_dropped_with_its_only_waiter() -> None:
    bench = Bench()
    waiter = bench.one()
    target = bench.dialer.dials[0].greet()
    bench.pool.cancel(waiter)
    assert bench.counts == (0, 0, 0, 0)
    bench.turn()
    assert target.closed
    assert waiter.times_told == 0
    again = bench.one()
    assert len(bench.dialer.dials) == 1
    bench.open()
    assert again.times_told == 1


@pytest.mark.parametrize("greets_before", [True, False])
def test_dial_goes_on_for_who_queues_behind_it(greets_before: bool) -> None:
    bench = Bench()
    first, second = bench.ask(2)
    target = bench.dialer.dials[0].greet() if greets_before else None
    bench.pool.cancel(first)
    assert bench.counts == (0, 0, 1, 1)
    if target is None:
        bench.open()
    bench.turn()
    assert (first.times_told, second.times_told) == (0, 1)


def test_who_queues_may_cancel() -> None:
    bench = Bench()
    first, second, third = bench.ask(3)
    bench.pool.cancel(second)
    bench.open()
    assert [waiter.times_told for waiter in (first, second, third)] == [1, 0, 1]
    assert bench.counts == (1, 0, 0, 1)


def test_connection_for_nobody_is_kept() -> None:
    bench = Bench(max_connections=2)
    first = bench.one()
    bench.open(**limited(1))
    second = bench.one()
    first.exchange.answer()  # who waits with a dial takes what is free first
    assert second.times_told == 1
    assert len(bench.dialer.dials) == 1
    bench.open(**limited(1))
    assert bench.counts == (1, 1, 0, 2)


# --- connections that end -----------------------------------------------------------------------------------------------------


def test_goaway_moves_new_exchanges_to_another_connection() -> None:
    bench = Bench(max_connections=1)
    waiter = bench.one()
    old = bench.open()
    old.raw(goaway(1))
    assert bench.counts == (0, 0, 0, 0)
    again = bench.one()
    assert len(bench.dialer.dials) == 1
    new = bench.open()
    assert again.exchange.target is new
    waiter.exchange.answer()
    again.exchange.answer()
    assert waiter.handler.names == again.handler.names == ["head", "body", "end"]
    assert (old.closed, new.closed) == (True, False)


@pytest.mark.parametrize("how", ["goaway", "lost", "fault"])
def test_who_waits_for_a_connection_that_ends_gets_another(how: str) -> None:
    bench = Bench(max_connections=1)
    first = bench.one()
    old = bench.open(**limited(1))
    second = bench.one()
    if how == "goaway":
        old.raw(goaway(1))
    elif how == "lost":
        old.transport.reset()
    else:
        old.transport.send(b"\0" * 9)
    assert len(bench.dialer.dials) == 1
    assert second.times_told == 0
    new = bench.open()
    assert second.exchange.target is new
    assert (first.handler.names == []) == (how == "goaway")


def test_one_that_fails_may_ask_for_a_fresh_one_in_its_place() -> None:
    bench = Bench(max_connections=1, max_pending=0)
    first = bench.one()
    target = bench.open()
    again = []
    first.handler.on_failed = lambda error: again.append(bench.ask(fresh=True))  # type: ignore[method-assign]
    target.transport.reset()
    assert len(again) == 1
    assert len(bench.dialer.dials) == 1


def test_idle_connection_is_closed_and_forgotten() -> None:
    bench = Bench(idle_timeout_s=5.0)
    waiter = bench.one()
    target = bench.open()
    waiter.exchange.cancel()
    bench.wait(4)
    assert bench.counts == (0, 1, 0, 1)
    bench.wait(2.5)
    assert bench.counts == (0, 0, 0, 0)
    assert target.closed


def test_old_connection_gets_no_more_exchanges() -> None:
    bench = Bench(max_age_s=10.0, idle_timeout_s=100.0)
    first = bench.one()
    old = bench.open()
    bench.wait(9.5)
    assert bench.one().exchange.target is old
    bench.clock.advance(0.6)  # looked at every second, but asked every time
    second = bench.one()
    assert second.times_told == 0
    new = bench.open()
    assert second.exchange.target is new
    bench.wait(2)
    first.exchange.answer()
    assert first.handler.names[-1] == "end"


def test_old_idle_connection_is_closed_though_nobody_asks() -> None:
    bench = Bench(max_age_s=10.0, idle_timeout_s=100.0)
    waiter = bench.one()
    target = bench.open()
    waiter.exchange.answer()
    bench.wait(11.5)
    assert (target.closed, bench.counts) == (True, (0, 0, 0, 0))


def test_old_connection_makes_room_at_once() -> None:
    bench = Bench(max_connections=1, max_pending=0, max_age_s=10.0, idle_timeout_s=100.0)
    first = bench.one()
    old = bench.open()
    bench.wait(9.9)
    bench.clock.advance(0.2)
    second = bench.one()
    assert len(bench.dialer.dials) == 1
    first.exchange.answer()
    assert old.closed
    bench.open()
    assert second.times_told == 1


def test_age_begins_with_the_connection() -> None:
    bench = Bench(max_age_s=10.0, idle_timeout_s=100.0)
    bench.one()
    bench.wait(9)
    bench.open()
    bench.wait(9)
    assert bench.one().times_told == 1


# --- the pool's end -----------------------------------------------------------------------------------------------------------


def test_close_lets_exchanges_end_and_refuses_all_others() -> None:
    bench = Bench(tunnels=True, max_connections=3, max_pending=5)
    first = bench.one()
    busy = bench.open(**limited(1))
    dialing = bench.one()
    tunnel = bench.one(tunnel=True)
    queued, behind = bench.one(), bench.one(tunnel=True)
    assert len(bench.dialer.dials) == len(bench.tunnel_dialer.dials) == 1
    bench.pool.close()
    assert [waiter.error for waiter in (dialing, queued, tunnel, behind)] == [PoolExhausted] * 4
    assert (bench.dialer.dials, bench.dialer.cancelled, bench.tunnel_dialer.cancelled) == ([], 1, 1)
    assert bench.counts == (0, 0, 0, 0)
    with pytest.raises(PoolExhausted):
        bench.ask()
    with pytest.raises(PoolExhausted):
        bench.ask(tunnel=True)
    first.exchange.answer()
    assert first.handler.names == ["head", "body", "end"]
    assert busy.closed
    bench.pool.close()
    bench.wait(2)
    assert bench.clock.getDelayedCalls() == []


def test_close_in_the_middle_of_an_introduction() -> None:
    bench = Bench()
    waiters = bench.ask(3)
    target = bench.dialer.dials[0].greet()
    bench.pool.close()
    assert [waiter.error for waiter in waiters] == [PoolExhausted] * 3
    bench.turn()
    assert target.closed
    assert bench.dialer.dials == []
    assert bench.counts == (0, 0, 0, 0)


def test_close_of_an_idle_pool() -> None:
    bench = Bench()
    waiter = bench.one()
    target = bench.open()
    waiter.exchange.answer()
    bench.pool.close()
    bench.turn()
    assert target.closed
    assert not target.transport.aborted


def test_who_is_refused_at_the_end_may_ask_once_more_in_vain() -> None:
    bench = Bench(max_connections=2)
    bench.one()
    bench.open(**limited(1))
    waiter = bench.one()
    errors: list[type] = []

    def ask_again(error: Exception) -> None:
        with pytest.raises(PoolExhausted):
            bench.ask()
        errors.append(type(error))

    waiter.on_unavailable = ask_again  # type: ignore[method-assign]
    bench.pool.close()
    assert errors == [PoolExhausted]
    assert bench.dialer.dials == []


def test_who_is_refused_may_ask_once_more() -> None:
    bench = Bench()
    first, second = bench.ask(2)
    again = []
    first.on_unavailable = lambda error: again.extend(bench.ask())  # type: ignore[method-assign]
    bench.dialer.dials[0].fail(UpstreamConnectFailed())
    assert second.error is UpstreamConnectFailed
    assert len(again) == len(bench.dialer.dials) == 1
    bench.open()
    assert again[0].times_told == 1
