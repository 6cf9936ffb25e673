"""THE MAP: which decorators a request passes, in order, and why each stands where it stands.

Built once from a configuration; at request time nothing is looked up that could be decided here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from attrs import Factory, define
from twisted.web.resource import IResource

from txgateway.answers import HttpsRedirect
from txgateway.config import Configuration, Route
from txgateway.config import Cors as CorsSettings
from txgateway.cors import CorsPolicy
from txgateway.ends import route_end, segments_of
from txgateway.errors import GatewayError, InternalError
from txgateway.forwarded import ForwardedPolicy
from txgateway.middleware.admission import Admission
from txgateway.middleware.authenticate import Authenticate, DropClaimHeaders
from txgateway.middleware.base import Inner, RouteCells
from txgateway.middleware.bulkhead import Bulkhead
from txgateway.middleware.client_address import ClientAddress
from txgateway.middleware.cors import Cors, EdgeCors, Preflights
from txgateway.middleware.observe import Log, observer
from txgateway.middleware.probes import Probes
from txgateway.middleware.rate_limit import RateLimit
from txgateway.middleware.recovery import Recovery
from txgateway.middleware.request_id import RequestId
from txgateway.middleware.router import RouteEntry, Router
from txgateway.middleware.sanitize import Sanitize
from txgateway.middleware.security_headers import EdgeSecurityHeaders, SecurityHeaders
from txgateway.middleware.server_timing import PhaseEnd, PhaseStart, ServerTiming
from txgateway.middleware.transform import HeaderTransform, PathTransform
from txgateway.proxy.backend import Backend
from txgateway.ratelimit import Limit
from txgateway.routing.table import RouteRule, RouteTable
from txgateway.security import Security
from txgateway.transport.wheel import TimerWheel
from txgateway.user_decorators import Edge, UserDecorators, UserParts

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from txgateway.request import GatewayRequest
    from txgateway.telemetry.tracing import Tracing


class Tally(Protocol):
    """Counts a route's rate limit decisions."""

    def count(self, outcome: str) -> None: ...


Decorator = Callable[[Inner], Inner]
_NOTHING: Mapping[str, RouteEntry] = MappingProxyType({})


@define
class Collaborators:
    """What the decorators share."""

    wheel: TimerWheel
    clock: IReactorTime
    epoch_s: Callable[[], float]
    chance: Random
    backends: Mapping[str, Backend]
    security: Security
    cells: Callable[[str], RouteCells]
    tallies: Callable[[str], Tally]
    access_log: Log | None
    probes: Mapping[bytes, IResource]
    new_request_id: Callable[[], str]
    tracing: Tracing | None = None
    https_port: Callable[[], int] = int
    user_parts: UserParts = Factory(UserParts)

    def user_decorators(self, configuration: Configuration) -> UserDecorators:
        """What makes users' middlewares."""
        return UserDecorators(configuration.middlewares, self.user_parts, self.clock, self.epoch_s, self.chance)


class Pipeline:
    """The ways into the decorators.

    Args:
        configuration: validated.
        parts: shared collaborators.
        routes: its routes, if they are built already.
        previous: the pipeline that it is to take the place of; middlewares of the edge that need no change are its.

    Attributes:
        routes: what the router finds.
        user_edge: the user's middlewares that all requests pass; None for none.
    """

    def __init__(
        self,
        configuration: Configuration,
        parts: Collaborators,
        routes: BuiltRoutes | None = None,
        previous: Pipeline | None = None,
    ) -> None:
        settings = configuration.settings
        forwarded = ForwardedPolicy(settings.trusted_proxies)
        if routes is None:
            routes = BuiltRoutes()
            for _ in routes.build(configuration, parts):
                pass
        self.routes = routes
        cors = _cors_policy(settings.cors)

        # Nothing escapes into the transport.
        recovery = Recovery
        # Every answer carries an id, a probe's and a refusal's too.
        request_id = partial(RequestId, is_trusted=forwarded.is_trusted, new_id=parts.new_request_id)
        # Every answer that no route makes tells browsers to be careful; above the probes, which are such answers.
        security_headers = partial(EdgeSecurityHeaders, settings=settings, policy=forwarded)
        # A page of an allowed origin may read an error that came before any route.
        edge_cors = [partial(EdgeCors, policy=cors)] if cors is not None else []
        # Probes are not counted, not logged, never routed.
        probes = partial(Probes, resources=parts.probes)
        # Counts and logs whatever is decided below it, refusals included.
        observe = partial(observer, unmatched=parts.cells("none"), access_log=parts.access_log, tracing=parts.tracing)
        # Measures what is below, if anybody may know.
        timing = _server_timing(settings.server_timing, forwarded)
        # Nothing is decided on a target, Host or path that could be read in two ways.
        sanitize = Sanitize
        # Repeats the checked Host; all below ask for the client's address.
        client_address = partial(ClientAddress, policy=forwarded)
        # Takes the route, and with it the route's own decorators (see _RouteBuilder).
        self._router = Router(routes.table)
        # The user's own, for all requests: they may trust target, path and address, and the route is not taken yet.
        before = None if previous is None else previous.user_edge
        self.user_edge: Edge | None = parts.user_decorators(configuration).edge(self._router.render, before)
        end: Inner = self._router if self.user_edge is None else self.user_edge.first

        above: tuple[Decorator, ...] = (recovery, request_id, security_headers, *edge_cors)
        self._entry = nest(*above, probes, observe, *timing, sanitize, client_address, end=end)
        # A message that never became a request: same id, same log, only the answer is known beforehand.
        self._refusals = nest(*above, observe, end=_Refusal())
        # A listener that only says where TLS is spoken: a request is judged as any other, and goes no further.
        self._redirects = nest(*above, observe, sanitize, client_address, end=HttpsRedirect(parts.https_port))

    @property
    def edge(self) -> Inner:
        """The outermost of the edge decorators; by ``inner`` one comes to the router."""
        return self._entry

    def take_over(self, previous: Pipeline) -> None:
        """Requests come here from now on, also those that wait in a user's middleware at the edge of the previous one."""
        for edge in (previous.user_edge, self.user_edge):
            if edge is not None:
                edge.onward.render = self._router.render

    def dispatch(self, request: GatewayRequest) -> None:
        """Send a request on its way."""
        self._entry.render(request)

    def redirect(self, request: GatewayRequest) -> None:
        """Send the client to where TLS is spoken."""
        self._redirects.render(request)

    def refuse(self, request: GatewayRequest, error: GatewayError) -> None:
        """Answer a message that the transport could not make sense of."""
        request.error = error
        request.host = request.header(b"host")
        request.path = request.uri.partition(b"?")[0] or None  # type: ignore[assignment]
        self._refusals.render(request)
        error.__traceback__ = None  # it leads back to the request, which only the collector could free then


def _server_timing(mode: str, forwarded: ForwardedPolicy) -> list[Decorator]:
    """For ``all``, for ``trusted`` proxies only, or not at all."""
    if mode == "off":
        return []
    return [partial(ServerTiming, is_told=None if mode == "all" else forwarded.is_trusted)]


class _Refusal:
    """Raises what the transport found."""

    def render(self, request: GatewayRequest) -> Any:
        raise request.error or InternalError()


def nest(*decorators: Decorator, end: Inner) -> Inner:
    """Wrap ``end`` in decorators, named in request order: the first is the outermost."""
    for decorate in reversed(decorators):
        end = decorate(end)
    return end


class BuiltRoutes:
    """The routes of a configuration with their decorators.

    Attributes:
        table: finds them.
        entries: all of them, by name.
    """

    def __init__(self) -> None:
        self.table: RouteTable[RouteEntry] = RouteTable()
        self.entries: dict[str, RouteEntry] = {}

    def build(
        self, configuration: Configuration, parts: Collaborators, kept: Mapping[str, RouteEntry] = _NOTHING
    ) -> Iterator[None]:
        """Make all of them, some at each step.

        Args:
            kept: entries by name that need not be made.
        """
        builder = _RouteBuilder(configuration, parts)
        for route in configuration.routes:
            self.entries[route.name] = kept.get(route.name) or builder.entry(route)
            yield
        yield from self.table.fill((_rule(route), self.entries[route.name]) for route in configuration.routes)

    def drop(self) -> Iterator[None]:
        """Forget them, some at each step; requests under way have what they need."""
        yield from self.table.drop()
        while self.entries:
            self.entries.popitem()
            yield


class _RouteBuilder:
    """Makes routes with their own decorators, in request order; only those that each asks for."""

    def __init__(self, configuration: Configuration, parts: Collaborators) -> None:
        self._settings = configuration.settings
        self._parts = parts
        self._cors_policies: dict[CorsSettings, CorsPolicy | None] = {}
        self._user_decorators = parts.user_decorators(configuration)

    def entry(self, route: Route) -> RouteEntry:
        """What the router finds."""
        cors = self._cors(route.cors)
        # Outermost: every answer of the route carries them, whoever makes it.
        security_headers = partial(SecurityHeaders, settings=route.security_headers)
        decorators: list[Decorator] = [security_headers]
        # Above all that refuses: a page must be able to read the refusal.
        if cors is not None:
            decorators.append(partial(Cors, policy=cors))
        # What the route does not take at all must cost nothing below.
        decorators.append(self._admission(route))
        limit, is_by_subject = self._rate_limit(route)
        limit = self._timed("limit", limit)
        # Above authentication: attempts that fail count.
        decorators += limit if not is_by_subject else []
        # Below it everybody knows who asks.
        decorators += self._timed("auth", self._authentication(route))
        decorators += limit if is_by_subject else []
        # The user's own: they know who asks, and hold no permit while they wait.
        decorators += self._user_decorators.of_route(route.middlewares, route.name)
        # Below all that refuses: only what goes further holds a permit.
        decorators += self._timed("queue", [self._bulkhead(route)])
        # Below whatever reads the client's own fields.
        decorators += _header_transform(route)
        # Last: everything above sees the client's own path.
        decorators += _path_transform(route)
        resource = nest(*decorators, end=route_end(route, self._parts))
        preflights = in_vain = None
        if cors is not None:
            preflights = nest(security_headers, end=Preflights(cors))
            in_vain = nest(security_headers, end=Preflights(cors, is_served=False))
        return RouteEntry(
            route.name,
            resource,
            self._parts.cells(route.name),
            "TRACE" in route.methods,
            preflights,
            in_vain,
            keeps_path=not (route.strip_prefix or route.rewrite),
        )

    def _cors(self, settings: CorsSettings) -> CorsPolicy | None:
        """One for all routes with the same settings."""
        if settings not in self._cors_policies:
            self._cors_policies[settings] = _cors_policy(settings)
        return self._cors_policies[settings]

    def _timed(self, phase: str, decorators: list[Decorator]) -> list[Decorator]:
        """The decorators, with what measures them around, if anybody wants to know."""
        if not decorators or self._settings.server_timing == "off":
            return decorators
        clock = self._parts.clock
        return [partial(PhaseStart, phase=phase, clock=clock), *decorators, partial(PhaseEnd, clock=clock)]

    def _admission(self, route: Route) -> Decorator:
        return partial(
            Admission,
            max_body_bytes=route.max_body_bytes,
            underscore_headers=route.sanitize.underscore_headers,
            rejects_encoded_slash=route.sanitize.encoded_slash == "reject",
            allow_ips=route.allow_ips,
            deny_ips=route.deny_ips,
            allowed_methods=route.allowed_methods,
            allowed_content_types=route.allowed_content_types,
        )

    def _rate_limit(self, route: Route) -> tuple[list[Decorator], bool]:
        """The route's limit, if there is one, and whether it needs to know who asks."""
        settings, security = route.rate_limit, self._parts.security
        if settings is None:
            return [], False
        limit = Limit.of([(rate.count, rate.period_s) for rate in settings.rate], settings.burst)
        # A rate of the environment is one limit for all routes that inherit it.
        place = f"route/{route.name}" if route.has_own_rate_limit else "env"
        decorator = partial(
            RateLimit,
            limiter=security.limiters.limiter(place, limit, settings.on_store_error),
            name=route.name if route.has_own_rate_limit else "default",
            key=settings.key,
            route_name=route.name,
            count=self._parts.tallies(route.name).count,
        )
        return [decorator], "subject" in settings.key

    def _authentication(self, route: Route) -> list[Decorator]:
        authenticator, jwt = self._parts.security.authenticator, route.jwt
        if route.wants_token:
            if authenticator is None:
                raise ValueError(f"route {route.name!r} wants tokens, and there is no key")
            return [
                partial(
                    Authenticate,
                    authenticator=authenticator,
                    required_scopes=jwt.required_scopes,
                    claim_headers=jwt.claim_headers,
                    forward_token=jwt.forward_token,
                    public_paths=self._settings.jwt_public_paths,
                )
            ]
        if jwt.claim_headers:
            return [partial(DropClaimHeaders, claim_headers=jwt.claim_headers)]
        return []

    def _bulkhead(self, route: Route) -> Decorator:
        settings = route.bulkhead
        return partial(
            Bulkhead,
            max_concurrent=settings.max_concurrent,
            max_queue=settings.max_queue,
            queue_timeout_s=settings.queue_timeout_s,
            total_s=route.timeout.total_s,
            wheel=self._parts.wheel,
            clock=self._parts.clock,
        )


def _cors_policy(settings: CorsSettings) -> CorsPolicy | None:
    """None without CORS."""
    if not settings.allow_origins:
        return None
    return CorsPolicy(
        settings.allow_origins,
        settings.allow_methods,
        settings.allow_headers,
        settings.expose_headers,
        allow_credentials=settings.allow_credentials,
        max_age_s=settings.max_age_s,
    )


def _header_transform(route: Route) -> list[Decorator]:
    requests, responses = route.request_headers, route.response_headers
    if not (requests.set or requests.remove or responses.set or responses.remove):
        return []
    return [
        partial(
            HeaderTransform,
            request_set=requests.set,
            request_remove=requests.remove,
            response_set=responses.set,
            response_remove=responses.remove,
        )
    ]


def _path_transform(route: Route) -> list[Decorator]:
    strip = len(segments_of(route.path)) if route.strip_prefix else 0
    if not strip and not route.rewrite:
        return []
    return [partial(PathTransform, strip=strip, rewrite=route.rewrite or "")]


def _rule(route: Route) -> RouteRule:
    return RouteRule(route.name, route.hosts, route.path, route.methods, route.headers)
