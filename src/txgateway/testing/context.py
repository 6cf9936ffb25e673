"""Makes a middleware under test as the gateway makes users' middlewares: with a real Context, in virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, TypeAlias

import attrs

from txgateway.config import Configuration, Middlewares, UserMiddleware
from txgateway.config.middlewares import snake
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
    parts, described = parts or UserParts(), Middlewares(named={name: _described(name, factory)})
    made = UserDecorators(described, parts, clock, lambda: EPOCH_S + clock.seconds(), Random(1))
    (decorator,) = made.of_route((name,), route)
    return decorator(inner)


def with_middlewares(configuration: Configuration, factories: Mapping[str, MiddlewareFactory]) -> Configuration:
    """The same with further middlewares in every route, below those that it has.

    Args:
        factories: by name, the first outermost.

    Raises:
        ValueError: there is a middleware of one of the names.
    """
    before = configuration.middlewares
    taken = {snake(name) for name in before.named}
    if twice := [name for name in factories if snake(name) in taken]:
        raise ValueError(f"the configuration has a middleware of its own that is called {twice[0]!r}")
    named = {**before.named, **{name: _described(name, factory) for name, factory in factories.items()}}
    routes = tuple(attrs.evolve(one, middlewares=(*one.middlewares, *factories)) for one in configuration.routes)
    return attrs.evolve(configuration, middlewares=attrs.evolve(before, named=named), routes=routes)


def _described(name: str, factory: MiddlewareFactory) -> UserMiddleware:
    def kind(below: Inner, _: object, context: Context) -> Inner:
        return factory(below, context)

    made: Any = kind
    return UserMiddleware(name=name, use="", kind=made, position="route", settings=None, entries={})


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
