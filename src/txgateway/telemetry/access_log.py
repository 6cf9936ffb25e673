"""One log line for every answer of the gateway.

A line is made when its request is over, while all that it tells is at hand, and handed on together with those of the
same moment. ``LOG_LEVEL`` does not apply here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from txgateway.errors import GatewayError
from txgateway.telemetry.lines import json_line, text_line, timestamp
from txgateway.telemetry.redaction import scrub, without_fragment
from txgateway.telemetry.sink import LogSink

#: How long a line waits for others to be written with it, and how many bytes of them may wait.
FLUSH_S = 0.05
BATCH_BYTES = 256 * 1024
#: Characters of a value that a line shows.
MAX_TEXT = 8192
#: Of what is known about a fault on our side or a target's.
MAX_DETAIL = 256
#: All fields of ours that a line may have.
FIELDS = frozenset({
    "ts", "level", "event", "request_id", "trace_id", "span_id", "client_ip", "method", "host", "path", "protocol", "status",
    "reason", "route", "backend", "target", "attempts", "duration_ms", "upstream_ms", "bytes_in", "bytes_out", "user_agent",
    "subject", "timing", "detail", "worker", "message", "logger", "traceback",
})  # fmt: skip
_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_field(name: str) -> None:
    """Make sure that a line may have a field of this name besides ours.

    Raises:
        ValueError: it may not.
    """
    if not _FIELD.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a field of the log: a-z, 0-9 and _, a letter first, up to 64")
    if name in FIELDS:
        raise ValueError(f"every line of the access log has a field {name!r} already")


class _Texts(dict[bytes | None, str | None]):
    """Bytes of requests as text. Most repeat from request to request, so the last few thousand are kept."""

    MAX_ENTRIES = 4096
    MAX_BYTES = 256

    def __missing__(self, data: bytes | None) -> str | None:
        # Empty is what a head that never became one leaves behind: unknown.
        text = data.decode("utf-8", "backslashreplace") if data else None
        if text is not None and len(text) > MAX_TEXT:  # bytes that are no text take four characters each
            text = text[:MAX_TEXT] + "…"
        if data is None or len(data) <= self.MAX_BYTES:
            if len(self) >= self.MAX_ENTRIES:
                self.clear()
            self[data] = text
        return text


_texts = _Texts()


class FinishedRequest(Protocol):
    """What the log asks of a request whose answer has ended; unknown values are None.

    ``path`` is the client's own, without the query. ``started_at`` and ``ended_at`` are seconds of the reactor's
    clock, ``upstream_s`` the seconds spent waiting for targets.
    """

    request_id: str
    trace_id: str | None
    span_id: str | None
    client_ip: str | None
    method: bytes
    host: bytes | None
    path: bytes
    clientproto: bytes
    status: int
    reason: str | None
    route_name: str | None
    backend_name: str | None
    target_label: str | None
    attempts: int
    started_at: float
    ended_at: float
    upstream_s: float | None
    bytes_in: int
    bytes_out: int
    subject: str | None
    phases: Mapping[str, float] | None
    error: GatewayError | None

    def header(self, name: bytes, /) -> bytes | None:
        """The value of a request header field, by its lowered name."""


class AccessLog:
    """Makes a line of each finished request, and hands them on in batches.

    Args:
        sink: takes the lines.
        wall_clock: seconds since the epoch.
        clock: the clock that the requests' times are of; carries the batches.
        format: ``json`` or ``text``.
    """

    def __init__(self, sink: LogSink, wall_clock: Callable[[], float], clock: IReactorTime, format: str) -> None:
        self._sink = sink
        self._wall_clock = wall_clock
        self._clock = clock
        self._encode = text_line if format == "text" else json_line
        self._fields = _fields
        # One buffer: a thousand lines kept each by itself cost three times as much, in page faults.
        self._lines = bytearray()
        self._epoch = 0.0
        self._flush_call: IDelayedCall | None = None

    def record(self, request: FinishedRequest) -> None:
        """Take note of one finished request; its line is written within :data:`FLUSH_S`."""
        if self._flush_call is None:
            self._epoch = self._wall_clock() - self._clock.seconds()  # of the clock's zero
            self._flush_call = self._clock.callLater(FLUSH_S, self._write)
        self._lines += self._encode(self._fields(request, self._epoch))
        if len(self._lines) >= BATCH_BYTES:
            self.flush()

    def announce_fields(self) -> None:
        """From now on requests may have ``log_fields``; until then nobody looks for them."""
        self._fields = _with_more

    def flush(self) -> None:
        """Write now what is waiting; leaves no delayed call behind."""
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._write()

    def _write(self) -> None:
        self._flush_call = None
        lines = bytes(self._lines)
        self._lines.clear()
        self._sink.put(lines)


def _fields(request: FinishedRequest, epoch: float) -> dict[str, object]:
    status, upstream_s, ended_at = request.status, request.upstream_s, request.ended_at
    fields: dict[str, object] = {
        "ts": timestamp(epoch + ended_at),
        "level": "ERROR" if status >= 500 else "INFO",
        "event": "request",
        "request_id": request.request_id,
        "trace_id": request.trace_id,
        "span_id": request.span_id,
        "client_ip": request.client_ip,
        "method": _texts[request.method],
        "host": _texts[request.host],
        "path": _texts[without_fragment(request.path)] if request.path else None,
        "protocol": _texts[request.clientproto],
        "status": status,
        "reason": request.reason,
        "route": request.route_name,
        "backend": request.backend_name,
        "target": request.target_label,
        "attempts": request.attempts,
        "duration_ms": int((ended_at - request.started_at) * 1e6) / 1000,
        "upstream_ms": None if upstream_s is None else int(upstream_s * 1e6) / 1000,
        "bytes_in": request.bytes_in,
        "bytes_out": request.bytes_out,
        "user_agent": _texts[request.header(b"user-agent")],
        "subject": request.subject,
    }
    if request.phases is not None:
        fields["timing"] = request.phases
    error = request.error
    # Of a client's fault nothing is told: the words could be the client's.
    if error is not None and error.status >= 500 and (detail := str(error)):
        fields["detail"] = scrub(detail[:MAX_DETAIL])
    return fields


def _with_more(request: FinishedRequest, epoch: float) -> dict[str, object]:
    fields = _fields(request, epoch)
    more: Mapping[str, object] | None = getattr(request, "log_fields", None)
    return fields if more is None else {**fields, **more}
