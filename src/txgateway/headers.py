"""Pure rules about header fields: syntax, comma lists, hosts, and which fields end at this hop.

Works on header lists of ``(lowered name, name as received, value)``. What a message's framing becomes is decided by
the transports; the client's address and the forwarding fields are in :mod:`txgateway.forwarded`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from txgateway.transport.interfaces import Header, HeaderList, Headers

#: A DNS name of 253 bytes, its final dot, and a port.
MAX_HOST_BYTES: Final = 260
MAX_PORT: Final = 65535

#: Fields that describe this connection and its framing, whether ``Connection`` names them or not (RFC 9110 sections
#: 7.6.1, 11.7 and 10.1.4; RFC 9113 section 8.2.2). ``Trailer`` travels on, because trailers do.
HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"content-length",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)

#: Fields by which a proxy tells who the client is and what it asked for. From a client they are claims: none of them
#: is passed on as received. The last two replace the path in some frameworks, behind the back of the route.
FORWARDED_NAMES: Final = frozenset(
    {
        b"forwarded",
        b"true-client-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-forwarded-access-token",
        b"x-forwarded-by",
        b"x-forwarded-client-cert",
        b"x-forwarded-email",
        b"x-forwarded-for",
        b"x-forwarded-groups",
        b"x-forwarded-host",
        b"x-forwarded-method",
        b"x-forwarded-path",
        b"x-forwarded-port",
        b"x-forwarded-preferred-username",
        b"x-forwarded-prefix",
        b"x-forwarded-proto",
        b"x-forwarded-protocol",
        b"x-forwarded-scheme",
        b"x-forwarded-server",
        b"x-forwarded-ssl",
        b"x-forwarded-tls-client-cert",
        b"x-forwarded-tls-client-cert-info",
        b"x-forwarded-uri",
        b"x-forwarded-url",
        b"x-forwarded-user",
        b"x-original-forwarded-for",
        b"x-original-host",
        b"x-real-ip",
        b"x-original-url",
        b"x-rewrite-url",
    }
)

#: RFC 9110 section 7.6.1: a sender must not nominate a field intended for all recipients. Obeying one that does
#: would let a client take away what the gateway, or a proxy before it, decides by.
NEVER_NOMINATED: Final = FORWARDED_NAMES | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-range",
    b"content-type",
    b"cookie",
    b"host",
    b"set-cookie",
    b"trailer",
}

#: Values of ``Connection`` that nominate nothing.
_PLAIN_CONNECTIONS: Final = frozenset({b"", b"keep-alive", b"close", b"Keep-Alive", b"Close"})

_ORDINARY_NAME_BYTES: Final = b"abcdefghijklmnopqrstuvwxyz0123456789-"
_ODD_NAME_BYTE: Final = re.compile(rb"[^a-z0-9-]")
_TOKEN: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
#: A field line: no blank before the colon, no control but tab, no line folding (RFC 9112 section 5). The value ends
#: in a visible character, or is empty. Possessive, so linear.
_FIELD_LINE: Final = re.compile(
    rb"([A-Za-z0-9!#$%&'*+.^_`|~-]++):[ \t]*+((?:[\x21-\x7e\x80-\xff]++(?:[ \t]++(?=[\x21-\x7e\x80-\xff]))?+)*+)[ \t]*+"
)
#: RFC 3986 section 3.2.2 without percent-encoding: a spelling of a host that no route would recognise.
_HOST: Final = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=-]+|\[([0-9A-Fa-f:.]{2,45})\])(?::([0-9]{1,5}))?")
#: An element of a comma list. Possessive, so linear; a quote that never closes takes the rest.
_LIST_ELEMENT: Final = re.compile(rb'(?:[^",]++|"(?:[^"\\]++|\\.|\\\Z)*+(?:"|\Z))++', re.DOTALL)


def is_token(value: bytes) -> bool:
    """Whether ``value`` is a token (RFC 9110 section 5.6.2): a method or a field name."""
    return _TOKEN.fullmatch(value) is not None


def is_field_value(value: bytes) -> bool:
    """Whether ``value`` is a field value (RFC 9110 section 5.5): no controls but tab, no space at either end."""
    return _FIELD_VALUE.fullmatch(value) is not None and value == value.strip(b" \t")


def parse_field_line(line: bytes) -> Header | None:
    """The field in a line without its end, or None if it is none (RFC 9112 section 5)."""
    found = _FIELD_LINE.fullmatch(line)
    if found is None:
        return None
    name, value = found.groups()
    return name.lower(), name, value


def has_odd_names(names: Iterable[bytes]) -> bool:
    """Whether a lowered name has anything but letters, digits and hyphens; one search, not one a name."""
    return bool(b"".join(names).translate(None, _ORDINARY_NAME_BYTES))


def cgi_name(lowered: bytes) -> bytes:
    """A lowered field name as CGI and its likes tell names apart (RFC 3875 section 4.1.18), with hyphens for the rest."""
    return _ODD_NAME_BYTE.sub(b"-", lowered)


def is_valid_host(value: bytes) -> bool:
    """Whether ``value`` is a host with an optional port (RFC 9110 section 7.2, RFC 3986 section 3.2).

    A name, an IPv4 address or a bracketed IPv6 address of at most 260 bytes; a port, where there is one, from 0 to
    65535. No user information, no percent-encoding, no zone, not empty.
    """
    if len(value) > MAX_HOST_BYTES:
        return False
    found = _HOST.fullmatch(value)
    if found is None:
        return False
    ipv6, port = found.groups()
    if port is not None and int(port) > MAX_PORT:
        return False
    return ipv6 is None or _ipv6(ipv6) is not None


def normalize_host(value: bytes) -> bytes:
    """The part of a valid ``Host`` that routes compare: lower case, without port and final dots, IPv6 compressed."""
    value = value.lower()
    if b":" in value:
        if value.startswith(b"["):
            literal = value[1:].partition(b"]")[0]
            address = _ipv6(literal)
            return b"[%b]" % (literal if address is None else address.compressed.encode("ascii"))
        value = value.partition(b":")[0]
    return value.rstrip(b".")


def field_values(headers: Headers, name: bytes) -> list[bytes]:
    """The values of all lines of the field with this lowered ``name``, in order."""
    return [value for lowered, _, value in headers if lowered == name]


def split_list(value: bytes) -> list[bytes]:
    """The elements of a comma list (RFC 9110 section 5.6.1), trimmed, empty ones left out.

    A comma in a quoted string does not separate; quotes are kept. As long as the value is bounded, so is the work.
    """
    parts = _LIST_ELEMENT.findall(value) if b'"' in value else value.split(b",")
    return [element for part in parts if (element := part.strip(b" \t"))]


def connection_tokens(value: bytes) -> frozenset[bytes]:
    """The options in a ``Connection`` value (several lines joined by commas), lowered; what is no token is ignored."""
    options = (option.strip(b" \t") for option in value.lower().split(b","))
    return frozenset(option for option in options if is_token(option))


def end_to_end(headers: Headers, connection: bytes | None, also_drop: frozenset[bytes] = frozenset()) -> HeaderList:
    """The fields of a message that may travel on, as received and in order, in a new list.

    Args:
        connection: value of ``Connection`` (several lines joined by commas); what it names is left out
            (RFC 9110 section 7.6.1), except for NEVER_NOMINATED.
        also_drop: further lowered names to leave out; one of a few constants, for speed.
    """
    drop = _with_hop_by_hop(also_drop)
    if connection is not None and connection not in _PLAIN_CONNECTIONS:
        drop = drop | (connection_tokens(connection) - NEVER_NOMINATED)
    return [header for header in headers if header[0] not in drop]


@lru_cache(maxsize=64)
def _with_hop_by_hop(names: frozenset[bytes]) -> frozenset[bytes]:
    return HOP_BY_HOP | names


def _ipv6(literal: bytes) -> IPv6Address | None:
    try:
        return IPv6Address(literal.decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        return None
