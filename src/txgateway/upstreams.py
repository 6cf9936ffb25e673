"""All backends of a configuration, with what watches them: active health checks and name resolution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from txgateway.admin.status import BackendStatus, TargetStatus
from txgateway.config import Backend as BackendSettings
from txgateway.health.active import HealthChecks
from txgateway.health.probes import BackendHealth
from txgateway.health.state import Health
from txgateway.proxy.build import build_backends
from txgateway.proxy.target import Target
from txgateway.telemetry.metrics import RequestMetrics, TargetState
from txgateway.transport.wheel import TimerWheel


class Upstreams:
    """The backends by name.

    Args:
        backends: as configured.
        reactor: opens connections, resolves names, keeps time.
        wheel: keeps deadlines.
        demo_port: where the demo listens on loopback, if a target is it.
        chance: spreads what many gateways would do at the same moment.
        metrics: has the targets' cells.
    """

    def __init__(
        self,
        backends: Mapping[str, BackendSettings],
        reactor: Any,
        wheel: TimerWheel,
        demo_port: int,
        chance: Random,
        metrics: RequestMetrics,
    ) -> None:
        self.backends, self._names = build_backends(
            backends, reactor, wheel, demo_port, chance, metrics.target, metrics.retries
        )
        self._reactor = reactor
        self._checks = [HealthChecks(backend, reactor, wheel, chance) for backend in self.backends.values()]

    def start(self) -> Deferred[None]:
        """Begin to resolve names, then to check targets.

        Returns:
            fires when the first round of checks is over, however it went.
        """
        named: Deferred[Any] = DeferredList([watch.start() for watch in self._names.values()])
        checked = named.addCallback(lambda _: DeferredList([checks.start() for checks in self._checks]))
        return checked.addCallback(lambda _: None)

    def stop(self) -> None:
        """Watch no longer, and lend no more connections; exchanges under way run to their end."""
        for watch in self._names.values():
            watch.stop()
        for checks in self._checks:
            checks.stop()
        for backend in self.backends.values():
            backend.close()

    # --- what others ask for --------------------------------------------------------------------------------------

    def health(self) -> Iterator[BackendHealth]:
        """How many targets of each backend were found healthy."""
        for backend in self.backends.values():
            healthy = sum(target.health is Health.HEALTHY for target in backend.targets)
            yield BackendHealth(backend.name, healthy, len(backend.targets))

    def target_states(self) -> Iterator[TargetState]:
        """Every target as it is configured; the addresses of a name together."""
        now = self._reactor.seconds()
        for backend in self.backends.values():
            by_label: dict[str, list[Target]] = {}
            for target in backend.targets:
                by_label.setdefault(target.label, []).append(target)
            for label, targets in by_label.items():
                yield TargetState(
                    backend=backend.name,
                    target=label,
                    active=sum(target.pool.active for target in targets),
                    idle=sum(target.pool.idle for target in targets),
                    pending=sum(target.pool.pending for target in targets),
                    healthy=sum(target.health is not Health.UNHEALTHY for target in targets) / len(targets),
                    breaker=max(target.breaker.state_at(now) for target in targets),
                )

    def status(self) -> list[BackendStatus]:
        """Every backend with all its targets, address by address."""
        now = self._reactor.seconds()
        return [
            BackendStatus(
                name=backend.name,
                load_balancer=backend.settings.load_balancer,
                targets=tuple(
                    TargetStatus(
                        target=target.label,
                        address=target.address,
                        weight=target.weight,
                        health=target.health.value,
                        breaker=target.breaker.state_at(now).label,
                        in_flight=target.in_flight,
                        active=target.pool.active,
                        idle=target.pool.idle,
                        pending=target.pool.pending,
                        outcomes=target.metrics.outcomes,
                    )
                    for target in backend.targets
                ),
            )
            for backend in self.backends.values()
        ]
