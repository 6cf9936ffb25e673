"""The life of a connection to a target: how many exchanges it takes, how long it lives, and whether it is alive."""

from __future__ import annotations

import pytest
from tests.helpers.http2_target import Exchange, Http2Target
from tests.helpers.upstream import RecordingHandler
from tests.integration.h2_frames import MAX_CONCURRENT_STREAMS, data_frame, ping
from tests.unit.support import MemoryTransport
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory

from txgateway.errors import UpstreamReset, UpstreamTimeout
from txgateway.transport.http2.client import (
    GREETING_TIMEOUT_S,
    MAX_STREAMS,
    PING_AFTER_S,
    PING_AGAIN_S,
    PING_TIMEOUT_S,
    Http2ClientConnection,
)
from txgateway.transport.wheel import TimerWheel


class Mute(Http2Target):
    """Hears, and says nothing any more."""

    is_mute = False

    def turn(self) -> None:
        if not self.is_mute:
            super().turn()
        else:
            self.clock.advance(0)
            list(self.link.feed(self.transport.received()))


# --- how many -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("announced", "spare"), [(None, MAX_STREAMS), (0, 0), (1, 1), (7, 7), (10**6, MAX_STREAMS)])
def test_as_many_exchanges_as_the_target_takes(announced: int | None, spare: int) -> None:
    target = Http2Target(settings={} if announced is None else {MAX_CONCURRENT_STREAMS: announced})
    assert target.connection.spare == spare
    for left in range(spare - 1, -1, -1):
        target.request()
        assert target.connection.spare == left
    assert target.connection.is_busy == bool(spare)


def test_limit_may_change() -> None:
    target = Http2Target(settings={MAX_CONCURRENT_STREAMS: 2})
    exchanges = [target.request(), target.request()]
    target.change({MAX_CONCURRENT_STREAMS: 1})
    assert target.connection.spare == -1
    assert target.owner.spare == 0
    target.change({MAX_CONCURRENT_STREAMS: 3})
    assert target.connection.spare == 1
    assert target.owner.spare == 1  # somebody may wait for it
    target.change({MAX_CONCURRENT_STREAMS: 3})
    assert target.owner.spare == 1
    for exchange in exchanges:
        exchange.answer()
    assert target.connection.spare == 3


def test_numbers_of_streams_are_used_up() -> None:
    target = Http2Target()
    target.connection._next_id = 2**31 - 7
    last_but_one = target.connection.exchange()
    exchange = target.request()
    assert (exchange.id, target.connection.spare) == (2**31 - 7, MAX_STREAMS - 1)
    other = Exchange(target, last_but_one, RecordingHandler())
    other.stream.start(other.handler, b"GET", b"/", [(b"host", b"Host", b"a")], -1, b"", True)
    target.turn()
    assert (other.id, target.connection.spare) == (2**31 - 5, 0)
    assert len(target.owner.errors) == 1
    exchange.answer()
    assert not target.closed
    other.answer()
    assert other.handler.names == ["head", "body", "end"]
    assert target.closed


# --- how long -----------------------------------------------------------------------------------------------------------


def test_idle_connection_is_closed() -> None:
    target = Http2Target()
    target.connection.idle_timeout_s = 5.0
    target.wait(4)
    exchange = target.request()
    target.wait(10)
    exchange.answer()
    target.wait(4.8)
    assert not target.closed
    assert target.owner.errors == []
    target.wait(1.4)
    assert target.closed
    assert not target.transport.aborted
    assert [(one.last_stream, one.code) for one in target.link.goaways] == [(0, 0)]
    assert len(target.owner.errors) == 1
    assert not target.wheel._coarse
    assert not target.wheel._fine


def test_old_connection_takes_no_more_and_closes_after_its_last() -> None:
    target = Http2Target()
    target.connection.max_age_s = 20.0
    exchange, other = target.request(), target.request()
    target.wait(19)
    assert target.connection.spare == MAX_STREAMS - 2
    target.wait(2)
    assert target.connection.spare == 0
    assert [type(error) for error in target.owner.errors] == [UpstreamReset]
    exchange.answer()
    target.wait(5)
    assert not target.closed
    other.answer()
    assert target.closed
    assert len(target.owner.errors) == 1


def test_old_idle_connection_is_closed() -> None:
    target = Http2Target()
    target.connection.max_age_s = 20.0
    target.wait(21.1)
    assert target.closed


def test_target_that_does_not_introduce_itself_is_given_up() -> None:
    target = Http2Target(greets=False)
    for _ in range(round(GREETING_TIMEOUT_S) * 10 - 5):
        target.clock.advance(0.1)
    assert not target.closed
    target.clock.pump([0.1] * 20)
    assert target.transport.aborted
    assert [type(error) for error in target.owner.errors] == [UpstreamTimeout]
    assert not target.owner.errors[0].bytes_written  # type: ignore[attr-defined]


def test_closing_takes_its_time_and_no_more() -> None:
    target = Http2Target()
    target.transport.takes = False
    target.request()
    target.raw(data_frame(0, b"x"))
    assert not target.closed  # what it fails of waits to be sent
    target.clock.pump([0.1] * 52)
    assert target.transport.aborted
    assert not target.wheel._fine


def test_closing_all_at_once() -> None:
    target = Http2Target()
    exchange = target.request()
    target.connection.cancel()
    target.turn()
    assert exchange.reset == 8
    assert exchange.handler.events == []
    assert target.closed
    assert len(target.link.goaways) == 1


class Tls(ProtocolWrapper):
    """Waits for the other side's closing alert, as Twisted's TLS does."""

    def loseConnection(self) -> None:
        self.disconnecting = 1


def test_closing_does_not_wait_for_an_alert() -> None:
    clock = Clock()
    wheel = TimerWheel(clock)
    connection = Http2ClientConnection(wheel, clock, b"https")
    tcp = MemoryTransport(clock)
    tls = Tls(WrappingFactory(Factory()), connection)
    tcp.protocol = tls
    tls.makeConnection(tcp)
    connection.close()
    clock.advance(0)
    assert tls.disconnecting
    assert tcp.closed
    assert not tcp.aborted


# --- alive ----------------------------------------------------------------------------------------------------------------


def test_silent_target_is_asked_and_lives_if_it_answers() -> None:
    target = Http2Target()
    exchange = target.request()
    target.wait(PING_AFTER_S - 1)
    assert target.link.pings == 0
    target.wait(2)
    assert target.link.pings == 1
    target.wait(PING_TIMEOUT_S + 60)
    assert not target.closed
    exchange.answer()
    assert exchange.handler.names == ["head", "body", "end"]


def test_silent_target_that_does_not_answer_is_dead() -> None:
    target = Mute()
    exchange = target.request()
    target.is_mute = True
    target.wait(PING_AFTER_S + 1)
    assert target.link.pings == 1
    target.wait(PING_TIMEOUT_S - 2)
    assert exchange.handler.events == []
    target.wait(3)
    assert target.transport.aborted
    assert exchange.handler.names == ["failed"]
    error = exchange.handler.error
    assert type(error) is UpstreamReset
    assert str(error) == "no answer to PING"
    assert len(target.owner.errors) == 1


def test_anything_heard_is_an_answer() -> None:
    target = Mute()
    exchange = target.request()
    target.is_mute = True
    target.wait(PING_AFTER_S + 1)
    target.transport.send(ping())
    target.wait(PING_TIMEOUT_S + 5)
    assert not target.closed
    assert exchange.handler.events == []


def test_target_is_not_asked_again_too_soon() -> None:
    target = Http2Target()
    exchange = target.request()
    target.wait(PING_AFTER_S + 2)
    assert target.link.pings == 1
    target.wait(PING_AGAIN_S - 5)
    assert target.link.pings == 1
    target.wait(10)
    assert target.link.pings == 2
    exchange.cancel()
    target.wait(PING_AGAIN_S * 2)
    assert target.link.pings == 2  # nobody waits for anything


def test_target_that_talks_is_not_asked() -> None:
    target = Http2Target()
    exchange = target.request()
    exchange.head(200)
    for _ in range(20):
        target.wait(10)
        exchange.data(b"tick")
    assert target.link.pings == 0


def test_target_is_answered_when_it_asks() -> None:
    clock = Clock()
    target = Http2Target(clock)
    target.raw()
    target.transport.send(ping(b"01234567"))
    assert target.transport.received() == ping(b"01234567", is_ack=True)
