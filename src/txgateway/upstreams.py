"""All backends of a configuration, with what watches them: active health checks and name resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Any, Final, TypeAlias

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredList

from txgateway.admin.status import BackendStatus, TargetStatus
from txgateway.config import Backend as BackendSettings
from txgateway.health.active import Checks, HealthChecks
from txgateway.health.probes import BackendHealth
from txgateway.health.state import Health
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import BackendBuilder, Built
from txgateway.proxy.target import Target
from txgateway.proxy.target_drain import TargetDrain
from txgateway.telemetry.metrics import RequestMetrics, TargetState
from txgateway.transport.wheel import TimerWheel

#: Makes of a backend, and of what would make its health checks, checks that other processes have a part in.
ShareChecks: TypeAlias = Callable[[Backend, Callable[[], Checks]], Checks]

#: Requests that are under way when their backend goes may wait before they come to a target: in a queue, or between
#: two attempts.
LATE_S: Final = 3.0


@frozen
class _Upstream:
    """A backend, with what watches it."""

    built: Built
    checks: Checks

    def stop(self) -> None:
        """Watch it no longer."""
        if self.built.watch is not None:
            self.built.watch.stop()
        self.checks.stop()


def _nothing() -> None: ...


class Upstreams:
    """The backends by name.

    Args:
        backends: as configured.
        reactor: opens connections, resolves names, keeps time.
        wheel: keeps deadlines.
        demo_port: where the demo listens on loopback, if a target is it.
        chance: spreads what many gateways would do at the same moment.
        metrics: has the targets' cells.
        previous: those that these take the place of. What is configured as it was goes on as it is.
        share_checks: makes of a backend's checks such as are shared with other processes.

    Attributes:
        backends: by name.
        known: by name, with what watches them.
    """

    def __init__(
        self,
        backends: Mapping[str, BackendSettings],
        reactor: Any,
        wheel: TimerWheel,
        demo_port: int,
        chance: Random,
        metrics: RequestMetrics,
        previous: Upstreams | None = None,
        share_checks: ShareChecks | None = None,
    ) -> None:
        self._reactor = reactor
        self._wheel = wheel
        known = {} if previous is None else previous.known
        builder = BackendBuilder(reactor, wheel, demo_port, chance, metrics.target, metrics.retries)
        self.known: dict[str, _Upstream] = {}
        self._new: list[_Upstream] = []
        for name, settings in backends.items():
            before = known.get(name)
            if before is not None and before.built.is_made_of(settings):
                self.known[name] = before
                continue
            built = builder.build(settings, None if before is None else before.built)
            make = partial(HealthChecks, built.backend, reactor, wheel, chance)
            checks = make() if share_checks is None else share_checks(built.backend, make)
            upstream = _Upstream(built, checks)
            self.known[name] = upstream
            self._new.append(upstream)
        self.backends: dict[str, Backend] = {name: upstream.built.backend for name, upstream in self.known.items()}

    def start(self) -> Deferred[None]:
        """Begin to resolve names, then to check targets, of all backends that do not do so yet.

        Returns:
            fires when the first round of checks is over, however it went.
        """
        watches = [upstream.built.watch for upstream in self._new]
        named: Deferred[Any] = DeferredList([watch.start() for watch in watches if watch is not None])
        checked = named.addCallback(lambda _: DeferredList([upstream.checks.start() for upstream in self._new]))
        return checked.addCallback(lambda _: None)

    def go_live(self) -> None:
        """Those before are no longer used."""
        for upstream in self._new:
            upstream.built.backend.go_live()
        self._new.clear()

    def retire(self, successor: Upstreams) -> None:
        """Others have taken the place of these: stop what does not go on there."""
        for name, upstream in self.known.items():
            after = successor.known.get(name)
            if after is upstream:
                continue
            upstream.stop()
            backend, watch = upstream.built.backend, upstream.built.watch
            ours = (*backend.targets, *(() if watch is None else watch.left))
            theirs = set() if after is None else set(map(id, after.built.backend.targets))
            for target in ours:
                if id(target) not in theirs:
                    target.breaker.on_change = None
                    TargetDrain(target, self._reactor.seconds(), self._wheel, _nothing, LATE_S)
            backend.retire([target for target in ours if id(target) in theirs])

    def stop(self) -> None:
        """Watch no longer, and lend no more connections; exchanges under way run to their end."""
        for upstream in self.known.values():
            upstream.stop()
            upstream.built.backend.close()

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
