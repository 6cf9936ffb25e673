"""One worker as its supervisor sees it: a process, the next one when it has died, and what it said."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from txgateway.workers.channel import Message

#: Seconds between a death and the next start: doubled at each, forgotten after a life that was long enough.
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 10.0
GOOD_LIFE_S = 60.0
#: Seconds that a worker has for an answer.
ANSWER_S = 2.0

State: TypeAlias = Literal["starting", "ready", "draining", "dead"]

_log = Logger(__name__)


@frozen
class Exit:
    """How a process ended: one of the two is None."""

    status: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is None:
            return f"status {self.status}"
        return f"signal {self.signal} ({signal.strsignal(self.signal)})"


class Running(Protocol):
    """A process that runs."""

    @property
    def pid(self) -> int: ...
    def send(self, message: Message) -> None: ...
    def signal(self, number: int) -> None:
        """Nothing if it has ended."""


class Spawn(Protocol):
    """Starts processes."""

    def __call__(
        self, index: int, on_message: Callable[[Message], None], on_exit: Callable[[Exit], None], /
    ) -> Running: ...


class Backoff:
    """How long to wait before the next start.

    Attributes:
        pause_s: if it died now.
    """

    def __init__(self) -> None:
        self._next_s = FIRST_PAUSE_S

    def died(self, lived_s: float) -> float:
        """It died after so long; returns the seconds to wait."""
        if lived_s >= GOOD_LIFE_S:
            self._next_s = FIRST_PAUSE_S
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, MAX_PAUSE_S)
        return pause_s


class Child:
    """One place among the workers.

    Args:
        index: of the place.
        spawn: starts its processes.
        clock: for pauses and limits.
        on_event: told of what it says, but for answers, as ``(child, message)``.
        on_exit: told that its process has ended, before that is forgotten.

    Attributes:
        state: ``dead`` between two processes.
        restarts: processes but the first.
        totals, backends, snapshot, status: what it said last, None if nothing yet.
        unanswered: questions that were not answered in time, so far.
        result: of its last reload, a line for people.
    """

    def __init__(
        self,
        index: int,
        spawn: Spawn,
        clock: IReactorTime,
        on_event: Callable[[Child, Message], None],
        on_exit: Callable[[Child, Exit], None],
    ) -> None:
        self.index = index
        self._spawn = spawn
        self._clock = clock
        self._on_event = on_event
        self._on_exit = on_exit
        self._backoff = Backoff()
        self._running: Running | None = None
        self._pause: IDelayedCall | None = None
        self._asked: dict[str, Deferred[Any]] = {}
        self._signals: set[int] = set()
        self._started_at = 0.0
        self._ready_at: float | None = None
        self._is_connected = False
        self._stops = 0
        self._reload = self._reloaded = 0
        self.state: State = "dead"
        self.restarts = 0
        self.unanswered = 0
        self._forget()

    def _forget(self) -> None:
        self.totals: Mapping[str, Any] | None = None
        self.backends: list[Any] | None = None
        self.snapshot: Any = None
        self.status: Mapping[str, Any] | None = None
        self.result = ""

    # --- life ---------------------------------------------------------------------------------------------------------

    @property
    def is_alive(self) -> bool:
        """Whether there is a process."""
        return self._running is not None

    @property
    def is_connected(self) -> bool:
        """Whether it can be told something."""
        return self._is_connected

    @property
    def is_reloading(self) -> bool:
        """Whether it owes the end of a reload: one that drains or has ended does not."""
        return self._reloaded < self._reload and self.is_alive and self.state in {"starting", "ready"}

    @property
    def ready_s(self) -> float:
        """For how long its process has been ready, 0 if it is not."""
        return 0.0 if self._ready_at is None else self._clock.seconds() - self._ready_at

    def start(self) -> None:
        """Start a process."""
        self._pause = None
        self.state, self._ready_at, self._is_connected = "starting", None, False
        self._started_at = self._clock.seconds()
        try:
            self._running = self._spawn(self.index, self._on_message, self._ended)
        except OSError as exc:
            _log.error("worker not started: {problem}", problem=str(exc), index=self.index)
            self._clock.callLater(0, self._ended, Exit(os.EX_OSERR, None))
            return
        _log.info("worker started", index=self.index, pid=self._running.pid)

    def start_again(self) -> float:
        """Start another process after a pause; returns its seconds."""
        pause_s = self._backoff.died(self._clock.seconds() - self._started_at)
        self._pause = self._clock.callLater(pause_s, self._restart)
        return pause_s

    def _restart(self) -> None:
        self.restarts += 1
        self.start()

    def describe(self) -> dict[str, object]:
        """A row of ``/status``."""
        running = self._running
        uptime_s = 0.0 if running is None else self._clock.seconds() - self._started_at
        return {
            "index": self.index,
            "pid": None if running is None else running.pid,
            "state": self.state,
            "restarts": self.restarts,
            "uptime_s": round(uptime_s, 3),
            "connections": 0 if self.totals is None else self.totals["connections"],
            "requests": 0 if self.totals is None else self.totals["requests"],
        }

    # --- telling it something -----------------------------------------------------------------------------------------

    def stop(self, times: int) -> None:
        """Tell it to drain, and from the second time on to stop at once; none is started any more."""
        self._stops = times
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._is_connected:
            self.send({"is": "stop", "times": times})
        elif self._running is not None:
            self._running.signal(signal.SIGTERM)

    def reload(self, times: int) -> None:
        """Tell it to read its configuration again, for the ``times``-th time of all; later if it cannot be told yet."""
        if self._running is not None:
            self._reload = times
            if self._is_connected:
                self.send({"is": "reload", "times": times})

    def kill(self) -> None:
        """It has not stopped in time."""
        if self._running is not None:
            _log.error("worker killed: it did not stop in time", index=self.index, pid=self._running.pid)
            self._running.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send it a signal that it has a handler for; later if it has not yet."""
        if self._is_connected and self._running is not None:
            self._running.signal(number)
        else:
            self._signals.add(number)

    def send(self, message: Message) -> None:
        """Send it a message."""
        if self._running is not None:
            self._running.send(message)

    def ask(self, what: str) -> Deferred[Any]:
        """Ask it for ``snapshot``, ``status``, ``config`` or ``explain QUERY``; fires with None if it does not answer in time."""
        if not self._is_connected:
            return succeed(None)
        answer: Deferred[Any] = Deferred()
        waiting = self._asked.get(what)
        if waiting is None:
            waiting = self._asked[what] = Deferred()
            limit = self._clock.callLater(ANSWER_S, self._too_late, what)
            waiting.addBoth(_cancelling(limit))
            self.send({"is": "ask", "for": what})

        def tell(value: Any) -> Any:
            answer.callback(value)
            return value

        waiting.addCallback(tell)
        return answer

    def _too_late(self, what: str) -> None:
        self.unanswered += 1
        self._answered(what, None)

    def _answered(self, what: str, value: Any) -> None:
        waiting = self._asked.pop(what, None)
        if waiting is not None:
            waiting.callback(value)

    # --- what it says -------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        kind = message["is"]
        if kind == "answer":
            if message["for"] == "snapshot":
                self.snapshot = _finite(message["value"])
            elif message["for"] == "status":
                self.status = message["value"]
                self.totals = message["value"]["totals"]
            self._answered(message["for"], message["value"])
            return
        if kind == "hello":
            self._hello()
        elif kind == "ready" and self.state == "starting":
            self.state, self._ready_at = "ready", self._clock.seconds()
        elif kind == "draining":
            self.state = "draining"
        elif kind == "reloaded":
            self._reloaded, self.result = message["times"], message["status"]
        elif kind == "last":
            self.snapshot, self.status = _finite(message["snapshot"]), message["status"]
        if "totals" in message:
            self.totals = message["totals"]
        if "backends" in message:
            self.backends = message["backends"]
        self._on_event(self, message)

    def _hello(self) -> None:
        self._is_connected = True
        signals, self._signals = self._signals, set()
        for number in signals:
            self.signal(number)
        if self._reloaded < self._reload:
            self.send({"is": "reload", "times": self._reload})
        if self._stops:
            self.send({"is": "stop", "times": self._stops})

    def _ended(self, how: Exit) -> None:
        self._on_exit(self, how)
        self._running, self._is_connected, self._ready_at, self.state = None, False, None, "dead"
        self._signals.clear()
        self._reloaded = self._reload  # the next one begins with what is new
        for what in list(self._asked):
            self._answered(what, None)
        self._forget()


def _cancelling(call: IDelayedCall) -> Callable[[Any], Any]:
    def cancel(value: Any) -> Any:
        if call.active():
            call.cancel()
        return value

    return cancel


def _finite(snapshot: Any) -> Any:
    """Gauges without rows that JSON has no number for, such as a limit that is none."""
    for family in snapshot.values():
        if family["type"] == "gauge":
            family["rows"] = [row for row in family["rows"] if row[1] is not None]
    return snapshot
