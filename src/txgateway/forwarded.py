"""Who the client is, told from the peer and from trusted proxies, and the fields that tell the backend.

A claim is believed only if the address that made it is trusted: ``X-Forwarded-For``, or without it ``Forwarded``
(RFC 7239), is read from the right, that is from the nearest proxy, to the first address that is not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING, Final

from attrs import frozen

from txgateway.headers import FORWARDED_NAMES, MAX_PORT, is_token, is_valid_host

if TYPE_CHECKING:
    from txgateway.transport.interfaces import HeaderList, Headers

__all__ = ["FORWARDED_NAMES", "MAX_HOPS", "Forwarded", "ForwardedPolicy"]

#: Entries of a chain that are read and passed on, from the right; those beyond are dropped.
MAX_HOPS: Final = 32
_MAX_CACHED_ADDRESSES: Final = 4096
#: ``[`` + the longest IPv6 text + ``]:65535``; RFC 7239 section 6 has no use for more.
_MAX_NODE_BYTES: Final = 53

_UNKNOWN: Final = b"unknown"
#: Some proxies say ``ws`` and ``wss`` of upgrades.
_SCHEMES: Final = {b"http": b"http", b"https": b"https", b"ws": b"http", b"wss": b"https"}
_DEFAULT_PORTS: Final = {b"http": b"80", b"https": b"443"}

_BRACKETED: Final = re.compile(rb"\[([0-9A-Fa-f:.]+)\](?::[0-9]{1,5})?")
_IPV4_WITH_PORT: Final = re.compile(rb"([0-9.]+):[0-9]{1,5}")
_PORT: Final = re.compile(rb"[0-9]{1,5}")
#: A parameter of a ``Forwarded`` element. Possessive, so linear.
_PARAMETER: Final = re.compile(rb'([A-Za-z]+)=(?:"((?:[^"\\]++|\\.)*+)"|([^\s";,]++))', re.DOTALL)
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)
_NEEDS_QUOTED_PAIR: Final = re.compile(rb'(["\\])')

_FOR: Final = (b"x-forwarded-for", b"X-Forwarded-For")
_PROTO: Final = (b"x-forwarded-proto", b"X-Forwarded-Proto")
_HOST: Final = (b"x-forwarded-host", b"X-Forwarded-Host")
_PORT_NAMES: Final = (b"x-forwarded-port", b"X-Forwarded-Port")
_REAL_IP: Final = (b"x-real-ip", b"X-Real-IP")
_FORWARDED: Final = (b"forwarded", b"Forwarded")
_CLIENT_CERT: Final = (b"x-forwarded-client-cert", b"X-Forwarded-Client-Cert")
_REMADE: Final = frozenset(name for name, _ in (_FOR, _PROTO, _HOST, _PORT_NAMES, _REAL_IP, _FORWARDED))


@frozen
class Forwarded:
    """The client behind a request.

    Attributes:
        client_ip: its address, an IPv4-mapped one as IPv4; ``""`` if unknown (a Unix socket).
        scheme: ``b"http"`` or ``b"https"``, as the client used it.
        fields: what tells the backend, instead of all incoming FORWARDED_NAMES. Shared: copy, do not change.
    """

    client_ip: str
    scheme: bytes
    fields: HeaderList


@frozen
class _Claims:
    """What trusted proxies say, as far as they are believed; ``b""`` where they are silent.

    ``chain`` and ``elements`` are the entries of ``X-Forwarded-For`` and ``Forwarded`` for all before our peer.
    """

    client_ip: str
    scheme: bytes
    host: bytes
    port: bytes
    chain: list[bytes]
    elements: list[bytes]


class ForwardedPolicy:
    """Decides whose forwarding fields are believed.

    Args:
        trusted: networks of the proxies in front of this gateway; an IPv4-mapped address counts as IPv4.
    """

    __slots__ = ("_is_trusted", "_trusted")

    def __init__(self, trusted: Iterable[IPv4Network | IPv6Network]) -> None:
        self._trusted = tuple(trusted)
        self._is_trusted = lru_cache(maxsize=_MAX_CACHED_ADDRESSES)(self._look_up)

    def is_trusted(self, peer_ip: str) -> bool:
        """Whether this address is one of our proxies'; what is no address, such as ``""``, is not."""
        return bool(self._trusted) and self._is_trusted(peer_ip)

    def resolve(
        self, peer_ip: str, headers: Headers, *, scheme: bytes, host: bytes, port: int, certificate: bytes = b""
    ) -> Forwarded:
        """The client of a request, and the fields to send upstream.

        Args:
            peer_ip: address of the connection's other end; ``""`` for a Unix socket.
            headers: of the request.
            scheme: of the connection, ``b"http"`` or ``b"https"``.
            host: the ``Host`` value as received, ``b""`` without one.
            port: that the connection came in on.
            certificate: what is told of the one that the other end has shown; ``b""`` without one.
        """
        peer_ip = _plain_address(peer_ip)
        if not self.is_trusted(peer_ip):
            # What the client claims is not even looked at.
            wire_ip = peer_ip.encode("ascii") or _UNKNOWN
            fields = _fields(wire_ip, wire_ip, scheme, host, b"%d" % port, _element(wire_ip, host, scheme))
            if certificate:
                fields.append((*_CLIENT_CERT, certificate))
            return Forwarded(peer_ip, scheme, fields)
        said = _said(headers)
        claims = self._read_claims(peer_ip, said)
        client_scheme, client_host = claims.scheme or scheme, claims.host or host
        if claims.port:
            client_port = claims.port
        elif claims.scheme:
            client_port = _port_of(client_host) or _DEFAULT_PORTS[claims.scheme]
        else:
            client_port = b"%d" % port
        peer = peer_ip.encode("ascii")
        chain = b", ".join((*claims.chain, peer))
        elements = b", ".join((*claims.elements, _element(peer, host, scheme)))
        client = claims.client_ip.encode("ascii")
        fields = _fields(client, chain, client_scheme, client_host, client_port, elements)
        if not said.keys() <= _REMADE:
            fields += [header for header in headers if header[0] in FORWARDED_NAMES and header[0] not in _REMADE]
        if certificate:  # the proxy's own, behind that of its client: the list goes from left to right
            fields.append((*_CLIENT_CERT, certificate))
        return Forwarded(claims.client_ip, client_scheme, fields)

    def _look_up(self, ip: str) -> bool:
        try:
            address = ip_address(_plain_address(ip))
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def _read_claims(self, peer_ip: str, said: dict[bytes, list[bytes]]) -> _Claims:
        chain = said.get(_FOR[0], [])[-MAX_HOPS:]
        elements = [] if chain else said.get(_FORWARDED[0], [])[-MAX_HOPS:]
        parsed = [_parse_element(element) for element in elements]
        addresses = [_parse_node(node) for node in chain or [element.get(b"for", b"") for element in parsed]]
        client_ip, hops = self._walk(peer_ip, addresses)
        claim = parsed[-hops] if parsed and hops else {}
        scheme = _scheme(claim.get(b"proto", b"")) or _scheme(_at_hop(said, _PROTO[0], hops))
        host = _host(claim.get(b"host", b"")) or _host(_at_hop(said, _HOST[0], hops))
        nodes = [address.encode("ascii") or _UNKNOWN for address in addresses]
        if chain:
            # Remade from what was believed: a proxy that keeps X-Forwarded-For may pass on a client's own Forwarded,
            # and a backend that reads that one must not be told another story.
            elements = [_element(node, b"", b"") for node in nodes]
            if hops:
                elements[-hops] = _element(nodes[-hops], host, scheme)
        else:
            # A quote that a malformed element leaves open would swallow those after it.
            elements = [raw if element else b"for=unknown" for raw, element in zip(elements, parsed, strict=True)]
            chain = nodes
        return _Claims(client_ip, scheme, host, _port(_at_hop(said, _PORT_NAMES[0], hops)), chain, elements)

    def _walk(self, peer_ip: str, addresses: list[str]) -> tuple[str, int]:
        """The client's address, and which entry it is, counted from 1 at the right; 0 is the peer itself."""
        client_ip, hops = peer_ip, 0
        for address in reversed(addresses):
            if not address:  # unknown, obfuscated or garbage: nothing to the left has a known author
                break
            client_ip, hops = address, hops + 1
            if not self.is_trusted(address):
                break
        return client_ip, hops


def _fields(client: bytes, chain: bytes, scheme: bytes, host: bytes, port: bytes, forwarded: bytes) -> HeaderList:
    fields = [(*_FOR, chain), (*_PROTO, scheme), (*_PORT_NAMES, port), (*_FORWARDED, forwarded)]
    if host:
        fields.append((*_HOST, host))
    if client != _UNKNOWN:
        fields.append((*_REAL_IP, client))
    return fields


def _element(ip: bytes, host: bytes, scheme: bytes) -> bytes:
    """A ``Forwarded`` element (RFC 7239 section 4); what is ``b""`` is left out."""
    element = b"for=" + _node(ip)
    if host:
        element += b";host=" + (host if is_token(host) else _quoted(host))
    if scheme:
        element += b";proto=" + scheme
    return element


def _node(ip: bytes) -> bytes:
    return b'"[%b]"' % ip if b":" in ip else ip


def _quoted(value: bytes) -> bytes:
    return b'"%b"' % _NEEDS_QUOTED_PAIR.sub(rb"\\\1", value)


def _plain_address(ip: str) -> str:
    """An address without zone, and as IPv4 if it is an IPv4-mapped one; other text as it is."""
    return _canonical_ipv6(ip) if ":" in ip else ip


@lru_cache(maxsize=_MAX_CACHED_ADDRESSES)
def _canonical_ipv6(ip: str) -> str:
    try:
        return _text(ip_address(ip.partition("%")[0]))
    except ValueError:
        return ip


def _text(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


@lru_cache(maxsize=_MAX_CACHED_ADDRESSES)
def _parse_short_node(node: bytes) -> str:
    found = _BRACKETED.fullmatch(node) or _IPV4_WITH_PORT.fullmatch(node)
    try:
        return _text(ip_address((found[1] if found else node).decode("ascii")))
    except ValueError:
        return ""


def _parse_node(node: bytes) -> str:
    """The address in an entry of a chain, with or without port, brackets and quotes; ``""`` if there is none."""
    node = node.strip(b'"')
    if len(node) > _MAX_NODE_BYTES or b"%" in node:
        return ""
    return _parse_short_node(node)


def _parse_element(element: bytes) -> dict[bytes, bytes]:
    """The parameters of a ``Forwarded`` element by lowered name, unquoted; none if it is malformed or repeats one."""
    parameters: dict[bytes, bytes] = {}
    position = 0
    while True:
        found = _PARAMETER.match(element, position)
        if found is None or found[1].lower() in parameters:
            return {}
        quoted, plain = found[2], found[3]
        parameters[found[1].lower()] = plain if quoted is None else _QUOTED_PAIR.sub(rb"\1", quoted)
        position = found.end()
        if position == len(element):
            return parameters
        if element[position : position + 1] != b";":
            return {}
        position += 1


def _said(headers: Headers) -> dict[bytes, list[bytes]]:
    """The entries of each forwarding field over all its lines.

    Split at every comma, quoted or not: neither addresses nor hosts have one, and a client could open a quote to
    swallow what the proxy behind it appends.
    """
    said: dict[bytes, list[bytes]] = {}
    for lowered, _, value in headers:
        if lowered in FORWARDED_NAMES:
            entries = [entry for part in value.split(b",") if (entry := part.strip(b" \t"))]
            said[lowered] = said[lowered] + entries if lowered in said else entries
    return said


def _at_hop(said: dict[bytes, list[bytes]], name: bytes, hops: int) -> bytes:
    """What the proxy that reported the client said in a list that each hop may append to, or replace by one value."""
    entries = said.get(name)
    return entries[-min(max(hops, 1), len(entries))] if entries else b""


def _scheme(claim: bytes) -> bytes:
    return _SCHEMES.get(claim.lower(), b"")


def _host(claim: bytes) -> bytes:
    return claim if is_valid_host(claim) else b""


def _port(claim: bytes) -> bytes:
    return claim if _PORT.fullmatch(claim) is not None and int(claim) <= MAX_PORT else b""


def _port_of(host: bytes) -> bytes:
    return _port(host.rpartition(b":")[2]) if b":" in host else b""
