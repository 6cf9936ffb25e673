"""The configuration that a file of cases is about, and what makes it fit into memory."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from txgateway.config import Configuration, ConfigurationError, Problem, load
from txgateway.policy.tables import GatewayTable
from txgateway.policy.tokens import with_test_key
from txgateway.resources import check_resources
from txgateway.testing.harness import GatewayHarness

_FILE: Final = "_FILE"
_VARIABLES: Final = ("GATEWAY_", "LOG_", "OTEL_")
_SECURED: Final = {"https://": ":443", "h2c://": ":80"}


@contextmanager
def at_home(directory: Path) -> Iterator[None]:
    """Meanwhile modules in this directory are found first; they are forgotten afterwards."""
    path, known = list(sys.path), set(sys.modules)
    sys.path.insert(0, str(directory))
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - known:
            if name.partition(".")[0] not in known and _lives_in(directory, name):
                del sys.modules[name]


def _lives_in(directory: Path, name: str) -> bool:
    """Whether a module was found in the directory itself, and not in what is installed somewhere below it."""
    file = Path(getattr(sys.modules[name], "__file__", None) or "/")
    top = name.partition(".")[0]
    return file.is_relative_to(directory) and file.relative_to(directory).parts[:1] in {(top,), (f"{top}.py",)}


class Gateways:
    """Makes gateways of one configuration.

    Args:
        table: what the file says of it.
        directory: that the file is in.

    Attributes:
        configuration: judged.

    Raises:
        ConfigurationError: it is not right, with places as the file has them.
    """

    def __init__(self, table: GatewayTable, directory: Path) -> None:
        self._table = table
        self._directory = directory
        self._environment = _environment(table, directory)
        if "GATEWAY_REDIS_URL" in self._environment or "GATEWAY_REDIS_URL_FILE" in self._environment:
            message = "limits are kept in memory here: leave it out"
            raise ConfigurationError([Problem("gateway.environment.GATEWAY_REDIS_URL", None, message)])
        try:
            self.configuration: Configuration = load(self._environment)
            check_resources(self.configuration)
        except ConfigurationError as exc:
            raise ConfigurationError(map(self._placed, exc.problems)) from exc
        self._plain = _without_tls(self._environment)
        try:
            self.new().close()
        except Exception as exc:  # building runs other people's code
            raise ConfigurationError([Problem("gateway", None, f"{type(exc).__name__}: {exc}")]) from exc

    def new(self) -> GatewayHarness:
        """One that has not seen anything."""
        return GatewayHarness(environment=self._plain)

    def _placed(self, problem: Problem) -> Problem:
        where, table = problem.where, self._table
        if where == "GATEWAY_ROUTES" and table.routes is not None:
            where = "gateway.routes"
        elif where == "GATEWAY_ROUTES_FILE" and table.routes_file is not None:
            where = "gateway.routes_file"
        elif where.startswith(_VARIABLES):
            where = f"gateway.environment.{where}"
        elif table.routes is not None:
            where = f"gateway.routes.{where}"
        elif table.routes_file is not None:
            where = f"gateway.routes_file {table.routes_file}: {where}"
        return Problem(where, problem.value, problem.message)


def _environment(table: GatewayTable, directory: Path) -> dict[str, str]:
    """The variables, with the document among them, and with paths that hold everywhere."""
    found = {
        name: str(directory / value) if name.startswith("GATEWAY_") and name.endswith(_FILE) and value else value
        for name, value in table.environment.items()
    }
    if table.tokens:
        found = with_test_key(found)
    if table.routes_file is not None:
        found["GATEWAY_ROUTES_FILE"] = str(directory / table.routes_file)
    if table.routes is not None:
        found["GATEWAY_ROUTES"] = orjson.dumps(table.routes).decode("utf-8")
    return found


# --- targets in memory speak HTTP/1.1 without TLS -----------------------------------------------------------------


def _without_tls(environment: Mapping[str, str]) -> dict[str, str]:
    """The same variables, which are right, with targets that speak plain HTTP/1.1 under their names."""
    found = dict(environment)
    if (path := found.pop("GATEWAY_ROUTES_FILE", None)) is not None:
        content = Path(path).read_bytes()
        document = orjson.loads(content) if path.endswith(".json") else tomllib.loads(content.decode("utf-8"))
        found["GATEWAY_ROUTES"] = orjson.dumps(_plain_document(document)).decode("utf-8")
    elif "GATEWAY_ROUTES" in found:
        found["GATEWAY_ROUTES"] = orjson.dumps(_plain_document(orjson.loads(found["GATEWAY_ROUTES"]))).decode("utf-8")
    elif "GATEWAY_BACKEND_TARGET" in found:
        urls = found["GATEWAY_BACKEND_TARGET"].split(",")
        found["GATEWAY_BACKEND_TARGET"] = ",".join(_plain_url(url.strip()) for url in urls)
    return found


def _plain_document(document: dict[str, Any]) -> dict[str, Any]:
    backends = {name: _plain_backend(backend) for name, backend in document.get("backends", {}).items()}
    return {**document, "backends": backends} if backends else document


def _plain_backend(backend: dict[str, Any]) -> dict[str, Any]:
    targets = [
        {**one, "url": _plain_url(one["url"])} if isinstance(one, dict) else _plain_url(one)
        for one in backend.get("targets", [])
    ]
    return {**backend, "targets": targets}


def _plain_url(url: str) -> str:
    for scheme, port in _SECURED.items():
        if url.lower().startswith(scheme):
            return "http://" + url[len(scheme) :].rstrip("/").removesuffix(port)
    return url
