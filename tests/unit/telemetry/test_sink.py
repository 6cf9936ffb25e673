"""The sink at the level of descriptors: pipes that nobody reads, pipes without a reader, files that move."""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from txgateway.telemetry.sink import LogSink


def dropped_line(count: int) -> bytes:
    return b"dropped %d\n" % count


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        with suppress(OSError):
            os.close(descriptor)


def read_until(reader: int, end: bytes) -> bytes:
    """What arrives up to and with ``end``; a test that would wait for it for ever fails instead."""
    data = b""
    poller = select.poll()
    poller.register(reader, select.POLLIN)
    while not data.endswith(end):
        assert poller.poll(20_000), data[-200:]
        chunk = os.read(reader, 65536)
        assert chunk, data[-200:]
        data += chunk
    return data


def fill(writer: int) -> int:
    """Fill a pipe to the last byte; how many that took."""
    os.set_blocking(writer, False)
    count = 0
    with suppress(BlockingIOError):
        while True:
            count += os.write(writer, b"." * 4095 + b"\n")
    os.set_blocking(writer, True)
    return count


def drain(reader: int, count: int) -> None:
    while count:
        count -= len(os.read(reader, count))


def test_put_before_start_is_written_at_once_and_without_a_thread(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer, dropped_line=dropped_line)
    threads = threading.active_count()
    sink.put(b"one\n")
    assert os.read(reader, 100) == b"one\n"
    assert threading.active_count() == threads


def test_put_after_start_keeps_order_and_close_writes_everything(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.put(b"first\n")
    sink.start()
    for number in range(500):
        sink.put(b"%d\n" % number)
    sink.close(5)
    sink.put(b"last\n")
    expected = b"first\n" + b"".join(b"%d\n" % number for number in range(500)) + b"last\n"
    assert read_until(reader, b"last\n") == expected
    assert sink.dropped == 0


def test_lines_larger_than_the_pipe_arrive_whole(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.start()
    line = b"x" * 300_000 + b"\n"
    sink.put(line)
    assert read_until(reader, b"\n") == line
    sink.close(5)


def test_a_nonblocking_descriptor_loses_nothing(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.start()
    line = b"x" * 300_000 + b"\n"
    sink.put(line)
    assert read_until(reader, b"\n") == line
    sink.close(5)
    assert sink.dropped == 0


def test_a_full_pipe_never_blocks_put_and_the_drops_are_counted_and_told(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    sink = LogSink(writer, dropped_line=dropped_line, max_waiting_bytes=1000)
    sink.start()
    for _ in range(30):
        sink.put(b"y" * 99 + b"\n")
    assert sink.dropped == 20
    drain(reader, filled)
    sink.close(20)
    lines = os.read(reader, 65536).splitlines()
    kept = [line for line in lines if line == b"y" * 99]
    # In one line or in several, after how the thread was scheduled.
    told = [int(line.removeprefix(b"dropped ")) for line in lines if line.startswith(b"dropped ")]
    assert (len(kept), sum(told), len(kept) + len(told)) == (10, 20, len(lines))
    assert lines[-1].startswith(b"dropped ")
    sink.put(b"after\n")
    assert read_until(reader, b"\n") == b"after\n"
    assert sink.dropped == 20


def test_close_gives_up_on_a_full_pipe_and_counts_what_was_left(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.start()
    sink.put(b"a\nb\n")
    sink.put(b"c\n")
    sink.close(0)
    assert sink.dropped == 3
    sink.put(b"d\n")  # returns at once too, as the pipe is known to be blocked
    assert sink.dropped == 4
    drain(reader, filled)
    sink.put(b"e\n")
    assert read_until(reader, b"dropped 4\n") == b"e\ndropped 4\n"


def test_a_line_cut_off_half_way_does_not_spoil_the_next(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    filled = fill(writer)
    drain(reader, 4096)  # room for exactly one chunk
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.start()
    sink.put(b"z" * 6000 + b"\n")
    sink.close(0.2)
    assert sink.dropped == 1
    drain(reader, filled - 4096)
    sink.put(b"next\n")
    assert read_until(reader, b"dropped 1\n").splitlines() == [b"z" * 4096, b"next", b"dropped 1"]


def test_a_reader_that_left_is_noticed_quietly(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.close(reader)
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.put(b"one\n")
    sink.start()
    sink.put(b"two\nthree\n")
    sink.close(5)
    assert sink.dropped == 3


def test_a_full_disk_drops_lines_and_asks_again_next_time() -> None:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = LogSink(descriptor, dropped_line=dropped_line)
        sink.put(b"one\n")
        sink.put(b"two\n")
        assert sink.dropped == 2
        assert not sink._is_broken
    finally:
        os.close(descriptor)


def test_put_in_a_signal_handler_that_interrupts_put(pipe: tuple[int, int]) -> None:
    _, writer = pipe
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.start()
    before = signal.signal(signal.SIGUSR2, lambda *_: sink.put(b"signal\n"))
    try:
        with sink._lock:
            signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    sink.close(5)
    assert sink.dropped == 0


def test_a_fork_before_start_leaves_a_working_sink(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = LogSink(writer, dropped_line=dropped_line)
    sink.put(b"parent\n")
    child = os.fork()
    if child == 0:
        sink.start()
        sink.put(b"child\n")
        sink.close(5)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert read_until(reader, b"child\n") == b"parent\nchild\n"


def test_reopen_follows_a_moved_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sink = LogSink(path="gateway.log", dropped_line=dropped_line)
    monkeypatch.chdir("/")
    log = tmp_path / "gateway.log"
    sink.put(b"old\n")
    log.rename(tmp_path / "gateway.log.1")
    sink.put(b"still old\n")
    sink.reopen()
    sink.put(b"new\n")
    assert (tmp_path / "gateway.log.1").read_bytes() == b"old\nstill old\n"
    assert log.read_bytes() == b"new\n"


def test_reopen_that_fails_keeps_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    sink = LogSink(path=str(folder / "gateway.log"), dropped_line=dropped_line)
    folder.rename(tmp_path / "moved")
    sink.reopen()
    sink.put(b"line\n")
    assert (tmp_path / "moved" / "gateway.log").read_bytes() == b"line\n"


def test_a_path_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gateway"):
        LogSink(path=str(tmp_path / "no" / "gateway.log"), dropped_line=dropped_line)
