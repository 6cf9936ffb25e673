"""Finds the route of a request and hands it to the route's own decorators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from txgateway.errors import ORDINARY_METHODS, MethodNotAllowed
from txgateway.middleware.base import Inner, RouteCells
from txgateway.routing.table import RouteTable

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest


@frozen
class RouteEntry:
    """What the route table holds for a route."""

    name: str
    resource: Inner
    cells: RouteCells
    allows_trace: bool


class Router:
    """The end of the edge decorators.

    Position: below ClientAddress; what is refused above it counts under no route.
    Refuses: NO_ROUTE, METHOD_NOT_ALLOWED (also TRACE, unless the route lists it).
    On cancel: nothing to free.
    """

    isLeaf = True

    def __init__(self, table: RouteTable[RouteEntry]) -> None:
        self._table = table

    def render(self, request: GatewayRequest) -> Any:
        entry, parameters = self._table.match(
            request.host or b"", request.canonical_path, request.method, request.fields
        )
        request.route_name = entry.name
        request.route_metrics = entry.cells
        entry.cells.started()
        if parameters:
            request.path_parameters = parameters
        if request.method == b"TRACE" and not entry.allows_trace:
            raise MethodNotAllowed(ORDINARY_METHODS)
        return entry.resource.render(request)
