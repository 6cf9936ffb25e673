"""A client that sends bytes as they are and reads responses strictly."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, Self

from attrs import field, frozen
from tests.integration.wire import TIMEOUT_S, Fields, Wire, value_of, values_of

_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) ([\t\x20-\x7e\x80-\xff]*)")


@frozen
class Head:
    """A response head.

    Attributes:
        fields: in order, names as received.
    """

    status: int
    reason: str
    fields: Fields

    def header(self, name: str) -> str | None:
        """The value of a field that occurs at most once; None if it is not there."""
        return value_of(self.fields, name)

    def headers(self, name: str) -> list[str]:
        """The values of all fields of this name."""
        return values_of(self.fields, name)


@frozen
class Response(Head):
    """A whole response.

    Attributes:
        informational: the 1xx responses before it.
    """

    body: bytes = b""
    trailers: Fields = field(factory=list)
    informational: list[Head] = field(factory=list)

    def json(self) -> Any:
        """The body, as JSON."""
        return json.loads(self.body)


class Client(Wire):
    """One connection to a port of the loopback interface, as a context manager.

    Args:
        port: there.
        receive_bytes: size of the kernel's receive buffer, for clients that are to be slow.
    """

    def __init__(self, port: int, *, receive_bytes: int = 0) -> None:
        sock = socket.socket()
        sock.settimeout(TIMEOUT_S)
        if receive_bytes:  # takes effect only before the connection is made
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        sock.connect(("127.0.0.1", port))
        super().__init__(sock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_head(self) -> Head:
        """One head, informational ones too."""
        line, fields = self.read_lines()
        status = _STATUS_LINE.fullmatch(line)
        assert status is not None, line
        return Head(int(status[1]), status[2].decode("latin-1"), fields)

    def read_response(self, method: str = "GET") -> Response:
        """The next response to a request with ``method``, whole, with all informational ones before it."""
        informational = []
        while (head := self.read_head()).status < 200:
            informational.append(head)
        body, trailers = self.read_body(head, method)
        return Response(head.status, head.reason, head.fields, body, trailers, informational)

    def read_body(self, head: Head, method: str = "GET") -> tuple[bytes, Fields]:
        """The body and the trailers behind ``head``."""
        codings, length = head.headers("Transfer-Encoding"), head.header("Content-Length")
        assert not codings or length is None, "both lengths"
        if method == "HEAD" or head.status in {204, 304}:
            assert not codings
            assert head.status != 204 or length is None
            return b"", []
        if codings:
            assert codings == ["chunked"]
            return self.read_chunks()
        if length is None:
            assert head.header("Connection") == "close", "neither a length nor the end"
            return self.read_to_end(), []
        assert length.isdigit()
        return self.read_exactly(int(length)), []
