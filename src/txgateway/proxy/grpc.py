"""What gRPC says in header fields and the gateway acts on (gRPC over HTTP/2, PROTOCOL-HTTP2.md of grpc/grpc)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from txgateway.errors import DeadlineExceeded
from txgateway.headers import field_values
from txgateway.transport.interfaces import NO_BODY

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import HeaderList
    from txgateway.transport.wheel import TimerWheel

TIMEOUT: Final = b"grpc-timeout"
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNAVAILABLE: Final = b"14"
#: Milliseconds, of at most eight digits as in every unit; and what a server may be spared to hear of.
_MOST_MS: Final = 99_999_999
_SLIGHT_S: Final = 0.01
_PUSHBACK: Final = re.compile(rb"[0-9]{1,9}")


def timeout_s(value: bytes) -> float | None:
    """Seconds that a ``grpc-timeout`` gives a call; None if it is malformed, which is the server's to judge."""
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _UNIT_S[found[2]]


def is_unavailable(headers: HeaderList, length: int) -> bool:
    """Whether a response without messages says UNAVAILABLE: its head is all there is of it."""
    return length == NO_BODY and field_values(headers, b"grpc-status") == [_UNAVAILABLE]


def pushback_s(headers: HeaderList) -> float:
    """Seconds that a server asks to wait before the call is repeated; infinite if it must not be (gRFC A6)."""
    said = field_values(headers, b"grpc-retry-pushback-ms")
    if not said:
        return 0.0
    return int(said[-1]) / 1000.0 if _PUSHBACK.fullmatch(said[-1]) else math.inf


def shorten_timeout(request: GatewayRequest, now: float) -> None:
    """Leave of the call's ``grpc-timeout``, which the request has, what the time with the gateway has left of it."""
    given_s = timeout_s(request.fields[TIMEOUT])
    spent_s = now - request.started_at
    if given_s is None or spent_s < _SLIGHT_S:
        return
    left_ms = int((given_s - spent_s) * 1000)
    if left_ms <= _MOST_MS:
        kept = (field for field in request.headers if field[0] != TIMEOUT)
        request.headers = (*kept, (TIMEOUT, TIMEOUT, b"%dm" % max(1, left_ms)))


class CallDeadline:
    """Ends a call when its caller no longer waits, however far it has come.

    Args:
        request: with a ``grpc-timeout``.
        wheel: keeps the deadline.
    """

    __slots__ = ("_request", "_wheel", "deadline")

    def __init__(self, request: GatewayRequest, wheel: TimerWheel) -> None:
        self._request = request
        self._wheel = wheel
        given_s = timeout_s(request.fields[TIMEOUT])
        self.deadline = math.inf
        if given_s is not None:
            self.deadline = request.started_at + given_s
            wheel.watch(self)
            request.on_finish(self._over)

    def on_deadline(self, now: float) -> None:
        """The wheel: the time is up."""
        self._request.fail(DeadlineExceeded())

    def _over(self, _: GatewayRequest) -> None:
        self._wheel.forget(self)
