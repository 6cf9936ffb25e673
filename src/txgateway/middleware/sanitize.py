"""Checks that a request says unambiguously whom and what it is for, before anything is decided on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from twisted.web.server import NOT_DONE_YET

from txgateway.errors import ORDINARY_METHODS, BadHost, BadPath, BadRequest, ExpectationFailed, MethodNotAllowed
from txgateway.headers import field_values, is_valid_host
from txgateway.middleware.base import Middleware
from txgateway.routing.path import canonical_path

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import Headers

_MAX_CACHED_HOSTS = 256

#: Fields that decide something and have one value: with two lines, the gateway and a backend, or two backends, may go
#: by different ones. RFC 9110 section 5.3 forbids to send them; sections 7.6.2, 8.3, 8.7, 11.6.2, 11.7.2, 13.1.3 to
#: 13.1.5, 14.2 and 14.4, RFC 6454 section 7.3 and the Fetch standard say that these have one value. Host and
#: Content-Length are the transport's business; what only describes the client (User-Agent, Referer, From) passes.
_SINGLETONS = frozenset(
    {
        b"access-control-request-method",
        b"authorization",
        b"content-location",
        b"content-range",
        b"content-type",
        b"if-modified-since",
        b"if-range",
        b"if-unmodified-since",
        b"max-forwards",
        b"origin",
        b"proxy-authorization",
        b"range",
    }
)


class Sanitize(Middleware):
    """Target form, ``Host``, path, ``Expect``, and fields that have one value.

    RFC 9110 sections 5.3, 7.2 and 10.1.1, RFC 9112 section 3.2.
    Sets ``host``, ``path``, ``canonical_path``, and ``upstream_target`` in origin-form.

    Position: below the log, above routing and everything that trusts path or host.
    Refuses: BAD_REQUEST, BAD_HOST, BAD_PATH, EXPECTATION_FAILED, METHOD_NOT_ALLOWED (CONNECT).
    On cancel: nothing to free.
    """

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self._valid_hosts: set[bytes] = set()  # what clients really send is a handful of names

    def render(self, request: GatewayRequest) -> Any:
        target = request.uri
        fields = request.fields
        host = fields.get(b"host")
        if request.method == b"CONNECT":  # in whatever form its target comes: a backend's 200 would begin a tunnel
            raise MethodNotAllowed(ORDINARY_METHODS)
        if not target.startswith(b"/"):
            if target != b"*":
                target, host = self._absolute(request, target)
            if target == b"*":
                if request.method != b"OPTIONS":
                    raise BadRequest("only OPTIONS may be for the server as a whole")
                self._check_host(request, host)
                request.path = b"*"
                request.answer(204, [], b"")
                return NOT_DONE_YET
        self._check_host(request, host)
        request.upstream_target = target
        mark = target.find(b"?")
        path = target if mark < 0 else target[:mark]
        request.path = path
        if b"#" in target:
            raise BadPath("a fragment in the target")
        request.canonical_path = canonical_path(path)
        if b"expect" in fields and request.clientproto != b"HTTP/1.0":
            for value in field_values(request.headers, b"expect"):
                if value.lower() != b"100-continue":
                    raise ExpectationFailed
        if len(fields) != len(request.headers):
            _check_singletons(request.headers)
        return self.inner.render(request)

    def _check_host(self, request: GatewayRequest, host: bytes | None) -> None:
        if host is None:
            if request.clientproto != b"HTTP/1.0":
                raise BadHost("missing")
            return
        if host not in self._valid_hosts:
            if not is_valid_host(host):
                raise BadHost("malformed")
            if len(self._valid_hosts) < _MAX_CACHED_HOSTS:
                self._valid_hosts.add(host)
        request.host = host

    def _absolute(self, request: GatewayRequest, target: bytes) -> tuple[bytes, bytes | None]:
        """Absolute-form becomes origin-form, and its authority replaces ``Host`` (RFC 9112 section 3.2.2)."""
        scheme, separator, rest = target.partition(b"://")
        if not separator or scheme.lower() not in (b"http", b"https"):
            raise BadRequest("target is neither origin-form nor absolute-form")
        self._check_host(request, request.fields.get(b"host"))  # RFC 9112 section 3.2: 400, though it is not used
        cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
        path = rest[cut:]
        if not path and request.method == b"OPTIONS":  # RFC 9112 section 3.2.4
            return b"*", rest[:cut]
        return path if path.startswith(b"/") else b"/" + path, rest[:cut]


def _check_singletons(headers: Headers) -> None:
    """Refuse a second line of a field that has one value; the same value twice is one too many as well."""
    seen: set[bytes] = set()
    for lowered, _, _ in headers:
        if lowered in seen:
            raise BadRequest("repeated field that has one value")
        if lowered in _SINGLETONS:
            seen.add(lowered)
