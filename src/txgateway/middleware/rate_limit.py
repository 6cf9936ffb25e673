"""Rate limits: who shares a bucket, and what the client is told about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from txgateway.errors import BadRequest, RateLimited, RateLimitStoreDown
from txgateway.fields import Fields, replaced
from txgateway.headers import field_values
from txgateway.middleware.base import Inner, Middleware
from txgateway.ratelimit import Decision, Limit, Limiter
from txgateway.ratelimit.keys import address_part, header_part, plain_part, subject_part

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_POLICY: Final = (b"ratelimit-policy", b"RateLimit-Policy")
_STATE: Final = (b"ratelimit", b"RateLimit")
_LIMIT: Final = (b"x-ratelimit-limit", b"X-RateLimit-Limit")
_REMAINING: Final = (b"x-ratelimit-remaining", b"X-RateLimit-Remaining")
_RESET: Final = (b"x-ratelimit-reset", b"X-RateLimit-Reset")
#: What is remembered of all limits together; many clients are told the same.
MAX_TOLD: Final = 2048
_OURS: Final = {name: b"" for name, _ in (_POLICY, _STATE, _LIMIT, _REMAINING, _RESET)}


class RateLimit(Middleware):
    """Admits as many requests as a limit allows.

    Position: above Authenticate, so that failed log-ins count; below it if the key has the subject in it.
    Refuses: RATE_LIMITED; BAD_REQUEST (several lines of the header in the key); RATE_LIMIT_STORE_DOWN if the store is, and the route wants no request then.
    On cancel: a decision under way is dropped; its token may be gone.

    Args:
        inner: what it wraps.
        limiter: of the place where the limit is written.
        name: that the headers call the limit by.
        key: what requests must share to share a bucket: ``ip``, ``subject``, ``route`` or ``header:name``, the name
            lowered; without subject or header a request counts by its address.
        route_name: of the route that this stands in.
        count: called for each decision with ``allowed`` or ``limited``, and before that with ``store_error`` if the
            store had no part in it; with that alone if nobody could decide.
    """

    def __init__(
        self,
        inner: Inner,
        limiter: Limiter,
        name: str,
        key: Sequence[str],
        route_name: str,
        count: Callable[[str], None],
    ) -> None:
        super().__init__(inner)
        self._take = limiter.take
        self._count = count
        self._key = compile_key(key, route_name)
        self._headers = LimitHeaders(limiter.limit, name)

    def render(self, request: GatewayRequest) -> Any:
        decision = self._take(self._key(request))
        if decision.__class__ is Decision:
            return self._decided(decision, request)
        return self.when(decision, request, self._decided)  # type: ignore[arg-type]

    def _decided(self, decision: Decision, request: GatewayRequest) -> Any:
        if decision.store_failed:
            self._count("store_error")
        if decision.levels:
            request.before_head(partial(self._headers.replace, decision))
        if decision.allowed:
            self._count("allowed")
            return self.inner.render(request)
        if not decision.levels:
            raise RateLimitStoreDown
        self._count("limited")
        raise RateLimited(decision.retry_after_s)


def compile_key(parts: Sequence[str], route_name: str) -> Callable[[GatewayRequest], bytes]:
    """What makes a request's key, from the parts of the configuration."""
    functions = [_part(part, route_name) for part in parts]
    if len(functions) == 1:
        return functions[0]
    return lambda request: b"|".join([function(request) for function in functions])


def _part(part: str, route_name: str) -> Callable[[GatewayRequest], bytes]:
    def ip(request: GatewayRequest) -> bytes:
        return address_part(request.client_ip)

    def subject(request: GatewayRequest) -> bytes:
        return address_part(request.client_ip) if request.subject is None else subject_part(request.subject)

    def header(request: GatewayRequest) -> bytes:
        if len(request.fields) != len(request.headers) and len(field_values(request.headers, name)) > 1:
            raise BadRequest("several lines of the header that the limit goes by: a backend may take another one")
        value = request.fields.get(name)
        return header_part(name, value) if value else address_part(request.client_ip)

    def route(_: GatewayRequest) -> bytes:
        return constant

    constant = b"route=" + plain_part(route_name)
    name = part.removeprefix("header:").encode("ascii")
    return {"ip": ip, "subject": subject, "route": route}.get(part, header)


#: Fields by limit and numbers.
_told: dict[tuple[object, ...], Fields] = {}


class LimitHeaders:
    """The fields that tell a client about a limit (draft-ietf-httpapi-ratelimit-headers-11, and what came before it).

    Args:
        limit: as configured.
        name: of the limit.
    """

    def __init__(self, limit: Limit, name: str) -> None:
        quoted = _quoted(name)
        policy = b", ".join(quoted + b";q=%d;w=%d" % (bucket.burst, bucket.window_s) for bucket in limit.buckets)
        self._policy = (*_POLICY, policy)
        self._limits = [(*_LIMIT, b"%d" % bucket.burst) for bucket in limit.buckets]
        self._format = b", ".join([quoted.replace(b"%", b"%%") + b";r=%d;t=%d"] * len(limit.buckets))

    def replace(self, decision: Decision, request: GatewayRequest) -> None:
        """Tell about ``decision``, instead of whatever a backend tells."""
        left, reset_s = decision.left, decision.reset_s
        key = (self, left[0], reset_s[0]) if len(left) == 1 else (self, *left, *reset_s)
        fields = _told.get(key)
        if fields is None:
            fields = self._fields(left, reset_s)
            if len(_told) >= MAX_TOLD:
                _told.clear()
            _told[key] = fields
        request.response_headers = replaced(request.response_headers, fields.fields, _OURS, fields.wire)

    def _fields(self, left: list[int], reset_s: list[int]) -> Fields:
        tightest = min(range(len(left)), key=lambda index: (left[index], -reset_s[index]))
        pairs = [number for pair in zip(left, reset_s, strict=True) for number in pair]
        return Fields(
            (
                self._policy,
                (*_STATE, self._format % tuple(pairs)),
                self._limits[tightest],
                (*_REMAINING, b"%d" % left[tightest]),
                (*_RESET, b"%d" % reset_s[tightest]),
            )
        )


def _quoted(name: str) -> bytes:
    """A structured-field string (RFC 9651 section 4.1.6), which has printable ASCII only."""
    text = "".join(character if " " <= character <= "~" else "?" for character in name)
    return b'"%b"' % text.replace("\\", "\\\\").replace('"', '\\"').encode("ascii")
