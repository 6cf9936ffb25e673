"""Makes the decorators of users' middlewares, with the collaborators that each gets."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from attrs import define, field, frozen
from twisted.logger import Logger

from txgateway.config import Middlewares, UserMiddleware
from txgateway.config.middlewares import snake
from txgateway.middleware.base import Inner
from txgateway.middleware.context import Context, SetField
from txgateway.middleware.guard import Guard, Onward, Watch
from txgateway.telemetry.access_log import MAX_TEXT, check_field
from txgateway.telemetry.user_metrics import UserMetrics

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from txgateway.request import GatewayRequest


class FieldLog(Protocol):
    """An access log whose lines may have further fields."""

    def announce_fields(self) -> None:
        """There are some from now on."""


class MiddlewareFailed(Exception):
    """A middleware could not be made; which and why is its text."""


@define
class UserParts:
    """What lives as long as the process, whichever middlewares come and go.

    Attributes:
        metrics: of all of them.
        access_log: None for none.
        watches: by name.
    """

    metrics: UserMetrics = field(factory=UserMetrics)
    access_log: FieldLog | None = None
    watches: dict[str, Watch] = field(factory=dict)


@frozen
class Edge:
    """The users' middlewares that every request passes.

    Attributes:
        named: what they were made of, outermost first.
        first: the outermost.
        onward: what is below the innermost, for as long as anybody may come there.
    """

    named: tuple[UserMiddleware, ...]
    first: Inner
    onward: Onward


class UserDecorators:
    """Wraps what it is told to in the users' middlewares of a configuration.

    Args:
        middlewares: of the configuration.
        parts: of the process.
        clock, epoch_s, chance: for their contexts.
    """

    def __init__(
        self,
        middlewares: Middlewares,
        parts: UserParts,
        clock: IReactorTime,
        epoch_s: Callable[[], float],
        chance: Random,
    ) -> None:
        self._middlewares = middlewares
        self._parts = parts
        self._clock = clock
        self._epoch_s = epoch_s
        self._chance = chance

    def of_route(self, names: tuple[str, ...], route: str) -> list[Callable[[Inner], Inner]]:
        """A decorator for each of the names that a route has in its list, in that order."""
        return [self._decorator(self._middlewares.named[name], route) for name in names]

    def edge(self, render: Callable[[GatewayRequest], Any], previous: Edge | None) -> Edge | None:
        """Those above the router; the very ones of before, if they are made of the same. None if there are none.

        Args:
            render: the router's.
            previous: of the configuration before this one.
        """
        named = tuple(self._middlewares.named[name] for name in self._middlewares.edge)
        if not named:
            return None
        if previous is not None and previous.named == named:
            return previous
        onward = Onward(render)
        inner: Inner = onward
        for middleware in reversed(named):
            inner = self._decorator(middleware, None)(inner)
        return Edge(named, inner, onward)

    def _decorator(self, middleware: UserMiddleware, route: str | None) -> Callable[[Inner], Inner]:
        def decorate(inner: Inner) -> Inner:
            try:
                made = middleware.kind(inner, middleware.settings, self._context(middleware, route))
            except Exception as exc:
                place = "at the edge" if route is None else f"on route {route}"
                why = f"{type(exc).__name__}: {exc}"
                raise MiddlewareFailed(f"middleware {middleware.name} {place} cannot be made: {why}") from exc
            return Guard(inner, made, middleware.name, self._watch(middleware.name), self._clock)

        return decorate

    def _context(self, middleware: UserMiddleware, route: str | None) -> Context:
        return Context(
            name=middleware.name,
            route=route,
            clock=self._clock,
            epoch_s=self._epoch_s,
            random=self._chance,
            log=Logger(namespace=f"txgateway.middlewares.{middleware.name}"),
            metrics=self._parts.metrics.of(snake(middleware.name)),
            log_field=self._log_field,
        )

    def _watch(self, name: str) -> Watch:
        watches = self._parts.watches
        if name not in watches:
            watches[name] = Watch(name, self._parts.metrics.blocked.labels(name), self._clock)
        return watches[name]

    def _log_field(self, name: str) -> SetField:
        check_field(name)
        if self._parts.access_log is None:
            return _set_nothing
        self._parts.access_log.announce_fields()

        def set_field(request: Any, value: object) -> None:
            if isinstance(value, bytes):
                value = value.decode("utf-8", "backslashreplace")
            if isinstance(value, str) and len(value) > MAX_TEXT:
                value = value[:MAX_TEXT] + "…"
            fields = request.log_fields
            if fields is None:
                request.log_fields = {name: value}
            else:
                fields[name] = value

        return set_field


def _set_nothing(request: Any, value: object) -> None:
    pass
