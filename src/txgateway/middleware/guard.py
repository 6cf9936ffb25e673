"""What stands around a user's middleware: its faults are told by its name, and so is how long it holds up everybody."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import GatewayError, InternalError
from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from txgateway.request import GatewayRequest

_log = Logger(__name__)

#: One call in so many is timed.
TIMED_EVERY = 100
#: What may pass in a call, without what is below it.
BLOCKING_S = 0.05
#: Between two warnings about the same middleware.
WARNING_PAUSE_S = 60.0


class Counter(Protocol):
    """Counts."""

    def inc(self) -> None: ...


class Watch:
    """Remembers how often a middleware held up the reactor; one for all places where it stands, whatever is reloaded.

    Args:
        name: of the middleware.
        counter: of its calls that took too long, among those that were timed.
        clock: times them.
    """

    def __init__(self, name: str, counter: Counter, clock: IReactorTime) -> None:
        self._name = name
        self._counter = counter
        self._clock = clock
        self._warned_at = self._told_at = -WARNING_PAUSE_S

    def returned_nothing(self) -> None:
        """A call returned None: perhaps a ``return`` was forgotten, and with it the request."""
        now = self._clock.seconds()
        if now - self._told_at >= WARNING_PAUSE_S:
            self._told_at = now
            _log.warn("render of a middleware returned None, not what its inner returned", middleware=self._name)

    def took(self, seconds: float) -> None:
        """A call took so long."""
        if seconds <= BLOCKING_S:
            return
        self._counter.inc()
        now = self._clock.seconds()
        if now - self._warned_at >= WARNING_PAUSE_S:
            self._warned_at = now
            _log.warn("middleware blocks the reactor", middleware=self._name, seconds=round(seconds, 3))


class Guard(Middleware):
    """Around each middleware of the user's.

    Position: where the middleware stands.
    Refuses: INTERNAL_ERROR for what it raises that is no GatewayError.
    On cancel: nothing to free.

    Args:
        inner: what is below the middleware.
        middleware: the user's, which wraps ``inner``.
        name: of it.
        watch: is told of calls that were timed.
        clock: times them.
    """

    def __init__(self, inner: Inner, middleware: Any, name: str, watch: Watch, clock: IReactorTime) -> None:
        super().__init__(inner)
        self.middleware = middleware
        self.name = name
        self._watch = watch
        self._clock = clock
        self._render: Callable[[GatewayRequest], Any] = middleware.render
        self._until_timed = 1

    def render(self, request: GatewayRequest) -> Any:
        self._until_timed -= 1
        try:
            result = self._render(request) if self._until_timed else self._timed(request)
        except GatewayError:
            raise
        except BaseException as fault:  # noqa: BLE001 -- whatever it is, sys.exit() too, the log says whose
            self._blame(fault, request)
        if result is NOT_DONE_YET:
            return NOT_DONE_YET
        return self._finish(result, request)

    def _timed(self, request: GatewayRequest) -> Any:
        """Render, and see how long that took: what is below is another's time."""
        self._until_timed = TIMED_EVERY
        seconds, middleware, inner = self._clock.seconds, self.middleware, self.inner
        below = _Stopwatch(inner, seconds)
        is_stopped = getattr(middleware, "inner", None) is inner
        if is_stopped:
            middleware.inner = below
        began_at = seconds()
        try:
            return self._render(request)
        finally:
            took_s = seconds() - began_at - below.spent_s
            if is_stopped and middleware.inner is below:
                middleware.inner = inner
            self._watch.took(took_s)

    def _blame(self, fault: BaseException, request: GatewayRequest) -> NoReturn:
        """Tell whose fault it is, once: what comes from below is not the middleware's."""
        below = getattr(self.inner.render, "__self__", self.inner)
        if _came_through(fault.__traceback__, below):
            raise fault
        _log.failure("middleware failed", middleware=self.name, request_id=request.request_id)
        raise InternalError(f"middleware {self.name} failed") from fault

    def _finish(self, result: Any, request: GatewayRequest) -> Any:
        """What twisted.web's resources may return besides: the whole body, or what it is made of later."""
        if isinstance(result, bytes):
            request.write(result)
            request.finish()
        elif isinstance(result, Deferred):
            return self.when(result, request, self._later, self.name)
        elif result is None:
            self._watch.returned_nothing()
        elif result != NOT_DONE_YET:
            _log.error(
                "middleware failed", middleware=self.name, result=type(result).__name__, request_id=request.request_id
            )
            raise InternalError(f"render of {self.name} returned a {type(result).__name__}")
        return NOT_DONE_YET

    def _later(self, result: Any, request: GatewayRequest) -> None:
        if isinstance(result, bytes):
            self._finish(result, request)


class Onward:
    """Stands for the router below the middlewares of the edge, so that these may outlive it.

    Attributes:
        render: the router's own, at this moment.
    """

    __slots__ = ("render",)

    def __init__(self, render: Callable[[GatewayRequest], Any]) -> None:
        self.render = render


class _Stopwatch:
    """Counts the time spent in what it wraps."""

    def __init__(self, inner: Inner, seconds: Callable[[], float]) -> None:
        self._inner = inner
        self._seconds = seconds
        self.spent_s = 0.0

    def render(self, request: GatewayRequest) -> Any:
        began_at = self._seconds()
        try:
            return self._inner.render(request)
        finally:
            self.spent_s += self._seconds() - began_at


def _came_through(traceback: TracebackType | None, resource: object) -> bool:
    """Whether an exception was raised within the ``render`` of ``resource``."""
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name == "render" and frame.f_locals.get("self") is resource:
            return True
        traceback = traceback.tb_next
    return False
