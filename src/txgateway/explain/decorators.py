"""What is told of each decorator: the settings that it goes by, and what it would make of a request.

The order is not here: whoever walks along the pipeline's own decorators looks each up by its class. Those that decide by
the head alone, and touch nothing but the request, are really asked. The others count, wait or take something, and are
only described.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from types import MappingProxyType
from typing import Any, Final

from attrs import frozen

from txgateway.auth.authenticator import Authenticator, bearer_token
from txgateway.auth.token import VerifiedToken
from txgateway.config import Configuration, Route
from txgateway.config.effective import is_secret_header
from txgateway.config.problems import MASK
from txgateway.config.settings import JWT_KEY_SOURCES, variable_name
from txgateway.middleware.admission import Admission
from txgateway.middleware.authenticate import Authenticate, DropClaimHeaders
from txgateway.middleware.base import Middleware
from txgateway.middleware.bulkhead import Bulkhead
from txgateway.middleware.client_address import ClientAddress
from txgateway.middleware.cors import Cors, EdgeCors
from txgateway.middleware.guard import Guard
from txgateway.middleware.observe import Observe, ObserveTraced
from txgateway.middleware.probes import Probes
from txgateway.middleware.rate_limit import RateLimit, compile_key
from txgateway.middleware.recovery import Recovery
from txgateway.middleware.request_id import RequestId
from txgateway.middleware.sanitize import Sanitize
from txgateway.middleware.security_headers import EdgeSecurityHeaders, SecurityHeaders
from txgateway.middleware.server_timing import PhaseEnd, PhaseStart, ServerTiming
from txgateway.middleware.transform import HeaderTransform, PathTransform
from txgateway.request import GatewayRequest
from txgateway.transport.interfaces import NO_BODY

#: Facts by label, as JSON has them.
Says = Mapping[str, Any]

_NOTHING: Final[Says] = MappingProxyType({})
_SECURITY: Final = ("hsts", "csp", "frame_options", "referrer_policy", "permissions_policy")
_CORS: Final = (
    "cors.allow_origins", "cors.allow_methods", "cors.allow_headers", "cors.expose_headers", "cors.allow_credentials",
    "cors.max_age",
)  # fmt: skip


@frozen
class Surroundings:
    """Where a decorator stands.

    Attributes:
        route: that it belongs to; None at the edge.
        wants_token: a decorator above has asked for a token, whose subject nobody knows here.
    """

    configuration: Configuration
    route: Route | None = None
    wants_token: bool = False


class _End:
    """Behind it nothing happens: what is asked stops here."""

    def render(self, request: GatewayRequest) -> None:
        """Go no further."""


_END: Final = _End()


def _same(node: Middleware, _: Surroundings) -> Middleware:
    alone = copy(node)
    alone.inner = _END
    return alone


def _silent(*_: object) -> Says:
    return _NOTHING


@frozen
class Description:
    """What is told of a class of decorators.

    Attributes:
        keys: of its settings, the route's own or the process's.
        says: what it makes of a request; may raise what it refuses with.
        alone: one like it with nothing behind it, that may be asked; None if asking would leave traces.
        depends: whether the request passes is not known by its head.
    """

    keys: tuple[str, ...] = ()
    says: Callable[[Any, GatewayRequest, Surroundings], Says] = _silent
    alone: Callable[[Any, Surroundings], Middleware] | None = None
    depends: bool = False


# --- the edge ---------------------------------------------------------------------------------------------------------


def _unrouted(*_: object) -> Says:
    return {"applies to": "answers that no route makes"}


def _probe(node: Probes, request: GatewayRequest, _: Surroundings) -> Says:
    path = request.uri.partition(b"?")[0]
    return {"answers": f"the probe at {_text(path)}"} if path in node.resources else _NOTHING


def _sanitized(_: Sanitize, request: GatewayRequest, __: Surroundings) -> Says:
    host = "none" if request.host is None else _text(request.host)
    return {"host": host, "path": _text(request.path), "canonical path": _text(request.canonical_path)}


def _client(_: ClientAddress, request: GatewayRequest, __: Surroundings) -> Says:
    return {"client": request.client_ip or "unknown", "scheme": _text(request.forwarded.scheme)}


# --- a route's own ----------------------------------------------------------------------------------------------------


def _origin(node: Cors, request: GatewayRequest, _: Surroundings) -> Says:
    origin = request.fields.get(b"origin")
    if origin is None:
        return {"origin": "none: not a page of another origin"}
    verdict = node.policy.verdict(origin)
    if verdict is None:
        return {"origin": f"{_text(origin)} may not use it: the browser keeps the answer from the page"}
    return {"origin": f"{_text(origin)} may use it", "access-control-allow-origin": _text(verdict)}


def _admitted(_: Admission, request: GatewayRequest, around: Surroundings) -> Says:
    route = around.route
    if route is None:
        return _NOTHING
    has_body = request.length not in {NO_BODY, 0}
    media_type = _text(request.fields.get(b"content-type", b"none")) if has_body else "not looked at without a body"
    return {
        "address": request.client_ip if route.allow_ips or route.deny_ips else "any",
        "method": _text(request.method) if route.allowed_methods else "any",
        "content type": media_type if route.allowed_content_types else "any",
        "body": "declared" if has_body else "none declared",
    }


def _bucket(_: RateLimit, request: GatewayRequest, around: Surroundings) -> Says:
    route = around.route
    if route is None or route.rate_limit is None:
        return _NOTHING
    is_own = route.has_own_rate_limit
    return {
        "limit": route.name if is_own else "default",
        "buckets": "the route's own" if is_own else "shared by all routes that inherit the limit",
        "bucket": "|".join(_key_part(part, request, around) for part in route.rate_limit.key),
        "store": "memory" if around.configuration.settings.redis_url is None else "Redis",
    }


def _key_part(part: str, request: GatewayRequest, around: Surroundings) -> str:
    if part == "subject" and around.wants_token:
        return "subject=(the token's)"
    assert around.route is not None
    made = _text(compile_key([part], around.route.name)(request))
    kind, _, name = part.partition(":")
    if kind == "header" and is_secret_header(name) and made.startswith("header:"):
        return f"header:{name}={MASK}"  # the digest of a secret may be guessed
    return made


class _Anybody(Authenticator):
    """Takes every token for a good one that says nothing; but there has to be one."""

    def __init__(self) -> None:
        pass

    def authenticate(self, authorization: bytes | None) -> VerifiedToken:
        """Look for it, and not at it."""
        bearer_token(authorization)
        return VerifiedToken(None, frozenset(), {}, 0.0)


def _believing(_: Authenticate, around: Surroundings) -> Middleware:
    assert around.route is not None
    jwt = around.route.jwt
    return Authenticate(
        _END,
        _Anybody(),
        claim_headers=jwt.claim_headers,
        forward_token=jwt.forward_token,
        public_paths=around.configuration.settings.jwt_public_paths,
    )


def _token(node: Authenticate, request: GatewayRequest, around: Surroundings) -> Says:
    if node.is_public(request):
        return {"token": "not looked at: the path is public"}
    settings = around.configuration.settings
    source = next((key for key in JWT_KEY_SOURCES if getattr(settings, key) is not None), "")
    scopes = around.route.jwt.required_scopes if around.route is not None else ()
    return {
        "token": f"there is one, which would be checked by the keys of {variable_name(source)}",
        "scopes": "any" if not scopes else " ".join(scopes),
    }


def _target(_: PathTransform, request: GatewayRequest, __: Surroundings) -> Says:
    return {"target": _text(request.upstream_target or b"/")}


def _phase(node: PhaseStart, *_: object) -> Says:
    return {"phase": node.phase}


#: By class, exactly: whoever is not here is only told by name.
DESCRIPTIONS: Final[Mapping[type[Middleware], Description]] = {
    Recovery: Description(),
    RequestId: Description(keys=("trusted_proxies",)),
    EdgeSecurityHeaders: Description(keys=_SECURITY, says=_unrouted),
    EdgeCors: Description(keys=_CORS, says=_unrouted),
    Probes: Description(keys=("probe_prefix",), says=_probe),
    Observe: Description(keys=("access_log",)),
    ObserveTraced: Description(keys=("access_log",)),
    ServerTiming: Description(keys=("server_timing",)),
    Sanitize: Description(says=_sanitized, alone=lambda *_: Sanitize(_END)),  # a new one: they remember hosts
    ClientAddress: Description(keys=("trusted_proxies",), says=_client, alone=_same),
    SecurityHeaders: Description(keys=_SECURITY),
    Cors: Description(keys=_CORS, says=_origin),
    Admission: Description(
        keys=(
            "allow_ips",
            "deny_ips",
            "allowed_methods",
            "allowed_content_types",
            "max_body_bytes",
            "sanitize.encoded_slash",
            "sanitize.underscore_headers",
        ),
        says=_admitted,
        alone=_same,
    ),
    PhaseStart: Description(says=_phase),
    PhaseEnd: Description(),
    RateLimit: Description(
        keys=("rate_limit.rate", "rate_limit.burst", "rate_limit.key", "rate_limit.on_store_error", "redis_url"),
        says=_bucket,
        depends=True,
    ),
    Authenticate: Description(
        keys=(
            "auth",
            *JWT_KEY_SOURCES,
            "jwt_algorithms",
            "jwt_issuer",
            "jwt_audience",
            "jwt_leeway",
            "jwt_public_paths",
            "jwt.required_scopes",
            "jwt.claim_headers",
            "jwt.forward_token",
        ),
        says=_token,
        alone=_believing,
        depends=True,
    ),
    DropClaimHeaders: Description(keys=("jwt.claim_headers",), alone=_same),
    Bulkhead: Description(
        keys=("bulkhead.max_concurrent", "bulkhead.max_queue", "bulkhead.queue_timeout"), depends=True
    ),
    Guard: Description(depends=True),  # explain/users.py tells of the middleware behind it
    HeaderTransform: Description(
        keys=("request_headers.set", "request_headers.remove", "response_headers.set", "response_headers.remove"),
        alone=_same,
    ),
    PathTransform: Description(keys=("strip_prefix", "rewrite"), says=_target, alone=_same),
}


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
