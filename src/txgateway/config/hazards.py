"""What works as configured and is probably not wanted: warnings of ``txgateway check``.

Nothing here keeps the gateway from starting; ``check --strict`` says no to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

from txgateway.config.document import Document
from txgateway.config.environment import Environment
from txgateway.config.settings import JWT_KEY_SOURCES, variable_name
from txgateway.config.syntax import is_ip_address
from txgateway.config.tokens import configured_jwks
from txgateway.config.values import shown


def hazards(environment: Environment, document: Document) -> Iterator[str]:
    """One line each, with the variable or the place in the document."""
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
    has_jwt_key = any(key in environment.sources for key in JWT_KEY_SOURCES)
    if has_jwt_key and not settings.jwt_audience:
        where = variable_name("jwt_audience")
        yield f"{where}: not set, so a token that its issuer made for any other service is accepted"
    if has_jwt_key and not settings.jwt_issuer:
        yield f"{variable_name('jwt_issuer')}: not set, so nobody checks who made a token"
    jwks = configured_jwks(settings)
    for skipped in jwks.skipped if jwks is not None else ():
        yield f"{environment.variable('jwt_jwks')}: {skipped}; it is not used"
    if settings.jwt_jwks_url is not None and settings.jwt_jwks_url.startswith("http://"):
        yield f"{environment.variable('jwt_jwks_url')}: anybody on the way can replace the keys"
    for route in document.routes:
        if not has_jwt_key and "subject" in route.table.rate_limit.key:
            yield f"{route.place.of('rate_limit.key')}: there is no JWT key, so no subject: the address is used instead"
    for backend in document.backends:
        if not backend.table.tls.verify:
            yield f"{backend.place.of('tls.verify')}: anybody on the way can pose as this backend"
    used = {route.table.backend for route in document.routes}
    used |= {weighted.name for route in document.routes for weighted in route.table.backends}
    for backend in document.backends:
        if backend.name not in used:
            yield f"{backend.place.of('')}: no route leads to this backend"
