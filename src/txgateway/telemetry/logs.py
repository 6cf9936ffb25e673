"""From Twisted's log events to the gateway's log lines.

An observer turns every event of the process, Twisted's own and captured standard output included, into one line in
the format of ``LOG_FORMAT`` and hands it to a :class:`LogSink`. Events are named: ``log.info("listening", port=8000)``
becomes the event ``listening`` with a field ``port``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Protocol

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

from txgateway.telemetry.lines import Fields, LineFormat, json_line, text_line, timestamp
from txgateway.telemetry.redaction import redacted, scrub
from txgateway.telemetry.shared_sink import SharedLogSink
from txgateway.telemetry.sink import LogSink

__all__ = [
    "EventObserver",
    "JsonObserver",
    "LogSettings",
    "LogSink",
    "TextObserver",
    "line_format",
    "log_path",
    "observer_for",
]

LEVELS = {"DEBUG": LogLevel.debug, "INFO": LogLevel.info, "WARN": LogLevel.warn, "ERROR": LogLevel.error}
_LEVEL_NAMES = {level: name for name, level in LEVELS.items()} | {LogLevel.critical: "ERROR"}

#: Fields that open a line; an event's own field of such a name gets an underscore at its end.
RESERVED = frozenset({"ts", "level", "event", "message", "logger", "traceback"})
#: What Twisted's older log module puts into each event; ``message`` is already in the formatted text.
_LEGACY = frozenset({"failure", "format", "isError", "logLevel", "message", "printed", "system", "time", "why"})
#: Most fields taken from one event.
MAX_FIELDS = 50
_OWN = "txgateway"


class LogSettings(Protocol):
    """What the log needs to know."""

    @property
    def log_format(self) -> str:
        """``json`` or ``text``."""

    @property
    def log_level(self) -> str:
        """The least level that is printed: a key of :data:`LEVELS`."""


@implementer(ILogObserver)
class EventObserver:
    """Writes each log event as one line; it never logs and never raises.

    Args:
        sink: takes the lines.
        level: least level printed, a key of :data:`LEVELS`.
        encode: the format of a line.
    """

    def __init__(self, sink: LogSink, level: str, encode: LineFormat) -> None:
        self.sink = sink
        self._encode = encode
        order = list(LogLevel.iterconstants())
        self._printed = frozenset(order[order.index(LEVELS[level]) :])

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_level", LogLevel.info) in self._printed:
            self.sink.put(self._encode(event_fields(event)))


class JsonObserver(EventObserver):
    """One JSON object a line."""

    def __init__(self, sink: LogSink, level: str = "INFO", encode: LineFormat = json_line) -> None:
        super().__init__(sink, level, encode)


class TextObserver(EventObserver):
    """The same fields for people."""

    def __init__(self, sink: LogSink, level: str = "INFO", encode: LineFormat = text_line) -> None:
        super().__init__(sink, level, encode)


def event_fields(event: LogEvent) -> dict[str, object]:
    """The fields of one log line, in order, without secrets.

    ``ts``, ``level``, ``event`` (the format up to its first placeholder for the gateway's own events, ``log`` for
    all others), ``message``, ``logger`` (the namespace), the event's own fields, and ``traceback`` of a failure.
    """
    own = {
        name: redacted(name, value)
        for name, value in list(event.items())[: MAX_FIELDS + len(_LEGACY)]
        if not name.startswith("log_") and name not in _LEGACY
    }
    namespace = str(event.get("log_namespace", ""))
    fields: dict[str, object] = {
        "ts": timestamp(float(event.get("log_time", 0.0))),
        "level": _LEVEL_NAMES.get(event.get("log_level"), "INFO"),
        "event": _event_name(event) if namespace == _OWN or namespace.startswith(_OWN + ".") else "log",
        # Values are hidden under their names before the text is made of them, and by their shape after.
        "message": scrub(formatEvent({**event, **own})),
        "logger": namespace,
    }
    for name, value in own.items():
        fields[name + "_" if name in RESERVED else name] = value
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        fields["traceback"] = scrub(failure.getTraceback())
    return fields


def _event_name(event: LogEvent) -> str:
    name = str(event.get("log_format") or "").partition("{")[0].strip(" \t:,;=([\"'")
    return name or "log"


def line_format(name: str) -> LineFormat:
    """The line format that a value of ``LOG_FORMAT`` names."""
    return text_line if name == "text" else json_line


def log_path(logfile: str | None, *, is_daemon: bool) -> str | None:
    """The file that twistd's ``--logfile`` and ``--nodaemon`` mean; None for standard output.

    Raises:
        ValueError: standard output was asked for by a daemon, which has none.
    """
    if logfile == "-" and is_daemon:
        raise ValueError("a daemon cannot log to standard output")
    if logfile and logfile != "-":
        return logfile
    return "twistd.log" if is_daemon else None


def observer_for(
    settings: LogSettings, logfile: str | None, *, lock: int | None = None, worker: int | None = None
) -> EventObserver:
    """The observer to set as the application's ``ILogObserver``, with a sink of its own.

    The sink writes in place until its :meth:`LogSink.start`, so the observer may be made before twistd forks.

    Args:
        logfile: file to append to, None for standard output; see :func:`log_path`.
        lock: what other processes lock that write to the same place (:mod:`txgateway.telemetry.shared_sink`).
        worker: index of this process among those, for each line.

    Raises:
        OSError: the file cannot be opened.
    """
    plain = encode = line_format(settings.log_format)
    if worker is not None:

        def encode(fields: Fields) -> bytes:
            return plain({**fields, "worker": worker})

    def dropped_line(count: int) -> bytes:
        return encode(
            {
                "ts": timestamp(datetime.now(UTC).timestamp()),
                "level": "WARN",
                "event": "log lines dropped",
                "message": "The reader of the log was too slow, or its disk was full.",
                "logger": __name__,
                "dropped": count,
            }
        )

    if lock is None:
        sink = LogSink(path=logfile, dropped_line=dropped_line)
    else:
        sink = SharedLogSink(lock=lock, path=logfile, dropped_line=dropped_line)
    observer = TextObserver if plain is text_line else JsonObserver
    return observer(sink, settings.log_level, encode)
