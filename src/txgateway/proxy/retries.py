"""What has been tried for one request, and whether to try once more; made when a first attempt has failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

if TYPE_CHECKING:
    from txgateway.proxy.reverse_proxy import ReverseProxyResource
    from txgateway.proxy.target import Target
    from txgateway.request import GatewayRequest

_log = Logger(__name__)


class Retries:
    """Decides on the retries of one request, and waits for them.

    Args:
        route: whose policy, backend, clock and chance they go by.
        first: the target of the first attempt.

    Attributes:
        tried: the targets of the attempts so far, in order.
        made: how many retries were begun.
    """

    __slots__ = ("_route", "_waiting", "made", "tried")

    def __init__(self, route: ReverseProxyResource, first: Target) -> None:
        self.tried = [first]
        self.made = 0
        self._route = route
        self._waiting: Deferred[None] | None = None

    @property
    def is_spent(self) -> bool:
        """All attempts of the policy have been made."""
        return self.made + 1 >= self._route.retry.max_attempts

    def refuse_body(self, request: GatewayRequest) -> None:
        """Tell that a retry is not made because the body is gone."""
        self._route.backend.retries.count("body_too_large")
        _log.info(
            "not retried: {why}",
            why="more of the request body was sent than retry.max_body keeps",
            request_id=request.request_id,
            route=request.route_name,
        )

    def plan(self, now: float, deadline: float, at_least_s: float) -> float | None:
        """Seconds to wait before the next attempt, which is paid for then; None if there is to be none.

        Args:
            now, deadline: clock seconds; the wait must be over before the deadline.
            at_least_s: how long the target asked to wait.
        """
        route = self._route
        backend, policy = route.backend, route.retry
        if self.is_spent or not backend.is_usable():
            return None
        delay = max(policy.backoff_s(self.made + 1, route.chance.random), at_least_s)
        if now + delay >= deadline:
            return None
        if not backend.budget.take(now, policy.percent, policy.minimum):
            backend.retries.count("budget")
            return None
        self.made += 1
        return delay

    def wait(self, delay: float, attempt: Callable[[], None], failed: Callable[[Failure], None]) -> None:
        """Call ``attempt`` after ``delay`` seconds, and ``failed`` if that raises."""
        self._waiting = deferLater(self._route.clock, delay)
        self._waiting.addCallback(self._waited, attempt)
        self._waiting.addErrback(lambda failure: None if failure.check(CancelledError) else failed(failure))

    def _waited(self, _: object, attempt: Callable[[], None]) -> None:
        self._waiting = None
        attempt()

    def cancel(self) -> None:
        """The request is over: wait no longer."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.cancel()

    def ended(self, *, is_success: bool) -> None:
        """An attempt is over; the first one is no retry."""
        if self.made:
            self._route.backend.retries.count("success" if is_success else "failure")
