"""HTTP/1.1 responses as a strict reader understands them; owes nothing to the code under test."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import orjson
from attrs import field, frozen

Pairs = list[tuple[bytes, bytes]]

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\t\x20-\x7e]*)")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+): ?([\t\x20-\x7e\x80-\xff]*)")
_CHUNK_SIZE = re.compile(rb"[0-9a-fA-F]{1,16}")


class MalformedResponse(AssertionError):
    """What came is not what RFC 9112 calls a response."""


@frozen
class WireResponse:
    """A response.

    Attributes:
        status: informational ones included.
        fields: in order, as spelled; framing fields among them.
        body: without its framing.
        trailers: of a chunked body.
        phrase: behind the status.
        is_whole: its end has come, where its framing says that it is.
    """

    status: int
    fields: Pairs
    body: bytes
    trailers: Pairs
    phrase: bytes = field(default=b"", eq=False)
    is_whole: bool = True

    def get(self, name: bytes) -> bytes | None:
        """The value of the one field of this lowered name."""
        values = [value for field, value in self.fields if field.lower() == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    @property
    def problem(self) -> Any:
        """The problem document in the body."""
        assert self.get(b"content-type") == b"application/problem+json"
        return orjson.loads(self.body)


class ResponseReader:
    """Makes responses of what comes on a connection, read by read.

    Args:
        methods: of the requests, in order; GET where missing.

    Attributes:
        responses: the whole ones, informational ones included.
    """

    def __init__(self, methods: Iterable[bytes] = ()) -> None:
        self.responses: list[WireResponse] = []
        self._methods = list(methods)
        self._data = b""

    def expect(self, method: bytes) -> None:
        """A further request goes out."""
        self._methods.append(method)

    def feed(self, data: bytes, *, is_closed: bool = False) -> None:
        """More bytes, and whether they were the last.

        Raises:
            MalformedResponse: they are no response.
        """
        self._data += data
        while self._data:
            found = self._first(is_closed=is_closed)
            if found is None or not found[0].is_whole:
                return
            response, self._data = found
            self.responses.append(response)
            if response.status >= 200 and self._methods:
                self._methods.pop(0)

    @property
    def final(self) -> WireResponse | None:
        """The first whole response that is not informational."""
        return next((response for response in self.responses if response.status >= 200), None)

    @property
    def partial(self) -> WireResponse | None:
        """What there is of a response that is not whole, if its head is."""
        found = self._first(is_closed=False) if self._data else None
        return None if found is None else found[0]

    @property
    def unread(self) -> bytes:
        """What is not part of a whole response."""
        return self._data

    def _first(self, *, is_closed: bool) -> tuple[WireResponse, bytes] | None:
        return _parsed(self._data, self._methods[0] if self._methods else b"GET", is_closed=is_closed)


def read_responses(data: bytes, methods: list[bytes] | None = None) -> list[WireResponse]:
    """All responses in ``data``, which must hold whole ones only; informational ones included.

    Args:
        methods: of the requests, in order; GET where missing.

    Raises:
        MalformedResponse: it holds something else.
    """
    reader = ResponseReader(methods or ())
    reader.feed(data, is_closed=True)
    if reader.unread:
        raise MalformedResponse(f"cut off: {reader.unread!r}")
    return reader.responses


def _parsed(data: bytes, method: bytes, *, is_closed: bool) -> tuple[WireResponse, bytes] | None:
    """The response that ``data`` begins with, and what is behind it; None as long as its head is not whole."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    line, *lines = head.split(b"\r\n")
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise MalformedResponse(f"status line {line!r}")
    status, fields = int(found[1]), _read_fields(lines)
    body, trailers, left = b"", list[tuple[bytes, bytes]](), rest
    is_whole = True
    if status >= 200 and method != b"HEAD" and status not in {204, 304}:
        body, trailers, left, is_whole = _read_body(fields, rest, is_closed=is_closed)
    return WireResponse(status, fields, body, trailers, found[2], is_whole), left


def _read_fields(lines: list[bytes]) -> Pairs:
    found = [_FIELD.fullmatch(line) for line in lines]
    if not all(found):
        raise MalformedResponse(f"fields {lines!r}")
    return [(match[1], match[2]) for match in found if match is not None]


def _read_body(fields: Pairs, data: bytes, *, is_closed: bool) -> tuple[bytes, Pairs, bytes, bool]:
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    if any(name.lower() == b"transfer-encoding" for name, _ in fields):
        if lengths:
            raise MalformedResponse("both Content-Length and Transfer-Encoding")
        return read_chunked(data)
    if not lengths:
        return data, [], b"", is_closed
    if len(lengths) > 1 or not lengths[0].isdigit():
        raise MalformedResponse(f"Content-Length {lengths!r}")
    length = int(lengths[0])
    return data[:length], [], data[length:], len(data) >= length


def read_chunked(data: bytes) -> tuple[bytes, Pairs, bytes, bool]:
    """Body and trailers of a chunked message as far as they are there, what is behind it, and whether it is whole."""
    body = b""
    while True:
        line, end, rest = data.partition(b"\r\n")
        if end and _CHUNK_SIZE.fullmatch(line) is None:
            raise MalformedResponse(f"chunk size {line!r}")
        size = int(line, 16) if end else 0
        if not end or len(rest) < size + 2:
            break
        if not size:
            return _read_trailers(body, rest)
        if rest[size : size + 2] != b"\r\n":
            raise MalformedResponse("chunk of another size than it says")
        body, data = body + rest[:size], rest[size + 2 :]
    return body, [], b"", False


def _read_trailers(body: bytes, data: bytes) -> tuple[bytes, Pairs, bytes, bool]:
    if data.startswith(b"\r\n"):
        return body, [], data[2:], True
    section, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return body, [], b"", False
    return body, _read_fields(section.split(b"\r\n")), rest, True
