"""One address of a backend: its share, its connections, and what is known of how it fares."""

from __future__ import annotations

import math
from enum import Enum

from attrs import define, field

from txgateway.health.state import Health
from txgateway.proxy.breaker import CircuitBreaker
from txgateway.proxy.lending import TargetDialer
from txgateway.proxy.pool import ConnectionPool
from txgateway.telemetry.metrics import TargetMetrics
from txgateway.transport.interfaces import Header

__all__ = ["Health", "Outcome", "Target"]


class Outcome(Enum):
    """How an attempt ended, for the metric of the same label."""

    OK = "ok"
    ERROR = "error"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@define(eq=False)
class Target:
    """One address of a backend.

    Attributes:
        label: ``host:port`` or ``unix:/path``, as configured; the addresses of one name share it.
        authority: what ``Host`` says, unless the route keeps the client's; :attr:`host` and :attr:`host_line` are it
            as a field, and as it goes out.
        weight: its share.
        pool: connections to it, for requests.
        dialer: opens connections to it, for whoever wants one apart from the pool.
        breaker: judges it by the attempts at it.
        metrics: counts them.
        address: tells it from all other targets of the backend; the label unless given.
        scheme: ``http``, ``https``, ``h2c`` or ``unix``.
        tunnel_dialer: opens connections to it that HTTP/1.1 is spoken on, where others may be HTTP/2's.
        health: what active checks say.
        returned_at: clock seconds at which it came back, from sickness or from behind its breaker.
        in_flight: attempts under way at it, each from :meth:`begin` to :meth:`settle`.
    """

    label: str
    authority: bytes
    weight: int
    pool: ConnectionPool
    dialer: TargetDialer
    breaker: CircuitBreaker
    metrics: TargetMetrics = field(factory=TargetMetrics)
    address: str = ""
    scheme: str = "http"
    tunnel_dialer: TargetDialer | None = None
    health: Health = field(default=Health.UNKNOWN, init=False)
    returned_at: float = field(default=-math.inf, init=False)
    in_flight: int = field(default=0, init=False)
    host: Header = field(init=False)
    host_line: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.address = self.address or self.label
        self.host = (b"host", b"Host", self.authority)
        self.host_line = b"Host: %b\r\n" % self.authority

    def begin(self, now: float) -> bool:
        """An attempt begins.

        Returns:
            whether it is the one that an open breaker lets through to see how the target fares.
        """
        self.in_flight += 1
        return self.breaker.state != 0 and self.breaker.admit(now)

    def settle(self, outcome: Outcome, now: float, seconds: float, *, is_fault: bool, is_probe: bool) -> None:
        """An attempt is over.

        Args:
            outcome: for the metrics.
            now: clock seconds.
            seconds: from the attempt's start to its response head, or to where it failed.
            is_fault: the target is to blame.
            is_probe: what :meth:`begin` said.
        """
        self.in_flight -= 1
        self.metrics.observe(outcome.value, seconds)
        if is_fault:
            self.breaker.failed(now, is_probe=is_probe, why=outcome.value)
        elif outcome is Outcome.OK:
            self.breaker.succeeded(now, is_probe=is_probe)
        else:
            self.breaker.cancelled(is_probe=is_probe)
