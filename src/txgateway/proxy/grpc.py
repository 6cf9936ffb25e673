"""What gRPC says in header fields and the gateway acts on (gRPC over HTTP/2, PROTOCOL-HTTP2.md of grpc/grpc)."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Final

from txgateway.errors import DeadlineExceeded
from txgateway.headers import field_values

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import HeaderList
    from txgateway.transport.wheel import TimerWheel

TIMEOUT: Final = b"grpc-timeout"
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNIT_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_UNAVAILABLE: Final = b"14"


def timeout_s(value: bytes) -> float | None:
    """Seconds that a ``grpc-timeout`` gives a call; None if it is malformed, which is the server's to judge."""
    found = _TIMEOUT.fullmatch(value)
    return None if found is None else int(found[1]) * _UNIT_S[found[2]]


def is_unavailable(headers: HeaderList) -> bool:
    """Whether a response without messages says UNAVAILABLE: its head is all there is of it."""
    return field_values(headers, b"grpc-status") == [_UNAVAILABLE]


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
