"""Builds the backends of a configuration: a dialer and a pool a target, a policy and a TLS context a backend."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any
from urllib.parse import urlsplit

import attrs

from txgateway.config import Backend as BackendSettings
from txgateway.config import Target as TargetSettings
from txgateway.config.targets import target as parse_target
from txgateway.proxy.backend import Backend, Target
from txgateway.proxy.balancer import key_named, policy_named
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.client_tls import TlsContext, TlsSettings
from txgateway.transport.dial import Dialer, TcpAddress, UnixAddress
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.wheel import TimerWheel

_DEFAULT_PORTS = {"http": 80, "https": 443}
_TLS_KEYS = [field.name for field in attrs.fields(TlsSettings)]


def build_backends(
    backends: Mapping[str, BackendSettings], reactor: Any, wheel: TimerWheel, demo_port: int
) -> dict[str, Backend]:
    """The backends by name.

    Args:
        backends: as configured.
        reactor: opens connections.
        wheel: keeps their deadlines.
        demo_port: where the demo listens on loopback, if a target is it.
    """
    return {name: _backend(settings, reactor, wheel, demo_port) for name, settings in backends.items()}


def build_issuer(url: str, reactor: Any, wheel: TimerWheel) -> Backend:
    """A backend for what is downloaded from ``url``: our own client has limits for all that a server may send."""
    parts = urlsplit(url)
    return _backend(BackendSettings("issuer", (parse_target(f"{parts.scheme}://{parts.netloc}"),)), reactor, wheel, 0)


def _backend(settings: BackendSettings, reactor: Any, wheel: TimerWheel, demo_port: int) -> Backend:
    is_secure = any(target.scheme == "https" for target in settings.targets)
    tls = TlsContext(TlsSettings(**{name: getattr(settings.tls, name) for name in _TLS_KEYS})) if is_secure else None
    targets = []
    for target in settings.targets:
        dialer = Dialer(
            reactor,
            wheel,
            _address(target, demo_port),
            settings.connect_timeout_s,
            Http1ClientConnection,
            tls.for_host(target.host) if tls is not None and target.scheme == "https" else None,
        )
        pool = ConnectionPool(target.label, dialer, reactor, wheel, settings.pool)
        targets.append(Target(target.label, _authority(target), target.weight, pool))
    name = settings.load_balancer
    return Backend(settings.name, targets, policy_named(name, targets, Random()), key_named(name))


def _address(target: TargetSettings, demo_port: int) -> TcpAddress | UnixAddress:
    if target.is_demo:
        return TcpAddress("127.0.0.1", demo_port)
    return UnixAddress(target.path) if target.scheme == "unix" else TcpAddress(target.host, target.port)


def _authority(target: TargetSettings) -> bytes:
    """The value of ``Host``: a scheme's default port is left out (RFC 9110 section 7.2)."""
    if target.scheme == "unix" or target.is_demo:
        return b"localhost"
    host = f"[{target.host}]" if ":" in target.host else target.host
    port = "" if _DEFAULT_PORTS.get(target.scheme) == target.port else f":{target.port}"
    return (host + port).encode("ascii")
