"""What a configuration becomes: backends with what watches them, keys and limits, and the pipeline over all of these.

Everything here depends on the configuration, and nothing on who listens: another configuration is another tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.web.resource import IResource

from txgateway.config import Configuration
from txgateway.health.probes import first_tries
from txgateway.ids import random_ids
from txgateway.pipeline import Collaborators, Pipeline
from txgateway.proxy.agent import PoolAgent
from txgateway.proxy.build import build_issuer
from txgateway.security import Security
from txgateway.telemetry.access_log import AccessLog
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.transport.wheel import TimerWheel
from txgateway.upstreams import Upstreams

if TYPE_CHECKING:
    from txgateway.telemetry.tracing import Tracing

REQUEST_ID_BYTES = 16


@frozen
class Surroundings:
    """What a tree finds in its process.

    Attributes:
        reactor: connects, resolves names, and is the clock.
        epoch_s: wall clock.
        wheel: keeps deadlines.
        chance: for everything that is drawn.
        metrics: has the cells.
        access_log: None if nobody wants one.
        probes: probe resources by path.
        tracing: None for none.
        demo_port: where the demo listens on loopback, if a target is it.
        https_port: of the listener that speaks TLS, once there is one.
    """

    reactor: Any
    epoch_s: Callable[[], float]
    wheel: TimerWheel
    chance: Random
    metrics: RequestMetrics
    access_log: AccessLog | None
    probes: Mapping[bytes, IResource]
    tracing: Tracing | None
    demo_port: int
    https_port: Callable[[], int]


class Tree:
    """The parts, built.

    Args:
        configuration: validated.
        around: the process's.

    Attributes:
        configuration: the same.
        upstreams: the backends.
        security: keys and limits.
        pipeline: where requests go.
    """

    def __init__(self, configuration: Configuration, around: Surroundings) -> None:
        settings = configuration.settings
        self.configuration = configuration
        self._reactor = around.reactor
        jwks_url = settings.jwt_jwks_url
        self._issuer = None if jwks_url is None else build_issuer(jwks_url, around.reactor, around.wheel)
        self.security = Security(
            settings,
            around.reactor,
            around.epoch_s,
            around.metrics.tokens.count,
            around.chance,
            None if self._issuer is None else PoolAgent(self._issuer.targets[0].pool),
        )
        self.upstreams = Upstreams(
            configuration.backends, around.reactor, around.wheel, around.demo_port, around.chance, around.metrics
        )
        self.pipeline = Pipeline(
            configuration,
            Collaborators(
                wheel=around.wheel,
                clock=around.reactor,
                epoch_s=around.epoch_s,
                chance=around.chance,
                backends=self.upstreams.backends,
                security=self.security,
                cells=around.metrics.route,
                tallies=around.metrics.rate_limit,
                access_log=around.access_log,
                probes=around.probes,
                new_request_id=random_ids(REQUEST_ID_BYTES),
                tracing=around.tracing,
                https_port=around.https_port,
            ),
        )

    def start(self) -> Deferred[None]:
        """Check targets and ask for keys; fires when each was tried once, or that took too long."""
        return first_tries([self.security.start(), self.upstreams.start()], self._reactor)

    def stop(self) -> Deferred[None]:
        """Watch nothing any more; exchanges under way run to their end. Fires when the store's connections are closed."""
        self.upstreams.stop()
        if self._issuer is not None:
            self._issuer.close()
        return self.security.stop()
