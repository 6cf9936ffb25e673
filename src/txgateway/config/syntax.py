"""How the things that a configuration names are written: hosts, URLs, header fields, paths, networks, endpoints.

Parsers as in :mod:`txgateway.config.values`: the value comes back in the form the gateway uses, or a ``ValueError``
says what is accepted. What is on disk is looked at in :mod:`txgateway.config.keys`.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import SplitResult, urlsplit

from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpointStringParser
from twisted.internet.testing import MemoryReactor
from twisted.plugin import getPlugins

from txgateway.config.values import string
from txgateway.errors import BadPath
from txgateway.headers import is_field_value, is_token, is_valid_host, normalize_host
from txgateway.routing.path import canonical_path

Network = IPv4Network | IPv6Network

MAX_NAME_LENGTH: Final = 128
MAX_PATH_LENGTH: Final = 2048
MAX_HOST_NAME_LENGTH: Final = 253
MAX_HEADER_VALUE_LENGTH: Final = 8192

#: Fields that frame or route a message: each side of the gateway makes its own, so no configuration may touch them.
_FRAMING_FIELDS: Final = frozenset({
    "connection", "content-length", "host", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding",
    "upgrade",
})  # fmt: skip
_METHOD_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-")
_LABEL_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")
#: Ends an endpoint that speaks no TLS where others do.
PLAIN_SUFFIX: Final = ";plain"
#: Begins an endpoint where balancers say whose a connection is, by the PROXY protocol. It is ours and not Twisted's own,
#: which would look for the header within TLS, and believe everybody.
PROXY_PREFIX: Final = "haproxy:"
#: Endpoints whose connections come from an address that may be trusted.
_WITH_ADDRESSES: Final = frozenset({"tcp", "tcp6", "systemd"})


def name(value: object) -> str:
    """A name of a route or backend: printable ASCII that fits a metric label, a header and a line of a log.

    Raises:
        ValueError: it is empty, too long, or holds other characters.
    """
    text = string(value)
    is_plain = text.isascii() and text.isprintable() and not set(text) & set('"\\')
    if not is_plain or text != text.strip() or not 1 <= len(text) <= MAX_NAME_LENGTH:
        raise ValueError(f"expected 1 to {MAX_NAME_LENGTH} printable ASCII characters without quotes and backslashes")
    return text


def host_name(value: object) -> str:
    """A host name or IP address, lowered, without final dot; IPv6 without brackets.

    Raises:
        ValueError: it is neither.
    """
    text = string(value).lower().removesuffix(".")
    if is_ip_address(text):
        return text
    labels = text.split(".")
    is_name = len(text) <= MAX_HOST_NAME_LENGTH and all(_is_label(label) for label in labels)
    if not is_name or labels[-1].isdigit():  # 10.0.0.256 is a slip, not a name
        raise ValueError("expected a host name (international ones in their xn-- form) or an IP address")
    return text


def host_pattern(value: object) -> str:
    """A host as a route names it: a name, an address (IPv6 in brackets), or ``*.`` and a name; port and case go.

    Raises:
        ValueError: it is none of these.
    """
    text = string(value)
    wildcard, rest = ("*.", text[2:]) if text.startswith("*.") else ("", text)
    if rest.isascii() and is_valid_host(rest.encode("ascii")):
        normalized = normalize_host(rest.encode("ascii")).decode("ascii")
        try:
            host_name(normalized.removeprefix("[").removesuffix("]"))
        except ValueError:
            normalized = ""
        if normalized and not (wildcard and is_ip_address(normalized)):
            return wildcard + normalized
    raise ValueError("expected a host like api.example.com, or *.example.com for any one label")


def header_name(value: object) -> str:
    """A header field name as written.

    Raises:
        ValueError: it is no token (RFC 9110 section 5.1), or a field that only the gateway itself may set.
    """
    text = string(value)
    if not text.isascii() or not is_token(text.encode("ascii")) or len(text) > MAX_NAME_LENGTH:
        raise ValueError("expected a header name")
    if text.lower() in _FRAMING_FIELDS:
        raise ValueError(f"expected a header other than {text}, which the gateway makes for each connection")
    return text


def header_value(value: object) -> str:
    """A header field value: printable ASCII and tabs (RFC 9110 section 5.5).

    Raises:
        ValueError: it holds anything else, line ends above all.
    """
    text = string(value)
    if not text.isascii() or len(text) > MAX_HEADER_VALUE_LENGTH or not is_field_value(text.encode("ascii")):
        raise ValueError("expected a header value: printable ASCII, no line ends, no space at either end")
    return text


def header_table(value: object) -> Mapping[str, str]:
    """Header names, each once in whatever case, and values.

    Raises:
        ValueError: it is no table of such; the message names the header and never shows a value.
    """
    if not isinstance(value, Mapping):
        raise ValueError("expected a table of header names and values")
    table: dict[str, str] = {}
    for key, text in value.items():
        try:
            table[header_name(key)] = header_value(text)
        except ValueError as exc:
            raise ValueError(f"{key!r}: {exc}") from exc
    if len({key.lower() for key in table}) < len(table):
        raise ValueError("expected each header name once, whatever its case")
    return table


def match_headers(value: object) -> Mapping[str, str]:
    """What a route asks of the request's headers: lowered names, exact values.

    Raises:
        ValueError: as :func:`header_table`.
    """
    return {key.lower(): text for key, text in header_table(value).items()}


def method(value: object) -> str:
    """A method that requests may have; case matters (RFC 9110 section 9.1). ``CONNECT`` is never routed.

    Raises:
        ValueError: it is not in upper case, or ``CONNECT``.
    """
    text = string(value)
    if not text or len(text) > MAX_NAME_LENGTH or set(text) - _METHOD_CHARACTERS or text == "CONNECT":
        raise ValueError("expected a method in upper case, like GET, other than CONNECT")
    return text


def token(value: object) -> str:
    """A token (RFC 9110 section 5.6.2), lowered: for names whose case does not matter.

    Raises:
        ValueError: it holds other characters.
    """
    text = string(value)
    if not text.isascii() or not is_token(text.encode("ascii")) or len(text) > MAX_NAME_LENGTH:
        raise ValueError("expected a word of letters, digits and -._")
    return text.lower()


def media_type(value: object) -> str:
    """A media type without parameters, or ``type/*``; lowered.

    Raises:
        ValueError: it is neither.
    """
    main, slash, sub = string(value).partition("/")
    if not slash:
        raise ValueError("expected a media type like application/json or image/*")
    return f"{token(main)}/{token(sub)}"


def network(value: object) -> Network:
    """A network in CIDR form; a bare address is a network of one.

    Raises:
        ValueError: it is neither, or has bits set beyond its prefix.
    """
    try:
        return ip_network(string(value), strict=True)
    except ValueError as exc:
        why = " (bits are set beyond the prefix)" if "host bits" in str(exc) else ""
        raise ValueError(f"expected a network like 10.0.0.0/8 or fd00::/8, or an address{why}") from exc


def is_ip_address(text: str) -> bool:
    """Whether this is an IP address, IPv6 without brackets and zone."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def split_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    """The parts of an absolute URL whose host and port are well formed.

    Raises:
        ValueError: it is relative, of another scheme, or malformed.
    """
    accepted = f"a URL like {schemes[0]}://host:port"
    if not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise ValueError(f"expected {accepted}, without spaces and control characters")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"expected {accepted}, with a port from 1 to 65535") from exc
    if parts.scheme not in schemes or not text.partition(":")[2].startswith("//"):
        raise ValueError(f"expected {accepted}, with a scheme of {', '.join(schemes)}")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError(f"expected {accepted}, with a port from 1 to 65535")
    host_name(parts.hostname or "")
    return parts


def origin(value: object) -> str:
    """An origin that CORS may allow: exact, ``https://*.example.com``, ``null`` or ``*``; lowered.

    Raises:
        ValueError: it is none of these.
    """
    text = string(value).lower()
    if text in {"*", "null"}:
        return text
    try:
        parts = split_url(text.replace("://*.", "://", 1), ("https", "http"))
    except ValueError:
        parts = SplitResult("", "", "/", "", "")
    if parts.path or parts.query or parts.fragment or "@" in parts.netloc or text[-1] in "?#":
        raise ValueError("expected an origin like https://app.example.com, https://*.example.com, null, or *")
    return text


def path_prefix(value: object) -> str:
    """A literal path, as public paths and the probes have.

    Raises:
        ValueError: it is not one that a request can have.
    """
    text = string(value)
    if "{" in text or "}" in text or text.startswith("="):
        raise ValueError("expected a path like /public, without braces")
    return check_path(text)


def route_path(value: object) -> str:
    """What a route matches: ``/prefix``, ``=/exact`` or ``/users/{id}/cv``.

    Raises:
        ValueError: it is none of these, or no request can match it.
    """
    text = string(value)
    names = placeholders(text)
    if names and text.startswith("="):
        raise ValueError("expected a path with placeholders to have no =: it matches whole paths anyway")
    if len(set(names)) < len(names):
        raise ValueError("expected each placeholder once")
    check_path(text.removeprefix("="))
    return text


def rewrite_path(value: object) -> str:
    """A new path, which may use ``{id}`` anywhere in it.

    Raises:
        ValueError: it is no path, or cannot be sent.
    """
    text = string(value)
    rewrite_placeholders(text)
    if not text.isascii():
        raise ValueError("expected a path in ASCII, other characters percent-encoded")
    return check_path(text)


def placeholders(path: str) -> tuple[str, ...]:
    """The names in a route's path, in order.

    Raises:
        ValueError: a brace does not belong to a whole segment like ``{id}``.
    """
    segments = [segment for segment in path.split("/") if "{" in segment or "}" in segment]
    found = tuple(segment[1:-1] for segment in segments)
    for segment, inside in zip(segments, found, strict=True):
        if segment != f"{{{inside}}}" or not (inside.isascii() and inside.isidentifier()):
            raise ValueError("expected a placeholder to be a whole segment, like /users/{id}/cv")
    return found


def rewrite_placeholders(path: str) -> tuple[str, ...]:
    """The names that a rewrite uses, in order.

    Raises:
        ValueError: braces do not pair, or hold no name.
    """
    literal, *parts = path.split("{")
    found = tuple(part.partition("}")[0] for part in parts)
    is_paired = all(part.count("}") == 1 for part in parts) and "}" not in literal
    if not is_paired or not all(inside.isascii() and inside.isidentifier() for inside in found):
        raise ValueError("expected a path that uses placeholders like {id}")
    return found


def check_path(text: str) -> str:
    """The path itself, if a request may have it (braces count as letters).

    Raises:
        ValueError: it has no leading slash, is too long, has a query, ``;``, dot segments or broken escapes.
    """
    if not text.startswith("/") or len(text) > MAX_PATH_LENGTH:
        raise ValueError(f"expected a path that begins with / and has at most {MAX_PATH_LENGTH} characters")
    if set(text) & set(";?# ") or not text.isprintable():
        raise ValueError("expected a path without query, fragment, semicolons, spaces and control characters")
    try:
        canonical_path("".join(c if c.isascii() else "x" for c in text).encode("ascii"))
    except BadPath as exc:
        raise ValueError("expected a path without dot segments, backslashes and broken or forbidden escapes") from exc
    return text


def resource_name(value: object) -> str:
    """Something in a Python module: ``package.module:name``.

    Raises:
        ValueError: it is not written like that.
    """
    text = string(value)
    module, colon, attribute = text.partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise ValueError("expected a Python name like package.module:name")
    return text


def endpoints(value: object) -> tuple[str, ...]:
    """Twisted server endpoint descriptions separated by spaces, each with an optional ``haproxy:`` and ``;plain``.

    Raises:
        ValueError: one is not a description of a stream server, or is Twisted's own ``ssl:``.
    """
    found = tuple(string(value).split())
    for description in found:
        _check_endpoint(description.removesuffix(PLAIN_SUFFIX))
    if len(set(found)) < len(found):
        raise ValueError("expected each endpoint once")
    return found


def _check_endpoint(description: str) -> None:
    prefix, _, behind = description.partition(":")
    is_proxied = f"{prefix}:" == PROXY_PREFIX
    if is_proxied:
        description, prefix = behind, behind.partition(":")[0]
    if prefix == "ssl":
        raise ValueError("expected another endpoint than ssl: (GATEWAY_TLS_CERT_FILE makes tcp: endpoints speak TLS)")
    if ";" in description:
        raise ValueError(f"{description!r}: expected nothing but ;plain after a semicolon")
    if is_proxied and prefix not in _WITH_ADDRESSES:
        raise ValueError(f"expected {PROXY_PREFIX} in front of an endpoint of tcp:, tcp6: or systemd:")
    if prefix in {"tcp", "tcp6", "unix"}:
        try:
            serverFromString(MemoryReactor(), description)
        except Exception as exc:  # whatever Twisted's parsers raise, the description is at fault
            raise ValueError(f"{description!r}: expected an endpoint like tcp:8000:interface=127.0.0.1") from exc
        port = description.split(":")[1].removeprefix("port=")
        if prefix != "unix" and port.isdigit() and int(port[:6]) > 65535:
            raise ValueError(f"{description!r}: expected a port from 0 to 65535")
    elif prefix not in {plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser)}:
        raise ValueError(
            f"{description!r}: expected an endpoint like tcp:8000, unix:/path or systemd:domain=INET:index=0"
        )


def _is_label(label: str) -> bool:
    return 1 <= len(label) <= 63 and not set(label) - _LABEL_CHARACTERS and label[0] != "-" != label[-1]
