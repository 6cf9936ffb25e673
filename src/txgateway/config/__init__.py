"""The configuration: from the environment and the routes document to frozen values that the gateway is built from.

:func:`load` is the way in. It reads everything, judges everything, and either returns a :class:`Configuration` that
holds no open question, or raises with every problem it found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from txgateway.config.checks import check_document, check_environment
from txgateway.config.document import (
    Document,
    FixedResponse,
    Redirect,
    RequestHeaders,
    ResponseHeaders,
    WeightedBackend,
    document_of_file,
    document_of_json,
    document_of_targets,
)
from txgateway.config.effective import effective_configuration
from txgateway.config.environment import Environment, read_environment
from txgateway.config.groups import (
    BackendTls,
    Breaker,
    Bulkhead,
    Cors,
    HealthCheck,
    Jwt,
    Pool,
    RateLimit,
    Retry,
    Sanitize,
    SecurityHeaders,
    Timeout,
)
from txgateway.config.hazards import hazards
from txgateway.config.middlewares import Middlewares, UserMiddleware, read_middlewares
from txgateway.config.problems import EX_CONFIG, ConfigurationError, Problem
from txgateway.config.routes import Backend, Resolver, Route
from txgateway.config.settings import Settings
from txgateway.config.targets import Target
from txgateway.config.tokens import token_keys
from txgateway.config.tracing import TracingSettings
from txgateway.config.values import Rate

__all__ = [
    "EX_CONFIG",
    "Backend",
    "BackendTls",
    "Breaker",
    "Bulkhead",
    "Configuration",
    "ConfigurationError",
    "Cors",
    "FixedResponse",
    "HealthCheck",
    "Jwt",
    "Middlewares",
    "Pool",
    "Problem",
    "Rate",
    "RateLimit",
    "Redirect",
    "RequestHeaders",
    "ResponseHeaders",
    "Retry",
    "Route",
    "Sanitize",
    "SecurityHeaders",
    "Settings",
    "Target",
    "Timeout",
    "TracingSettings",
    "UserMiddleware",
    "WeightedBackend",
    "load",
    "token_keys",
]


@attrs.frozen
class Configuration:
    """A configuration without open questions.

    Attributes:
        settings: what applies to the whole process, and the defaults of routes and backends.
        backends: by name.
        routes: in the order of the document; it decides nothing.
        tracing: where traces go, and which; None for no tracing.
        middlewares: the user's.
        warnings: what is set and has no effect; to be logged at start.
        hazards: what has an effect that is probably not wanted; to be logged at start, too.
    """

    settings: Settings
    backends: Mapping[str, Backend]
    routes: tuple[Route, ...]
    tracing: TracingSettings | None
    middlewares: Middlewares
    warnings: tuple[str, ...]
    hazards: tuple[str, ...]
    _environment: Environment = attrs.field(repr=False)
    _document: Document = attrs.field(repr=False)

    @property
    def cautions(self) -> tuple[str, ...]:
        """Warnings and hazards: all that somebody should know of."""
        return (*self.warnings, *self.hazards)

    def with_settings(self, changed: Mapping[str, object]) -> Configuration:
        """The same with other settings of the process; those that routes and backends inherit must not be among them."""
        settings = self.settings.model_copy(update=dict(changed))
        return attrs.evolve(self, settings=settings, environment=attrs.evolve(self._environment, settings=settings))

    def parts(self) -> tuple[Environment, Document]:
        """What it was resolved from."""
        return self._environment, self._document

    def effective(self) -> dict[str, dict[str, Any]]:
        """Every setting with its value and its source, secrets masked: a tree of JSON values."""
        return effective_configuration(self._environment, self._document, self.middlewares)


def load(environ: Mapping[str, str]) -> Configuration:
    """Read, judge and resolve the whole configuration; blocks on the files that it names, and imports its middlewares.

    Args:
        environ: the variables, as in ``os.environ``.

    Raises:
        ConfigurationError: something is wrong with it; all that is wrong is told at once.
    """
    environment = read_environment(environ)
    document = _read_document(environment)
    middlewares = read_middlewares(environment, document)
    problems = [
        *environment.problems,
        *check_environment(environment),
        *document.problems,
        *check_document(document, environment),
        *middlewares.problems,
    ]
    if problems:
        raise ConfigurationError(problems)
    resolver = Resolver(environment.settings, middlewares.default)
    backends = {entry.name: resolver.backend(entry) for entry in document.backends}
    routes = tuple(resolver.route(entry) for entry in document.routes)
    return Configuration(
        settings=environment.settings,
        backends=backends,
        routes=routes,
        tracing=environment.tracing,
        middlewares=middlewares,
        warnings=middlewares.warnings,
        hazards=tuple(hazards(environment, document, backends, routes)),
        environment=environment,
        document=document,
    )


def _read_document(environment: Environment) -> Document:
    settings = environment.settings
    if settings.backend_target:
        return document_of_targets(settings.backend_target, environment.variable("backend_target"))
    if settings.routes_file is not None:
        return document_of_file(settings.routes_file, environment.variable("routes_file"))
    if settings.routes is not None:
        return document_of_json(settings.routes.encode("utf-8", "surrogateescape"), environment.variable("routes"))
    return Document()
