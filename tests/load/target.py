"""A target as a process of its own: ``target.py PORT NAME``; uses nothing but the standard library.

It answers every GET after about a millisecond with 200, its name in ``X-Target``, and keeps connections alive.
``/control/MODE`` is answered always and by itself, and sets what all other requests get from then on:

- ``ok``: 200, as at the start; ``503``: that status; ``drop``: no answer, the connection is closed;
- ``sleep/SECONDS``: 200, that much later;
- ``counts``: changes nothing. Each of these is answered with the counts so far, as JSON: ``requests`` that came (control
  not counted), ``at_once``, the most of them that were there at the same time.

Two paths, with whatever in front, are for answers of their own kind, as long as the mode is ``ok``:

- ``/large/BYTES``: 200 at once, with so many bytes, as fast as they are taken;
- ``/endless``: no answer, and what else comes on the connection is read and dropped.

It ends when its standard input does, so that it does not outlive whoever started it.
"""

from __future__ import annotations

import asyncio
import json
import sys

CONTROL = "/control/"
USUAL_S = 0.001
MAX_HEAD_BYTES = 64 * 1024
LARGE = "/large/"
ENDLESS = "/endless"
PIECE = bytes(64 * 1024)


class State:
    """What all connections share."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.mode = "ok"
        self.delay_s = USUAL_S
        self.requests = 0
        self.now = 0
        self.at_once = 0

    def control(self, command: str) -> bytes:
        """Do what a control path says; returns the counts."""
        mode, _, value = command.partition("/")
        if mode != "counts":
            self.mode = mode
            self.delay_s = float(value) if mode == "sleep" else USUAL_S
        return json.dumps({"requests": self.requests, "at_once": self.at_once}).encode("ascii")


class Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, state: State) -> None:
        self._state = state
        self._received = b""
        self._drops = False
        self._left = 0
        self._is_blocked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def pause_writing(self) -> None:
        self._is_blocked = True

    def resume_writing(self) -> None:
        self._is_blocked = False
        self._pour()

    def data_received(self, data: bytes) -> None:
        if self._drops:
            return
        self._received += data
        head, end, self._received = self._received.partition(b"\r\n\r\n")
        if not end:
            self._received = head
            if len(head) > MAX_HEAD_BYTES:
                self._transport.abort()
            return
        state, path = self._state, head.split(b" ", 2)[1].decode("latin-1")
        if path.startswith(CONTROL):
            self._answer(200, state.control(path.removeprefix(CONTROL)))
            return
        state.requests += 1
        if state.mode == "ok" and path.endswith(ENDLESS):
            self._drops = True
            self._received = b""
            return
        if state.mode == "ok" and LARGE in path:
            self._left = int(path.rpartition("/")[2])
            self._transport.write(self._head(200, self._left))
            self._pour()
            return
        state.now += 1
        state.at_once = max(state.at_once, state.now)
        asyncio.get_running_loop().call_later(state.delay_s, self._respond)

    def _respond(self) -> None:
        state = self._state
        state.now -= 1
        if self._transport.is_closing():
            return
        if state.mode == "drop":
            self._transport.close()
        elif state.mode == "503":
            self._answer(503, b"told so")
        else:
            self._answer(200, b"ok")

    def _pour(self) -> None:
        while self._left and not self._is_blocked and not self._transport.is_closing():
            piece = PIECE[: self._left]
            self._left -= len(piece)
            self._transport.write(piece)

    def _answer(self, status: int, body: bytes) -> None:
        self._transport.write(self._head(status, len(body)) + body)

    def _head(self, status: int, length: int) -> bytes:
        name = self._state.name.encode("ascii")
        return b"HTTP/1.1 %d Told\r\nX-Target: %b\r\nContent-Length: %d\r\n\r\n" % (status, name, length)


class Parent(asyncio.Protocol):
    """Standard input, which ends with whoever started this."""

    def __init__(self, gone: asyncio.Event) -> None:
        self._gone = gone

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set()


async def main(port: int, name: str) -> None:
    """Serve until the parent is gone."""
    loop = asyncio.get_running_loop()
    gone, state = asyncio.Event(), State(name)
    await loop.connect_read_pipe(lambda: Parent(gone), sys.stdin)
    await loop.create_server(lambda: Connection(state), "127.0.0.1", port, backlog=512)
    await gone.wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
