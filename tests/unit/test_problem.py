from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest
from tests.unit.support import stub_request

from txgateway import errors
from txgateway.errors import GatewayError, MethodNotAllowed
from txgateway.problem import render_problem

#: The published table: status, title and detail are fixed per reason.
TABLE = {
    "BAD_REQUEST": (400, "Bad Request", "The request is malformed."),
    "BAD_PATH": (400, "Bad Request", "The request path is not acceptable."),
    "BAD_HOST": (400, "Bad Request", "The Host header is missing, repeated or malformed."),
    "TOKEN_MISSING": (401, "Unauthorized", "The request has no bearer token."),
    "TOKEN_MALFORMED": (401, "Unauthorized", "The token is malformed."),
    "TOKEN_EXPIRED": (401, "Unauthorized", "The token has expired."),
    "TOKEN_NOT_YET_VALID": (401, "Unauthorized", "The token is not valid yet."),
    "TOKEN_BAD_SIGNATURE": (401, "Unauthorized", "The signature of the token is not valid."),
    "TOKEN_BAD_CLAIMS": (401, "Unauthorized", "The claims of the token are not acceptable."),
    "TOKEN_UNKNOWN_KEY": (401, "Unauthorized", "The token is signed with an unknown key."),
    "SCOPE_MISSING": (403, "Forbidden", "The token does not carry a required scope."),
    "ORIGIN_NOT_ALLOWED": (403, "Forbidden", "The origin is not allowed to use this resource."),
    "IP_DENIED": (403, "Forbidden", "The client address is not allowed to use this resource."),
    "NO_ROUTE": (404, "Not Found", "No route matches the request."),
    "METHOD_NOT_ALLOWED": (405, "Method Not Allowed", "The method is not allowed for this resource."),
    "REQUEST_TIMEOUT": (408, "Request Timeout", "The request was not received in time."),
    "BODY_TOO_LARGE": (413, "Content Too Large", "The request body is larger than this resource accepts."),
    "URI_TOO_LONG": (414, "URI Too Long", "The request target is too long."),
    "CONTENT_TYPE_NOT_ALLOWED": (
        415, "Unsupported Media Type", "The content type is not accepted by this resource.",
    ),
    "EXPECTATION_FAILED": (417, "Expectation Failed", "The expectation is not supported."),
    "HEADERS_TOO_LARGE": (
        431, "Request Header Fields Too Large", "The request header fields are too large or too many.",
    ),
    "RATE_LIMITED": (429, "Too Many Requests", "Too many requests were made."),
    "INTERNAL_ERROR": (500, "Internal Server Error", "The gateway could not process the request."),
    "METHOD_NOT_IMPLEMENTED": (501, "Not Implemented", "The method is not implemented."),
    "VERSION_NOT_SUPPORTED": (505, "HTTP Version Not Supported", "The HTTP version is not supported."),
    "DRAINING": (503, "Service Unavailable", "The gateway is shutting down."),
    "JWKS_UNAVAILABLE": (503, "Service Unavailable", "Tokens cannot be verified at the moment."),
    "RATE_LIMIT_STORE_DOWN": (503, "Service Unavailable", "Rate limits cannot be checked at the moment."),
    "BULKHEAD_FULL": (503, "Service Unavailable", "Too many requests for this resource are under way."),
    "DEADLINE_EXCEEDED": (504, "Gateway Timeout", "The request could not be answered in time."),
    "UPSTREAM_RESET": (502, "Bad Gateway", "The backend closed the connection before the response was complete."),
    "UPSTREAM_CONNECT_FAILED": (502, "Bad Gateway", "The gateway could not connect to the backend."),
    "UPSTREAM_PROTOCOL_ERROR": (502, "Bad Gateway", "The backend sent an invalid response."),
    "UPSTREAM_TLS_ERROR": (502, "Bad Gateway", "The gateway could not establish a secure connection to the backend."),
    "UPSTREAM_TIMEOUT": (504, "Gateway Timeout", "The backend did not answer in time."),
    "NO_HEALTHY_TARGET": (503, "Service Unavailable", "No healthy backend is available."),
    "BREAKER_OPEN": (
        503,
        "Service Unavailable",
        "The backend has failed too often and is not tried for a while.",
    ),
    "POOL_EXHAUSTED": (503, "Service Unavailable", "Too many requests are waiting for the backend."),
}  # fmt: skip

#: RFC 9209 section 2.3.
PROXY_ERRORS = {
    "connection_limit_reached", "connection_refused", "connection_terminated", "connection_timeout",
    "destination_unavailable", "dns_error", "http_protocol_error", "http_request_denied", "http_response_timeout",
    "proxy_internal_error", "proxy_internal_response", "tls_certificate_error", "tls_protocol_error",
}  # fmt: skip


def _subclasses(kind: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield kind
    for sub in kind.__subclasses__():
        if sub.__module__ == errors.__name__:
            yield from _subclasses(sub)


#: Bases; only what is below them is ever raised.
_BASES = {GatewayError, errors.TokenError, errors.UpstreamError}
CLASSES = sorted(set(_subclasses(GatewayError)) - _BASES, key=str)
each = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def rendered(error: GatewayError, fields: dict[bytes, bytes] | None = None) -> tuple[int, dict[bytes, bytes], bytes]:
    request = stub_request(fields=fields)
    request.request_id = "some-id"
    status, headers, body = render_problem(error, request)
    assert all(name.lower() == lowered for lowered, name, _ in headers)
    assert len({lowered for lowered, _, _ in headers}) == len(headers)
    return status, {lowered: value for lowered, _, value in headers}, body


@each
def test_every_error_is_in_the_table_with_fixed_texts(kind: type[GatewayError]) -> None:
    assert (kind.status, kind.title, kind.detail) == TABLE[kind.reason]


@each
def test_problem_document(kind: type[GatewayError]) -> None:
    status, headers, body = rendered(kind())
    assert headers[b"content-type"] == b"application/problem+json"
    assert status == kind.status
    assert orjson.loads(body) == {
        "type": f"urn:txgateway:{kind.reason}",
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "reason": kind.reason,
        "request_id": "some-id",
    }


@each
def test_proxy_status_is_on_server_errors_only(kind: type[GatewayError]) -> None:
    _, headers, _ = rendered(kind())
    if kind.status >= 500:
        assert headers[b"proxy-status"] == b"txgateway; error=" + kind.proxy_error.encode()
        assert kind.proxy_error in PROXY_ERRORS
    else:
        assert b"proxy-status" not in headers


@each
def test_nothing_of_the_fault_is_told(kind: type[GatewayError]) -> None:
    error = kind()
    error.args = ("secret 10.0.0.1",)
    _, headers, body = rendered(error)
    assert b"secret" not in body + b"".join(headers.values())


def test_allowed_methods_are_told() -> None:
    _, headers, _ = rendered(MethodNotAllowed(("GET", "HEAD")))
    assert headers[b"allow"] == b"GET, HEAD"


@each
@pytest.mark.parametrize("content_type", [b"application/grpc", b"application/grpc+proto"])
def test_grpc_gets_its_own_status(kind: type[GatewayError], content_type: bytes) -> None:
    codes = {400: b"13", 401: b"16", 403: b"7", 404: b"12", 413: b"8", 429: b"8", 502: b"14", 503: b"14", 504: b"4"}
    status, headers, body = rendered(kind(), {b"Content-Type": content_type})
    assert (status, body) == (200, b"")
    assert headers[b"content-type"] == b"application/grpc"
    assert headers[b"grpc-status"] == codes.get(kind.status, b"2")
    assert headers[b"grpc-message"] == kind.reason.encode()
    assert (b"proxy-status" in headers) == (kind.status >= 500)


@pytest.mark.parametrize(
    ("content_type", "is_grpc"),
    [
        (b"application/grpc; charset=x", True), (b"Application/GRPC+json", True), (b"application/grpcx", False),
        (b"application/grpc-web", False), (b"text/plain", False), (b"", False),
    ],
)  # fmt: skip
def test_only_grpc_itself_gets_status_200_and_nobody_may_keep_it(content_type: bytes, is_grpc: bool) -> None:
    status, headers, _ = rendered(errors.NoRoute(), {b"Content-Type": content_type})
    assert (status == 200) == is_grpc
    assert (headers.get(b"cache-control") == b"no-store") == is_grpc
