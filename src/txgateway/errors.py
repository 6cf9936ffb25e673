"""The one table of errors that the gateway itself answers with, and the values that travel with them.

Each class is one ``reason`` of the published error table: its status, its fixed text, whether the connection
survives it, and whose fault it was. Rendering them is :mod:`txgateway.problem`'s business; nothing else in the
gateway writes an error page.
"""

from __future__ import annotations

import math
from typing import ClassVar

#: What ``Allow`` says where every method but TRACE and CONNECT is allowed.
ORDINARY_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class GatewayError(Exception):
    """An answer that the gateway gives instead of a backend's.

    Class attributes (fixed per reason, safe to show to a client):
        status: HTTP status code.
        reason: the stable machine-readable code.
        title: a short human-readable summary (RFC 9457 section 3.1.3).
        detail: one fixed sentence; never holds request data or internals.
        closes_connection: the HTTP/1.1 connection cannot be used after this answer.
        counts_against_target: the target that was tried is to blame.
        proxy_error: the ``Proxy-Status`` error type (RFC 9209 section 2.3), or ``""``.
        extra_headers: further response headers that the reason always carries.

    The constructor's argument goes to the log only, and that of a 4xx nowhere.
    """

    status: ClassVar[int] = 500
    reason: ClassVar[str] = "INTERNAL_ERROR"
    title: ClassVar[str] = "Internal Server Error"
    detail: ClassVar[str] = "The gateway could not process the request."
    closes_connection: ClassVar[bool] = False
    counts_against_target: ClassVar[bool] = False
    proxy_error: ClassVar[str] = ""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Extra ``(name, value)`` response headers this error carries (``Allow``, ``Retry-After``, …)."""
        return []


# --- 4xx: the client's side -------------------------------------------------------------------------------------


class BadRequest(GatewayError):
    """Malformed or ambiguous message: framing, header or request-line syntax."""

    status, reason, title = 400, "BAD_REQUEST", "Bad Request"
    detail = "The request is malformed."
    closes_connection = True


class BadPath(GatewayError):
    """The request path is not one that can be routed safely."""

    status, reason, title = 400, "BAD_PATH", "Bad Request"
    detail = "The request path is not acceptable."


class BadHost(GatewayError):
    """Missing, repeated or malformed ``Host``."""

    status, reason, title = 400, "BAD_HOST", "Bad Request"
    detail = "The Host header is missing, repeated or malformed."
    closes_connection = True


class TokenError(GatewayError):
    """No acceptable bearer token; each subclass is a reason of its own.

    Class attributes:
        challenge_error: the ``error`` of the challenge (RFC 6750 section 3.1), ``""`` if the request had no token.
    """

    status, reason, title = 401, "TOKEN_MALFORMED", "Unauthorized"
    challenge_error: ClassVar[str] = "invalid_token"

    def headers(self) -> list[tuple[bytes, bytes]]:
        challenge = 'Bearer realm="txgateway"'
        if self.challenge_error:
            challenge += f', error="{self.challenge_error}", error_description="{self.detail}"'
        return [(b"WWW-Authenticate", challenge.encode("ascii"))]


class TokenMissing(TokenError):
    """No ``Authorization``, or one of another scheme than Bearer."""

    reason = "TOKEN_MISSING"
    detail = "The request has no bearer token."
    challenge_error = ""  # RFC 6750 section 3.1: nothing is said to a client that did not try


class TokenMalformed(TokenError):
    """Not a JWS in compact serialization that could be judged at all."""

    reason = "TOKEN_MALFORMED"
    detail = "The token is malformed."


class TokenExpired(TokenError):
    """``exp`` has passed."""

    reason = "TOKEN_EXPIRED"
    detail = "The token has expired."


class TokenNotYetValid(TokenError):
    """``nbf`` or ``iat`` lies in the future."""

    reason = "TOKEN_NOT_YET_VALID"
    detail = "The token is not valid yet."


class TokenBadSignature(TokenError):
    """The signature is not the key's, or the algorithm is not one of the key's."""

    reason = "TOKEN_BAD_SIGNATURE"
    detail = "The signature of the token is not valid."


class TokenBadClaims(TokenError):
    """A claim is missing, of the wrong type, or not the one that is asked for."""

    reason = "TOKEN_BAD_CLAIMS"
    detail = "The claims of the token are not acceptable."


class TokenUnknownKey(TokenError):
    """No key, or no single one, fits the token."""

    reason = "TOKEN_UNKNOWN_KEY"
    detail = "The token is signed with an unknown key."


class ScopeMissing(GatewayError):
    """The token is good and does not carry a scope that the route asks for.

    Args:
        required: the scopes of the route, for the challenge (RFC 6750 section 3).
    """

    status, reason, title = 403, "SCOPE_MISSING", "Forbidden"
    detail = "The token does not carry a required scope."

    def __init__(self, required: tuple[str, ...] = ()) -> None:
        super().__init__(" ".join(required))
        self.required = required

    def headers(self) -> list[tuple[bytes, bytes]]:
        challenge = f'Bearer realm="txgateway", error="insufficient_scope", error_description="{self.detail}"'
        if self.required:
            challenge += f', scope="{" ".join(self.required)}"'
        return [(b"WWW-Authenticate", challenge.encode("ascii"))]


class OriginNotAllowed(GatewayError):
    """A preflight from an origin that the route does not allow."""

    status, reason, title = 403, "ORIGIN_NOT_ALLOWED", "Forbidden"
    detail = "The origin is not allowed to use this resource."


class IpDenied(GatewayError):
    """The client's address is denied, or not among those allowed."""

    status, reason, title = 403, "IP_DENIED", "Forbidden"
    detail = "The client address is not allowed to use this resource."


class NoRoute(GatewayError):
    """No route matches host and path."""

    status, reason, title = 404, "NO_ROUTE", "Not Found"
    detail = "No route matches the request."


class MethodNotAllowed(GatewayError):
    """Routes match host and path, but not with this method.

    Args:
        allowed: the methods of those routes, for ``Allow`` (RFC 9110 section 10.2.1).
    """

    status, reason, title = 405, "METHOD_NOT_ALLOWED", "Method Not Allowed"
    detail = "The method is not allowed for this resource."

    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(", ".join(allowed))
        self.allowed = allowed

    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(b"Allow", ", ".join(self.allowed).encode("ascii"))]


class RequestTimeout(GatewayError):
    """The client took too long to send the head or the body."""

    status, reason, title = 408, "REQUEST_TIMEOUT", "Request Timeout"
    detail = "The request was not received in time."
    closes_connection = True


class BodyTooLarge(GatewayError):
    """The request body is, or declares to be, larger than the route accepts."""

    status, reason, title = 413, "BODY_TOO_LARGE", "Content Too Large"
    detail = "The request body is larger than this resource accepts."


class UriTooLong(GatewayError):
    """The request target exceeds its limit."""

    status, reason, title = 414, "URI_TOO_LONG", "URI Too Long"
    detail = "The request target is too long."
    closes_connection = True


class ContentTypeNotAllowed(GatewayError):
    """The body's media type is not among those that the route takes."""

    status, reason, title = 415, "CONTENT_TYPE_NOT_ALLOWED", "Unsupported Media Type"
    detail = "The content type is not accepted by this resource."


class ExpectationFailed(GatewayError):
    """An ``Expect`` other than ``100-continue`` (RFC 9110 section 10.1.1)."""

    status, reason, title = 417, "EXPECTATION_FAILED", "Expectation Failed"
    detail = "The expectation is not supported."


class HeadersTooLarge(GatewayError):
    """The header section exceeds its limit in bytes or in number of fields."""

    status, reason, title = 431, "HEADERS_TOO_LARGE", "Request Header Fields Too Large"
    detail = "The request header fields are too large or too many."
    closes_connection = True


class RateLimited(GatewayError):
    """A rate limit is used up.

    Args:
        retry_after_s: until a request would be admitted again; told in whole seconds, at least 1.
    """

    status, reason, title = 429, "RATE_LIMITED", "Too Many Requests"
    detail = "Too many requests were made."

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(f"for {retry_after_s:.3f} s")
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        return _retry_after(self.retry_after_s)


def _retry_after(seconds: float) -> list[tuple[bytes, bytes]]:
    return [(b"Retry-After", b"%d" % max(1, math.ceil(seconds)))]


# --- 5xx: our side ----------------------------------------------------------------------------------------------


class InternalError(GatewayError):
    """A fault of the gateway; the log has the traceback, the client does not."""

    proxy_error = "proxy_internal_error"


class MethodNotImplemented(GatewayError):
    """A method the gateway does not know at all (RFC 9110 section 9.1)."""

    status, reason, title = 501, "METHOD_NOT_IMPLEMENTED", "Not Implemented"
    detail = "The method is not implemented."
    closes_connection = True
    proxy_error = "http_request_denied"


class VersionNotSupported(GatewayError):
    """An HTTP major version other than 1 on this connection."""

    status, reason, title = 505, "VERSION_NOT_SUPPORTED", "HTTP Version Not Supported"
    detail = "The HTTP version is not supported."
    closes_connection = True
    proxy_error = "http_request_denied"


class Draining(GatewayError):
    """The gateway is going away and this request came too late."""

    status, reason, title = 503, "DRAINING", "Service Unavailable"
    detail = "The gateway is shutting down."
    closes_connection = True
    proxy_error = "proxy_internal_response"


class JwksUnavailable(GatewayError):
    """The issuer's keys have never been downloaded, so no token can be judged."""

    status, reason, title = 503, "JWKS_UNAVAILABLE", "Service Unavailable"
    detail = "Tokens cannot be verified at the moment."
    proxy_error = "proxy_internal_error"


class RateLimitStoreDown(GatewayError):
    """The store of the rate limits does not answer, and the route wants no request then."""

    status, reason, title = 503, "RATE_LIMIT_STORE_DOWN", "Service Unavailable"
    detail = "Rate limits cannot be checked at the moment."
    proxy_error = "proxy_internal_error"


class BulkheadFull(GatewayError):
    """The route has as many requests under way as it allows, and waiting is not possible or took too long."""

    status, reason, title = 503, "BULKHEAD_FULL", "Service Unavailable"
    detail = "Too many requests for this resource are under way."
    proxy_error = "connection_limit_reached"


class DeadlineExceeded(GatewayError):
    """The route's total time was used up before a response head arrived."""

    status, reason, title = 504, "DEADLINE_EXCEEDED", "Gateway Timeout"
    detail = "The request could not be answered in time."
    proxy_error = "http_response_timeout"


# --- 5xx: the backend's side ------------------------------------------------------------------------------------


class UpstreamError(GatewayError):
    """An attempt at a target failed.

    Attributes:
        bytes_written: whether any byte of the request may have reached the target.
        response_started: whether any byte of the response was received.
        on_reused_connection: the connection had served an exchange before this one.
    """

    status, reason, title = 502, "UPSTREAM_RESET", "Bad Gateway"
    counts_against_target = True
    bytes_written: bool = False
    response_started: bool = False
    on_reused_connection: bool = False


class UpstreamConnectFailed(UpstreamError):
    """Refused, unreachable, or the name did not resolve."""

    reason = "UPSTREAM_CONNECT_FAILED"
    detail = "The gateway could not connect to the backend."
    proxy_error = "connection_refused"


class UpstreamNameUnknown(UpstreamConnectFailed):
    """The target's name does not resolve; the same to a client, another word in ``Proxy-Status``."""

    proxy_error = "dns_error"


class UpstreamReset(UpstreamError):
    """The connection ended before the response was complete."""

    reason = "UPSTREAM_RESET"
    detail = "The backend closed the connection before the response was complete."
    proxy_error = "connection_terminated"


class UpstreamRefused(UpstreamReset):
    """The target has not looked at the request, and says so (RFC 9113 section 8.7): to repeat it does no harm."""


class UpstreamProtocolError(UpstreamError):
    """The response is not HTTP, or breaks a limit or a rule of it."""

    reason = "UPSTREAM_PROTOCOL_ERROR"
    detail = "The backend sent an invalid response."
    proxy_error = "http_protocol_error"


class UpstreamTlsError(UpstreamError):
    """The TLS handshake with the target failed or its certificate was not accepted."""

    reason = "UPSTREAM_TLS_ERROR"
    detail = "The gateway could not establish a secure connection to the backend."
    proxy_error = "tls_protocol_error"


class UpstreamTimeout(UpstreamError):
    """The target did not accept the connection, or fell silent before the response head."""

    status, reason, title = 504, "UPSTREAM_TIMEOUT", "Gateway Timeout"
    detail = "The backend did not answer in time."
    proxy_error = "connection_timeout"


class UpstreamSilent(UpstreamTimeout):
    """A connected target fell silent; the same to a client, another word in ``Proxy-Status``."""

    proxy_error = "http_response_timeout"


class NoHealthyTarget(GatewayError):
    """No target of the backend is healthy."""

    status, reason, title = 503, "NO_HEALTHY_TARGET", "Service Unavailable"
    detail = "No healthy backend is available."
    proxy_error = "destination_unavailable"


class BreakerOpen(GatewayError):
    """The breakers of all targets that could be used are open.

    Args:
        retry_after_s: until one of them lets an attempt through; told in whole seconds, at least 1.
    """

    status, reason, title = 503, "BREAKER_OPEN", "Service Unavailable"
    detail = "The backend has failed too often and is not tried for a while."
    proxy_error = "destination_unavailable"

    def __init__(self, retry_after_s: float = 1.0) -> None:
        super().__init__(f"for {retry_after_s:.3f} s")
        self.retry_after_s = retry_after_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        return _retry_after(self.retry_after_s)


class PoolExhausted(GatewayError):
    """All connections to the target are busy and the queue is full, or waiting in it took too long."""

    status, reason, title = 503, "POOL_EXHAUSTED", "Service Unavailable"
    detail = "Too many requests are waiting for the backend."
    proxy_error = "connection_limit_reached"


#: Reason of a request whose client left; logged with this status, never sent.
CLIENT_GONE = "CLIENT_GONE"
CLIENT_GONE_STATUS = 499
