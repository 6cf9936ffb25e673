"""A backend to try the gateway with: a small resume service on stock twisted.web, and an echo of everything else.

It listens on the loopback interface only and is what ``GATEWAY_BACKEND_TARGET=demo`` stands for. What it answers is
in :mod:`txgateway.demo.resources`.
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort, IReactorTCP, IReactorTime
from twisted.web.http import Request
from twisted.web.server import Site

from txgateway.demo.resources import Demo

__all__ = ["DemoSite", "start"]


class DemoSite(Site):
    """The demo as a protocol factory.

    Args:
        clock: source of all its time: delays, tickers, connection timeouts.
    """

    noisy = False

    def __init__(self, clock: IReactorTime) -> None:
        # Every body arrives as it was sent: nothing here wants a parsed form.
        super().__init__(Demo(clock), parsePOSTFormSubmission=False, reactor=clock)

    def log(self, request: Request) -> None:
        """Log nothing: the gateway in front has an access log, and one that keeps queries out."""


def start(reactor: IReactorTCP, clock: IReactorTime | None = None) -> Deferred[IListeningPort]:
    """Listen on a free port of 127.0.0.1.

    Args:
        reactor: where to listen.
        clock: source of time, if not the reactor itself.

    Returns:
        The port, already listening; ``getHost().port`` is its number and ``stopListening()`` ends it.
    """
    site = DemoSite(IReactorTime(reactor) if clock is None else clock)
    listening: Deferred[IListeningPort] = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
    return listening
