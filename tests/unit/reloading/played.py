"""A reloader in virtual time, whose child the test plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from txgateway.config import Configuration, load
from txgateway.reloading.reload import MAX_BYTES, PAUSE_S, Reloader
from txgateway.reloading.transfer import configuration_frames

ENVIRON = {"GATEWAY_BACKEND_TARGET": "http://10.0.0.1"}
COMMAND = ("python", "-m", "child")


class FakeProcess:
    """A child as its parent sees it."""

    def __init__(self, protocol: Any, command: tuple[str, ...], environ: dict[str, str]) -> None:
        self.protocol = protocol
        self.command = command
        self.environ = environ
        self.pid: int | None = 4711
        self.signals: list[str] = []
        self.is_deaf = False  # it has started something that holds its output open
        self.is_over = False
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        self.protocol.outReceived(data)

    def signalProcess(self, name: str) -> None:
        assert self.pid is not None
        self.signals.append(name)
        self.pid = None
        if not self.is_deaf:
            self._end(ProcessTerminated(signal=9))

    def loseConnection(self) -> None:
        self._end(ProcessTerminated(signal=9))

    def exit(self, status: int = 0) -> None:
        self.pid = None
        self._end(ProcessTerminated(status) if status else ProcessDone(0))

    def _end(self, reason: Exception) -> None:
        if not self.is_over:
            self.is_over = True
            self.protocol.processEnded(Failure(reason))


class FakeReactor(Clock):
    """Time and children."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[FakeProcess] = []
        self.refusal: OSError | None = None

    def spawnProcess(self, protocol: Any, executable: str, args: tuple[str, ...], env: dict[str, str]) -> None:
        assert executable == args[0]
        if self.refusal is not None:
            raise self.refusal
        self.children.append(FakeProcess(protocol, args, env))


class Case:
    """A reloader with what it makes."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.reactor = FakeReactor()
        self.current = load(ENVIRON)
        self.built: list[Configuration] = []
        self.waits: Deferred[None] | None = None
        self.fault: Exception | None = None
        self.told: list[str] = []
        self.epoch_s = 1000.0
        self.reloader = Reloader(
            self.reactor, ENVIRON, lambda: self.epoch_s, lambda: self.current, self._build, COMMAND, max_bytes
        )
        self.reloader.on_begin = lambda: self.told.append("begun")
        self.reloader.on_over = self.told.append

    def _build(self, configuration: Configuration) -> Iterator[Deferred[Any] | None]:
        yield None
        if self.fault is not None:
            raise self.fault
        yield self.waits
        self.current = configuration
        self.built.append(configuration)
        yield None

    @property
    def child(self) -> FakeProcess:
        return self.reactor.children[-1]

    def run(self, seconds: float = 1.0) -> None:
        self.reactor.pump([PAUSE_S] * round(seconds / PAUSE_S))

    def feed(self, environ: dict[str, str]) -> None:
        """The child has read this, and ends."""
        self.child.write(b"".join(configuration_frames(load(environ))))
        self.child.exit()

    def routes(self) -> list[str]:
        return [route.name for route in self.current.routes]
