"""Stock ``twisted.web`` over TLS, HTTP/2 and HTTP/1.1: a constant for every path. ``site_http2.py PORT CERTIFICATE KEY``."""

# Stock twisted.web has few types.
# mypy: disable-error-code="no-untyped-call,arg-type,attr-defined,misc"

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.ssl import PrivateCertificate
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

#: As the backend of the proxies answers.
BODY = b"0123456789ab" * 11


class Constant(Resource):
    """Answers every path."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        """The constant."""
        request.setHeader(b"content-type", b"text/plain")
        return BODY


class QuietSite(Site):
    """Without an access log, as the proxies are."""

    def log(self, request: object) -> None:
        """Nothing."""


def main(port: int, certificate: Path, key: Path) -> None:
    """Serve until told to stop."""
    pair = PrivateCertificate.loadPEM(key.read_bytes() + certificate.read_bytes())
    reactor.listenSSL(port, QuietSite(Constant()), pair.options(), interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]))
