"""Liveness and readiness: the state of the gateway as others ask for it, and the two resources that tell it.

The verdict is a plain object without sockets; whoever starts, drains and checks targets tells it what happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs
import orjson
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

_ALLOWED = (b"GET", b"HEAD")
#: How long the gateway calls itself not ready because first checks and downloads are under way.
MAX_STARTING_S = 10.0


@attrs.frozen
class BackendHealth:
    """How many of a backend's targets may be used."""

    name: str
    healthy: int
    targets: int


@attrs.frozen
class Verdict:
    """Whether traffic may come, and the words for it."""

    is_ready: bool
    #: ``ready``, ``starting``, ``draining`` or ``no healthy target``.
    status: str
    #: Backends that lack a target, also while the gateway is ready.
    sick_backends: tuple[BackendHealth, ...] = ()


class Readiness:
    """Knows whether the gateway may receive traffic.

    Starting and draining gateways may not, nor one in which no backend at all has a healthy target. A gateway
    without backends (redirects and fixed responses only) may.

    Args:
        backends: the health of every backend at this moment.
    """

    def __init__(self, backends: Callable[[], Iterable[BackendHealth]] = tuple) -> None:
        self._backends = backends
        self._is_started = False
        self._is_draining = False

    def started(self) -> None:
        """The first round of everything that must happen before traffic is over."""
        self._is_started = True

    def draining(self) -> None:
        """The gateway is about to stop; there is no way back."""
        self._is_draining = True

    def verdict(self) -> Verdict:
        """What to tell who asks now."""
        if self._is_draining:
            return Verdict(False, "draining")
        if not self._is_started:
            return Verdict(False, "starting")
        backends = list(self._backends())
        sick = tuple(backend for backend in backends if backend.healthy < backend.targets)
        if backends and not any(backend.healthy for backend in backends):
            return Verdict(False, "no healthy target", sick)
        return Verdict(True, "ready", sick)


def first_tries(tries: Iterable[Deferred[Any]], clock: IReactorTime) -> Deferred[None]:
    """Fires when all of these have ended, however they did, or after MAX_STARTING_S; what is late goes on."""
    over: Deferred[None] = Deferred()

    def end(_: object = None) -> None:
        if not over.called:
            over.callback(None)
        if limit.active():
            limit.cancel()

    limit = clock.callLater(MAX_STARTING_S, end)
    DeferredList(list(tries), consumeErrors=True).addCallback(end)
    return over


class LiveProbe(Resource):
    """200 while the process can answer at all."""

    isLeaf = True

    def render(self, request: IRequest) -> bytes:
        return _answer(request, 200, {"status": "live"})


class ReadyProbe(Resource):
    """200 or 503 after the verdict of a :class:`Readiness`, with sick backends by name but not by address."""

    isLeaf = True

    def __init__(self, readiness: Readiness) -> None:
        super().__init__()
        self._readiness = readiness

    def render(self, request: IRequest) -> bytes:
        verdict = self._readiness.verdict()
        body: dict[str, object] = {
            "status": verdict.status,
            "sick_backends": [attrs.asdict(backend) for backend in verdict.sick_backends],
        }
        return _answer(request, 200 if verdict.is_ready else 503, body)


def probe_resources(prefix: str, readiness: Readiness) -> dict[bytes, Resource]:
    """The two probes by their exact paths, such as ``b"/health/live"``; none for an empty prefix."""
    if not prefix:
        return {}
    base = prefix.rstrip("/").encode("utf-8")
    return {base + b"/live": LiveProbe(), base + b"/ready": ReadyProbe(readiness)}


def _answer(request: IRequest, status: int, body: dict[str, object]) -> bytes:
    if request.method not in _ALLOWED:
        # RFC 9110 section 15.5.6: Allow is not optional here.
        request.setHeader(b"Allow", b", ".join(_ALLOWED))
        status, body = 405, {"status": "method not allowed"}
    data = orjson.dumps(body)
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Cache-Control", b"no-store")
    request.setHeader(b"Content-Length", b"%d" % len(data))
    return b"" if request.method == b"HEAD" else data
