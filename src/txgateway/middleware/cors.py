"""Lets pages of other origins use a route, and nobody else's fields decide that."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.web.server import NOT_DONE_YET

from txgateway.cors import CorsPolicy, with_cors
from txgateway.errors import OriginNotAllowed
from txgateway.fields import Fields
from txgateway.headers import field_values
from txgateway.leaf import Leaf
from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


class Cors(Middleware):
    """Puts the route's CORS fields on every answer, in place of a backend's, and ``Vary: Origin`` where it depends.

    Position: below SecurityHeaders, above whatever may refuse, so that a page can read the refusal. Preflights do
    not come here: the router gives them to :class:`Preflights`.
    Refuses: nothing; a browser keeps what an origin may not read from it.
    On cancel: nothing to free.

    Attributes:
        policy: of the route.
    """

    def __init__(self, inner: Inner, policy: CorsPolicy) -> None:
        super().__init__(inner)
        self.policy = policy

    def render(self, request: GatewayRequest) -> Any:
        # Decided now: the route may take Origin out of what the backend gets.
        request.before_head(partial(_change, self.policy.fields(request.fields.get(b"origin"))))
        return self.inner.render(request)


class EdgeCors(Middleware):
    """The process-wide CORS fields, on answers to requests that no route took.

    Position: at the edge, above whatever may refuse there, below RequestId.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    def __init__(self, inner: Inner, policy: CorsPolicy) -> None:
        super().__init__(inner)
        self._policy = policy

    def render(self, request: GatewayRequest) -> Any:
        request.before_head(self._change_unrouted)
        return self.inner.render(request)

    def _change_unrouted(self, request: GatewayRequest) -> None:
        if request.route_name is None:
            _change(self._policy.fields(request.fields.get(b"origin")), request)


class Preflights(Leaf):
    """Answers the preflights for one route; nothing of them reaches authentication, limits or the backend.

    A resource of its own, and not a case in :class:`Cors`, because an ``OPTIONS`` that asks for a method of another
    route, which has no CORS, is an ordinary request here: answering it would allow what that route does not.

    Refuses: ORIGIN_NOT_ALLOWED.

    Args:
        policy: of the route.
        is_served: whether the route serves the methods that are asked for; otherwise none is allowed.
    """

    def __init__(self, policy: CorsPolicy, *, is_served: bool = True) -> None:
        self._policy = policy
        self._is_served = is_served

    def render(self, request: GatewayRequest) -> int:
        fields = request.fields
        asked_headers = b",".join(field_values(request.headers, b"access-control-request-headers"))
        origin = fields[b"origin"]
        method = fields[b"access-control-request-method"] if self._is_served else b""
        answer = self._policy.preflight(origin, method, asked_headers)
        if answer is None:
            request.before_head(partial(_change, self._policy.fields(origin)))
            raise OriginNotAllowed
        request.answer(204, answer, b"")
        return NOT_DONE_YET


def _change(fields: Fields, request: GatewayRequest) -> None:
    request.response_headers = with_cors(request.response_headers, fields)
