"""``GET /events``: a stream of server-sent events that never ends by itself (WHATWG HTML, "Server-sent events").

It shows that the gateway passes bytes on as they come, and notices when a client leaves.
"""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

INTERVAL_S = 1.0


class Events(Resource):
    """One event at once and one each second, until the client leaves.

    Args:
        clock: source of time.
    """

    isLeaf = True

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()
        self._clock = clock

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"content-type", b"text/event-stream")
        request.setHeader(b"cache-control", b"no-store")
        ticker = Ticker(self._clock, request)
        request.notifyFinish().addErrback(ticker.on_departure)
        request.registerProducer(ticker, True)
        ticker.tick()
        return NOT_DONE_YET

    def render_HEAD(self, request: Request) -> bytes:
        request.setHeader(b"content-type", b"text/event-stream")
        return b""


@implementer(IPushProducer)
class Ticker:
    """Writes numbered events to one request; leaves out those that a slow reader has no room for.

    Args:
        clock: source of time.
        request: whom to write to.
    """

    def __init__(self, clock: IReactorTime, request: Request) -> None:
        self._clock = clock
        self._request = request
        self._count = 0
        self._paused = False
        self._call: IDelayedCall | None = None

    def tick(self) -> None:
        """Write an event, and another every second from now on."""
        self._call = self._clock.callLater(INTERVAL_S, self.tick)
        if not self._paused:
            self._request.write(b'event: tick\nid: %d\ndata: {"tick": %d}\n\n' % (self._count, self._count))
        self._count += 1

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False

    def stopProducing(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def on_departure(self, _reason: Failure) -> None:
        """The client has left, whatever the reason."""
        self.stopProducing()
