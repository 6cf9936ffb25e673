"""``/metrics`` a slice at a time: over a transport in memory and a clock by hand, and over real sockets."""

from __future__ import annotations

import gzip
import socket
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock, deferLater
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure
from twisted.web.server import Site

from txgateway.admin.scrape import SLICE_BYTES, SLICE_S, MetricsPage

TIMEOUT_S = 30.0
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


class Pieces:
    """Metrics that are these pieces, with a look at how many were asked for."""

    def __init__(self, clock: Clock, *, size: int = 1000, count: int = 1000, cost_s: float = 0.0) -> None:
        self._clock = clock
        self._cost_s = cost_s
        self.body = [b"%06d " % number + b"x" * (size - 8) + b"\n" for number in range(count)]
        self.taken = 0
        self.accepts: list[bytes] = []

    def exposition(self, accept: bytes) -> tuple[bytes, Iterator[bytes]]:
        self.accepts.append(accept)
        return b"text/plain", self._pieces()

    def _pieces(self) -> Iterator[bytes]:
        for piece in self.body:
            self.taken += 1
            self._clock.rightNow += self._cost_s
            yield piece


class Scraper:
    """A connection to a site."""

    def __init__(self, site: Site, request: bytes = REQUEST) -> None:
        self.transport: Any = StringTransport(peerAddress=IPv4Address("TCP", "127.0.0.1", 5))
        self.channel: Any = site.buildProtocol(None)
        self.channel.makeConnection(self.transport)
        self.channel.dataReceived(request + b"\r\n")

    @property
    def received(self) -> bytes:
        value: bytes = self.transport.value()
        return value

    @property
    def body(self) -> bytes:
        """The chunks so far, together."""
        rest, body = self.received.partition(b"\r\n\r\n")[2], b""
        while rest:
            size, _, rest = rest.partition(b"\r\n")
            body, rest = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        return body

    @property
    def is_complete(self) -> bool:
        return self.received.endswith(b"\r\n0\r\n\r\n")


class Served:
    def __init__(self, **pieces: Any) -> None:
        self.clock = Clock()
        self.metrics = Pieces(self.clock, **pieces)
        self.site = Site(MetricsPage(self.metrics, TIMEOUT_S), reactor=self.clock)

    def turn(self) -> int:
        """One turn of the reactor; how many pieces were made in it."""
        before = self.metrics.taken
        due: list[Any] = [call for call in self.clock.getDelayedCalls() if call.getTime() <= self.clock.seconds()]
        for call in due:  # what they put off is for the next turn, other than with Clock.advance
            self.clock.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)
        return self.metrics.taken - before

    def finish(self, scraper: Scraper) -> None:
        """Turns until all of it is there."""
        for _ in range(1000):
            if scraper.is_complete:
                return
            self.turn()
        raise AssertionError("it never ends")


def test_nothing_is_made_before_the_next_turn_and_no_more_than_a_slice_in_it() -> None:
    served = Served(size=1000, count=200)
    scraper = Scraper(served.site, REQUEST + b"Accept: text/plain;q=1\r\nAccept: */*;q=0.1\r\n")
    assert served.metrics.taken == 0
    turns: list[int] = []
    while not scraper.is_complete and len(turns) < 9:
        turns.append(served.turn())
    assert turns == [66, 66, 66, 2]  # the first that reach 64 KiB
    assert scraper.body == b"".join(served.metrics.body)
    assert served.metrics.accepts == [b"text/plain;q=1,*/*;q=0.1"]
    head = scraper.received.partition(b"\r\n\r\n")[0]
    assert b"Content-Type: text/plain" in head
    assert b"Vary: Accept, Accept-Encoding" in head
    assert b"Content-Encoding" not in head


def test_a_slice_ends_when_its_time_is_over() -> None:
    served = Served(count=10, cost_s=SLICE_S / 2.5)
    Scraper(served.site)
    assert [served.turn() for _ in range(5)] == [3, 3, 3, 1, 0]


@pytest.mark.parametrize("fields", [b"", b"Accept-Encoding: gzip\r\n"])
def test_several_scrapes_take_turns_and_do_no_more_together_than_one(fields: bytes) -> None:
    served = Served(count=9, cost_s=SLICE_S / 2.5)
    scrapers = [Scraper(served.site, REQUEST + fields) for _ in range(3)]
    turns = [served.turn() for _ in range(12)]
    assert turns == [3] * 9 + [0] * 3
    for scraper in scrapers:
        assert scraper.is_complete
        assert (gzip.decompress(scraper.body) if fields else scraper.body) == b"".join(served.metrics.body)


def test_gzip_for_who_asks_for_it() -> None:
    served = Served(size=5000, count=300)
    scraper = Scraper(served.site, REQUEST + b"Accept-Encoding: br\r\nAccept-Encoding: gzip;q=0.5\r\n")
    for _ in range(100):
        assert served.turn() <= 1 + SLICE_BYTES // 5000
    assert b"\r\nContent-Encoding: gzip\r\n" in scraper.received
    assert gzip.decompress(scraper.body) == b"".join(served.metrics.body)
    assert len(scraper.body) < 300 * 5000 / 10


def test_head_makes_no_text() -> None:
    served = Served()
    scraper = Scraper(served.site, REQUEST.replace(b"GET", b"HEAD") + b"Accept-Encoding: gzip\r\n")
    served.turn()
    assert served.metrics.taken == 0
    assert scraper.received.startswith(b"HTTP/1.1 200 OK")
    assert scraper.received.endswith(b"\r\n\r\n")


def test_the_connection_serves_the_next_scrape_too() -> None:
    served = Served(count=100)
    scraper = Scraper(served.site)
    served.finish(scraper)
    scraper.transport.clear()
    scraper.channel.dataReceived(REQUEST + b"\r\n")
    served.finish(scraper)
    assert scraper.body == b"".join(served.metrics.body)


def test_who_does_not_read_is_waited_for_and_others_are_served() -> None:
    served = Served()
    slow, other = Scraper(served.site), Scraper(served.site)
    assert served.turn() == 66
    slow.transport.producer.pauseProducing()
    seen = len(slow.received)
    for _ in range(100):
        assert served.turn() <= 66
    assert other.is_complete
    assert len(slow.received) == seen
    served.clock.advance(TIMEOUT_S - 1)
    slow.transport.producer.resumeProducing()
    served.clock.advance(2)  # the deadline is gone
    served.finish(slow)
    assert slow.body == other.body
    assert not slow.transport.disconnecting


def test_who_does_not_read_for_too_long_is_cut_off_and_cannot_take_it_for_the_end() -> None:
    served = Served()
    scraper = Scraper(served.site)
    served.turn()
    scraper.transport.producer.pauseProducing()
    served.clock.advance(TIMEOUT_S - 0.1)
    assert not scraper.transport.disconnected
    served.clock.advance(0.2)
    assert scraper.transport.disconnected
    assert not scraper.is_complete
    scraper.channel.connectionLost(Failure(ConnectionDone()))
    taken = served.metrics.taken
    served.clock.pump([1.0] * 100)
    assert served.metrics.taken == taken
    assert served.clock.getDelayedCalls() == []


@pytest.mark.parametrize("is_paused", [False, True])
def test_who_goes_away_leaves_nothing_behind(is_paused: bool) -> None:
    served = Served()
    scraper = Scraper(served.site)
    served.turn()
    if is_paused:
        scraper.transport.producer.pauseProducing()
    scraper.channel.connectionLost(Failure(ConnectionDone()))
    served.turn()
    assert served.metrics.taken == 66
    assert served.clock.getDelayedCalls() == []


def test_a_failure_half_way_ends_the_connection_and_not_the_others() -> None:
    served = Served()

    def failing() -> Iterator[bytes]:
        yield b"x\n" * SLICE_BYTES
        raise RuntimeError("backend list changed")

    whole, served.metrics._pieces = served.metrics._pieces, failing  # type: ignore[method-assign]
    broken = Scraper(served.site)
    served.metrics._pieces = whole  # type: ignore[method-assign]
    other = Scraper(served.site)
    served.finish(other)
    assert broken.transport.disconnected
    assert not broken.is_complete
    assert len(broken.body) == 2 * SLICE_BYTES


@pytest_twisted.ensureDeferred
async def test_over_a_real_socket_a_silent_scraper_holds_little_and_is_cut() -> None:
    from twisted.internet import reactor as installed  # noqa: TID251 - real sockets

    reactor: Any = installed
    served = Served(size=10_000, count=10_000)
    page = MetricsPage(served.metrics, timeout_s=0.5)
    port = reactor.listenTCP(0, Site(page), interface="127.0.0.1")
    with socket.socket() as scraper:
        scraper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        scraper.connect(("127.0.0.1", port.getHost().port))
        scraper.sendall(REQUEST + b"\r\n")
        stalled_at = await _standstill(reactor, served.metrics)
        # What is in the kernel counts too: a few megabytes at most, of a hundred.
        assert stalled_at * 10_000 < 20_000_000
        scraper.settimeout(10)
        ended = await deferToThread(_read_to_end, scraper)
    assert not ended.endswith(b"0\r\n\r\n")
    assert served.metrics.taken == stalled_at
    await port.stopListening()


async def _standstill(reactor: Any, metrics: Pieces) -> int:
    while True:
        taken = metrics.taken
        waiting: Deferred[None] = deferLater(reactor, 0.15)
        await waiting
        if taken and metrics.taken == taken:
            # Until it is cut; reading before that would set it going again.
            await deferLater(reactor, 0.6)
            return taken


def _read_to_end(scraper: socket.socket) -> bytes:
    data = b""
    try:
        while some := scraper.recv(1 << 20):
            data = (data + some)[-100:]
    except ConnectionResetError:
        pass
    return data
