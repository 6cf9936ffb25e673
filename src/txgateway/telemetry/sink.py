"""Where log lines leave the process: one bounded queue, one thread, one file descriptor.

A reader that stops reading must never stop the reactor. So the reactor only appends to a queue; what finds the queue
full is dropped and counted, and a line tells of it once the lines flow again.
"""

from __future__ import annotations

import errno
import math
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

#: Bytes that may wait for a slow reader.
MAX_WAITING_BYTES = 8 * 1024 * 1024
#: A descriptor that polls as writable takes this much without blocking (POSIX, pipe(7)).
CHUNK_BYTES = select.PIPE_BUF
#: A file never blocks for long; each write costs two changes of threads, so few large ones are better.
FILE_CHUNK_BYTES = 256 * 1024
#: How long a blocked writer waits before it looks whether it should give up.
POLL_S = 0.1
#: How long a line may hold up its caller while there is no thread.
SYNC_WAIT_S = 1.0


class LogSink:
    """Takes finished lines and writes them to a descriptor, in order, without blocking the caller.

    Until :meth:`start` and after :meth:`close` a line is written in :meth:`put` itself, which waits at most
    :data:`SYNC_WAIT_S` for a blocked reader, and not again until that reader has read: twistd forks between its
    first log lines and the start of the services, and no thread survives a fork.

    Args:
        fd: open descriptor to write to; ignored with ``path``.
        path: file to append to instead. It is opened here (mode 0640) and again by :meth:`reopen`.
        dropped_line: makes the line that tells how many lines were dropped.
        max_waiting_bytes: what finds more than this waiting is dropped.

    Raises:
        OSError: ``path`` cannot be opened for appending.
    """

    def __init__(
        self,
        fd: int = 1,
        *,
        path: str | None = None,
        dropped_line: Callable[[int], bytes],
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        # twistd changes directory later; reopen() must find the same file.
        self._path = None if path is None else os.path.abspath(path)  # noqa: PTH100 - Path.absolute keeps ".."
        self._fd = fd if self._path is None else _open(self._path)
        self._chunk_bytes = _chunk_bytes(self._fd)
        self._dropped_line = dropped_line
        self._max_waiting_bytes = max_waiting_bytes
        # Both are reentrant: Twisted logs in signal handlers, which may interrupt put().
        self._lock = threading.RLock()
        self._wakeups: SimpleQueue[None] = SimpleQueue()
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._writing_bytes = 0
        self._dropped = 0
        self._unreported = 0
        self._thread: threading.Thread | None = None
        self._is_started = False
        self._is_closing = False
        self._give_up_at = math.inf
        self._wants_reopen = False
        self._is_broken = False
        self._is_blocked = False
        self._is_mid_line = False

    @property
    def dropped(self) -> int:
        """Lines lost so far: queue full, disk full, or nobody left to read."""
        return self._dropped

    def start(self) -> None:
        """From now on write in a thread, which starts with the next line."""
        self._give_up_at = math.inf
        self._is_closing = False
        self._is_started = True

    def put(self, lines: bytes) -> None:
        """Hand over whole lines, each ended by a newline; safe in any thread and in signal handlers."""
        with self._lock:
            if self._is_broken or self._queued_bytes + self._writing_bytes + len(lines) > self._max_waiting_bytes:
                self._count_dropped(lines)
            elif not self._is_started:
                unreported, self._unreported = self._unreported, 0
                wait_s = 0.0 if self._is_blocked else SYNC_WAIT_S
                self._write_batch([lines], unreported, time.monotonic() + wait_s)
            else:
                self._queue.append(lines)
                self._queued_bytes += len(lines)
                if len(self._queue) == 1:
                    self._wakeups.put(None)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
                    self._thread.start()

    def reopen(self) -> None:
        """Open the path again before the next line, for a rotated file; nothing for a bare descriptor.

        If that fails, the old file stays in use.
        """
        self._wants_reopen = self._path is not None

    def close(self, timeout_s: float) -> None:
        """Write what waits, but give up after ``timeout_s``; what is left counts as dropped.

        The descriptor stays open for the process's last lines.
        """
        self._give_up_at = time.monotonic() + timeout_s
        self._is_closing = True
        if self._thread is not None:
            self._wakeups.put(None)
            self._thread.join()  # it looks at the time every POLL_S
        with self._lock:
            self._thread, self._is_started = None, False
            batch, unreported = self._take()
            if batch or unreported:  # came after the thread's last look
                self._write_batch(batch, unreported, self._give_up_at)
            self._writing_bytes = 0

    def _run(self) -> None:
        while True:
            is_last = self._is_closing
            with self._lock:
                batch, unreported = self._take()
            if batch or unreported:
                is_written = self._write_batch(batch, unreported, None)
                self._writing_bytes = 0
                if is_written:
                    continue
            if is_last:
                return
            self._wakeups.get()  # whoever fills the empty queue puts one there

    def _take(self) -> tuple[list[bytes], int]:
        batch, self._queue = self._queue, []
        self._writing_bytes, self._queued_bytes = self._queued_bytes, 0
        unreported, self._unreported = self._unreported, 0
        return batch, unreported

    def _write_batch(self, batch: list[bytes], unreported: int, deadline: float | None) -> bool:
        """Write lines, and tell of those that were dropped after them."""
        if self._wants_reopen and self._path is not None:
            self._wants_reopen = False
            self._reopen(self._path)
        is_written = self._write(b"".join(batch), deadline)
        if is_written and unreported:
            is_written = self._write(self._dropped_line(unreported), deadline, counts=False)
        if not is_written:
            with self._lock:
                self._unreported += unreported
        return is_written

    def _reopen(self, path: str) -> None:
        try:
            fresh = _open(path)
        except OSError:
            return
        os.close(self._fd)
        self._fd, self._is_mid_line = fresh, False
        self._chunk_bytes = _chunk_bytes(fresh)

    def _write(self, data: bytes, deadline: float | None, *, counts: bool = True) -> bool:
        """Write all of ``data``, or drop its rest and count the lines of it.

        Args:
            deadline: when to give up, in monotonic seconds; None: not before :meth:`close` says so.
        """
        # The rest of the line before may have been lost: begin on a fresh one.
        rest = memoryview(b"\n" + data if data and self._is_mid_line else data)
        try:
            while rest and self._wait_writable(deadline):
                try:
                    written = os.write(self._fd, self._piece(rest))
                except BlockingIOError:
                    continue  # somebody else filled the pipe first
                self._is_mid_line = rest[written - 1] != 0x0A
                rest = rest[written:]
                self._writing_bytes = min(self._writing_bytes, len(rest))
                self._wrote()
        except OSError as error:
            # A reader that is gone stays gone; a full disk may get space again.
            self._is_broken = error.errno in {errno.EPIPE, errno.EBADF}
        self._ended()
        if rest and counts:
            self._count_dropped(bytes(rest[-len(data) :]))
        return not rest

    # What a sink does besides that shares its descriptor with other processes.

    def _piece(self, rest: memoryview) -> memoryview:
        """What to write at once."""
        return rest[: self._chunk_bytes]

    def _wrote(self) -> None:
        """A piece was written."""

    def _ended(self) -> None:
        """Nothing more is written for now, whether that was all or not."""

    def _wait_writable(self, deadline: float | None) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while True:
            limit = self._give_up_at if deadline is None else deadline
            left_s = limit - time.monotonic()
            if poller.poll(max(0.0, min(left_s, POLL_S)) * 1000):
                self._is_blocked = False
                return True
            if left_s <= 0:
                self._is_blocked = True
                return False

    def _is_writable(self) -> bool:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(0))

    def _count_dropped(self, lines: bytes) -> None:
        count = lines.count(b"\n")
        with self._lock:
            self._dropped += count
            self._unreported += count


def _chunk_bytes(fd: int) -> int:
    try:
        is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    except OSError:  # closed; the first write will tell
        is_file = False
    return FILE_CHUNK_BYTES if is_file else CHUNK_BYTES


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
