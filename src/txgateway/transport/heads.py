"""Reading HTTP/1.x request heads, and writing the field lines of any head. No I/O here.

llhttp (through httptools) judges the syntax; the limits, the framing rules of RFC 9112 section 6 and what an
unparsable head is answered with are decided here.
"""

from __future__ import annotations

import re

import httptools

from txgateway.errors import (
    BadHost,
    BadRequest,
    GatewayError,
    HeadersTooLarge,
    MethodNotImplemented,
    UriTooLong,
    VersionNotSupported,
)
from txgateway.headers import connection_tokens, field_values
from txgateway.transport.framing import FramingError, parse_content_length
from txgateway.transport.interfaces import (
    NO_BODY,
    UNKNOWN_LENGTH,
    Header,
    HeaderList,
    Headers,
    RequestHead,
    ServerLimits,
)

_BLANK = 0x20
_END_OF_HEAD = b"\r\n\r\n"
_EMPTY_LINES = re.compile(rb"(?:\r\n)++")
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TARGET = rb"[^\x00-\x20\x7f-\xff]++"
_REQUEST_LINE = re.compile(rb"(%b) %b HTTP/([0-9])\.[0-9]\r\n" % (_TOKEN, _TARGET))


def _beginnings(*parts: bytes) -> bytes:
    """The expression for a part, or as many of the first parts as there are."""
    pattern = b""
    for part in reversed(parts):
        pattern = b"(?:%b%b)?" % (part, pattern)
    return pattern


#: What may yet become a request line, without its LF.
_UNFINISHED_LINE = re.compile(
    _beginnings(_TOKEN, b" ", _TARGET, b" ", b"H", b"T", b"T", b"P", b"/", rb"[0-9]", rb"\.", rb"[0-9]", rb"\r")
)
#: What a request line is longer than its target, at most, before the target counts as too long.
_METHOD_AND_VERSION_BYTES = 64
#: Fields that may occur once only because two of them would be read differently by different parties.
_SINGLETONS = frozenset((b"host", b"content-length", b"transfer-encoding"))


class RequestHeadReader:
    """Reads one request head at a time out of a connection's bytes, in any split.

    Exactly the bytes of a head are given to llhttp, so that whatever follows (a body, a pipelined request, the first
    bytes of a tunnel) is left to the caller.

    Args:
        limits: of the listener.

    Attributes:
        partial: the head received so far, as long as it is incomplete or refused.
    """

    __slots__ = (
        "_complete",
        "_error",
        "_headers",
        "_last_fields",
        "_last_headers",
        "_last_keep_alive",
        "_last_section",
        "_limits",
        "_parser",
        "_small",
        "_url",
        "partial",
    )

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._small = min(limits.max_uri_bytes, limits.max_header_bytes)
        self.partial = b""
        self._headers: HeaderList = []
        self._url = b""
        self._complete = 0
        self._error: httptools.HttpParserError | None = None  # found before the request line was complete
        # The last head that may come again, by its section; its fields by name are made when it does.
        self._last_section = b""
        self._last_headers: tuple[Header, ...] = ()
        self._last_fields: dict[bytes, bytes] | None = None
        self._last_keep_alive = True
        self.renew()

    def renew(self) -> None:
        """Take a fresh parser: the old one waits for a body that it will not see."""
        self._parser = httptools.HttpRequestParser(self)
        # Any minor version of HTTP/1 is served as 1.1 (RFC 9110 section 2.5); the major version is checked here.
        self._parser.set_dangerous_leniencies(lenient_version=True)

    def close(self) -> None:
        """Break the reference cycle with the parser."""
        self._parser = None  # type: ignore[assignment]

    def on_url(self, url: bytes) -> None:
        """llhttp: the target, or a piece of it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """llhttp: one field."""
        if value and value[-1] <= _BLANK:
            value = value.rstrip(b" \t")  # RFC 9110 section 5.5: not part of the value; llhttp leaves it
        self._headers.append((name.lower(), name, value))

    def on_headers_complete(self) -> None:
        """llhttp: the empty line."""
        self._complete += 1

    def feed(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        """Read on; returns the head once it is complete, and the bytes behind it.

        Raises:
            GatewayError: the head is malformed or too large; :meth:`refused` tells what is known of it.
        """
        if self.partial:
            return self._feed_more(data)
        if data.startswith(b"\r\n"):  # RFC 9112 section 2.2: empty lines before the request line are ignored
            data = _EMPTY_LINES.sub(b"", data, count=1)
        if data.endswith(_END_OF_HEAD):
            request = self._feed_again(data) or self._feed_whole(data)
            if request is not None:
                return request, b""
        end = data.find(_END_OF_HEAD) + 4
        if end == 3:
            self.partial = data
            if data:
                self._feed_incomplete(data)
            return None, b""
        self.partial = head = data if end == len(data) else data[:end]
        request = self._finish(head, head)
        self.partial = b""
        return request, data[end:]

    def _feed_again(self, data: bytes) -> RequestHead | None:
        """Take ``data`` for a request whose header section is the last one's to the byte, as those of most clients are.

        What was parsed and judged then is not parsed and judged again; llhttp sees the request line only.

        Returns:
            None if it is anything else; nothing of it has been read then.
        """
        line = data.find(b"\r\n")
        if data[line:] != self._last_section or len(data) > self._small:
            return None
        try:
            self._parser.feed_data(data[:line] + _END_OF_HEAD)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            is_usable = False
        else:
            is_usable = self._complete == 1 and data.endswith(b" HTTP/1.1", 0, line)
        url, self._url, self._complete = self._url, b"", 0
        method = self._parser.get_method()
        # llhttp lets bare CR and LF before the line, and further blanks in it, pass.
        is_usable = is_usable and line == len(method) + len(url) + len(b"  HTTP/1.1")
        if not is_usable or method == b"CONNECT":
            self._headers = []
            self.renew()
            return None
        headers, fields = self._last_headers, self._last_fields
        if fields is None:
            fields = {lowered: value for lowered, _, value in headers}
            if b"connection" in fields:
                _join_connection(headers, fields)
            self._last_fields = fields
        return RequestHead(method, url, b"HTTP/1.1", headers, fields.copy(), NO_BODY, self._last_keep_alive, b"")

    def _feed_whole(self, data: bytes) -> RequestHead | None:
        """Take ``data`` for exactly one request without a body, as most reads are, and save the search for its end.

        Returns:
            None if it is anything else; nothing of it has been read then.
        """
        if len(data) <= self._small:
            try:
                self._parser.feed_data(data)
            except (httptools.HttpParserError, httptools.HttpParserUpgrade):
                pass
            else:
                fields = {lowered: value for lowered, _, value in self._headers}
                if self._complete == 1 and b"content-length" not in fields and b"transfer-encoding" not in fields:
                    self.partial = data
                    request = self._made(data, fields)
                    self.partial = b""
                    if request.version == b"HTTP/1.1" and not request.upgrade and request.method != b"CONNECT":
                        self._last_headers, self._last_keep_alive = request.headers, request.keep_alive
                        self._last_section, self._last_fields = data[data.find(b"\r\n") :], None
                    return request
        self._headers, self._url, self._complete = [], b"", 0
        self.renew()
        return None

    def _feed_more(self, data: bytes) -> tuple[RequestHead | None, bytes]:
        whole = self.partial + data
        if self.partial == b"\r":  # the line before may have been empty and cut in two
            self.partial = b""
            if not whole.startswith(b"\r\n"):
                self.partial = whole
                raise BadRequest("stray CR before the request line")
            return self.feed(whole)
        if self._error is not None:
            self.partial = whole
            self._check_size(whole, complete=False)
            self._refuse(self._error)
            return None, b""
        end = whole.find(_END_OF_HEAD, max(len(self.partial) - 3, 0)) + 4
        if end == 3:
            self.partial = whole
            self._feed_incomplete(data)
            return None, b""
        piece = data[: end - len(self.partial)]
        rest = data[len(piece) :]
        self.partial = whole[:end]
        head = self._finish(piece, self.partial)
        self.partial = b""
        return head, rest

    def _feed_incomplete(self, data: bytes) -> None:
        if self.partial == b"\r":
            return
        self._check_size(self.partial, complete=False)
        self._parse(data, self.partial)
        if self._complete:
            raise BadRequest("head ended without an empty line")

    def _parse(self, piece: bytes, head: bytes) -> None:
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass  # only says that the head asks for an upgrade; the middle decides
        except httptools.HttpParserError as exc:
            self.partial = head
            self._refuse(exc)

    def _refuse(self, error: httptools.HttpParserError) -> None:
        """Raise what the head is answered with, or wait: the whole request line says what it is, in any split."""
        self._error = error
        if not _UNFINISHED_LINE.fullmatch(self.partial):
            raise _refusal(error, self.partial) from error

    def _finish(self, piece: bytes, head: bytes) -> RequestHead:
        if len(head) > self._small:
            self._check_size(head, complete=True)
        self._parse(piece, head)
        if not self._complete:
            raise _refusal(httptools.HttpParserError("incomplete head"), head)
        return self._made(head, {lowered: value for lowered, _, value in self._headers})

    def _made(self, head: bytes, fields: dict[bytes, bytes]) -> RequestHead:
        headers = self._headers
        if len(headers) > self._limits.max_header_count:
            raise HeadersTooLarge("too many header fields")
        request = self._frame(head, headers, fields)
        if request.length != NO_BODY or b"upgrade" in fields or request.method == b"CONNECT":
            self.renew()
        self._headers = []
        self._url = b""
        self._complete = 0
        return request

    def _check_size(self, head: bytes, *, complete: bool) -> None:
        size = len(head)
        if size <= self._small:
            return
        line = head.find(b"\r\n")
        target = len(self._url) or (line if line >= 0 else size) - _METHOD_AND_VERSION_BYTES
        if complete and line >= 0:
            target = len(head[:line].split(b" ")[1]) if head.count(b" ", 0, line) == 2 else line
        if target > self._limits.max_uri_bytes:
            raise UriTooLong
        if line >= 0 and size - line - 2 > self._limits.max_header_bytes:
            raise HeadersTooLarge("header section too long")

    def _frame(self, head: bytes, headers: HeaderList, fields: dict[bytes, bytes]) -> RequestHead:
        """Decide version, body length and persistence (RFC 9112 sections 6.3 and 9.3)."""
        parser = self._parser
        method = parser.get_method()
        url = self._url
        start = len(method) + 1 + len(url)
        if head[start : start + 11] == b" HTTP/1.1\r\n":
            version = b"HTTP/1.1"
        else:
            version = _version(parser.get_http_version())
            if _REQUEST_LINE.match(head) is None:  # llhttp lets bare CR and LF before it, blanks in it, and RTSP pass
                raise BadRequest("malformed request line")
        if len(fields) != len(headers):
            _check_singletons(headers)
        length = NO_BODY
        if b"transfer-encoding" in fields:
            _check_transfer_encoding(version, fields)
            length = UNKNOWN_LENGTH
        elif b"content-length" in fields:
            try:
                length = parse_content_length(fields[b"content-length"])
            except FramingError as exc:
                raise BadRequest(str(exc)) from exc
        keep_alive, upgrade = True, b""
        if version != b"HTTP/1.1" or b"connection" in fields:
            keep_alive, upgrade = _connection(version, headers, fields)
            if length != NO_BODY:
                upgrade = b""  # the body would have to be read first; nobody does this
        if method == b"CONNECT":
            keep_alive = False  # what follows is not HTTP
        if b"host" not in fields and version == b"HTTP/1.1":
            raise BadHost  # RFC 9112 section 3.2; here, so that it holds for what no middleware sees as well
        return RequestHead(method, url, version, tuple(headers), fields, length, keep_alive, upgrade)

    def refused(self) -> RequestHead:
        """What is known of a head that was refused, for the log; to be called once."""
        headers, self._headers = self._headers, []
        url, self._url = self._url, b""
        match = _REQUEST_LINE.match(self.partial)
        self.partial = b""
        fields = {lowered: value for lowered, _, value in headers}
        method = match[1] if match else b""
        return RequestHead(method, url, b"HTTP/1.1", tuple(headers), fields, NO_BODY, False, b"")


def _version(text: str) -> bytes:
    major, _, minor = text.partition(".")
    if major != "1":
        raise VersionNotSupported(text)
    return b"HTTP/1.0" if minor == "0" else b"HTTP/1.1"


def _check_singletons(headers: HeaderList) -> None:
    seen: set[bytes] = set()
    for lowered, _, _ in headers:
        if lowered in _SINGLETONS:
            if lowered in seen:
                raise BadHost if lowered == b"host" else BadRequest("repeated framing field")
            seen.add(lowered)


def _check_transfer_encoding(version: bytes, fields: dict[bytes, bytes]) -> None:
    if b"content-length" in fields:
        # RFC 9112 section 6.3: both lengths present is an attack, not a preference.
        raise BadRequest("both Transfer-Encoding and Content-Length")
    if version == b"HTTP/1.0":
        raise BadRequest("Transfer-Encoding in an HTTP/1.0 request")
    if fields[b"transfer-encoding"].lower() != b"chunked":
        raise BadRequest("a transfer coding other than chunked")


def _connection(version: bytes, headers: Headers, fields: dict[bytes, bytes]) -> tuple[bool, bytes]:
    tokens = connection_tokens(_join_connection(headers, fields))
    if version == b"HTTP/1.0":
        return b"keep-alive" in tokens and b"close" not in tokens, b""
    upgrade = fields.get(b"upgrade", b"") if b"upgrade" in tokens else b""
    return b"close" not in tokens, upgrade


def _join_connection(headers: Headers, fields: dict[bytes, bytes]) -> bytes:
    fields[b"connection"] = joined = b",".join(field_values(headers, b"connection"))
    return joined


def _refusal(exc: httptools.HttpParserError, head: bytes) -> GatewayError:
    """What a head that llhttp refused is answered with."""
    match = _REQUEST_LINE.match(head)
    if match is not None:
        if match[2] != b"1":
            return VersionNotSupported(str(exc))
        # The second: a method that llhttp knows, from a protocol that looks like this one.
        if isinstance(exc, httptools.HttpParserInvalidMethodError) or "Invalid method" in str(exc):
            return MethodNotImplemented(str(exc))
    return BadRequest(str(exc))


def write_fields(parts: list[bytes], headers: HeaderList) -> None:
    """Append the field lines to ``parts``."""
    for _, name, value in headers:
        parts += (name, b": ", value, b"\r\n")
