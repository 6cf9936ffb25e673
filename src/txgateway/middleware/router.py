"""Finds the route of a request and hands it to the route's own decorators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from txgateway.cors import is_preflight
from txgateway.errors import ORDINARY_METHODS, BadPath, MethodNotAllowed, NoRoute
from txgateway.middleware.base import Inner, RouteCells
from txgateway.routing.path import behind_authority
from txgateway.routing.table import RouteTable

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


#: What the second byte of a path with two slashes in front, in whatever spelling, may be.
_SLASH_OR_ESCAPE = (b"/", b"%")


@frozen
class RouteEntry:
    """What the route table holds for a route.

    Attributes:
        preflights: what answers the preflights of a route with CORS; without, they are requests like others.
        preflights_in_vain: the same, for a method that no route serves there.
        keeps_path: the backend gets the client's own path.
    """

    name: str
    resource: Inner
    cells: RouteCells
    allows_trace: bool
    preflights: Inner | None = None
    preflights_in_vain: Inner | None = None
    keeps_path: bool = True


class Router:
    """The end of the edge decorators.

    A preflight goes to the route of the method that it asks for, if that route has CORS; if it has not, or there is
    none, the preflight is an ``OPTIONS`` like any other.

    Position: below ClientAddress; what is refused above it, or here, counts under no route.
    Refuses: NO_ROUTE, METHOD_NOT_ALLOWED (also TRACE, unless the route lists it), BAD_PATH where a backend may see the
        path of another route.
    On cancel: nothing to free.
    """

    isLeaf = True

    def __init__(self, table: RouteTable[RouteEntry]) -> None:
        self._table = table

    def render(self, request: GatewayRequest) -> Any:
        if request.method == b"OPTIONS" and is_preflight(request.method, request.fields):
            asked_for, answer = self._asked_for(request)
            if asked_for is not None and answer is not None:
                _take(request, asked_for)
                return answer.render(request)
        entry, parameters = self._table.match(
            request.host or b"", request.canonical_path, request.method, request.fields
        )
        if request.method == b"TRACE" and not entry.allows_trace:
            raise MethodNotAllowed(ORDINARY_METHODS)
        if entry.keeps_path and request.path[1:2] in _SLASH_OR_ESCAPE and not self._is_of(entry, request):
            raise BadPath("two slashes in front, which a backend may take for an authority on another route")
        _take(request, entry)
        if parameters:
            request.path_parameters = parameters
        return entry.resource.render(request)

    def _is_of(self, entry: RouteEntry, request: GatewayRequest) -> bool:
        """Whether a path is of this route also for a backend that takes its first segment for an authority."""
        host, method, fields = request.host or b"", request.method, request.fields
        try:
            readings = [self._table.match(host, path, method, fields)[0] for path in behind_authority(request.path)]
        except (NoRoute, MethodNotAllowed):
            return False
        return all(reading is entry for reading in readings)

    def _asked_for(self, request: GatewayRequest) -> tuple[RouteEntry | None, Inner | None]:
        """The route of the request that a preflight asks leave for, and what answers there, if anything does."""
        method = request.fields[b"access-control-request-method"]
        host, path, fields = request.host or b"", request.canonical_path, request.fields
        try:
            entry = self._table.match(host, path, method, fields)[0]
        except NoRoute:
            return None, None
        except MethodNotAllowed as refusal:
            # A page is told what it may do here, not that it must not ask.
            for served in refusal.allowed:
                entry = self._table.match(host, path, served.encode("ascii"), fields)[0]
                if entry.preflights_in_vain is not None:
                    return entry, entry.preflights_in_vain
            return None, None
        return entry, entry.preflights


def _take(request: GatewayRequest, entry: RouteEntry) -> None:
    """From here on the request is the route's: its answer, its place in the log and in the metrics."""
    request.route_name = entry.name
    request.route_metrics = entry.cells
    entry.cells.started()
