"""Response fields that tell browsers to be careful."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txgateway.config.groups import SecurityHeaders as Settings
from txgateway.fields import Fields, has_field
from txgateway.forwarded import ForwardedPolicy
from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest
    from txgateway.transport.interfaces import Header, HeaderList

_CSP = b"Content-Security-Policy"
_CSP_LOWERED = _CSP.lower()
_HSTS = b"Strict-Transport-Security"


class SecurityFields:
    """The fields, compiled from their settings.

    A field whose setting is empty is not made, and a backend's own is left alone. A field that is made replaces a
    backend's, but for ``Content-Security-Policy``: only the backend knows what its pages load.
    """

    __slots__ = ("_has_csp", "_names", "_names_but_csp", "_over_http", "_over_https")

    def __init__(self, settings: Settings) -> None:
        wanted = (
            (_CSP, settings.csp),  # first, so that adding the fields twice changes nothing
            (b"X-Content-Type-Options", "nosniff"),
            (b"X-Frame-Options", settings.frame_options),
            (b"Referrer-Policy", settings.referrer_policy),
            (b"Permissions-Policy", settings.permissions_policy),
            (_HSTS, settings.hsts),
        )
        fields: list[Header] = [(name.lower(), name, value.encode("ascii")) for name, value in wanted if value]
        self._over_https = _Variants(fields)
        # RFC 6797 section 7.2: never over an insecure transport; a backend's is taken out there, too.
        self._over_http = _Variants([field for field in fields if field[1] != _HSTS])
        self._names = {field[0]: b"" for field in fields}
        self._names_but_csp = {name: b"" for name in self._names if name != _CSP_LOWERED}
        self._has_csp = bool(settings.csp)

    def added_to(self, headers: HeaderList, *, is_secure: bool) -> HeaderList:
        """``headers`` with the fields, each once; the others in order. The list itself may be changed and returned.

        Args:
            is_secure: the client's own connection is.
        """
        variants = self._over_https if is_secure else self._over_http
        if self._has_csp and has_field(headers, _CSP_LOWERED):
            return variants.but_csp.replaced_in(headers, self._names_but_csp)
        return variants.all.replaced_in(headers, self._names)


class _Variants:
    """The fields for answers without and with a policy of their own."""

    __slots__ = ("all", "but_csp")

    def __init__(self, fields: list[Header]) -> None:
        self.all = Fields(fields)
        self.but_csp = Fields([field for field in fields if field[1] != _CSP])


class SecurityHeaders(Middleware):
    """Puts the route's security headers on every answer of the route, refusals included.

    Position: first of a route's decorators.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    def __init__(self, inner: Inner, settings: Settings) -> None:
        super().__init__(inner)
        self._fields = SecurityFields(settings)

    def render(self, request: GatewayRequest) -> Any:
        request.before_head(self._add)
        return self.inner.render(request)

    def _add(self, request: GatewayRequest) -> None:
        is_secure = self._scheme(request) == b"https"
        request.response_headers = self._fields.added_to(request.response_headers, is_secure=is_secure)

    def _scheme(self, request: GatewayRequest) -> bytes:
        known = getattr(request, "forwarded", None)
        return request.channel.scheme if known is None else known.scheme  # type: ignore[no-any-return]


class EdgeSecurityHeaders(SecurityHeaders):
    """The process-wide security headers, on answers to requests that no route took: probes and refusals.

    Position: at the edge, above the probes and whatever may refuse.
    Refuses: nothing.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        settings: of the process.
        policy: tells whether the client's own connection is secure, where ClientAddress has not been asked yet.
    """

    def __init__(self, inner: Inner, settings: Settings, policy: ForwardedPolicy) -> None:
        super().__init__(inner, settings)
        self._policy = policy

    def _add(self, request: GatewayRequest) -> None:
        if request.route_name is None:
            super()._add(request)

    def _scheme(self, request: GatewayRequest) -> bytes:
        known = getattr(request, "forwarded", None)
        if known is None:  # a probe, or refused above ClientAddress
            channel = request.channel
            known = self._policy.resolve(channel.peer_ip, request.headers, scheme=channel.scheme, host=b"", port=0)
        return known.scheme
