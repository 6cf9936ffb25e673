"""``python -m bench stale``: requests that fail because the backend closed a kept-alive connection at a bad moment."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import attrs
import click

from bench.backends import BODY, script_backend
from bench.load import CONNECTIONS
from bench.options import gateway_env_option, json_option, proxies_option
from bench.peers import running
from bench.processes import BenchError, get
from bench.report import print_table, write_json

REQUEST = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"
ANSWER_TIMEOUT_S = 30.0
#: Clients pause up to this long before a request, so that the proxy's backend connections do become idle.
MAX_PAUSE_S = 0.01
#: A proxy that fails more than this many requests is not asked any further.
MAX_FAILURES = 5000


@attrs.frozen
class Stale:
    """What one proxy made of it; ``failures`` by kind (a status line, or how the connection ended)."""

    proxy: str
    requests: int
    duration_s: float
    closed_idle: int
    closed_on_arrival: int
    failures: Mapping[str, int]


class _Clients:
    """Concurrent clients that share one number of requests still to be sent."""

    def __init__(self, port: int, requests: int) -> None:
        self.sent = 0
        self.failures: Counter[str] = Counter()
        self._port = port
        self._requests = requests
        self._chance = random.Random(2)

    async def run(self) -> None:
        """Send everything, on 32 connections."""
        async with asyncio.TaskGroup() as group:
            for _ in range(CONNECTIONS):
                group.create_task(self._client())

    async def _client(self) -> None:
        while self._is_unfinished():
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            try:
                while self._is_unfinished() and await self._exchange(reader, writer):
                    pass
            except (OSError, EOFError, ValueError) as exc:  # TimeoutError is an OSError
                self.failures[type(exc).__name__] += 1
            finally:
                writer.close()

    def _is_unfinished(self) -> bool:
        return self.sent < self._requests and self.failures.total() < MAX_FAILURES

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and a pause; whether the connection can be used for another."""
        self.sent += 1
        writer.write(REQUEST)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            head, body = await _answer(reader)
        status_line = head.partition(b"\r\n")[0]
        if b" 200 " not in status_line + b" " or body != BODY:
            self.failures[status_line.decode("latin-1")] += 1
        await asyncio.sleep(self._chance.uniform(0, MAX_PAUSE_S))
        return b"\nconnection: close" not in head.lower()


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    _, found, rest = head.lower().partition(b"\ncontent-length:")
    if found:
        return head, await reader.readexactly(int(rest.partition(b"\r\n")[0]))
    if b"\ntransfer-encoding: chunked" not in head.lower():
        raise ValueError("unframed answer")
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return head, body


@click.command()
@click.option("--requests", type=click.IntRange(1, 10_000_000), default=100_000, show_default=True)
@proxies_option(("gateway",))
@gateway_env_option
@json_option
def stale(requests: int, proxies: tuple[str, ...], gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """Failed requests at a backend that closes kept-alive connections; exit 1 if the first proxy failed any."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        results = [run(proxy_name, requests, Path(name), gateway_env) for proxy_name in proxies]
    print_table(
        ["proxy", "requests", "closed idle", "closed on arrival", "failed", "how"],
        [
            [
                one.proxy,
                f"{one.requests:,}",
                f"{one.closed_idle:,}",
                f"{one.closed_on_arrival:,}",
                f"{sum(one.failures.values()):,}",
                ", ".join(f"{count} × {kind}" for kind, count in sorted(one.failures.items())),
            ]
            for one in results
        ],
    )
    if json_path is not None:
        write_json(json_path, benchmark="stale", gateway_env=gateway_env, results=results)
    if results[0].failures:
        raise BenchError(f"{results[0].proxy} failed requests")


def run(name: str, requests: int, directory: Path, gateway_env: Mapping[str, str]) -> Stale:
    """All requests through one proxy, with a backend of its own.

    Raises:
        BenchError: the backend closed nothing, so that the run says nothing.
    """
    with (
        script_backend("stale_backend.py", directory) as backend,
        running(name, backend.port, directory, gateway_env=gateway_env) as proxy,
    ):
        clients = _Clients(proxy.port, requests)
        started_at = time.perf_counter()
        asyncio.run(clients.run())
        duration_s = time.perf_counter() - started_at
        closed = json.loads(get(backend.port, "/bench-closed"))
    click.echo(f"{name}: {clients.sent} requests in {duration_s:.1f} s", err=True)
    if not closed["idle"] or not closed["on_arrival"]:
        raise BenchError(f"the backend did not close connections at both kinds of moment: {closed}; send more requests")
    return Stale(name, clients.sent, duration_s, closed["idle"], closed["on_arrival"], dict(clients.failures))
