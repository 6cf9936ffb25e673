"""The sending side of HTTP/1.x on a client's connection: one response after the other becomes bytes.

Framing is made here, and what a body's length was declared to be is held to. Whether the connection lives on after a
response is decided by :mod:`.http1_server`, which reads.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger

from txgateway.errors import InternalError
from txgateway.fields import ReceivedHeaders
from txgateway.transport.framing import LAST_CHUNK, encode_last_chunk
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import NO_BODY, HeaderList, RequestHead
from txgateway.transport.sockets import unsent_bytes

if TYPE_CHECKING:
    from txgateway.transport.http1_factory import Http1ServerFactory

_log = Logger(__name__)

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: Phrases of RFC 9110 section 15; Python 3.11 still has the older ones for four of them.
_STANDARD_REASONS = {status.value: status.phrase.encode("ascii") for status in HTTPStatus} | {
    413: b"Content Too Large",
    414: b"URI Too Long",
    416: b"Range Not Satisfiable",
    422: b"Unprocessable Content",
}
_status_lines: dict[tuple[int, bytes], bytes] = {}
_MAX_STATUS_LINES = 256
_MAX_KEPT_REASON = 64


def status_line(status: int, reason: bytes) -> bytes:
    """``HTTP/1.1 status reason CRLF``; an empty ``reason`` becomes the standard phrase."""
    line = _status_lines.get((status, reason))
    if line is None:
        line = b"HTTP/1.1 %d %b\r\n" % (status, reason or _STANDARD_REASONS.get(status, b""))
        if len(reason) <= _MAX_KEPT_REASON and len(_status_lines) < _MAX_STATUS_LINES:  # phrases come from backends
            _status_lines[(status, reason)] = line
    return line


def informational_head(status: int, headers: HeaderList) -> bytes:
    """A 1xx response, whole."""
    parts = [status_line(status, b"")]
    write_fields(parts, headers)
    parts.append(b"\r\n")
    return b"".join(parts)


#: What the next bytes from the client are: of a head, of a body, held until the exchange is over, dropped, a tunnel's.
HEAD, BODY, BUSY, DISCARD, TUNNEL = range(5)


class ResponseWriter(TwistedProtocol):
    """The part of a server channel by which a request is answered.

    A base class of the connection and not a part of it, since each further call on the way of a response costs.
    Output is collected, and goes to the transport as one write with :meth:`flush`.

    Args:
        factory: its date, and whether it is draining.
    """

    transport: Any
    _head: RequestHead
    #: Another request may follow the response; sending a head may find that none can.
    _keep_alive: bool
    _state: int
    _request: Any

    def __init__(self, factory: Http1ServerFactory) -> None:
        self.factory = factory
        self._out: list[bytes] = []

    @property
    def in_progress(self) -> bool:
        """Whether a client that goes now misses a part of an answer, or of a tunnel."""
        return self._request is not None

    def reset(self) -> None:
        """Cut the connection, so that an incomplete response cannot look complete."""
        raise NotImplementedError

    def _exchange_over(self) -> None:
        """The response is complete."""
        raise NotImplementedError

    def send_continue(self) -> None:
        """Invite the body of a request that said ``Expect: 100-continue``."""
        self._out.append(CONTINUE)
        self.flush()

    def send_informational(self, status: int, headers: HeaderList) -> None:
        """Relay a 1xx response; HTTP/1.0 clients do not know them (RFC 9110 section 15.2)."""
        if self._head.version != b"HTTP/1.0":
            self._out.append(informational_head(status, headers))

    def send_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        """Start the response; framing is made here.

        Args:
            status: of a final response.
            reason: phrase, or empty for the standard one.
            headers: end-to-end fields.
            length: of the body: a count, NO_BODY or UNKNOWN_LENGTH.
        """
        head = self._head
        if self._state != BUSY or self.factory.draining:
            self._keep_alive = False  # the body is not all here, and may never be
        self._chunked = False
        bodiless = head.method == b"HEAD" or status == 204 or status == 304
        if status == 204:
            length = NO_BODY  # RFC 9110 section 8.6
        elif length < 0 and not bodiless:
            if length == NO_BODY:
                length = 0
            elif head.version != b"HTTP/1.0":
                self._chunked = True
            else:
                self._keep_alive = False  # the end of the connection ends the body
        self._bodiless = bodiless
        self._body_left = length
        out = self._out
        out.append(status_line(status, reason))
        if headers.__class__ is ReceivedHeaders and headers.names is not None:
            out.append(headers.wire)
            has_date = b"date" in headers.names
            headers = headers[headers.shared :]
        else:
            has_date = any(header[0] == b"date" for header in headers)
        for _, name, value in headers:
            out += (name, b": ", value, b"\r\n")
        if not has_date:
            out += (b"Date: ", self.factory.http_date(), b"\r\n")  # RFC 9110 section 6.6.1
        if length >= 0:
            out.append(b"Content-Length: %d\r\n" % length)
        elif self._chunked:
            out.append(b"Transfer-Encoding: chunked\r\n")
        if not self._keep_alive:
            out.append(b"Connection: close\r\n\r\n")
        elif head.version == b"HTTP/1.0":
            out.append(b"Connection: keep-alive\r\n\r\n")
        else:
            out.append(b"\r\n")

    def send_switching(self, headers: HeaderList) -> None:
        """Write the 101 head; ``headers`` holds ``Connection`` and ``Upgrade``."""
        self._out.append(informational_head(101, headers))

    def send_body(self, data: bytes) -> None:
        """Send a piece of the response body; the body of a response that may have none is dropped."""
        if self._bodiless:
            return
        if self._chunked:
            if data:  # an empty chunk would be the last
                self._out += (b"%x\r\n" % len(data), data, b"\r\n")
            return
        if self._body_left >= 0:
            self._body_left -= len(data)
            if self._body_left < 0:  # a client would read it as the next response
                _log.error("response body is longer than declared")
                self._request.fail(InternalError())
                return
        self._out.append(data)

    def send_end(self, trailers: HeaderList) -> bool:
        """The response is complete; the exchange is over for the caller.

        Returns:
            False if the body was not what its head had declared, and the connection was cut.
        """
        if self._request is None:
            return False
        if self._chunked:
            self._out.append(encode_last_chunk(trailers) if trailers else LAST_CHUNK)
        elif self._body_left > 0 and not self._bodiless:
            _log.error("response body is shorter than declared")
            self.reset()
            return False
        self._request = None
        self._exchange_over()
        return True

    def flush(self) -> None:
        """Hand what was collected to the transport, as one write."""
        out = self._out
        if out:
            self._out = []
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    def unsent_bytes(self) -> int:
        """Bytes that the client has not taken yet."""
        return unsent_bytes(self.transport)
