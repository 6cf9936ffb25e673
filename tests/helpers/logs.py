"""What is logged while a test looks."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer


@contextmanager
def logged() -> Iterator[list[tuple[str, str]]]:
    """Level and text of each line, within the block; the text of an exception is not among them."""
    lines: list[tuple[str, str]] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        lines.append((event["log_level"].name, formatEvent(event)))

    gc.collect()  # or failures of Deferreds that other tests have dropped may be told within the block
    globalLogPublisher.addObserver(observe)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observe)
