"""Closes kept-alive connections at bad moments, as real backends do. ``stale_backend.py PORT``.

Some connections are closed a random while after an answer, which may be just when the next request is on its way;
some when a request has arrived, without an answer. A connection that has not answered yet is never closed, so a
proxy that tries again on a new connection always succeeds. GET ``/bench-closed`` tells how often it did either.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import sys

BODY = b"0123456789ab" * 11
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b"
MAX_HEAD_BYTES = 64 * 1024

#: Share of the answers after which the connection is closed, and the longest wait before that.
CLOSE_IDLE_SHARE = 0.03
CLOSE_IDLE_MAX_S = 0.01
#: Share of the requests, other than a connection's first, that are met by closing. Three of these in a row, which
#: no proxy could be blamed for, are to be expected once in a thousand runs of 100,000 requests.
CLOSE_ON_ARRIVAL_SHARE = 0.002


class Closed:
    """How often connections were closed, by moment."""

    def __init__(self) -> None:
        self.idle = 0
        self.on_arrival = 0


class StaleProtocol(asyncio.Protocol):
    """One connection; requests without bodies only."""

    def __init__(self, chance: random.Random, closed: Closed) -> None:
        self._chance = chance
        self._closed = closed
        self._received = b""
        self._answered = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where answers go."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer each complete head, or close instead."""
        self._received += data
        while b"\r\n\r\n" in self._received and not self._transport.is_closing():
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            if head.startswith(b"GET /bench-closed "):
                body = json.dumps(vars(self._closed)).encode("ascii")
                self._transport.write(ANSWER % (len(body), body))
            elif self._answered and self._chance.random() < CLOSE_ON_ARRIVAL_SHARE:
                self._closed.on_arrival += 1
                self._close()
            else:
                self._answer()
        if len(self._received) > MAX_HEAD_BYTES:
            self._transport.abort()

    def _answer(self) -> None:
        self._transport.write(ANSWER % (len(BODY), BODY))
        self._answered += 1
        if self._chance.random() < CLOSE_IDLE_SHARE:
            wait_s = self._chance.uniform(0, CLOSE_IDLE_MAX_S)
            asyncio.get_running_loop().call_later(wait_s, self._close_idle)

    def _close_idle(self) -> None:
        if not self._transport.is_closing():
            self._closed.idle += 1
            self._close()

    def _close(self) -> None:
        if self._chance.choice((True, False)):  # half of them with a reset, as from a process that was killed
            self._transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
        self._transport.abort()


async def main(port: int) -> None:
    """Serve until told to stop."""
    chance, closed = random.Random(1), Closed()
    server = await asyncio.get_running_loop().create_server(
        lambda: StaleProtocol(chance, closed), "127.0.0.1", port, backlog=1024
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
