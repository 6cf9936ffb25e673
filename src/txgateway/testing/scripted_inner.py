"""What a middleware under test wraps: an inner that does what a story says, and a request that tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs import Factory, define, frozen
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET

from txgateway.errors import GatewayError, UpstreamConnectFailed, UpstreamReset
from txgateway.fields import ReceivedHeaders
from txgateway.request import GatewayRequest
from txgateway.testing.clock import VirtualClock
from txgateway.testing.stories import End, Pairs, Reply, Story
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, HeaderList, RequestHead

#: What inners raise: at once, and where their head would have been.
RAISED, FAILED = UpstreamConnectFailed, UpstreamReset
CRASH_TEXT = "the inner crashes, as its story says"


@frozen
class Seen:
    """A request as the inner got it."""

    method: bytes
    uri: bytes
    target: bytes | None
    path: bytes
    headers: tuple[tuple[bytes, bytes, bytes], ...]


@define
class Record:
    """What became of one exchange, from inside.

    Attributes:
        seen: by the inner, once for each time that it was asked.
        asked_late: how often it was asked when the request was over already.
        body, trailers: of the request, as far as they came to the inner.
        is_inner_done: the inner has nothing more to do or to say.
        events: ``head`` and ``finish``, as they happened around the middleware.
        heads: how often an answer was begun.
        early: figures that were read before there was anything to be read.
        changed: what was changed in place and belongs to all.
    """

    story: Story
    number: int
    request: WatchedRequest | None = None
    seen: list[Seen] = Factory(list)
    asked_late: int = 0
    body: bytes = b""
    trailers: list[tuple[bytes, bytes]] = Factory(list)
    is_inner_done: bool = False
    events: list[str] = Factory(list)
    heads: int = 0
    early: list[str] = Factory(list)
    changed: str = ""
    render_cpu_s: float = 0.0


class WatchedRequest(GatewayRequest):
    """The real request, which notes how it is treated.

    Args:
        record: takes the notes.
    """

    record: Record

    def __init__(self, channel: Any, head: RequestHead, record: Record) -> None:
        self.record = record
        # The connection shares its head with other requests. This one is our own, so that a test cannot spoil the next.
        shared = dict(head.fields)
        own = RequestHead(
            head.method, head.target, head.version, head.headers, shared, head.length, head.keep_alive, head.upgrade
        )
        self._shared, self._before = shared, dict(shared)
        super().__init__(channel, own)

    def look_for_changes(self) -> None:
        """Note what was changed of the shared head."""
        for name in self._shared.keys() | self._before.keys():
            if self._shared.get(name) != self._before.get(name):
                self.record.changed = f"request.fields[{name!r}] was changed in place"

    @property
    def bytes_out(self) -> int:
        self._note_early("bytes_out")
        return self.__dict__["sent"]  # type: ignore[no-any-return]

    @bytes_out.setter
    def bytes_out(self, count: int) -> None:
        self.__dict__["sent"] = count

    @property
    def ended_at(self) -> float:
        self._note_early("ended_at")
        return self.__dict__["over_at"]  # type: ignore[no-any-return]

    @ended_at.setter
    def ended_at(self, at: float) -> None:
        self.__dict__["over_at"] = at

    def _note_early(self, name: str) -> None:
        if not self.ended and (name == "ended_at" or not self.responded):
            self.record.early.append(name)

    def _prepare_head(self, status: int, headers: HeaderList) -> None:
        self.record.heads += 1
        super()._prepare_head(status, headers)


class ScriptedInner:
    """Treats each request as its story says.

    Args:
        clock: virtual time.
        further: fields of all answers, in place of the story's own of these names.
    """

    isLeaf = True

    def __init__(self, clock: VirtualClock, further: Pairs = ()) -> None:
        self._clock = clock
        self._further = further

    def render(self, request: Any) -> Any:
        """Begin, or raise.

        Args:
            request: a WatchedRequest.
        """
        record: Record = request.record
        if request.ended:
            record.asked_late += 1
            return NOT_DONE_YET
        record.seen.append(
            Seen(request.method, request.uri, request.upstream_target, request.path, tuple(request.headers))
        )
        reply = record.story.reply
        if reply.end is End.RAISES:
            record.is_inner_done = True
            raise RAISED("the inner raises, as its story says")
        if reply.end is End.CRASHES:
            record.is_inner_done = True
            raise RuntimeError(CRASH_TEXT)
        if self._further:
            names = {name.lower() for name, _ in self._further}
            fields = [field for field in reply.fields if field[0].lower() not in names]
            reply = attrs.evolve(reply, fields=(*fields, *self._further))
        exchange = _Exchange(request, reply, self._clock)
        request.on_finish(exchange.finished)
        request.want_body(exchange)
        return NOT_DONE_YET


class _Exchange:
    """One request at the inner: takes the body, then answers; a producer that can be stopped."""

    def __init__(self, request: WatchedRequest, reply: Reply, clock: VirtualClock) -> None:
        self._request = request
        self._record = request.record
        self._reply = reply
        self._clock = clock
        self._call: IDelayedCall | None = None
        self._plan: list[tuple[float, Callable[[], None]]] = []
        self._is_paused = False

    # --- the request's body ---

    def body_received(self, data: bytes) -> None:
        self._record.body += data

    def body_ended(self, trailers: HeaderList) -> None:
        self._record.trailers = [(name, value) for _, name, value in trailers]
        pieces = [(self._reply.gap_s, self._piece(piece)) for piece in self._reply.pieces]
        self._plan = [(self._reply.after_s, self._head), *pieces, (0.0, self._end)]
        if self._reply.end is End.FAILS:
            self._plan = [(self._reply.after_s, self._fail)]
        self._guarded(self._go_on)

    # --- the answer ---

    def _go_on(self) -> None:
        """Take steps until one has to wait."""
        while self._plan and not self._is_paused and not self._record.is_inner_done:
            after_s, step = self._plan[0]
            if after_s:
                self._plan[0] = (0.0, step)
                self._call = self._clock.callLater(after_s, self._woken)
                return
            self._plan.pop(0)
            step()

    def _woken(self) -> None:
        self._call = None
        self._guarded(self._go_on)

    def _guarded(self, call: Callable[[], None]) -> None:
        """What goes wrong here ends the request, as it does at the proxy."""
        try:
            call()
        except GatewayError as error:
            self._request.fail(error)
        except Exception:  # noqa: BLE001 -- of whatever the middleware has put between
            self._request.processingFailed(Failure())
        self._request.flush()

    def _head(self) -> None:
        request, reply = self._request, self._reply
        request.producer = self
        if reply.is_resource:
            request.setResponseCode(reply.status)
            for name, value in reply.fields:
                request.responseHeaders.addRawHeader(name, value)
            request.write(b"")
            return
        fields = ReceivedHeaders(
            [(name.lower(), name, value) for name, value in reply.fields],
            {name.lower(): value for name, value in reply.fields},
            b"".join(name + b": " + value + b"\r\n" for name, value in reply.fields),
        )
        length = len(reply.body) if reply.has_length else UNKNOWN_LENGTH
        request.respond(reply.status, b"", fields, length if reply.status not in {204, 304} else NO_BODY)

    def _piece(self, piece: bytes) -> Callable[[], None]:
        def send() -> None:
            if self._reply.is_resource:
                self._request.write(piece)
            elif piece:  # nobody but twisted.web's resources may send nothing
                self._request.send_body(piece)
                self._request.flush()

        return send

    def _end(self) -> None:
        if self._reply.end is End.STALLS:
            return
        self._record.is_inner_done = True
        if self._reply.end is End.BREAKS:
            self._request.fail(FAILED("the inner breaks off, as its story says"))
        elif self._reply.is_resource:
            self._request.finish()
        else:
            self._request.end([(name.lower(), name, value) for name, value in self._reply.trailers])

    def _fail(self) -> None:
        self._record.is_inner_done = True
        self._request.fail(FAILED("the inner fails, as its story says"))

    # --- what the request calls ---

    def finished(self, _: GatewayRequest) -> None:
        """The request is over."""
        self._record.is_inner_done = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def pauseProducing(self) -> None:
        self._is_paused = True

    def resumeProducing(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self._call is None:
                self._guarded(self._go_on)

    def stopProducing(self) -> None:
        """Twisted: the request is over, which :meth:`finished` has been told."""
