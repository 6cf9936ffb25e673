from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support import Inner, StubChannel, logged_failures, stub_request
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from txgateway.errors import NoRoute
from txgateway.middleware.base import Middleware


class Waits(Middleware):
    def __init__(self, deferred: Deferred[Any]) -> None:
        super().__init__(Inner())
        self.deferred = deferred

    def render(self, request: Any) -> int:
        return self.when(self.deferred, request, lambda result, request: request.answer(200, [], result))


def waiting() -> tuple[Deferred[bytes], Any, StubChannel]:
    deferred: Deferred[bytes] = Deferred()
    channel = StubChannel()
    request = stub_request(channel=channel)
    assert Waits(deferred).render(request) is NOT_DONE_YET
    return deferred, request, channel


def test_is_a_leaf_of_the_resource_tree_that_passes_on() -> None:
    inner = Inner()
    middleware = Middleware(inner)
    verifyObject(IResource, middleware)
    request = stub_request()
    assert middleware.render(request) == 1
    assert inner.requests == [request]
    assert middleware.getChildWithDefault(b"x", request) is middleware
    with pytest.raises(TypeError):
        middleware.putChild(b"x", middleware)


def test_request_goes_on_when_the_wait_is_over() -> None:
    deferred, request, channel = waiting()
    assert channel.events == []
    deferred.callback(b"ok")
    assert channel.names() == ["head", "body", "end"]
    assert request.ended


@pytest.mark.parametrize(("error", "status", "is_logged"), [(NoRoute(), 404, False), (ValueError("x"), 500, True)])
def test_failed_wait_fails_the_request(error: Exception, status: int, is_logged: bool) -> None:
    deferred, _, channel = waiting()
    with logged_failures() as failures:
        deferred.errback(Failure(error))
    assert channel.events[0][1] == status
    assert bool(failures) is is_logged


def test_request_that_is_over_cancels_the_wait_quietly() -> None:
    cancelled: list[Deferred[bytes]] = []
    deferred: Deferred[bytes] = Deferred(cancelled.append)
    request = stub_request()
    Waits(deferred).render(request)
    with logged_failures() as failures:
        request.client_gone()
    assert cancelled == [deferred]
    assert not failures
    results: list[object] = []
    deferred.addBoth(results.append)
    assert not any(isinstance(result, Failure) and not result.check(CancelledError) for result in results)


def test_result_that_comes_of_the_cancelling_is_not_gone_on_with() -> None:
    deferred: Deferred[bytes] = Deferred(lambda cancelled: cancelled.callback(b"late"))
    channel = StubChannel()
    request = stub_request(channel=channel)
    Waits(deferred).render(request)
    with logged_failures() as failures:
        request.client_gone()
    assert channel.events == []
    assert not failures


def test_fault_in_what_follows_the_wait_is_a_500() -> None:
    deferred: Deferred[Any] = Deferred()
    channel = StubChannel()
    request = stub_request(channel=channel)

    class Faulty(Middleware):
        def render(self, request: Any) -> int:
            return self.when(deferred, request, lambda result, request: 1 / 0)

    Faulty(Inner()).render(request)
    with logged_failures() as failures:
        deferred.callback(None)
    assert channel.events[0][1] == 500
    assert len(failures) == 1
