"""One request of a client of the gateway in memory: in one go, or step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from attrs import frozen

from txgateway.testing.clients import MemoryClient
from txgateway.testing.reading import Pairs, ResponseReader, WireResponse
from txgateway.transport.http1_factory import Http1ServerFactory

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.testing.clock import VirtualClock


@frozen
class Answer:
    """What the client got, and what the gateway knows of it.

    Attributes:
        status, phrase, headers, body, trailers: as they came; names as spelled.
        log: the line of the access log.
    """

    status: int
    phrase: bytes
    headers: Pairs
    body: bytes
    trailers: Pairs
    log: Mapping[str, Any]
    wire: WireResponse

    def header(self, name: str | bytes) -> bytes | None:
        """The first value under this name, in whatever case."""
        wanted = as_bytes(name).lower()
        return next((value for field, value in self.headers if field.lower() == wanted), None)

    def values(self, name: str | bytes) -> list[bytes]:
        """All values under this name."""
        wanted = as_bytes(name).lower()
        return [value for field, value in self.headers if field.lower() == wanted]

    @property
    def reason(self) -> str | None:
        """The stable code of the gateway's own answer, None for a backend's."""
        return self.log["reason"]  # type: ignore[no-any-return]

    @property
    def attempts(self) -> int:
        """Sends to targets."""
        return self.log["attempts"]  # type: ignore[no-any-return]

    @property
    def route(self) -> str | None:
        """The route's name."""
        return self.log["route"]  # type: ignore[no-any-return]

    @property
    def problem(self) -> Any:
        """The problem document in the body (RFC 9457)."""
        return self.wire.problem


class Call:
    """A request under way, on a connection of its own.

    Args:
        log_of: the log line of a request that is over.
        length: of the body; None for none, -1 for chunks.
    """

    def __init__(
        self,
        clock: VirtualClock,
        factory: Http1ServerFactory,
        log_of: Any,
        method: bytes,
        path: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        length: int | None,
        peer: str,
    ) -> None:
        self.client = MemoryClient(clock, factory, peer)
        self.request: GatewayRequest | None = None
        self._clock = clock
        self._log_of = log_of
        self._reader = ResponseReader([method])
        self._is_chunked = length == -1
        fields = list(headers)
        if not any(name.lower() == b"host" for name, _ in fields):
            fields.insert(0, (b"Host", b"gateway.test"))
        if length is not None:
            framing = (b"Transfer-Encoding", b"chunked") if self._is_chunked else (b"Content-Length", b"%d" % length)
            fields.append(framing)
        lines = [method + b" " + path + b" HTTP/1.1", *(name + b": " + value for name, value in fields)]
        self._head = b"\r\n".join([*lines, b"", b""])

    def begin(self) -> Call:
        """Send the head."""
        self.client.send(self._head)
        return self

    def send(self, data: bytes) -> Call:
        """Send a piece of the body."""
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        self.client.send(data)
        return self

    def end(self, trailers: Sequence[tuple[bytes, bytes]] = ()) -> Call:
        """End a chunked body."""
        if self._is_chunked:
            self.client.send(b"0\r\n", *(name + b": " + value + b"\r\n" for name, value in trailers), b"\r\n")
        return self

    def leave(self) -> None:
        """The client breaks the connection off."""
        self.client.leave()

    def stall(self) -> None:
        """The client takes nothing more for now."""
        self.client.transport.takes = False

    def resume(self) -> None:
        """It takes what waits, and all that comes."""
        self.client.transport.takes = True
        self.client.transport.take()
        self._clock.turn()

    @property
    def answer(self) -> Answer | None:
        """The whole answer, None as long as it is not whole or if it never will be."""
        self._read()
        found = self._reader.final
        if found is None or self.log is None:
            return None
        return Answer(found.status, found.phrase, found.fields, found.body, found.trailers, self.log, found)

    @property
    def partial(self) -> WireResponse | None:
        """What has come of an answer so far, if its head has."""
        self._read()
        return self._reader.final or self._reader.partial

    @property
    def informational(self) -> list[WireResponse]:
        """The 1xx responses so far."""
        self._read()
        return [response for response in self._reader.responses if response.status < 200]

    @property
    def log(self) -> Mapping[str, Any] | None:
        """The line of the access log, None as long as the request is not over."""
        return self._log_of(self.request) if self.request is not None and self.request.ended else None

    @property
    def is_over(self) -> bool:
        """Nothing more can come: the answer is whole, or the connection is gone."""
        return self.answer is not None or bool(self.client.transport.closed)

    def _read(self) -> None:
        transport = self.client.transport
        self._reader.feed(self.client.received(), is_closed=transport.half_closed or transport.closed)


def as_bytes(text: str | bytes) -> bytes:
    """Text that goes over the wire."""
    return text.encode("utf-8") if isinstance(text, str) else text
