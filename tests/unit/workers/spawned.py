"""Workers without processes: what their supervisor tells them is written down, and what they say is the test's choice."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from txgateway.workers.channel import Message
from txgateway.workers.child import Exit
from txgateway.workers.crew import Crew


class FakeWorker:
    """A process.

    Attributes:
        sent: messages to it.
        signals: that it was sent.
        is_over: whether it has ended.
    """

    def __init__(
        self, index: int, pid: int, on_message: Callable[[Message], None], on_exit: Callable[[Exit], None]
    ) -> None:
        self.index = index
        self.pid = pid
        self.sent: list[Message] = []
        self.signals: list[int] = []
        self.is_over = False
        self.answers: dict[str, Any] = {}
        self._on_message = on_message
        self._on_exit = on_exit

    def send(self, message: Message) -> None:
        self.sent.append(message)
        if message["is"] == "ask" and message["for"] in self.answers:
            self.say("answer", **{"for": message["for"], "value": self.answers[message["for"]]})

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if number == signal.SIGKILL:
            self.die(signal=signal.SIGKILL)

    def say(self, kind: str, **members: Any) -> None:
        """It sends a message."""
        self._on_message({"is": kind, **members})

    def run(self) -> None:
        """It connects and is ready."""
        self.say("hello")
        self.say("ready")

    def die(self, status: int | None = None, signal: int | None = None) -> None:
        """It ends."""
        assert not self.is_over
        self.is_over = True
        self._on_exit(Exit(status, signal))

    def told(self, kind: str) -> list[Message]:
        """What it was sent of a kind."""
        return [message for message in self.sent if message["is"] == kind]


class Case:
    """A crew in virtual time.

    Attributes:
        started: every process, in the order of their starts.
        done: exit statuses that the crew ended with.
        refuses: starting a process fails.
    """

    def __init__(self, count: int = 2, drain_s: float = 30.0) -> None:
        self.clock = Clock()
        self.started: list[FakeWorker] = []
        self.done: list[int] = []
        self.refuses = False
        self.crew = Crew(count, self._spawn, self.clock, drain_s, self.done.append)

    def _spawn(
        self, index: int, on_message: Callable[[Message], None], on_exit: Callable[[Exit], None], /
    ) -> FakeWorker:
        if self.refuses:
            raise OSError("no more processes")
        worker = FakeWorker(index, 100 + len(self.started), on_message, on_exit)
        self.started.append(worker)
        return worker

    def start(self) -> Case:
        """Start the crew."""
        self.crew.start()
        return self

    def run(self) -> Case:
        """Start it, and all are ready."""
        self.start()
        for worker in self.started:
            worker.run()
        return self

    def wait(self, seconds: float) -> None:
        """Let time pass, in small steps."""
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)
        self.clock.advance(0)

    def newest(self, index: int) -> FakeWorker:
        """The last process of a place."""
        return next(worker for worker in reversed(self.started) if worker.index == index)
