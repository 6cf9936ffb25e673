"""The target processes: started on ports that stay theirs, told what to answer, killed, frozen and started again."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from tests.integration.client import Client
from tests.integration.harness import wait_until
from tests.load.target import CONTROL

#: Below the ports that the kernel gives to outgoing connections: while a target is down, none of them (not even one to
#: the target itself) may end up at its port.
PORTS = range(20_000, 32_000)
STOP_TIMEOUT_S = 10.0

_PROGRAM = Path(__file__).with_name("target.py")


def steady_port() -> int:
    """A port that nobody listens on, and that no outgoing connection takes by chance.

    Raises:
        OSError: there is none.
    """
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port found")


class Target:
    """One target, as a context manager; in it, the target may be killed and started again at will.

    Args:
        name: that its answers carry.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = steady_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            wait_until(self._is_listening, f"target {self.name} listens")
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it at its port; it may not answer yet."""
        assert self._process is None, f"target {self.name} runs already"
        argv = [sys.executable, "-I", str(_PROGRAM), str(self.port), self.name]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE)

    def kill(self) -> None:
        """End it at once (SIGKILL), even if it is frozen."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(STOP_TIMEOUT_S)
        assert process.stdin is not None
        process.stdin.close()

    def freeze(self) -> None:
        """Let it do nothing; the kernel still takes connections and data for it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def tell(self, command: str) -> dict[str, int]:
        """Send a command (see :mod:`tests.load.target`), past the gateway; returns the counts."""
        with Client(self.port) as client:
            client.send(f"GET {CONTROL}{command} HTTP/1.1\r\nHost: target\r\n\r\n".encode("ascii"))
            counts: Any = client.read_response().json()
        assert isinstance(counts, dict)
        return counts

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        assert self._process.poll() is None, f"target {self.name} has ended"
        self._process.send_signal(number)

    def _is_listening(self) -> bool:
        try:
            self.tell("counts")
        except (OSError, AssertionError, json.JSONDecodeError):
            return False
        return True


@contextmanager
def running(names: str) -> Iterator[list[Target]]:
    """Targets with these names, a letter each."""
    with ExitStack() as stack:
        yield [stack.enter_context(Target(name)) for name in names]
