"""A backend whose names a test answers for, in virtual time."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from tests.helpers.resolver import ManualResolver
from twisted.internet.task import Clock

from txgateway.config import Backend as BackendSettings
from txgateway.config import Target as TargetSettings
from txgateway.config.targets import target as parse_target
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import TargetMaker
from txgateway.proxy.names import JITTER, NameWatch
from txgateway.proxy.target import Outcome, Target
from txgateway.telemetry.metrics import TargetMetrics
from txgateway.transport.lookup import Lookups
from txgateway.transport.wheel import TICK_S, TimerWheel

REFRESH_S = 30.0


class Case:
    """A backend whose names a test answers for, already watched.

    Args:
        urls: of its targets.
    """

    def __init__(self, *urls: str, **others: Any) -> None:
        targets = tuple(map(parse_target, urls or ("http://svc:9000",)))
        settings = BackendSettings("b", targets, dns_refresh_s=REFRESH_S, **others)
        self.clock = Clock()
        self.wheel = TimerWheel(self.clock)
        self.resolver = ManualResolver()
        cells = TargetMetrics()
        self.maker = TargetMaker(settings, self.clock, self.wheel, 0, Random(1), lambda _: cells)
        self.made = 0
        self.is_broken = False
        self.backend = Backend(settings, [self.make(target) for target in targets], self.clock.seconds, Random(1))
        self.originals = self.backend.targets
        self.watch = NameWatch(self.backend, self.make, Lookups(self.resolver), self.clock, self.wheel, Random(1))
        self.fired: list[object] = []
        self.watch.start().addBoth(self.fired.append)

    def make(self, configured: TargetSettings, addresses: Sequence[str] = ()) -> Target:
        if self.is_broken:
            raise RuntimeError("no target today")
        self.made += 1
        return self.maker.make(configured, addresses)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            self.clock.advance(TICK_S)

    def answer(self, *hosts: str, name: str = "svc") -> None:
        """The answer to the question that is out, or to that of the next round."""
        limit = self.clock.seconds() + REFRESH_S * (1 + JITTER) + TICK_S
        while name not in self.resolver.out and self.clock.seconds() < limit:
            self.clock.advance(TICK_S)
        self.resolver.answer(name, *hosts)

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.backend.targets

    @property
    def addresses(self) -> list[str]:
        """What the targets go by."""
        return [target.address for target in self.targets]

    @property
    def dials(self) -> list[list[str]]:
        """What the targets' dials try."""
        dialers: list[Any] = [target.dialer for target in self.targets]
        return [list(dialer.addresses) for dialer in dialers]


def is_closed(target: Target) -> bool:
    return target.pool._is_closed


def settle(target: Target) -> None:
    target.settle(Outcome.OK, 0, 0, is_fault=False, is_probe=False)
