"""All workers: who leads, what they share, when their deaths are too many, and how they end together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from txgateway.config import EX_CONFIG
from txgateway.health.probes import BackendHealth, Readiness, Verdict
from txgateway.telemetry.snapshots import Snapshot, merge
from txgateway.workers.board import Findings
from txgateway.workers.channel import Message
from txgateway.workers.child import Child, Exit, Spawn
from txgateway.workers.merging import Status, Totals, dead_status, dead_totals

#: Deaths in a row, of workers that were not ready for :data:`STEADY_S`, after which there is no sense in going on.
MAX_DEATHS = 5
STEADY_S = 10.0
#: Exit statuses with which a first start says that another one would end the same: no listener, no configuration.
HOPELESS = (1, EX_CONFIG)
#: Seconds more than its drain that a worker has for it, and all that it has when it is told twice.
STOP_S = 15.0

_log = Logger(__name__)


class Crew:
    """The workers.

    Args:
        count: how many.
        spawn: starts processes.
        clock: for everything that waits.
        drain_s: how long a worker that drains may take.
        done: told once that all have ended after :meth:`stop`, with the exit status.

    Attributes:
        children: by index.
        dead: the metrics of all processes that have ended; gauges are to be left out.
        dead_status: their activity; None if none has ended.
        dead_totals: the same in short.
        restarts: of all.
        on_ready: told each time that a worker is ready.
        on_reloaded: told when no worker owes the end of a reload any more, with a line for people.
    """

    def __init__(
        self,
        count: int,
        spawn: Spawn,
        clock: IReactorTime,
        drain_s: float,
        done: Callable[[int], None],
    ) -> None:
        self._clock = clock
        self._drain_s = drain_s
        self._done = done
        self.children = [Child(index, spawn, clock, self._on_event, self._on_exit) for index in range(count)]
        self._findings = Findings()
        self._checked: set[str] = set()
        self._leader: Child | None = None
        self._backends: list[BackendHealth] = []
        self._deaths = 0
        self._stops = 0
        self._reloads = 0
        self._is_reloading = False
        self._exit_status = 0
        self._kill: IDelayedCall | None = None
        self._is_done = False
        self.on_ready: Callable[[], None] = lambda: None
        self.on_reloaded: Callable[[str], None] = lambda _: None
        self.dead: Snapshot = {}
        self.dead_status: Status | None = None
        self.dead_totals: Totals | None = None

    # --- what others ask for ------------------------------------------------------------------------------------------

    @property
    def restarts(self) -> int:
        """Processes that were started but the first ones."""
        return sum(child.restarts for child in self.children)

    @property
    def unanswered(self) -> int:
        """Questions that workers did not answer in time."""
        return sum(child.unanswered for child in self.children)

    @property
    def stops(self) -> int:
        """How often it was told to stop."""
        return self._stops

    @property
    def is_stopping(self) -> bool:
        """Whether the end has begun."""
        return self._stops > 0

    def count(self, state: str) -> int:
        """Workers in a state; one that has died starts again."""
        states = ("starting", "dead") if state == "starting" else (state,)
        return sum(child.state in states for child in self.children)

    def health(self) -> list[BackendHealth]:
        """How many targets of each backend were found healthy, as the leader said last."""
        return self._backends

    def connected(self) -> Iterator[Child]:
        """Workers that can be asked."""
        return (child for child in self.children if child.is_connected)

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all."""
        for child in self.children:
            child.start()

    def stop(self) -> None:
        """Let all drain; the second time, let them stop at once."""
        self._stops += 1
        for child in self.children:
            child.stop(self._stops)
        if self._kill is not None:
            self._kill.cancel()
        limit_s = STOP_S if self._stops > 1 else self._drain_s + STOP_S
        self._kill = self._clock.callLater(limit_s, self._kill_all)
        self._look()

    def reload(self) -> None:
        """Let all read their configuration again."""
        self._reloads += 1
        self._is_reloading = True
        for child in self.children:
            child.reload(self._reloads)
        self._look_at_reloads()

    def signal(self, number: int) -> None:
        """Send all a signal."""
        for child in self.children:
            if child.is_alive:
                child.signal(number)

    def _look_at_reloads(self) -> None:
        if self._is_reloading and not any(child.is_reloading for child in self.children):
            self._is_reloading = False
            results = dict.fromkeys(child.result for child in self.children if child.result)
            self.on_reloaded("; ".join(results) or "reloaded")

    def _kill_all(self) -> None:
        self._kill = None
        for child in self.children:
            child.kill()

    def _look(self) -> None:
        if self._is_done or any(child.is_alive for child in self.children):
            return
        self._is_done = True
        if self._kill is not None:
            self._kill.cancel()
            self._kill = None
        self._done(self._exit_status)

    # --- deaths -------------------------------------------------------------------------------------------------------

    def _on_exit(self, child: Child, how: Exit) -> None:
        try:
            self._bury(child)
        except Exception:  # noqa: BLE001 -- whatever it said, another one has to be started
            _log.failure("the last numbers of a worker are lost", index=child.index)
        was_first, ready_s = child.restarts == 0 and child.state == "starting", child.ready_s
        # The child forgets its process after this call.
        self._clock.callLater(0, self._after, child, how, was_first, ready_s)

    def _bury(self, child: Child) -> None:
        """Keep what it had counted."""
        if child.snapshot is not None:
            self.dead = merge([], [self.dead, child.snapshot])
        if child.status is not None:
            self.dead_status = dead_status(self.dead_status, child.status)
        if child.totals is not None:
            self.dead_totals = dead_totals(self.dead_totals, child.totals)

    def _after(self, child: Child, how: Exit, was_first: bool, ready_s: float) -> None:
        if self._leader is child:
            self._leader = None
            self._elect()
        self._look_at_reloads()
        if self._stops:
            if how.status != 0:
                _log.warn("worker ended: {how}", how=str(how), index=child.index)
            self._look()
            return
        self._deaths = 0 if ready_s >= STEADY_S else self._deaths + 1
        if was_first and how.status in HOPELESS:
            self._give_up(child, how, "its first start failed", how.status)
        elif self._deaths >= MAX_DEATHS and not self._is_wrong_configuration(how):
            self._give_up(child, how, f"{self._deaths} in a row were not ready for {STEADY_S:g} s", 1)
        else:
            pause_s = child.start_again()
            _log.warn("worker ended: {how}", how=str(how), index=child.index, starts_again_in_s=pause_s)

    def _is_wrong_configuration(self, how: Exit) -> bool:
        """Whether those that run have another configuration, and should go on with it."""
        return how.status == EX_CONFIG and any(child.state == "ready" for child in self.children)

    def _give_up(self, child: Child, how: Exit, why: str, status: int | None) -> None:
        _log.error("giving up: {why}", why=f"a worker ended with {how}, and {why}", index=child.index)
        self._exit_status = EX_CONFIG if status == EX_CONFIG else 1
        self.stop()

    # --- what they say, and share ---------------------------------------------------------------------------------------

    def _on_event(self, child: Child, message: Message) -> None:
        kind = message["is"]
        if kind == "hello":
            self._welcome(child)
        elif kind == "ready":
            self.on_ready()
        elif kind == "draining" and child is self._leader:
            self._leader = None
            self._elect()
        elif kind == "health":
            self._share({"is": "health", "found": self._findings.take(message["found"])}, child)
        elif kind == "checked":
            self._checked.update(message["names"])
            self._share({"is": "checked", "names": message["names"]}, child)
        self._look_at_reloads()
        if child is self._leader and child.backends is not None:
            self._backends = [BackendHealth(*backend) for backend in child.backends]

    def _welcome(self, child: Child) -> None:
        found = self._findings.all()
        if found:
            child.send({"is": "health", "found": found})
        if self._checked:
            child.send({"is": "checked", "names": sorted(self._checked)})
        if self._leader is None:
            self._elect()

    def _share(self, message: dict[str, Any], source: Child) -> None:
        for child in self.children:
            if child is not source and child.is_connected:
                child.send(message)

    def _elect(self) -> None:
        """The worker of the lowest index that can leads."""
        if self._stops:
            return
        able = (child for child in self.connected() if child.state in {"starting", "ready"})
        self._leader = next(able, None)
        if self._leader is not None:
            self._leader.send({"is": "lead"})


class CrewReadiness(Readiness):
    """Whether the gateway as a whole may receive traffic: one worker is enough.

    Args:
        crew: the workers.
    """

    def __init__(self, crew: Crew) -> None:
        super().__init__(crew.health)
        self._crew = crew

    def verdict(self) -> Verdict:
        if self._crew.is_stopping:
            return Verdict(False, "draining")
        if not any(child.state == "ready" for child in self._crew.children):
            return Verdict(False, "starting")
        self.started()
        return super().verdict()
