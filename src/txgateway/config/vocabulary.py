"""The small languages of single settings: balancers, retry conditions, bucket keys, status ranges, special URLs.

Parsers as in :mod:`txgateway.config.values`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from txgateway.config.syntax import header_name, header_value, path_prefix, resource_name, split_url, token
from txgateway.config.values import elements, integer, one_of, string
from txgateway.headers import FORWARDED_NAMES, HOP_BY_HOP
from txgateway.ratelimit.redis_url import RedisAddress

MAX_WORKERS: Final = 1024
MAX_BODY_LENGTH: Final = 2**20
#: What a middleware may be called: variables and metrics are named after it.
_MIDDLEWARE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

_BALANCERS: Final = ("round_robin", "least_request", "random", "hash:client_ip")
_RETRY_WORDS: Final = ("connect", "reset", "timeout", "refused_stream", "5xx", "grpc-unavailable")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,256}")
_KEY_WORDS: Final = ("ip", "subject", "route")
#: Fields of a forwarded request that say what the gateway knows, or what the client has proved.
_OWN_HEADERS: Final = (
    FORWARDED_NAMES | HOP_BY_HOP | {b"authorization", b"content-type", b"cookie", b"expect", b"via", b"x-request-id"}
)


def workers(value: object) -> int | str:
    """A number of processes, or ``auto``.

    Raises:
        ValueError: it is neither.
    """
    if value == "auto":
        return "auto"
    try:
        return integer(1, MAX_WORKERS)(value)
    except ValueError as exc:
        raise ValueError(f"{exc}, or auto") from exc


def middleware_name(value: object) -> str:
    """A short name of a middleware.

    Raises:
        ValueError: it is none.
    """
    text = string(value)
    if not _MIDDLEWARE.fullmatch(text):
        raise ValueError("expected up to 64 letters, digits, _, - and ., a letter first")
    return text


def middleware(value: object) -> str:
    """A middleware as lists have it: ``package.module:Class``, or a short name.

    Raises:
        ValueError: it is neither.
    """
    if ":" in string(value):
        return resource_name(value)
    try:
        return middleware_name(value)
    except ValueError as exc:
        raise ValueError("expected package.module:Class, or a name of letters, digits, _, - and .") from exc


def load_balancer(value: object) -> str:
    """How a target is picked; what follows ``hash:header:`` and ``hash:cookie:`` is a name.

    Raises:
        ValueError: it is no known way.
    """
    text = string(value)
    if text in _BALANCERS:
        return text
    kind, _, argument = text.removeprefix("hash:").partition(":")
    try:
        if text.startswith("hash:") and kind == "header":
            return f"hash:header:{header_name(argument)}"
        if text.startswith("hash:") and kind == "cookie":
            token(argument)  # RFC 6265 section 4.1.1; unlike a header's, a cookie's case matters
            return text
    except ValueError:
        pass
    raise ValueError(f"expected {one_of((*_BALANCERS, 'hash:header:NAME', 'hash:cookie:NAME'))}")


def retry_condition(value: object) -> str:
    """What an attempt may have failed of to be repeated: a word or a status code.

    Raises:
        ValueError: it is neither.
    """
    text = string(value)
    is_status = text.isascii() and text.isdigit() and len(text) == 3 and 200 <= int(text) <= 599
    if text not in _RETRY_WORDS and not is_status:
        raise ValueError(f"expected {one_of((*_RETRY_WORDS, 'a status code from 200 to 599'))}")
    return text


def scope(value: object) -> str:
    """A scope (RFC 6749 section 3.3).

    Raises:
        ValueError: it is empty, or has blanks, quotes, backslashes, controls or anything that is not ASCII.
    """
    text = string(value)
    if _SCOPE.fullmatch(text) is None:
        raise ValueError("expected a scope of printable ASCII without blanks, quotes and backslashes")
    return text


def bucket_key(value: object) -> str:
    """What requests must share to share a bucket.

    Raises:
        ValueError: it is no known part of a key.
    """
    text = string(value)
    if text.startswith("header:"):
        return f"header:{header_name(text.removeprefix('header:')).lower()}"
    if text not in _KEY_WORDS:
        raise ValueError(f"expected {one_of((*_KEY_WORDS, 'header:NAME'))}")
    return text


def claim_headers(value: object) -> tuple[tuple[str, str], ...]:
    """Pairs of claim and header, from ``sub=X-User-Id,email=X-Email`` or a document's table.

    Raises:
        ValueError: it is neither, a name is malformed, a header is given twice, or is one that the gateway makes.
    """
    if isinstance(value, Mapping):
        pairs = [(string(claim), header) for claim, header in value.items()]
    else:
        parts = [part.partition("=") for part in string(value).split(",")] if value != "" else []
        pairs = [(claim.strip(), header.strip()) for claim, _, header in parts]
    if any(not claim or not header for claim, header in pairs):
        raise ValueError("expected claims and headers like sub=X-User-Id,email=X-Email")
    found = tuple((claim, header_name(header)) for claim, header in pairs)
    for _, header in found:
        if header.lower().encode("ascii") in _OWN_HEADERS:
            raise ValueError(f"{header!r}: expected a header that the gateway does not make itself")
    if len({re.sub("[^a-z0-9]", "-", header.lower()) for _, header in found}) < len(found):
        raise ValueError("expected each header once, in whatever spelling")
    return found


def status_ranges(value: object) -> tuple[tuple[int, int], ...]:
    """Status codes from ``200-399`` or ``200,204,301-303``: pairs of lowest and highest.

    Raises:
        ValueError: a part is neither a code nor a range of codes.
    """
    found: list[tuple[int, int]] = []
    for element in elements(value):
        text = string(element)
        low, dash, high = text.partition("-")
        is_code = all(part.isascii() and part.isdigit() and len(part) == 3 for part in (low, high if dash else low))
        first, last = (int(low), int(high if dash else low)) if is_code else (0, 0)
        if not 100 <= first <= last <= 599:
            raise ValueError(f"{text!r}: expected status codes like 200-399 or 200,204")
        found.append((first, last))
    if not found:
        raise ValueError("expected status codes like 200-399 or 200,204")
    return tuple(found)


def probe_prefix(value: object) -> str:
    """The path below which the probes are, or empty for none.

    Raises:
        ValueError: it is no literal path, or ends in a slash.
    """
    if value == "":
        return ""
    text = path_prefix(value)
    if text.endswith("/"):
        raise ValueError("expected a path like /health, without final slash, or nothing at all")
    return text


def jwks_url(value: object) -> str:
    """Where a JWKS document is downloaded.

    Raises:
        ValueError: it is no ``https`` or ``http`` URL, or has a user or a fragment.
    """
    text = string(value)
    parts = split_url(text, ("https", "http"))
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("expected a URL without user, password and fragment")
    return text


def redis_url(value: object) -> str:
    """Where Redis is: ``redis://[user:password@]host[:port][/database]``, ``rediss://…`` or ``unix://[…@]/path``.

    Raises:
        ValueError: it is none of these.
    """
    text = string(value)
    scheme, _, rest = text.partition("://")
    try:
        if scheme == "unix":
            if not rest.isprintable() or " " in rest:
                raise ValueError("not a path")
        else:
            parts = split_url(text, ("redis", "rediss"))
            if parts.query or parts.fragment:
                raise ValueError("a query or a fragment")
        RedisAddress.parse(text)
    except ValueError:  # its text may hold a part of a password
        accepted = "expected redis://[user:password@]host[:port][/database], rediss://… or unix:///path"
        raise ValueError(accepted) from None
    return text


def redirect_target(value: object) -> str:
    """Where a redirect leads: an ``http`` or ``https`` URL, or a path.

    Raises:
        ValueError: it is neither, or no header value.
    """
    text = header_value(value)
    if text.startswith("/") and not text.startswith("//") and not set(text) & set(" \\"):
        return text
    try:
        split_url(text, ("https", "http"))
    except ValueError as exc:
        raise ValueError("expected a URL like https://host/path, or a path") from exc
    return text


def redirect_status(value: object) -> int:
    """A status that sends the client elsewhere.

    Raises:
        ValueError: it is another one.
    """
    status = integer(0, 999)(value) if isinstance(value, int | str) else 0
    if status not in {301, 302, 303, 307, 308}:
        raise ValueError("expected 301, 302, 303, 307 or 308")
    return status


def fixed_body(value: object) -> str:
    """The text of a fixed response.

    Raises:
        ValueError: it is no text, or longer than 1 MiB.
    """
    if isinstance(value, Mapping) or len(text := string(value)) > MAX_BODY_LENGTH:
        raise ValueError(f"expected a text of at most {MAX_BODY_LENGTH} characters")
    return text
