"""A backend at run time: its targets, which of them may be used now, and the policy that picks among those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

from twisted.logger import Logger

from txgateway.config import Backend as BackendSettings
from txgateway.errors import BreakerOpen, GatewayError, NoHealthyTarget
from txgateway.proxy.balancer import key_named, policy_named
from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.multiplexed_pool import is_multiplexed
from txgateway.proxy.retry import RetryBudget
from txgateway.proxy.target import Health, Target
from txgateway.telemetry.metrics import Tally

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_log = Logger(__name__)

# What stands before the first field is the event's name in the log.
_HEALTH = "target health: {target} of backend {backend} is {state}: {why}"
_BREAKER = "breaker: {target} of backend {backend} is {state}: {why}"
#: Least share of its weight that a target gets while it starts slowly.
SLOW_START_FLOOR = 0.1


class Backend:
    """A named set of targets.

    A target may be used if active checks do not say that it is unhealthy and its breaker lets it. With too few healthy
    ones (``panic_percent``) the checks are not believed: the few that are left would only be next. Open breakers are
    always believed, since requests have found out.

    Args:
        settings: as configured.
        targets: at least one.
        seconds: the clock.
        chance: for the policy, and for slow starts.
        retries: counts how retries end.
        is_live: its targets' breakers tell it of changes; else only once :meth:`go_live` was called, for targets that
            another backend has until then.

    Attributes:
        is_live: it has its targets to itself.
        budget: how many retries are allowed.
        may_refuse: a target may say of a request that it has not looked at it, as HTTP/2 can.
        on_connect_failed: told when a connection to a target could not be made.
        on_targets: told when there are other targets.
        on_health: told of each change that checks have found here, and why.
    """

    def __init__(
        self,
        settings: BackendSettings,
        targets: Sequence[Target],
        seconds: Callable[[], float],
        chance: Random,
        retries: Tally | None = None,
        *,
        is_live: bool = True,
    ) -> None:
        self.is_live = is_live
        self.settings = settings
        self.name = settings.name
        self.budget = RetryBudget()
        self.retries = retries or Tally()
        self.on_connect_failed: Callable[[], None] = _do_nothing
        self.on_targets: Callable[[], None] = _do_nothing
        self.on_health: Callable[[Target, Health, str], None] = _do_nothing
        self._seconds = seconds
        self._chance = chance
        self._key_of = key_named(settings.load_balancer)
        self.set_targets(targets)

    # --- picking --------------------------------------------------------------------------------------------------

    def pick(self, request: GatewayRequest, avoid: Sequence[Target] = ()) -> Target:
        """The target for an attempt.

        Args:
            request: may hold the key that the policy goes by.
            avoid: not these, as long as there are others; the last of them is the first to be avoided.

        Raises:
            NoHealthyTarget: checks say so of all.
            BreakerOpen: the breakers of all that are left are open.
        """
        key_of = self._key_of
        key = b"" if key_of is None else key_of(request)
        if self._is_all_well and not avoid:
            return self._policy.pick(key)  # type: ignore[return-value]  # None comes only of a choice
        now = self._seconds()
        usable = self._usable(now)
        if not usable:
            raise self._refusal(now)
        chosen = [target for target in usable if target not in avoid]
        chosen = chosen or [target for target in usable if target is not avoid[-1]] or usable
        if self._is_warming:
            chosen = [target for target in chosen if self._is_its_turn(target, now)] or chosen
            if now >= self._warm_at:
                self._review()
        target = self._policy.pick(key, set(chosen).__contains__)
        assert target is not None
        return target

    def is_usable(self) -> bool:
        """Whether an attempt would find a target now."""
        return self._is_all_well or bool(self._usable(self._seconds()))

    def _usable(self, now: float) -> list[Target]:
        return [target for target in self._candidates if not target.breaker.state or target.breaker.allows(now)]

    def _refusal(self, now: float) -> GatewayError:
        if not self._candidates:
            return NoHealthyTarget()
        return BreakerOpen(min(target.breaker.wait_s(now) for target in self._candidates))

    def _is_its_turn(self, target: Target, now: float) -> bool:
        """A target that starts slowly is passed over often at first, and ever less."""
        share = (now - target.returned_at) / self.settings.slow_start_s
        return share >= 1 or self._chance.random() < max(share, SLOW_START_FLOOR)

    # --- what is known of the targets -----------------------------------------------------------------------------

    def set_targets(self, targets: Sequence[Target]) -> None:
        """These are the targets from now on; the caller looks after those that are no longer among them."""
        self.targets = tuple(targets)
        self.may_refuse = any(is_multiplexed(target.scheme) for target in targets)
        self._policy = policy_named(self.settings.load_balancer, self.targets, self._chance)
        if self.is_live:
            for target in targets:
                target.breaker.on_change = self._watcher(target)
        self._review()
        self.on_targets()

    def go_live(self) -> None:
        """It has its targets to itself from now on."""
        self.is_live = True
        self.set_targets(self.targets)

    def retire(self, kept: Sequence[Target]) -> None:
        """Another has taken its place: what still comes here goes to those that live on there, if any do."""
        self.is_live = False
        if kept:
            self.set_targets(kept)

    def set_health(self, target: Target, health: Health, why: str) -> None:
        """Active checks have made up their mind about a target."""
        before, target.health = target.health, health
        if before is health:
            return
        if before is not Health.UNKNOWN or health is not Health.HEALTHY:
            self._tell(_HEALTH, target, health.value, why, is_bad=health is Health.UNHEALTHY)
        self._health_changed(target, before)
        self.on_health(target, health, why)

    def adopt_health(self, target: Target, health: Health) -> None:
        """Another process has made up its mind about a target, and told of it."""
        before, target.health = target.health, health
        if before is not health:
            self._health_changed(target, before)

    def _health_changed(self, target: Target, before: Health) -> None:
        if before is Health.UNHEALTHY:
            self._returned(target)
            target.breaker.recover(self._seconds())
        self._review()

    def _watcher(self, target: Target) -> Callable[[BreakerState, str], None]:
        def changed(state: BreakerState, why: str) -> None:
            self._tell(_BREAKER, target, state.label, why, is_bad=state is BreakerState.OPEN)
            if state is BreakerState.CLOSED:
                self._returned(target)
            self._review()

        return changed

    def _tell(self, text: str, target: Target, state: str, why: str, *, is_bad: bool) -> None:
        write = _log.warn if is_bad else _log.info
        write(text, target=target.address, backend=self.name, state=state, why=why)

    def _returned(self, target: Target) -> None:
        if self.settings.slow_start_s:
            target.returned_at = self._seconds()

    def _review(self) -> None:
        """Settle beforehand what every pick would have to find out."""
        targets = self.targets
        healthy = [target for target in targets if target.health is not Health.UNHEALTHY]
        is_panic = 0 < len(healthy) * 100 < self.settings.panic_percent * len(targets)
        self._candidates: Sequence[Target] = targets if is_panic else healthy
        self._warm_at = max(target.returned_at for target in targets) + self.settings.slow_start_s
        self._is_warming = self._warm_at > self._seconds()
        self._is_all_well = (
            not self._is_warming
            and len(self._candidates) == len(targets)
            and not any(target.breaker.state for target in targets)
        )

    def close(self) -> None:
        """Close what is idle and lend nothing more."""
        for target in self.targets:
            target.pool.close()


def _do_nothing(*_: object) -> None:
    pass
