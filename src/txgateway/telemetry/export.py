"""Where finished spans go: a bounded queue, and a thread that posts them to a collector.

OpenTelemetry's ``BatchSpanProcessor`` and OTLP exporter do the work. Here is what they leave open: what is lost is
counted, the log hears of a collector's state when it changes and not with every batch, and the end has a limit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from txgateway.config.tracing import TracingSettings

#: Libraries whose words are ours to pass on.
_LOGGERS: Final = ("opentelemetry", "urllib3")
_EXPORTER: Final = "opentelemetry.exporter."
_MAX_WORDS: Final = 300
_MAX_DIFFERENT: Final = 50
_COMPRESSIONS: Final = {"none": Compression.NoCompression, "gzip": Compression.Gzip, "deflate": Compression.Deflate}

#: Told what there is to say: a level's name, and a sentence. Called in any thread.
Tell = Callable[[str, str], None]


def otlp_exporter(settings: TracingSettings) -> SpanExporter:
    """Posts spans to the collector, in whatever thread it is called in; it retries within the time-out."""
    return OTLPSpanExporter(
        endpoint=settings.endpoint,
        headers=settings.headers,
        timeout=settings.timeout_s,
        compression=_COMPRESSIONS[settings.compression],
    )


class WatchedExporter(SpanExporter):
    """Hands batches on, counts what is lost, and tells when that begins and ends. It never raises.

    It lives in the exporting thread, but for :meth:`give_up`.

    Args:
        exporter: does it.
        where: to, for people.
        tell: hears of changes.

    Attributes:
        taken: spans so far, whatever became of them.
        under_way: those of them that are being exported.
        lost: those of them that no collector has accepted.
    """

    def __init__(self, exporter: SpanExporter, where: str, tell: Tell) -> None:
        self._exporter = exporter
        self._where = where
        self._tell = tell
        self._words = _Words(tell)
        self._is_failing = False
        self._has_given_up = False
        self.taken = self.under_way = self.lost = 0
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            logger.handlers = [self._words]
            logger.propagate = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; blocks for as long as that takes."""
        if self._has_given_up:
            return SpanExportResult.FAILURE
        self.under_way = len(spans)
        self.taken += len(spans)
        self._words.first = ""
        problem = ""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        except Exception as exc:  # noqa: BLE001 -- the thread must go on
            problem = f"{type(exc).__name__}: {exc}"
        self.under_way = 0
        if not self._has_given_up:  # which has counted them
            if result is not SpanExportResult.SUCCESS:
                self.lost += len(spans)
            self._note(result is not SpanExportResult.SUCCESS, problem)
        return result

    def _note(self, is_failing: bool, problem: str) -> None:
        if is_failing == self._is_failing:
            return
        self._is_failing = is_failing
        if is_failing:
            why = problem or self._words.first or "no reason given"
            self._tell("warn", f"spans are not exported to {self._where}: {why}")
        else:
            self._tell("info", "spans are exported again")

    def give_up(self) -> None:
        """Do not wait for the collector any more: what comes from now on is lost."""
        self._has_given_up = True
        self._exporter.shutdown()

    def shutdown(self) -> None:
        """The processor: there is nothing more."""
        if not self._has_given_up:
            self._exporter.shutdown()


class SpanQueue(BatchSpanProcessor):
    """Takes ended spans, on the reactor's thread, and never waits; has a thread from the beginning.

    When the queue is full the new span is dropped: the older ones tell how it began.
    """

    def __init__(self, settings: TracingSettings, exporter: WatchedExporter, tell: Tell) -> None:
        self._exporter = exporter
        self._tell = tell
        self._max_queue = settings.max_queue
        self._accepted = 0
        self._refused = 0
        self._is_full = False
        self._is_closed = False
        super().__init__(
            exporter,
            max_queue_size=settings.max_queue,
            schedule_delay_millis=settings.delay_s * 1000,
            max_export_batch_size=settings.max_batch,
            export_timeout_millis=settings.timeout_s * 1000,
        )

    @property
    def waiting(self) -> int:
        """Spans in the queue."""
        return self._accepted - self._exporter.taken

    @property
    def dropped(self) -> int:
        """Spans lost so far: to a full queue, a collector that does not take them, or the end."""
        return self._refused + self._exporter.lost

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span that is over."""
        waiting = self._accepted - self._exporter.taken
        if waiting >= self._max_queue or self._is_closed:
            self._refused += 1
            if not self._is_full and not self._is_closed:
                self._is_full = True
                self._tell("warn", f"spans are dropped: {self._max_queue} wait for the collector already")
            return
        if self._is_full and not waiting:
            self._is_full = False
        self._accepted += 1
        super().on_end(span)

    def close(self) -> None:
        """Take no more; :meth:`shutdown` exports what is there."""
        self._is_closed = True

    def abandon(self) -> int:
        """What is still there is lost; returns how much that is."""
        lost = self.waiting + self._exporter.under_way
        self._exporter.give_up()
        self._refused += lost
        return lost


class _Words(logging.Handler):
    """What the libraries log: the exporter's first word is kept, others are told, each once.

    Attributes:
        first: of the exporter, since it was emptied; what follows only says that it gives up.
    """

    def __init__(self, tell: Tell) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell
        self._told: set[str] = set()
        self.first = ""

    def emit(self, record: logging.LogRecord) -> None:
        """A library has something to say."""
        try:
            text = record.getMessage()[:_MAX_WORDS]
        except Exception:  # noqa: BLE001 -- arguments that do not fit the format
            text = str(record.msg)[:_MAX_WORDS]
        if record.name.startswith(_EXPORTER):
            self.first = self.first or text
        elif str(record.msg) not in self._told and len(self._told) < _MAX_DIFFERENT:
            self._told.add(str(record.msg))
            self._tell("warn", text)
