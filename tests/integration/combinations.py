"""All four combinations of HTTP/1.1 and HTTP/2, in front of a gateway and behind it."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from tests.integration.backend import ScriptedBackend
from tests.integration.combined_client import Caller, H1Caller, H2Caller
from tests.integration.combined_target import H1Target, H2Target, Target
from tests.integration.h2_backend import H2Backend
from tests.integration.harness import Gateway, Line, routes

#: Front and behind.
COMBINATIONS = ("h1-h1", "h1-h2", "h2-h1", "h2-h2")

_ONCE = {"max_attempts": 1}
#: Kinds of routes: the first part of a path behind the version of its backend, and what the route has of its own.
ROUTES: dict[str, dict[str, Any]] = {
    "plain": {"max_body_bytes": 0},
    "small": {"max_body_bytes": 10},
    "idle": {"timeout": {"idle": "300ms"}},
    "total": {"timeout": {"total": "300ms"}},
    "try": {"timeout": {"per_try": "300ms"}},
    "stalls": {"body_timeout": "300ms"},
    "again": {"retry": {"max_attempts": 2, "backoff": "1ms", "budget_min": 1000}},
    "ws": {"upgrades": ["websocket"]},
    "ws-idle": {"upgrades": ["websocket"], "timeout": {"idle": "300ms"}},
}

_numbers = count()


def document(urls: dict[str, str], **backend: Any) -> dict[str, Any]:
    """Routes of all kinds to backends by version."""
    return {
        "backends": {
            version: {"targets": [url], "breaker": {"enabled": False}, **backend} for version, url in urls.items()
        },
        "routes": [
            {"name": f"{version}-{kind}", "path": f"/{version}/{kind}", "backend": version, "retry": _ONCE, **keys}
            for version in urls
            for kind, keys in ROUTES.items()
        ],
    }


class World:
    """A gateway with a backend of each version behind it."""

    def __init__(self, directory: Path, stack: ExitStack, **settings: str) -> None:
        self.targets: dict[str, Target] = {
            "h1": H1Target(stack.enter_context(ScriptedBackend())),
            "h2": H2Target(stack.enter_context(H2Backend(takes_connect=True))),
        }
        urls = {version: target.backend.url for version, target in self.targets.items()}
        self.gateway = stack.enter_context(Gateway(directory, {**routes(document(urls)), **settings}))


class Combination:
    """What one test has to do with: a version in front, and one behind.

    Args:
        world: shared by a module's tests.
        name: one of :data:`COMBINATIONS`.
    """

    def __init__(self, world: World, name: str) -> None:
        self.front, _, self.behind = name.partition("-")
        self.gateway = world.gateway
        self.target = world.targets[self.behind]
        self.target.renew()
        self._stack = ExitStack()

    def path(self, kind: str = "plain") -> str:
        """Of a route, and of no other request, so that it finds the log's line."""
        return f"/{self.behind}/{kind}/{next(_numbers)}"

    def caller(self, *, receive_bytes: int = 0) -> Caller:
        """A new connection of a client, closed at the end of the test."""
        caller = (H1Caller if self.front == "h1" else H2Caller)(self.gateway.port, receive_bytes=receive_bytes)
        return self._stack.enter_context(caller)

    def line(self, path: str) -> Line:
        """The access log's line of the request for a path."""
        return self.gateway.access_line_at(path)

    def assert_free(self) -> None:
        """Nothing goes on any more."""
        self.gateway.wait_until_free()

    def close(self) -> None:
        """The end of the test."""
        self._stack.close()
        faults = list(self.target.backend.faults)
        self.target.renew()
        assert not faults, faults
