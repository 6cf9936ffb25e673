"""An epoll reactor that calls readers and writers directly.

Stock Twisted wraps every event in ``callWithLogger`` and ``context.call``, which costs more than all of the routing
and header work of a proxied request. This subclass keeps stock's bookkeeping, its descriptor-went-away check and its
exception handling, and drops the two wrappers. What its transports write while it serves events waits in its outbox
for a few others, so that the neighbours are woken once and not by each. It also measures time on the monotonic clock, so that a step of the
wall clock neither fires nor delays timers. It is private ground: the supported Twisted range is pinned and a test
fails when the parts used here change.
"""

from __future__ import annotations

import errno
import select
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet import epollreactor, posixbase
from twisted.internet.main import installReactor
from twisted.python import log

_IN = select.EPOLLIN
_OUT = select.EPOLLOUT
_DISCONNECTED = epollreactor.EPollReactor._POLL_DISCONNECTED
_NO_FILEDESC = posixbase._NO_FILEDESC
#: How many transports' writes wait for each other. A tenth of a millisecond's work or two: the first loses little by it,
#: and with 16 a wake-up costs each no more than with 1,000.
MAX_OUTBOX = 16


class _Holder(Protocol):
    """Holds back what was written until it is told."""

    def send_held(self) -> None: ...


class GatewayReactor(epollreactor.EPollReactor):
    """EPollReactor with a shorter way from an event to ``doRead`` and ``doWrite``.

    Attributes:
        outbox: transports that hold what was written; they are told before the reactor waits for anything.
    """

    seconds = staticmethod(time.monotonic)

    def __init__(self) -> None:
        self._at_turn_end: list[Callable[[], None]] = []
        self.outbox: list[_Holder] = []
        super().__init__()

    def at_turn_end(self, call: Callable[[], None]) -> None:
        """Call this once, when all that has happened at the same time has been served: for who collects output."""
        self._at_turn_end.append(call)

    def _end_turn(self) -> None:
        calls, self._at_turn_end = self._at_turn_end, []
        for call in calls:
            try:
                call()
            except Exception:
                log.err()
        self._empty_outbox()

    def _empty_outbox(self) -> None:
        outbox = self.outbox
        while outbox:
            holders = outbox[:]
            outbox.clear()
            for holder in holders:
                try:
                    holder.send_held()
                except Exception:
                    log.err()

    def doPoll(self, timeout: float | None) -> None:
        """Wait for events for at most ``timeout`` seconds (None: for ever) and serve them."""
        outbox = self.outbox
        if outbox or self._at_turn_end:  # of what timers have done
            self._end_turn()
        try:
            events = self._poller.poll(-1 if timeout is None else timeout, len(self._selectables))
        except OSError as exc:
            if exc.errno == errno.EINTR:
                return
            raise
        selectables = self._selectables
        for fd, event in events:
            selectable = selectables.get(fd)
            if selectable is None:  # closed by an event before it in this batch
                continue
            if event & _DISCONNECTED and not event & _IN:
                self._doReadOrWrite(selectable, fd, event)
                continue
            why: Any = None
            in_read = False
            try:
                if selectable.fileno() == -1:
                    why = _NO_FILEDESC
                else:
                    if event & _IN:
                        why = selectable.doRead()
                        in_read = True
                    if not why and event & _OUT:
                        why = selectable.doWrite()
                        in_read = False
            except BaseException:
                why = sys.exc_info()[1]
                log.err()
            if why:
                self._disconnectSelectable(selectable, why, in_read)
            if len(outbox) >= MAX_OUTBOX:
                self._empty_outbox()
        if outbox or self._at_turn_end:
            self._end_turn()

    doIteration = doPoll


def install() -> None:
    """Make this the process's reactor, unless one is installed already (the user's ``--reactor`` wins)."""
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(GatewayReactor())
