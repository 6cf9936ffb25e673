from __future__ import annotations

import pytest
from tests.unit.support import MemoryGateway

from txgateway.errors import MethodNotAllowed

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
