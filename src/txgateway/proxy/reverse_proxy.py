"""The end of a proxied route: hands each request to a :class:`Forwarding`, to one backend or to one of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from random import Random
from typing import TYPE_CHECKING

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime
from twisted.web.server import NOT_DONE_YET

from txgateway.config.groups import Retry
from txgateway.leaf import Leaf
from txgateway.proxy import grpc
from txgateway.proxy.attempts import IDEMPOTENT
from txgateway.proxy.backend import Backend
from txgateway.proxy.balancing.round_robin import RoundRobin
from txgateway.proxy.forwarding import FAULTS, Forwarding
from txgateway.proxy.outgoing import OutgoingFields
from txgateway.proxy.retry import RetryPolicy
from txgateway.transport.wheel import TimerWheel

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


@frozen
class ProxySettings:
    """What a route says about proxying; durations in seconds, 0 for none."""

    total_s: float = 30.0
    per_try_s: float = 0.0
    idle_s: float = 300.0
    body_timeout_s: float = 30.0
    preserve_host: bool = False
    propagates_timeout: bool = False
    upgrades: frozenset[bytes] = frozenset()
    retry: Retry = field(factory=Retry)


_MAX_FORWARDS_DIGITS = 9
#: Methods by which a client may look at one hop of the way (RFC 9110 section 7.6.2).
_HOP_COUNTED = frozenset((b"OPTIONS", b"TRACE"))
#: Fields that a TRACE does not show (RFC 9110 section 9.3.8).
_PRIVATE = frozenset((b"authorization", b"cookie", b"proxy-authorization"))


def _is_last_hop(request: GatewayRequest) -> bool:
    """Count ``Max-Forwards`` down; True when it says that the request goes no further."""
    value = request.fields[b"max-forwards"]
    if not value.isdigit() or len(value) > _MAX_FORWARDS_DIGITS:
        return False
    left = int(value) - 1
    if left < 0:
        return True
    request.remove_headers(frozenset((b"max-forwards",)))
    request.headers = (*request.headers, (b"max-forwards", b"Max-Forwards", b"%d" % left))
    return False


def _answer_as_last_hop(request: GatewayRequest) -> None:
    if request.method == b"OPTIONS":
        request.answer(204, [], b"")
        return
    lines = [b"%b %b %b" % (request.method, request.uri, request.clientproto)]
    # Nor what the gateway itself has put there, which may be a secret between it and the backend.
    hidden = _PRIVATE | request.removed_names
    lines += [b"%b: %b" % (name, value) for lowered, name, value in request.headers if lowered not in hidden]
    request.answer(200, [(b"content-type", b"Content-Type", b"message/http")], b"\r\n".join([*lines, b"", b""]))


class ReverseProxyResource(Leaf):
    """Answers with what a target of the backend answers.

    Position: the innermost of a route.
    Refuses: every UPSTREAM_ reason, POOL_EXHAUSTED, NO_HEALTHY_TARGET, BREAKER_OPEN, DEADLINE_EXCEEDED,
        REQUEST_TIMEOUT.
    On cancel: the exchange with the target is given up and its connection closed; a retry that waits is dropped.

    Args:
        backend: has the targets.
        settings: of the route.
        wheel: keeps deadlines.
        clock: what retries wait by.
        epoch_s: wall clock, which dates in ``Retry-After`` are compared with.
        chance: spreads retries.
        trace_names: lowered names of the fields that a request's trace replaces.
    """

    def __init__(
        self,
        backend: Backend,
        settings: ProxySettings,
        wheel: TimerWheel,
        clock: IReactorTime,
        epoch_s: Callable[[], float],
        chance: Random,
        trace_names: frozenset[bytes] = frozenset(),
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.wheel = wheel
        self.clock = clock
        self.epoch_s = epoch_s
        self.chance = chance
        #: As the settings have them, with infinity for none.
        self.total_s = settings.total_s or math.inf
        self.per_try_s = settings.per_try_s or math.inf
        self.retry = retry = RetryPolicy(settings.retry)
        self.fields = OutgoingFields(
            preserve_host=settings.preserve_host,
            propagates_timeout=settings.propagates_timeout,
            trace_names=trace_names,
        )
        #: Statuses of a target that are more than an answer to pass on.
        self.noted_statuses = FAULTS | {
            status for status in range(200, 600) if any(retry.repeats_status(status, name) for name in retry.methods)
        }
        if retry.repeats_unavailable:  # which is said with a status of its own, in a field
            self.noted_statuses |= {200}

    def answers_as_last_hop(self, request: GatewayRequest) -> bool:
        """Whether ``Max-Forwards`` says that the request goes no further, which it is answered with then."""
        if request.method not in _HOP_COUNTED or b"max-forwards" not in request.fields or not _is_last_hop(request):
            return False
        _answer_as_last_hop(request)
        return True

    def kept_bytes(self, method: bytes) -> int:
        """How much of a request's body is kept for another attempt."""
        retry = self.retry
        is_repeatable = method in IDEMPOTENT or method in retry.methods or retry.repeats_unavailable
        return retry.max_body_bytes if is_repeatable or self.backend.may_refuse else 0

    def render(self, request: GatewayRequest) -> int:
        if request.method in _HOP_COUNTED and self.answers_as_last_hop(request):
            return NOT_DONE_YET
        if grpc.TIMEOUT in request.fields:
            grpc.CallDeadline(request, self.wheel)
            grpc.shorten_timeout(request, request.channel.seconds())
        Forwarding(request, self).start()
        return NOT_DONE_YET


@frozen
class Share:
    """One of several ends, and how many of the requests it gets, relative to the others; 0 for none."""

    end: ReverseProxyResource
    weight: int


class SplitResource(Leaf):
    """Shares a route's requests among several backends: in every run of sum(weights) each gets exactly its weight.

    Position: the innermost of a route.
    Refuses: what its ends refuse.
    On cancel: as its ends do.

    Attributes:
        shares: as they were given.
    """

    def __init__(self, shares: Sequence[Share]) -> None:
        self.shares = tuple(shares)
        turns = RoundRobin.order([share for share in shares if share.weight])
        self._ends = cycle([share.end for share in turns])

    def render(self, request: GatewayRequest) -> int:
        return next(self._ends).render(request)
