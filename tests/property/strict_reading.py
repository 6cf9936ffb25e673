"""A strict reading of HTTP/1.1 that owes nothing to the code under test; where it comes from is in ``txgateway.testing``."""

from __future__ import annotations

import re

from attrs import frozen

from txgateway.testing.wire_strategies import Fields

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([0-9])")
_FIELD = re.compile(
    rb"(" + _TOKEN + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")


@frozen
class Reading:
    """One request, as far as it is valid.

    Attributes:
        is_whole: body and trailers are complete and valid.
    """

    method: bytes
    target: bytes
    version: bytes
    fields: Fields
    body: bytes
    trailers: Fields
    is_whole: bool


def read_strictly(data: bytes) -> list[Reading]:
    """The requests in ``data`` up to the first thing that RFC 9112 does not allow, or that ends the connection."""
    readings: list[Reading] = []
    while True:
        while data.startswith(b"\r\n"):
            data = data[2:]
        head, end, data = data.partition(b"\r\n\r\n")
        found = _head(head) if end else None
        if found is None:
            return readings
        method, target, minor, fields = found
        version = b"HTTP/1.0" if minor == b"0" else b"HTTP/1.1"
        lowered = {name.lower(): value for name, value in fields}
        if b"transfer-encoding" in lowered:
            body, trailers, rest = _chunked(data)
        else:
            length = int(lowered.get(b"content-length", b"0"))
            body, trailers, rest = data[:length], [], data[length:] if len(data) >= length else None
        readings.append(Reading(method, target, version, fields, body, trailers, rest is not None))
        options = _options(fields)
        keeps = b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)
        if rest is None or not keeps or method == b"CONNECT":
            return readings
        data = rest


def _options(fields: Fields) -> set[bytes]:
    lines = [value for name, value in fields if name.lower() == b"connection"]
    return {option.strip(b" \t").lower() for line in lines for option in line.split(b",")}


def _head(head: bytes) -> tuple[bytes, bytes, bytes, Fields] | None:
    line, *lines = head.split(b"\r\n")
    start = _REQUEST_LINE.fullmatch(line)
    found = [_FIELD.fullmatch(line) for line in lines]
    if start is None or None in found:
        return None
    fields = [(match[1], match[2]) for match in found if match is not None]
    lowered = [name.lower() for name, _ in fields]
    if any(lowered.count(name) > 1 for name in (b"host", b"content-length", b"transfer-encoding")):
        return None
    single = dict(zip(lowered, (value for _, value in fields), strict=True))
    coding, length = single.get(b"transfer-encoding"), single.get(b"content-length")
    if coding is not None and (coding.lower() != b"chunked" or length is not None or start[3] == b"0"):
        return None
    if length is not None and re.fullmatch(rb"[0-9]{1,18}", length) is None:
        return None
    return start[1], start[2], start[3], fields


def _chunked(data: bytes) -> tuple[bytes, Fields, bytes | None]:
    """Body, trailers and rest; the rest is None if the body is not whole."""
    body = b""
    while True:
        match = _CHUNK.match(data)
        if match is None:
            return body, [], None
        size, data = int(match[1], 16), data[match.end() :]
        if not size:
            break
        body += data[:size]
        if data[size : size + 2] != b"\r\n":
            return body, [], None
        data = data[size + 2 :]
    if data.startswith(b"\r\n"):
        return body, [], data[2:]
    section, end, rest = data.partition(b"\r\n\r\n")
    found = [_FIELD.fullmatch(line) for line in section.split(b"\r\n")]
    if not end or None in found:
        return body, [], None
    return body, [(match[1], match[2]) for match in found if match is not None], rest
