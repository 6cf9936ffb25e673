"""What answers at the end of a route: a backend or several, a redirect, a fixed response, or a mounted resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from txgateway.answers import FixedResponse, Mounted, Redirect
from txgateway.config import Route
from txgateway.proxy.reverse_proxy import ProxySettings, ReverseProxyResource, Share, SplitResource
from txgateway.resources import load_resource

if TYPE_CHECKING:
    from txgateway.middleware.base import Inner
    from txgateway.pipeline import Collaborators


def route_end(route: Route, parts: Collaborators) -> Inner:
    """What answers at the end of a route."""
    if route.redirect is not None:
        return Redirect(route.redirect.to, route.redirect.status)
    if route.response is not None:
        return FixedResponse(route.response.status, route.response.body, route.response.content_type)
    if route.resource is not None:
        return Mounted(
            load_resource(route.resource),
            len(segments_of(route.path)),
            route.body_timeout_s,
            parts.wheel,
            parts.clock,
            route.timeout.total_s,
            route.timeout.idle_s,
        )
    settings = ProxySettings(
        total_s=route.timeout.total_s,
        per_try_s=route.timeout.per_try_s,
        idle_s=route.timeout.idle_s,
        body_timeout_s=route.body_timeout_s,
        preserve_host=route.preserve_host,
        propagates_timeout=route.timeout.propagate,
        retry=route.retry,
        upgrades=frozenset(name.lower().encode("ascii") for name in route.upgrades),
    )
    names: frozenset[bytes] = frozenset() if parts.tracing is None else parts.tracing.names
    shares = [
        Share(
            ReverseProxyResource(
                parts.backends[backend.name], settings, parts.wheel, parts.clock, parts.epoch_s, parts.chance, names
            ),
            backend.weight,
        )
        for backend in route.backends
    ]
    return shares[0].end if len(shares) == 1 else SplitResource(shares)


def segments_of(path: str) -> list[str]:
    """Of a route's path."""
    return [segment for segment in path.removeprefix("=").split("/") if segment]
