"""Clients that keep to a rate, whatever the answers do. ``paced_clients.py CONNECTIONS RATE SECONDS START_AT PORT…``.

An open loop: request number n is due n/RATE seconds after the start, and is sent then on whichever connection is free,
or waits for one. Connections are kept alive, opened before the start, in turns to the ports, and opened again if they
end. At the end one JSON object goes to standard output: the requests that were never answered, and for each other one
when it was due, when the pacer came to it, and when its answer was there, in seconds of the monotonic clock (which all
processes of a machine share), and its status, 0 if the connection failed. START_AT is of that clock too; one that has
passed means at once.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections import deque
from contextlib import suppress
from itertools import cycle, islice

REQUEST = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"
#: For the answers that are missing when the last request was sent.
PATIENCE_S = 10.0
RECONNECT_PAUSE_S = 0.01

Record = tuple[float, float, float, int]


class Client(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, load: PacedLoad, port: int) -> None:
        self._load = load
        self._port = port
        self._received = b""
        self._request: tuple[float, float] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take requests from now on."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._load.is_free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count what was under way as failed, and connect again."""
        if self._request is not None:
            self._finish(0)
        self._load.is_gone(self, self._port)

    def send(self, due_at: float, begun_at: float) -> None:
        """Send one request."""
        self._request = due_at, begun_at
        self._transport.write(REQUEST)

    def data_received(self, data: bytes) -> None:
        """Look whether the answer is complete; everything that is asked here has a length."""
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"\ncontent-length:")[2].partition(b"\r\n")[0]
        if not length.strip().isdigit() or self._request is None:
            self._transport.abort()
        elif len(body) >= int(length):
            self._received = b""
            self._finish(int(head[9:12]))
            if b"\nconnection: close" not in head.lower():
                self._load.is_free(self)

    def _finish(self, status: int) -> None:
        assert self._request is not None
        due_at, begun_at = self._request
        self._request = None
        self._load.is_done((due_at, begun_at, asyncio.get_running_loop().time(), status))


class PacedLoad:
    """All clients and the pacer."""

    def __init__(self, connections: int, rate: float, seconds: float, ports: list[int]) -> None:
        self.records: list[Record] = []
        self._rate = rate
        self._requests = int(rate * seconds)
        self._ports = list(islice(cycle(ports), connections))
        self._free: deque[Client] = deque()
        self._waiting: deque[tuple[float, float]] = deque()
        self._is_over = False
        self._all_done = asyncio.Event()
        self._reconnecting: set[asyncio.Task[None]] = set()

    async def run(self, start_at: float) -> int:
        """Send everything; how many requests have had no answer."""
        clock = asyncio.get_running_loop().time
        for port in self._ports:
            await self._connect(port)
        gc.disable()  # a collection would look as if an answer had been late
        start_at = max(start_at, clock())
        for number in range(self._requests):
            due_at = start_at + number / self._rate
            if (ahead_s := due_at - clock()) > 0:
                await asyncio.sleep(ahead_s)
            self._begin(due_at, clock())
            if number % 100 == 0:
                await asyncio.sleep(0)  # answers count, even when the pacer is late
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                await self._all_done.wait()
        self._is_over = True
        return self._requests - len(self.records)

    def is_done(self, record: Record) -> None:
        """A request has its answer, or has failed."""
        self.records.append(record)
        if len(self.records) == self._requests:
            self._all_done.set()

    def is_free(self, client: Client) -> None:
        """A connection can take a request."""
        if self._waiting:
            client.send(*self._waiting.popleft())
        else:
            self._free.append(client)

    def is_gone(self, client: Client, port: int) -> None:
        """A connection has ended."""
        if client in self._free:
            self._free.remove(client)
        if not self._is_over:
            task = asyncio.get_running_loop().create_task(self._reconnect(port))
            self._reconnecting.add(task)
            task.add_done_callback(self._reconnecting.discard)

    def _begin(self, due_at: float, now: float) -> None:
        if self._free:
            self._free.popleft().send(due_at, now)
        else:
            self._waiting.append((due_at, now))

    async def _connect(self, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: Client(self, port), "127.0.0.1", port)

    async def _reconnect(self, port: int) -> None:
        while not self._is_over:
            await asyncio.sleep(RECONNECT_PAUSE_S)
            try:
                await self._connect(port)
            except OSError:
                continue
            return


def main(connections: str, rate: str, seconds: str, start_at: str, *ports: str) -> None:
    """Run with the arguments of the command line."""
    load = PacedLoad(int(connections), float(rate), float(seconds), [int(port) for port in ports])
    unanswered = asyncio.run(load.run(float(start_at)))
    json.dump({"unanswered": unanswered, "records": load.records}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
