from __future__ import annotations

import pytest
from tests.unit.support import Inner, MemoryGateway, stub_request

from txgateway.errors import BadPath, MethodNotAllowed, NoRoute
from txgateway.middleware.router import RouteEntry, Router
from txgateway.request import GatewayRequest
from txgateway.routing.path import canonical_path
from txgateway.routing.table import RouteRule, RouteTable
from txgateway.telemetry.metrics import RequestMetrics

ROUTES = {
    "backends": {"b": {"targets": ["http://target"]}},
    "routes": [
        {"name": "item", "path": "/items/{id}", "backend": "b", "methods": ["GET"], "rewrite": "/i/{id}"},
        {"name": "traced", "path": "/traced", "backend": "b", "methods": ["GET", "TRACE"]},
        {"name": "all", "path": "/all", "backend": "b"},
    ],
}


def test_matched_route_is_known_to_log_and_metrics_and_its_parameters_to_the_rewrite() -> None:
    gateway = MemoryGateway(document=ROUTES)
    client = gateway.get(b"/items/7?x")
    assert gateway.target.received().startswith(b"GET /i/7?x HTTP/1.1\r\n")
    assert gateway.metrics.route("item").in_flight == 1
    gateway.target.answer()
    assert client.response().status == 200
    assert gateway.metrics.route("item").in_flight == 0
    assert [request.route_name for request in gateway.log] == ["item"]


def test_no_route_is_404_under_none() -> None:
    gateway = MemoryGateway(document=ROUTES)
    response = gateway.get(b"/nothing").response()
    assert response.problem["reason"] == "NO_ROUTE"
    assert [request.route_name for request in gateway.log] == [None]
    assert [method for method, _ in gateway.metrics.route("none").methods()] == ["GET"]


def test_other_method_is_405_with_allow() -> None:
    response = MemoryGateway(document=ROUTES).get(b"/items/7", method=b"DELETE").response()
    assert response.problem["reason"] == MethodNotAllowed.reason
    assert set((response.get(b"allow") or b"").split(b", ")) == {b"GET", b"HEAD"}


@pytest.mark.parametrize(("path", "status"), [(b"/traced", None), (b"/all", 405)])
def test_trace_needs_a_route_that_lists_it(path: bytes, status: int | None) -> None:
    gateway = MemoryGateway(document=ROUTES)
    client = gateway.get(path, method=b"TRACE")
    if status is None:
        assert len(gateway.dialer.targets) == 1
    else:
        assert client.response().status == status
        assert gateway.metrics.route("all").in_flight == 0


class Places:
    """A table whose routes keep what they get; those named have CORS.

    Attributes:
        ends: by name of the route, what serves it.
        preflights: by name of the route, what answers preflights for it.
    """

    def __init__(self, rules: tuple[RouteRule, ...], with_cors: tuple[str, ...]) -> None:
        cells = RequestMetrics()
        self.ends = {rule.name: Inner() for rule in rules}
        self.preflights = {name: Inner() for name in with_cors}
        self.in_vain = {name: Inner() for name in with_cors}
        self.router = Router(
            RouteTable(
                (
                    rule,
                    RouteEntry(
                        rule.name,
                        self.ends[rule.name],
                        cells.route(rule.name),
                        allows_trace=False,
                        preflights=self.preflights.get(rule.name),
                        preflights_in_vain=self.in_vain.get(rule.name),
                    ),
                )
                for rule in rules
            )
        )

    def place(self, method: bytes, target: bytes, asked: bytes | None = None, origin: bytes | None = b"null") -> str:
        """Where a request ends, as the name of the route, with a mark if it is answered as a preflight."""
        fields = {b"Host": b"a"}
        if asked is not None:
            fields[b"Access-Control-Request-Method"] = asked
        if origin is not None:
            fields[b"Origin"] = origin
        request = stub_request(method, target, fields)
        request.path = target
        request.canonical_path = canonical_path(target)
        self.router.render(request)
        (found,) = [
            name + mark
            for ends, mark in ((self.ends, ""), (self.preflights, " (preflight)"), (self.in_vain, " (in vain)"))
            for name, end in ends.items()
            if end.requests == [request]
        ]
        assert request.route_name == found.partition(" ")[0]
        return found


def places() -> Places:
    return Places(
        (
            RouteRule("read", path="/items", methods=("GET",)),
            RouteRule("delete", path="/items", methods=("DELETE",)),
            RouteRule("items", path="/items"),
            RouteRule("closed", path="/closed"),
            RouteRule("written", path="/written", methods=("PUT",)),
            RouteRule("shut", path="/shut", methods=("PUT",)),
        ),
        with_cors=("read", "items", "written"),
    )


@pytest.mark.parametrize(
    ("target", "asked", "place"),
    [
        (b"/items/1", b"GET", "read (preflight)"),
        (b"/items/1", b"HEAD", "read (preflight)"),
        (b"/items/1", b"PUT", "items (preflight)"),
        (b"/written", b"PUT", "written (preflight)"),
        # A method that no route serves: the page hears from one that has CORS.
        (b"/written", b"GET", "written (in vain)"),
        # A route without CORS: nobody answers for it, not even the one that ordinary OPTIONS go to.
        (b"/items/1", b"DELETE", "items"),
        (b"/closed", b"GET", "closed"),
    ],
)
def test_preflight_goes_to_the_route_of_the_method_it_asks_for(target: bytes, asked: bytes, place: str) -> None:
    assert places().place(b"OPTIONS", target, asked) == place


@pytest.mark.parametrize(
    ("method", "asked", "origin"), [(b"OPTIONS", None, b"null"), (b"OPTIONS", b"GET", None), (b"PUT", b"GET", b"null")]
)
def test_what_is_no_preflight_is_an_ordinary_request(method: bytes, asked: bytes | None, origin: bytes | None) -> None:
    assert places().place(method, b"/items/1", asked, origin) == "items"


def refused(method: bytes, target: bytes, asked: bytes | None = None) -> tuple[type[Exception], GatewayRequest]:
    fields = {b"Host": b"a"} if asked is None else {b"Origin": b"null", b"Access-Control-Request-Method": asked}
    request = stub_request(method, target, fields)
    request.canonical_path = target
    with pytest.raises((MethodNotAllowed, NoRoute)) as raised:
        places().router.render(request)
    return raised.type, request


@pytest.mark.parametrize(("target", "error"), [(b"/shut", MethodNotAllowed), (b"/nowhere", NoRoute)])
def test_preflight_that_no_route_takes_is_refused_like_any_options(target: bytes, error: type[Exception]) -> None:
    assert refused(b"OPTIONS", target, b"DELETE")[0] is error


def test_trace_is_refused_before_a_route_takes_it_so_that_the_edge_answers() -> None:
    error, request = refused(b"TRACE", b"/items")
    assert error is MethodNotAllowed
    assert (request.route_name, request.route_metrics) == (None, None)


@pytest.mark.parametrize(
    "target",
    [
        b"//items/closed/1",
        b"///items/closed",
        b"//items//closed",
        b"//closed/items",
        b"//items/x",
        b"//items%2Fitems/closed",
        b"/%2Fitems/closed",
        b"/%2fitems%2fitems/closed",
        b"//items%2Fx%2Fitems/items",
    ],
)
def test_slashes_in_front_that_a_backend_may_take_for_another_route_are_refused(target: bytes) -> None:
    with pytest.raises(BadPath):
        places().place(b"GET", target)


@pytest.mark.parametrize(
    ("target", "place"),
    [
        (b"//items/items/1", "read"),
        (b"//closed/closed", "closed"),
        (b"//items%2Fitems/items", "read"),
        (b"/%69tems", "read"),
    ],
)
def test_slashes_in_front_are_no_matter_where_both_readings_are_of_one_route(target: bytes, place: str) -> None:
    assert places().place(b"GET", target) == place
