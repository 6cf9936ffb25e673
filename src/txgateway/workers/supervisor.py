"""The service of a gateway of several processes: binds the listeners, starts the workers, and serves the admin port.

It never accepts a client's connection. What it opens for clients it hands to the workers, and keeps, so that those
who wait there are served by the next worker when one dies.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.logger import Logger

from txgateway.admin.site import admin_site
from txgateway.config import Configuration
from txgateway.config.listener_tls import has_certificate
from txgateway.config.syntax import PLAIN_SUFFIX
from txgateway.health.probes import probe_resources
from txgateway.listeners import all_descriptions, bind, place_of, tcp, traffic_descriptions
from txgateway.reporting import ReportingService
from txgateway.systemd import Notifier
from txgateway.telemetry.logs import log_path, observer_for
from txgateway.telemetry.shared_sink import new_lock
from txgateway.transport.adopted import lend
from txgateway.workers.crew import Crew, CrewReadiness
from txgateway.workers.spawning import ProcessSpawner, worker_command
from txgateway.workers.telling import Telling

_log = Logger(__name__)


class SupervisorService(ReportingService):
    """The supervisor under twistd.

    Args:
        configuration: validated.
        reactor: runs it.
        workers: how many, at least two.
        arguments: our own command line, the program first.
        logfile: twistd's ``--logfile``.
        is_daemon: twistd will detach.
        inherited: descriptors of listening sockets, in the order of the settings, redirects last. What has none is
            bound here.
        notifier: tells the process manager.
    """

    def __init__(
        self,
        configuration: Configuration,
        reactor: Any,
        workers: int,
        arguments: Sequence[str],
        *,
        logfile: str | None = None,
        is_daemon: bool = False,
        inherited: Sequence[int] = (),
        notifier: Notifier | None = None,
    ) -> None:
        settings = configuration.settings
        self.configuration = configuration
        self.reactor = reactor
        self._workers = workers
        super().__init__(is_daemon=is_daemon, notifier=notifier)
        self._inherited = list(inherited)
        self._shared = new_lock()
        path = log_path(logfile, is_daemon=is_daemon)
        self._command = worker_command(arguments, path)
        self.observer = observer_for(settings, path, lock=self._shared)
        self._lent: list[IListeningPort] = []
        self._given: list[int] = []
        self._descriptors: list[int] = []
        self._internal_ports: list[IListeningPort] = []

    # --- start --------------------------------------------------------------------------------------------------------

    def startService(self) -> None:
        """Bind everything; a listener that cannot bind ends the process with status 1."""
        super().startService()
        settings = self.configuration.settings
        self.observer.sink.start()
        for warning in self.configuration.cautions:
            _log.warn("configuration: {warning}", warning=warning)
        try:
            self._open_listeners()
        except (CannotListenError, OSError, ValueError) as exc:
            _log.critical("cannot listen: traffic: {problem}", problem=str(exc))
            self._give_up()
        drain_s = settings.drain_delay_s + settings.drain_timeout_s
        spawner = ProcessSpawner(self.reactor, self._command, self._workers, self._descriptors, self._shared)
        self.crew = Crew(self._workers, spawner, self.reactor, drain_s, self._done)
        self.crew.on_ready = lambda: self._notifier.ready(
            f"{self.crew.count('ready')} of {self._workers} workers are ready"
        )
        self.crew.on_reloaded = self._notifier.reloaded
        readiness = CrewReadiness(self.crew)
        self.telling = Telling(self.crew, self.configuration, readiness, self.reactor)
        if settings.admin_port:
            site = admin_site(
                admin_host=settings.admin_host,
                probes=probe_resources(settings.probe_prefix, readiness),
                metrics=self.telling,
                status=self.telling.status,
                history=self.telling.history.report,
                config=self.telling.config,
                asks=self.telling.asks,
                explain=self.telling.explain,
            )
            try:
                port = bind(self.reactor, tcp(settings.admin_host, settings.admin_port), site)
            except (CannotListenError, OSError) as exc:
                _log.critical("cannot listen: admin: {problem}", problem=str(exc))
                self._give_up()
            self._internal_ports.append(port)
            _log.info("listening", listener="admin", tls=False, **place_of(port))
            self.telling.history.start()
        self.reactor.callWhenRunning(self._running)

    def _open_listeners(self) -> None:
        settings = self.configuration.settings
        kinds = [("traffic", description.endswith(PLAIN_SUFFIX)) for description in traffic_descriptions(settings)]
        kinds.append(("redirect", True))
        for (listener, is_plain), description in zip(kinds, all_descriptions(settings), strict=False):
            if self._inherited:
                self._given.append(self._inherited.pop(0))
                self._descriptors.append(self._given[-1])
                continue
            factory = Factory()
            factory.noisy = False
            port = bind(self.reactor, description, factory)
            self._lent.append(port)
            self._descriptors.append(lend(port, factory))
            is_tls = has_certificate(settings) and not is_plain
            _log.info("listening", listener=listener, tls=is_tls, **place_of(port))

    def _running(self) -> None:
        # Not before the reactor runs: only then are processes reaped.
        self.crew.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.reactor.callFromThread(self._stop))
        signal.signal(signal.SIGHUP, lambda *_: self.reactor.callFromThread(self._reload))
        signal.signal(signal.SIGUSR1, lambda *_: self.reactor.callFromThread(self._reopen))
        self._notifier.live(self.reactor)

    def _reload(self) -> None:
        self._notifier.reloading()
        self.crew.reload()

    def _reopen(self) -> None:
        self.observer.sink.reopen()
        self.crew.signal(signal.SIGUSR1)

    # --- stop ---------------------------------------------------------------------------------------------------------

    def _stop(self) -> None:
        self._notifier.stopping("draining")
        self.crew.stop()
        self._close_soon()

    def _close_soon(self) -> None:
        """Let go of the listeners when the workers do, or nobody would be refused until the end."""
        delay_s = self.configuration.settings.drain_delay_s
        if delay_s and self.crew.stops < 2:
            self.reactor.callLater(delay_s, self._close_listeners)
        else:
            self._close_listeners()

    def _close_listeners(self) -> list[Deferred[Any]]:
        lent, self._lent = self._lent, []
        given, self._given = self._given, []
        for descriptor in given:
            os.close(descriptor)
        return [maybeDeferred(port.stopListening) for port in lent]

    def _done(self, status: int) -> None:
        if status:
            # twistd has no way to say this; what is registered last is called first, and nothing of ours is after it.
            atexit.register(_leave, status)
        self.reactor.stop()

    def stopService(self) -> Deferred[Any]:
        """Close everything; workers that still run find their channels closed, and end by themselves."""
        super().stopService()
        telling = getattr(self, "telling", None)
        if telling is not None:
            telling.history.stop()
        ports, self._internal_ports = self._internal_ports, []
        closing: Deferred[Any] = DeferredList(
            [*self._close_listeners(), *(maybeDeferred(port.stopListening) for port in ports)]
        )
        closing.addCallback(lambda _: self._close_log())
        return closing


def _leave(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
