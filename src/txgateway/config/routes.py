"""Backends and routes as the gateway is built from them: every key resolved, document over environment over default.

Groups that a route or backend does not touch are the environment's very objects, so ten thousand routes cost no more
than what they say themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from txgateway.config.document import (
    BackendEntry,
    BackendTable,
    FixedResponse,
    Redirect,
    RequestHeaders,
    ResponseHeaders,
    RouteEntry,
    RouteTable,
    WeightedBackend,
)
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
    RouteKeys,
    Sanitize,
    SecurityHeaders,
    Table,
    Timeout,
)
from txgateway.config.settings import DEFAULTS, JWT_KEY_SOURCES, Settings
from txgateway.config.syntax import Network
from txgateway.config.targets import Target

_BACKEND: Final = BackendTable()
_ROUTE: Final = RouteTable()
_DEFAULT_SECURITY_HEADERS: Final = SecurityHeaders()
_SECURITY_HEADERS: Final = tuple(SecurityHeaders.model_fields)
_SHARED_ROUTE_KEYS: Final = tuple(name for name in RouteKeys.model_fields if name not in _SECURITY_HEADERS)


@attrs.frozen
class Backend:
    """A set of targets that serve one purpose, and how they are used.

    Attributes:
        load_balancer: ``round_robin``, ``least_request``, ``random``, ``hash:client_ip``, ``hash:header:NAME`` or
            ``hash:cookie:NAME``.
        panic_percent: 0 to 100.
    """

    name: str
    targets: tuple[Target, ...]
    load_balancer: str = DEFAULTS.load_balancer
    panic_percent: int = DEFAULTS.panic_percent
    slow_start_s: float = DEFAULTS.slow_start_s
    dns_refresh_s: float = DEFAULTS.dns_refresh_s
    tls: BackendTls = _BACKEND.tls
    pool: Pool = DEFAULTS.pool
    connect_timeout_s: float = DEFAULTS.timeout.connect_s
    health_check: HealthCheck = DEFAULTS.health_check
    breaker: Breaker = DEFAULTS.breaker


@attrs.frozen
class Route:
    """A rule that requests match, what is done with them, and where they go.

    Exactly one of ``backends``, ``redirect``, ``response`` and ``resource`` is given.

    Attributes:
        hosts: lowered, without port and final dot; empty for any.
        path: ``/prefix``, ``=/exact`` or ``/users/{id}/cv``.
        methods: empty for any.
        headers: lowered name to exact value.
        resource: ``package.module:name``.
        rewrite: a new path, which may hold ``{id}``.
        upgrades: lowered protocol names.
        wants_token: requests need a valid bearer token.
        max_body_bytes: 0 for no limit.
        rate_limit: None without any rate.
        has_own_rate_limit: the route itself says how much, and so has buckets of its own.
        middlewares: the user's, by what lists call them, outermost first.
    """

    name: str
    path: str
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    headers: Mapping[str, str] = attrs.Factory(dict)
    backends: tuple[WeightedBackend, ...] = ()
    redirect: Redirect | None = None
    response: FixedResponse | None = None
    resource: str | None = None
    strip_prefix: bool = False
    rewrite: str | None = None
    preserve_host: bool = False
    upgrades: tuple[str, ...] = ()
    wants_token: bool = False
    timeout: Timeout = _ROUTE.timeout
    max_body_bytes: int = DEFAULTS.max_body_bytes
    body_timeout_s: float = DEFAULTS.body_timeout_s
    retry: Retry = DEFAULTS.retry
    bulkhead: Bulkhead = DEFAULTS.bulkhead
    jwt: Jwt = DEFAULTS.jwt
    rate_limit: RateLimit | None = None
    has_own_rate_limit: bool = False
    cors: Cors = DEFAULTS.cors
    security_headers: SecurityHeaders = _DEFAULT_SECURITY_HEADERS
    sanitize: Sanitize = DEFAULTS.sanitize
    allowed_methods: tuple[str, ...] = ()
    allowed_content_types: tuple[str, ...] = ()
    allow_ips: tuple[Network, ...] = ()
    deny_ips: tuple[Network, ...] = ()
    request_headers: RequestHeaders = _ROUTE.request_headers
    response_headers: ResponseHeaders = _ROUTE.response_headers
    middlewares: tuple[str, ...] = ()


class Resolver:
    """Puts what the document says over what the environment says.

    Args:
        settings: the environment's.
        middlewares: of routes that have no list of their own.
    """

    def __init__(self, settings: Settings, middlewares: tuple[str, ...] = ()) -> None:
        self._settings = settings
        self._middlewares = middlewares
        self._has_jwt_key = any(getattr(settings, key) is not None for key in JWT_KEY_SOURCES)
        self._timeout = Timeout(**{name: getattr(settings.timeout, name) for name in Timeout.model_fields})
        self._security_headers = SecurityHeaders(**{name: getattr(settings, name) for name in _SECURITY_HEADERS})

    def backend(self, entry: BackendEntry) -> Backend:
        """A backend of the document, completed."""
        table, settings = entry.table, self._settings
        targets = tuple(
            attrs.evolve(target.url, weight=target.weight) if target.weight != 1 else target.url
            for target in table.targets
        )
        own_timeout = table.timeout.model_fields_set
        return Backend(
            name=entry.name,
            targets=targets,
            load_balancer=self._value(table, "load_balancer"),
            panic_percent=self._value(table, "panic_percent"),
            slow_start_s=self._value(table, "slow_start_s"),
            dns_refresh_s=self._value(table, "dns_refresh_s"),
            tls=table.tls,
            pool=self._value(table, "pool"),
            connect_timeout_s=(table if own_timeout else settings).timeout.connect_s,
            health_check=self._value(table, "health_check"),
            breaker=self._value(table, "breaker"),
        )

    def route(self, entry: RouteEntry) -> Route:
        """A route of the document, completed."""
        table = entry.table
        shared = {name: self._value(table, name) for name in _SHARED_ROUTE_KEYS}
        if not shared["rate_limit"].rate:
            shared["rate_limit"] = None
        own_security = {name: getattr(table, name) for name in _SECURITY_HEADERS if name in table.model_fields_set}
        security_headers = self._security_headers
        if own_security:
            security_headers = security_headers.model_copy(update=own_security)
        return Route(
            name=table.name,
            path=table.path,
            hosts=table.hosts,
            methods=table.methods,
            headers=table.headers,
            backends=table.backends or ((WeightedBackend(name=table.backend),) if table.backend else ()),
            redirect=table.redirect,
            response=table.response,
            resource=table.resource,
            strip_prefix=table.strip_prefix,
            rewrite=table.rewrite,
            preserve_host=table.preserve_host,
            upgrades=table.upgrades,
            wants_token=self._has_jwt_key if table.auth is None else table.auth == "jwt",
            has_own_rate_limit=bool({"rate", "burst"} & table.rate_limit.model_fields_set),
            timeout=table.timeout.completed_from(self._timeout) if table.timeout.model_fields_set else self._timeout,
            security_headers=security_headers,
            request_headers=table.request_headers,
            response_headers=table.response_headers,
            middlewares=table.middlewares if "middlewares" in table.model_fields_set else self._middlewares,
            **shared,
        )

    def _value(self, table: Table, name: str) -> Any:
        """A key's value: the table's own, completed if it is a group, or the environment's."""
        base = getattr(self._settings, name)
        if name not in table.model_fields_set:
            return base
        own = getattr(table, name)
        return own.completed_from(base) if isinstance(own, Table) else own
