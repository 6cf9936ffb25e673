"""Answers the liveness and readiness probes on the traffic port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from twisted.web.resource import IResource

from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


class Probes(Middleware):
    """Two fixed paths that never reach a route.

    Position: above the log and the metrics, which do not count probes; below RequestId.
    Refuses: nothing.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        resources: path to the resource that answers it.
    """

    def __init__(self, inner: Inner, resources: Mapping[bytes, IResource]) -> None:
        super().__init__(inner)
        self.resources = resources

    def render(self, request: GatewayRequest) -> Any:
        target = request.uri
        resource = self.resources.get(target.partition(b"?")[0] if b"?" in target else target)
        if resource is None:
            return self.inner.render(request)
        request.path = target.partition(b"?")[0]
        request.defaultContentType = None
        return request.render(resource)
