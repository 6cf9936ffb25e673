"""A gateway that retries, without waiting unless it is told to."""

from __future__ import annotations

from typing import Any

from tests.unit.support import MemoryClient, MemoryDialer, MemoryGateway, MemoryTarget, message

from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import BreakerState
from txgateway.proxy.target import Health, Outcome, Target

GET = message(b"/")
NAMES = ("one", "two", "three")
#: One tick of the wheel is how late a deadline may be.
TICK_S = 0.1


class RetryingGateway(MemoryGateway):
    """Three attempts, at most so many targets, named one, two, three; they take turns, so one is the first.

    Args:
        targets: how many.
        route: further keys of the route.
        environment: without ``GATEWAY_``.
    """

    def __init__(self, targets: int = 2, route: Any = None, **environment: str) -> None:
        document = {
            "backends": {"b": {"targets": [f"http://{name}" for name in NAMES[:targets]]}},
            "routes": [{"name": "r", "path": "/", "backend": "b", **(route or {})}],
        }
        values = {"RETRY_MAX_ATTEMPTS": "3", "RETRY_BACKOFF": "0", "RETRY_BUDGET_MIN": "1000", **environment}
        super().__init__({f"GATEWAY_{name}": value for name, value in values.items()}, document)

    @property
    def backend(self) -> Backend:
        return self.backends["b"]

    def target_named(self, name: str) -> Target:
        return self.backend.targets[NAMES.index(name)]

    def dialer_of(self, name: str) -> MemoryDialer:
        return self.dialers[f"{name}:80"]

    def at(self, name: str) -> MemoryTarget:
        """The newest connection to a target."""
        return self.dialer_of(name).target

    @property
    def dialed(self) -> list[int]:
        """How many connections each target has accepted."""
        return [len(dialer.targets) for dialer in self.dialers.values()]

    @property
    def loads(self) -> list[int]:
        return [target.in_flight for target in self.backend.targets]

    @property
    def outcomes(self) -> dict[str, int]:
        """How retries ended."""
        return self.metrics.retries("b").counts

    def outcomes_of(self, name: str) -> dict[str, int]:
        """How attempts at a target ended."""
        return self.target_named(name).metrics.outcomes

    def state_of(self, name: str) -> BreakerState:
        return self.target_named(name).breaker.state_at(self.clock.seconds())

    def set_health(self, name: str, health: Health) -> None:
        self.backend.set_health(self.target_named(name), health, "test")

    def fail(self, name: str, times: int = 5) -> None:
        """So many attempts at a target end with 503; the other targets, and retries, are left out."""
        target = self.target_named(name)
        for _ in range(times):
            now = self.clock.seconds()
            is_probe = target.begin(now)
            target.settle(Outcome.ERROR, now, 0.0, is_fault=True, is_probe=is_probe)

    @property
    def reason(self) -> Any:
        return self.log[-1].reason

    @property
    def attempts(self) -> Any:
        """What the log says."""
        return self.log[-1].attempts


def problem(client: MemoryClient) -> tuple[int, str]:
    """Status and reason of the gateway's own answer."""
    response = client.response()
    return response.status, response.problem["reason"]


def answered(client: MemoryClient, method: bytes = b"GET") -> tuple[int, bytes]:
    """Status and body of the one answer."""
    response = client.response(method)
    return response.status, response.body
