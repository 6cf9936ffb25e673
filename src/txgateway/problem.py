"""The one renderer of the gateway's own error answers: problem+json (RFC 9457), or gRPC's status for gRPC requests.

Nothing of the request but its id, and nothing of the fault but its fixed texts, gets in.
"""

from __future__ import annotations

from typing import Protocol

import orjson

from txgateway.errors import GatewayError
from txgateway.transport.interfaces import HeaderList

_CONTENT_TYPE = (b"content-type", b"Content-Type", b"application/problem+json")
_GRPC_CONTENT_TYPE = (b"content-type", b"Content-Type", b"application/grpc")
_NO_STORE = (b"cache-control", b"Cache-Control", b"no-store")
#: HTTP status to gRPC status code; others are 2 (UNKNOWN).
_GRPC_CODES = {
    400: b"13",
    401: b"16",
    403: b"7",
    404: b"12",
    413: b"8",
    429: b"8",
    502: b"14",
    503: b"14",
    504: b"4",
}


class _Failed(Protocol):
    request_id: str

    def header(self, name: bytes) -> bytes | None: ...


def is_grpc(content_type: bytes | None) -> bool:
    """``application/grpc``, with a message format behind ``+`` or without, and parameters."""
    if content_type is None:
        return False
    media_type = content_type.partition(b";")[0].strip(b" \t").lower()
    return media_type == b"application/grpc" or media_type.startswith(b"application/grpc+")


def grpc_status(error: GatewayError) -> HeaderList:
    """The fields that tell a gRPC client of an error, in a head or in trailers."""
    return [
        (b"grpc-status", b"grpc-status", _GRPC_CODES.get(error.status, b"2")),
        (b"grpc-message", b"grpc-message", error.reason.encode("ascii")),
    ]


def render_problem(error: GatewayError, request: _Failed) -> tuple[int, HeaderList, bytes]:
    """Status, header fields and body of the answer to a failed request."""
    headers: HeaderList = [(name.lower(), name, value) for name, value in error.headers()]
    if error.status >= 500 and error.proxy_error:
        # RFC 9209 section 2.1.1
        headers.append((b"proxy-status", b"Proxy-Status", b"txgateway; error=" + error.proxy_error.encode("ascii")))
    if is_grpc(request.header(b"content-type")):
        headers += (
            _GRPC_CONTENT_TYPE,
            _NO_STORE,  # a refusal with status 200 must not be taken for the resource
            *grpc_status(error),
        )
        return 200, headers, b""
    headers.append(_CONTENT_TYPE)
    body = {
        "type": f"urn:txgateway:{error.reason}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
        "reason": error.reason,
        "request_id": request.request_id,
    }
    return error.status, headers, orjson.dumps(body)
