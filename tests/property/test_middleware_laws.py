"""The gateway's own middlewares keep the laws that users' are put to, but for what each declares."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache, partial
from ipaddress import ip_network
from random import Random
from typing import Any

import jwt
import pytest
from twisted.internet.defer import Deferred

from txgateway import middleware
from txgateway.auth.authenticator import Authenticator
from txgateway.config import load
from txgateway.config.groups import SecurityHeaders as SecuritySettings
from txgateway.cors import CorsPolicy
from txgateway.forwarded import ForwardedPolicy
from txgateway.middleware import Context, Inner, Middleware
from txgateway.middleware.admission import Admission
from txgateway.middleware.authenticate import Authenticate, DropClaimHeaders
from txgateway.middleware.bulkhead import Bulkhead
from txgateway.middleware.client_address import ClientAddress
from txgateway.middleware.cors import Cors, EdgeCors
from txgateway.middleware.guard import Guard, Watch
from txgateway.middleware.observe import Observe, ObserveTraced, observer
from txgateway.middleware.probes import Probes
from txgateway.middleware.rate_limit import RateLimit
from txgateway.middleware.recovery import Recovery
from txgateway.middleware.request_id import RequestId
from txgateway.middleware.router import RouteEntry, Router
from txgateway.middleware.sanitize import Sanitize
from txgateway.middleware.security_headers import EdgeSecurityHeaders, SecurityHeaders
from txgateway.middleware.server_timing import PhaseEnd, PhaseStart, ServerTiming
from txgateway.middleware.transform import HeaderTransform, PathTransform
from txgateway.ratelimit import Decision, Limit
from txgateway.ratelimit.memory import MemoryLimiters
from txgateway.routing.table import RouteRule, RouteTable
from txgateway.security import Security
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.telemetry.user_metrics import UserMetrics
from txgateway.testing.clients import EPOCH_S
from txgateway.testing.laws import assert_middleware_laws
from txgateway.transport.wheel import TimerWheel

Factory = Callable[[Any, Context], Inner]
#: Of each kind of examples.
EXAMPLES = 12

NOBODY = ForwardedPolicy(())
SECRET = "0123456789abcdef" * 4
TOKEN = jwt.encode({"sub": "somebody", "exp": int(EPOCH_S) + 10**6, "org": "acme"}, SECRET, "HS256")
BEARER = ((b"Authorization", b"Bearer " + TOKEN.encode()),)
CLAIM_HEADERS = (("org", "X-Org"), ("sub", "X-B"))
SECURITY_FIELDS = [
    "Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Permissions-Policy",
    "Strict-Transport-Security",
]  # fmt: skip
CORS_FIELDS = [
    "Vary", "Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers",
]  # fmt: skip
LIMIT_FIELDS = ["RateLimit", "RateLimit-Policy", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"]
CORS = CorsPolicy(("https://app.example",), ("GET",), (), ("X-A",), allow_credentials=True, max_age_s=60)


@cache
def settings_of(**environment: str) -> Any:
    return load({"GATEWAY_BACKEND_TARGET": "http://backend", **environment}).settings


class Cells:
    """Counts what it is told, as a route's cells do."""

    def __init__(self) -> None:
        self.counts = {"requests": 0, "bytes_in": 0, "bytes_out": 0}

    def observe(self, method: bytes, status: int, seconds: float, bytes_in: int, bytes_out: int, reason: Any) -> None:
        self.counts["requests"] += 1
        self.counts["bytes_in"] += bytes_in
        self.counts["bytes_out"] += bytes_out

    def exemplify(self, method: bytes, seconds: float, trace_id: str) -> None: ...
    def started(self) -> None: ...
    def ended(self) -> None: ...


class Trace:
    is_sampled = True
    trace_id = "0" * 32

    def end(self, request: Any) -> None: ...


class Tracer:
    def begin(self, request: Any, /) -> None:
        request.trace = Trace()


class SlowLimiter:
    """Decides later, as a store over a network does."""

    def __init__(self, context: Context) -> None:
        self.limit = Limit.of([(5, 60)], None)
        self._clock = context.clock
        self._take = MemoryLimiters(context.clock.seconds).limiter("slow", self.limit, "local").take

    def take(self, key: bytes) -> Deferred[Decision]:
        decided: Deferred[Decision] = Deferred(lambda _: call.cancel())
        call = self._clock.callLater(0.25, lambda: decided.callback(self._take(key)))
        return decided


def authenticator(context: Context) -> Authenticator:
    settings = settings_of(GATEWAY_JWT_SECRET=SECRET, GATEWAY_JWT_AUDIENCE="")
    made = Security(settings, context.clock, context.epoch_s, RequestMetrics().tokens.count, Random(1)).authenticator
    assert made is not None
    return made


def admission(inner: Inner, context: Context, **others: Any) -> Inner:
    return Admission(inner, 4000, "drop", rejects_encoded_slash=False, **others)


def authenticate(inner: Inner, context: Context, **others: Any) -> Inner:
    return Authenticate(inner, authenticator(context), claim_headers=CLAIM_HEADERS, **others)


def bulkhead(inner: Inner, context: Context, max_queue: int = 3) -> Inner:
    return Bulkhead(inner, 2, max_queue, 10.0, 30.0, TimerWheel(context.clock), context.clock)


def guard(inner: Inner, context: Context) -> Inner:
    class Waiting(Middleware):
        def render(self, request: Any) -> Any:
            if request.method != b"DELETE":
                return self.inner.render(request)
            later: Deferred[None] = Deferred(lambda _: call.cancel())
            call = context.clock.callLater(0.25, later.callback, None)
            return self.when(later, request, lambda _, request: self.inner.render(request))

    watch = Watch("tested", UserMetrics().blocked.labels("tested"), context.clock)
    return Guard(inner, Waiting(inner), "tested", watch, context.clock)


def observe(inner: Inner, context: Context, tracing: Tracer | None = None) -> Inner:
    return observer(inner, Cells(), None, tracing)


def rate_limit(inner: Inner, context: Context, limiter: Any = None) -> Inner:
    limiter = limiter or MemoryLimiters(context.clock.seconds).limiter("here", Limit.of([(5, 60)], None), "local")
    return RateLimit(inner, limiter, "default", ("ip", "header:x-a"), "tested", lambda _: None)


def slow_rate_limit(inner: Inner, context: Context) -> Inner:
    return rate_limit(inner, context, SlowLimiter(context))


def router(inner: Inner, context: Context) -> Inner:
    table: RouteTable[RouteEntry] = RouteTable()
    rule = RouteRule("tested", (), "/", (), {})
    for _ in table.fill([(rule, RouteEntry("tested", inner, Cells(), allows_trace=False))]):
        pass
    return Router(table)


def header_transform(inner: Inner, context: Context) -> Inner:
    return HeaderTransform(inner, {"X-B": "set"}, ("Cookie",), {"X-B": "set"}, ("ETag", "X-T"))


def reported(middleware: Any) -> dict[str, int]:
    return dict(middleware._unmatched.counts)


CASES: dict[str, tuple[type[Any], Factory, dict[str, Any]]] = {
    "admission": (Admission, admission, {"refuses": ["BODY_TOO_LARGE"]}),
    "admission of some": (
        Admission,
        partial(admission, allow_ips=[ip_network("127.0.0.0/8")], allowed_methods=["GET", "POST"]),
        {"refuses": ["BODY_TOO_LARGE", "METHOD_NOT_ALLOWED"]},
    ),
    "authenticate": (Authenticate, authenticate, {"refuses": ["TOKEN_MISSING"]}),
    "authenticate with a token": (
        Authenticate,
        partial(authenticate, forward_token=False),
        {"request_headers": BEARER, "changes_request_headers": ["Authorization", "X-Org", "X-B"]},
    ),
    "no authentication": (
        DropClaimHeaders,
        lambda inner, context: DropClaimHeaders(inner, CLAIM_HEADERS),
        {"changes_request_headers": ["X-Org", "X-B"]},
    ),
    "bulkhead": (Bulkhead, bulkhead, {"refuses": ["BULKHEAD_FULL", "DEADLINE_EXCEEDED"]}),
    "bulkhead without a queue": (Bulkhead, partial(bulkhead, max_queue=0), {"refuses": ["BULKHEAD_FULL"]}),
    "client address": (ClientAddress, lambda inner, context: ClientAddress(inner, NOBODY), {}),
    "CORS": (
        Cors,
        lambda inner, context: Cors(inner, CORS),
        {"changes_response_headers": CORS_FIELDS, "request_headers": ((b"Origin", b"https://app.example"),)},
    ),
    "CORS at the edge": (
        EdgeCors,
        lambda inner, context: EdgeCors(inner, CORS),
        {"changes_response_headers": CORS_FIELDS},
    ),
    "guard": (Guard, guard, {}),
    "observe": (Observe, observe, {"reports": reported}),
    "observe traced": (ObserveTraced, partial(observe, tracing=Tracer()), {"reports": reported}),
    "probes": (Probes, lambda inner, context: Probes(inner, {}), {}),
    "rate limit": (
        RateLimit,
        rate_limit,
        {
            "refuses": ["RATE_LIMITED", "BAD_REQUEST"],
            "changes_response_headers": LIMIT_FIELDS,
            "depends_on_others": True,
        },
    ),
    "slow rate limit": (
        RateLimit,
        slow_rate_limit,
        {
            "refuses": ["RATE_LIMITED", "BAD_REQUEST"],
            "changes_response_headers": LIMIT_FIELDS,
            "depends_on_others": True,
        },
    ),
    "recovery": (Recovery, lambda inner, context: Recovery(inner), {}),
    "request id": (
        RequestId,
        lambda inner, context: RequestId(inner, lambda _: False, lambda: "made"),
        {"changes_response_headers": ["X-Request-ID"]},
    ),
    "router": (Router, router, {}),
    "sanitize": (Sanitize, lambda inner, context: Sanitize(inner), {}),
    "security headers": (
        SecurityHeaders,
        lambda inner, context: SecurityHeaders(inner, SecuritySettings()),
        {"changes_response_headers": SECURITY_FIELDS},
    ),
    "security headers at the edge": (
        EdgeSecurityHeaders,
        lambda inner, context: EdgeSecurityHeaders(inner, SecuritySettings(), NOBODY),
        {"changes_response_headers": SECURITY_FIELDS},
    ),
    "server timing": (
        ServerTiming,
        lambda inner, context: ServerTiming(inner, None),
        {"changes_response_headers": ["Server-Timing"]},
    ),
    "phase start": (PhaseStart, lambda inner, context: PhaseStart(inner, "auth", context.clock), {}),
    "phase end": (PhaseEnd, lambda inner, context: PhaseEnd(inner, context.clock), {}),
    "header transform": (
        HeaderTransform,
        header_transform,
        {"changes_request_headers": ["X-B", "Cookie"], "changes_response_headers": ["X-B", "ETag", "X-T"]},
    ),
    "path transform": (PathTransform, lambda inner, context: PathTransform(inner, 1, ""), {"changes": ["target"]}),
}


@pytest.mark.parametrize("name", CASES)
def test_middleware_keeps_the_laws(name: str) -> None:
    _, factory, promises = CASES[name]
    assert_middleware_laws(factory, **promises, max_examples=EXAMPLES)


def test_none_is_left_out() -> None:
    names = [f"{middleware.__name__}.{one.name}" for one in pkgutil.iter_modules(middleware.__path__)]
    modules = [importlib.import_module(name) for name in names]
    kinds = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__ and issubclass(value, Middleware)
    }
    assert kinds - {Middleware} <= {kind for kind, _, _ in CASES.values()}
