"""``python -m bench bodies``: large bodies through each proxy, and how much memory it needs for them."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import click

from bench.backends import script_backend
from bench.options import gateway_env_option, json_option, proxies_option, size_option
from bench.peers import RunningProxy, running
from bench.processes import BenchError
from bench.report import print_table, write_json

BLOCK_BYTES = 256 * 1024
SLOW_BYTES_PER_S = 5_000_000
SILENCE_TIMEOUT_S = 60.0
MAX_HEAD_BYTES = 64 * 1024
#: The gateway refuses large bodies by default.
UNLIMITED = {"GATEWAY_MAX_BODY_BYTES": "0"}


@attrs.frozen
class Transfer:
    """One body through one proxy; ``growth_bytes`` is peak minus resident memory before it."""

    proxy: str
    what: str
    size_bytes: int
    mb_per_s: float
    cpu_s: float
    rss_before_bytes: int
    growth_bytes: int


@click.command()
@size_option
@proxies_option(("gateway", "nginx", "envoy", "traefik", "caddy", "aiohttp"))
@gateway_env_option
@json_option
def bodies(size_bytes: int, proxies: tuple[str, ...], gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """Download, upload, and download by a client that reads 5 MB/s (1 GiB of that takes 215 s)."""
    cases: dict[str, Callable[[socket.socket, int], None]] = {
        "download": download,
        "upload": upload,
        "slow download": download_slowly,
    }
    transfers = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with script_backend("bodies_backend.py", directory) as backend:
            for proxy_name in proxies:
                for what, case in cases.items():
                    env = UNLIMITED | dict(gateway_env)
                    # A new process for each, so that no case profits from memory that another has left behind.
                    with running(proxy_name, backend.port, directory, gateway_env=env) as proxy:
                        transfers.append(transfer(proxy, what, case, size_bytes))
    print_transfers(transfers)
    if json_path is not None:
        write_json(json_path, benchmark="bodies", gateway_env=gateway_env, transfers=transfers)


def transfer(proxy: RunningProxy, what: str, case: Callable[[socket.socket, int], None], size_bytes: int) -> Transfer:
    """Move one body and measure the proxy meanwhile.

    Raises:
        BenchError: the body did not arrive whole, or nothing moved for a minute.
    """
    try:
        exchange(proxy.port, download, BLOCK_BYTES)  # warm: code loaded, one backend connection open
        proxy.process.reset_peak()
        rss_before_bytes, cpu_before_s = proxy.process.rss_bytes(), proxy.process.cpu_s()
        started_at = time.perf_counter()
        exchange(proxy.port, case, size_bytes)
    except OSError as exc:
        raise BenchError(f"{proxy.name}, {what}: {exc!r}\n{proxy.process.output_tail()}") from exc
    duration_s = time.perf_counter() - started_at
    click.echo(f"{proxy.name}: {what} {size_bytes:,} bytes in {duration_s:.1f} s", err=True)
    return Transfer(
        proxy=proxy.name,
        what=what,
        size_bytes=size_bytes,
        mb_per_s=size_bytes / duration_s / 1e6,
        cpu_s=proxy.process.cpu_s() - cpu_before_s,
        rss_before_bytes=rss_before_bytes,
        growth_bytes=max(0, proxy.process.peak_rss_bytes() - rss_before_bytes),
    )


def exchange(port: int, case: Callable[[socket.socket, int], None], size_bytes: int) -> None:
    """Run one case on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE_TIMEOUT_S) as connection:
        case(connection, size_bytes)


def download(connection: socket.socket, size_bytes: int) -> None:
    """GET ``size_bytes``, reading as fast as they come."""
    read_body(connection, size_bytes)


def download_slowly(connection: socket.socket, size_bytes: int) -> None:
    """GET ``size_bytes``, reading 5 MB/s."""
    started_at = time.perf_counter()

    def wait(received_bytes: int) -> None:
        ahead_s = received_bytes / SLOW_BYTES_PER_S - (time.perf_counter() - started_at)
        if ahead_s > 0:
            time.sleep(ahead_s)

    read_body(connection, size_bytes, wait)


def read_body(connection: socket.socket, size_bytes: int, after_read: Callable[[int], None] | None = None) -> None:
    """GET ``size_bytes`` and read them; ``after_read`` is told how many have come, after each read.

    Raises:
        BenchError: the answer is not 200 with that many bytes.
    """
    connection.sendall(b"GET /%d HTTP/1.1\r\nHost: bench.example\r\n\r\n" % size_bytes)
    received_bytes = len(read_head(connection))
    buffer = bytearray(BLOCK_BYTES)
    while received_bytes < size_bytes:
        count = connection.recv_into(buffer)
        if not count:
            raise BenchError(f"the body ended after {received_bytes:,} of {size_bytes:,} bytes")
        received_bytes += count
        if after_read is not None:
            after_read(received_bytes)
    if received_bytes > size_bytes:
        raise BenchError(f"the body had {received_bytes:,} bytes instead of {size_bytes:,}")


def upload(connection: socket.socket, size_bytes: int) -> None:
    """POST ``size_bytes`` and check that the backend counted as many.

    Raises:
        BenchError: it did not.
    """
    connection.sendall(b"POST / HTTP/1.1\r\nHost: bench.example\r\nContent-Length: %d\r\n\r\n" % size_bytes)
    block = memoryview(bytes(BLOCK_BYTES))
    for start in range(0, size_bytes, BLOCK_BYTES):
        connection.sendall(block[: size_bytes - start])
    expected = b"%d" % size_bytes
    answer = read_head(connection)
    while len(answer) < len(expected) and (data := connection.recv(BLOCK_BYTES)):
        answer += data
    if answer != expected:
        raise BenchError(f"the backend counted {answer!r} bytes instead of {size_bytes}")


def read_head(connection: socket.socket) -> bytes:
    """Read a response head; returns what followed it in the same reads.

    Raises:
        BenchError: not a 200, or the body is not announced with Content-Length.
    """
    head, end, rest = b"", b"", b""
    while not end:
        data = connection.recv(BLOCK_BYTES)
        if not data or len(head) > MAX_HEAD_BYTES:
            raise BenchError(f"no response head: {head[:200]!r}")
        head, end, rest = (head + data).partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0] + b" " or b"\ncontent-length:" not in head.lower():
        raise BenchError(f"an unexpected answer: {head[:200]!r}")
    return rest


def print_transfers(transfers: Sequence[Transfer]) -> None:
    """One row per body."""
    print_table(
        ["proxy", "what", "MB/s", "CPU s", "RSS before MiB", "peak growth MiB"],
        [
            [
                one.proxy,
                one.what,
                f"{one.mb_per_s:,.1f}",
                f"{one.cpu_s:.2f}",
                f"{one.rss_before_bytes / 2**20:.1f}",
                f"{one.growth_bytes / 2**20:.1f}",
            ]
            for one in transfers
        ],
    )
