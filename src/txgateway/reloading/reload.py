"""Takes a new configuration over while requests go on: everything is read elsewhere, and built in slices."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Final

from attrs import define
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.error import ProcessDone
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Cooperator
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgateway.config import Configuration, ConfigurationError, Settings
from txgateway.config.settings import variable_name
from txgateway.reloading.transfer import Received, TransferError, split_frames

_log = Logger(__name__)

_FAILED: Final = "reload failed, the old configuration stays: {problem}"

#: For reading and judging a configuration; then the child is killed.
CHILD_S: Final = 60.0
#: The most that a child may write.
MAX_BYTES: Final = 512 * 1024 * 1024
#: Of a child's standard error, for the log.
MAX_ERROR_BYTES: Final = 4096
#: Work of a turn of the reactor, and the pause behind it, in which everybody else has theirs.
SLICE_S: Final = 0.001
PAUSE_S: Final = 0.001

#: Settings of the process and its listeners, which stay as they were at the start.
FIXED: Final = frozenset(
    {
        "access_log", "admin_host", "admin_port", "drain_delay_s", "drain_timeout_s", "header_timeout_s", "host", "http2",
        "keepalive_timeout_s", "listen", "log_format", "log_level", "max_connections", "max_header_bytes",
        "max_header_count", "max_uri_bytes", "port", "probe_prefix", "redirect_port", "tls_cert_dir", "tls_cert_file",
        "tls_client_auth", "tls_client_ca_file", "tls_key_file", "tls_min_version", "workers",
    }
)  # fmt: skip


class ReloadFailed(Exception):
    """The old configuration stays.

    Attributes:
        problems: why, one line each.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@define
class Outcome:
    """What a reload has come to, for metrics.

    Attributes:
        is_success: the last one; the start counts as one.
        succeeded_at: Unix time of the last one that was.
    """

    is_success: bool
    succeeded_at: float


class Reloader:
    """Reloads when told to, one at a time.

    Args:
        reactor: runs the child and keeps time.
        environ: variables of the start.
        epoch_s: wall clock.
        current: the configuration in force.
        build: makes a tree of a configuration, step by step; the last step has put it in place.
        command: of the child.
        max_bytes: that it may write.

    Attributes:
        outcome: of the last reload.
        on_begin: told each time that it is asked to reload and may.
        on_over: told when nothing is left that was asked for, whatever came of it, with a line for people.
    """

    def __init__(
        self,
        reactor: Any,
        environ: Mapping[str, str],
        epoch_s: Callable[[], float],
        current: Callable[[], Configuration],
        build: Callable[[Configuration], Iterator[Deferred[Any] | None]],
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "txgateway.reloading.child"),
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._reactor = reactor
        self._environ = dict(environ)
        self._epoch_s = epoch_s
        self._current = current
        self._build = build
        self._command = command
        self._max_bytes = max_bytes
        self._cooperator = Cooperator(_slice(reactor), lambda step: reactor.callLater(PAUSE_S, step))
        self._is_running = self._is_asked_again = self._is_stopped = False
        self._child: _Child | None = None
        self._result = ""
        self.outcome = Outcome(True, epoch_s())
        self.on_begin: Callable[[], None] = lambda: None
        self.on_over: Callable[[str], None] = lambda _: None

    def reload(self) -> None:
        """Begin, or begin anew after the one that is under way."""
        if self._is_stopped:
            return
        self.on_begin()
        if self._is_running:
            self._is_asked_again = True
            return
        self._is_running = True
        _log.info("reloading")
        running: Deferred[None] = self._run()
        running.addErrback(self._failed).addBoth(self._over)

    def stop(self) -> None:
        """Reload no more; one that is under way goes no further."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._cooperator.stop()
        if self._child is not None:
            self._child.kill()

    @inlineCallbacks
    def _run(self) -> Generator[Deferred[Any], Any, None]:
        began_at = self._reactor.seconds()
        received = Received()
        child = self._spawned()
        problem = yield child.over
        self._child = None
        if self._is_stopped:
            return
        if problem:
            raise ReloadFailed([problem])
        gc.disable()  # a full collection of what a configuration is made of would stall everybody
        try:
            yield self._in_slices(_taken(received, child.data))
            if received.problems:
                raise ReloadFailed([str(one) for one in received.problems])
            before = [self._current()]
            try:
                after = _with_fixed(received.configuration(), before[0].settings)
            except ConfigurationError as error:
                raise ReloadFailed([str(one) for one in error.problems]) from error
            yield self._in_slices(self._build(after))
            self.outcome = Outcome(True, self._epoch_s())
            difference = _difference(before[0], after)
            for warning in after.cautions:
                _log.warn("configuration: {warning}", warning=warning)
            yield self._in_slices(_dropped(before))
            _log.info("reloaded", seconds=round(self._reactor.seconds() - began_at, 3), **difference)
            self._result = f"{len(after.routes)} routes, {len(after.backends)} backends"
        finally:
            gc.freeze()
            gc.enable()

    def _spawned(self) -> _Child:
        child = self._child = _Child(self._reactor, self._max_bytes)
        try:
            # What a document names is imported from where we would import it.
            environ = {**self._environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            self._reactor.spawnProcess(child, self._command[0], self._command, environ)
        except OSError as exc:
            self._child = None
            raise ReloadFailed([f"cannot start the child that reads it: {exc}"]) from exc
        return child

    def _in_slices(self, steps: Iterator[Deferred[Any] | None]) -> Deferred[Any]:
        return self._cooperator.cooperate(steps).whenDone()

    def _failed(self, failure: Failure) -> None:
        if self._is_stopped:
            return
        self.outcome.is_success = False
        self._result = _FAILED.format(problem=failure.getErrorMessage())
        if not failure.check(ReloadFailed, TransferError):
            _log.failure(_FAILED, failure, problem=failure.getErrorMessage())
            return
        problems = failure.value.problems if isinstance(failure.value, ReloadFailed) else [str(failure.value)]
        for problem in problems:
            _log.error(_FAILED, problem=problem)

    def _over(self, _: object) -> None:
        self._is_running = False
        if self._is_asked_again:
            self._is_asked_again = False
            self.reload()
        elif not self._is_stopped:
            self.on_over(self._result)


def _slice(clock: IReactorTime) -> Callable[[], Callable[[], bool]]:
    def begun() -> Callable[[], bool]:
        ends_at = clock.seconds() + SLICE_S
        return lambda: clock.seconds() >= ends_at

    return begun


def _taken(received: Received, data: bytearray) -> Iterator[None]:
    for frame in split_frames(data):
        received.take(frame)
        yield
    if data:
        raise TransferError("the configuration was cut short")


def _with_fixed(after: Configuration, before: Settings) -> Configuration:
    """What cannot change while the process runs stays, and is reported."""
    changed = [name for name in sorted(FIXED) if getattr(after.settings, name) != getattr(before, name)]
    if not changed:
        return after
    names = ", ".join(variable_name(name.removesuffix("_s")) for name in changed)
    _log.warn("not applied before a restart: {settings}", settings=names)
    return after.with_settings({name: getattr(before, name) for name in changed})


def _difference(before: Configuration, after: Configuration) -> dict[str, object]:
    old = {route.name for route in before.routes}
    new = {route.name for route in after.routes}
    return {
        "routes": len(new),
        "routes_added": len(new - old),
        "routes_removed": len(old - new),
        "backends": len(after.backends),
    }


def _dropped(configurations: list[Configuration]) -> Iterator[None]:
    """Let go of what nobody needs any more, a little at a time: the list has the last reference."""
    routes, entries = list(configurations[0].routes), list(configurations[0].parts()[1].routes)
    configurations.clear()
    while routes:
        routes.pop()
        entries.pop()
        yield


class _Child(ProcessProtocol):
    """Collects what the child writes.

    Attributes:
        data: its standard output.
        over: fires with what went wrong, or an empty text.
    """

    def __init__(self, reactor: Any, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.data = bytearray()
        self.over: Deferred[str] = Deferred()
        self._reactor = reactor
        self._error = b""
        self._problem = ""

    def connectionMade(self) -> None:
        self._deadline = self._reactor.callLater(CHILD_S, self._too_slow)

    def outReceived(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > self._max_bytes:
            self._problem = "the configuration is too large"
            self.kill()

    def errReceived(self, data: bytes) -> None:
        self._error = (self._error + data)[-MAX_ERROR_BYTES:]

    def kill(self) -> None:
        """End it, and hear no more of what it may have started itself."""
        process: Any = self.transport
        if process.pid is not None:
            process.signalProcess("KILL")
        process.loseConnection()

    def _too_slow(self) -> None:
        self._problem = f"not read within {CHILD_S:.0f} s"
        self.kill()

    def processEnded(self, reason: Failure) -> None:
        if self._deadline.active():
            self._deadline.cancel()
        problem = self._problem
        if not problem and not reason.check(ProcessDone):
            last = self._error.decode("utf-8", "replace").strip().rpartition("\n")[2]
            problem = f"the child that reads it ended badly: {last or reason.getErrorMessage()}"
        self.over.callback(problem)
