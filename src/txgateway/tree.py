"""What a configuration becomes: backends with what watches them, keys and limits, and the pipeline over all of these.

Everything here depends on the configuration, and nothing on who listens: another configuration is another tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from attrs import Factory, frozen
from twisted.internet.defer import Deferred
from twisted.web.resource import IResource

from txgateway.config import Configuration, Route
from txgateway.health.probes import first_tries
from txgateway.ids import random_ids
from txgateway.pipeline import BuiltRoutes, Collaborators, Pipeline
from txgateway.proxy.agent import PoolAgent
from txgateway.proxy.backend import Backend
from txgateway.proxy.build import build_issuer
from txgateway.security import Security, keys_of
from txgateway.telemetry.access_log import AccessLog
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.transport.wheel import TimerWheel
from txgateway.upstreams import ShareChecks, Upstreams
from txgateway.user_decorators import UserParts

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
        workers: processes that are this gateway together.
        share_checks: makes of a backend's health checks such as are shared with them; None for only one process.
        user_parts: of users' middlewares.
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
    workers: int = 1
    share_checks: ShareChecks | None = None
    user_parts: UserParts = Factory(UserParts)


class Tree:
    """The parts, built.

    Args:
        configuration: validated.
        around: the process's.
        previous: the tree that it is to take the place of.
        in_slices: :meth:`build` is called by somebody who has time.

    Attributes:
        configuration: the same.
        issuer: where keys are downloaded from, if they are.
        kept_routes: how many of the routes are the previous tree's.
        upstreams: the backends.
        security: keys and limits.
        pipeline: where requests go.
    """

    security: Security
    upstreams: Upstreams
    pipeline: Pipeline
    kept_routes = 0

    def __init__(
        self,
        configuration: Configuration,
        around: Surroundings,
        previous: Tree | None = None,
        *,
        in_slices: bool = False,
    ) -> None:
        settings = configuration.settings
        self.configuration = configuration
        self._around = around
        self._previous = previous
        jwks_url = settings.jwt_jwks_url
        is_same_source = previous is not None and keys_of(settings) == keys_of(previous.configuration.settings)
        self.issuer: Backend | None = None
        if is_same_source:
            self.issuer = previous.issuer  # type: ignore[union-attr]
        elif jwks_url is not None:
            self.issuer = build_issuer(jwks_url, around.reactor, around.wheel)
        self.security = Security(
            settings,
            around.reactor,
            around.epoch_s,
            around.metrics.tokens.count,
            around.chance,
            None if self.issuer is None else PoolAgent(self.issuer.targets[0].pool),
            None if previous is None else previous.security,
            around.workers,
        )
        self.upstreams = Upstreams(
            configuration.backends,
            around.reactor,
            around.wheel,
            around.demo_port,
            around.chance,
            around.metrics,
            None if previous is None else previous.upstreams,
            around.share_checks,
        )
        if not in_slices:
            for _ in self.build():
                pass

    def build(self) -> Iterator[None]:
        """Make the pipeline, a little at each step; what the previous tree has and needs no change is taken over."""
        around, configuration = self._around, self.configuration
        parts = Collaborators(
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
            user_parts=around.user_parts,
        )
        kept = {}
        previous, self._previous = self._previous, None
        if previous is not None and self._has_the_same_edge(previous):
            before = {route.name: route for route in previous.configuration.routes}
            for route in configuration.routes:
                if before.get(route.name) == route and self._is_made_of_the_same(route, previous):
                    kept[route.name] = previous.pipeline.routes.entries[route.name]
                yield
        routes = BuiltRoutes()
        yield from routes.build(configuration, parts, kept)
        self.kept_routes = len(kept)
        self.pipeline = Pipeline(configuration, parts, routes, None if previous is None else previous.pipeline)

    def _has_the_same_edge(self, previous: Tree) -> bool:
        """Whether routes are made of the same, apart from what they say themselves."""
        ours, theirs = self.security, previous.security
        settings, before = self.configuration.settings, previous.configuration.settings
        return (
            ours.authenticator is theirs.authenticator
            and ours.limiters is theirs.limiters
            and settings.server_timing == before.server_timing
            and settings.jwt_public_paths == before.jwt_public_paths
        )

    def _is_made_of_the_same(self, route: Route, previous: Tree) -> bool:
        """Whether it leads to the same backends, by the same middlewares of the user's."""
        ours, theirs = self.upstreams.backends, previous.upstreams.backends
        named, before = self.configuration.middlewares.named, previous.configuration.middlewares.named
        return all(ours[backend.name] is theirs.get(backend.name) for backend in route.backends) and all(
            named[name] == before.get(name) for name in route.middlewares
        )

    def start(self) -> Deferred[None]:
        """Check targets and ask for keys; fires when each was tried once, or that took too long."""
        return first_tries([self.security.start(), self.upstreams.start()], self._around.reactor)

    def replace(self, previous: Tree) -> None:
        """Requests come here from now on: the previous tree keeps those that it has, and watches nothing any more."""
        self.pipeline.take_over(previous.pipeline)
        self.upstreams.go_live()
        previous.upstreams.retire(self.upstreams)
        previous.security.stop(self.security)
        if previous.issuer is not None and previous.issuer is not self.issuer:
            previous.issuer.close()

    def stop(self) -> Deferred[None]:
        """Watch nothing any more; exchanges under way run to their end. Fires when the store's connections are closed."""
        self.upstreams.stop()
        if self.issuer is not None:
            self.issuer.close()
        return self.security.stop()
