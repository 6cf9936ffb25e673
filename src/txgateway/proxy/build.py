"""Builds the backends of a configuration: targets with all that belongs to them, and watches over their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import attrs
from attrs import frozen

from txgateway.config import Backend as BackendSettings
from txgateway.config import Target as TargetSettings
from txgateway.config.groups import Breaker
from txgateway.config.keys import Signature, signature_of
from txgateway.config.targets import target as parse_target
from txgateway.proxy.backend import Backend
from txgateway.proxy.breaker import CircuitBreaker
from txgateway.proxy.multiplexed_pool import MultiplexedPool
from txgateway.proxy.names import Found, NameWatch, is_name, reconciled, wanted_targets
from txgateway.proxy.pool import ConnectionPool
from txgateway.proxy.target import Target
from txgateway.telemetry.metrics import Tally, TargetMetrics
from txgateway.transport.alpn import HTTP1, HTTP2
from txgateway.transport.client_tls import TlsContext, TlsSettings
from txgateway.transport.dial import Dialer, TcpAddress, UnixAddress
from txgateway.transport.http1_client import Http1ClientConnection
from txgateway.transport.http2.client import Http2ClientConnection
from txgateway.transport.lookup import Lookups
from txgateway.transport.wheel import TimerWheel

_DEFAULT_PORTS = {"http": 80, "h2c": 80, "https": 443}
_NO_PROTOCOLS: Mapping[bytes, Callable[[], Any]] = MappingProxyType({})
#: What a target's connections and breaker are made by, beside the files that ``tls`` names.
_OF_TARGETS = ("pool", "breaker", "tls", "connect_timeout_s")
_TLS_KEYS = [field.name for field in attrs.fields(TlsSettings)]


class TargetMaker:
    """Makes the targets of one backend; those that speak TLS share one context.

    Args:
        settings: of the backend.
        reactor: opens connections.
        wheel: keeps their deadlines.
        demo_port: where the demo listens on loopback, if a target is it.
        chance: for breakers.
        metrics: the cells of a configured target by its label, which all its addresses share.
    """

    def __init__(
        self,
        settings: BackendSettings,
        reactor: Any,
        wheel: TimerWheel,
        demo_port: int,
        chance: Random,
        metrics: Callable[[str], TargetMetrics],
    ) -> None:
        self._settings = settings
        self._reactor = reactor
        self._wheel = wheel
        self._demo_port = demo_port
        self._chance = chance
        self._metrics = metrics
        is_secure = any(target.scheme == "https" for target in settings.targets)
        tls = {name: getattr(settings.tls, name) for name in _TLS_KEYS}
        self._tls = TlsContext(TlsSettings(**tls)) if is_secure else None

    def make(self, configured: TargetSettings, addresses: Sequence[str] = ()) -> Target:
        """A new target.

        Args:
            configured: one of the backend's.
            addresses: IP literals that its dials try in turn; none: they go by what is configured.
        """
        settings = self._settings
        dialer, tunnel_dialer, pool = self._connections(configured, addresses)
        return Target(
            configured.label,
            _authority(configured),
            configured.weight,
            pool,
            dialer,
            CircuitBreaker(settings.breaker, self._chance),
            self._metrics(configured.label),
            scheme=configured.scheme,
            tunnel_dialer=tunnel_dialer,
        )

    def _connections(
        self, configured: TargetSettings, addresses: Sequence[str]
    ) -> tuple[Dialer[Any], Dialer[Any] | None, ConnectionPool]:
        """What opens connections to a target, what does for upgrades if that is another, and what keeps them.

        The target's scheme says which version is spoken.
        """
        settings, reactor, wheel = self._settings, self._reactor, self._wheel

        def dialer(
            make: Callable[[], Any], protocols: Mapping[bytes, Callable[[], Any]] = _NO_PROTOCOLS
        ) -> Dialer[Any]:
            tls = None
            if self._tls is not None and configured.scheme == "https":
                tls = self._tls.for_host(configured.host, (*protocols, HTTP1))
            address = _address(configured, self._demo_port)
            return Dialer(reactor, wheel, address, settings.connect_timeout_s, make, tls, addresses, protocols)

        if configured.scheme == "h2c":
            plain = dialer(partial(Http2ClientConnection, wheel, reactor, b"http"))
            return plain, None, MultiplexedPool(configured.label, plain, reactor, wheel, settings.pool)
        http1 = dialer(Http1ClientConnection)
        pool = ConnectionPool(configured.label, http1, reactor, wheel, settings.pool)
        if configured.scheme != "https":
            return http1, None, pool
        either = dialer(Http1ClientConnection, {HTTP2: partial(Http2ClientConnection, wheel, reactor, b"https")})
        return either, http1, MultiplexedPool(configured.label, either, reactor, wheel, settings.pool, http1=pool)


@frozen
class Built:
    """A backend.

    Attributes:
        backend: the same.
        watch: over the names of its targets, if any has one.
        files: that its TLS context was made of, as they were just before.
    """

    backend: Backend
    watch: NameWatch | None
    files: Signature

    def is_made_of(self, settings: BackendSettings) -> bool:
        """Whether another one of these settings, and of the files that they name, would be the same."""
        return self.backend.settings == settings and self.files == _files_of(settings)

    def has_connections_as(self, settings: BackendSettings, files: Signature) -> bool:
        """Whether connections and breakers of targets would be made the same way."""
        ours = self.backend.settings
        return self.files == files and all(getattr(ours, name) == getattr(settings, name) for name in _OF_TARGETS)


class BackendBuilder:
    """Makes backends.

    Args:
        reactor: opens connections, resolves names, and is the clock.
        wheel: keeps deadlines.
        demo_port: where the demo listens on loopback, if a target is it.
        chance: for policies, breakers, and the times of lookups.
        target_metrics: the cells of a backend's target, by the names of both.
        retries: of a backend, by its name.
    """

    def __init__(
        self,
        reactor: Any,
        wheel: TimerWheel,
        demo_port: int,
        chance: Random,
        target_metrics: Callable[[str, str], TargetMetrics],
        retries: Callable[[str], Tally],
    ) -> None:
        self._reactor = reactor
        self._wheel = wheel
        self._demo_port = demo_port
        self._chance = chance
        self._target_metrics = target_metrics
        self._retries = retries
        self._lookups = Lookups(reactor.nameResolver)

    def build(self, settings: BackendSettings, previous: Built | None = None) -> Built:
        """A backend, with its watch to be started.

        Args:
            previous: the one that it takes the place of. Targets that are the same live on in the new one, with their
                connections, breakers and health; it gets them to itself with ``Backend.go_live``.
        """
        metrics = partial(self._target_metrics, settings.name)
        files = _files_of(settings)
        maker = TargetMaker(settings, self._reactor, self._wheel, self._demo_port, self._chance, metrics)
        found: Mapping[str, Found] = {}
        kept: dict[tuple[str, frozenset[str]], Target] = {}
        if previous is not None and previous.has_connections_as(settings, files):
            if previous.watch is not None:
                previous.watch.hold()
                found = previous.watch.found
            wanted = wanted_targets(previous.backend.settings.targets, found)
            for (place, old), target in zip(wanted.items(), previous.backend.targets, strict=True):
                kept[old.settings.url, place.addresses] = target

        def make(configured: TargetSettings, addresses: Sequence[str] = ()) -> Target:
            target = kept.pop((configured.url, frozenset(addresses)), None)
            if target is None:
                return maker.make(configured, addresses)
            target.weight = configured.weight
            return target

        names = {target.host for target in settings.targets if is_name(target)}
        found = {name: addresses for name, addresses in found.items() if name in names}
        wanted = wanted_targets(settings.targets, found)
        targets = list(reconciled({}, wanted, make).values())
        backend = Backend(
            settings,
            targets,
            self._reactor.seconds,
            self._chance,
            self._retries(settings.name),
            is_live=previous is None,
        )
        if not names:
            return Built(backend, None, files)
        watch = NameWatch(backend, maker.make, self._lookups, self._reactor, self._wheel, self._chance, found)
        return Built(backend, watch, files)


def _files_of(settings: BackendSettings) -> Signature:
    if not any(target.scheme == "https" for target in settings.targets):
        return {}
    tls = settings.tls
    return signature_of(path for path in (tls.ca_file, tls.cert_file, tls.key_file) if path)


def build_issuer(url: str, reactor: Any, wheel: TimerWheel) -> Backend:
    """A backend for what is downloaded from ``url``: our own client has limits for all that a server may send.

    It has one target, which dials by what the URL says, and no breaker: who downloads keeps its own pauses.
    """
    parts = urlsplit(url)
    target = parse_target(f"{parts.scheme}://{parts.netloc}")
    settings = BackendSettings("issuer", (target,), breaker=Breaker(enabled=False))
    chance = Random()
    maker = TargetMaker(settings, reactor, wheel, 0, chance, lambda _: TargetMetrics())
    return Backend(settings, [maker.make(target)], reactor.seconds, chance)


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
