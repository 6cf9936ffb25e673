"""What works as configured and is probably not wanted: warnings of ``txgateway check``.

Nothing here keeps the gateway from starting; ``check --strict`` says no to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from txgateway.config.document import Document
from txgateway.config.environment import Environment
from txgateway.config.listener_tls import key_pairs
from txgateway.config.settings import JWT_KEY_SOURCES, variable_name
from txgateway.config.syntax import is_ip_address
from txgateway.config.tokens import configured_jwks
from txgateway.config.values import shown

#: Response headers that the gateway sets itself, above what a route's ``response_headers`` say.
_OURS: Final = frozenset({
    "permissions-policy", "referrer-policy", "strict-transport-security", "x-content-type-options", "x-frame-options",
})  # fmt: skip


#: Settings that do nothing without a key.
_OF_TOKENS: Final = ("jwt_algorithms", "jwt_issuer", "jwt_audience", "jwt_leeway", "jwt.claim_headers")


def hazards(environment: Environment, document: Document) -> Iterator[str]:
    """One line each, with the variable or the place in the document."""
    has_jwt_key = any(key in environment.sources for key in JWT_KEY_SOURCES)
    yield from _of_listeners(environment)
    yield from _of_certificates(environment)
    yield from _of_tokens(environment, has_jwt_key=has_jwt_key)
    yield from _of_routes(document, has_jwt_key=has_jwt_key)
    yield from _of_backends(document)


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
