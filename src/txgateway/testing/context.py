"""Makes a middleware under test as the gateway makes users' middlewares: with a real Context, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from txgateway.config import Middlewares, UserMiddleware
from txgateway.middleware.base import Inner
from txgateway.middleware.context import Context
from txgateway.testing.clients import EPOCH_S
from txgateway.testing.clock import VirtualClock
from txgateway.user_decorators import UserDecorators, UserParts

#: Makes a middleware around its inner.
MiddlewareFactory: TypeAlias = Callable[[Any, Context], Inner]


def decorated(
    inner: Inner,
    factory: MiddlewareFactory,
    clock: VirtualClock,
    *,
    name: str = "tested",
    route: str = "tested",
    parts: UserParts | None = None,
) -> Any:
    """What stands in a pipeline: a Guard, whose ``middleware`` is what was made.

    Args:
        inner: what is wrapped.
        factory: makes the middleware.
        clock: virtual time; chance is the same in each run.
        name, route: for the context.
        parts: where metrics and fields of the log go; None: nowhere.

    Raises:
        MiddlewareFailed: the factory raised something.
    """

    def kind(below: Inner, _: object, context: Context) -> Inner:
        return factory(below, context)

    made: Any = UserDecorators(Middlewares(), parts or UserParts(), clock, lambda: EPOCH_S + clock.seconds(), Random(1))
    described: Any = UserMiddleware(name=name, use="", kind=kind, position="route", settings=None, entries={})  # type: ignore[arg-type]
    return made._decorator(described, route)(inner)


def factory_of(kind: type[Any], settings: Any = None) -> MiddlewareFactory:
    """What makes a middleware of a class as the gateway does.

    Args:
        kind: the class.
        settings: a mapping for its ``Settings``, or what it is to be given as they are.

    Raises:
        pydantic.ValidationError: the class does not take these settings.
    """
    model = getattr(kind, "Settings", None)
    taken = model.model_validate(settings or {}) if model is not None and not isinstance(settings, model) else settings
    return lambda inner, context: kind(inner, taken, context)
