"""What requests must share to go to the same target."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

KeyOf = Callable[["GatewayRequest"], bytes]


def client_ip(request: GatewayRequest) -> bytes:
    """The client's address, whole in IPv6 too; empty if it has none (on a UNIX socket)."""
    return (request.client_ip or "").encode("ascii")


def header(name: str) -> KeyOf:
    """The value of a header; without one, or with an empty one, the client's address."""
    lowered = name.lower().encode("ascii")

    def key_of(request: GatewayRequest) -> bytes:
        return request.fields.get(lowered) or client_ip(request)

    return key_of


def cookie(name: str) -> KeyOf:
    """The value of the first cookie of this name, whose case matters; otherwise as :func:`header`."""
    wanted = name.encode("ascii")

    def key_of(request: GatewayRequest) -> bytes:
        if b"cookie" in request.fields:
            for lowered, _, line in request.headers:
                if lowered == b"cookie":
                    for pair in line.split(b";"):
                        found, _, value = pair.partition(b"=")
                        if found.strip(b" \t") == wanted and (value := value.strip(b" \t")):
                            return value
        return client_ip(request)

    return key_of
