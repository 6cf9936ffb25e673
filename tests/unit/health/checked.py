"""A backend under active checks, in virtual time: real pools and connections, and targets that a test speaks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from tests.unit.support import MemoryDialer, MemoryTarget
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

from txgateway.config import Backend as BackendSettings
from txgateway.config.groups import HealthCheck, Pool
from txgateway.config.targets import target as parse_target
from txgateway.errors import GatewayError
from txgateway.health.active import HealthChecks
from txgateway.health.state import Health
from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import CircuitBreaker
from txgateway.proxy.pool import ConnectionPool
from txgateway.proxy.target import Target
from txgateway.transport.wheel import TimerWheel

#: Of a second; a power of two, so that no sum of steps is rounded.
STEP_S = 0.125


class CheckedDialer(MemoryDialer):
    """May also fail with an error of choice, or break.

    Attributes:
        error: told to whoever dials.
        is_broken: :meth:`dial` raises.
        dialed_at: clock seconds of each dial.
    """

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.error: Any = None
        self.is_broken = False
        self.dialed_at: list[float] = []

    def dial(self, receiver: Any) -> Any:
        self.dialed_at.append(self.clock.seconds())
        if self.is_broken:
            raise RuntimeError("boom")
        return super().dial(receiver)

    def finish(self, receiver: Any) -> None:
        if self.error is not None:
            receiver.dial_failed(self.error)
        else:
            super().finish(receiver)

    def let_through(self) -> None:
        """The dials that wait come to their end."""
        waiting, self.waiting = self.waiting, []
        for receiver in waiting:
            self.finish(receiver)
        self.clock.advance(0)


class RecordingBackend(Backend):
    """The real one, which also keeps what it is told.

    Attributes:
        told: target, health, why.
        is_broken: it raises instead of taking it.
    """

    def __init__(self, *arguments: Any) -> None:
        self.told: list[tuple[Target, Health, str]] = []
        self.is_broken = False
        super().__init__(*arguments)

    def set_health(self, target: Target, health: Health, why: str) -> None:
        self.told.append((target, health, why))
        if self.is_broken:
            raise RuntimeError("boom")
        super().set_health(target, health, why)


class BrittleClock(Clock):
    """A clock that can fail.

    Attributes:
        faults: calls of :meth:`callLater` that will raise.
        picks: which of them, by what is to be called.
    """

    faults = 0

    @staticmethod
    def picks(what: Any) -> bool:
        return True

    def callLater(self, delay: float, callable: Callable[..., object], *args: object, **kw: object) -> IDelayedCall:  # noqa: A002
        if self.faults and self.picks(callable):
            self.faults -= 1
            raise RuntimeError("no time")
        return super().callLater(delay, callable, *args, **kw)


class Case:
    """A backend with some targets, and its checks, which are not begun.

    Args:
        count: number of targets.
        pool: limits of the connections for requests.
        seed: of the moments at which checks begin.
        check: settings of the checks; without ``path`` a connection is enough.

    Class attributes:
        kind: of the targets' dialers.
    """

    kind: type[CheckedDialer] = CheckedDialer

    def __init__(self, count: int = 1, pool: Pool | None = None, seed: int = 1, **check: Any) -> None:
        self.clock = BrittleClock()
        self.wheel = TimerWheel(self.clock)
        configured = tuple(parse_target(f"http://t{number}:81") for number in range(count))
        self.settings = BackendSettings("b", configured, pool=pool or Pool(), health_check=HealthCheck(**check))
        self.dialers: list[CheckedDialer] = []
        self.targets = [self.make(f"t{number}") for number in range(count)]
        self.backend = RecordingBackend(self.settings, self.targets, self.clock.seconds, Random(1))
        self.checks = HealthChecks(self.backend, self.clock, self.wheel, Random(seed))
        self.fired: list[object] = []

    def make(self, name: str) -> Target:
        """One more target, which the backend does not know of; its dialer is the last of :attr:`dialers`."""
        dialer = self.kind(self.clock)
        self.dialers.append(dialer)
        pool = ConnectionPool(name, dialer, self.clock, self.wheel, self.settings.pool)
        breaker = CircuitBreaker(self.settings.breaker, Random(1))
        return Target(f"{name}:81", f"{name}:81".encode(), 1, pool, dialer, breaker)

    def start(self) -> Case:
        """Begin, and let dials that need not wait come to their end."""
        self.checks.start().addBoth(self.fired.append)
        self.clock.advance(0)
        return self

    def wait(self, seconds: float) -> None:
        """Let time pass, step by step."""
        for _ in range(round(seconds / STEP_S)):
            self.clock.advance(STEP_S)

    def wait_for_request(self) -> MemoryTarget:
        """Let time pass until a check's connection to the first target is there; returns its far end."""
        before = len(self.dialer.targets)
        for _ in range(1000):
            if len(self.dialer.targets) > before:
                return self.dialer.target
            self.clock.advance(STEP_S)
        raise AssertionError("no check")

    @property
    def dialer(self) -> CheckedDialer:
        """Of the first target."""
        return self.dialers[0]

    @property
    def health(self) -> list[str]:
        """Of the backend's targets."""
        return [target.health.value for target in self.backend.targets]

    @property
    def whys(self) -> list[str]:
        """All reasons that the backend was told."""
        return [why for _, _, why in self.backend.told]

    def fail_with(self, error: GatewayError | None) -> None:
        """All dials from now on fail so; None: no more."""
        for dialer in self.dialers:
            dialer.error = error

    def assert_nothing_left(self, but: Sequence[object] = ()) -> None:
        """No connection, no dial, no delayed call but these; a tick of the wheel may be under way."""
        self.clock.advance(0)
        for dialer in self.dialers:
            assert not dialer.waiting
            assert all(target.closed for target in dialer.targets)
        assert not self.wheel._fine
        assert not self.wheel._coarse
        self.clock.advance(STEP_S)  # that tick finds nothing more to do
        assert [call for call in self.clock.getDelayedCalls() if call not in but] == []
