"""Which other origins' pages may use a route, and the response fields that tell a browser so.

The rules are those of the Fetch standard, section 3.3 (HTTP-CORS protocol). Everything is compiled from settings; a
decision is a look into a table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from txgateway.fields import Fields, has_field, replaced
from txgateway.headers import MAX_HOST_BYTES, field_values, is_token, is_valid_host, normalize_host, split_list

if TYPE_CHECKING:
    from txgateway.transport.interfaces import Header, HeaderList

#: ``https://`` and the longest host with its port: a longer origin is nobody's.
MAX_ORIGIN_BYTES: Final = len(b"https://") + MAX_HOST_BYTES
_MAX_CACHED_ORIGINS: Final = 1024
_MAX_CACHED_VALUES: Final = 256
#: What browsers leave out of an origin (HTML standard, "ASCII serialization of an origin").
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}

_ALLOW_ORIGIN: Final = (b"access-control-allow-origin", b"Access-Control-Allow-Origin")
_ALLOW_METHODS: Final = (b"access-control-allow-methods", b"Access-Control-Allow-Methods")
_ALLOW_HEADERS: Final = (b"access-control-allow-headers", b"Access-Control-Allow-Headers")
_MAX_AGE: Final = (b"access-control-max-age", b"Access-Control-Max-Age")
_EXPOSE_HEADERS: Final = (b"access-control-expose-headers", b"Access-Control-Expose-Headers")
_CREDENTIALS: Final[Header] = (b"access-control-allow-credentials", b"Access-Control-Allow-Credentials", b"true")
_VARY_ORIGIN: Final[Header] = (b"vary", b"Vary", b"Origin")
_REQUEST_METHOD: Final = b"access-control-request-method"
_ASKED: Final = b"Access-Control-Request-Method, Access-Control-Request-Headers"

#: Response fields that open something to another origin: only the gateway's own leave it.
CORS_FIELDS: Final = frozenset(
    (
        _ALLOW_ORIGIN[0],
        _ALLOW_METHODS[0],
        _ALLOW_HEADERS[0],
        _MAX_AGE[0],
        _EXPOSE_HEADERS[0],
        _CREDENTIALS[0],
        b"access-control-allow-private-network",
    )
)
_VARY_LINE: Final = b"Vary: Origin\r\n"
_REPLACED: Final = dict.fromkeys(CORS_FIELDS, b"")
_REPLACED_WITH_VARY: Final = {**_REPLACED, b"vary": b""}


def is_preflight(method: bytes, fields: Mapping[bytes, bytes]) -> bool:
    """Whether a request with these fields (lowered names) asks for leave to make another one."""
    return method == b"OPTIONS" and _REQUEST_METHOD in fields and b"origin" in fields


class CorsPolicy:
    """Who may use a route from a page of another origin, and for what.

    Args:
        allow_origins: ``https://app.example.com`` (scheme, host and port must all be the same; case and the scheme's
            default port do not matter), ``https://*.example.com`` (one or more labels before the domain, never the
            domain itself), ``null`` (which sandboxed pages and local files share), or ``*`` for all.
        allow_methods: what a preflight may ask for. Browsers let GET, HEAD and POST pass whatever is said here: to
            close a route to a method, do not route it.
        allow_headers: request fields that a preflight may ask for, in any case; ``*`` for all.
        expose_headers: response fields that a page may read.
        allow_credentials: cookies and ``Authorization`` may come along.
        max_age_s: how long a browser may remember the answer to a preflight; told in whole seconds.

    Raises:
        ValueError: an origin is none of these, or ``*`` is to go with credentials.
    """

    __slots__ = (
        "_allow_headers", "_allow_methods", "_allows_all", "_cached_fields", "_closed", "_exact", "_header_names",
        "_max_age", "_methods", "_opened", "_shared", "_wildcards",
    )  # fmt: skip

    def __init__(
        self,
        allow_origins: Iterable[str],
        allow_methods: Iterable[str] = (),
        allow_headers: Iterable[str] = (),
        expose_headers: Iterable[str] = (),
        *,
        allow_credentials: bool = False,
        max_age_s: float = 0.0,
    ) -> None:
        origins = frozenset(origin.lower() for origin in allow_origins)
        methods, headers, exposed = (_wire(names) for names in (allow_methods, allow_headers, expose_headers))
        self._allows_all = "*" in origins
        if self._allows_all and allow_credentials:
            raise ValueError("expected origins by name: * with credentials would open the route to every page")
        named = [origin for origin in origins if origin != "*"]
        self._exact = frozenset(_serialized(origin) for origin in named if "*" not in origin)
        self._wildcards = tuple(_wildcard(origin) for origin in named if "*" in origin)
        self._methods = frozenset(methods)
        self._allow_methods: Header = (*_ALLOW_METHODS, b", ".join(methods))
        self._header_names = frozenset(name.lower() for name in headers)
        self._allow_headers: Header = (*_ALLOW_HEADERS, b", ".join(headers))
        self._max_age: Header = (*_MAX_AGE, b"%d" % max_age_s)
        # Vary stands first, so that putting the fields on twice changes nothing.
        self._closed: tuple[Header, ...] = () if self._allows_all else (_VARY_ORIGIN,)
        self._shared: tuple[Header, ...] = (_CREDENTIALS,) if allow_credentials else ()
        self._opened: tuple[Header, ...] = ((*_EXPOSE_HEADERS, b", ".join(exposed)),) if exposed else ()
        self._cached_fields = lru_cache(maxsize=_MAX_CACHED_ORIGINS)(self._fields)

    def verdict(self, origin: bytes) -> bytes | None:
        """What ``Access-Control-Allow-Origin`` says to a page of this origin; None if it may not use the route."""
        if self._allows_all:
            return b"*"
        if len(origin) > MAX_ORIGIN_BYTES:
            return None
        lowered = origin.lower()
        is_allowed = lowered in self._exact or any(pattern.fullmatch(lowered) for pattern in self._wildcards)
        return origin if is_allowed else None

    def fields(self, origin: bytes | None) -> Fields:
        """CORS fields and ``Vary`` of an ordinary answer; all answers are alike where every origin is allowed.

        Args:
            origin: the request's ``Origin``, None without one.
        """
        if origin is not None and len(origin) > MAX_ORIGIN_BYTES:
            origin = b""  # as little allowed, and takes less room
        return self._cached_fields(origin)

    def _fields(self, origin: bytes | None) -> Fields:
        allowed = self.verdict(b"" if origin is None else origin)
        if allowed is None:
            return Fields(self._closed)
        return Fields((*self._closed, (*_ALLOW_ORIGIN, allowed), *self._shared, *self._opened))

    def preflight(self, origin: bytes, method: bytes, headers: bytes) -> HeaderList | None:
        """The fields of a preflight's answer, or None if the origin may not use the route.

        A method that is not allowed gets an answer without ``Access-Control-Allow-Methods``, a header that is not
        allowed one without ``Access-Control-Allow-Headers``: the browser then tells the page which it was.

        Args:
            method: ``Access-Control-Request-Method``; its case matters.
            headers: ``Access-Control-Request-Headers``, several lines joined by commas; empty without one.
        """
        allowed = self.verdict(origin)
        if allowed is None:
            return None
        vary = _ASKED if self._allows_all else b"Origin, " + _ASKED
        fields: HeaderList = [(b"vary", b"Vary", vary), (*_ALLOW_ORIGIN, allowed), *self._shared, self._max_age]
        if method in self._methods:
            fields.append(self._allow_methods)
        asked = split_list(headers.lower())
        if b"*" in self._header_names:
            if asked and all(map(is_token, asked)):
                # By name, because the asterisk covers neither Authorization nor requests with credentials.
                fields.append((*_ALLOW_HEADERS, b", ".join(asked)))
        elif self._header_names and self._header_names.issuperset(asked):
            fields.append(self._allow_headers)
        return fields


def with_cors(headers: HeaderList, fields: Fields) -> HeaderList:
    """``headers`` of an ordinary answer with ``fields`` of :class:`CorsPolicy` in place of any CORS fields in it.

    ``Origin`` is added to a ``Vary`` that is there. The other fields are kept, in order. The list itself may be
    changed and returned.
    """
    if b"vary" not in fields.names:
        return fields.replaced_in(headers, _REPLACED)
    if not has_field(headers, b"vary"):
        return fields.replaced_in(headers, _REPLACED_WITH_VARY)
    if not _varies_by_origin(b",".join(field_values(headers, b"vary"))):
        at = next(at for at, header in enumerate(headers) if header[0] == b"vary")
        lowered, name, value = headers[at]
        headers[at] = (lowered, name, value + b", Origin" if value else b"Origin")
    return replaced(headers, fields.fields[1:], _REPLACED, fields.wire[len(_VARY_LINE) :])


@lru_cache(maxsize=_MAX_CACHED_VALUES)
def _varies_by_origin(vary: bytes) -> bool:
    return not {b"*", b"origin"}.isdisjoint(split_list(vary.lower()))


def _wire(names: Iterable[str]) -> list[bytes]:
    return [name.encode("ascii") for name in names]


def _serialized(origin: str) -> bytes:
    """A lowered origin as browsers write it: IPv6 compressed, without the scheme's default port.

    Raises:
        ValueError: it is no origin.
    """
    if origin == "null":
        return b"null"
    scheme, separator, authority = origin.partition("://")
    wire = authority.encode("ascii", "replace")
    if not separator or not scheme or not is_valid_host(wire):
        raise ValueError(f"expected an origin like https://app.example.com, not {origin!r}")
    host, _, port = authority.rpartition(":") if ":" in authority.rpartition("]")[2] else (authority, "", "")
    if host.startswith("["):
        host = normalize_host(host.encode("ascii")).decode("ascii")
    port = str(int(port)) if port else ""
    suffix = f":{port}" if port and port != _DEFAULT_PORTS.get(scheme) else ""
    return f"{scheme}://{host}{suffix}".encode("ascii")


def _wildcard(origin: str) -> re.Pattern[bytes]:
    """What the lowered origins of all subdomains look like.

    Raises:
        ValueError: the asterisk does not stand for the first labels of a host name.
    """
    scheme, separator, host = origin.partition("://*.")
    domain = _serialized(f"{scheme}://{host}") if separator and "*" not in host else b""
    if not domain or host.startswith("["):
        raise ValueError(f"expected an origin like https://*.example.com, not {origin!r}")
    start = len(scheme) + len("://")
    return re.compile(re.escape(domain[:start]) + rb"(?:[a-z0-9_-]++\.)+" + re.escape(domain[start:]))
