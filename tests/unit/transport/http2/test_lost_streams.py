"""Streams whose connection is gone: they hear of it, but not all in one turn of the reactor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.helpers.http2_client import Http2Client
from tests.integration.h2_frames import ENHANCE_YOUR_CALM, settings_frame
from tests.unit.support import Server, logged_failures
from twisted.internet.task import Clock

from txgateway.transport.http2.floods import LOST_STREAMS, SETTINGS
from txgateway.transport.http2.server import MAX_STREAMS


def turn(clock: Clock) -> None:
    """One turn: what is asked for in it comes in the next."""
    calls, clock.calls = clock.calls, []
    for call in calls:
        if call.time <= clock.seconds():
            call.func(*call.args, **call.kw)
        else:
            clock.calls.append(call)


def lose_by_the_client(client: Http2Client) -> None:
    client.transport.reset()


def lose_by_a_fault(client: Http2Client) -> None:
    client.transport.send(settings_frame([(0xF000, 1)] * (SETTINGS + 1)))


@pytest.mark.parametrize("lose", [lose_by_the_client, lose_by_a_fault])
@pytest.mark.parametrize("count", [1, LOST_STREAMS, LOST_STREAMS + 1, MAX_STREAMS])
def test_so_many_hear_of_it_in_a_turn(lose: Callable[[Http2Client], None], count: int) -> None:
    server = Server()
    client = Http2Client(server)
    for number in range(count):
        client.request(2 * number + 1)
    lose(client)
    assert not client.connection.streams
    told = 0
    while told < count:
        told = min(count, told + LOST_STREAMS)
        assert [request.ended for request in server.requests] == [True] * told + [False] * (count - told)
        turn(server.clock)
    assert len({request.reason for request in server.requests}) == 1
    if lose is lose_by_a_fault:
        assert client.goaway == (2 * count - 1, ENHANCE_YOUR_CALM)


def test_connections_take_turns() -> None:
    server = Server()
    clients = [Http2Client(server) for _ in range(2)]
    for client in clients:
        for number in range(LOST_STREAMS + 2):
            client.request(2 * number + 1)
    for client in clients:
        lose_by_the_client(client)
    assert sum(request.ended for request in server.requests) == 2 * LOST_STREAMS
    for more in (2, 4):
        turn(server.clock)
        assert sum(request.ended for request in server.requests) == 2 * LOST_STREAMS + more


@pytest.mark.parametrize("ends", [True, False])
def test_answer_that_comes_meanwhile_is_for_nobody(ends: bool) -> None:
    server = Server()
    client = Http2Client(server)
    for number in range(LOST_STREAMS + 1):
        client.request(2 * number + 1)
    lose_by_a_fault(client)
    client.look()
    last: Any = server.requests[-1]
    assert not last.ended
    last.respond(200, b"", [], 5)
    last.send_body(b"hello" if ends else b"he")
    if ends:
        last.end([])
    last.flush()
    turn(server.clock)
    turn(server.clock)
    assert last.ended
    assert last.reason == "CLIENT_GONE"
    assert client.look() == []


def test_one_that_fails_keeps_it_from_nobody() -> None:
    server = Server()
    client = Http2Client(server)
    for number in range(2 * LOST_STREAMS):
        client.request(2 * number + 1)

    def boom() -> None:
        raise RuntimeError("boom")

    for at in (3, LOST_STREAMS + 3):
        server.requests[at].client_gone = boom  # type: ignore[method-assign]
    with logged_failures() as events:
        lose_by_the_client(client)
        turn(server.clock)
    assert len(events) == 2
    assert sum(request.ended for request in server.requests) == 2 * LOST_STREAMS - 2


def test_connection_counts_until_all_have_heard_of_its_end() -> None:
    server = Server()
    client = Http2Client(server)
    for number in range(LOST_STREAMS + 1):
        client.request(2 * number + 1)
    lose_by_the_client(client)
    assert client.connection in server.factory.connections
    assert client.connection.in_progress
    turn(server.clock)
    assert client.connection not in server.factory.connections
    assert not client.connection.in_progress


def test_end_by_a_fault_and_then_of_the_connection_is_told_once() -> None:
    server = Server()
    client = Http2Client(server)
    for number in range(MAX_STREAMS):
        client.request(2 * number + 1)
    lose_by_a_fault(client)
    lose_by_the_client(client)
    assert sum(request.ended for request in server.requests) == LOST_STREAMS
    assert client.connection in server.factory.connections
    for _ in range(MAX_STREAMS // LOST_STREAMS):
        turn(server.clock)
    assert all(request.ended for request in server.requests)
    assert client.connection not in server.factory.connections
    assert not server.clock.getDelayedCalls() or not client.connection._untold
