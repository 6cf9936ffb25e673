"""Active health checks: every target of a backend is asked how it fares, round after round.

What requests meet with is the breakers' business and does not count here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from random import Random
from typing import Final, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgateway.health.check import Check, Verdict, ask, connect
from txgateway.health.state import Health, HealthState
from txgateway.proxy.backend import Backend
from txgateway.proxy.target import Target
from txgateway.transport.wheel import TimerWheel

#: Most checks of a backend under way at once; further targets wait for their turn.
MAX_CHECKS: Final = 64
#: Within which part of the interval the checks of a round begin, and within how many seconds at most.
SPREAD: Final = 0.1
MAX_SPREAD_S: Final = 1.0

_log = Logger(__name__)


class Checks(Protocol):
    """What looks after the health of a backend's targets."""

    def start(self) -> Deferred[None]:
        """Begin; fires, and never fails, when all were checked once, however that went."""

    def stop(self) -> None:
        """End for good."""


class HealthChecks:
    """The checks of one backend's targets.

    A round checks every target once: in the first round at once, later at a random moment of the first tenth of the
    interval, at most a second into it, so that many gateways do not ask in step. A target that joins the backend later
    is checked at once. Every check ends within its timeout
    and none waits for another, unless there are more than MAX_CHECKS: these take turns. So a round takes at most the
    timeout, once for each MAX_CHECKS targets, after its last beginning. Rounds never overlap; one that is due in the
    meantime is left out.

    Args:
        backend: its settings say how to check; its targets may change at any time, for the next round.
        clock: for rounds and timeouts.
        wheel: keeps the connections' deadlines.
        chance: spreads the checks.
    """

    def __init__(self, backend: Backend, clock: IReactorTime, wheel: TimerWheel, chance: Random) -> None:
        self._backend = backend
        self._clock = clock
        self._wheel = wheel
        self._chance = chance
        self._settings = backend.settings.health_check
        self._spread_s = min(self._settings.interval_s * SPREAD, MAX_SPREAD_S)
        self._pool = backend.settings.pool.model_copy(update={"max_connections": 1})
        self._states: dict[Target, HealthState] = {}
        self._first: Deferred[None] = Deferred()
        self._loop: LoopingCall | None = None
        self._round: _Round | None = None
        self._extra_rounds: set[_Round] = set()
        self._is_stopped = False

    def start(self) -> Deferred[None]:
        """Begin, once.

        Returns:
            fires, and never fails, when the first round is over, however it went, or when the checks are stopped,
            which they may have been already.
        """
        if not self._is_stopped:
            self._backend.on_targets = self._check_newcomers
            self._run(now=True)
        return self._first

    def stop(self) -> None:
        """End at once and for good: a round under way is given up without results, connections are closed."""
        self._is_stopped = True
        if self._loop is not None and self._loop.running:
            self._loop.stop()
        for under_way in (self._round, *self._extra_rounds):
            if under_way is not None:
                under_way.cancel()
        self._tell_first()

    # --- rounds ---------------------------------------------------------------------------------------------------

    def _run(self, *, now: bool) -> None:
        loop = self._loop = LoopingCall(self._begin_round)
        loop.clock = self._clock
        try:
            loop.start(self._settings.interval_s, now).addCallbacks(lambda _: None, self._died)
        except Exception:
            _log.failure("health checks of backend {backend} cannot go on", backend=self._backend.name)

    def _died(self, failure: Failure) -> None:
        """No check can do this, for none of their exceptions gets here; but no target may go unchecked for long."""
        _log.failure("health checks of backend {backend} begin anew", failure, backend=self._backend.name)
        self._tell_first()
        if not self._is_stopped:
            self._run(now=False)

    def _begin_round(self) -> Deferred[None]:
        states = self._states
        is_first = not self._first.called  # and others may have checked before
        self._states = {
            target: states.get(target) or self._new_state(target.health if is_first else Health.UNKNOWN)
            for target in self._backend.targets
        }
        delay_s = _no_delay_s if is_first else self._random_delay_s
        self._round = _Round(self._states, self._check, self._take, self._clock)
        ended = self._round.over.addCallback(self._round_ended)
        self._round.begin(delay_s)
        return ended

    def _check_newcomers(self) -> None:
        """The backend has other targets: those that nobody knows yet do not wait for the next round."""
        newcomers = [target for target in self._backend.targets if target not in self._states]
        if self._is_stopped or not newcomers:
            return
        for target in newcomers:
            self._states[target] = self._new_state(Health.UNKNOWN)
        extra = _Round(newcomers, self._check, self._take, self._clock)
        self._extra_rounds.add(extra)
        extra.over.addCallback(lambda _: self._extra_rounds.discard(extra))
        extra.begin(_no_delay_s)

    def _random_delay_s(self) -> float:
        return self._chance.uniform(0, self._spread_s)

    def _round_ended(self, _: None) -> None:
        self._round = None
        self._tell_first()

    def _tell_first(self) -> None:
        if not self._first.called:
            self._first.callback(None)

    # --- checks ---------------------------------------------------------------------------------------------------

    def _new_state(self, health: Health) -> HealthState:
        return HealthState(self._settings.rise, self._settings.fall, health)

    def _check(self, target: Target, on_end: Callable[[Verdict], None]) -> Check:
        settings = self._settings
        if settings.path is None:
            attempt = partial(connect, target)
        else:
            attempt = partial(ask, target, settings.path, settings, self._pool, self._clock, self._wheel)
        return Check(attempt, settings.timeout_s, self._clock, on_end)

    def _take(self, target: Target, verdict: Verdict) -> None:
        if verdict.is_well is None or target not in self._backend.targets:
            return
        health = self._states[target].observe(verdict.is_well)
        self._backend.set_health(target, health, verdict.why)


class _Round:
    """Every target once.

    Args:
        targets: all of them.
        check: makes a target's check, which tells its end to what it is given.
        take: told each target's verdict.
        clock: for what does not begin at once.

    Attributes:
        over: fires when all targets have been checked, or when the round was given up.
    """

    def __init__(
        self,
        targets: Iterable[Target],
        check: Callable[[Target, Callable[[Verdict], None]], Check],
        take: Callable[[Target, Verdict], None],
        clock: IReactorTime,
    ) -> None:
        self.over: Deferred[None] = Deferred()
        self._targets = tuple(targets)
        self._check = check
        self._take = take
        self._clock = clock
        self._later: dict[Target, IDelayedCall] = {}
        self._due: deque[Target] = deque()
        self._under_way: dict[Target, Check] = {}
        self._is_beginning = False

    def begin(self, delay_s: Callable[[], float]) -> None:
        """Begin.

        Args:
            delay_s: how long a target has to wait, 0 for not at all.

        Raises:
            Exception: that of the clock; nothing is left behind.
        """
        try:
            for target in self._targets:
                wait_s = delay_s()
                if wait_s:
                    self._later[target] = self._clock.callLater(wait_s, self._its_time, target)
                else:
                    self._due.append(target)
        except Exception:
            self.cancel()
            raise
        self._go_on()

    def cancel(self) -> None:
        """Give it up: no more verdicts, no call, no connection."""
        self._due.clear()
        later, self._later = self._later, {}
        for call in later.values():
            call.cancel()
        under_way, self._under_way = self._under_way, {}
        for check in under_way.values():
            check.cancel()
        self._go_on()

    def _its_time(self, target: Target) -> None:
        del self._later[target]
        self._due.append(target)
        self._go_on()

    def _go_on(self) -> None:
        """Begin what may begin: in a loop, since checks that end at once would nest otherwise."""
        if self._is_beginning:
            return
        self._is_beginning = True
        while self._due and len(self._under_way) < MAX_CHECKS:
            target = self._due.popleft()
            check = self._under_way[target] = self._check(target, partial(self._ended, target))
            check.start()
        self._is_beginning = False
        if not self._due and not self._later and not self._under_way and not self.over.called:
            self.over.callback(None)

    def _ended(self, target: Target, verdict: Verdict) -> None:
        self._under_way.pop(target, None)
        try:
            self._take(target, verdict)
        except Exception:
            _log.failure("verdict on target {target} was not taken", target=target.address)
        self._go_on()


def _no_delay_s() -> float:
    return 0.0
