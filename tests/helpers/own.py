"""Middlewares as users write them, for tests that name them in a configuration: ``tests.helpers.own:Tenancy``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, SecretStr, field_validator

from txgateway.middleware import Context, GatewayError, GatewayRequest, Inner, Middleware

#: Whoever was made, oldest first; a test empties it before.
MADE: list[Any] = []


class TenantUnknown(GatewayError):
    """Nobody knows whose it is."""

    status, reason, title = 403, "TENANT_UNKNOWN", "Forbidden"


class Tenancy(Middleware):
    """Lets tenants through.

    Position: where a route has it.
    Refuses: TENANT_UNKNOWN.
    On cancel: nothing to free.
    """

    explains = True

    class Settings(BaseModel, frozen=True):
        claim: str = "org"
        limit: int = 3
        hosts: list[str] = []
        key: SecretStr | None = None

        @field_validator("key", mode="before")
        @classmethod
        def _is_long(cls, value: object) -> object:
            if isinstance(value, str) and len(value) < 4:
                raise ValueError(f"{value} is too short")
            return value

    def __init__(self, inner: Inner, settings: Any = None, context: Context | None = None) -> None:
        super().__init__(inner, settings, context)
        MADE.append(self)

    def render(self, request: GatewayRequest) -> Any:
        if request.header(b"x-tenant") == b"nobody":
            raise TenantUnknown
        return self.inner.render(request)

    def explain(self, request: GatewayRequest) -> str | None:
        tenant = request.header(b"x-tenant")
        return None if tenant is None else f"tenant {tenant.decode()}"


class Stamp(Middleware):
    """Says that it saw the request; takes no settings."""

    position = "edge"

    def __init__(self, inner: Inner, settings: Any = None, context: Context | None = None) -> None:
        super().__init__(inner, settings, context)
        MADE.append(self)


class Plain:
    """No subclass of ours."""

    def __init__(self, inner: Inner, settings: Any, context: Context) -> None:
        self._below = inner

    def render(self, request: GatewayRequest) -> Any:
        return self._below.render(request)


class Needy(Middleware):
    """Has to be told."""

    class Settings(BaseModel):
        url: str


class Async(Middleware):
    """Waits in a way that nobody would notice."""

    async def render(self, request: GatewayRequest) -> Any:
        return self.inner.render(request)


class Narrow:
    """Takes too little."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner

    def render(self, request: GatewayRequest) -> Any:
        return self.inner.render(request)


class Nowhere(Middleware):
    """Stands where nothing is."""

    position = "middle"


class Blocking(Middleware):
    """Holds up everybody; in virtual time only."""

    def render(self, request: GatewayRequest) -> Any:
        self.context.clock.advance(0.1)
        return self.inner.render(request)


class Broken(Middleware):
    """Cannot be made."""

    def __init__(self, inner: Inner, settings: Any = None, context: Context | None = None) -> None:
        raise RuntimeError("out of order")


class Room(BaseModel):
    """A part of settings."""

    name: str
    seats: int = 1


class Roomy(Middleware):
    """Has settings in its settings."""

    class Settings(BaseModel, frozen=True, extra="forbid"):
        first: Room | None = None
        rooms: list[Room] = []
        tags: dict[str, SecretStr] = {}
        size: int | None = None


NO_CLASS = 7
