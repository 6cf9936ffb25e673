"""Stock ``twisted.web`` Site in front, treq behind, tuned. ``site_treq_tuned.py PORT BACKEND_PORT``.

One client and one pool for all requests, as many idle connections as the load has clients, bodies streamed.
"""

# Stock twisted.web has few types.
# mypy: disable-error-code="no-untyped-call,arg-type"

from __future__ import annotations

import sys

import treq
from treq.client import HTTPClient
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

#: Headers that each side makes anew, the length among them.
NOT_COPIED = {b"content-length", b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
IDLE_CONNECTIONS = 128
IDLE_CONNECTIONS = 128


class ForwardResource(Resource):
    """Forwards every request, whatever its path, and streams the answer back."""

    isLeaf = True

    def __init__(self, client: HTTPClient, backend: bytes) -> None:
        super().__init__()
        self._client = client
        self._backend = backend

    def render(self, request: Request) -> int:
        """Start the exchange; a failure is answered with 502."""
        Deferred.fromCoroutine(self._forward(request)).addErrback(lambda _: self._fail(request))
        return NOT_DONE_YET

    async def _forward(self, request: Request) -> None:
        response = await self._client.request(
            request.method.decode("ascii"),
            (self._backend + request.uri).decode("ascii"),
            headers=_end_to_end(request.requestHeaders),
            data=FileBodyProducer(request.content) if request.requestHeaders.hasHeader(b"content-length") else None,
            allow_redirects=False,
            unbuffered=True,
        )
        request.setResponseCode(response.code, response.phrase)
        request.responseHeaders = _end_to_end(response.headers)
        if response.length is not UNKNOWN_LENGTH:
            request.responseHeaders.setRawHeaders(b"content-length", [b"%d" % response.length])
        await treq.collect(response, request.write)
        request.finish()

    @staticmethod
    def _fail(request: Request) -> None:
        request.setResponseCode(502)
        request.finish()


def _end_to_end(headers: Headers) -> Headers:
    kept = Headers()
    for name, values in headers.getAllRawHeaders():
        if name.lower() not in NOT_COPIED and values:
            kept.setRawHeaders(name, values)
    return kept


def main(port: int, backend_port: int) -> None:
    """Serve until told to stop."""
    pool = HTTPConnectionPool(reactor, persistent=True)
    pool.maxPersistentPerHost = IDLE_CONNECTIONS
    root = ForwardResource(HTTPClient(Agent(reactor, pool=pool)), b"http://127.0.0.1:%d" % backend_port)
    reactor.listenTCP(port, Site(root), interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
