"""Backends that do what a test says: answer, answer late or in part, fall silent, break off, refuse connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Final, TypeAlias

from attrs import Factory, define, frozen
from twisted.internet.task import Clock

from txgateway.testing.memory import MemoryTransport
from txgateway.testing.reading import Pairs, read_chunked

#: By this the gateway's own checks are told from requests.
_CHECKER: Final = b"txgateway-health"


@frozen
class Response:
    """The backend answers.

    Attributes:
        headers: as they are to be spelled; the framing is made to fit, unless they say it.
        chunks: the body in pieces, chunked, instead of ``body``.
        after_s: how long it takes.
        at_head: it does not wait for the end of the request.
    """

    status: int = 200
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes = b""
    chunks: Sequence[bytes] | None = None
    trailers: Sequence[tuple[bytes, bytes]] = ()
    after_s: float = 0.0
    at_head: bool = False

    def head(self) -> bytes:
        """The bytes before the body."""
        named = {name.lower() for name, _ in self.headers}
        fields = list(self.headers)
        if self.chunks is not None:
            fields.append((b"Transfer-Encoding", b"chunked"))
        elif b"content-length" not in named and self.status not in {204, 304}:
            fields.append((b"Content-Length", b"%d" % len(self.body)))
        phrase = HTTPStatus(self.status).phrase if self.status in set(HTTPStatus) else ""
        lines = [b"HTTP/1.1 %d %b" % (self.status, phrase.encode("ascii"))]
        return b"\r\n".join([*lines, *(name + b": " + value for name, value in fields), b"", b""])

    def pieces(self) -> list[bytes]:
        """The body as it goes over the wire."""
        if self.chunks is None:
            return [self.body] if self.body else []
        trailers = b"".join(name + b": " + value + b"\r\n" for name, value in self.trailers)
        chunks = [b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in self.chunks if chunk]
        return [*chunks, b"0\r\n" + trailers + b"\r\n"]


_SOMETHING: Final = Response(200, body=b"something that is not to end")


@frozen
class Reset:
    """The backend breaks the connection off.

    Attributes:
        after_bytes: of the body of ``response``, whose head has gone out; None: before any head.
        at_head: it does not wait for the end of the request.
    """

    after_bytes: int | None = None
    response: Response = _SOMETHING
    after_s: float = 0.0
    at_head: bool = False


@frozen
class Stall:
    """The backend falls silent, and keeps the connection.

    Attributes:
        after_bytes: of the body of ``response``, whose head has gone out; None: before any head.
    """

    after_bytes: int | None = None
    response: Response = _SOMETHING
    after_s: float = 0.0
    at_head: bool = False


@frozen
class Refuse:
    """The backend refuses the next connection; on one that it has already, it breaks off."""


Reaction: TypeAlias = Response | Reset | Stall | Refuse


@define
class Received:
    """A request as the backend gets it; grows until it ``is_whole``.

    Attributes:
        at_s: clock seconds when its head had come.
        place: the target, ``host:port``.
    """

    method: bytes
    target: bytes
    headers: Pairs
    place: str
    at_s: float
    body: bytes = b""
    trailers: Pairs = Factory(list)
    is_whole: bool = False

    def header(self, name: bytes) -> bytes | None:
        """The first value under this name, in whatever case."""
        return next((value for field, value in self.headers if field.lower() == name.lower()), None)


#: What happens to each request, or to one after the other (the last of them from then on), or what is made of each.
Script: TypeAlias = Reaction | Sequence[Reaction] | Callable[[Received], Reaction]


class ScriptedTarget:
    """One place that a backend is at.

    Attributes:
        place: ``host:port``, or the path of a UNIX socket.
        script: of its own, instead of the backend's.
        is_up: it accepts connections.
        received: requests, but for health checks.
        checks: those.
    """

    def __init__(self, place: str, backend: ScriptedBackend, clock: Clock) -> None:
        self.place = place
        self.backend = backend
        self.clock = clock
        self.script: Script | None = None
        self.is_up = True
        self.received: list[Received] = []
        self.checks: list[Received] = []
        self.lines: list[_Line] = []

    def accepts(self) -> bool:
        """A dial asks."""
        if self.is_up and isinstance(self._owner().peek(), Refuse):
            self._owner().take(None)
            return False
        return self.is_up

    def connected(self, transport: MemoryTransport) -> None:
        """A dial has come through."""
        self.lines = [line for line in self.lines if not line.transport.closed]
        self.lines.append(_Line(self, transport))

    def drop_connections(self) -> None:
        """Break all connections off."""
        for line in self.lines:
            line.transport.reset()

    def reaction_to(self, received: Received) -> Reaction | None:
        """The next reaction; None if it depends on the rest of the request."""
        if received.header(b"user-agent") == _CHECKER:
            return self.backend.health
        return self._owner().take(received)

    def _owner(self) -> _Scripted:
        return _Scripted(self, self.backend)


class ScriptedBackend:
    """All places of a backend.

    Attributes:
        script: what happens to requests; may be replaced at any time.
        health: what happens to health checks.
        targets: by ``host:port``.
        received: all requests so far, in the order in which their heads came.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.script: Script = Response(200, body=b"ok")
        self.health: Reaction = Response(200)
        self.targets: dict[str, ScriptedTarget] = {}
        self.received: list[Received] = []


@frozen
class _Scripted:
    """The script that counts for a target: its own, or the backend's."""

    target: ScriptedTarget
    backend: ScriptedBackend

    def peek(self) -> Reaction | None:
        script = self._script
        if isinstance(script, Response | Reset | Stall | Refuse):
            return script
        return script[0] if isinstance(script, Sequence) and script else None

    def take(self, received: Received | None) -> Reaction | None:
        script = self._script
        if not isinstance(script, Sequence):
            if isinstance(script, Response | Reset | Stall | Refuse):
                return script
            return script(received) if received is not None and received.is_whole else None
        assert script, "the script is an empty list"
        if len(script) > 1:
            holder: ScriptedTarget | ScriptedBackend = self.backend if self.target.script is None else self.target
            holder.script = script[1:]
        return script[0]

    @property
    def _script(self) -> Script:
        return self.backend.script if self.target.script is None else self.target.script


class _Line:
    """One connection, as the target sees it."""

    def __init__(self, target: ScriptedTarget, transport: MemoryTransport) -> None:
        self.transport = transport
        self._target = target
        self._data = b""
        self._received: Received | None = None
        self._reaction: Reaction | None = None
        self._has_reacted = self._is_answered = False
        transport.on_taken = self._look

    def _look(self) -> None:
        self._data += self.transport.received()
        if self._received is None and b"\r\n\r\n" in self._data:
            self._begin()
        if self._received is not None and not self._received.is_whole:
            self._read_body(self._received)

    def _begin(self) -> None:
        head, _, self._data = self._data.partition(b"\r\n\r\n")
        line, *lines = head.split(b"\r\n")
        method, target, _ = line.split(b" ")
        fields = [(name, value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
        clock = self._target.clock
        received = self._received = Received(method, target, fields, self._target.place, clock.seconds())
        if received.header(b"user-agent") == _CHECKER:
            self._target.checks.append(received)
        else:
            self._target.received.append(received)
            self._target.backend.received.append(received)
        self._has_reacted = self._is_answered = False
        self._reaction = self._target.reaction_to(received)
        if getattr(self._reaction, "at_head", False):
            self._react()

    def _read_body(self, received: Received) -> None:
        if (received.header(b"transfer-encoding") or b"").lower() == b"chunked":
            received.body, received.trailers, left, received.is_whole = read_chunked(self._data)
            self._data = left if received.is_whole else self._data
        else:
            length = int(received.header(b"content-length") or b"0")
            received.body = self._data[:length]
            received.is_whole = len(self._data) >= length
            self._data = self._data[length:] if received.is_whole else self._data
        if self._is_answered:
            self._received = None if received.is_whole else received
        elif received.is_whole:
            self._reaction = self._reaction or self._target.reaction_to(received)
            self._react()

    def _react(self) -> None:
        if not self._has_reacted:
            self._has_reacted = True
            self._target.clock.callLater(getattr(self._reaction, "after_s", 0.0), self._carry_out)

    def _carry_out(self) -> None:
        reaction, received = self._reaction, self._received
        if self.transport.closed or self.transport.aborted or received is None:
            return
        if isinstance(reaction, Response):
            for data in _wire(reaction, received.method):
                self.transport.send(data)
            self._is_answered = True
            self._received = None if received.is_whole else received
        elif isinstance(reaction, Reset | Stall):
            self.transport.send(_part(reaction, received.method))
            if isinstance(reaction, Reset):
                self.transport.reset()
        else:
            self.transport.reset()


def _wire(response: Response, method: bytes) -> Iterator[bytes]:
    yield response.head()
    if method != b"HEAD" and response.status not in {204, 304}:
        yield from response.pieces()


def _part(reaction: Reset | Stall, method: bytes) -> bytes:
    if reaction.after_bytes is None:
        return b""
    head, *pieces = _wire(reaction.response, method)
    return head + b"".join(pieces)[: reaction.after_bytes]
