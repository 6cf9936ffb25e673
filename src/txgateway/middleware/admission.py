"""What a route accepts at all: addresses, methods, media types, sizes, and spellings that backends read differently."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any

from txgateway.errors import BadPath, BadRequest, ContentTypeNotAllowed, IpDenied, MethodNotAllowed
from txgateway.headers import FORWARDED_NAMES, cgi_name, has_odd_names, is_token
from txgateway.middleware.base import Inner, Middleware
from txgateway.routing.path import has_encoded_slash
from txgateway.transport.interfaces import NO_BODY

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

Network = IPv4Network | IPv6Network

_MAX_CACHED_ADDRESSES = 4096
_MAPPED_PREFIX_LENGTH = 96
_EMPTY = (NO_BODY, 0)


class AddressList:
    """Who may come, by address.

    An IPv4-mapped IPv6 address or network (RFC 4291 section 2.5.5.2) counts as the IPv4 one.

    Args:
        allow: networks; empty for all.
        deny: networks; they win.
    """

    __slots__ = ("_allow", "_deny", "admits")

    def __init__(self, allow: Iterable[Network], deny: Iterable[Network]) -> None:
        self._allow = tuple(map(_plain_network, allow))
        self._deny = tuple(map(_plain_network, deny))
        #: Whether this client may come; None or what is no address (a Unix socket's peer) is in no network.
        self.admits = lru_cache(maxsize=_MAX_CACHED_ADDRESSES)(self._admits)

    def _admits(self, ip: str | None) -> bool:
        address = _plain_address(ip)
        if address is None:
            return not self._allow
        if any(address in network for network in self._deny):
            return False
        return not self._allow or any(address in network for network in self._allow)


def _plain_network(network: Network) -> Network:
    if isinstance(network, IPv6Network) and network.prefixlen >= _MAPPED_PREFIX_LENGTH:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - _MAPPED_PREFIX_LENGTH))
    return network


def _plain_address(ip: str | None) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address((ip or "").partition("%")[0])
    except ValueError:
        return None
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


class MediaTypes:
    """Which media types a body may have (RFC 9110 section 8.3.1); parameters and case do not matter.

    Args:
        types: ``application/json``, ``image/*``, ``*/*``.
    """

    __slots__ = ("_ranges", "_types")

    def __init__(self, types: Iterable[str]) -> None:
        self._types = frozenset(name.lower().encode("ascii") for name in types)
        self._ranges = frozenset(name[:-2] for name in self._types if name.endswith(b"/*"))

    def admits(self, content_type: bytes | None) -> bool:
        """Whether a body with this ``Content-Type`` is taken; without one, or with a malformed one, it is not."""
        if content_type is None:
            return False
        name = content_type.partition(b";")[0].rstrip(b" \t").lower()
        main, _, sub = name.partition(b"/")
        if not is_token(main) or not is_token(sub):
            return False
        return name in self._types or main in self._ranges or b"*" in self._ranges


_CLIENT_CERT = b"x-forwarded-client-cert"
_TELLING = FORWARDED_NAMES | {b"authorization", b"x-request-id"}


def _is_odd(lowered: bytes) -> bool:
    """Whether a CGI-like backend (RFC 3875 section 4.1.18) may take a name for that of another field.

    Any with an underscore, and any other spelling of a field by which the gateway tells who asks.
    """
    return b"_" in lowered or ((name := cgi_name(lowered)) != lowered and name in _TELLING)


def _poses_as_certificate(lowered: bytes) -> bool:
    """Whether a CGI-like backend may take a name for that of the field that tells who has shown a certificate."""
    return cgi_name(lowered) == _CLIENT_CERT


class Admission(Middleware):
    """The limits of one route on who, what and how much.

    Position: below Cors and SecurityHeaders, so that refusals carry theirs; above everything that costs more. Below
        it a request is one that the route may serve.
    Refuses: IP_DENIED, METHOD_NOT_ALLOWED, CONTENT_TYPE_NOT_ALLOWED, BODY_TOO_LARGE, BAD_PATH (an encoded slash, where
        the route says so), BAD_REQUEST (a header name with an underscore, where the route says so); in this order.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        max_body_bytes: 0 for no limit.
        underscore_headers: ``drop``, ``keep`` or ``reject``; CGI-like backends read ``X_User`` as ``X-User``. No other
            spelling of ``X-Forwarded-Client-Cert`` is ever kept.
        rejects_encoded_slash: ``%2F`` in a path is refused.
        allow_ips: networks that clients must come from; empty for any. An unknown address comes from none.
        deny_ips: networks that clients must not come from; stronger than ``allow_ips``.
        allowed_methods: empty for all; ``GET`` allows HEAD too.
        allowed_content_types: of requests that have a body; empty for all, ``image/*`` for all of a kind.
    """

    def __init__(
        self,
        inner: Inner,
        max_body_bytes: int,
        underscore_headers: str,
        *,
        rejects_encoded_slash: bool,
        allow_ips: Iterable[Network] = (),
        deny_ips: Iterable[Network] = (),
        allowed_methods: Iterable[str] = (),
        allowed_content_types: Iterable[str] = (),
    ) -> None:
        super().__init__(inner)
        self._max_body_bytes = max_body_bytes or math.inf
        self._underscores = underscore_headers
        self._is_unwanted = _poses_as_certificate if underscore_headers == "keep" else _is_odd
        self._rejects_encoded_slash = rejects_encoded_slash
        allow_ips, deny_ips = tuple(allow_ips), tuple(deny_ips)
        self._addresses = AddressList(allow_ips, deny_ips) if allow_ips or deny_ips else None
        methods = set(allowed_methods)
        if "GET" in methods:
            methods.add("HEAD")
        self._allow = tuple(sorted(methods))
        self._methods = frozenset(method.encode("ascii") for method in methods)
        types = tuple(allowed_content_types)
        self._media_types = MediaTypes(types) if types else None

    def render(self, request: GatewayRequest) -> Any:
        if self._addresses is not None and not self._addresses.admits(request.client_ip):
            raise IpDenied
        if self._methods and request.method not in self._methods:
            raise MethodNotAllowed(self._allow)
        media_types = self._media_types
        if (
            media_types is not None
            and request.length not in _EMPTY
            and not media_types.admits(request.fields.get(b"content-type"))
        ):
            raise ContentTypeNotAllowed
        if not request.body_complete or request.bytes_in:
            request.limit_body(self._max_body_bytes)
        if self._rejects_encoded_slash and has_encoded_slash(request.path):
            raise BadPath("encoded slash")
        if has_odd_names(request.fields):
            self._odd_names(request)
        if request.length != NO_BODY:
            request.drop_trailers(self._is_unwanted)
        return self.inner.render(request)

    def _odd_names(self, request: GatewayRequest) -> None:
        if self._underscores == "reject" and any(b"_" in lowered for lowered in request.fields):
            raise BadRequest("underscore in a header name")
        odd = frozenset(filter(self._is_unwanted, request.fields))
        if odd:
            request.remove_headers(odd)
