"""A gateway whose routes document is a file that a test changes, and SIGHUP."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.harness import Gateway, Line

FAILED = "reload failed, the old configuration stays"
#: Checks of a backend's targets happen when it is new, and then no more.
NO_CHECKS = {"GATEWAY_HEALTH_CHECK_INTERVAL": "1h"}


class ReloadingGateway(Gateway):
    """A gateway with a routes document of its own.

    Args:
        directory: where it runs, and where the document is.
        document: at the start.
        environment: beside what says where the document is.
    """

    def __init__(
        self, directory: Path, document: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        self._file = directory / "routes.json"
        self.write(document)
        super().__init__(directory, {"GATEWAY_ROUTES_FILE": str(self._file), **NO_CHECKS, **(environment or {})})

    def write(self, document: Mapping[str, Any] | str) -> None:
        """Change the document, as an operator's tools do it: the file is whole at any time."""
        text = document if isinstance(document, str) else json.dumps(document)
        new = self._file.with_suffix(".new")
        new.write_text(text, encoding="utf-8")
        new.replace(self._file)

    def hang_up(self) -> None:
        """Send SIGHUP."""
        os.kill(self.pid, signal.SIGHUP)

    def reload(self, document: Mapping[str, Any] | str | None = None) -> Line:
        """Reload with this document, and wait for it; returns the line that tells of it."""
        return self._reload(document, "reloaded")

    def fail_to_reload(self, document: Mapping[str, Any] | str | None = None) -> Line:
        """The same, where nothing is to come of it; returns the line with the first problem."""
        return self._reload(document, FAILED)

    def _reload(self, document: Mapping[str, Any] | str | None, event: str) -> Line:
        if document is not None:
            self.write(document)
        after = len(self.lines)
        self.hang_up()
        return self.wait_for_line(after, event=event)


def route(name: str, backend: str = "", **keys: Any) -> dict[str, Any]:
    """A route of the path with its name."""
    end = {"backend": backend} if backend else {}
    return {"name": name, "path": f"/{name}", **end, **keys}


def fixed(name: str, body: str, **keys: Any) -> dict[str, Any]:
    """A route that answers by itself."""
    return route(name, response={"status": 200, "body": body, "content_type": "text/plain"}, **keys)


def document(*routes: Mapping[str, Any], **backends: Any) -> dict[str, Any]:
    """A routes document; backends are given by their targets or in full."""
    given = {name: made if isinstance(made, dict) else {"targets": made} for name, made in backends.items()}
    return {"backends": given, "routes": list(routes)}
