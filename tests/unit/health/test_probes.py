"""The verdict, and the two resources that tell it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.test.requesthelper import DummyRequest

from txgateway.health.probes import MAX_STARTING_S, BackendHealth, Readiness, first_tries, probe_resources

WELL = BackendHealth("well", 2, 2)
HALF = BackendHealth("half", 1, 2)
DOWN = BackendHealth("down", 0, 2)


def ask(path: bytes, readiness: Readiness, method: bytes = b"GET") -> tuple[Any, bytes]:
    request: Any = DummyRequest([])
    request.method = method
    body = probe_resources("/health", readiness)[path].render(request)
    assert isinstance(body, bytes)
    return request, body


def test_it_is_live_from_the_first_moment_to_the_last() -> None:
    readiness = Readiness()
    assert ask(b"/health/live", readiness)[0].responseCode == 200
    readiness.draining()
    request, body = ask(b"/health/live", readiness)
    assert request.responseCode == 200
    assert json.loads(body) == {"status": "live"}


def test_it_is_ready_between_start_and_drain() -> None:
    readiness = Readiness(lambda: [WELL])
    request, body = ask(b"/health/ready", readiness)
    assert (request.responseCode, json.loads(body)["status"]) == (503, "starting")
    readiness.started()
    request, body = ask(b"/health/ready", readiness)
    assert (request.responseCode, json.loads(body)) == (200, {"status": "ready", "sick_backends": []})
    assert request.responseHeaders.getRawHeaders(b"content-type") == [b"application/json"]
    assert request.responseHeaders.getRawHeaders(b"cache-control") == [b"no-store"]
    readiness.draining()
    request, body = ask(b"/health/ready", readiness)
    assert (request.responseCode, json.loads(body)["status"]) == (503, "draining")


def test_draining_while_starting_is_draining() -> None:
    readiness = Readiness()
    readiness.draining()
    readiness.started()
    assert readiness.verdict().status == "draining"


@pytest.mark.parametrize(
    ("backends", "is_ready", "sick"),
    [
        ([], True, ()),
        ([WELL], True, ()),
        ([WELL, DOWN], True, (DOWN,)),
        ([HALF, DOWN], True, (HALF, DOWN)),
        ([DOWN], False, (DOWN,)),
    ],
)
def test_only_the_loss_of_every_backend_makes_it_unready(
    backends: list[BackendHealth], is_ready: bool, sick: tuple[BackendHealth, ...]
) -> None:
    readiness = Readiness(lambda: backends)
    readiness.started()
    assert (readiness.verdict().is_ready, readiness.verdict().sick_backends) == (is_ready, sick)


def test_head_has_the_length_but_not_the_body() -> None:
    _, body = ask(b"/health/live", Readiness())
    request, nothing = ask(b"/health/live", Readiness(), b"HEAD")
    assert nothing == b""
    assert request.responseHeaders.getRawHeaders(b"content-length") == [b"%d" % len(body)]


@pytest.mark.parametrize("path", [b"/health/live", b"/health/ready"])
def test_other_methods_are_refused_with_allow(path: bytes) -> None:
    request, _ = ask(path, Readiness(), b"POST")
    assert request.responseCode == 405
    assert request.responseHeaders.getRawHeaders(b"allow") == [b"GET, HEAD"]


@pytest.mark.parametrize(
    ("prefix", "paths"), [("", set()), ("/-/", {b"/-/live", b"/-/ready"}), ("/a/b", {b"/a/b/live", b"/a/b/ready"})]
)
def test_the_prefix_makes_the_paths(prefix: str, paths: set[bytes]) -> None:
    assert set(probe_resources(prefix, Readiness())) == paths


# --- the start --------------------------------------------------------------------------------------------------------


def test_start_is_over_when_all_was_tried_however_that_went() -> None:
    clock = Clock()
    fired: list[object] = []
    well: Deferred[None] = Deferred()
    ill: Deferred[None] = Deferred()
    first_tries([well, ill], clock).addBoth(fired.append)
    ill.errback(ValueError())
    assert fired == []
    well.callback(None)
    assert fired == [None]
    assert not clock.getDelayedCalls()


def test_start_waits_no_longer_than_its_limit_and_gives_nothing_up() -> None:
    clock = Clock()
    fired: list[object] = []
    late: Deferred[None] = Deferred()
    first_tries([late], clock).addBoth(fired.append)
    clock.advance(MAX_STARTING_S - 0.01)
    assert fired == []
    clock.advance(0.01)
    assert fired == [None]
    assert not late.called
    late.callback(None)
    assert fired == [None]


def test_start_with_nothing_to_try_is_over_at_once() -> None:
    fired: list[object] = []
    first_tries([], Clock()).addBoth(fired.append)
    assert fired == [None]
