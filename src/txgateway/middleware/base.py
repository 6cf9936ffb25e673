"""What every middleware is: a Resource that wraps a Resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import GatewayError, InternalError
from txgateway.leaf import Leaf

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_log = Logger()


class Inner(Protocol):
    """What a middleware wraps: anything with ``render``."""

    def render(self, request: GatewayRequest) -> Any: ...


class RouteCells(Protocol):
    """Pre-bound metric cells of one route."""

    def observe(
        self, method: bytes, status: int, seconds: float, bytes_in: int, bytes_out: int, reason: str | None
    ) -> None: ...
    def exemplify(self, method: bytes, seconds: float, trace_id: str) -> None: ...
    def started(self) -> None: ...
    def ended(self) -> None: ...


class Middleware(Leaf):
    """Base of all middlewares.

    A subclass overrides :meth:`render`, which

    - returns ``self.inner.render(request)`` (most do), having looked at or changed the request and registered hooks,
    - raises a :class:`GatewayError`,
    - or returns ``self.when(deferred, request, then)``: the one way to wait.

    Args:
        inner: what it wraps.
    """

    def __init__(self, inner: Inner) -> None:
        self.inner = inner

    def render(self, request: GatewayRequest) -> Any:
        """Treat the request and pass it on."""
        return self.inner.render(request)

    def when(self, deferred: Deferred[Any], request: GatewayRequest, then: Any) -> int:
        """Go on with ``then(result, request)`` when ``deferred`` fires; errors end the request.

        If the request is over before (the client left, a deadline), the Deferred is cancelled.
        """

        def settled(_: GatewayRequest) -> None:
            deferred.cancel()

        def go_on(result: Any) -> None:
            if not request.ended:
                then(result, request)

        def failed(failure: Failure) -> None:
            if request.ended:
                return
            error = failure.value
            if not isinstance(error, GatewayError):
                _log.failure("middleware failed", failure=failure, request_id=request.request_id)
                error = InternalError()
            request.fail(error)

        request.on_finish(settled)
        deferred.addCallback(go_on).addErrback(failed)
        return NOT_DONE_YET
