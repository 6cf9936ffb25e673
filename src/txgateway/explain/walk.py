"""Explains what the gateway would do with a request: along its own decorators, in their own order, and nothing is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from txgateway.config import Configuration, Route
from txgateway.config.effective import effective_configuration
from txgateway.config.settings import JWT_KEY_SOURCES, variable_name
from txgateway.errors import GatewayError
from txgateway.explain import users
from txgateway.explain.asked import Asked, make_request
from txgateway.explain.candidates import candidates
from txgateway.explain.decorators import DESCRIPTIONS, Description, Surroundings
from txgateway.explain.ends import RouteEnd
from txgateway.explain.still import NoCells
from txgateway.middleware.authenticate import Authenticate
from txgateway.middleware.base import Inner, Middleware
from txgateway.middleware.guard import Guard, Onward
from txgateway.middleware.router import RouteEntry, Router
from txgateway.pipeline import Pipeline
from txgateway.request import GatewayRequest
from txgateway.routing.table import RouteTable

#: Keys of a route that say what it is for, and what is on it besides ours.
MATCH_KEYS: Final = ("hosts", "path", "methods", "headers", "auth", "middlewares")
#: Outcomes of a decorator.
PASSES, DEPENDS, REFUSES, ANSWERS, NOT_REACHED = "passes", "depends", "refuses", "answers", "not reached"


def explain(configuration: Configuration, pipeline: Pipeline, asked: Asked, *, is_live: bool = False) -> dict[str, Any]:
    """All there is to say of a request, as plain JSON data without secrets.

    Args:
        configuration: that the pipeline was built from.
        pipeline: is looked at, and not changed.
        asked: the request.
        is_live: the pipeline is in use, so that the state of its targets is worth telling.
    """
    return _Explanation(configuration, pipeline, asked, is_live=is_live).tell()


class _Explanation:
    def __init__(self, configuration: Configuration, pipeline: Pipeline, asked: Asked, *, is_live: bool) -> None:
        self._configuration = configuration
        self._table = pipeline.routes.table
        self._outermost = pipeline.edge
        self._asked = asked
        self._is_live = is_live
        self._routes = {route.name: route for route in configuration.routes}
        #: How the request ended, as soon as it has.
        self._outcome: dict[str, Any] | None = None

    def tell(self) -> dict[str, Any]:
        told: dict[str, Any] = {"request": self._asked.shown(), "outcome": None, "route": None}
        told |= {"candidates": [], "candidates_left_out": 0, "edge": [], "decorators": [], "end": None}
        *edge, router = _chain(self._outermost)
        assert isinstance(router, Router)
        try:
            request = make_request(self._asked, self._configuration.settings)
        except GatewayError as refusal:
            self._refused(refusal, "the listener")
            request = None
        settings = self._effective(())["settings"]
        for node in edge:
            told["edge"].append(self._step(node, request, Surroundings(self._configuration), settings, {}))
        if request is not None and self._outcome is None:
            self._route(request, told)
        told["outcome"] = self._outcome
        return told

    # --- the route ------------------------------------------------------------------------------------------------

    def _route(self, request: GatewayRequest, told: dict[str, Any]) -> None:
        channel = request.channel
        table = _DryTable(self._table)
        try:
            Router(table).render(request)
        except GatewayError as refusal:
            self._refused(refusal, "Router")
        found, told["candidates_left_out"] = candidates(self._table, self._routes, request, table.method)
        told["candidates"] = found
        if table.taken is None:
            return
        name, first = table.taken
        route = self._routes[name]
        effective = self._effective((route,))
        own = effective["routes"][name]
        told["route"] = {
            "name": name,
            "where": self._where(route),
            "captures": {key: value.decode("latin-1") for key, value in request.path_parameters.items()},
            "settings": {key: own[key] for key in MATCH_KEYS},
        }
        around = Surroundings(self._configuration, route)
        *decorators, last = _chain(first)
        for node in decorators:
            told["decorators"].append(self._step(node, request, around, effective["settings"], own))
            if isinstance(node, Authenticate) and not node.is_public(request):
                around = attrs.evolve(around, wants_token=True)
        if self._outcome is None:
            claims = frozenset(header.lower() for _, header in route.jwt.claim_headers if around.wants_token)
            end = RouteEnd(last, route, own, lambda backend: effective["backends"][backend], claims, self._is_live)
            try:
                told["end"] = end.describe(request, channel)
            except GatewayError as refusal:
                self._refused(refusal, type(last).__name__)
            else:
                is_forwarded = told["end"]["is"] != "answer"
                self._outcome = {"is": "forwarded"} if is_forwarded else {"is": "answered", "by": told["end"]["by"]}

    def _where(self, route: Route) -> str:
        _, document = self._configuration.parts()
        return next(entry.place.of("") for entry in document.routes if entry.table.name == route.name)

    def _effective(self, routes: Sequence[Route]) -> dict[str, dict[str, Any]]:
        """The effective settings of the process, and of these routes and the backends that they lead to."""
        environment, document = self._configuration.parts()
        names = {route.name for route in routes}
        backends = {backend.name for route in routes for backend in route.backends}
        return effective_configuration(
            environment,
            attrs.evolve(
                document,
                routes=tuple(entry for entry in document.routes if entry.table.name in names),
                backends=tuple(entry for entry in document.backends if entry.name in backends),
            ),
            self._configuration.middlewares,
        )

    # --- one decorator --------------------------------------------------------------------------------------------

    def _step(
        self,
        node: Middleware,
        request: GatewayRequest | None,
        around: Surroundings,
        settings: Mapping[str, Any],
        own: Mapping[str, Any],
    ) -> dict[str, Any]:
        if isinstance(node, Guard):
            return self._user_step(node, request)
        kind = type(node)
        description = DESCRIPTIONS.get(kind) or Description(depends=True)
        step = _new_step(kind, dict(_settings(description.keys, settings, own)))
        if request is None or self._outcome is not None:
            return step
        try:
            if description.alone is not None:
                description.alone(node, around).render(request)
            if not request.ended:
                step["says"] = dict(description.says(node, request, around))
        except GatewayError as refusal:
            self._refused(refusal, kind.__name__)
            step["outcome"] = REFUSES
            return step
        if request.ended or "answers" in step["says"]:
            step["outcome"] = ANSWERS
            self._outcome = {"is": "answered", "by": kind.__name__}
        else:
            step["outcome"] = DEPENDS if description.depends else PASSES
        return step

    def _user_step(self, guard: Guard, request: GatewayRequest | None) -> dict[str, Any]:
        kind = users.class_of(guard)
        step = _new_step(kind, dict(users.entries_of(guard, self._configuration.middlewares)))
        if request is None or self._outcome is not None:
            return step
        step["says"] = users.said_by(guard, request)
        try:
            passes = users.asked_alone(guard, request)
        except GatewayError as refusal:
            self._refused(refusal, kind.__name__)
            step["outcome"] = REFUSES
            return step
        step["outcome"] = PASSES if passes else DEPENDS
        if request.ended:
            step["outcome"] = ANSWERS
            self._outcome = {"is": "answered", "by": kind.__name__}
        return step

    def _refused(self, refusal: GatewayError, by: str) -> None:
        self._outcome = {
            "is": "refused",
            "by": by,
            "status": refusal.status,
            "reason": refusal.reason,
            "detail": refusal.detail,
            "why": str(refusal),
            "headers": [[name.decode("ascii"), value.decode("latin-1")] for name, value in refusal.headers()],
        }


def _new_step(kind: type[Any], settings: dict[str, Any]) -> dict[str, Any]:
    does = (kind.__doc__ or "").strip().partition("\n")[0]
    return {"decorator": kind.__name__, "does": does, "outcome": NOT_REACHED, "says": {}, "settings": settings}


def _chain(outermost: Inner) -> Iterator[Any]:
    """The decorators from the outermost on, and what is at their end."""
    node: Inner = outermost
    while isinstance(node, Middleware):
        yield node
        node = node.inner
        if isinstance(node, Onward):
            node = node.render.__self__  # type: ignore[attr-defined]  # a bound method
    yield node


def _settings(
    keys: Sequence[str], settings: Mapping[str, Any], own: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The settings with these keys: the route's own, or else the process's, by variable; no key source that is not set."""
    for key in keys:
        if key in own:
            yield key, own[key]
        elif (entry := settings.get(variable_name(key))) is not None and not (
            key in JWT_KEY_SOURCES and entry["value"] is None
        ):
            yield variable_name(key), entry


class _DryTable(RouteTable[RouteEntry]):
    """Finds what another table finds, and leads nowhere.

    Attributes:
        method: that was asked for last: for a preflight, the one that it asks leave for.
        taken: the name of the route that was taken, and what stands for it.
    """

    def __init__(self, table: RouteTable[RouteEntry]) -> None:
        super().__init__()
        self._table = table
        self._known: dict[str, RouteEntry] = {}
        self.method = b""
        self.taken: tuple[str, Inner] | None = None

    def match(
        self, host: bytes, path: bytes, method: bytes, headers: Mapping[bytes, bytes]
    ) -> tuple[RouteEntry, dict[str, bytes]]:
        """As the other table, with an entry of our own."""
        self.method = method
        entry, parameters = self._table.match(host, path, method, headers)
        return self._known.setdefault(entry.name, self._stand_in(entry)), parameters

    def _stand_in(self, entry: RouteEntry) -> RouteEntry:
        def instead_of(inner: Inner | None) -> Inner | None:
            return None if inner is None else _Taking(self, entry.name, inner)

        return RouteEntry(
            entry.name,
            _Taking(self, entry.name, entry.resource),
            NoCells(),
            entry.allows_trace,
            instead_of(entry.preflights),
            instead_of(entry.preflights_in_vain),
            entry.keeps_path,
        )


class _Taking:
    """Remembers that a route was taken."""

    def __init__(self, table: _DryTable, name: str, inner: Inner) -> None:
        self._table = table
        self._taken = (name, inner)

    def render(self, request: GatewayRequest) -> None:
        """Go no further."""
        self._table.taken = self._taken
