"""What works as configured and is probably not wanted: warnings of ``txgateway check``.

Nothing here keeps the gateway from starting; ``check --strict`` says no to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from txgateway.config.document import BackendEntry, Document, RouteEntry
from txgateway.config.environment import Environment
from txgateway.config.groups import leaves
from txgateway.config.listener_tls import key_pairs
from txgateway.config.routes import Backend, Route
from txgateway.config.settings import JWT_KEY_SOURCES, variable_name
from txgateway.config.syntax import is_ip_address
from txgateway.config.tokens import configured_jwks
from txgateway.config.values import format_duration, shown

#: Response headers that the gateway sets itself, above what a route's ``response_headers`` say.
_OURS: Final = frozenset({
    "permissions-policy", "referrer-policy", "strict-transport-security", "x-content-type-options", "x-frame-options",
})  # fmt: skip


#: Settings that do nothing without a key.
_OF_TOKENS: Final = ("jwt_algorithms", "jwt_issuer", "jwt_audience", "jwt_leeway", "jwt.claim_headers")
#: Methods that do twice what they are asked to do twice, by IANA's registry of methods.
_NOT_IDEMPOTENT: Final = frozenset({"CONNECT", "LOCK", "PATCH", "POST"})
#: Few servers keep an idle connection for longer; many for much less (Node.js and uvicorn for 5 s).
_KEEP_ALIVE_S: Final = 60.0


def hazards(
    environment: Environment, document: Document, backends: Mapping[str, Backend], routes: Sequence[Route]
) -> Iterator[str]:
    """One line each, with the variable or the place in the document.

    Args:
        environment: with the defaults.
        document: what is given beside it.
        backends: of the document, completed, by name.
        routes: of the document, completed, in its order.
    """
    # A default that many inherit is told once.
    yield from dict.fromkeys(_all(environment, document, backends, routes))


def _all(
    environment: Environment, document: Document, backends: Mapping[str, Backend], routes: Sequence[Route]
) -> Iterator[str]:
    has_jwt_key = any(key in environment.sources for key in JWT_KEY_SOURCES)
    yield from _of_listeners(environment)
    yield from _of_certificates(environment)
    yield from _of_tokens(environment, has_jwt_key=has_jwt_key)
    yield from _of_routes(document, has_jwt_key=has_jwt_key)
    for route_entry, route in zip(document.routes, routes, strict=True):
        yield from _of_route(environment, route_entry, route)
    yield from _of_backends(document)
    for backend_entry in document.backends:
        yield from _of_backend(environment, backend_entry, backends[backend_entry.name])


def _where(environment: Environment, entry: RouteEntry | BackendEntry, key: str) -> str:
    """Where a value comes from that a route or backend goes by: its own place, or the variable."""
    own = any(leaf.key == key for leaf in leaves(entry.table, only_given=True))
    return entry.place.of(key) if own else environment.variable(key)


def _of_listeners(environment: Environment) -> Iterator[str]:
    settings = environment.settings
    for network in settings.trusted_proxies:
        if network.prefixlen == 0:
            where = environment.variable("trusted_proxies")
            yield f"{where}: {shown(network)} lets every client claim any address"
    is_loopback = settings.admin_host == "localhost" or (
        is_ip_address(settings.admin_host) and ip_address(settings.admin_host).is_loopback
    )
    if settings.admin_port and not is_loopback:
        where = environment.variable("admin_host")
        yield f"{where}: the admin listener has no authentication and is not only on the loopback address"
    if settings.cors.allow_credentials and "null" in settings.cors.allow_origins:
        yield f"{environment.variable('cors.allow_origins')}: any page in a sandbox has the origin null"


def _of_certificates(environment: Environment) -> Iterator[str]:
    settings = environment.settings
    if settings.tls_client_ca_file and settings.tls_client_auth == "none":
        where = environment.variable("tls_client_ca_file")
        yield f"{where}: {variable_name('tls_client_auth')} is none, so nobody is asked for a certificate"
    now = datetime.now(UTC)
    for key, pair in key_pairs(settings):
        where, certificate = environment.variable(key), pair.certificate
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            yield f"{where}: certificate {pair.name} has expired, or is not valid yet"


def _of_tokens(environment: Environment, *, has_jwt_key: bool) -> Iterator[str]:
    settings = environment.settings
    if has_jwt_key and not settings.jwt_audience:
        where = variable_name("jwt_audience")
        yield f"{where}: not set, so a token that its issuer made for any other service is accepted"
    if has_jwt_key and not settings.jwt_issuer:
        yield f"{variable_name('jwt_issuer')}: not set, so nobody checks who made a token"
    for key in _OF_TOKENS if not has_jwt_key else ():
        if key in environment.sources:
            yield f"{environment.variable(key)}: there is no JWT key, so no route asks for a token"
    jwks = configured_jwks(settings)
    for skipped in jwks.skipped if jwks is not None else ():
        yield f"{environment.variable('jwt_jwks')}: {skipped}; it is not used"
    if settings.jwt_jwks_url is not None and settings.jwt_jwks_url.startswith("http://"):
        yield f"{environment.variable('jwt_jwks_url')}: anybody on the way can replace the keys"
    where = environment.variable("jwt_public_paths")
    if settings.jwt_public_paths and not has_jwt_key:
        yield f"{where}: there is no JWT key, so every path is public"
    elif "/" in settings.jwt_public_paths:
        yield f"{where}: / makes every path public"


def _of_routes(document: Document, *, has_jwt_key: bool) -> Iterator[str]:
    for route in document.routes:
        lost = sorted(_OURS & {name.lower() for name in route.table.response_headers.set})
        if lost:
            where = route.place.of("response_headers.set")
            yield f"{where}: {', '.join(lost)} has a key of its own (hsts, frame_options, …), which goes before this one"
        if not has_jwt_key and "subject" in route.table.rate_limit.key:
            yield f"{route.place.of('rate_limit.key')}: there is no JWT key, so no subject: the address is used instead"


def _of_backends(document: Document) -> Iterator[str]:
    for backend in document.backends:
        if not backend.table.tls.verify:
            yield f"{backend.place.of('tls.verify')}: anybody on the way can pose as this backend"
    used = {route.table.backend for route in document.routes}
    used |= {weighted.name for route in document.routes for weighted in route.table.backends}
    for backend in document.backends:
        if backend.name not in used:
            yield f"{backend.place.of('')}: no route leads to this backend"


def _of_route(environment: Environment, entry: RouteEntry, route: Route) -> Iterator[str]:
    if route.wants_token and "*" in route.cors.allow_origins:
        where = _where(environment, entry, "cors.allow_origins")
        yield f"{where}: * lets every page on the web use a route that asks for a token: name the origins"
    if not route.backends:
        return
    retry, timeout = route.retry, route.timeout
    harmful = sorted(_NOT_IDEMPOTENT.intersection(retry.methods))
    if harmful and retry.max_attempts > 1:
        where = _where(environment, entry, "retry.methods")
        yield f"{where}: {', '.join(harmful)} may take effect twice: what failed may have been done all the same"
    if 0 < timeout.total_s < timeout.per_try_s:
        where = _where(environment, entry, "timeout.per_try")
        times = f"{format_duration(timeout.per_try_s)} is above timeout.total, {format_duration(timeout.total_s)}"
        yield f"{where}: {times}: no attempt ends before the whole request, so none that times out is repeated"


def _of_backend(environment: Environment, entry: BackendEntry, backend: Backend) -> Iterator[str]:
    if entry.table.tls.model_fields_set and all(target.scheme != "https" for target in backend.targets):
        yield f"{entry.place.of('tls')}: no target is https://, so it has no effect"
    idle_s, check = backend.pool.idle_timeout_s, backend.health_check
    if idle_s > _KEEP_ALIVE_S:
        where = _where(environment, entry, "pool.idle_timeout")
        advice = (
            "probably above the backend's keep-alive, and a request may meet a connection that is just being closed"
        )
        yield f"{where}: {format_duration(idle_s)} is {advice}"
    if check.timeout_s > check.interval_s:
        where = _where(environment, entry, "health_check.timeout")
        yield (
            f"{where}: {format_duration(check.timeout_s)} is above health_check.interval,"
            f" {format_duration(check.interval_s)}: a target that hangs is found late"
        )
