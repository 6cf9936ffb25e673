"""Every decorator, and every key of a route and of a backend, is told of."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import orjson
import pytest
from tests.helpers.explained import DOCUMENT, ENVIRONMENT, token
from tests.unit.support import MemoryGateway

from txgateway import middleware, pipeline
from txgateway.config import load
from txgateway.config.document import ENDS, BackendTable, RouteTable
from txgateway.config.groups import leaves
from txgateway.explain import Asked, explain, still_pipeline
from txgateway.explain.decorators import DESCRIPTIONS
from txgateway.middleware.base import Middleware
from txgateway.pipeline import Pipeline, nest

#: Where every decorator is in use.
ALL = {
    **ENVIRONMENT,
    "GATEWAY_SERVER_TIMING": "all",
    "GATEWAY_CORS_ALLOW_ORIGINS": "https://app.example.com",
}


def concrete_middlewares() -> set[type[Middleware]]:
    modules = [
        importlib.import_module(f"{middleware.__name__}.{info.name}")
        for info in pkgutil.iter_modules(middleware.__path__)
    ]
    found = {
        value
        for module in (*modules, pipeline)
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, Middleware) and value is not Middleware
    }
    assert len(found) > 20
    return found


def test_every_middleware_has_a_description() -> None:
    assert set(DESCRIPTIONS) == concrete_middlewares()


def chain(node: Any) -> list[str]:
    found = []
    while isinstance(node, Middleware):
        found.append(type(node).__name__)
        node = node.inner
    return found


@pytest.mark.parametrize("traces", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}])
def test_order_is_that_of_the_pipeline(traces: dict[str, str]) -> None:
    gateway = MemoryGateway({**ALL, **traces}, DOCUMENT)
    for url, name in (("/users/7/cv", "user"), ("/users/7", "users"), ("/office", "office"), ("/api/x", "beta")):
        told = explain(gateway.configuration, gateway.pipeline, Asked("GET", url, ("X-Beta: 1",)))
        assert told["route"]["name"] == name
        assert [one["decorator"] for one in told["edge"]] == chain(gateway.pipeline.edge)
        assert [one["decorator"] for one in told["decorators"]] == chain(gateway.pipeline.routes.entries[name].resource)
        assert all(one["does"] for one in (*told["edge"], *told["decorators"]))


def test_decorator_that_is_not_known_is_named() -> None:
    class Unknown(Middleware):
        """From outside."""

        def render(self, request: Any) -> Any:
            raise AssertionError("asked")

    configuration = load({"GATEWAY_BACKEND_TARGET": "http://a"})
    built = still_pipeline(configuration)
    built._entry = nest(Unknown, end=built.edge)
    first = explain(configuration, built, Asked("GET", "/"))["edge"][0]
    assert (first["decorator"], first["does"], first["outcome"]) == ("Unknown", "From outside.", "depends")


def full_explanation(url: str, *header_lines: str) -> dict[str, Any]:
    configuration = load({**ALL, "GATEWAY_ROUTES": orjson.dumps(FULL).decode()})
    return explain(configuration, still_pipeline(configuration), Asked("GET", url, header_lines))


#: A route with every decorator that a route may have.
FULL = {
    "backends": {"a": {"targets": ["http://a"]}},
    "routes": [
        {
            "name": "r",
            "path": "/r",
            "backend": "a",
            "strip_prefix": True,
            "request_headers": {"set": {"X-A": "b"}},
            "jwt": {"claim_headers": {"sub": "X-User"}},
            "rate_limit": {"rate": "1/s"},
        }
    ],
}


def test_every_key_of_a_route_and_a_backend_is_told() -> None:
    told = full_explanation("/r", f"Authorization: Bearer {token()}")
    end = told["end"]
    routes: set[str] = set(told["route"]["settings"]) | set(end["settings"]) | set(end["retry"]["settings"])
    for one in told["decorators"]:
        routes |= set(one["settings"])
    known = {leaf.key for leaf in leaves(RouteTable())}
    assert known - routes == {"name", *ENDS}
    backends = set(end["backends"][0]["settings"])
    assert {leaf.key for leaf in leaves(BackendTable())} - backends == {"targets"}


def test_all_that_a_request_passes_is_told_in_one_order() -> None:
    told = full_explanation("/r/x", f"Authorization: Bearer {token()}")
    assert [one["decorator"] for one in told["decorators"]] == [
        "SecurityHeaders", "Cors", "Admission", "PhaseStart", "RateLimit", "PhaseEnd", "PhaseStart", "Authenticate",
        "PhaseEnd", "PhaseStart", "Bulkhead", "PhaseEnd", "HeaderTransform", "PathTransform",
    ]  # fmt: skip
    phases = [one["says"]["phase"] for one in told["decorators"] if one["decorator"] == "PhaseStart"]
    assert phases == ["limit", "auth", "queue"]


def test_keys_that_are_downloaded_are_not() -> None:
    environ = {"GATEWAY_BACKEND_TARGET": "http://a", "GATEWAY_JWT_JWKS_URL": "https://idp.example/jwks"}
    configuration = load(environ)
    built: Pipeline = still_pipeline(configuration)
    told = explain(configuration, built, Asked("GET", "/", ("Authorization: Bearer x",)))
    (authenticate,) = [one for one in told["decorators"] if one["decorator"] == "Authenticate"]
    assert authenticate["says"]["token"].endswith("by the keys of GATEWAY_JWT_JWKS_URL")
