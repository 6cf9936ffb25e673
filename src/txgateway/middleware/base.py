"""What every middleware is: a Resource that wraps a Resource."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import GatewayError, InternalError
from txgateway.leaf import Leaf

if TYPE_CHECKING:
    from txgateway.middleware.context import Context
    from txgateway.request import GatewayRequest

_log = Logger(__name__)


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

    One from outside may have a pydantic model ``Settings`` in it, and is then given such settings. It may have a method
    ``explain(request)`` that returns a sentence for ``txgateway explain``, or None.

    Class attributes (of those from outside):
        position: ``route``, or ``edge`` where every request passes it.
        explains: it decides by the head alone and touches nothing but the request, so that ``explain`` may ask it.

    Args:
        inner: what it wraps.
        settings: its own; None if it has no ``Settings``.
        context: its collaborators; ours have arguments of their own instead.
    """

    position: ClassVar[str] = "route"
    explains: ClassVar[bool] = False

    def __init__(self, inner: Inner, settings: Any = None, context: Context | None = None) -> None:
        self.inner = inner
        self.settings = settings
        self.context: Any = context  # a Context: Any, so that nobody has to ask whether there is one

    def render(self, request: GatewayRequest) -> Any:
        """Treat the request and pass it on."""
        return self.inner.render(request)

    def when(self, deferred: Deferred[Any], request: GatewayRequest, then: Any, name: str = "") -> int:
        """Go on with ``then(result, request)`` when ``deferred`` fires; errors end the request.

        If the request is over before (the client left, a deadline), the Deferred is cancelled.

        Args:
            name: of whom the log tells if something fails; its own unless given.
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
                told = name or (type(self).__name__ if self.context is None else self.context.name)
                _log.failure("middleware failed", failure=failure, middleware=told, request_id=request.request_id)
                error = InternalError()
            request.fail(error)

        request.on_finish(settled)
        deferred.addCallback(go_on).addErrback(failed)
        return NOT_DONE_YET
