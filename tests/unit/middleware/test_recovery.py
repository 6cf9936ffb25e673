from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support import StubChannel, logged_failures, stub_request
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import NoRoute
from txgateway.middleware.recovery import Recovery


class Raises:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def render(self, request: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(("error", "status", "is_logged"), [(NoRoute(), 404, False), (ValueError("secret"), 500, True)])
def test_every_exception_becomes_one_answer(error: Exception, status: int, is_logged: bool) -> None:
    channel = StubChannel()
    request = stub_request(channel=channel)
    with logged_failures() as failures:
        assert Recovery(Raises(error)).render(request) is NOT_DONE_YET
    assert bool(failures) is is_logged
    assert channel.names() == ["head", "body", "end"]
    assert channel.events[0][1] == status
    assert b"secret" not in channel.events[1][1]
    assert request.ended


def test_exception_after_the_head_cuts_the_answer() -> None:
    channel = StubChannel()
    request = stub_request(channel=channel)

    class Begins:
        def render(self, request: Any) -> Any:
            request.respond(200, b"", [], 5)
            raise ValueError

    with logged_failures():
        Recovery(Begins()).render(request)
    assert channel.names() == ["head", "reset"]


def test_exception_after_the_end_changes_nothing() -> None:
    channel = StubChannel()
    request = stub_request(channel=channel)

    class Ends:
        def render(self, request: Any) -> Any:
            request.answer(200, [], b"")
            raise NoRoute

    Recovery(Ends()).render(request)
    assert channel.names() == ["head", "end"]
    assert request.reason is None
