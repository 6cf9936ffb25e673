"""Starts worker processes: the same program again, with what its supervisor has opened for it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.error import ProcessTerminated
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.python.failure import Failure

from txgateway.workers.assignment import VARIABLE, Assignment
from txgateway.workers.channel import Channel, Message
from txgateway.workers.child import Exit
from txgateway.workers.counts import AWAY, Counts

#: Descriptors of a worker: after the three that every process has, in this order.
_CHANNEL, _SHARED, _LISTENERS = 3, 4, 5


def worker_command(arguments: Sequence[str], logfile: str | None) -> list[str]:
    """The command line of a worker.

    Args:
        arguments: our own, the program first.
        logfile: what the log is appended to, None for standard output.
    """
    command = [sys.executable, os.path.abspath(arguments[0]), "-n", "--pidfile="]  # noqa: PTH100 - keeps links
    reactor = _reactor_option(arguments)
    if reactor is not None:
        command.append(f"--reactor={reactor}")
    if logfile is not None:
        command.append(f"--logfile={os.path.abspath(logfile)}")  # noqa: PTH100 - the same as the log's own
    return [*command, "gateway"]


def _reactor_option(arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument in {"-r", "--reactor"} and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--reactor="):
            return argument.partition("=")[2]
    return None


class WorkerProcess(ProcessProtocol):
    """A process, and our end of its channel; it has ended when both have."""

    pid = 0

    def __init__(self, on_message: Callable[[Message], None], on_exit: Callable[[Exit], None]) -> None:
        self.channel = Channel(on_message, self._channel_lost)
        self._on_exit = on_exit
        self._exit: Exit | None = None
        self._is_channel_lost = False

    def send(self, message: Message) -> None:
        """Send it a message."""
        self.channel.send(message)

    def signal(self, number: int) -> None:
        """Send it a signal; nothing if it has ended."""
        if self._exit is None and self.pid:
            os.kill(self.pid, number)  # which is not reaped yet, so its number is not given to another

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        is_bad = isinstance(value, ProcessTerminated)
        self._exit = Exit(value.exitCode, value.signal) if is_bad else Exit(0, None)
        self._tell()

    def _channel_lost(self) -> None:
        self._is_channel_lost = True
        self._tell()

    def _tell(self) -> None:
        if self._exit is not None and self._is_channel_lost:
            self._on_exit(self._exit)


class ProcessSpawner:
    """Starts workers.

    Args:
        reactor: starts processes.
        command: the program with its arguments.
        workers: how many there are.
        listeners: descriptors of listening sockets, in order.
        shared: descriptor of the workers' common memory.
    """

    def __init__(
        self, reactor: Any, command: Sequence[str], workers: int, listeners: Sequence[int], shared: int
    ) -> None:
        self._reactor = reactor
        self._command = command
        self._workers = workers
        self._listeners = listeners
        self._shared = shared
        self._counts = Counts(shared, workers)
        for index in range(workers):
            self._counts[index] = AWAY

    def __call__(
        self, index: int, on_message: Callable[[Message], None], on_exit: Callable[[Exit], None], /
    ) -> WorkerProcess:
        """Start one.

        Raises:
            OSError: the system cannot.
        """
        passed = tuple(range(_LISTENERS, _LISTENERS + len(self._listeners)))
        assignment = Assignment(index, self._workers, _CHANNEL, _SHARED, passed)
        environment = {**os.environ, VARIABLE: assignment.text()}

        def ended(how: Exit) -> None:
            self._counts[index] = AWAY
            on_exit(how)

        process = WorkerProcess(on_message, ended)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            descriptors = {0: 0, 1: 1, 2: 2, _CHANNEL: theirs.fileno(), _SHARED: self._shared}
            descriptors.update(zip(passed, self._listeners, strict=True))
            transport = self._reactor.spawnProcess(
                process, self._command[0], list(self._command), environment, childFDs=descriptors
            )
            process.pid = transport.pid
            factory = Factory.forProtocol(lambda: process.channel)
            factory.noisy = False
            self._reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
        return process
