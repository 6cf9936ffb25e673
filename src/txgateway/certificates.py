"""The certificates that listeners show, as long as the gateway runs: loaded at the start, and anew when files change.

New files are looked at beside the old certificates, which stay if anything is wrong with them. Connections never
notice: the next handshake finds other contexts, that is all.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from cryptography.x509 import Certificate
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgateway.config import Settings
from txgateway.config.keys import Signature
from txgateway.config.listener_tls import ListenerTlsError, listener_contexts, signature
from txgateway.config.settings import variable_name
from txgateway.transport.server_contexts import KeyPair, ServerContexts

#: Between two looks at the files.
LOOK_EVERY_S: Final = 5.0
#: Contexts are made anew after this time even so, and with them the keys of session tickets: whoever gets hold of
#: these reads what was said over TLS 1.2 while they were in use.
MAX_AGE_S: Final = 24 * 3600.0

_log = Logger(__name__)


class ListenerCertificates:
    """What listeners show at this moment.

    Args:
        settings: which files.
        clock: for the looks.
        epoch_s: Unix time.
        in_thread: calls a function that blocks, elsewhere; its Deferred fires in the reactor.

    Attributes:
        contexts: for the next handshake; there are none before :meth:`load`.
    """

    contexts: ServerContexts

    def __init__(
        self,
        settings: Settings,
        clock: IReactorTime,
        epoch_s: Callable[[], float],
        in_thread: Callable[[Callable[[], Any]], Deferred[Any]],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._epoch_s = epoch_s
        self._in_thread = in_thread
        self._signature: Signature = {}
        self._loaded_at = 0.0
        self._problem = ""
        self._known: dict[str, Certificate] = {}
        self._call: IDelayedCall | None = None
        self._is_stopped = False

    def load(self) -> None:
        """Read the files, at the start; blocks.

        Raises:
            ListenerTlsError: something is wrong with them.
        """
        found = self._read()
        assert found is not None
        self._take(found)

    def start(self) -> None:
        """Begin to look for changes."""
        self._call = self._clock.callLater(LOOK_EVERY_S, self._look)

    def look(self) -> None:
        """Look for changes now."""
        if self._call is not None and self._call.active():
            self._call.reset(0)

    def stop(self) -> None:
        """Look no more."""
        self._is_stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()

    def expiries(self) -> dict[str, float]:
        """By name, when each certificate ends, in Unix seconds."""
        ends: dict[str, float] = {}
        for pair in self.contexts.pairs:
            end = pair.certificate.not_valid_after_utc.timestamp()
            ends[pair.name] = min(end, ends.get(pair.name, end))
        return ends

    # --- looking --------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        age_s = self._clock.seconds() - self._loaded_at
        known = None if self._problem or age_s >= MAX_AGE_S else self._signature
        looking = self._in_thread(partial(self._read, known))
        looking.addCallback(self._looked).addErrback(self._failed).addErrback(_unexpected).addBoth(self._again)

    def _read(self, known: Signature | None = None) -> tuple[Signature, ServerContexts] | None:
        """The files, unless they are as they were; in a thread, so it changes nothing here."""
        # Taken before: what changes while they are read is found at the next look.
        found = signature(self._settings)
        return None if found == known else (found, listener_contexts(self._settings))

    def _looked(self, found: tuple[Signature, ServerContexts] | None) -> None:
        if found is not None and not self._is_stopped:
            self._take(found)

    def _take(self, found: tuple[Signature, ServerContexts]) -> None:
        self._signature, self.contexts = found
        self._loaded_at = self._clock.seconds()
        if self._problem:
            self._problem = ""
            _log.info("certificates can be loaded again")
        known, self._known = self._known, {}
        for pair in self.contexts.pairs:
            self._known[pair.name] = pair.certificate
            if known.get(pair.name) != pair.certificate:
                self._tell(pair)

    def _failed(self, failure: Failure) -> None:
        failure.trap(ValueError)
        problem = str(failure.value)
        if isinstance(failure.value, ListenerTlsError):
            problem = f"{variable_name(failure.value.key)}: {problem}"
        if problem != self._problem:
            self._problem = problem
            _log.error("certificates cannot be loaded, the old ones stay: {problem}", problem=problem)

    def _again(self, _: object) -> None:
        if not self._is_stopped:
            self.start()

    def _tell(self, pair: KeyPair) -> None:
        certificate = pair.certificate
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        now = datetime.fromtimestamp(self._epoch_s(), UTC)
        tell, state = _log.info, "certificate loaded"
        if now >= end:
            tell, state = _log.warn, "certificate has expired"
        elif now < begin:
            tell, state = _log.warn, "certificate is not valid yet"
        tell(state, certificate=pair.name, not_after=end.isoformat(), hosts=", ".join(pair.host_names()))


def _unexpected(failure: Failure) -> None:
    _log.failure("look for new certificates failed", failure)
