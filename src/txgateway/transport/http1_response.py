"""HTTP/1.x heads on the client side: writing a request's, reading a response's. No I/O here.

Backends say most things again and again: a line that was parsed before is not parsed again, nor is a head that is the
same to the byte. llhttp has no such way, so responses are read without it; the grammar is that of
:func:`txgateway.headers.parse_field_line`.
"""

from __future__ import annotations

import re
from typing import Any

from txgateway.errors import UpstreamProtocolError
from txgateway.headers import HOP_BY_HOP, connection_tokens, end_to_end, field_values, parse_field_line
from txgateway.transport.framing import FramingError, parse_content_length
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import (
    NO_BODY,
    UNKNOWN_LENGTH,
    Header,
    HeaderList,
    SharedHeaders,
)
from txgateway.transport.response_fields import ResponseFields

#: Most end-to-end fields in a response head.
MAX_RESPONSE_FIELDS = 200
#: With those of the connection, the status line, the empty line and what is behind it.
_MAX_LINES = MAX_RESPONSE_FIELDS + len(HOP_BY_HOP) + 3

#: What delimits a response body: a count of bytes, the chunked coding, or the end of the connection.
LENGTH, CHUNKED, UNTIL_CLOSE = range(3)

#: Fields that say how the message is framed and may come in several lines, which then count as one list.
_FRAMING_LISTS = frozenset({b"connection", b"content-length", b"transfer-encoding"})
#: RFC 9112 section 4. Some backends leave out the phrase and the blank before it.
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_OTHER_VERSION = re.compile(rb"HTTP/[0-9.]+ ")
#: Longest line that is remembered, and how many are.
MAX_KNOWN_LINE_BYTES = 128
MAX_KNOWN_LINES = 1024
#: The same of whole heads. They hold a date, so each comes again for a second at most.
MAX_KNOWN_HEAD_BYTES = 1024
MAX_KNOWN_HEADS = 256
#: Never remembered: they are secret, and everybody's are different.
_NOT_REMEMBERED = frozenset({b"authorization", b"cookie", b"set-cookie"})


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


class _FieldLines(dict[bytes, Header]):
    """The fields in lines that were seen before; others are parsed when they are asked for."""

    def __missing__(self, line: bytes) -> Header:
        field = parse_field_line(line)
        if field is None:
            raise UpstreamProtocolError("malformed response field")
        if len(line) <= MAX_KNOWN_LINE_BYTES and field[0] not in _NOT_REMEMBERED:
            _make_room(self)
            self[line] = field
        return field


class _StatusLines(dict[bytes, tuple[int, bytes, bool]]):
    """Status, phrase and whether the version is 1.1, in the same way."""

    def __missing__(self, line: bytes) -> tuple[int, bytes, bool]:
        found = _STATUS_LINE.fullmatch(line)
        if found is None:
            raise UpstreamProtocolError(
                "unexpected HTTP version" if _OTHER_VERSION.match(line) else "malformed status line"
            )
        understood = int(found[2]), found[3] or b"", found[1] == b"1"
        if len(line) <= MAX_KNOWN_LINE_BYTES:
            _make_room(self)
            self[line] = understood
        return understood


def _make_room(known: dict[bytes, Any], size: int = MAX_KNOWN_LINES) -> None:
    if len(known) >= size:
        known.clear()  # what comes often is soon known again


_field_lines = _FieldLines()
_status_lines = _StatusLines()


class ResponseHead(ResponseFields):
    """A response head as understood; never changes.

    Attributes:
        status: 100 to 599.
        reason: the phrase; may be empty.
        upgrade: the ``Upgrade`` fields of a 101.
        content_length: the declared one, or NO_BODY.
        is_chunked: the body comes in the chunked coding.
        is_http_11: the version is 1.1, not 1.0.
        keep_alive: version, ``Connection`` and status allow another exchange.
    """

    __slots__ = (
        "content_length",
        "is_chunked",
        "is_http_11",
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
        lines = head.split(b"\r\n", _MAX_LINES)
        if len(lines) > _MAX_LINES:
            raise UpstreamProtocolError("too many response fields")
        self.status, self.reason, self.is_http_11 = _status_lines[lines[0]]
        is_11 = self.is_http_11
        headers: HeaderList = [_field_lines[line] for line in lines[1:-2]]
        self._names = fields = {lowered: value for lowered, _, value in headers}
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
            self._fields = [header for header in headers if header[0] not in HOP_BY_HOP]
        else:
            tokens = connection_tokens(connection)
            self.keep_alive = b"close" not in tokens and (is_11 or b"keep-alive" in tokens)
            self._fields = end_to_end(headers, connection)
            self._names = {lowered: value for lowered, _, value in self._fields}
        if len(self._fields) > MAX_RESPONSE_FIELDS:
            raise UpstreamProtocolError("too many response fields")
        if self.status == 204 and (self.content_length > 0 or self.is_chunked):
            self.keep_alive = False  # RFC 9112 section 6.1: it must not declare any body; if it does, one may follow
        self._wire = b""
        self.upgrade: HeaderList = []
        if self.status == 101:
            self.upgrade = [header for header in headers if header[0] == b"upgrade"]

    def is_worth_keeping(self) -> bool:
        """Whether the head may come again, and holds nothing that is for one client only."""
        return _NOT_REMEMBERED.isdisjoint(self._names)

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
            return LENGTH, 0, NO_BODY
        if length >= 0:
            return LENGTH, length, length
        return (CHUNKED if self.is_chunked else UNTIL_CLOSE), 0, UNKNOWN_LENGTH


_heads: dict[bytes, ResponseHead] = {}


def response_head(head: bytes) -> ResponseHead:
    """Understand ``head``, which ends with its empty line; one that came before, to the byte, is not parsed again.

    Raises:
        UpstreamProtocolError: as :class:`ResponseHead`.
    """
    known = _heads.get(head)
    if known is not None:
        known.serialise()
        return known
    parsed = ResponseHead(head)
    if len(head) <= MAX_KNOWN_HEAD_BYTES and parsed.is_worth_keeping():
        _make_room(_heads, MAX_KNOWN_HEADS)
        _heads[head] = parsed
    return parsed


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
