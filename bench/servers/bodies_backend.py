"""Sends and takes large bodies. ``bodies_backend.py PORT``; GET ``/N`` answers N bytes, POST the number it was sent."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

BLOCK = bytes(256 * 1024)
MAX_HEAD_BYTES = 64 * 1024


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Exchanges on one connection, until the peer closes it."""
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, target, _ = head[0].split(" ")
            fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            taken = await take_body(reader, fields)
            if method == "GET":
                await send_zeros(writer, int(target.strip("/") or 0))
            else:
                answer = b"%d" % taken
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
                await writer.drain()
    writer.close()


async def take_body(reader: asyncio.StreamReader, fields: dict[str, str]) -> int:
    """Read a request body, framed either way, and count its bytes."""
    if fields.get("transfer-encoding") != "chunked":
        return await discard(reader, int(fields.get("content-length", "0")))
    taken = 0
    while size := int((await reader.readline()).partition(b";")[0], 16):
        taken += await discard(reader, size)
        await reader.readexactly(2)
    while await reader.readline() != b"\r\n":
        pass
    return taken


async def discard(reader: asyncio.StreamReader, count: int) -> int:
    """Read exactly ``count`` bytes and forget them."""
    left = count
    while left:
        data = await reader.read(min(left, len(BLOCK)))
        if not data:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(data)
    return count


async def send_zeros(writer: asyncio.StreamWriter, count: int) -> None:
    """Answer with ``count`` bytes, no faster than they are read."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % count)
    for start in range(0, count, len(BLOCK)):
        writer.write(BLOCK[: count - start])
        await writer.drain()
    await writer.drain()


async def main(port: int) -> None:
    """Serve until told to stop."""
    server = await asyncio.start_server(serve, "127.0.0.1", port, limit=MAX_HEAD_BYTES)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
