"""Changes that a route asks for: its path on the way to the backend, and header fields in both directions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from txgateway.middleware.base import Inner, Middleware
from txgateway.own_headers import OwnHeaders
from txgateway.transport.interfaces import HeaderList

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_PLACEHOLDER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class PathTransform(Middleware):
    """Gives the backend another path than the client's; the query stays as it is.

    Position: last before the route's end.
    Refuses: nothing.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        strip: number of leading path segments to take off.
        rewrite: the whole new path, with ``{name}`` for a placeholder of the route's; empty for none.
    """

    def __init__(self, inner: Inner, strip: int, rewrite: str) -> None:
        super().__init__(inner)
        self._strip = strip
        parts = _PLACEHOLDER.split(rewrite)
        self._literals = [quote(part, safe="/%:@!$&'()*+,;=~-._?").encode("ascii") for part in parts[::2]]
        self._names = parts[1::2]
        self._rewrites = bool(rewrite)

    def render(self, request: GatewayRequest) -> Any:
        target = request.upstream_target or b"/"
        query = target[len(request.path) :]
        if self._rewrites:
            path = self._literals[0]
            for name, literal in zip(self._names, self._literals[1:], strict=True):
                path += request.path_parameters[name] + literal
        else:
            path = _without_segments(request.path, self._strip)
        request.upstream_target = path + query
        return self.inner.render(request)


def _without_segments(path: bytes, count: int) -> bytes:
    """The path behind its first ``count`` segments as routing counts them: empty ones do not, ``%2F`` divides."""
    position, length = 0, len(path)
    for _ in range(count):
        while position < length and _slash(path, position):
            position += _slash(path, position)
        while position < length and not _slash(path, position):
            position += 1
    # One slash in front: a backend may take what follows two for an authority.
    while position < length and _slash(path, position):
        position += _slash(path, position)
    return b"/" + path[position:]


def _slash(path: bytes, position: int) -> int:
    """Length of the slash at ``position``, in either spelling, or 0."""
    if path[position : position + 1] == b"/":
        return 1
    return 3 if path[position : position + 3].lower() == b"%2f" else 0


class HeaderTransform(Middleware):
    """Sets and removes header fields of the request and of the response.

    Those of the request in whatever way a client spells them that a backend may take for the same.

    Position: above PathTransform; below whatever reads the client's own headers.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    def __init__(
        self,
        inner: Inner,
        request_set: Mapping[str, str],
        request_remove: tuple[str, ...],
        response_set: Mapping[str, str],
        response_remove: tuple[str, ...],
    ) -> None:
        super().__init__(inner)
        self._request_fields = _fields(request_set)
        self._own = OwnHeaders((*request_set, *request_remove)) if request_set or request_remove else None
        self._response_fields = _fields(response_set)
        self._response_drop = _names((*response_set, *response_remove))

    def render(self, request: GatewayRequest) -> Any:
        if self._own is not None:
            self._own.replace(request, self._request_fields)
        if self._response_drop:
            request.hidden_names |= self._response_drop
            request.before_head(self._change_response)
        return self.inner.render(request)

    def _change_response(self, request: GatewayRequest) -> None:
        drop = self._response_drop
        request.response_headers = [header for header in request.response_headers if header[0] not in drop]
        request.response_headers += self._response_fields


def _fields(pairs: Mapping[str, str]) -> HeaderList:
    return [
        (name.lower().encode("ascii"), name.encode("ascii"), value.encode("utf-8")) for name, value in pairs.items()
    ]


def _names(names: tuple[str, ...]) -> frozenset[bytes]:
    return frozenset(name.lower().encode("ascii") for name in names)
