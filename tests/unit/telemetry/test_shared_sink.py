"""Several processes that write to one pipe; here they are one process's threads, or really others where locks matter."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from txgateway.telemetry.shared_sink import SharedLogSink, new_lock
from txgateway.telemetry.sink import CHUNK_BYTES

#: Another process that holds the lock until its input ends.
_HOLDER = """
import fcntl, os, sys
fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX)
os.write(1, b"x")
os.read(0, 1)
"""
#: Another process that writes lines as a worker does.
_WRITER = """
import sys
from txgateway.telemetry.shared_sink import SharedLogSink
sink = SharedLogSink(int(sys.argv[1]), lock=int(sys.argv[2]), dropped_line=lambda n: b"dropped\\n")
sink.start()
for count in range(400):
    size = 9000 if count % 5 == 0 else 100 + 37 * (count % 60)
    sink.put(sys.argv[3].encode() * size + b"\\n")
sink.close(20)
"""


def dropped_line(count: int) -> bytes:
    return b"dropped %d\n" % count


@pytest.fixture
def lock() -> Iterator[int]:
    descriptor = new_lock()
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        os.close(descriptor)


class Recorded(SharedLogSink):
    """Writes down the size of each write, and whether the lock was held."""

    def __init__(self, fd: int, lock: int) -> None:
        super().__init__(fd, lock=lock, dropped_line=dropped_line)
        self.pieces: list[bytes] = []
        self.locked: list[bool] = []

    def _piece(self, rest: memoryview) -> memoryview:
        piece = super()._piece(rest)
        self.pieces.append(bytes(piece))
        self.locked.append(_is_locked(self._lock_fd))
        return piece


def _is_locked(lock: int) -> bool:
    """Whether another process would have to wait."""
    code = "import fcntl, sys\ntry:\n fcntl.lockf(int(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\nexcept OSError: sys.exit(9)"
    return subprocess.run([sys.executable, "-c", code, str(lock)], pass_fds=[lock], check=False).returncode == 9


def test_short_lines_are_written_whole_and_as_many_as_go_into_one_write(pipe: tuple[int, int], lock: int) -> None:
    sink = Recorded(pipe[1], lock)
    line = b"x" * 999 + b"\n"
    sink.put(line * 6)
    assert sink.pieces == [line * 4, line * 2]
    assert os.read(pipe[0], 65536) == line * 6
    assert sink.locked == [True, True]
    assert not _is_locked(lock)


def test_long_line_keeps_the_lock_to_its_end(pipe: tuple[int, int], lock: int) -> None:
    sink = Recorded(pipe[1], lock)
    long = b"y" * (2 * CHUNK_BYTES + 10) + b"\n"
    sink.put(b"a\n" + long + b"b\n")
    assert b"".join(sink.pieces) == b"a\n" + long + b"b\n"
    assert [len(piece) for piece in sink.pieces] == [2, CHUNK_BYTES, CHUNK_BYTES, 13]
    assert sink.locked == [True] * 4
    assert not _is_locked(lock)


def test_line_waits_for_the_lock_and_is_dropped_after_a_while(pipe: tuple[int, int], lock: int) -> None:
    sink = SharedLogSink(pipe[1], lock=lock, dropped_line=dropped_line)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock)], pass_fds=[lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.read(1) == b"x"
        sink.start()
        sink.put(b"lost\n")
        sink.close(0.1)
        assert sink.dropped == 1
        sink.start()
        sink.put(b"line\n")
        holder.stdin.close()
        holder.wait()
    sink.close(10)
    assert os.read(pipe[0], 100) == b"line\ndropped 1\n"


def test_lock_of_a_process_that_died_is_free(pipe: tuple[int, int], lock: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(lock)], pass_fds=[lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.read(1) == b"x"
        assert _is_locked(lock)
        holder.kill()
        holder.wait()
    sink = SharedLogSink(pipe[1], lock=lock, dropped_line=dropped_line)
    sink.put(b"line\n")
    assert os.read(pipe[0], 100) == b"line\n"


def test_without_a_lock_lines_are_written_all_the_same(pipe: tuple[int, int]) -> None:
    descriptor = os.dup(pipe[0])
    os.close(descriptor)
    sink = SharedLogSink(pipe[1], lock=descriptor, dropped_line=dropped_line)
    sink.put(b"line\n")
    assert os.read(pipe[0], 100) == b"line\n"


def test_lines_of_several_processes_are_never_mixed(pipe: tuple[int, int], lock: int) -> None:
    """Each line is of one letter; those of two writers that come between each other would have two."""
    source = str(Path(__file__).parents[3] / "src")
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(pipe[1]), str(lock), letter],
            pass_fds=[pipe[1], lock],
            env={"PYTHONPATH": source},
        )
        for letter in "abc"
    ]
    data = bytearray()

    def read() -> None:
        while data.count(b"\n") < 1200:
            data.extend(os.read(pipe[0], 1000))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    reader.join(10)
    lines = bytes(data).splitlines()
    assert all(len(set(line)) == 1 for line in lines)
    assert Counter(chr(line[0]) for line in lines) == {"a": 400, "b": 400, "c": 400}
    assert Counter(len(line) for line in lines)[9000] == 240


def test_nobody_else_is_kept_waiting_by_a_reader_that_does_not_read(pipe: tuple[int, int], lock: int) -> None:
    os.set_blocking(pipe[1], False)
    try:
        while True:
            os.write(pipe[1], b"." * 4095 + b"\n")
    except BlockingIOError:
        os.set_blocking(pipe[1], True)
    sink = SharedLogSink(pipe[1], lock=lock, dropped_line=dropped_line)
    sink.start()
    sink.put(b"line\n")
    for _ in range(5):
        assert not _is_locked(lock)
        time.sleep(0)
    sink.close(0)
    fcntl.lockf(lock, fcntl.LOCK_UN)
