"""Finds the route of a request and hands it to the route's own decorators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from txgateway.cors import is_preflight
from txgateway.errors import ORDINARY_METHODS, MethodNotAllowed, NoRoute
from txgateway.middleware.base import Inner, RouteCells
from txgateway.routing.table import RouteTable

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


@frozen
class RouteEntry:
    """What the route table holds for a route.

    Attributes:
        preflights: what answers the preflights of a route with CORS; without, they are requests like others.
    """

    name: str
    resource: Inner
    cells: RouteCells
    allows_trace: bool
    preflights: Inner | None = None


class Router:
    """The end of the edge decorators.

    A preflight goes to the route of the method that it asks for, if that route has CORS; if it has not, or there is
    none, the preflight is an ``OPTIONS`` like any other.

    Position: below ClientAddress; what is refused above it, or here, counts under no route.
    Refuses: NO_ROUTE, METHOD_NOT_ALLOWED (also TRACE, unless the route lists it).
    On cancel: nothing to free.
    """

    isLeaf = True

    def __init__(self, table: RouteTable[RouteEntry]) -> None:
        self._table = table

    def render(self, request: GatewayRequest) -> Any:
        if request.method == b"OPTIONS" and is_preflight(request.method, request.fields):
            entry = self._asked_for(request)
            if entry is not None and entry.preflights is not None:
                _take(request, entry)
                return entry.preflights.render(request)
        entry, parameters = self._table.match(
            request.host or b"", request.canonical_path, request.method, request.fields
        )
        if request.method == b"TRACE" and not entry.allows_trace:
            raise MethodNotAllowed(ORDINARY_METHODS)
        _take(request, entry)
        if parameters:
            request.path_parameters = parameters
        return entry.resource.render(request)

    def _asked_for(self, request: GatewayRequest) -> RouteEntry | None:
        """The route of the request that a preflight asks leave for, if there is one."""
        method = request.fields[b"access-control-request-method"]
        try:
            return self._table.match(request.host or b"", request.canonical_path, method, request.fields)[0]
        except (NoRoute, MethodNotAllowed):
            return None


def _take(request: GatewayRequest, entry: RouteEntry) -> None:
    """From here on the request is the route's: its answer, its place in the log and in the metrics."""
    request.route_name = entry.name
    request.route_metrics = entry.cells
    entry.cells.started()
