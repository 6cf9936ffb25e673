"""Tells the backend whose request it is, by the verified token and by nothing that the client says itself."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field

from txgateway.middleware import Context, GatewayRequest, Inner, Middleware, OwnHeaders, ScopeMissing, claim_value


class TenantMissing(ScopeMissing):
    """The token is good, and names no tenant."""

    detail = "The token names no tenant."


class Tenancy(Middleware):
    """Sets a header to a claim of the token.

    A client's own copy is dropped, in the trailers too, however its name is spelled: CGI and its likes take ``X_Tenant``
    for ``X-Tenant``. A claim that is no plain value (empty, with control characters) counts as missing.

    Position: on a route with ``auth = "jwt"``, above all that goes by the tenant. On a route without, nobody gets through.
    Refuses: SCOPE_MISSING.
    On cancel: nothing to free.
    """

    class Settings(BaseModel, frozen=True, extra="forbid"):
        """What ``[middlewares.tenancy.settings]`` may say."""

        claim: str = Field(default="org", min_length=1)
        header: str = Field(default="X-Tenant", pattern="^[A-Za-z0-9-]+$")

    settings: Settings
    position: ClassVar[str] = "route"

    def __init__(self, inner: Inner, settings: Settings, context: Context) -> None:
        super().__init__(inner, settings, context)
        self._own = OwnHeaders([settings.header])
        self._name = settings.header.encode("ascii")
        self._set_tenant = context.log_field("tenant")
        self._refused = context.metrics.counter("refused", "Requests whose token names no tenant.")

    def render(self, request: GatewayRequest) -> Any:
        tenant = claim_value(request.claims.get(self.settings.claim))
        if tenant is None:
            self._refused.inc()
            raise TenantMissing
        self._own.replace(request, ((self._name.lower(), self._name, tenant),))
        self._set_tenant(request, tenant)
        return self.inner.render(request)

    def explain(self, request: GatewayRequest) -> str:
        """For ``txgateway explain``."""
        return f"{self.settings.header} is set to the token's claim {self.settings.claim}; 403 without one"
