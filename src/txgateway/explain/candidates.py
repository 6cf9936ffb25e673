"""Which routes a request might have taken, and why each but one did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from txgateway.config import Route
from txgateway.ends import segments_of
from txgateway.middleware.router import RouteEntry
from txgateway.request import GatewayRequest
from txgateway.routing.table import Candidate, RouteTable

#: Most routes that are listed; those that have nothing to do with the path are the first to be left out.
MAX_LISTED: Final = 100
#: The more specific first.
_HOST_KINDS: Final = ("exact", "wildcard", "any")


def candidates(
    table: RouteTable[RouteEntry], routes: Mapping[str, Route], request: GatewayRequest, method: bytes
) -> tuple[list[dict[str, Any]], int]:
    """All routes, best first, and how many are left out.

    Args:
        table: that finds them.
        routes: by name.
        request: has a host and a canonical path.
        method: that a route must have: for a preflight, the one that it asks for.
    """
    found: dict[str, Candidate[RouteEntry]] = {}
    for candidate in table.candidates(request.host or b"", request.canonical_path, method, request.fields):
        found.setdefault(candidate.name, candidate)  # a route of several hosts is at each of them
    winner = next((candidate for candidate in found.values() if not candidate.lacks), None)
    listed = []
    for candidate in found.values():
        is_winner = candidate is winner
        lost = list(candidate.lacks)
        why = [_lack(what, routes[candidate.name], method) for what in lost]
        if not is_winner and not lost and winner is not None:
            lost, why = ["specificity"], [_less_specific(candidate, winner, routes)]
        listed.append(_entry(candidate.name, routes, lost, why, _text(candidate.parameters), won=is_winner))
    for name, route in routes.items():
        if len(listed) >= MAX_LISTED:
            break
        if name not in found:
            listed.append(_entry(name, routes, ["path"], [f"path {route.path} is another"], {}, won=False))
    listed = listed[:MAX_LISTED]
    return listed, len(routes) - len(listed)


def _entry(
    name: str, routes: Mapping[str, Route], lost: list[str], why: list[str], captures: dict[str, str], *, won: bool
) -> dict[str, Any]:
    return {
        "route": name,
        "path": routes[name].path,
        "won": won,
        "lost_by": lost,
        "why": "; ".join(why),
        "captures": captures,
    }


def _lack(what: str, route: Route, method: bytes) -> str:
    if what == "host":
        return f"host is none of {', '.join(route.hosts)}"
    if what == "methods":
        return f"method {method.decode('latin-1')} is none of {', '.join(route.methods)}"
    return f"not all of these headers are as it says: {', '.join(route.headers)}"


def _less_specific(loser: Candidate[RouteEntry], winner: Candidate[RouteEntry], routes: Mapping[str, Route]) -> str:
    """Why the other one goes first, though both match: the first difference, in the order that the table goes by."""
    return next(_differences(loser, winner, routes), f"as specific as {winner.name}, and behind it in the document")


def _differences(
    loser: Candidate[RouteEntry], winner: Candidate[RouteEntry], routes: Mapping[str, Route]
) -> Iterator[str]:
    mine, its = routes[loser.name], routes[winner.name]
    if _HOST_KINDS.index(loser.host) > _HOST_KINDS.index(winner.host):
        yield f"its host is less specific than that of {winner.name}"
    if _segments(mine.path) != _segments(its.path):
        yield f"its path is less specific than that of {winner.name}"
    if mine.path.startswith("=") != its.path.startswith("="):
        yield f"{winner.name} is for exactly this path"
    if bool(mine.methods) != bool(its.methods):
        yield f"{winner.name} names its methods"
    if len(mine.headers) != len(its.headers):
        yield f"{winner.name} asks for more headers"
    if len(_with_head(mine.methods)) != len(_with_head(its.methods)):
        yield f"{winner.name} takes fewer methods"


def _with_head(methods: tuple[str, ...]) -> set[str]:
    return {*methods, "HEAD"} if "GET" in methods else set(methods)


def _segments(path: str) -> list[str]:
    return ["{}" if segment.startswith("{") else segment for segment in segments_of(path)]


def _text(parameters: Mapping[str, bytes]) -> dict[str, str]:
    return {name: value.decode("latin-1") for name, value in parameters.items()}
