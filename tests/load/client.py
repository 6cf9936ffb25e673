"""An open-loop client: requests leave when they are due, whatever becomes of the ones before.

A request that finds no connection free opens another one. Its latency counts from the time it was due, so that neither
this client's own delays nor the gateway's are hidden. Connections are used in turns, none is idle for long.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections import Counter, deque
from collections.abc import Coroutine
from itertools import count
from typing import Any, Self, TypeVar

import httptools
from attrs import define

#: What a request became if all went well; everything else is a reason why it is lost.
OK = "ok"
#: Opened before the first request; more come as they are needed, until two loads have as many as select() can watch.
CONNECTIONS = 64
MAX_CONNECTIONS = 450
#: For the answers that are missing when the last request was sent.
PATIENCE_S = 10.0

_T = TypeVar("_T")


@define
class Sent:
    """One request, and what became of it. Times are those of the loop's clock.

    Attributes:
        outcome: empty as long as it is under way.
        target: who answered it, with whatever status, as ``X-Target`` says.
    """

    path: str
    due_at: float
    sent_at: float = 0.0
    done_at: float = 0.0
    outcome: str = ""
    target: str = ""

    @property
    def latency_ms(self) -> float:
        """From when it was due to the end of its answer."""
        return (self.done_at - self.due_at) * 1000


def run(scenario: Coroutine[Any, Any, _T]) -> _T:
    """Run a scenario in a loop whose timers are finer than the millisecond that epoll has."""

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(scenario)


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time; httptools calls the ``on_`` methods."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._sent: Sent | None = None
        self._transport: asyncio.Transport
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body = b""
        self._target = ""
        self._is_begun = False

    # --- asyncio -------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.has_opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.has_closed(self)
        if self._sent is not None:
            how = "closed" if exc is None else type(exc).__name__
            self._finish(f"{how} {'inside the' if self._is_begun else 'without an'} answer")

    def data_received(self, data: bytes) -> None:
        self._is_begun = True
        if self._sent is None:
            self._load.surprises["bytes that nobody asked for"] += 1
            self._transport.abort()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as exc:
            self._finish(f"malformed answer: {type(exc).__name__}")
            self._transport.abort()

    def send(self, sent: Sent) -> None:
        """Send one request."""
        self._sent = sent
        sent.sent_at = self._load.now()
        self._transport.write(b"GET %b HTTP/1.1\r\nHost: load.test\r\n\r\n" % sent.path.encode("ascii"))

    @property
    def is_closing(self) -> bool:
        """Its end is known, though not told yet."""
        return self._transport.is_closing()

    def close(self) -> None:
        """Leave."""
        self._transport.close()

    # --- httptools -----------------------------------------------------------------------------------------------

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"x-target":
            self._target = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        parser, status = self._parser, self._parser.get_status_code()
        is_kept = parser.should_keep_alive()
        if status != 200:
            outcome = f"{status} {_reason(self._body)}".rstrip()
        elif not self._target:
            outcome = "200, not a target's"
        else:
            outcome = OK
        target = self._target
        self._begin()
        self._finish(outcome, target)
        if is_kept:
            self._load.is_free(self)
        else:
            self._transport.close()

    def _finish(self, outcome: str, target: str = "") -> None:
        sent, self._sent = self._sent, None
        if sent is not None:
            self._load.finish(sent, outcome, target)


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""


class Load:
    """GETs of ``path``/0, ``path``/1 and so on, at a rate, as an async context manager that starts and ends them.

    Args:
        port: of the gateway.
        path: under which all requests are; numbered, so that the gateway's log tells of each.
        rate: requests per second.

    Attributes:
        sent: all requests so far, in order.
        began_at: when the first was due.
        ended_at: when the last had been sent.
        surprises: what does not belong to a request.
    """

    def __init__(self, port: int, path: str, rate: float) -> None:
        self.sent: list[Sent] = []
        self.began_at = 0.0
        self.ended_at = 0.0
        self.surprises: Counter[str] = Counter()
        self.now = asyncio.get_running_loop().time
        self._under_way = 0
        self._all_answered = asyncio.Event()
        self._port, self._path, self._rate = port, path, rate
        self._idle: deque[_Connection] = deque()
        self._waiting: deque[Sent] = deque()
        self._open: set[_Connection] = set()
        self._connecting: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await asyncio.gather(*(self._connect() for _ in range(CONNECTIONS)))
        self.began_at = self.now() + 0.01
        self._pacer = asyncio.create_task(self._pace())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pacer.cancel()
        self.ended_at = self.now()
        await asyncio.wait([self._pacer])
        self._all_answered.clear()
        if self._under_way and kind is None:
            await asyncio.wait([asyncio.create_task(self._all_answered.wait())], timeout=PATIENCE_S)
        for sent in self.sent:
            if not sent.outcome:
                self.finish(sent, f"no answer within {PATIENCE_S:.0f} s", "")
        for connection in list(self._open):
            connection.close()
        for task in self._connecting:
            task.cancel()
        await asyncio.sleep(0)

    async def until(self, at: float) -> None:
        """Wait until a time of the loop's clock.

        Raises:
            Exception: the client itself failed meanwhile.
        """
        await asyncio.wait([self._pacer], timeout=max(0.0, at - self.now()))
        if self._pacer.done():
            self._pacer.result()

    def share(self, target: str, since: float) -> float:
        """The share of a target's answers 200 in the requests that were due since then and are over."""
        answered = 0
        its_own = 0
        for sent in reversed(self.sent):
            if sent.due_at < since:
                break
            answered += bool(sent.outcome)
            its_own += sent.target == target and sent.outcome == OK
        return its_own / answered if answered else 0.0

    async def _pace(self) -> None:
        for number in count():
            due_at = self.began_at + number / self._rate
            await asyncio.sleep(max(0.0, due_at - self.now()))
            sent = Sent(f"{self._path}/{number}", due_at)
            self.sent.append(sent)
            self._under_way += 1
            while self._idle and self._idle[0].is_closing:
                self._idle.popleft()
            if self._idle:
                self._idle.popleft().send(sent)
                continue
            self._waiting.append(sent)
            if len(self._open) + len(self._connecting) < MAX_CONNECTIONS:
                task = asyncio.create_task(self._connect())
                self._connecting.add(task)
                task.add_done_callback(self._connecting.discard)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._port)
        except OSError as exc:
            if self._waiting:
                self.finish(self._waiting.popleft(), f"not connected: {type(exc).__name__}", "")

    # --- what connections tell -----------------------------------------------------------------------------------

    def has_opened(self, connection: _Connection) -> None:
        """It is there."""
        self._open.add(connection)
        self.is_free(connection)

    def is_free(self, connection: _Connection) -> None:
        """It can take a request."""
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._idle.append(connection)

    def has_closed(self, connection: _Connection) -> None:
        """It can take none any more."""
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def finish(self, sent: Sent, outcome: str, target: str) -> None:
        """This is what became of a request."""
        sent.done_at = self.now()
        sent.sent_at = sent.sent_at or sent.done_at
        sent.outcome, sent.target = outcome, target
        self._under_way -= 1
        if not self._under_way:
            self._all_answered.set()
