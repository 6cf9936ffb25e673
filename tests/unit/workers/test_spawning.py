"""How a worker is started, and when it has ended, without a process."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.workers.test_channel import Transport
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.python.failure import Failure

from txgateway.telemetry.shared_sink import new_lock
from txgateway.workers.assignment import VARIABLE, take_assignment
from txgateway.workers.channel import Message, framed
from txgateway.workers.child import Exit
from txgateway.workers.counts import AWAY, Counts
from txgateway.workers.spawning import ProcessSpawner, WorkerProcess

#: No process has this number (pid_max is 2^22 at most).
NOBODY = 2**22 + 1


class Reactor:
    def __init__(self) -> None:
        self.transport = Transport()
        self.descriptors: dict[int, int] = {}
        self.environment: dict[str, str] = {}

    def spawnProcess(
        self, protocol: Any, executable: str, args: Sequence[str], env: Mapping[str, str], childFDs: dict[int, int]
    ) -> Any:
        assert all(os.fstat(descriptor) for descriptor in childFDs.values())
        self.command = [executable, *args[1:]]
        self.environment, self.descriptors = dict(env), childFDs
        return SimpleNamespace(pid=NOBODY)

    def adoptStreamConnection(self, descriptor: int, family: int, factory: Any) -> None:
        factory.buildProtocol(None).makeConnection(self.transport)


class Case:
    def __init__(self, shared: int) -> None:
        self.reactor = Reactor()
        self.counts = Counts(shared, 2)
        self.messages: list[Message] = []
        self.exits: list[Exit] = []
        spawner = ProcessSpawner(self.reactor, ["python", "twistd", "gateway"], 2, [0, 1], shared)
        assert [self.counts[0], self.counts[1]] == [AWAY, AWAY]
        self.process: WorkerProcess = spawner(1, self.messages.append, self.exits.append)


@pytest.fixture
def case() -> Iterator[Case]:
    shared = new_lock()
    yield Case(shared)
    os.close(shared)


def test_worker_gets_what_was_opened_for_it(case: Case) -> None:
    assert case.reactor.command == ["python", "twistd", "gateway"]
    assert sorted(case.reactor.descriptors) == [0, 1, 2, 3, 4, 5, 6]
    assert [case.reactor.descriptors[number] for number in (0, 1, 2, 5, 6)] == [0, 1, 2, 0, 1]
    assert case.reactor.environment["PATH"] == os.environ["PATH"]
    assert VARIABLE not in os.environ
    text = case.reactor.environment[VARIABLE]
    with pytest.raises(OSError, match="Bad file descriptor"):  # they are the worker's
        take_assignment({VARIABLE: text.replace("5,6", f"{NOBODY}")})
    case.process.send({"is": "x"})
    assert bytes(case.reactor.transport.written) == framed({"is": "x"})


@pytest.mark.parametrize("channel_first", [True, False])
def test_it_has_ended_when_its_last_words_were_read(case: Case, channel_first: bool) -> None:
    case.counts[1] = 7
    reason = Failure(ProcessTerminated(None, signal.SIGKILL, signal.SIGKILL))
    if channel_first:
        case.process.channel.connectionLost()
        assert case.exits == []
        case.process.processEnded(reason)
    else:
        case.process.processEnded(reason)
        assert case.exits == []
        case.process.channel.dataReceived(framed({"is": "last"}))
        assert case.messages == [{"is": "last"}]
        case.process.channel.connectionLost()
    assert case.exits == [Exit(None, signal.SIGKILL)]
    assert case.counts[1] == AWAY  # nobody waits for it
    case.process.signal(signal.SIGKILL)  # nobody is hit


def test_how_it_ended(case: Case) -> None:
    case.process.channel.connectionLost()
    case.process.processEnded(Failure(ProcessDone(0)))
    assert case.exits == [Exit(0, None)]
    assert [str(how) for how in (Exit(78, None), Exit(None, 9))] == ["status 78", "signal 9 (Killed)"]
