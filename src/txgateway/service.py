"""The Gateway service: builds everything from a configuration, listens, and stops.

Besides :mod:`txgateway.tap` this is the only module that holds the reactor; everybody else is handed a clock or an
interface of it.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from txgateway import demo
from txgateway.admin.overview import Overview
from txgateway.admin.site import admin_site
from txgateway.admin.status import BackendStatus
from txgateway.certificates import ListenerCertificates
from txgateway.config import EX_CONFIG, Configuration
from txgateway.config.listener_tls import ListenerTlsError, has_certificate
from txgateway.config.settings import variable_name
from txgateway.config.syntax import PLAIN_SUFFIX, PROXY_PREFIX
from txgateway.descriptors import raise_limit
from txgateway.drain import Drain
from txgateway.errors import Draining
from txgateway.explain import explain_query
from txgateway.forwarded import ForwardedPolicy
from txgateway.health.probes import BackendHealth, Readiness, probe_resources
from txgateway.listeners import bind, place_of, result_of, server_limits, tcp, traffic_descriptions
from txgateway.reloading.reload import Reloader
from txgateway.reporting import ReportingService
from txgateway.request import GatewayRequest
from txgateway.systemd import Notifier
from txgateway.telemetry.access_log import AccessLog
from txgateway.telemetry.logs import log_path, observer_for
from txgateway.telemetry.metrics import RequestMetrics, TargetState
from txgateway.transport.adopted import adopt
from txgateway.transport.http1_factory import Http1ServerFactory
from txgateway.transport.proxy_protocol import ProxyProtocolFactory
from txgateway.transport.server_tls import HandshakeFailures, TlsServerFactory
from txgateway.transport.sockets import accept_waiting, use_immediate_writes
from txgateway.transport.wheel import TimerWheel
from txgateway.tree import Surroundings, Tree
from txgateway.user_decorators import MiddlewareFailed, UserParts
from txgateway.workers.member import Gateway, Member

if TYPE_CHECKING:
    from txgateway.telemetry.tracing import Tracing

_log = Logger(__name__)


def _paths(configuration: Configuration) -> dict[str, str]:
    return {route.name: route.path for route in configuration.routes}


class GatewayService(ReportingService):
    """The gateway under twistd.

    Args:
        configuration: validated.
        reactor: runs it.
        logfile: twistd's ``--logfile``.
        is_daemon: twistd will detach.
        member: this process is one of several workers; it has no admin listener.
        inherited: descriptors of listening sockets to accept from, in the order of the settings, redirects last. What
            has none is bound here.
        notifier: tells the process manager.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        *,
        logfile: str | None = None,
        is_daemon: bool = False,
        member: Member | None = None,
        inherited: Sequence[int] = (),
        notifier: Notifier | None = None,
    ) -> None:
        self._member = member
        self._inherited = list(inherited if member is None else member.assignment.listeners)
        self.configuration = configuration
        self.reactor = reactor
        super().__init__(is_daemon=is_daemon, notifier=notifier)
        self.wheel = TimerWheel(reactor)
        self.observer = observer_for(
            configuration.settings,
            log_path(logfile, is_daemon=is_daemon),
            lock=None if member is None else member.assignment.shared,
            worker=None if member is None else member.assignment.index,
        )
        self.access_log = AccessLog(self.observer.sink, time.time, reactor, configuration.settings.log_format)
        self.readiness = Readiness(self._health)
        self.metrics = RequestMetrics(
            self._target_states,
            lambda: self.observer.sink.dropped,
            lambda: self.tree.security.limiters.degraded,
            lambda: 0 if self.tracing is None else self.tracing.dropped(),
            epoch_s=time.time,
            certificate_expiries=lambda: {} if self.certificates is None else self.certificates.expiries(),
            reloads=lambda: (self.reloader.outcome.is_success, self.reloader.outcome.succeeded_at),
        )
        self.certificates: ListenerCertificates | None = None
        if has_certificate(configuration.settings):
            self.certificates = ListenerCertificates(configuration.settings, reactor, time.time, self._in_thread)
        self._https_port = 0
        self._environ = dict(os.environ)
        self._chance = random.Random()
        self.tree: Tree
        self.tracing: Tracing | None = None
        self.ports: list[IListeningPort] = []
        self._factories: list[Http1ServerFactory] = []  # of clients' connections, which they share
        self._internal_ports: list[IListeningPort] = []
        self.overview = Overview(
            reactor,
            lambda: self.configuration,
            self.metrics,
            self.readiness,
            self._backend_status,
            log_lines_dropped=lambda: self.observer.sink.dropped,
            rate_limit_degraded=lambda: self.tree.security.limiters.degraded,
        )

    # What is built at the start only, for those who were told of it before.

    def _health(self) -> Iterator[BackendHealth]:
        return self.tree.upstreams.health()

    def _target_states(self) -> Iterator[TargetState]:
        return self.tree.upstreams.target_states()

    def _backend_status(self) -> list[BackendStatus]:
        return self.tree.upstreams.status()

    def _explain(self, query: str) -> Mapping[str, object]:
        return explain_query(self.tree.configuration, self.tree.pipeline, query)

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), work)

    # --- start --------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        """Build, listen, and begin to serve; a listener that cannot bind ends the process with status 1."""
        super().startService()
        settings = self.configuration.settings
        self.observer.sink.start()
        # twistd rotates its own log file on this signal; ours is opened again, for whoever has moved it away.
        signal.signal(signal.SIGUSR1, lambda *_: self.observer.sink.reopen())
        for warning in self.configuration.cautions if self._member is None else ():  # the supervisor has told them
            _log.warn("configuration: {warning}", warning=warning)
        is_first = self._member is None or not self._member.assignment.index
        raise_limit(settings.max_connections, is_told=is_first)
        demo_port = self._start_demo(self.configuration)
        probes = probe_resources(settings.probe_prefix, self.readiness)
        self._start_tracing()
        self._around = Surroundings(
            reactor=self.reactor,
            epoch_s=time.time,
            wheel=self.wheel,
            chance=self._chance,
            metrics=self.metrics,
            access_log=self.access_log if settings.access_log else None,
            probes=probes,
            tracing=self.tracing,
            demo_port=demo_port,
            https_port=lambda: self._https_port,
            workers=1 if self._member is None else self._member.assignment.workers,
            share_checks=None if self._member is None else self._member.checks,
            user_parts=UserParts(self.metrics.middlewares, self.access_log if settings.access_log else None),
        )
        self.tree = self._first_tree()
        self.factory = Http1ServerFactory(
            GatewayRequest,
            self.tree.pipeline.dispatch,
            self.tree.pipeline.refuse,
            server_limits(settings),
            settings.max_connections,
            self.wheel,
            self.reactor,
            time.time,
            self.metrics,
            http2=settings.http2,
        )
        self.reloader = Reloader(self.reactor, self._environ, time.time, lambda: self.configuration, self._replace_tree)
        self.reloader.on_begin = self._notifier.reloading
        self.reloader.on_over = self._notifier.reloaded if self._member is None else self._member.reloaded
        self._factories.append(self.factory)
        self._listen_for_traffic()
        self.drain = Drain(
            self.reactor,
            settings.drain_delay_s,
            settings.drain_timeout_s,
            lambda: self.factory.connections,
            self._begin_drain,
            self._stop_accepting,
            self.reactor.stop,
        )
        if settings.admin_port and self._member is None:
            site = admin_site(
                admin_host=settings.admin_host,
                probes=probes,
                metrics=self.metrics,
                status=self.overview.status,
                history=self.overview.history.report,
                config=lambda: self.configuration.effective(),  # noqa: PLW0108 -- of the one in force then
                explain=self._explain,
            )
            self._internal_ports.append(self._listen(tcp(settings.admin_host, settings.admin_port), site, "admin"))
            self.overview.history.start()
        self.reactor.callWhenRunning(self._running)

    def _running(self) -> None:
        # Stock handlers stop at once, and the exit status is the signal's. Ours come after the reactor's own,
        # and before anybody is told that we are ready.
        stop = self.drain.start if self._member is None else self._member.signalled
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.reactor.callFromThread(stop))
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self.reloader.reload))
        # Traffic is asked for once targets were checked and keys were asked for, however that went.
        self.tree.start().addCallback(self._ready)
        if self._member is not None:
            self._member.running(
                Gateway(
                    metrics=self.metrics,
                    status=self.overview.status,
                    config=lambda: self.configuration.effective(),  # noqa: PLW0108 -- of the one in force then
                    totals=self.overview.totals,
                    health=self._health,
                    explain=self._explain,
                    drain=self.drain.start,
                    reload=self.reloader.reload,
                )
            )
        self._notifier.live(self.reactor)
        # What was built so far lives as long as the process: the collector need not look at it again.
        gc.collect()
        gc.freeze()

    def _first_tree(self) -> Tree:
        try:
            return Tree(self.configuration, self._around)
        except MiddlewareFailed as exc:
            _log.critical("cannot start: {problem}", problem=str(exc))
            self._give_up(EX_CONFIG)

    def _replace_tree(self, configuration: Configuration) -> Iterator[Deferred[Any] | None]:
        """Build a tree beside the one in use, and let it take its place."""
        if not self._around.demo_port:
            self._around = attrs.evolve(self._around, demo_port=self._start_demo(configuration))
        tree, previous = Tree(configuration, self._around, self.tree, in_slices=True), self.tree
        yield from tree.build()
        yield tree.start()
        for factory in self._factories:
            factory.refuse = tree.pipeline.refuse
        self.factory.dispatch = tree.pipeline.dispatch
        for redirects in self._factories[1:]:
            redirects.dispatch = tree.pipeline.redirect
        self.tree, self.configuration = tree, configuration
        if self.tracing is not None:
            self.tracing.set_routes(_paths(configuration))
        tree.replace(previous)
        if self.certificates is not None:
            self.certificates.look()
        yield from previous.pipeline.routes.drop()

    def _ready(self, _: object) -> None:
        self.readiness.started()
        if self._member is not None:
            self._member.ready()
        routes, backends = len(self.configuration.routes), len(self.configuration.backends)
        _log.info("ready", routes=routes, backends=backends)
        self._notifier.ready(f"{routes} routes, {backends} backends")

    def _start_tracing(self) -> None:
        """Where it is wanted; else its libraries are not even loaded."""
        settings = self.configuration.tracing
        if settings is not None:
            from txgateway.telemetry.tracing import Tracing

            self.tracing = Tracing(settings, _paths(self.configuration), self.reactor, time.time)
            self.tracing.start()

    def _start_demo(self, configuration: Configuration) -> int:
        if not any(target.is_demo for backend in configuration.backends.values() for target in backend.targets):
            return 0
        listening = demo.start(self.reactor)
        port = result_of(listening)
        self._internal_ports.append(port)
        number: int = port.getHost().port
        _log.warn("demo backend: {warning}", warning="its answers are made up", port=number)
        return number

    def _listen_for_traffic(self) -> None:
        settings = self.configuration.settings
        tls = self._tls_factory()
        refused = HandshakeFailures(self.metrics.proxy_header_refused, self.reactor.seconds, "PROXY header refused")
        for description in traffic_descriptions(settings):
            factory = self.factory if tls is None or description.endswith(PLAIN_SUFFIX) else tls
            endpoint = description.removesuffix(PLAIN_SUFFIX).removeprefix(PROXY_PREFIX)
            is_proxied = description.startswith(PROXY_PREFIX)
            outer = ProxyProtocolFactory(factory, self._is_trusted, refused) if is_proxied else factory
            port = self._listen(endpoint, outer, "traffic", is_tls=factory is tls)
            self.ports.append(port)
            if factory is tls:
                self._https_port = self._https_port or getattr(port.getHost(), "port", 0)
        if settings.redirect_port is not None:
            redirects = self.factory.with_dispatch(self.tree.pipeline.redirect)
            self._factories.append(redirects)
            self.ports.append(self._listen(tcp(settings.host, settings.redirect_port), redirects, "redirect"))

    def _is_trusted(self, peer_ip: str) -> bool:
        """By the configuration that is in force."""
        return ForwardedPolicy(self.configuration.settings.trusted_proxies).is_trusted(peer_ip)

    def _tls_factory(self) -> TlsServerFactory | None:
        certificates = self.certificates
        if certificates is None:
            return None
        try:
            certificates.load()
        except ListenerTlsError as exc:
            _log.critical("cannot load certificates: {problem}", problem=f"{variable_name(exc.key)}: {exc}")
            self._give_up()
        certificates.start()
        failures = HandshakeFailures(self.metrics.handshake_failed, self.reactor.seconds)
        return TlsServerFactory(self.factory, lambda: certificates.contexts, failures, self.reactor)

    def _listen(self, description: str, factory: Any, listener: str, *, is_tls: bool = False) -> IListeningPort:
        try:
            if self._inherited and listener != "admin":
                port = adopt(self.reactor, self._inherited.pop(0), factory)
            else:
                port = bind(self.reactor, description, factory)
        except (CannotListenError, OSError, ValueError) as exc:
            _log.critical("cannot listen: {listener}: {problem}", listener=description, problem=str(exc))
            self._give_up()
        if listener != "admin":
            use_immediate_writes(
                port, None if self._member is None else self._member.turns(lambda: self.factory.connections)
            )
        tell = _log.info if self._member is None else _log.debug  # what the supervisor has said already
        tell("listening", listener=listener, tls=is_tls, **place_of(port))
        return port

    # --- stop ---------------------------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        self.readiness.draining()
        self._notifier.stopping("draining")
        if self._member is not None:
            self._member.draining()
        if self._factories:
            self.reloader.stop()
        for factory in self._factories:
            factory.draining = True

    def _stop_accepting(self) -> None:
        if self._member is not None:
            self._member.stop_accepting()
        ports, self.ports = self.ports, []
        for port in ports:
            accept_waiting(port)
            maybeDeferred(port.stopListening)

    def stopService(self) -> Deferred[Any]:
        """Stop listening, close connections, free everything; fires when the ports are closed."""
        super().stopService()
        self._begin_drain()
        self.overview.history.stop()
        if self.certificates is not None:
            self.certificates.stop()
        for connection in list(self._factories[0].connections) if self._factories else ():
            connection.shut_down(Draining())
        tree: Tree | None = getattr(self, "tree", None)
        stopped = succeed(None) if tree is None else tree.stop()
        ports = [*self.ports, *self._internal_ports]
        self.ports, self._internal_ports = [], []
        closing: Deferred[Any] = DeferredList([stopped, *(maybeDeferred(port.stopListening) for port in ports)])
        if self.tracing is not None:  # once the last requests are over
            tracing = self.tracing
            closing.addCallback(lambda _: tracing.stop())
        if self._member is not None:
            member = self._member
            closing.addCallback(lambda _: member.stop())
        closing.addCallback(self._stopped)
        return closing

    def _stopped(self, _: object) -> None:
        # It is over: a signal in the last moments, when Twisted has put the stock handlers back, changes nothing.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        self.wheel.stop()
        self.access_log.flush()
        self._close_log()
