"""The queue of spans and its thread, with an exporter that does what a test tells it to."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import pytest_twisted
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanContext, TraceFlags
from tests.unit.support import stub_request
from twisted.internet.posixbase import PosixReactorBase

from txgateway.config.tracing import TracingSettings
from txgateway.telemetry.export import SpanQueue, WatchedExporter, otlp_exporter
from txgateway.telemetry.tracing import Tracing

PATIENCE_S = 10.0
NEVER = TracingSettings("http://a/", max_queue=4, max_batch=4, delay_s=600.0)


class Scripted(SpanExporter):
    """Says what it is told to, once it may.

    Attributes:
        results: in turn; the last one again and again. An exception is raised.
        batches: of sizes.
    """

    def __init__(self, *results: SpanExportResult | Exception) -> None:
        self.results = list(results or [SpanExportResult.SUCCESS])
        self.batches: list[int] = []
        self.may = threading.Event()
        self.may.set()
        self.begun = threading.Semaphore(0)
        self.shut_down = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.batches.append(len(spans))
        self.begun.release()
        assert self.may.wait(PATIENCE_S)
        result = self.results.pop(0) if len(self.results) > 1 else self.results[0]
        if isinstance(result, Exception):
            raise result
        return result

    def shutdown(self) -> None:
        self.shut_down += 1


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("opentelemetry", "urllib3")]
    before = [(logger, logger.handlers, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, propagates in before:
        logger.handlers, logger.propagate = handlers, propagates


def span() -> ReadableSpan:
    return ReadableSpan("x", SpanContext(1, 2, False, TraceFlags(1)), start_time=0, end_time=1)


def watched(exporter: SpanExporter) -> tuple[WatchedExporter, list[tuple[str, str]]]:
    told: list[tuple[str, str]] = []
    return WatchedExporter(exporter, "there", lambda level, text: told.append((level, text))), told


OK, BAD = SpanExportResult.SUCCESS, SpanExportResult.FAILURE


def test_only_changes_of_the_collectors_state_are_told() -> None:
    exporter, told = watched(Scripted(OK, BAD, BAD, ValueError("broken"), OK, OK, ValueError("broken"), OK))
    counts = []
    for _ in range(8):
        exporter.export([span(), span()])
        counts.append(exporter.lost)
    assert counts == [0, 2, 4, 6, 6, 6, 8, 8]
    assert exporter.taken == 16
    assert told == [
        ("warn", "spans are not exported to there: no reason given"),
        ("info", "spans are exported again"),
        ("warn", "spans are not exported to there: ValueError: broken"),
        ("info", "spans are exported again"),
    ]


def test_the_exporters_first_word_is_the_reason_and_goes_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    class Wordy(Scripted):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
            logger.warning("Transient error %s", "Busy")
            logger.error("Failed to export")
            return BAD

    exporter, told = watched(Wordy())
    exporter.export([span()])
    exporter.export([span()])
    assert told == [("warn", "spans are not exported to there: Transient error Busy")]
    assert not caplog.records


def test_other_words_of_the_libraries_are_told_once_each() -> None:
    _, told = watched(Scripted())
    for number in range(3):
        logging.getLogger("opentelemetry.sdk.trace").warning("odd %d", number)
        logging.getLogger("urllib3.connectionpool").warning("bad %d %d", number)  # noqa: PLE1206 - meant
        logging.getLogger("opentelemetry.sdk.trace").info("chatter")
    assert told == [("warn", "odd 0"), ("warn", "bad %d %d")]


def test_a_full_queue_drops_what_comes_and_counts_it() -> None:
    scripted = Scripted()
    scripted.may.clear()
    exporter, told = watched(scripted)
    queue = SpanQueue(NEVER, exporter, exporter._tell)
    for _ in range(4):
        queue.on_end(span())
    assert scripted.begun.acquire(timeout=PATIENCE_S)  # a full batch wakes the thread
    assert queue.waiting == 0
    for _ in range(7):
        queue.on_end(span())
    assert (queue.waiting, queue.dropped) == (4, 3)
    assert told == [("warn", "spans are dropped: 4 wait for the collector already")]
    scripted.may.set()
    assert scripted.begun.acquire(timeout=PATIENCE_S)
    queue.shutdown()
    assert scripted.batches == [4, 4]
    assert (queue.dropped, scripted.shut_down) == (3, 1)


def test_a_queue_that_is_closed_exports_what_it_has_and_takes_no_more() -> None:
    scripted = Scripted()
    exporter, told = watched(scripted)
    queue = SpanQueue(NEVER, exporter, exporter._tell)
    queue.on_end(span())
    queue.close()
    queue.on_end(span())
    queue.shutdown()
    assert (scripted.batches, queue.dropped, told) == ([1], 1, [])


def test_an_abandoned_queue_has_lost_what_waits_and_what_is_under_way() -> None:
    scripted = Scripted(BAD)
    scripted.may.clear()
    exporter, told = watched(scripted)
    queue = SpanQueue(NEVER, exporter, exporter._tell)
    for _ in range(4):
        queue.on_end(span())
    assert scripted.begun.acquire(timeout=PATIENCE_S)
    queue.on_end(span())
    assert queue.abandon() == 5
    assert scripted.shut_down == 1
    scripted.may.set()
    queue.shutdown()
    assert (scripted.batches, queue.dropped, scripted.shut_down) == ([4], 5, 1)
    assert told == []


def test_the_real_exporter_takes_the_settings() -> None:
    settings = TracingSettings("http://a:1/x", headers={"K": "v"}, timeout_s=0.5, compression="gzip")
    exporter: Any = otlp_exporter(settings)
    client = exporter._client
    assert (client._endpoint, client._timeout) == ("http://a:1/x", 0.5)
    assert client._headers["k"] == "v"
    assert client._headers["Content-Encoding"] == "gzip"
    exporter.shutdown()


# --- its life ---------------------------------------------------------------------------------------------------------


def begun(reactor: PosixReactorBase, exporter: SpanExporter, flush_s: float = PATIENCE_S) -> Tracing:
    tracing = Tracing(NEVER, {}, reactor, lambda: 0.0, lambda _: exporter, flush_s=flush_s)
    tracing.start()
    return tracing


def end_one(tracing: Tracing) -> None:
    request = stub_request()
    tracing.begin(request)
    request.trace.end(request)


def test_before_the_start_there_is_no_thread(reactor: PosixReactorBase) -> None:
    before = threading.active_count()
    tracing = Tracing(NEVER, {}, reactor, lambda: 0.0, lambda _: Scripted())
    end_one(tracing)
    assert threading.active_count() == before
    assert tracing.dropped() == 0


@pytest_twisted.ensureDeferred
async def test_the_end_exports_what_waits(reactor: PosixReactorBase) -> None:
    scripted = Scripted()
    tracing = begun(reactor, scripted)
    end_one(tracing)
    end_one(tracing)
    assert scripted.batches == []
    await tracing.stop()
    assert (scripted.batches, scripted.shut_down, tracing.dropped()) == ([2], 1, 0)
    await tracing.stop()


@pytest_twisted.ensureDeferred
async def test_the_end_has_a_limit(reactor: PosixReactorBase) -> None:
    scripted = Scripted()
    scripted.may.clear()
    tracing = begun(reactor, scripted, flush_s=0.05)
    end_one(tracing)
    await tracing.stop()
    assert tracing.dropped() == 1
    scripted.may.set()
    for thread in threading.enumerate():
        if thread.name == "spans' end":
            thread.join(PATIENCE_S)


@pytest_twisted.ensureDeferred
async def test_without_a_start_the_end_is_at_once(reactor: PosixReactorBase) -> None:
    await Tracing(NEVER, {}, reactor, lambda: 0.0).stop()
