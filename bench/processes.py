"""Child processes pinned to one core, and what ``/proc`` says about them.

A proxy may be a tree of processes (a master and its worker), so CPU time and memory are those of the whole tree.
Only processes started here are ever signalled. Linux only.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

import click

PROXY_CORE = 0
LOAD_CORE = 1
#: Longer than the gateway's default drain.
STOP_TIMEOUT_S = 30.0
OUTPUT_TAIL_BYTES = 2000

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(click.ClickException):
    """A run that must not be reported: something failed, or measured something else than it says."""


class PinnedProcess:
    """A child process and its descendants, bound to one core.

    Args:
        argv: command line.
        core: the only core the tree may use.
        output: file that receives standard output (append).
        errors: file that receives standard error; ``output`` if not given.
        env: the complete environment.

    Raises:
        BenchError: the program is not installed.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        core: int,
        output: Path,
        errors: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.argv = list(argv)
        self.output = output
        self.errors = errors or output
        try:
            with _inheritable_core(core), output.open("ab") as out, self.errors.open("ab") as err:
                self._popen = subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=None if env is None else dict(env),
                )
        except FileNotFoundError as exc:
            raise BenchError(f"{self.argv[0]} is not installed; see bench/README.md") from exc

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Terminate the tree; kill what is left of it after 30 s."""
        pids = self._pids()
        self._popen.terminate()
        try:
            self._popen.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self._popen.wait()

    def is_running(self) -> bool:
        """Whether the first process of the tree is alive."""
        return self._popen.poll() is None

    def output_tail(self) -> str:
        """The last 2,000 bytes it wrote to standard error or, if nothing, to standard output."""
        return (self.errors.read_bytes() or self.output.read_bytes())[-OUTPUT_TAIL_BYTES:].decode("utf-8", "replace")

    def cpu_s(self) -> float:
        """User and system time of the tree so far, in seconds (resolution: a clock tick, usually 10 ms)."""
        ticks = 0
        for pid in self._pids():
            with suppress(FileNotFoundError, ProcessLookupError):
                # The second field, the name, may hold spaces and brackets: count from the last bracket (proc(5)).
                fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
                ticks += sum(int(field) for field in fields[11:15])  # utime, stime and those of reaped children
        return ticks / _TICKS_PER_S

    def run_first(self) -> None:
        """Give the tree its core before all ordinary processes of the machine.

        Raises:
            BenchError: only root may do that.
        """
        try:
            for pid in self._pids():
                os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
        except PermissionError as exc:
            raise BenchError(f"{self.argv[0]} may not run first: {exc}") from exc

    def ran_and_waited_s(self) -> tuple[float, float]:
        """How long the first process of the tree had a core, and was ready but had none (to the nanosecond)."""
        ran_ns, waited_ns, _ = Path(f"/proc/{self._popen.pid}/schedstat").read_text("ascii").split()
        return int(ran_ns) / 1e9, int(waited_ns) / 1e9

    def rss_bytes(self) -> int:
        """Resident memory of the tree now."""
        return self._status_bytes("VmRSS")

    def peak_rss_bytes(self) -> int:
        """Largest resident memory since :meth:`reset_peak`."""
        return self._status_bytes("VmHWM")

    def reset_peak(self) -> None:
        """Start a new peak at the present resident size (proc(5), clear_refs)."""
        for pid in self._pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")

    def _status_bytes(self, key: str) -> int:
        total = 0
        for pid in self._pids():
            with suppress(FileNotFoundError, ProcessLookupError):
                for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines():
                    if line.startswith(f"{key}:"):
                        total += int(line.split()[1]) * 1024
        return total

    def _pids(self) -> list[int]:
        return list(_tree(self._popen.pid))


@contextmanager
def _inheritable_core(core: int) -> Iterator[None]:
    """Bind this thread to ``core`` while a child is made: it inherits that, so no thread of it escapes."""
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, own)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text("ascii").split():
                yield from _tree(int(child))


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_ready(
    process: PinnedProcess,
    port: int,
    headers: Sequence[tuple[str, str]] = (),
    *,
    wait_s: float = 20.0,
    is_tls: bool = False,
) -> None:
    """Return once ``GET /`` on ``port`` is answered 200 (some proxies listen before they have their routes).

    Raises:
        BenchError: the process ended, or did not answer so in time.
    """
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline and process.is_running():
        with suppress(BenchError):
            get(port, headers=headers, is_tls=is_tls)
            return
        time.sleep(0.05)
    state = "is not ready" if process.is_running() else "ended"
    raise BenchError(f"{' '.join(process.argv)}: {state}\n{process.output_tail()}")


def unverified_context(*protocols: str) -> ssl.SSLContext:
    """A client's, for certificates of our own making; offers the protocols by ALPN."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def require_cores() -> None:
    """Bind this process (and so the load it makes) to the load core.

    Raises:
        BenchError: fewer than two cores.
    """
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise BenchError("two cores are needed, numbers 0 and 1: the proxy's and the load's")
    os.sched_setaffinity(0, {LOAD_CORE})


def get(port: int, path: str = "/", headers: Sequence[tuple[str, str]] = (), *, is_tls: bool = False) -> bytes:
    """The body of one GET to 127.0.0.1, over HTTP/1.1; a certificate is not looked at.

    Raises:
        BenchError: no answer, or not 200.
    """
    connection = (
        http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=unverified_context())
        if is_tls
        else http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    )
    try:
        connection.request("GET", path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as exc:
        raise BenchError(f"GET {path} on port {port} failed: {exc!r}") from exc
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise BenchError(f"GET {path} on port {port} was answered {response.status}: {body[:200]!r}")
    return body
