"""Contradictions: values that are well formed, each for itself, and make no sense together.

Each check yields all problems it finds and says nothing about values that were refused already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from txgateway.auth.keys import HASH_BYTES
from txgateway.config.document import ENDS, BackendEntry, Document, Place, RouteEntry
from txgateway.config.environment import Environment
from txgateway.config.groups import BackendTls, Cors, Retry, Table
from txgateway.config.keys import check_pair
from txgateway.config.listener_tls import ListenerTlsError, has_certificate, listener_contexts
from txgateway.config.problems import Problem, suggestion
from txgateway.config.routes import Resolver
from txgateway.config.settings import JWT_KEY_SOURCES, ROUTING_SOURCES, variable_name
from txgateway.config.syntax import PLAIN_SUFFIX, PROXY_PREFIX, placeholders, rewrite_placeholders
from txgateway.config.tokens import token_keys
from txgateway.config.values import one_of, shown
from txgateway.routing.path import canonical_path

_OF_TLS = frozenset({"tls_cert_dir", "tls_cert_file", "tls_client_auth", "tls_client_ca_file", "tls_key_file"})
_WILDCARD_ADDRESSES = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound


def check_environment(environment: Environment) -> Iterator[Problem]:
    """What contradicts itself in the variables."""
    yield from _check_sources(environment)
    yield from _check_jwt_keys(environment)
    yield from _check_tls(environment)
    yield from _check_ports(environment)
    yield from _check_proxies(environment)
    for name in ("retry", "cors"):
        if name not in environment.failed:
            for key, message in _group_contradictions(getattr(environment.settings, name)):
                yield Problem(environment.variable(f"{name}.{key}"), None, message)


def check_document(document: Document, environment: Environment) -> Iterator[Problem]:
    """What contradicts itself, or the variables, in the document."""
    for backend in document.backends:
        yield from _check_backend(backend)
    yield from _check_names(document)
    yield from _check_matches(document)
    backends = {entry.name: None for entry in document.backends}
    resolver = Resolver(environment.settings)
    has_key = any(key in environment.sources for key in JWT_KEY_SOURCES)
    for route in document.routes:
        yield from _check_end(route, backends)
        yield from _check_paths(route)
        yield from _check_auth(route, has_key=has_key)
        for name in sorted({"retry", "cors"} & route.table.model_fields_set - route.failed - environment.failed):
            for key, message in _group_contradictions(getattr(resolver.route(route), name)):
                yield Problem(route.place.of(f"{name}.{key}"), None, message)


def _check_sources(environment: Environment) -> Iterator[Problem]:
    given = [key for key in ROUTING_SOURCES if key in environment.sources]
    names = [variable_name(key) for key in ROUTING_SOURCES]
    if not given:
        yield Problem(names[0], None, f"there is nothing to route: set exactly one of {one_of(names)}")
    for key in given[1:]:
        message = f"contradicts {environment.variable(given[0])}: set exactly one of {one_of(names)}"
        yield Problem(environment.variable(key), None, message)


def _check_jwt_keys(environment: Environment) -> Iterator[Problem]:
    settings = environment.settings
    given = [key for key in JWT_KEY_SOURCES if key in environment.sources]
    for key in given[1:]:
        message = f"contradicts {environment.variable(given[0])}: set only one JWT key source"
        yield Problem(environment.variable(key), None, message)
    if not given and settings.jwt.required_scopes:
        yield Problem(environment.variable("jwt.required_scopes"), None, "there is no JWT key to check tokens with")
    if len(given) != 1:
        return
    hmac = [name for name in settings.jwt_algorithms if name in HASH_BYTES]
    others = [name for name in settings.jwt_algorithms if name not in HASH_BYTES]
    where = environment.variable("jwt_algorithms")
    if given == ["jwt_secret"] and others:
        yield Problem(where, shown(", ".join(others)), f"a secret takes {one_of(HASH_BYTES)}")
    elif given[0] in {"jwt_public_key", "jwt_jwks_url"} and hmac:
        yield Problem(where, shown(", ".join(hmac)), f"{environment.variable(given[0])} is no secret for an HMAC")
    elif not environment.failed & {given[0], "jwt_algorithms"}:
        try:
            token_keys(settings)
        except ValueError as exc:
            yield Problem(environment.variable(given[0]), None, str(exc))


def _check_tls(environment: Environment) -> Iterator[Problem]:
    settings, failed = environment.settings, environment.failed
    is_usable = not failed & _OF_TLS
    if not failed & {"tls_cert_file", "tls_key_file"}:
        for key, message in _pair_contradictions(settings.tls_cert_file, settings.tls_key_file):
            is_usable = False
            yield Problem(environment.variable(f"tls_{key}"), None, message)
    if not (has_certificate(settings) or failed & {"tls_cert_file", "tls_cert_dir"}):
        yield from _without_certificate(environment)
    elif settings.redirect_port is not None and _are_all_plain(settings.listen):
        message = f"every endpoint of {environment.variable('listen')} is plain: there is no https to lead to"
        yield Problem(environment.variable("redirect_port"), None, message)
    has_client_ca = bool(settings.tls_client_ca_file or "tls_client_ca_file" in failed)
    if settings.tls_client_auth != "none" and not has_client_ca:
        message = f"needs {variable_name('tls_client_ca_file')}"
        yield Problem(environment.variable("tls_client_auth"), None, message)
    elif is_usable and has_certificate(settings):
        yield from _unusable_certificates(environment)


def _without_certificate(environment: Environment) -> Iterator[Problem]:
    settings = environment.settings
    if settings.redirect_port is not None:
        yield Problem(environment.variable("redirect_port"), None, "there is no certificate for the https it leads to")
    names = one_of((variable_name("tls_cert_file"), variable_name("tls_cert_dir")))
    for key in ("tls_client_auth", "tls_client_ca_file", "tls_min_version"):
        if key in environment.sources and getattr(settings, key) not in {None, "none"}:
            yield Problem(environment.variable(key), None, f"there is no TLS without a certificate: set {names}")


def _are_all_plain(listen: tuple[str, ...]) -> bool:
    return bool(listen) and all(description.endswith(PLAIN_SUFFIX) for description in listen)


def _unusable_certificates(environment: Environment) -> Iterator[Problem]:
    """What is wrong with files that are well formed, each for itself."""
    try:
        listener_contexts(environment.settings)
    except ListenerTlsError as exc:
        yield Problem(environment.variable(exc.key), None, str(exc))


def _check_ports(environment: Environment) -> Iterator[Problem]:
    settings = environment.settings
    if settings.listen or settings.port == 0 or environment.failed & {"port", "admin_port", "host", "admin_host"}:
        return
    hosts = {settings.host, settings.admin_host}
    if settings.port == settings.admin_port and (len(hosts) == 1 or hosts & _WILDCARD_ADDRESSES):
        is_set = "admin_port" in environment.sources
        message = f"{variable_name('port' if is_set else 'admin_port')} is the same port on the same address"
        yield Problem(environment.variable("admin_port" if is_set else "port"), shown(settings.port), message)
    if settings.redirect_port and settings.redirect_port in {settings.port, settings.admin_port}:
        message = "another listener has this port"
        yield Problem(environment.variable("redirect_port"), shown(settings.redirect_port), message)


def _check_proxies(environment: Environment) -> Iterator[Problem]:
    settings = environment.settings
    if settings.trusted_proxies or "trusted_proxies" in environment.failed:
        return
    for description in settings.listen:
        if description.startswith(PROXY_PREFIX):
            message = f"needs {variable_name('trusted_proxies')}: nobody else may say whose a connection is"
            yield Problem(environment.variable("listen"), shown(description), message)


def _check_backend(entry: BackendEntry) -> Iterator[Problem]:
    place, table = entry.place, entry.table
    if "targets" not in entry.failed:
        if not table.targets:
            yield Problem(place.of("targets"), None, "expected at least one target")
        for label, count in Counter(target.url.label for target in table.targets).items():
            if count > 1:
                yield Problem(place.of("targets"), None, f"{label} is given {count} times: use a weight")
        if len(table.targets) > 1 and any(target.url.is_demo for target in table.targets):
            yield Problem(place.of("targets"), None, "the demo backend is the only target of its backend")
    if "tls" not in entry.failed:
        yield from _check_backend_tls(place, table.tls)


def _check_backend_tls(place: Place, tls: BackendTls) -> Iterator[Problem]:
    for key, message in _pair_contradictions(tls.cert_file, tls.key_file):
        yield Problem(place.of(f"tls.{key}"), None, message)
    if tls.ca_file and not tls.verify:
        yield Problem(place.of("tls.ca_file"), None, "contradicts tls.verify = false: nothing is verified with it")


def _check_names(document: Document) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for route in document.routes:
        name, place = route.table.name, route.place
        if "name" in route.failed:
            continue
        if not name:
            yield Problem(place.of("name"), None, "required: it is the metric label")
        elif name == "none":
            yield Problem(place.of("name"), shown(name), "it is the metric label of requests without route")
        elif first.setdefault(name, place) is not place:
            yield Problem(place.of("name"), shown(name), f"{first[name].path} has this name already")


def _check_matches(document: Document) -> Iterator[Problem]:
    """Routes that nothing tells apart: same host, path, methods and headers."""
    first: dict[object, Place] = {}
    for route in document.routes:
        table, place = route.table, route.place
        if not table.path or route.failed & {"hosts", "path", "methods", "headers"}:
            continue
        methods = frozenset(table.methods) | ({"HEAD"} if "GET" in table.methods else frozenset())
        rule = (_matched_form(table.path), methods, frozenset(table.headers.items()))
        for host in table.hosts or ("",):
            if first.setdefault((host, rule), place) is not place:
                other = first[host, rule].path
                yield Problem(place.of("path"), shown(table.path), f"{other} matches the very same requests")
                break


def _matched_form(path: str) -> tuple[bool, bytes]:
    """What makes two paths the same for the route table: placeholders by any name, spellings, final slashes."""
    segments = [("{}" if "{" in part else part) for part in path.removeprefix("=").split("/")]
    escaped = "/".join(segments).encode("utf-8")
    ascii_path = b"".join(b"%%%02X" % byte if byte > 0x7E else bytes((byte,)) for byte in escaped)
    return path.startswith("=") or "{" in path, canonical_path(ascii_path).rstrip(b"/")


def _check_end(route: RouteEntry, backends: dict[str, None]) -> Iterator[Problem]:
    table, place = route.table, route.place
    given = [key for key in ENDS if key in route.failed or getattr(table, key)]
    if len(given) != 1:
        found = f", not {' and '.join(given)}" if given else ""
        yield Problem(place.of(""), None, f"expected exactly one of {one_of(ENDS)}{found}")
    if not table.path and "path" not in route.failed:
        yield Problem(place.of("path"), None, "required")
    if table.backend is not None and table.backend not in backends:
        yield Problem(place.of("backend"), shown(table.backend), _unknown(table.backend, backends))
    for index, weighted in enumerate(table.backends):
        if weighted.name not in backends:
            where = place.of(f"backends[{index}].name")
            yield Problem(where, shown(weighted.name), _unknown(weighted.name, backends))
    if len({weighted.name for weighted in table.backends}) < len(table.backends):
        yield Problem(place.of("backends"), None, "expected each backend once")
    response = table.response
    if response is not None and response.body and response.status in {204, 205, 304}:
        yield Problem(place.of("response.body"), None, f"a {response.status} has no body (RFC 9110)")
    if table.backends and not any(weighted.weight for weighted in table.backends):
        yield Problem(place.of("backends"), None, "expected at least one weight above 0")


def _check_paths(route: RouteEntry) -> Iterator[Problem]:
    table, place = route.table, route.place
    if "path" in route.failed:
        return
    names = placeholders(table.path)
    if table.strip_prefix and names:
        yield Problem(place.of("strip_prefix"), None, "a path with placeholders matches whole paths: use rewrite")
    if table.rewrite is None:
        return
    if table.strip_prefix:
        yield Problem(place.of("strip_prefix"), None, "contradicts rewrite, which replaces the whole path")
    for name in rewrite_placeholders(table.rewrite):
        if name not in names:
            message = f"{{{name}}} is no placeholder of path {shown(table.path)}"
            yield Problem(place.of("rewrite"), shown(table.rewrite), message)


def _check_auth(route: RouteEntry, *, has_key: bool) -> Iterator[Problem]:
    table, place = route.table, route.place
    if table.auth == "jwt" and not has_key:
        names = one_of(variable_name(key) for key in JWT_KEY_SOURCES)
        yield Problem(place.of("auth"), shown("jwt"), f"there is no JWT key: set {names}")
    elif table.jwt.required_scopes and (table.auth == "none" or not has_key):
        message = 'contradicts auth = "none"' if table.auth == "none" else "there is no JWT key to check tokens with"
        yield Problem(place.of("jwt.required_scopes"), None, message)


def _group_contradictions(group: Table) -> Iterator[tuple[str, str]]:
    """Keys of one group, once completed, that contradict others, and why."""
    if isinstance(group, Retry) and group.backoff_s > group.backoff_max_s:
        yield "backoff", "it is longer than backoff_max"
    if isinstance(group, Cors) and group.allow_credentials and "*" in group.allow_origins:
        yield "allow_credentials", "it would open the route to every page on the web: name the origins instead of *"


def _pair_contradictions(cert_file: str | None, key_file: str | None) -> Iterator[tuple[str, str]]:
    if cert_file and not key_file:
        yield "cert_file", "there is no key file for it"
    elif key_file and not cert_file:
        yield "key_file", "there is no certificate file for it"
    elif cert_file and key_file:
        try:
            check_pair(cert_file, key_file)
        except ValueError as exc:
            yield "key_file", str(exc)


def _unknown(name: str, backends: dict[str, None]) -> str:
    return f"there is no such backend{suggestion(name, list(backends))}"
