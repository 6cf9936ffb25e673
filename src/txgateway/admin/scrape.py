"""``/metrics``: a long text, written a slice at a time, so that no scrape holds up the gateway's own requests.

A slice ends after :data:`SLICE_S` or :data:`SLICE_BYTES`; there is one in a turn of the reactor, however many scrapers
there are. A scraper that does not read is waited for, with no more than two slices in memory, and then cut off:
twisted.web's own timeout does not run while a response is being made.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol

from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from txgateway.telemetry.exposition import accepts_gzip

#: What one turn of the reactor may give to scrapes.
SLICE_S = 0.001
#: As much as Twisted holds before it tells a producer to stop.
SLICE_BYTES = 64 * 1024
#: An idle connection is closed after this, and so is that of a scraper that has not read anything for so long.
TIMEOUT_S = 30
#: The fastest: the text shrinks to a fifteenth even so.
_GZIP_LEVEL = 1
#: For zlib: the largest window, and a gzip header.
_GZIP_WBITS = 31

_log = Logger(__name__)


class Metrics(Protocol):
    """What makes the text."""

    def exposition(self, accept: bytes, /) -> tuple[bytes, Iterator[bytes]]:
        """Content type and body for an ``Accept`` header value, in pieces that are quickly made."""


class MetricsPage(Resource):
    """The resource.

    Args:
        metrics: makes the text.
        timeout_s: for scrapers that do not read.
    """

    isLeaf = True

    def __init__(self, metrics: Metrics, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__()
        self._metrics = metrics
        self._timeout_s = timeout_s
        self._turns = _Turns()

    def render(self, request: Request) -> int | bytes:
        content_type, pieces = self._metrics.exposition(_field(request, b"accept"))
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Vary", b"Accept, Accept-Encoding")
        is_gzip = accepts_gzip(_field(request, b"accept-encoding"))
        if is_gzip:
            request.setHeader(b"Content-Encoding", b"gzip")
        if request.method == b"HEAD":
            return b""
        assert request.site is not None
        _Scrape(request, pieces, self._turns, request.site.reactor, self._timeout_s, is_gzip).start()
        return NOT_DONE_YET


def _field(request: Request, name: bytes) -> bytes:
    return b",".join(request.requestHeaders.getRawHeaders(name) or [])


class _Turns:
    """Lets one scrape at a time do a slice, all of them in turn."""

    def __init__(self) -> None:
        self._waiting: deque[_Scrape] = deque()
        self._call: IDelayedCall | None = None

    def queue(self, scrape: _Scrape) -> None:
        """It has something to do; once is enough."""
        if scrape not in self._waiting:
            self._waiting.append(scrape)
        if self._call is None:
            self._call = scrape.clock.callLater(0, self._turn)

    def remove(self, scrape: _Scrape) -> None:
        """It must wait, or is over."""
        if scrape in self._waiting:
            self._waiting.remove(scrape)

    def _turn(self) -> None:
        self._call = None
        if self._waiting:
            self._waiting.popleft().work()
        if self._waiting:
            self.queue(self._waiting[0])


@implementer(IPushProducer)
class _Scrape:
    """One response on its way."""

    def __init__(
        self, request: Request, pieces: Iterator[bytes], turns: _Turns, clock: Any, timeout_s: float, is_gzip: bool
    ) -> None:
        self.clock = clock
        self._request = request
        self._pieces = pieces
        self._turns = turns
        self._timeout_s = timeout_s
        self._gzip = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WBITS) if is_gzip else None
        self._is_paused = False
        self._is_over = False
        self._deadline: IDelayedCall | None = None

    def start(self) -> None:
        """Begin to write."""
        self._request.notifyFinish().addBoth(lambda _: self.stopProducing())
        self._request.registerProducer(self, True)
        self._turns.queue(self)

    def work(self) -> None:
        """Write one slice, and the end if that is reached."""
        try:
            data, is_last = self._slice()
        except Exception:  # noqa: BLE001 -- whatever it is, the response cannot be finished
            _log.failure("metrics cannot be written")
            self._cut()
            return
        if data:
            self._request.write(data)  # which may call pauseProducing
        if is_last and not self._is_over:
            self.stopProducing()
            self._request.unregisterProducer()
            self._request.finish()
        elif not self._is_paused and not self._is_over:
            self._turns.queue(self)

    def _slice(self) -> tuple[bytes, bool]:
        ends_at = self.clock.seconds() + SLICE_S
        parts, size, is_last = [], 0, True
        for piece in self._pieces:
            parts.append(piece)
            size += len(piece)
            if size >= SLICE_BYTES or self.clock.seconds() >= ends_at:
                is_last = False
                break
        data = b"".join(parts)
        if self._gzip is not None:
            data = self._gzip.compress(data) + (self._gzip.flush() if is_last else b"")
        return data, is_last

    def pauseProducing(self) -> None:
        self._is_paused = True
        self._turns.remove(self)
        if self._deadline is None and not self._is_over:
            self._deadline = self.clock.callLater(self._timeout_s, self._cut)

    def resumeProducing(self) -> None:
        self._is_paused = False
        self._stop_clock()
        if not self._is_over:
            self._turns.queue(self)

    def stopProducing(self) -> None:
        self._is_over = True
        self._pieces = iter(())
        self._turns.remove(self)
        self._stop_clock()

    def _cut(self) -> None:
        """End it so that it cannot look whole."""
        self.stopProducing()
        transport: Any = self._request.channel.transport
        transport.abortConnection()

    def _stop_clock(self) -> None:
        call, self._deadline = self._deadline, None
        if call is not None and call.active():
            call.cancel()
