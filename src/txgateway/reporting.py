"""What the two services under twistd have in common: a log from the first line to the last, and who is told of them."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from twisted.application.service import Service
from twisted.logger import ILogObserver
from twisted.python.components import Componentized

from txgateway.systemd import Notifier

#: For what is left of the log at the end, in seconds.
LOG_FLUSH_S: Final = 2.0


class ReportingService(Service):
    """A service with a log observer of its own.

    Args:
        is_daemon: twistd will detach.
        notifier: tells the process manager.

    Attributes:
        observer: set by the subclass.
    """

    name = "gateway"
    observer: Any

    def __init__(self, *, is_daemon: bool, notifier: Notifier | None) -> None:
        self._is_daemon = is_daemon
        self._notifier = notifier or Notifier()

    def setServiceParent(self, parent: Any) -> None:
        """Give twistd our observer, so that its own lines come out in our format too."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self.observer)

    def _give_up(self, status: int = 1) -> NoReturn:
        """End the start, while an exception that says why is being handled."""
        self._close_log()
        if self._is_daemon:
            raise  # noqa: PLE0704 -- twistd passes an exception on to its parent process, which waits for word
        raise SystemExit(status) from None

    def _close_log(self) -> None:
        self._notifier.end()
        self.observer.sink.close(LOG_FLUSH_S)
