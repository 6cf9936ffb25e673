"""What is told of a user's middleware: what the configuration says of it, and what it says itself, if it may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from txgateway.config import Middlewares
from txgateway.errors import GatewayError, InternalError
from txgateway.middleware.guard import Guard
from txgateway.request import GatewayRequest


class _End:
    """Notices that somebody came through."""

    is_reached = False

    def render(self, request: GatewayRequest) -> None:
        """Go no further."""
        self.is_reached = True


def class_of(guard: Guard) -> type[Any]:
    """Of the middleware behind it."""
    return type(guard.middleware)


def entries_of(guard: Guard, middlewares: Middlewares) -> Mapping[str, Any]:
    """Class, position and settings, each with its source."""
    return next(found.entries for found in middlewares.named.values() if found.name == guard.name)


def said_by(guard: Guard, request: GatewayRequest) -> dict[str, str]:
    """Its name, and the sentence that it has for this request."""
    said = {"middleware": guard.name}
    explain = getattr(guard.middleware, "explain", None)
    if callable(explain):
        try:
            text = explain(request)
        except Exception as exc:  # noqa: BLE001 -- the user's code
            text = f"its explain failed: {type(exc).__name__}: {exc}"
        if text is not None:
            said["tells"] = str(text)
    return said


def asked_alone(guard: Guard, request: GatewayRequest) -> bool:
    """Ask one that allows it, with nothing behind it; whether it is known to let the request pass.

    Raises:
        GatewayError: it refuses.
    """
    middleware = guard.middleware
    if not getattr(middleware, "explains", False):
        return False
    alone, end = copy(middleware), _End()
    alone.inner = end
    try:
        alone.render(request)
    except GatewayError:
        raise
    except Exception as exc:
        raise InternalError(f"middleware {guard.name} failed: {type(exc).__name__}: {exc}") from exc
    return end.is_reached
