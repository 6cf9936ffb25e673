"""One line per finished request, in batches, whatever the request's bytes were."""

from __future__ import annotations

import json
from typing import Any, cast

import attrs
import pytest
from twisted.internet.task import Clock

from txgateway.errors import BadRequest, UpstreamReset
from txgateway.telemetry.access_log import BATCH_BYTES, FLUSH_S, AccessLog, check_field
from txgateway.telemetry.access_log import FIELDS as KNOWN_FIELDS
from txgateway.telemetry.sink import LogSink

FIELDS = [
    "ts",
    "level",
    "event",
    "request_id",
    "trace_id",
    "span_id",
    "client_ip",
    "method",
    "host",
    "path",
    "protocol",
    "status",
    "reason",
    "route",
    "backend",
    "target",
    "attempts",
    "duration_ms",
    "upstream_ms",
    "bytes_in",
    "bytes_out",
    "user_agent",
    "subject",
]


@attrs.define
class Finished:
    request_id: str = "id-1"
    trace_id: str | None = None
    span_id: str | None = None
    client_ip: str | None = "127.0.0.1"
    method: bytes = b"GET"
    host: bytes | None = b"api.example.com"
    path: bytes = b"/a"
    clientproto: bytes = b"HTTP/1.1"
    status: int = 200
    reason: str | None = None
    route_name: str | None = "default"
    backend_name: str | None = "default"
    target_label: str | None = "10.0.0.1:9000"
    attempts: int = 1
    started_at: float = 100.0
    ended_at: float = 100.25
    upstream_s: float | None = 0.2
    bytes_in: int = 3
    bytes_out: int = 5
    subject: str | None = "user"
    phases: Any = None
    error: Any = None
    agent: bytes | None = b"curl/8"

    def header(self, name: bytes, /) -> bytes | None:
        return {b"user-agent": self.agent}[name]


class Lines:
    """Where a sink would be."""

    def __init__(self) -> None:
        self.puts: list[bytes] = []

    def put(self, lines: bytes) -> None:
        self.puts.append(lines)


def make(format: str = "json") -> tuple[AccessLog, Lines, Clock]:
    lines, clock = Lines(), Clock()
    clock.advance(100.5)
    return AccessLog(cast("LogSink", lines), lambda: 1_699_999_900 + clock.seconds(), clock, format), lines, clock


def test_a_request_becomes_one_line_with_the_fields_in_order() -> None:
    log, lines, clock = make()
    log.record(Finished())
    assert lines.puts == []
    clock.advance(FLUSH_S)
    (line,) = b"".join(lines.puts).splitlines()
    fields = json.loads(line)
    assert list(fields) == FIELDS
    assert fields == {
        "ts": "2023-11-14T22:13:20.250Z",
        "level": "INFO",
        "event": "request",
        "request_id": "id-1",
        "trace_id": None,
        "span_id": None,
        "client_ip": "127.0.0.1",
        "method": "GET",
        "host": "api.example.com",
        "path": "/a",
        "protocol": "HTTP/1.1",
        "status": 200,
        "reason": None,
        "route": "default",
        "backend": "default",
        "target": "10.0.0.1:9000",
        "attempts": 1,
        "duration_ms": 250.0,
        "upstream_ms": 200.0,
        "bytes_in": 3,
        "bytes_out": 5,
        "user_agent": "curl/8",
        "subject": "user",
    }
    assert not clock.getDelayedCalls()


def test_a_request_with_a_trace_tells_its_ids() -> None:
    log, lines, clock = make()
    log.record(Finished(trace_id="a" * 32, span_id="b" * 16))
    clock.advance(FLUSH_S)
    fields = json.loads(b"".join(lines.puts))
    assert (fields["trace_id"], fields["span_id"]) == ("a" * 32, "b" * 16)


def test_requests_of_one_moment_are_one_put() -> None:
    log, lines, clock = make()
    for number in range(10):
        log.record(Finished(request_id=str(number)))
    clock.advance(FLUSH_S)
    assert len(lines.puts) == 1
    assert [json.loads(line)["request_id"] for line in lines.puts[0].splitlines()] == list("0123456789")


@pytest.mark.parametrize(("status", "level"), [(101, "INFO"), (499, "INFO"), (500, "ERROR"), (504, "ERROR")])
def test_the_level_follows_the_status(status: int, level: str) -> None:
    log, lines, _ = make()
    log.record(Finished(status=status))
    log.flush()
    assert json.loads(lines.puts[0])["level"] == level


def test_bytes_that_are_no_text_do_not_break_a_line() -> None:
    log, lines, _ = make()
    log.record(Finished(path=b'/\xff\n"x', host=b"\x00", agent=b"\xc3\xa9\xe2", subject="\ud800"))
    log.record(Finished())
    log.flush()
    first, second = (json.loads(line) for line in lines.puts[0].splitlines())
    assert first["path"] == '/\\xff\n"x'
    assert first["user_agent"] == "é\\xe2"
    assert first["subject"] == "\ud800"
    assert second["path"] == "/a"


@pytest.mark.parametrize(
    ("path", "told"), [(b"/a#access_token=1", "/a"), (b"#access_token=1", None), (b"/%23", "/%23")]
)
def test_a_fragment_is_not_told(path: bytes, told: str | None) -> None:
    log, lines, _ = make()
    log.record(Finished(path=path))
    log.flush()
    assert json.loads(lines.puts[0])["path"] == told


def test_a_request_without_a_head_has_nulls() -> None:
    log, lines, _ = make()
    log.record(
        Finished(
            method=b"", host=None, path=b"", clientproto=b"", status=400, route_name=None, upstream_s=None, agent=None
        )
    )
    log.flush()
    fields = json.loads(lines.puts[0])
    names = ("method", "host", "path", "protocol", "route", "upstream_ms", "user_agent")
    assert [fields[name] for name in names] == [None] * len(names)


def test_lines_that_fill_a_batch_are_written_at_once() -> None:
    log, lines, clock = make()
    count = 0
    while not lines.puts:
        log.record(Finished(path=b"/" + b"x" * 8000))
        count += 1
    assert count == -(-BATCH_BYTES // (len(lines.puts[0]) // count))
    assert lines.puts[0].count(b"\n") == count
    assert not clock.getDelayedCalls()
    log.record(Finished())
    clock.advance(FLUSH_S)
    assert [put.count(b"\n") for put in lines.puts] == [count, 1]


def test_flush_leaves_nothing_behind_and_may_be_repeated() -> None:
    log, lines, clock = make()
    log.record(Finished())
    log.flush()
    log.flush()
    assert len(lines.puts) == 1
    assert not clock.getDelayedCalls()


def test_text_prints_the_same_fields() -> None:
    log, lines, _ = make("text")
    log.record(Finished(path=b"/a b"))
    log.flush()
    text = lines.puts[0].decode("utf-8")
    assert text.startswith("2023-11-14T22:13:20.250Z INFO  request request_id=id-1 trace_id=- ")
    assert all(f"{name}=" in text for name in FIELDS[3:])
    assert 'path="/a b"' in text


def test_what_is_known_of_a_fault_is_told_but_not_of_a_clients() -> None:
    log, lines, _ = make()
    for error in (UpstreamReset("reset by peer, token=abc"), BadRequest("secret"), UpstreamReset("x" * 1000)):
        log.record(Finished(error=error))
    log.flush()
    reset, bad, long = (json.loads(line) for line in b"".join(lines.puts).splitlines())
    assert reset["detail"].startswith("reset by peer")
    assert "abc" not in reset["detail"]
    assert "detail" not in bad
    assert len(long["detail"]) == 256


# --- fields of users' middlewares ---------------------------------------------------------------------------------


@attrs.define
class Extended(Finished):
    log_fields: Any = None


@pytest.mark.parametrize("format", ["json", "text"])
def test_further_fields_are_told_behind_ours_once_they_are_announced(format: str) -> None:
    log, lines, clock = make(format)
    log.record(Extended(log_fields={"org": "acme"}))  # nobody has announced it
    log.announce_fields()
    log.record(Extended(log_fields={"org": "acme", "seats": 3}))
    log.record(Extended())
    log.record(Finished())
    clock.advance(FLUSH_S)
    first, second, *others = b"".join(lines.puts).splitlines()
    assert {first} == set(others)
    if format == "json":
        assert list(json.loads(second)) == [*FIELDS, "org", "seats"]
        assert json.loads(second)["org"] == "acme"
    else:
        assert second == first + b" org=acme seats=3"


def test_further_fields_count_for_the_batch() -> None:
    log, lines, _ = make()
    log.announce_fields()
    log.record(Extended(log_fields={"org": "x" * BATCH_BYTES}))
    assert len(lines.puts) == 1


def test_names_of_further_fields_are_none_of_ours() -> None:
    for name in [*FIELDS, "timing", "detail", "worker"]:
        with pytest.raises(ValueError, match="already"):
            check_field(name)
    for name in ["", "Org", "a-b", "1a", "x" * 65]:
        with pytest.raises(ValueError, match="cannot be a field"):
            check_field(name)
    check_field("org")
    assert set(FIELDS) <= KNOWN_FIELDS
