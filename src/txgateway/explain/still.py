"""A gateway that stands still: the real decorators over real backends, and nobody who connects, resolves or listens."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorPluggableNameResolver
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent
from zope.interface import implementer

from txgateway.config import Configuration
from txgateway.health.probes import Readiness, probe_resources
from txgateway.middleware.base import RouteCells
from txgateway.pipeline import Collaborators, Pipeline
from txgateway.proxy.build import BackendBuilder
from txgateway.security import Security
from txgateway.telemetry.cells import Tally, TargetMetrics
from txgateway.transport.wheel import TimerWheel


@implementer(IReactorPluggableNameResolver)
class _StillReactor(Clock):
    """Time that does not pass, and no network."""

    nameResolver: Any = None

    def installNameResolver(self, resolver: Any) -> Any:
        """Nobody is asked."""
        return resolver


class NoCells(RouteCells):
    """Counts nothing."""

    def observe(self, *_: object) -> None: ...
    def exemplify(self, *_: object) -> None: ...
    def started(self) -> None: ...
    def ended(self) -> None: ...


@implementer(IAgent)
class _NoAgent:
    """Downloads nothing."""

    def request(self, *_: object) -> Deferred[Any]:
        return Deferred()


def still_pipeline(configuration: Configuration) -> Pipeline:
    """The pipeline of a configuration. Names of targets are not looked up, keys not downloaded, limits not shared.

    It imports the resources that the configuration names.
    """
    reactor, chance = _StillReactor(), Random(0)
    wheel = TimerWheel(reactor)
    builder = BackendBuilder(reactor, wheel, 0, chance, lambda *_: TargetMetrics(), lambda _: Tally())
    backends = {name: builder.build(settings).backend for name, settings in configuration.backends.items()}
    cells = NoCells()
    return Pipeline(
        configuration,
        Collaborators(
            wheel=wheel,
            clock=reactor,
            epoch_s=reactor.seconds,
            chance=chance,
            backends=backends,
            security=Security(
                configuration.settings, reactor, reactor.seconds, lambda _: None, chance, agent=_NoAgent()
            ),
            cells=lambda _: cells,
            tallies=lambda _: Tally(),
            access_log=None,
            probes=probe_resources(configuration.settings.probe_prefix, Readiness()),
            new_request_id=str,
        ),
    )
