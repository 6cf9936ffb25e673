"""A gateway of several worker processes, and what the system tells of them: who has which connection, who is alive."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.client import Client
from tests.integration.harness import Gateway, wait_until


class Crew(Gateway):
    """A gateway of ``workers`` processes, all of them ready, as a context manager.

    Args:
        workers: how many.
    """

    def __init__(
        self, directory: Path, environment: Mapping[str, str], *, workers: int = 2, options: tuple[str, ...] = ()
    ) -> None:
        settings = {"GATEWAY_WORKERS": str(workers), "GATEWAY_DRAIN_TIMEOUT": "10s", **environment}
        super().__init__(directory, settings, options=options, logs_json=not options)
        self._workers = workers
        self._clients: list[Client] = []

    def stop(self, *, is_checked: bool = True) -> int:
        for client in self._clients:
            client.close()
        return super().stop(is_checked=is_checked)

    def start(self) -> None:
        super().start()
        try:
            if self._logs_json:
                self.wait_until_ready()
        except BaseException:
            self.stop(is_checked=False)
            raise

    def wait_until_ready(self) -> None:
        """Wait until as many workers as there should be are ready."""
        wait_until(lambda: self.states().count("ready") == self._workers, "all workers are ready")

    def rows(self) -> list[dict[str, Any]]:
        """The workers of ``/status``."""
        rows: list[dict[str, Any]] = self.status()["workers"]
        return rows

    def states(self) -> list[str]:
        """Of the workers."""
        return [row["state"] for row in self.rows()]

    def pids(self) -> list[int]:
        """Of the workers."""
        return [row["pid"] for row in self.rows()]

    def clients(self, each: int) -> dict[int, list[Client]]:
        """Connections by the worker that has them, ``each`` of every worker, on which one request was answered.

        They are closed when the gateway is stopped.
        """
        found: dict[int, list[Client]] = {pid: [] for pid in self.pids()}
        spare: list[Client] = []
        for _ in range(1000):
            if all(len(clients) >= each for clients in found.values()):
                break
            client = self.client()
            self._clients.append(client)
            client.send(b"GET /first HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.read_response().status
            owned = found[self.owner(client)]
            (owned if len(owned) < each else spare).append(client)
        for client in spare:
            client.close()
        assert all(len(clients) == each for clients in found.values()), {pid: len(some) for pid, some in found.items()}
        return found

    def owner(self, client: Client) -> int:
        """Which worker has the other end of a connection."""
        inode = _inode(client.socket.getpeername()[1], client.socket.getsockname()[1])
        return next(pid for pid in self.pids() if inode in sockets_of(pid))


def _inode(port: int, peer_port: int) -> str:
    """Of the socket that is bound to ``port`` and connected to ``peer_port``."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if (_port(fields[1]), _port(fields[2])) == (port, peer_port):
            return fields[9]
    raise AssertionError("no such connection")


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def unix_client(path: Path) -> Client:
    """A client of a UNIX socket."""
    client = Client.__new__(Client)
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(str(path))
    super(Client, client).__init__(sock)
    return client
