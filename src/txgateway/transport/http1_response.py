"""HTTP/1.x heads on the client side: writing a request's, reading a response's. No I/O here.

llhttp (through httptools) judges the syntax; limits, versions and what delimits the body are decided here.
"""

from __future__ import annotations

from http import HTTPStatus

import httptools

from txgateway.errors import UpstreamProtocolError
from txgateway.headers import HOP_BY_HOP, connection_tokens, end_to_end, field_values
from txgateway.transport.framing import FramingError, parse_content_length
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList, SharedHeaders

#: Most fields in a response head.
MAX_RESPONSE_FIELDS = 200

#: What delimits a response body: a count of bytes, the chunked coding, or the end of the connection.
LENGTH, CHUNKED, UNTIL_CLOSE = range(3)

#: Fields that say how the message is framed and may come in several lines, which then count as one list.
_FRAMING_LISTS = frozenset({b"connection", b"content-length", b"transfer-encoding"})
_BEFORE_REASON = len(b"HTTP/1.1 200 ")
_KNOWN_REASONS = frozenset(status.phrase.encode("ascii") for status in HTTPStatus)
# RFC 9112 section 4: HTAB, SP, VCHAR and obs-text; llhttp lets controls through, and the phrase is passed on.
_REASON_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


def request_head(method: bytes, target: bytes, headers: HeaderList, length: int, upgrade: bytes) -> list[bytes]:
    """The parts of a request head, to be joined with what follows it.

    Args:
        length: of the body: a count, NO_BODY or UNKNOWN_LENGTH; makes the framing field.
        upgrade: protocol to ask for, or empty.
    """
    parts = [method, b" ", target, b" HTTP/1.1\r\n"]
    if isinstance(headers, SharedHeaders):
        parts.append(headers.wire)
        write_fields(parts, headers[headers.shared :])
    else:
        write_fields(parts, headers)
    if length >= 0:
        parts.append(b"Content-Length: %d\r\n" % length)
    elif length == UNKNOWN_LENGTH:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if upgrade:
        parts.append(b"Connection: upgrade\r\nUpgrade: %b\r\n" % upgrade)
    parts.append(b"\r\n")
    return parts


class ResponseHead:
    """A response head as understood.

    Attributes:
        status: 100 to 599.
        reason: the phrase; may be empty.
        headers: the end-to-end fields.
        upgrade: the ``Upgrade`` fields, which are not among them.
        content_length: the declared one, or NO_BODY.
        is_chunked: the body comes in the chunked coding.
        is_http_11: the version is 1.1, not 1.0.
        keep_alive: version and ``Connection`` allow another exchange.
    """

    __slots__ = ("content_length", "headers", "is_chunked", "is_http_11", "keep_alive", "reason", "status", "upgrade")

    def __init__(self, head: bytes) -> None:
        """Parse ``head``, which ends with its empty line.

        Raises:
            UpstreamProtocolError: malformed, ambiguous in its framing, or beyond a limit.
        """
        self.headers: HeaderList = []
        # A parser is made for each head: a used one waits for the body that it is never given.
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # only says that this is a 101
        except httptools.HttpParserError as exc:
            raise UpstreamProtocolError(f"malformed response head: {exc}") from exc
        headers = self.headers
        self.status = status = parser.get_status_code()
        if not 100 <= status <= 599:
            raise UpstreamProtocolError("status code out of range")
        self.is_http_11 = is_11 = head.startswith(b"HTTP/1.1 ")
        if not is_11 and not head.startswith(b"HTTP/1.0 "):
            raise UpstreamProtocolError("unexpected HTTP version")
        self.reason = head[_BEFORE_REASON : head.find(b"\r\n")]
        if self.reason not in _KNOWN_REASONS:
            _check_reason(self.reason)
        fields = {lowered: value for lowered, _, value in headers}
        if len(fields) != len(headers):
            for name in _FRAMING_LISTS & fields.keys():
                fields[name] = b",".join(field_values(headers, name))
        length = fields.get(b"content-length")
        self.content_length = NO_BODY if length is None else _length(length)
        self.is_chunked = b"transfer-encoding" in fields
        if self.is_chunked:
            _check_transfer_encoding(fields[b"transfer-encoding"], length, is_11)
        connection = fields.get(b"connection")
        if connection is None or connection == b"keep-alive":
            self.keep_alive = is_11 or connection is not None
            self.headers = [header for header in headers if header[0] not in HOP_BY_HOP]
        else:
            tokens = connection_tokens(connection)
            self.keep_alive = b"close" not in tokens and (is_11 or b"keep-alive" in tokens)
            self.headers = end_to_end(headers, connection)
        if len(self.headers) > MAX_RESPONSE_FIELDS:
            raise UpstreamProtocolError("too many response fields")
        self.upgrade: HeaderList = [header for header in headers if header[0] == b"upgrade"] if status == 101 else []

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one field."""
        self.headers.append((name.lower(), name, value))

    def body(self, is_head_request: bool) -> tuple[int, int, int]:
        """How the body is delimited (RFC 9112 section 6.3).

        Returns:
            ``(delimiter, left, length)``: LENGTH, CHUNKED or UNTIL_CLOSE; the bytes to read in case of LENGTH; and
            what the response declares: a count, NO_BODY or UNKNOWN_LENGTH.
        """
        length = self.content_length
        if is_head_request or self.status == 304:
            return LENGTH, 0, length
        if self.status == 204:
            # RFC 9112 section 6.1: it must not declare any body; if it does, one may follow.
            self.keep_alive = self.keep_alive and length <= 0 and not self.is_chunked
            return LENGTH, 0, NO_BODY
        if length >= 0:
            return LENGTH, length, length
        return (CHUNKED if self.is_chunked else UNTIL_CLOSE), 0, UNKNOWN_LENGTH


def _check_reason(reason: bytes) -> None:
    if reason.translate(None, _REASON_BYTES):
        raise UpstreamProtocolError("control character in reason phrase")


def _check_transfer_encoding(coding: bytes, length: bytes | None, is_11: bool) -> None:
    # RFC 9112 section 6.3: both lengths present is an attack, not a preference; and a coding we do not know would be
    # passed on as content.
    if length is not None:
        raise UpstreamProtocolError("both Transfer-Encoding and Content-Length")
    if not is_11:
        raise UpstreamProtocolError("Transfer-Encoding in an HTTP/1.0 response")
    if coding.strip(b" \t").lower() != b"chunked":
        raise UpstreamProtocolError("a transfer coding other than chunked")


def _length(value: bytes) -> int:
    try:
        return parse_content_length(value)
    except FramingError as exc:
        raise UpstreamProtocolError(str(exc)) from exc
