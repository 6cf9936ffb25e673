from __future__ import annotations

from typing import Any

import pytest
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.middleware.observe import Observe


class Cells:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def observe(
        self, method: bytes, status: int, seconds: float, bytes_in: int, bytes_out: int, reason: str | None
    ) -> None:
        self.told.append((method, status, seconds, bytes_in, bytes_out, reason))

    def exemplify(self, method: bytes, seconds: float, trace_id: str) -> None:
        self.told.append((method, seconds, trace_id))

    def started(self) -> None:
        self.told.append("started")

    def ended(self) -> None:
        self.told.append("ended")


class Log(list[Any]):
    def record(self, request: Any) -> None:
        self.append(request)


def test_unmatched_request_is_counted_apart_and_logged_once() -> None:
    times = iter([1.0, 3.5])
    unmatched, log = Cells(), Log()
    request = stub_request(channel=StubChannel(lambda: next(times)))
    Observe(Inner(), unmatched, log).render(request)
    assert (unmatched.told, log) == ([], [])
    request.answer(404, [], b"none")
    assert unmatched.told == [(b"GET", 404, 2.5, 0, 4, None)]
    assert log == [request]


def test_matched_request_is_counted_under_its_route() -> None:
    unmatched, cells = Cells(), Cells()
    request = stub_request()
    Observe(Inner(), unmatched, None).render(request)
    request.route_metrics = cells
    request.client_gone()
    assert unmatched.told == []
    assert cells.told == ["ended", (b"GET", 499, 0.0, 0, 0, "CLIENT_GONE")]


@pytest.mark.parametrize("log", [None, Log()])
def test_log_may_be_off(log: Log | None) -> None:
    request = stub_request()
    Observe(Inner(), Cells(), log).render(request)
    request.abort()
    assert log in (None, [request])
