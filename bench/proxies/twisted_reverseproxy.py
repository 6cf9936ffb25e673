"""The reverse proxy that comes with Twisted, unchanged. ``twisted_reverseproxy.py PORT BACKEND_PORT``."""

# Stock twisted.web has few types.
# mypy: disable-error-code="no-untyped-call,arg-type"

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.web.proxy import ReverseProxyResource
from twisted.web.server import Site


def main(port: int, backend_port: int) -> None:
    """Serve until told to stop."""
    reactor.listenTCP(port, Site(ReverseProxyResource("127.0.0.1", backend_port, b"")), interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
