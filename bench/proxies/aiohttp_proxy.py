"""A small streaming reverse proxy in aiohttp, as a team would write it. ``aiohttp_proxy.py PORT BACKEND_PORT``."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

from aiohttp import ClientSession, DummyCookieJar, TCPConnector, web

HOP_BY_HOP = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
BLOCK_BYTES = 64 * 1024

BACKEND = web.AppKey("backend", str)
SESSION = web.AppKey("session", ClientSession)


async def open_session(app: web.Application) -> AsyncIterator[None]:
    """Keep one client session, and so one connection pool, for the life of the proxy."""
    connector = TCPConnector(limit=0)
    async with ClientSession(connector=connector, cookie_jar=DummyCookieJar(), auto_decompress=False) as session:
        app[SESSION] = session
        yield


async def forward(request: web.Request) -> web.StreamResponse:
    """Send the request on and stream the answer back."""
    headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
    async with request.app[SESSION].request(
        request.method,
        request.app[BACKEND] + request.raw_path,
        headers=headers,
        data=request.content if request.body_exists else None,
        allow_redirects=False,
        timeout=None,
    ) as answer:
        response = web.StreamResponse(status=answer.status, reason=answer.reason)
        for name, value in answer.headers.items():
            if name.lower() not in HOP_BY_HOP:
                response.headers.add(name, value)
        await response.prepare(request)
        async for block in answer.content.iter_chunked(BLOCK_BYTES):
            await response.write(block)
        await response.write_eof()
        return response


def main(port: int, backend_port: int) -> None:
    """Serve until told to stop."""
    app = web.Application(client_max_size=0)
    app[BACKEND] = f"http://127.0.0.1:{backend_port}"
    app.cleanup_ctx.append(open_session)
    app.router.add_route("*", "/{path:.*}", forward)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
