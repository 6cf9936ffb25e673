"""Finds out who the client is behind trusted proxies, and what the backend is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txgateway.forwarded import ForwardedPolicy
from txgateway.middleware.base import Inner, Middleware

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_MAX_CACHED_HOSTS = 8
_DEFAULT_PORTS = {b"http": 80, b"https": 443}


class ClientAddress(Middleware):
    """Sets ``client_ip`` and ``forwarded``.

    From an untrusted peer the result depends on the connection and ``Host`` only, and is kept with the connection.

    Position: below Sanitize (it repeats the Host), above everything that asks for the address.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    def __init__(self, inner: Inner, policy: ForwardedPolicy) -> None:
        super().__init__(inner)
        self._policy = policy

    def render(self, request: GatewayRequest) -> Any:
        channel = request.channel
        host = request.host or b""
        forwarded = channel.forwarded.get(host)
        if forwarded is None:
            port = channel.local_port or _DEFAULT_PORTS[channel.scheme]  # a UNIX socket has none
            forwarded = self._policy.resolve(
                channel.peer_ip,
                request.headers,
                scheme=channel.scheme,
                host=host,
                port=port,
                certificate=channel.client_certificate,
            )
            if len(channel.forwarded) < _MAX_CACHED_HOSTS and not self._policy.is_trusted(channel.peer_ip):
                channel.forwarded[host] = forwarded
        request.forwarded = forwarded
        request.client_ip = forwarded.client_ip or None
        return self.inner.render(request)
