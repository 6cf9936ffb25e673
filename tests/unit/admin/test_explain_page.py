"""``/explain`` of the admin site."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest_twisted
from tests.unit.admin.test_site import Client
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint

from txgateway.admin.site import admin_site
from txgateway.telemetry.metrics import RequestMetrics


class Explainer:
    """Tells what it was told to, and keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.told: Any = {"route": None}

    def __call__(self, query: str) -> Any:
        self.asked.append(query)
        return self.told


class Served(Client):
    explainer: Explainer


@pytest_twisted.async_yield_fixture
async def served() -> AsyncIterator[Served]:
    from twisted.internet import reactor  # noqa: TID251 - real sockets

    explainer = Explainer()
    site = admin_site(
        admin_host="127.0.0.1",
        probes={},
        metrics=RequestMetrics(),
        status=dict,
        history=dict,
        config=dict,
        explain=explainer,
    )
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
    client = Served(port.getHost().port)
    client.explainer = explainer
    yield client
    await port.stopListening()


@pytest_twisted.ensureDeferred
async def test_query_is_passed_on_as_it_came(served: Served) -> None:
    answer = await served.ask(b"/explain?method=GET&url=%2Fa%3Fb%3Dc&header=X%3A+y")
    assert (answer.status, answer.json()) == (200, {"route": None})
    assert answer.headers[b"content-type"] == b"application/json"
    assert answer.headers[b"cache-control"] == b"no-store"
    assert served.explainer.asked == ["method=GET&url=%2Fa%3Fb%3Dc&header=X%3A+y"]


@pytest_twisted.ensureDeferred
async def test_what_is_no_question_is_refused(served: Served) -> None:
    served.explainer.told = {"error": "expected url"}
    answer = await served.ask(b"/explain")
    assert (answer.status, answer.json()) == (400, {"error": "expected url"})
    assert served.explainer.asked == [""]


@pytest_twisted.ensureDeferred
async def test_answer_may_come_later_or_not_at_all(served: Served) -> None:
    served.explainer.told = succeed({"route": {"name": "r"}})
    answer = await served.ask(b"/explain?url=/")
    assert (answer.status, answer.json()) == (200, {"route": {"name": "r"}})
    served.explainer.told = succeed(None)
    assert (await served.ask(b"/explain?url=/")).status == 503
    served.explainer.told = succeed({"error": "x"})
    answer = await served.ask(b"/explain?url=/", b"HEAD")
    assert (answer.status, answer.body) == (400, b"")


@pytest_twisted.ensureDeferred
async def test_client_that_does_not_wait_is_forgotten(served: Served) -> None:
    from twisted.internet import reactor  # noqa: TID251 - real sockets
    from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
    from twisted.internet.protocol import Protocol
    from twisted.internet.task import deferLater

    later: Deferred[Any] = Deferred()
    served.explainer.told = later
    protocol = await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", served.port), Protocol())
    assert protocol.transport is not None
    protocol.transport.write(b"GET /explain?url=/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    while not served.explainer.asked:
        await deferLater(reactor, 0.01)
    protocol.transport.abortConnection()
    await deferLater(reactor, 0.05)
    later.callback({"route": None})


@pytest_twisted.ensureDeferred
async def test_page_is_no_link_and_only_read(served: Served) -> None:
    assert b"/explain" not in (await served.ask(b"/")).body
    assert (await served.ask(b"/explain", b"POST")).status == 405
    assert (await served.ask(b"/explain?url=/", host=b"evil.example")).status == 421
    assert len(served.explainer.asked) == 0
