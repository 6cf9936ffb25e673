"""What a route accepts at all: the size of a body, and header names and paths that backends read differently."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from txgateway.errors import BadPath, BadRequest
from txgateway.middleware.base import Inner, Middleware
from txgateway.routing.path import has_encoded_slash

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


class Admission(Middleware):
    """Size and spelling limits of one route.

    Position: first of a route's decorators; below it a request is one that the route may serve.
    Refuses: BODY_TOO_LARGE, BAD_PATH (an encoded slash, where the route says so), BAD_REQUEST (a header name with an
        underscore, where the route says so).
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        max_body_bytes: 0 for no limit.
        underscore_headers: ``drop``, ``keep`` or ``reject``; CGI-like backends read ``X_User`` as ``X-User``.
        rejects_encoded_slash: ``%2F`` in a path is refused.
    """

    def __init__(
        self, inner: Inner, max_body_bytes: int, underscore_headers: str, *, rejects_encoded_slash: bool
    ) -> None:
        super().__init__(inner)
        self._max_body_bytes = max_body_bytes or math.inf
        self._underscores = underscore_headers
        self._rejects_encoded_slash = rejects_encoded_slash

    def render(self, request: GatewayRequest) -> Any:
        if not request.body_complete or request.bytes_in:
            request.limit_body(self._max_body_bytes)
        if self._rejects_encoded_slash and has_encoded_slash(request.path):
            raise BadPath("encoded slash")
        if self._underscores != "keep" and b"_" in b"".join(request.fields):  # one search, not one a field
            self._underscore(request)
        return self.inner.render(request)

    def _underscore(self, request: GatewayRequest) -> None:
        if self._underscores == "reject":
            raise BadRequest("underscore in a header name")
        request.remove_headers(frozenset(lowered for lowered in request.fields if b"_" in lowered))
