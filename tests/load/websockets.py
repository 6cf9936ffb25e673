"""Thousands of WebSockets open at once: each still answers, and they cost what they should."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import click
from bench.report import print_table
from tests.load.gateways import bound_log, gateway
from tests.load.report import Report, quantile
from tests.load.steady import rss_mib
from tests.load.targets import steady_port

from txgateway.transport.websocket import websocket_accept

COUNT = 5000
#: Opened at the same time.
AT_ONCE = 100
#: How often each says something, one after the other.
ROUNDS = 3
MAX_KIB = 40.0
MAX_P99_MS = 2000.0
_MESSAGE = b"\x81\x85\x00\x00\x00\x00hello"
_ECHO = b"\x81\x05hello"
PATIENCE_S = 60.0

_Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def websockets(directory: Path, env: Mapping[str, str]) -> Report:
    """Open them, let each echo a message a few times, and close them."""
    report = Report("websockets")
    target = steady_port()
    route = {"name": "echo", "path": "/", "backend": "echo", "upgrades": ["websocket"]}
    document = {"backends": {"echo": {"targets": [f"http://127.0.0.1:{target}"]}}, "routes": [route]}
    settings = {
        "GATEWAY_ROUTES": json.dumps(document),
        "GATEWAY_POOL_MAX_CONNECTIONS": f"{COUNT}",
        "GATEWAY_BULKHEAD_MAX_CONCURRENT": f"{COUNT}",
        "GATEWAY_TIMEOUT_PER_TRY": "0",
    }
    with ExitStack() as stack:
        front = stack.enter_context(gateway(directory, settings, env, waits=False))
        before = rss_mib(front)
        echoes = asyncio.run(_scene(front.port, target, lambda: rss_mib(front)))
        front.wait_until_free()
    rows = [[name, f"{value:.2f}"] for name, value in echoes.items()]
    print_table(["what", "value"], rows)
    click.echo()
    kib = (echoes["RSS MiB with all open"] - before) * 1024 / COUNT
    report.requests = int(echoes["open"])
    report.bound(f"open at once: {COUNT:,}", echoes["open"] == COUNT, f"{echoes['open']:,.0f}")
    expected = COUNT * ROUNDS
    report.bound(f"messages echoed: {expected:,}", echoes["echoed"] == expected, f"{echoes['echoed']:,.0f}")
    report.bound(f"memory each < {MAX_KIB:.0f} KiB, both ends", kib < MAX_KIB, f"{kib:.1f} KiB")
    p99 = echoes["p99 ms of an echo, all at once"]
    report.bound(f"p99 of an echo < {MAX_P99_MS:.0f} ms, all at once", p99 < MAX_P99_MS, f"{p99:.0f} ms")
    bound_log(report, front)
    return report


async def _scene(port: int, target: int, rss: Callable[[], float]) -> dict[str, float]:
    async with await asyncio.start_server(_serve, "127.0.0.1", target, backlog=1024):
        return await _spoken(port, rss)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take an upgrade, and say each message back as a server does: without its mask, which is of zeros."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        accept = websocket_accept(key)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while await reader.readexactly(len(_MESSAGE)) == _MESSAGE:
            writer.write(_ECHO)
    except (asyncio.IncompleteReadError, ConnectionError, StopIteration):
        pass
    finally:
        writer.close()


async def _spoken(port: int, rss: Callable[[], float]) -> dict[str, float]:
    gate = asyncio.Semaphore(AT_ONCE)

    async def opened() -> _Link:
        async with gate:
            return await _open(port)

    links = await asyncio.gather(*(opened() for _ in range(COUNT)))
    memory = rss()
    times: list[float] = []
    for _ in range(ROUNDS):
        times += await asyncio.gather(*(_echo(link) for link in links))
    for _, writer in links:
        writer.close()
    return {
        "open": len(links),
        "RSS MiB with all open": memory,
        "echoed": len(times),
        "p50 ms of an echo, all at once": quantile(times, 0.5),
        "p99 ms of an echo, all at once": quantile(times, 0.99),
    }


async def _open(port: int) -> _Link:
    async with asyncio.timeout(PATIENCE_S):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        key = base64.b64encode(os.urandom(16))
        writer.write(
            b"GET /ws HTTP/1.1\r\nHost: load.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 "), head
        return reader, writer


async def _echo(link: _Link) -> float:
    """Say something and wait for it to come back; milliseconds."""
    reader, writer = link
    clock = asyncio.get_running_loop().time
    async with asyncio.timeout(PATIENCE_S):
        began_at = clock()
        writer.write(_MESSAGE)
        while await reader.readexactly(len(_ECHO)) != _ECHO:
            pass
        return (clock() - began_at) * 1000
