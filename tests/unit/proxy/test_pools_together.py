"""Two pools of one target, for HTTP/2 and for HTTP/1.1: the limits that they hold together, and who gets a free place."""

from __future__ import annotations

import pytest
from tests.integration.h2_frames import HTTP_1_1_REQUIRED, goaway
from tests.unit.proxy.multiplexing import Bench, Waiter, limited

from txgateway.errors import PoolExhausted, UpstreamConnectFailed, UpstreamReset
from txgateway.proxy.multiplexed_pool import HTTP1_S

# --- one limit --------------------------------------------------------------------------------------------------------------


def both(**settings: float) -> Bench:
    return Bench(tunnels=True, **{"max_connections": 2, "max_pending": 2, "pending_timeout_s": 5.0, **settings})


def tunnels(bench: Bench, times: int) -> list[Waiter]:
    """So many that have been opened."""
    waiters = bench.ask(times, tunnel=True)
    for _ in range(times):
        bench.tunnel_dialer.dials[0].succeed()
    return waiters


def close(waiter: Waiter) -> None:
    """A tunnel comes to its end."""
    (connection,) = waiter.connections
    connection.cancel()


def test_requests_and_tunnels_have_one_limit() -> None:
    bench = both()
    first, second = tunnels(bench, 2)
    request = bench.one()
    assert (bench.dialer.dials, bench.counts) == ([], (2, 0, 1, 2))
    close(first)
    assert len(bench.dialer.dials) == 1
    bench.open()
    assert request.times_told == 1
    assert bench.counts == (2, 0, 0, 2)
    close(second)
    assert bench.counts == (1, 0, 0, 1)


def test_tunnel_waits_for_a_place_of_requests() -> None:
    bench = both()
    first = bench.one()
    bench.open(**limited(1))
    second = bench.one()
    bench.open(**limited(1))
    tunnel = bench.one(tunnel=True)
    assert (bench.tunnel_dialer.dials, bench.counts) == ([], (2, 0, 1, 2))
    first.exchange.answer()  # which leaves its connection idle: it gives way
    assert len(bench.tunnel_dialer.dials) == 1
    assert first.exchange.target.closed
    bench.tunnel_dialer.dials[0].succeed()
    assert tunnel.times_told == 1
    second.exchange.answer()
    assert bench.counts == (1, 1, 0, 2)


def test_place_goes_to_who_waits_longest_on_either_side() -> None:
    bench = both(max_connections=1, max_pending=4)
    first = bench.one()
    bench.open(**limited(1))
    tunnel = bench.one(tunnel=True)
    bench.wait(0.1)
    second = bench.one()
    first.exchange.answer()
    assert (second.times_told, len(bench.tunnel_dialer.dials)) == (0, 1)
    bench.tunnel_dialer.dials[0].succeed()
    assert tunnel.times_told == 1
    bench.wait(0.1)
    third = bench.one(tunnel=True)
    close(tunnel)
    bench.open(**limited(1))
    assert (second.times_told, third.times_told) == (1, 0)  # this time it is the other way round
    second.exchange.answer()
    assert len(bench.tunnel_dialer.dials) == 1


def test_busy_shared_connection_does_not_give_way() -> None:
    bench = both(max_connections=1)
    first, second = bench.ask(2)
    target = bench.open()
    bench.one(tunnel=True)
    first.exchange.answer()
    assert (target.closed, bench.tunnel_dialer.dials, bench.counts) == (False, [], (1, 0, 1, 1))
    assert bench.one().exchange.target is target
    second.exchange.answer()
    assert bench.tunnel_dialer.dials == []


@pytest.mark.parametrize("streams", [1, 100])
def test_idle_shared_connection_gives_way_to_a_tunnel(streams: int) -> None:
    bench = both(max_connections=1)
    request = bench.one()
    target = bench.open(**limited(streams))
    request.exchange.answer()
    tunnel = bench.one(tunnel=True)
    bench.turn()
    assert target.closed
    bench.tunnel_dialer.dials[0].succeed()
    assert (tunnel.times_told, bench.counts) == (1, (1, 0, 0, 1))


def test_idle_http1_connection_gives_way_to_a_request() -> None:
    bench = both(max_connections=1)
    (tunnel,) = tunnels(bench, 1)
    bench.tunnel_dialer.connections[0].finish()  # refused
    assert bench.counts == (0, 1, 0, 1)
    request = bench.one()
    assert not bench.tunnel_dialer.connections[0].is_open
    bench.open()
    assert (tunnel.times_told, request.times_told, bench.counts) == (1, 1, (1, 0, 0, 1))


def test_connection_that_gets_idle_gives_way_to_who_waits() -> None:
    bench = both(max_connections=1)
    tunnels(bench, 1)
    request = bench.one()
    bench.tunnel_dialer.connections[0].finish()
    assert len(bench.dialer.dials) == 1
    assert not bench.tunnel_dialer.connections[0].is_open
    bench.open()
    assert request.times_told == 1


def test_idle_connection_stays_where_a_dial_will_do() -> None:
    bench = both()
    tunnels(bench, 1)
    bench.one()
    bench.tunnel_dialer.connections[0].finish()
    bench.ask(5)
    assert bench.tunnel_dialer.connections[0].is_open
    assert len(bench.dialer.dials) == 1


def test_fresh_takes_the_place_of_an_idle_one_beside() -> None:
    bench = both()
    tunnels(bench, 1)
    bench.tunnel_dialer.connections[0].finish()
    first = bench.one()
    target = bench.open()
    again = bench.one(fresh=True)
    assert again.times_told == 0
    assert not bench.tunnel_dialer.connections[0].is_open
    new = bench.open()
    assert again.exchange.target is new is not target
    assert first.exchange.target is target


def test_fresh_shares_where_tunnels_leave_no_room() -> None:
    bench = both()
    tunnels(bench, 1)
    bench.one()
    target = bench.open()
    assert bench.one(fresh=True).exchange.target is target


@pytest.mark.parametrize("how", ["cancel", "fail"])
def test_dial_that_comes_to_nothing_leaves_its_place(how: str) -> None:
    bench = both(max_connections=1)
    tunnel = bench.one(tunnel=True)
    request = bench.one()
    assert bench.dialer.dials == []
    if how == "cancel":
        bench.pool.cancel(tunnel)
    else:
        bench.tunnel_dialer.dials[0].fail(UpstreamConnectFailed())
    assert len(bench.dialer.dials) == 1
    bench.open()
    assert request.times_told == 1


def test_dial_for_nobody_leaves_its_place_too() -> None:
    bench = both()
    tunnels(bench, 1)
    second = bench.one(tunnel=True)
    bench.tunnel_dialer.connections[0].finish()  # the second has this one now, and its dial is for nobody
    third = bench.one()
    assert (second.times_told, third.times_told, bench.dialer.dials) == (1, 0, [])
    bench.tunnel_dialer.dials[0].succeed()
    assert len(bench.dialer.dials) == 1
    assert bench.counts == (1, 0, 1, 2)


# --- one queue --------------------------------------------------------------------------------------------------------------


def test_queues_are_bounded_together() -> None:
    bench = both(max_connections=1)
    tunnels(bench, 1)
    bench.one()
    bench.one(tunnel=True)
    for tunnel in (True, False):
        with pytest.raises(PoolExhausted):
            bench.one(tunnel=tunnel)
    assert bench.pool.pending == 2


def test_who_queues_for_a_dial_takes_no_room_from_tunnels() -> None:
    bench = both()
    bench.ask(50)
    tunnels(bench, 1)
    bench.ask(2, tunnel=True)
    with pytest.raises(PoolExhausted):
        bench.one(tunnel=True)
    bench.ask(50)  # that many come of the dial
    with pytest.raises(PoolExhausted):
        bench.one()


@pytest.mark.parametrize("first", ["request", "tunnel"])
def test_place_goes_to_who_waits_longest(first: str) -> None:
    bench = both(max_connections=1)
    (lent,) = tunnels(bench, 1)
    asks = [False, True] if first == "request" else [True, False]
    for tunnel in asks:
        bench.one(tunnel=tunnel)
        bench.wait(0.5)
    close(lent)
    assert (len(bench.dialer.dials), len(bench.tunnel_dialer.dials)) == ((1, 0) if first == "request" else (0, 1))


def test_used_connection_is_not_lent_past_who_waits_longer_beside() -> None:
    bench = both(max_connections=1)
    tunnels(bench, 1)
    request = bench.one()
    bench.wait(0.5)
    tunnel = bench.one(tunnel=True)
    bench.tunnel_dialer.connections[0].finish()
    assert (len(bench.dialer.dials), tunnel.times_told) == (1, 0)
    bench.open()
    assert request.times_told == 1


# --- HTTP/1.1 is required ---------------------------------------------------------------------------------------------------


def test_target_that_requires_http1_is_asked_over_that_for_a_while() -> None:
    bench = both()
    first = bench.one()
    target = bench.open()
    first.exchange.send_reset(HTTP_1_1_REQUIRED)
    assert first.handler.names == ["failed"]
    second = bench.one(fresh=True)
    assert len(bench.tunnel_dialer.dials) == 1
    connection = bench.tunnel_dialer.dials[0].succeed()
    assert second.connections == [connection]
    connection.finish()
    bench.wait(HTTP1_S - 1)
    bench.one()
    assert (len(bench.tunnel_dialer.dials), bench.dialer.dials) == (1, [])
    bench.wait(2)
    bench.one()
    assert len(bench.dialer.dials) == 1
    assert target.closed  # idle for long


def test_goaway_of_any_other_kind_requires_nothing() -> None:
    bench = both()
    bench.one()
    bench.open().raw(goaway(1))
    bench.one()
    assert (len(bench.dialer.dials), bench.tunnel_dialer.dials) == (1, [])


def test_what_needs_http2_goes_on_with_it() -> None:
    bench = both()
    first = bench.one()
    bench.open()
    first.exchange.send_reset(HTTP_1_1_REQUIRED)
    call = Waiter(bench)
    call.needs_http2 = True
    connection = bench.pool.acquire(call)
    assert connection is not None
    assert connection.version == b"2"


def test_all_who_wait_get_http1() -> None:
    bench = both(max_connections=3, max_pending=1)
    waiters = bench.ask(4)
    call = Waiter(bench)
    call.needs_http2 = True
    assert bench.pool.acquire(call) is None
    target = bench.dialer.dials[0].greet()
    target.raw(target.link.take() + goaway(0, HTTP_1_1_REQUIRED))
    assert [len(waiter.errors) for waiter in waiters] == [0, 0, 0, 1]  # the queue is full then
    assert call.error is UpstreamReset
    assert target.closed
    connections = [bench.tunnel_dialer.dials[0].succeed() for _ in range(3)]
    assert [waiter.connections for waiter in waiters[:3]] == [[connection] for connection in connections]
    assert bench.counts == (3, 0, 0, 3)


def test_who_wait_may_get_what_is_idle() -> None:
    bench = both()
    tunnels(bench, 1)
    bench.tunnel_dialer.connections[0].finish()
    first, second = bench.ask(2)
    target = bench.dialer.dials[0].greet()
    target.raw(target.link.take() + goaway(0, HTTP_1_1_REQUIRED))
    assert first.connections == bench.tunnel_dialer.connections
    assert (second.times_told, len(bench.tunnel_dialer.dials)) == (0, 1)


def test_who_wants_a_connection_that_was_never_used_gets_one_by_http1_too() -> None:
    bench = both()
    tunnels(bench, 1)
    bench.tunnel_dialer.connections[0].finish()
    fresh = Waiter(bench)
    assert bench.pool.acquire(fresh, fresh=True) is None
    target = bench.dialer.dials[0].greet()
    target.raw(target.link.take() + goaway(0, HTTP_1_1_REQUIRED))
    assert (fresh.times_told, len(bench.tunnel_dialer.dials)) == (0, 1)
    connection = bench.tunnel_dialer.dials[0].succeed()
    assert fresh.connections == [connection]


def test_no_dial_is_left_that_nobody_waits_for() -> None:
    bench = both(max_connections=3)
    first = bench.one()
    bench.open(**limited(1))
    waiters = bench.ask(3)
    assert (len(bench.dialer.dials), bench.counts) == (2, (1, 0, 3, 3))
    first.exchange.send_reset(HTTP_1_1_REQUIRED)
    assert bench.dialer.dials == []
    assert [waiter.times_told for waiter in waiters] == [0, 0, 0]
    for _ in waiters:
        bench.tunnel_dialer.dials[0].succeed()
    assert [len(waiter.connections) for waiter in waiters] == [1, 1, 1]


def test_pool_that_is_closed_falls_back_to_nothing() -> None:
    bench = both()
    first = bench.one()
    bench.open()
    bench.pool.close()
    assert not bench.pool.on_http1_required()
    first.exchange.answer()
    assert not Bench().pool.on_http1_required()
