"""From decoded fields to heads, and back: the rules of RFC 9113 section 8. No I/O here."""

from __future__ import annotations

import os
from base64 import b64encode
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import httptools

from txgateway.errors import BadRequest, GatewayError, HeadersTooLarge, MethodNotImplemented, UriTooLong
from txgateway.headers import HOP_BY_HOP, is_token
from txgateway.transport.framing import FORBIDDEN_TRAILERS, FramingError, parse_content_length
from txgateway.transport.http2.codes import PROTOCOL_ERROR, StreamFault
from txgateway.transport.http2.header_decoder import PSEUDO, VALUE_BYTES, MalformedField
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, Header, HeaderList, RequestHead, ServerLimits
from txgateway.transport.response_fields import ResponseFields
from txgateway.transport.websocket import WEBSOCKET

VERSION: Final = b"HTTP/2"

_TARGET_BYTES: Final = bytes(range(0x21, 0x7F))
#: What a field counts for in a head's size beside name and value: HTTP/1.1's colon, blank and line end.
_FIELD_OVERHEAD: Final = 4
_COMMON_METHODS: Final = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE"))
_NO_PSEUDO: Final[frozenset[bytes]] = frozenset()
_STATUS: Final = frozenset((b":status",))
_REQUEST_PSEUDO: Final = PSEUDO - _STATUS
_HTTP_SCHEMES: Final = frozenset((b"http", b"https"))


def _malformed(problem: str) -> StreamFault:
    return StreamFault(PROTOCOL_ERROR, problem)  # RFC 9113 section 8.1.1


def _split(fields: HeaderList, known: frozenset[bytes]) -> tuple[dict[bytes, bytes], HeaderList, dict[bytes, bytes]]:
    """A message's pseudo-header fields, which come first (RFC 9113 section 8.3), and the others.

    Returns:
        pseudo-header fields by name; the other fields; value of these by name, the last one where a name occurs more
        than once.

    Raises:
        StreamFault: the message is malformed.
    """
    pseudo: dict[bytes, bytes] = {}
    count = 0
    for name, _, value in fields:
        if name not in PSEUDO:
            break
        if name not in known or name in pseudo:
            raise _malformed("unknown or repeated pseudo-header field")
        pseudo[name] = value
        count += 1
    headers = fields[count:]
    by_name = {name: value for name, _, value in headers}
    if headers and headers[0].__class__ is MalformedField:
        raise _malformed(headers[0].problem)
    if not by_name.keys().isdisjoint(PSEUDO):
        raise _malformed("pseudo-header field behind others")
    return pseudo, headers, by_name


def _content_length(fields: HeaderList, by_name: dict[bytes, bytes]) -> int | None:
    """The declared length of a body, or None."""
    value = by_name.get(b"content-length")
    if value is None:
        return None
    if any(other != value for name, _, other in fields if name == b"content-length"):
        raise _malformed("several lengths")
    try:
        return parse_content_length(value)
    except FramingError:
        raise _malformed("malformed Content-Length") from None


def read_request(
    fields: HeaderList, limits: ServerLimits, *, has_ended: bool
) -> tuple[RequestHead, GatewayError | None]:
    """A request's head from its fields.

    A WebSocket by extended CONNECT (RFC 8441) reads like one by HTTP/1.1: GET, ``upgrade``, and a key of ours.

    Args:
        has_ended: no body follows.

    Returns:
        the head, and what it is refused with, if it is: then it may lack things.

    Raises:
        StreamFault: the request is malformed.
    """
    pseudo, headers, by_name = _split(fields, _REQUEST_PSEUDO)
    method, path = pseudo.get(b":method"), pseudo.get(b":path", b"")
    protocol = pseudo.get(b":protocol")
    if method is None or not is_token(method):
        raise _malformed("no method")
    if protocol is not None and method != b"CONNECT":
        raise _malformed("protocol without CONNECT")
    is_plain_connect = method == b"CONNECT" and protocol is None
    if is_plain_connect:
        if b":scheme" in pseudo or b":path" in pseudo or not pseudo.get(b":authority"):
            raise _malformed("CONNECT with scheme or path, or without authority")  # RFC 9113 section 8.5
        path = pseudo[b":authority"]
    elif pseudo.get(b":scheme", b"").lower() not in _HTTP_SCHEMES:
        raise _malformed("no scheme, or one of another protocol")
    elif not path.startswith(b"/") and (path != b"*" or method != b"OPTIONS"):
        raise _malformed("path that is none")
    if b"te" in by_name and any(name == b"te" and value.lower() != b"trailers" for name, _, value in headers):
        raise _malformed("TE other than trailers")
    length = _content_length(headers, by_name)
    if length and has_ended:
        raise _malformed("length of a body that does not come")
    if length is None:
        length = NO_BODY if has_ended else UNKNOWN_LENGTH
    head = RequestHead(method, path, VERSION, (), {}, length, True, b"")
    headers = _with_host(headers, pseudo.get(b":authority"), by_name)
    if b"cookie" in by_name:
        headers = _with_one_cookie(headers, by_name)
    if protocol is not None:
        if protocol.lower() == WEBSOCKET:
            headers = _as_upgrade(head, headers, by_name)
        else:
            head.method = b"CONNECT"
    head.headers, head.fields = tuple(headers), by_name
    refusal = _refusal(head, protocol, limits)
    if isinstance(refusal, HeadersTooLarge):  # thousands of fields are nothing to keep for the log
        head.headers = head.headers[: limits.max_header_count]
        head.fields = {name: value for name, _, value in head.headers}
    return head, refusal


def repeated(head: RequestHead) -> RequestHead:
    """The head of a further request that says the same."""
    return RequestHead(head.method, head.target, VERSION, head.headers, head.fields.copy(), head.length, True, b"")


def _with_host(headers: HeaderList, authority: bytes | None, by_name: dict[bytes, bytes]) -> HeaderList:
    """``:authority`` is what ``Host`` is in HTTP/1.1; one that says otherwise is not to be believed."""
    if authority is None:
        if sum(header[0] == b"host" for header in headers) > 1:
            raise _malformed("several hosts")
        return headers
    if authority.translate(None, VALUE_BYTES):
        raise _malformed("control in the authority")
    if b"host" in by_name:
        if any(header[0] == b"host" and header[2].lower() != authority.lower() for header in headers):
            raise _malformed("Host other than the authority")
        headers = [header for header in headers if header[0] != b"host"]
    by_name[b"host"] = authority
    headers.insert(0, (b"host", b"host", authority))
    return headers


def _with_one_cookie(headers: HeaderList, by_name: dict[bytes, bytes]) -> HeaderList:
    """Join the pieces of a ``Cookie`` (RFC 9113 section 8.2.3)."""
    pieces = [header[2] for header in headers if header[0] == b"cookie"]
    if len(pieces) == 1:
        return headers
    by_name[b"cookie"] = b"; ".join(pieces)
    headers = [header for header in headers if header[0] != b"cookie"]
    headers.append((b"cookie", b"cookie", by_name[b"cookie"]))
    return headers


def _as_upgrade(head: RequestHead, headers: HeaderList, by_name: dict[bytes, bytes]) -> HeaderList:
    head.method, head.upgrade, head.length = b"GET", WEBSOCKET, NO_BODY
    key = b64encode(os.urandom(16))
    by_name[b"sec-websocket-key"] = key
    headers = [header for header in headers if header[0] != b"sec-websocket-key"]
    headers.append((b"sec-websocket-key", b"Sec-WebSocket-Key", key))
    return headers


def _refusal(head: RequestHead, protocol: bytes | None, limits: ServerLimits) -> GatewayError | None:
    """What HTTP/1.1 would answer with as well, in the same order of precedence."""
    if len(head.target) > limits.max_uri_bytes:
        return UriTooLong()
    if len(head.headers) > limits.max_header_count:
        return HeadersTooLarge("too many header fields")
    size = sum([len(name) + len(value) for name, _, value in head.headers]) + _FIELD_OVERHEAD * len(head.headers)
    if size > limits.max_header_bytes:
        return HeadersTooLarge("header section too long")
    if head.target.translate(None, _TARGET_BYTES):
        return BadRequest("target with a blank, a control or a byte beyond ASCII")
    if protocol is not None and not head.upgrade:
        return MethodNotImplemented("CONNECT to a protocol other than WebSocket")  # RFC 8441 section 4
    if head.method not in _COMMON_METHODS and not _is_known_method(head.method):
        return MethodNotImplemented()
    return None


class _Heads:
    def on_headers_complete(self) -> None: ...


@lru_cache(maxsize=128)
def _is_known_method(method: bytes) -> bool:
    """Whether HTTP/1.1's parser knows it, for the two versions should not differ."""
    parser = httptools.HttpRequestParser(_Heads())
    try:
        parser.feed_data(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n")
    except httptools.HttpParserUpgrade:
        return method == b"CONNECT"
    except httptools.HttpParserError:
        return method == b"CONNECT"
    return True


def read_trailers(fields: HeaderList) -> HeaderList:
    """Trailer fields, without those that mean something in a head only.

    Raises:
        StreamFault: they are malformed.
    """
    _, trailers, _ = _split(fields, _NO_PSEUDO)
    return [field for field in trailers if field[0] not in FORBIDDEN_TRAILERS and field[0] != b"te"]


class ResponseHead(ResponseFields):
    """A response's head as understood; never changes.

    Attributes:
        status: 100 to 599.
        length: the declared one of the body, or None.
    """

    __slots__ = ("length", "status")

    def __init__(self, fields: HeaderList) -> None:
        """Read it.

        Raises:
            StreamFault: it is malformed.
        """
        pseudo, headers, self._names = _split(fields, _STATUS)
        text = pseudo.get(b":status", b"")
        if len(text) != 3 or not text.isdigit() or not b"100" <= text < b"600":
            raise _malformed("no status, or none that there is")
        self.status = int(text)
        self.length = _content_length(headers, self._names)
        self._fields = [header for header in headers if header[0] not in HOP_BY_HOP]
        self._wire = b""


_STATUSES: Final = {status.value: (b":status", b"", b"%d" % status.value) for status in HTTPStatus}


def status_field(status: int) -> Header:
    """``:status``."""
    return _STATUSES.get(status) or (b":status", b"", b"%d" % status)
