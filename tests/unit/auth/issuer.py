"""An issuer's JWKS endpoint on a real socket, which does what a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from twisted.internet.posixbase import PosixReactorBase
from twisted.internet.task import Clock, deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from txgateway.auth.jwks import JwksSource


class Issuer(Resource):
    """Answers every path.

    Attributes:
        holds: requests are kept in ``held`` and not answered.
        begins: what a held request is sent all the same, with the length it announces.
        requests: what was asked for.
        gone: how many clients hung up before their answer.
    """

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.document = b'{"keys": []}'
        self.status = 200
        self.headers: dict[bytes, bytes] = {}
        self.holds = False
        self.begins: tuple[bytes, int] | None = None
        self.held: list[Any] = []
        self.requests: list[Any] = []
        self.gone = 0

    def render(self, request: Any) -> Any:
        self.requests.append(request)
        request.setResponseCode(self.status)
        for name, value in self.headers.items():
            request.setHeader(name, value)
        if not self.holds and self.begins is None:
            return self.document
        request.notifyFinish().addErrback(self._lost)
        self.held.append(request)
        if self.begins is not None:
            data, length = self.begins
            if length:
                request.setHeader(b"content-length", str(length).encode())
            request.write(data)
        return NOT_DONE_YET

    def _lost(self, _: object) -> None:
        self.gone += 1

    def release(self) -> None:
        """Answer what was held, with the document of now."""
        self.holds = False
        for request in self.held:
            request.write(self.document)
            request.finish()
        self.held.clear()


class Bench:
    """A source in virtual time, and the issuer it asks over real sockets."""

    def __init__(self, reactor: PosixReactorBase, issuer: Issuer, url: str, **settings: Any) -> None:
        self.reactor = reactor
        self.issuer = issuer
        self.clock = Clock()
        self.changes = 0
        self.events: list[LogEvent] = []
        self.source = JwksSource(url, Agent(reactor), self.clock, Random(1), self._changed, **settings)

    def _changed(self) -> None:
        self.changes += 1

    async def over(self) -> None:
        """Until the download under way has ended."""
        waiting = self.source.refetch()
        assert waiting is not None
        await waiting

    async def start(self) -> None:
        self.source.start()
        await self.source.first_tried

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and the download end that begins then."""
        self.clock.advance(seconds)
        assert self.source._download is not None, "asking for it would begin one"
        await self.over()

    async def turns(self, count: int) -> None:
        """Let the reactor work for a while."""
        for _ in range(count):
            await deferLater(self.reactor, 0)

    async def turns_until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor work until the condition holds; its turns are counted, not timed."""
        for _ in range(10_000):
            if condition():
                return
            await deferLater(self.reactor, 0)
        raise AssertionError("the condition never held")

    def is_tried(self) -> bool:
        """Whether the first download has ended."""
        return bool(self.source.first_tried.called)

    @property
    def messages(self) -> list[str]:
        return [str(event["log_format"]) for event in self.events]


@asynccontextmanager
async def issuing(reactor: PosixReactorBase, *, tls: Any = None, **settings: Any) -> AsyncIterator[Bench]:
    """A bench; at its end nothing is scheduled any more."""
    issuer = Issuer()
    site = Site(issuer, timeout=None)
    if tls is None:
        port = reactor.listenTCP(0, site, interface="127.0.0.1")
        url = f"http://127.0.0.1:{port.getHost().port}/keys?secret=hidden"
    else:
        port = reactor.listenSSL(0, site, tls, interface="127.0.0.1")
        url = f"https://localhost:{port.getHost().port}/keys"
    bench = Bench(reactor, issuer, url, **settings)

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        if event.get("log_namespace") == "txgateway.auth.jwks":
            bench.events.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield bench
    finally:
        bench.source.stop()
        globalLogPublisher.removeObserver(observe)
        for request in issuer.held:
            if request.channel is not None:
                request.channel.loseConnection()
        await port.stopListening()
        assert bench.clock.getDelayedCalls() == []
