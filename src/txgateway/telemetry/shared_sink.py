"""The log of several processes on one descriptor: whole lines, whoever writes them.

What is written at once is whole lines of at most :data:`~txgateway.telemetry.sink.CHUNK_BYTES`, which pipes and stream
sockets take as one (POSIX, pipe(7)), so that not even a process that is killed leaves half a line. A longer line takes
several writes. So that nobody else's come between them, each write needs a lock that all these processes share; it is
kept while a line is unfinished. The lock is a record lock (fcntl(2)): it belongs to the process and ends with it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable

from txgateway.telemetry.sink import MAX_WAITING_BYTES, LogSink

#: How long to wait before the next try to get the lock, which others hold for microseconds, or for a long line.
RETRY_S = 0.001


def new_lock() -> int:
    """A descriptor to lock, for this process and those that inherit it."""
    return os.memfd_create("log lock")


class SharedLogSink(LogSink):
    """A sink of a process that shares its log.

    Args:
        lock: descriptor of what the others lock too.
    """

    def __init__(
        self,
        fd: int = 1,
        *,
        lock: int,
        path: str | None = None,
        dropped_line: Callable[[int], bytes],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        super().__init__(fd, path=path, dropped_line=dropped_line, max_waiting_bytes=max_waiting_bytes)
        self._lock_fd = lock
        self._is_locked = False

    def _piece(self, rest: memoryview) -> memoryview:
        piece = super()._piece(rest)
        end = bytes(piece).rfind(b"\n") + 1
        return piece[:end] if end else piece

    def _wait_writable(self, deadline: float | None) -> bool:
        """Wait for room, and for the lock; the caller has both, or neither."""
        while super()._wait_writable(deadline):
            if self._is_locked:
                return True
            if self._try_lock():
                if self._is_writable():  # nobody took the room before the lock was ours
                    return True
                self._unlock()
            if time.monotonic() >= (self._give_up_at if deadline is None else deadline):
                return False
            time.sleep(RETRY_S)
        return False

    def _wrote(self) -> None:
        if not self._is_mid_line:
            self._unlock()

    def _ended(self) -> None:
        self._unlock()

    def _try_lock(self) -> bool:
        try:
            fcntl.lockf(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in {errno.EACCES, errno.EAGAIN}:
                return False
            # No lock at all: lines are worth more than their order.
        self._is_locked = True
        return True

    def _unlock(self) -> None:
        if self._is_locked:
            self._is_locked = False
            fcntl.lockf(self._lock_fd, fcntl.LOCK_UN)
