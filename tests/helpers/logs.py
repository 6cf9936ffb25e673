"""What is logged while a test looks."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import implementer


@contextmanager
def logged() -> Iterator[list[tuple[str, str]]]:
    """Level and text of each line, within the block; the text of an exception is not among them."""
    lines: list[tuple[str, str]] = []
    with _observed(lambda event: lines.append((event["log_level"].name, formatEvent(event)))):
        yield lines


@contextmanager
def logged_events() -> Iterator[list[LogEvent]]:
    """All events, within the block."""
    events: list[LogEvent] = []
    with _observed(events.append):
        yield events


@contextmanager
def _observed(take: Callable[[LogEvent], None]) -> Iterator[None]:
    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        take(event)

    gc.collect()  # or failures of Deferreds that other tests have dropped may be told within the block
    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
