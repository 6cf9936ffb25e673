"""HTTP/1.x heads on the client side: writing a request's, reading a response's. No I/O here.

llhttp (through httptools) judges the syntax; limits, versions and what delimits the body are decided here.
"""

from __future__ import annotations

import httptools

from txgateway.errors import UpstreamProtocolError
from txgateway.headers import connection_tokens, end_to_end
from txgateway.transport.framing import FramingError, parse_content_length
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList

#: Most fields in a response head.
MAX_RESPONSE_FIELDS = 200

#: What delimits a response body: a count of bytes, the chunked coding, or the end of the connection.
LENGTH, CHUNKED, UNTIL_CLOSE = range(3)

_FRAMING_FIELDS = frozenset({b"connection", b"content-length", b"transfer-encoding", b"upgrade"})
# RFC 9112 section 4: HTAB, SP, VCHAR and obs-text; llhttp lets controls through, and the phrase is passed on.
_REASON_BYTES = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])


def request_head(method: bytes, target: bytes, headers: HeaderList, length: int, upgrade: bytes) -> list[bytes]:
    """The parts of a request head, to be joined with what follows it.

    Args:
        length: of the body: a count, NO_BODY or UNKNOWN_LENGTH; makes the framing field.
        upgrade: protocol to ask for, or empty.
    """
    parts = [method, b" ", target, b" HTTP/1.1\r\n"]
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
        keep_alive: version and ``Connection`` allow another exchange.
    """

    __slots__ = (
        "_connection",
        "_length",
        "_transfer_encoding",
        "content_length",
        "headers",
        "is_chunked",
        "keep_alive",
        "reason",
        "status",
        "upgrade",
    )

    def __init__(self, head: bytes) -> None:
        """Parse ``head``, which ends with its empty line.

        Raises:
            UpstreamProtocolError: malformed, ambiguous in its framing, or beyond a limit.
        """
        self.headers: HeaderList = []
        self.upgrade: HeaderList = []
        self.reason = b""
        self._length: bytes | None = None
        self._connection: bytes | None = None
        self._transfer_encoding: bytes | None = None
        # A parser is made for each head: a used one waits for the body that it is never given.
        parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # only says that this is a 101
        except httptools.HttpParserError as exc:
            raise UpstreamProtocolError(f"malformed response head: {exc}") from exc
        self.status = parser.get_status_code()
        self._check()
        self._decide(parser.get_http_version())
        self.headers = end_to_end(self.headers, self._connection)

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

    def on_status(self, reason: bytes) -> None:
        """llhttp: the reason phrase."""
        self.reason = reason

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one field."""
        lowered = name.lower()
        if lowered in _FRAMING_FIELDS:
            if lowered == b"content-length":
                self._length = value  # llhttp refuses a second one
            elif lowered == b"connection":
                self._connection = value if self._connection is None else self._connection + b"," + value
            elif lowered == b"upgrade":
                self.upgrade.append((lowered, name, value))
            else:
                known = self._transfer_encoding
                self._transfer_encoding = value if known is None else known + b"," + value
            return
        self.headers.append((lowered, name, value))

    def _check(self) -> None:
        if not 100 <= self.status <= 599:
            raise UpstreamProtocolError("status code out of range")
        if self.reason.translate(None, _REASON_BYTES):
            raise UpstreamProtocolError("control character in reason phrase")
        if len(self.headers) > MAX_RESPONSE_FIELDS:
            raise UpstreamProtocolError("too many response fields")

    def _decide(self, version: str) -> None:
        """Framing and persistence (RFC 9112 sections 6.3 and 9.3)."""
        if version not in ("1.1", "1.0"):
            raise UpstreamProtocolError("unexpected HTTP version")
        self.content_length = NO_BODY if self._length is None else _length(self._length)
        self.is_chunked = False
        if self._transfer_encoding is not None:
            # RFC 9112 section 6.3: both lengths present is an attack, not a preference; and a coding we do not know
            # would be passed on as content.
            if self.content_length != NO_BODY:
                raise UpstreamProtocolError("both Transfer-Encoding and Content-Length")
            if version == "1.0":
                raise UpstreamProtocolError("Transfer-Encoding in an HTTP/1.0 response")
            if self._transfer_encoding.strip(b" \t").lower() != b"chunked":
                raise UpstreamProtocolError("a transfer coding other than chunked")
            self.is_chunked = True
        connection = self._connection
        if connection is None:
            self.keep_alive = version == "1.1"
        elif connection.lower() == b"keep-alive":
            self.keep_alive = True
        else:
            tokens = connection_tokens(connection)
            self.keep_alive = b"close" not in tokens and (version == "1.1" or b"keep-alive" in tokens)


def _length(value: bytes) -> int:
    try:
        return parse_content_length(value)
    except FramingError as exc:
        raise UpstreamProtocolError(str(exc)) from exc
