"""The real gateway as a process of its own: started by ``twistd``, watched through its log, stopped by its id.

Nothing here looks inside the gateway: what a test learns comes from sockets, log lines and the admin port, as it does
for an operator. Waiting is always for an event and always bounded.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Self

from tests.integration.client import Client, Response

#: Bound of every wait; nothing comes near it unless it is broken.
PATIENCE_S = 10.0
#: Between two looks at what only can be asked for.
POLL_S = 0.02
#: Times a start is tried again because another process took the admin port first.
START_ATTEMPTS = 5

Line = dict[str, Any]

_TOP = Path(__file__).parents[2]
_BESIDE_PYTHON = Path(sys.executable).parent
_PASSED_ON = ("HOME", "LANG", "PATH", "TMPDIR", "VIRTUAL_ENV")


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def wait_until(is_so: Callable[[], bool], what: str) -> None:
    """Look until it is so.

    Raises:
        AssertionError: it never was.
    """
    pause = threading.Event()
    for _ in range(int(PATIENCE_S / POLL_S)):
        if is_so():
            return
        pause.wait(POLL_S)
    raise AssertionError(f"never came true: {what}")


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Variables for a process of ours: nothing of the caller's settings, the checkout's own code, then ``extra``."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join((str(_TOP), str(_TOP / "src")))
    environment.update(extra)
    if "PYTHONPATH" in extra:
        environment["PYTHONPATH"] = os.pathsep.join((extra["PYTHONPATH"], str(_TOP), str(_TOP / "src")))
    return environment


def run(
    program: str, *arguments: str, env: Mapping[str, str], cwd: Path, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run one of our programs to its end, in an environment of ``env`` and what it needs to run at all."""
    return subprocess.run(
        [str(_BESIDE_PYTHON / program), *arguments],
        env=clean_environment(env),
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE_S,
        check=False,
    )


class _Collected:
    """The lines of a stream, as they come, for whoever waits for one."""

    def __init__(self, stream: IO[str]) -> None:
        self.lines: list[str] = []
        self.changed = threading.Condition()
        self.is_over = False
        self._is_closed = False
        self._stream = stream
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Read no more; the process finds the pipe broken. A line that is cut by this is left out."""
        self._is_closed = True
        with Path(os.devnull).open(encoding="ascii") as nothing:
            os.dup2(nothing.fileno(), self._stream.fileno())

    def _read(self) -> None:
        with self._stream:
            for line in self._stream:
                if self._is_closed and not line.endswith("\n"):
                    break
                with self.changed:
                    self.lines.append(line)
                    self.changed.notify_all()
        with self.changed:
            self.is_over = True
            self.changed.notify_all()


class NotStarted(AssertionError):
    """The process ended before it was ready."""


#: Each request reaches its target once, however the ones before it fared: for tests of what becomes of one attempt.
ONE_ATTEMPT = {"GATEWAY_RETRY_MAX_ATTEMPTS": "1", "GATEWAY_BREAKER_ENABLED": "false"}


class Gateway:
    """A running gateway, as a context manager.

    Every line on standard output has to be a JSON object; this is checked at the end, for every test.

    Args:
        directory: where it runs, and where it may leave files.
        environment: its settings; the ports are chosen here unless given.
        options: for ``twistd``, before the name of the plugin.
        logs_json: False where a test asks for another format or place of the log.

    Attributes:
        port: of the traffic listener.
        admin_port: of the admin listener.
        passed: descriptors that the process inherits.
        start_patience_s: bound of the wait until it is ready.
    """

    start_patience_s = PATIENCE_S
    passed: Sequence[int] = ()

    def __init__(
        self,
        directory: Path,
        environment: Mapping[str, str],
        *,
        options: Sequence[str] = (),
        logs_json: bool = True,
    ) -> None:
        self._directory = directory
        self._environment = environment
        self._options = options
        self._logs_json = logs_json
        self.port = 0
        self.admin_port = 0

    def __enter__(self) -> Self:
        for attempt in range(START_ATTEMPTS):
            try:
                self.start()
                break
            except NotStarted as exc:
                if "cannot listen" not in str(exc) or attempt == START_ATTEMPTS - 1:
                    raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop(is_checked=kind is None)

    # --- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            NotStarted: with what it said.
        """
        self.admin_port = int(self._environment.get("GATEWAY_ADMIN_PORT", free_port()))
        # A test that leaves something under way behind need not wait for it.
        defaults = {"GATEWAY_PORT": "0", "GATEWAY_HOST": "127.0.0.1", "GATEWAY_DRAIN_TIMEOUT": "0"}
        for name in [name for name in defaults if f"{name}_FILE" in self._environment]:
            del defaults[name]
        settings = {**defaults, **self._environment}
        settings["GATEWAY_ADMIN_PORT"] = str(self.admin_port)
        self._process = subprocess.Popen(
            self.command(),
            cwd=self._directory,
            env=clean_environment(settings),
            pass_fds=self.passed,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._out = _Collected(self._process.stdout)
        self._err = _Collected(self._process.stderr)
        if self._logs_json:
            self.wait_for_line(patience_s=self.start_patience_s, event="ready")
            self.port = self._traffic_port()

    def command(self) -> list[str]:
        """The program and its arguments."""
        return [str(_BESIDE_PYTHON / "twistd"), *self._options, "-n", "--pidfile=", "gateway"]

    def _traffic_port(self) -> int:
        line = next((line for line in self.lines if line.get("listener") == "traffic"), None)
        return 0 if line is None else line["port"] or 0

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def stop(self, *, is_checked: bool = True) -> int:
        """Ask it to stop, and wait for that; returns the exit status, negative for a signal."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            status = self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise AssertionError("it did not stop" + self.said()) from None
        finally:
            self._out.thread.join(PATIENCE_S)
            self._err.thread.join(PATIENCE_S)
        if is_checked:
            assert status == 0, f"exit status {status}" + self.said()
            assert not self.error_text, self.said()
            if self._logs_json:
                assert all(isinstance(line, dict) for line in self.lines)
        return status

    # --- what it says --------------------------------------------------------------------------------------------

    @property
    def output_text(self) -> str:
        """Standard output so far."""
        return "".join(self._out.lines)

    @property
    def error_text(self) -> str:
        """Standard error so far."""
        return "".join(self._err.lines)

    def said(self) -> str:
        """All it said, for a failure's message."""
        return f"\n--- standard output\n{self.output_text[-8000:]}--- standard error\n{self.error_text[-4000:]}"

    def stop_reading(self) -> None:
        """Close our end of its standard output."""
        self._out.close()

    def raw_lines(self, after: int = 0) -> list[str]:
        """The lines of standard output behind the first ``after`` ones, as they are."""
        return self._out.lines[after:]

    @property
    def lines(self) -> list[Line]:
        """The lines of standard output, each a JSON object."""
        try:
            return [json.loads(line) for line in list(self._out.lines)]
        except ValueError as exc:
            raise AssertionError("a line on standard output is not JSON" + self.said()) from exc

    def wait_for_line(self, after: int = 0, patience_s: float = PATIENCE_S, **fields: object) -> Line:
        """The first log line, behind the first ``after`` ones, with all these fields, now or when it comes."""

        def found() -> Line | None:
            for line in self.lines[after:]:
                if fields.items() <= line.items():
                    return line
            return None

        out = self._out
        with out.changed:
            out.changed.wait_for(lambda: found() is not None or out.is_over, patience_s)
        line = found()
        if line is None and out.is_over:
            self._process.wait(PATIENCE_S)
            self._err.thread.join(PATIENCE_S)
            raise NotStarted(f"it ended with status {self._process.returncode}" + self.said())
        assert line is not None, f"no log line with {fields}" + self.said()
        return line

    def access_line(self, response: Response) -> Line:
        """The access log's line of the request that ``response`` answers."""
        return self.wait_for_line(event="request", request_id=response.header("X-Request-ID"))

    def access_line_at(self, path: str) -> Line:
        """The access log's line of the request for this path, of which there is only one."""
        return self.wait_for_line(event="request", path=path)

    # --- asking it -----------------------------------------------------------------------------------------------

    def client(self) -> Client:
        """A new connection to the traffic port."""
        return Client(self.port)

    def ask(self, request: bytes, method: str = "GET") -> Response:
        """Send one request, as it is, on a connection of its own; returns the response."""
        with self.client() as client:
            client.send(request)
            return client.read_response(method)

    def get(self, target: str, *fields: str, method: str = "GET", host: str = "gateway.test") -> Response:
        """A request without a body on a connection of its own."""
        head = "\r\n".join((f"{method} {target} HTTP/1.1", f"Host: {host}", *fields, "", ""))
        return self.ask(head.encode("latin-1"), method)

    def admin(self, path: str, *fields: str) -> Response:
        """A page of the admin port."""
        with Client(self.admin_port) as client:
            head = "\r\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *fields, "Connection: close", "", ""))
            client.send(head.encode("latin-1"))
            return client.read_response("GET")

    def status(self) -> Any:
        """``/status`` of the admin port."""
        return json.loads(self.admin("/status").body)

    def in_use(self) -> dict[str, int]:
        """What is going on at this moment: requests in flight, connections lent, waiters."""
        status = self.status()
        targets = [target for backend in status["backends"] for target in backend["targets"]]
        return {
            "in_flight": status["in_flight"],
            "active": sum(target["active"] for target in targets),
            "pending": sum(target["pending"] for target in targets),
        }

    def wait_until_free(self) -> None:
        """Wait until nothing is going on any more: every request over, every connection given back."""
        wait_until(lambda: not any(self.in_use().values()), "nothing in use")

    def metric(self, name: str, /, **labels: str) -> float:
        """One sample of ``/metrics``; 0 if there is none."""
        wanted = ",".join(f'{key}="{labels[key]}"' for key in sorted(labels))
        for line in self.admin("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            found, _, found_labels = sample.partition("{")
            if found == name and ",".join(sorted(found_labels.rstrip("}").split(","))) == wanted:
                return float(value)
        return 0.0

    def wait_for_metric(self, name: str, value: float, **labels: str) -> None:
        """Wait until a sample has this value."""
        wait_until(lambda: self.metric(name, **labels) == value, f"{name} is {value}")

    def resident_bytes(self) -> int:
        """Memory that the process occupies."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


def routes(document: Mapping[str, Any]) -> dict[str, str]:
    """The variable that holds a routes document."""
    return {"GATEWAY_ROUTES": json.dumps(document)}
