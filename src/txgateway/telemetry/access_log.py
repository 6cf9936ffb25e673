"""One log line for every answer of the gateway.

A finished request leaves only a tuple behind; lines are made of many tuples at once, a moment later, so that the
request itself does not pay for its JSON. ``LOG_LEVEL`` does not apply here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from txgateway.telemetry.lines import json_line, text_line, timestamp
from txgateway.telemetry.sink import LogSink

#: How long a record waits for others to be encoded with it.
FLUSH_S = 0.05
#: Records that may wait; more only come together when the process is far behind.
MAX_RECORDS = 50_000

_log = Logger()

_Record: TypeAlias = tuple[
    str,
    str | None,
    bytes | None,
    bytes | None,
    bytes | None,
    bytes | None,
    int,
    str | None,
    str | None,
    str | None,
    str | None,
    int,
    float,
    float,
    float | None,
    int,
    int,
    bytes | None,
    str | None,
]


class _Texts(dict[bytes | None, str | None]):
    """Bytes of requests as text. Most repeat from request to request, so the last few thousand are kept."""

    MAX_ENTRIES = 4096
    MAX_BYTES = 256

    def __missing__(self, data: bytes | None) -> str | None:
        # Empty is what a head that never became one leaves behind: unknown.
        text = data.decode("utf-8", "backslashreplace") if data else None
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

    def header(self, name: bytes, /) -> bytes | None:
        """The value of a request header field, by its lowered name."""


class AccessLog:
    """Records finished requests and writes them as lines in batches.

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
        self._records: list[_Record] = []
        self._flush_call: IDelayedCall | None = None
        self._dropped = 0
        self._unreported = 0

    @property
    def dropped(self) -> int:
        """Records lost so far because too many were waiting."""
        return self._dropped

    def record(self, request: FinishedRequest) -> None:
        """Note one finished request; its line is written within :data:`FLUSH_S`."""
        if len(self._records) >= MAX_RECORDS:
            self._dropped += 1
            self._unreported += 1
            return
        self._records.append(
            (
                request.request_id,
                request.client_ip,
                request.method,
                request.host,
                request.path,
                request.clientproto,
                request.status,
                request.reason,
                request.route_name,
                request.backend_name,
                request.target_label,
                request.attempts,
                request.started_at,
                request.ended_at,
                request.upstream_s,
                request.bytes_in,
                request.bytes_out,
                request.header(b"user-agent"),
                request.subject,
            )
        )
        if self._flush_call is None:
            self._flush_call = self._clock.callLater(FLUSH_S, self._write)

    def flush(self) -> None:
        """Write now what is waiting; leaves no delayed call behind."""
        if self._flush_call is not None:
            self._flush_call.cancel()
            self._write()

    def _write(self) -> None:
        self._flush_call = None
        records, self._records = self._records, []
        epoch = self._wall_clock() - self._clock.seconds()  # of the clock's zero
        encode = self._encode
        self._sink.put(b"".join([encode(_fields(record, epoch)) for record in records]))
        if self._unreported:
            _log.warn("access log records dropped", dropped=self._unreported)
            self._unreported = 0


def _fields(record: _Record, epoch: float) -> dict[str, object]:
    (
        request_id,
        client_ip,
        method,
        host,
        path,
        protocol,
        status,
        reason,
        route,
        backend,
        target,
        attempts,
        started_at,
        ended_at,
        upstream_s,
        bytes_in,
        bytes_out,
        user_agent,
        subject,
    ) = record
    return {
        "ts": timestamp(epoch + ended_at),
        "level": "ERROR" if status >= 500 else "INFO",
        "event": "request",
        "request_id": request_id,
        "trace_id": None,
        "span_id": None,
        "client_ip": client_ip,
        "method": _texts[method],
        "host": _texts[host],
        "path": _texts[path],
        "protocol": _texts[protocol],
        "status": status,
        "reason": reason,
        "route": route,
        "backend": backend,
        "target": target,
        "attempts": attempts,
        "duration_ms": int((ended_at - started_at) * 1e6) / 1000,
        "upstream_ms": None if upstream_s is None else int(upstream_s * 1e6) / 1000,
        "bytes_in": bytes_in,
        "bytes_out": bytes_out,
        "user_agent": _texts[user_agent],
        "subject": subject,
    }
