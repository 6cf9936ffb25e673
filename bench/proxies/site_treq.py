"""Stock ``twisted.web`` Site in front, treq behind, both as their documentation shows. ``site_treq.py PORT BACKEND_PORT``.

The naive way: ``treq.request`` and ``treq.content`` with their defaults.
"""

# Stock twisted.web has few types.
# mypy: disable-error-code="no-untyped-call,arg-type"

from __future__ import annotations

import sys

import treq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

NOT_COPIED = {b"content-length", b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}


class ForwardResource(Resource):
    """Forwards every request, whatever its path."""

    isLeaf = True

    def __init__(self, backend: str) -> None:
        super().__init__()
        self._backend = backend

    def render(self, request: Request) -> int:
        """Start the exchange; a failure is answered with 502."""
        Deferred.fromCoroutine(self._forward(request)).addErrback(lambda _: self._fail(request))
        return NOT_DONE_YET

    async def _forward(self, request: Request) -> None:
        headers = request.requestHeaders.copy()
        for name in NOT_COPIED:
            headers.removeHeader(name)
        response = await treq.request(
            request.method.decode("ascii"),
            self._backend + request.uri.decode("ascii"),
            headers=headers,
            data=request.content,
            allow_redirects=False,
        )
        body = await treq.content(response)
        request.setResponseCode(response.code, response.phrase)
        for name, values in response.headers.getAllRawHeaders():
            if name.lower() not in NOT_COPIED:
                request.responseHeaders.setRawHeaders(name, values)
        request.setHeader(b"content-length", b"%d" % len(body))
        request.write(body)
        request.finish()

    @staticmethod
    def _fail(request: Request) -> None:
        request.setResponseCode(502)
        request.finish()


def main(port: int, backend_port: int) -> None:
    """Serve until told to stop."""
    reactor.listenTCP(port, Site(ForwardResource(f"http://127.0.0.1:{backend_port}")), interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
