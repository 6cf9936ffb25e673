"""A worker's end of its bond with the supervisor: what it is told, what it is asked, what it tells by itself.

Every message is a JSON object that says under ``"is"`` what it is. From the supervisor come ``lead``, ``health``,
``checked``, ``ask``, ``reload`` and ``stop``; to it go ``hello``, ``ready``, ``reloaded``, ``draining``, ``totals``,
``last``, ``health``, ``checked`` and ``answer``. A supervisor that is gone is a reason to drain.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from txgateway.health.active import Checks
from txgateway.health.probes import BackendHealth
from txgateway.proxy.backend import Backend
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.telemetry.snapshots import snapshot
from txgateway.workers.assignment import Assignment
from txgateway.workers.board import Board, SharedChecks
from txgateway.workers.channel import Channel, Message
from txgateway.workers.counts import Counts, Turns

#: Seconds between two totals, for the history.
TOTALS_S = 1.0
#: Totals between two snapshots of all: so much a process that is killed takes with it.
TOTALS_PER_LAST = 10
#: Seconds that the last words may take.
FAREWELL_S = 2.0

_log = Logger(__name__)


@attrs.frozen(kw_only=True)
class Gateway:
    """What the supervisor asks of a worker's gateway, as plain data.

    Attributes:
        drain: begins to drain; the second time, stops at once.
        reload: reads the configuration again, or once more after the time that is under way.
    """

    metrics: RequestMetrics
    status: Callable[[], Mapping[str, object]]
    config: Callable[[], Mapping[str, object]]
    totals: Callable[[], Mapping[str, object]]
    health: Callable[[], Iterable[BackendHealth]]
    drain: Callable[[], None]
    reload: Callable[[], None]
    explain: Callable[[str], Mapping[str, object]]

    def snapshot(self) -> Mapping[str, object]:
        """All that was counted."""
        return snapshot(self.metrics.families())


class Member:
    """This worker.

    Args:
        assignment: its part.
        reactor: connects it and keeps time.
    """

    def __init__(self, assignment: Assignment, reactor: Any) -> None:
        self.assignment = assignment
        self._reactor = reactor
        self._channel = Channel(self._on_message, self._lost)
        self._gateway: Gateway | None = None
        self._is_ready = self._is_draining = self._is_stopping = False
        self._signals = self._told = self._drains = self._reloads = 0
        self._next: IDelayedCall | None = None
        self._pushes = 0
        self._closed: Deferred[None] = Deferred()
        self._turns: Turns | None = None
        self.board = Board(reactor, self._tell_found, self._tell_checked)

    # --- what the gateway says --------------------------------------------------------------------------------------

    def join(self) -> None:
        """Become a process that signals from the terminal do not reach: they come by the supervisor."""
        try:
            os.setpgid(0, 0)
        except OSError as exc:
            _log.warn("no process group of its own: {problem}", problem=str(exc))

    def checks(self, backend: Backend, make: Callable[[], Checks]) -> SharedChecks:
        """The health checks of a backend: ours if we lead, the leader's if not."""
        return self.board.checks(backend, make)

    def turns(self, connections: Callable[[], Sized]) -> Callable[[], bool]:
        """What says before each connection whether to leave it to another worker; it takes them from now on.

        Args:
            connections: that this worker has.
        """
        if self._turns is None:
            counts = Counts(self.assignment.shared, self.assignment.workers)
            self._turns = Turns(counts, self.assignment.index, connections, self._reactor.seconds)
        return self._turns.is_others

    def stop_accepting(self) -> None:
        """It takes none any more."""
        if self._turns is not None:
            self._turns.leave()

    def running(self, gateway: Gateway) -> None:
        """The reactor runs, and signals have their handlers: connect."""
        self._gateway = gateway
        with socket.socket(fileno=self.assignment.channel) as given:
            given.setblocking(False)
            factory = Factory.forProtocol(lambda: self._channel)
            factory.noisy = False
            self._reactor.adoptStreamConnection(given.fileno(), socket.AF_UNIX, factory)
        self._channel.send({"is": "hello"})
        self._push()
        if self._is_ready:
            self.ready()

    def ready(self) -> None:
        """Traffic may come; perhaps before anybody can be told."""
        self._is_ready = True
        self._push_totals()
        self._channel.send({"is": "ready"})

    def reloaded(self, status: str) -> None:
        """All reloads that were asked for are over; ``status`` is a line for people."""
        self._channel.send({"is": "reloaded", "times": self._reloads, "status": status})

    def draining(self) -> None:
        """The gateway has begun to drain, on whose word ever."""
        if not self._is_draining:
            self._is_draining = True
            self._channel.send({"is": "draining"})

    def signalled(self) -> None:
        """A signal says to stop. A process manager's may go to all processes, and the supervisor passes its own on."""
        self._signals += 1
        self._drain()

    def stop(self) -> Deferred[None]:
        """All is over: send the last numbers; fires when they are on their way."""
        self._is_stopping = True
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._gateway is None:
            return succeed(None)
        self._push_last()
        self._channel.close()
        if not self._closed.called:
            limit = self._reactor.callLater(FAREWELL_S, self._lost)  # a supervisor that does not read
            self._closed.addCallback(lambda _: limit.cancel() if limit.active() else None)
        return self._closed

    # --- what is told without being asked -----------------------------------------------------------------------------

    def _push(self) -> None:
        self._next = self._reactor.callLater(TOTALS_S, self._push)
        self._pushes += 1
        self._push_totals()
        if self._pushes % TOTALS_PER_LAST == 0:
            self._push_last()

    def _push_totals(self) -> None:
        gateway = self._gateway
        if gateway is not None:
            message = {"is": "totals", "totals": gateway.totals(), "backends": _plain(gateway.health())}
            self._channel.send(message, may_be_left_out=True)

    def _push_last(self) -> None:
        gateway = self._gateway
        if gateway is not None:
            message = {
                "is": "last",
                "snapshot": gateway.snapshot(),
                "status": gateway.status(),
                "totals": gateway.totals(),
            }
            self._channel.send(message, may_be_left_out=not self._is_stopping)

    def _tell_found(self, found: list[Any]) -> None:
        gateway = self._gateway
        backends = [] if gateway is None else _plain(gateway.health())
        self._channel.send({"is": "health", "found": found, "backends": backends})

    def _tell_checked(self, backend: str) -> None:
        self._channel.send({"is": "checked", "names": [backend]})

    # --- what comes ---------------------------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        handle = getattr(self, f"_on_{message['is']}", None)
        if handle is not None:
            handle(message)

    def _on_lead(self, _: Message) -> None:
        _log.info("leading: {consequence}", consequence="this worker checks the targets for all")
        self.board.lead()

    def _on_health(self, message: Message) -> None:
        self.board.told(message["found"])

    def _on_checked(self, message: Message) -> None:
        self.board.told_checked(message["names"])

    def _on_ask(self, message: Message) -> None:
        gateway = self._gateway
        assert gateway is not None
        what, _, query = message["for"].partition(" ")
        makers = {
            "snapshot": gateway.snapshot,
            "status": gateway.status,
            "config": gateway.config,
            "explain": lambda: gateway.explain(query),
        }
        value = makers[what]()
        self._channel.send({"is": "answer", "for": message["for"], "value": value})

    def _on_reload(self, message: Message) -> None:
        gateway = self._gateway
        assert gateway is not None
        self._reloads = message["times"]
        gateway.reload()

    def _on_stop(self, message: Message) -> None:
        self._told = message["times"]
        self._drain()

    def _drain(self) -> None:
        """Do what was said most often, whoever said it; both may mean the same word."""
        gateway = self._gateway
        while gateway is not None and not self._is_stopping and self._drains < max(self._signals, self._told):
            self._drains += 1
            gateway.drain()

    def _lost(self) -> None:
        if not self._closed.called:
            self._closed.callback(None)
        if not self._is_draining and not self._is_stopping:
            _log.error("supervisor gone: {consequence}", consequence="this worker drains, and ends")
            self._told = max(self._told, 1)
            self._drain()


def _plain(backends: Iterable[BackendHealth]) -> list[tuple[Any, ...]]:
    return [attrs.astuple(backend) for backend in backends]
