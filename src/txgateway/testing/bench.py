"""Plays stories: a real server connection and the real edge in front of one middleware, and a scripted inner behind it.

Everything is made anew for each bench, and all of its time is virtual.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, Final

from attrs import frozen
from twisted.logger import LogEvent
from twisted.web.server import NOT_DONE_YET

from txgateway.forwarded import ForwardedPolicy
from txgateway.middleware.base import Inner
from txgateway.middleware.client_address import ClientAddress
from txgateway.middleware.recovery import Recovery
from txgateway.middleware.sanitize import Sanitize
from txgateway.pipeline import nest
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.testing.clients import MemoryClient, server_factory
from txgateway.testing.clock import BusyLoop, VirtualClock
from txgateway.testing.context import MiddlewareFactory, decorated
from txgateway.testing.doubles import logged_failures
from txgateway.testing.reading import ResponseReader
from txgateway.testing.scripted_inner import Record, ScriptedInner, WatchedRequest
from txgateway.testing.stories import STALL_S, Pairs, Story
from txgateway.transport.http1_server import Http1ServerConnection
from txgateway.transport.interfaces import RequestHead
from txgateway.transport.wheel import TimerWheel

#: When the most patient middleware has given up, in virtual seconds.
HORIZON_S: Final = 2 * 3600.0
#: Exceptions that one stretch of time goes on after.
MAX_FAULTS: Final = 100
#: What no middleware may do while others wait, by the names of Python's audit events.
_BLOCKING: Final = frozenset({"time.sleep", "socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system"})
_SLEEP: Final = time.sleep
_NO_METRICS: Final = RequestMetrics()


@frozen
class Outcome:
    """What came of an exchange.

    Attributes:
        fields: of the answer, as they came.
        is_whole: the answer is complete.
        is_cut: the gateway broke the connection off.
        is_over: the request ended while its client was there, or because it left.
        reason: the gateway's own code.
    """

    status: int
    phrase: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes
    trailers: tuple[tuple[bytes, bytes], ...]
    is_whole: bool
    is_cut: bool
    is_over: bool
    reason: str | None
    finals: int
    record: Record


class _Blocked:
    """Who blocks is caught by one audit hook, which can never be taken away; it asks here whether anybody looks."""

    is_looking = False
    has_hook = False
    found: ClassVar[list[str]] = []

    @classmethod
    def note(cls, call: str) -> None:
        """Refuse a call."""
        cls.found.append(call)
        raise RuntimeError(f"{call} would block all other requests")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _Blocked.is_looking and event in _BLOCKING:
        _Blocked.note(f"{event}{arguments!r}")


def _no_sleep(seconds: float) -> None:
    _Blocked.note(f"time.sleep({seconds!r})")


@contextmanager
def blocking_calls(tested: object = None) -> Iterator[list[str]]:
    """What is called meanwhile that would block; it raises instead.

    Args:
        tested: whose module may have ``sleep`` under a name of its own (before Python 3.13 there is no audit event).
    """
    if not _Blocked.has_hook:
        sys.addaudithook(_audit)
        _Blocked.has_hook = True
    names = vars(sys.modules[type(tested).__module__])
    sleepers = [(vars(time), "sleep"), *((names, name) for name, value in names.items() if value is _SLEEP)]
    _Blocked.found, _Blocked.is_looking = [], True
    try:
        for place, name in sleepers:
            place[name] = _no_sleep
        yield _Blocked.found
    finally:
        for place, name in sleepers:
            place[name] = _SLEEP
        _Blocked.is_looking = False


class Bench:
    """One middleware at work.

    Args:
        factory: makes it; None for none, to compare with.
        further: fields that every request has.
        answered: fields that every answer of the inner has, in place of its own of these names.
        claims: of every request's token.

    Attributes:
        middleware: what was made.
        blocked: calls that would have blocked.
        faults: what was logged as an error.
    """

    def __init__(
        self,
        factory: MiddlewareFactory | None,
        further: Pairs = (),
        answered: Pairs = (),
        claims: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.wheel = TimerWheel(self.clock)
        self.inner: Any = ScriptedInner(self.clock, answered)
        guarded: Any = self.inner if factory is None else decorated(self.inner, factory, self.clock)
        self.middleware: Any = guarded if factory is None else guarded.middleware
        self.blocked: list[str] = []
        self.faults: list[str] = []
        self._further = further
        self._claims = claims
        self._records: dict[Any, Record] = {}
        edge = partial(ClientAddress, policy=ForwardedPolicy(()))
        sentinel: Any = _Sentinel
        self._entry = nest(Recovery, Sanitize, edge, sentinel, end=guarded)
        self._factory = server_factory(
            self.clock,
            self.wheel,
            self._dispatch,
            metrics=_NO_METRICS,
            max_connections=10_000,
            request_class=self._made,
        )
        self._standing = len(self.clock.getDelayedCalls())
        self._watched = set(self.wheel._fine | self.wheel._coarse)

    # --- playing ----------------------------------------------------------------------------------------------------

    def play(self, *stories: Story, first: int = 1) -> list[Outcome]:
        """Play them at the same time, to the end; all clients are gone then.

        Args:
            first: number of the first story, for the ids of requests.
        """
        with logged_failures() as logged, blocking_calls(self.middleware) as blocked:
            players = [_Player(self, story, number) for number, story in enumerate(stories, first)]
            self._let_pass(max((story.lasts_s for story in stories), default=0.0) + 1.0)
            for step_s in _steps(HORIZON_S):
                if all(player.is_settled for player in players):
                    break
                self._let_pass(step_s, is_exact=False)
            for player in players:
                player.read()
                player.note_settled()
            for player in players:
                player.go_home()
            self._let_pass(0.0)
        self.blocked += blocked
        self.faults += [_described(event) for event in logged]
        self._records.clear()
        return [player.outcome() for player in players]

    def capacity(self, story: Story, count: int) -> int:
        """How many of ``count`` requests come to the inner that are made at once and that nobody answers."""
        players = [_Player(self, story, number) for number in range(count)]
        self._let_pass(1.0)
        reached = sum(bool(player.record.seen) for player in players)
        for player in players:
            player.go_home()
        self._let_pass(0.0)
        self._records.clear()
        return reached

    def rest(self, seconds: float = HORIZON_S) -> None:
        """Let time pass in which nobody comes."""
        with blocking_calls(self.middleware) as blocked:
            for step_s in _steps(seconds):
                self._let_pass(step_s, is_exact=False)
        self.blocked += blocked

    def left_over(self) -> list[str]:
        """Timers and deadlines that were not there before anybody came."""
        delayed: Any = self.clock.getDelayedCalls()
        calls = [call for call in delayed if call.func != self.wheel._tick]
        items = [item for item in self.wheel._fine | self.wheel._coarse if item not in self._watched]
        found = [f"deadline of {item!r}" for item in items if not isinstance(item, Http1ServerConnection)]
        if len(calls) > self._standing:
            found += [f"timer {call.func!r} in {call.getTime() - self.clock.seconds():g} s" for call in calls]
        return found

    def _let_pass(self, seconds: float, *, is_exact: bool = True) -> None:
        """Let time pass; what a call raises is a fault, and the others go on, as with a reactor."""
        until = self.clock.seconds() + seconds
        for _ in range(MAX_FAULTS):
            try:
                left_s = max(0.0, until - self.clock.seconds())
                if is_exact:
                    self.clock.let_pass(left_s)
                else:
                    self.clock.advance(left_s)
                return
            except BusyLoop as loop:
                self.faults.append(str(loop))
                return
            except Exception as error:  # noqa: BLE001 -- whatever the middleware's own timers raise
                self.faults.append(f"raised into the reactor: {error!r}")

    # --- inside -----------------------------------------------------------------------------------------------------

    def connect(self, record: Record) -> MemoryClient:
        """A client comes, to do what the record's story says."""
        client = MemoryClient(self.clock, self._factory)
        self._records[client.connection] = record
        return client

    def reads_of(self, story: Story) -> list[bytes]:
        """What the client sends, read by read."""
        return story.ask.reads(self._further)

    def _made(self, channel: Any, head: RequestHead) -> WatchedRequest:
        record = self._records[channel]
        record.request = WatchedRequest(channel, head, record)
        record.request.request_id = f"tested-{record.number}"
        record.request.route_name = "tested"
        if self._claims:
            record.request.claims, record.request.subject = self._claims, self._claims.get("sub")
        return record.request

    def _dispatch(self, request: WatchedRequest) -> None:
        before = time.thread_time()
        self._entry.render(request)
        request.record.render_cpu_s = time.thread_time() - before


def _steps(seconds: float) -> Iterable[float]:
    """Short ones first, then longer ones."""
    passed, step_s = 0.0, 0.5
    while passed < seconds:
        yield step_s
        passed += step_s
        step_s = 0.5 if passed < 10 else 5.0 if passed < 200 else 600.0


def _described(event: LogEvent) -> str:
    failure = event.get("log_failure")
    return str(event.get("log_format")) if failure is None else f"{failure.type.__name__}: {failure.value}"


class _Sentinel:
    """Stands right above the middleware, and sees the hooks through."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner

    def render(self, request: WatchedRequest) -> Any:
        record = request.record
        request.before_head(lambda _: record.events.append("head"))
        request.on_finish(lambda _: record.events.append("finish"))
        self.inner.render(request)
        return NOT_DONE_YET


class _Player:
    """One client, with its story."""

    def __init__(self, bench: Bench, story: Story, number: int) -> None:
        self.record = Record(story, number)
        self._story = story
        self._bench = bench
        self._reader = ResponseReader([story.ask.method])
        self._client: MemoryClient | None = None
        self._was_settled = False
        self._plan()

    def _plan(self) -> None:
        story, clock = self._story, self._bench.clock
        at_s = story.starts_at_s
        for index, data in enumerate(self._bench.reads_of(story)):
            clock.callLater(at_s + index * story.ask.gap_s, self._send, data)
        if story.client.leaves_at_s is not None:
            clock.callLater(at_s + story.client.leaves_at_s, self._leave)
        if story.client.stalls_at_s is not None:
            clock.callLater(at_s + story.client.stalls_at_s, self._stall)
            clock.callLater(at_s + story.client.stalls_at_s + STALL_S, self._resume)

    def _send(self, data: bytes) -> None:
        if self._client is None:
            self._client = self._bench.connect(self.record)
        self._client.transport.send(data)

    def _leave(self) -> None:
        if self._client is not None:
            self._client.transport.reset()

    def _stall(self) -> None:
        if self._client is not None:
            self._client.transport.takes = False

    def _resume(self) -> None:
        if self._client is not None:
            self._client.transport.takes = True
            self._client.transport.take()

    @property
    def is_settled(self) -> bool:
        """The request is over, or in the inner's hands."""
        request = self.record.request
        if request is None or request.ended:
            return True
        return bool(self.record.seen) and not self.record.is_inner_done

    def note_settled(self) -> None:
        """Remember how it is before the client goes."""
        self._was_settled = self.is_settled

    def read(self) -> None:
        """Take what has come."""
        if self._client is not None:
            transport = self._client.transport
            is_closed = transport.half_closed or transport.closed
            self._reader.feed(self._client.received(), is_closed=is_closed and not transport.aborted)

    def go_home(self) -> None:
        """Close the connection."""
        if self._client is not None and not self._client.transport.closed:
            self._client.transport.reset()

    def outcome(self) -> Outcome:
        """What came of it."""
        if self.record.request is not None:
            self.record.request.look_for_changes()
        found = self._reader.final or self._reader.partial
        finals = sum(response.status >= 200 for response in self._reader.responses)
        request = self.record.request
        return Outcome(
            status=0 if found is None else found.status,
            phrase=b"" if found is None else found.phrase,
            fields=() if found is None else tuple(found.fields),
            body=b"" if found is None else found.body,
            trailers=() if found is None else tuple(found.trailers),
            is_whole=found is not None and found.is_whole,
            is_cut=self._client is not None and bool(self._client.transport.aborted),
            is_over=self._was_settled,
            reason=None if request is None else request.reason,
            finals=finals + bool(self._reader.unread and self._reader.final),
            record=self.record,
        )


__all__: Sequence[str] = ("Bench", "Outcome", "blocking_calls")
