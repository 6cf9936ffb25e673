"""Where the time of a request went, for ``Server-Timing`` (W3C), the access log and the span: the same numbers in all.

Phases, in milliseconds: ``auth`` and ``limit`` (checks of the token and of the rate limit), ``queue`` (waits for a
permit and for a pooled connection), ``connect`` (waits for a new connection), ``upstream`` (the last attempt's, until
its response head), and ``gw``: all that was not ``upstream``, until the head of the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from txgateway.request import GatewayRequest

#: In the order in which they are told.
PHASES = ("gw", "auth", "limit", "queue", "connect", "upstream")


class ServerTiming(Middleware):
    """Has the phases of each request measured, and tells them in the answer.

    Position: below Observe, which logs them; above all that takes time.
    Refuses: nothing.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        is_told: whether a client at this address may see them; None for all.
    """

    def __init__(self, inner: Inner, is_told: Callable[[str], bool] | None) -> None:
        super().__init__(inner)
        self._is_told = is_told

    def render(self, request: GatewayRequest) -> Any:
        request.phases = {}
        request.before_head(self._tell)
        return self.inner.render(request)

    def _tell(self, request: GatewayRequest) -> None:
        phases = request.phases
        if phases is None:
            return
        channel = request.channel
        now = channel.seconds()
        end_phase(request, now)
        upstream_s = request.upstream_s
        if upstream_s is not None:
            request.spend("upstream", upstream_s)
        request.spend("gw", now - request.started_at - (upstream_s or 0.0))
        if self._is_told is None or self._is_told(channel.peer_ip):
            told = b", ".join(
                b"%b;dur=%.3f" % (name.encode("ascii"), phases[name]) for name in PHASES if name in phases
            )
            # A new list: the old one may have its lines ready.
            request.response_headers = [*request.response_headers, (b"server-timing", b"Server-Timing", told)]


class PhaseStart(Middleware):
    """The phase begins; :class:`PhaseEnd` stands further in.

    Position: right above the decorator that is measured.
    Refuses: nothing.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        phase: one of PHASES.
        clock: of the requests' times.
    """

    def __init__(self, inner: Inner, phase: str, clock: IReactorTime) -> None:
        super().__init__(inner)
        self.phase = phase
        self._clock = clock

    def render(self, request: GatewayRequest) -> Any:
        request.phase = (self.phase, self._clock.seconds())
        return self.inner.render(request)


class PhaseEnd(Middleware):
    """The phase that began last ends.

    Position: right below the decorator that is measured.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    def __init__(self, inner: Inner, clock: IReactorTime) -> None:
        super().__init__(inner)
        self._clock = clock

    def render(self, request: GatewayRequest) -> Any:
        end_phase(request, self._clock.seconds())
        return self.inner.render(request)


def end_phase(request: GatewayRequest, now: float) -> None:
    """Put down how long the phase that began last has taken, if one is open."""
    if request.phase is not None:
        phase, began_at = request.phase
        request.phase = None
        request.spend(phase, now - began_at)
