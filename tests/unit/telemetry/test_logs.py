"""Log events become lines: names, levels, fields, failures, and nothing but lines on standard output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from twisted.logger import ILogObserver, Logger, LogLevel, LogPublisher
from twisted.python import log as legacy_log
from zope.interface.verify import verifyObject

from txgateway.telemetry.lines import text_line, timestamp
from txgateway.telemetry.logs import EventObserver, JsonObserver, TextObserver, log_path, observer_for
from txgateway.telemetry.sink import LogSink


class Stream:
    """A sink into a file, and a logger in front of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.sink = LogSink(path=str(path), dropped_line=lambda count: b"%d\n" % count)

    def logger(self, observer: EventObserver, namespace: str = "txgateway.service") -> Logger:
        return Logger(namespace, observer=observer)

    def text(self) -> str:
        return self._path.read_text(encoding="utf-8")

    def line(self) -> dict[str, object]:
        (line,) = self.text().splitlines()
        fields = json.loads(line)
        assert isinstance(fields, dict)
        return fields


@pytest.fixture
def stream(tmp_path: Path) -> Iterator[Stream]:
    stream = Stream(tmp_path / "log")
    yield stream
    os.close(stream.sink._fd)


def test_an_event_of_ours_is_named_by_its_format(stream: Stream) -> None:
    stream.logger(JsonObserver(stream.sink)).info("listening on {host}:{port}", host="0.0.0.0", port=8000, tls=None)
    fields = stream.line()
    assert list(fields) == ["ts", "level", "event", "message", "logger", "host", "port", "tls"]
    assert fields | {"ts": ""} == {
        "ts": "",
        "level": "INFO",
        "event": "listening on",
        "message": "listening on 0.0.0.0:8000",
        "logger": "txgateway.service",
        "host": "0.0.0.0",
        "port": 8000,
        "tls": None,
    }


@pytest.mark.parametrize("namespace", ["twisted.internet.tcp", "txgatewayish", "stdout"])
def test_an_event_of_others_is_named_log(stream: Stream, namespace: str) -> None:
    stream.logger(JsonObserver(stream.sink), namespace).info("hello {name}", name="you")
    fields = stream.line()
    assert (fields["event"], fields["message"], fields["logger"]) == ("log", "hello you", namespace)


def test_an_event_of_the_older_module_is_understood(stream: Stream) -> None:
    publisher = LogPublisher(JsonObserver(stream.sink))
    legacy_log.LogPublisher(observerPublisher=LogPublisher(), publishPublisher=publisher).msg("Received SIGTERM")
    fields = stream.line()
    assert (fields["level"], fields["event"], fields["message"]) == ("INFO", "log", "Received SIGTERM")
    assert "isError" not in fields


def test_a_failure_is_one_field_of_one_line(stream: Stream) -> None:
    logger = stream.logger(JsonObserver(stream.sink))
    try:
        raise RuntimeError("Authorization: Bearer abcdefgh")
    except RuntimeError:
        logger.failure("deadline handler failed")
    fields = stream.line()
    assert (fields["level"], fields["event"]) == ("ERROR", "deadline handler failed")
    assert "RuntimeError" in str(fields["traceback"])
    assert "test_a_failure_is_one_field_of_one_line" in str(fields["traceback"])
    assert "abcdefgh" not in stream.text()


def test_a_field_with_a_name_of_the_line_does_not_replace_it(stream: Stream) -> None:
    stream.logger(JsonObserver(stream.sink)).info("x", event="mine", ts=1, logger="other")
    fields = stream.line()
    assert (fields["event"], fields["logger"]) == ("x", "txgateway.service")
    assert (fields["event_"], fields["ts_"], fields["logger_"]) == ("mine", 1, "other")


def test_values_that_json_cannot_hold_do_not_break_the_line(stream: Stream) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    loop: list[object] = []
    loop.append(loop)
    stream.logger(JsonObserver(stream.sink)).info(
        "odd",
        half="\ud800",
        huge=1 << 80,
        infinite=float("inf"),
        raw=b"\xff",
        loop=loop,
        object=Hostile(),
        key={b"k": 1},
    )
    fields = stream.line()
    assert fields["half"] == "\ud800"
    assert fields["huge"] == 1 << 80
    assert fields["infinite"] is None
    assert fields["raw"] == "\\xff"
    assert fields["key"] == {"k": 1}


def test_a_format_that_does_not_fit_is_still_a_line(stream: Stream) -> None:
    stream.logger(JsonObserver(stream.sink)).info("count {missing.attribute}")
    assert stream.line()["event"] == "count"


@pytest.mark.parametrize(
    ("least", "printed"),
    [
        ("DEBUG", ["DEBUG", "INFO", "WARN", "ERROR", "ERROR"]),
        ("INFO", ["INFO", "WARN", "ERROR", "ERROR"]),
        ("WARN", ["WARN", "ERROR", "ERROR"]),
        ("ERROR", ["ERROR", "ERROR"]),
    ],
)
def test_levels_below_the_least_are_silent(stream: Stream, least: str, printed: list[str]) -> None:
    logger = stream.logger(JsonObserver(stream.sink, least))
    for level in LogLevel.iterconstants():
        logger.emit(level, "x")
    assert [json.loads(line)["level"] for line in stream.text().splitlines()] == printed


def test_text_has_the_same_fields_and_cannot_be_forged(stream: Stream) -> None:
    stream.logger(TextObserver(stream.sink)).info("seen", path='/a\nINFO fake "x"', code=7, none=None, esc="\x1b[2J")
    (line,) = stream.text().splitlines()
    assert line[24:] == (
        ' INFO  seen: seen logger=txgateway.service path="/a\\nINFO fake \\"x\\"" code=7 none=- esc=\\x1b[2J'
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('x\\" status=200', '"x\\\\\\" status=200"'),
        ("a\\nb", "a\\\\nb"),
        ("a\nb", "a\\nb"),
        ("\\", "\\\\"),
        (['x\\" y=1'], '["x\\\\\\" y=1"]'),
        (['\u2028\x7f" y=1'], '["\\u2028\\u007f\\" y=1"]'),
    ],
)
def test_a_value_of_text_ends_where_it_seems_to(value: object, shown: str) -> None:
    assert text_line({"ts": "T", "level": "INFO", "event": "e", "v": value}) == f"T INFO  e v={shown}\n".encode()


def test_text_prints_a_traceback_indented() -> None:
    fields = {"ts": "T", "level": "ERROR", "event": "e", "message": "m", "traceback": "a\n  b\x07\n"}
    assert text_line(fields) == b"T ERROR e: m\n    a\n      b\\x07\n"


def test_timestamp_is_utc_with_milliseconds() -> None:
    assert timestamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert timestamp(1_700_000_000.9999) == "2023-11-14T22:13:20.999Z"


def test_log_path_follows_twistd() -> None:
    assert log_path(None, is_daemon=False) is None
    assert log_path("-", is_daemon=False) is None
    assert log_path("x.log", is_daemon=False) == "x.log"
    assert log_path("x.log", is_daemon=True) == "x.log"
    assert log_path(None, is_daemon=True) == "twistd.log"
    with pytest.raises(ValueError, match="daemon"):
        log_path("-", is_daemon=True)


@attrs.frozen
class Settings:
    log_format: str
    log_level: str


@pytest.mark.parametrize(("name", "kind"), [("json", JsonObserver), ("text", TextObserver)])
def test_observer_for_settings(tmp_path: Path, name: str, kind: type[EventObserver]) -> None:
    observer = observer_for(Settings(name, "WARN"), str(tmp_path / "log"))
    assert isinstance(observer, kind)
    verifyObject(ILogObserver, observer)
    logger = Logger("txgateway", observer=observer)
    logger.info("no")
    logger.error("yes")
    assert (tmp_path / "log").read_text(encoding="utf-8").count("\n") == 1
    assert b"log lines dropped" in observer.sink._dropped_line(3)
    os.close(observer.sink._fd)


# A whole twistd, as what matters is how its logger, its fork and its standard output play together.
PLUGIN = """
import sys
from attrs import frozen
from twisted.application import service
from twisted.internet import reactor
from twisted.logger import ILogObserver, Logger
from txgateway.telemetry.logs import log_path, observer_for

@frozen
class Settings:
    log_format: str = "json"
    log_level: str = "INFO"

observer = observer_for(Settings(), log_path({logfile!r}, is_daemon={is_daemon!r}))

class Probe(service.Service):
    def startService(self):
        observer.sink.start()
        Logger("txgateway.probe").info("probe started", token="hidden-value")
        print("printed")
        sys.stderr.write("to stderr\\n")
        reactor.addSystemEventTrigger("after", "shutdown", observer.sink.close, 5)
        reactor.callLater(0, reactor.stop)

application = service.Application("probe")
application.setComponent(ILogObserver, observer)
Probe().setServiceParent(application)
"""


def twistd(tmp_path: Path, *options: str, logfile: str | None = None, is_daemon: bool = False) -> bytes:
    source = tmp_path / "probe.py"
    source.write_text(PLUGIN.format(logfile=logfile, is_daemon=is_daemon), encoding="utf-8")
    command = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()", *options, "--no_save"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [*command, "-y", str(source)], cwd=tmp_path, env=environment, capture_output=True, timeout=60, check=True
    )
    assert done.stderr == b""
    return done.stdout


def assert_only_lines(output: bytes) -> None:
    lines = [json.loads(line) for line in output.splitlines()]
    assert all(list(line)[:4] == ["ts", "level", "event", "message"] for line in lines)
    messages = [line["message"] for line in lines]
    assert any("starting up" in message for message in messages)
    assert "printed" in messages
    assert "to stderr" in messages
    assert "probe started" in [line["event"] for line in lines]
    assert messages[-1] == "Server Shut Down."
    assert b"hidden-value" not in output


def test_under_twistd_standard_output_carries_only_lines(tmp_path: Path) -> None:
    assert_only_lines(twistd(tmp_path, "-n", "--pidfile="))


def test_under_twistd_with_a_logfile_standard_output_stays_empty(tmp_path: Path) -> None:
    assert twistd(tmp_path, "-n", "--pidfile=", "--logfile=gateway.log", logfile="gateway.log") == b""
    assert_only_lines((tmp_path / "gateway.log").read_bytes())


def test_as_a_daemon_the_lines_go_to_the_file(tmp_path: Path) -> None:
    # The daemon outlives the command; the pipe it inherits tells when it has ended.
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    source = tmp_path / "probe.py"
    source.write_text(PLUGIN.format(logfile=None, is_daemon=True), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run(
        [
            sys.executable,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "--pidfile=",
            "--no_save",
            "-y",
            "probe.py",
        ],
        cwd=tmp_path,
        env=environment,
        pass_fds=[writer],
        timeout=60,
        check=True,
    )
    os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)
    assert_only_lines((tmp_path / "twistd.log").read_bytes())
