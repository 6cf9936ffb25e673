"""Gives every request its id: in the log, to the backend, and back to the client."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from txgateway.fields import replaced
from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_NAMES = {b"x-request-id": b""}
_ACCEPTED = re.compile(rb"[A-Za-z0-9._-]{1,128}")


class RequestId(Middleware):
    """Sets ``request_id`` and the ``X-Request-ID`` of the answer.

    An incoming id is kept only from a trusted proxy and only if it is 1-128 characters of ``[A-Za-z0-9._-]``.

    Position: below Recovery, above the log: every line and every answer carries the id.
    Refuses: nothing.
    On cancel: nothing to free.

    Args:
        inner: what it wraps.
        is_trusted: whether a peer address belongs to a trusted proxy.
        new_id: makes an unguessable id.
    """

    def __init__(self, inner: Inner, is_trusted: Callable[[str], bool], new_id: Callable[[], str]) -> None:
        super().__init__(inner)
        self._is_trusted = is_trusted
        self._new_id = new_id

    def render(self, request: GatewayRequest) -> Any:
        offered = request.fields.get(b"x-request-id")
        if (
            offered is not None
            and _ACCEPTED.fullmatch(offered) is not None
            and self._is_trusted(request.channel.peer_ip)
        ):
            request.request_id = offered.decode("ascii")
        else:
            request.request_id = self._new_id()
        request.before_head(_set_header)
        return self.inner.render(request)


def _set_header(request: GatewayRequest) -> None:
    # A backend's own id would contradict the one in our log.
    value = request.request_id.encode("ascii")
    fields = ((b"x-request-id", b"X-Request-ID", value),)
    request.response_headers = replaced(request.response_headers, fields, _NAMES, b"X-Request-ID: %b\r\n" % value)
