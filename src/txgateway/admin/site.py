"""The admin listener's site: a stock twisted.web one with nothing but small pages to read.

It changes nothing and takes no bodies, so what remains to defend against is a browser on the same machine that is
tricked into reading it for somebody else.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from io import BytesIO
from types import MappingProxyType
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request as HTTPRequest
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from txgateway.admin.dashboard import dashboard_pages
from txgateway.admin.scrape import TIMEOUT_S, Metrics, MetricsPage
from txgateway.telemetry.lines import json_line

#: Body bytes after which a client is cut off; there is nothing to send here.
MAX_BODY_BYTES = 64 * 1024

#: From the query of ``/explain`` to what is told: plain data, under ``error`` if it is no question; None if nobody answers.
Told: TypeAlias = Mapping[str, object] | None
Explain: TypeAlias = Callable[[str], Told | Deferred[Told]]
#: By path, what asks others for what a page is made of.
Asks: TypeAlias = Mapping[bytes, Callable[[], Deferred[Any]]]

_log = Logger(__name__)

_SECURITY_HEADERS = (
    (b"Cache-Control", b"no-store"),
    (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"X-Frame-Options", b"DENY"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)


class _Page(Resource):
    """A body made anew for every request."""

    isLeaf = True

    def __init__(self, make: Callable[[IRequest], tuple[bytes, bytes]]) -> None:
        super().__init__()
        self.made = make

    def render(self, request: IRequest) -> bytes:
        content_type, body = self.made(request)
        request.setHeader(b"Content-Type", content_type)
        request.setHeader(b"Content-Length", b"%d" % len(body))
        return b"" if request.method == b"HEAD" else body


class _ExplainPage(Resource):
    """What would become of a request."""

    isLeaf = True

    def __init__(self, explain: Explain) -> None:
        super().__init__()
        self._explain = explain

    def render(self, request: Request) -> bytes | int:
        told = self._explain(request.uri.partition(b"?")[2].decode("latin-1"))
        if not isinstance(told, Deferred):
            return self._page(told).render(request)
        answers: list[Told] = []
        page = _Page(lambda request: self._page(answers[0]).made(request))
        return _later(page, request, told.addCallback(answers.append))

    def _page(self, told: Told) -> _Page:
        def make(request: IRequest) -> tuple[bytes, bytes]:
            if told is None or "error" in told:
                request.setResponseCode(503 if told is None else 400)
            return _json(told or {"error": "No worker answers."})

        return _Page(make)


class AdminRoot(Resource):
    """Checks every request, then hands it to the page of exactly its path.

    Refuses other hosts (421), methods other than GET and HEAD (405), and unknown paths (404).

    Args:
        pages: leaf resources by path.
        admin_host: the address or name that the listener is bound to.
        asks: by path, what has to be over before the page is made.
    """

    isLeaf = True

    def __init__(self, pages: Mapping[bytes, IResource], admin_host: str, asks: Asks) -> None:
        super().__init__()
        self._pages = pages
        self._asks = asks
        self._admin_host = admin_host.lower()
        self._checks_host = self._admin_host == "localhost" or _is_loopback(self._admin_host)

    def render(self, request: Request) -> bytes | int:
        for name, value in _SECURITY_HEADERS:
            request.setHeader(name, value)
        if not self._is_our_host(request.requestHeaders.getRawHeaders(b"host") or []):
            return _refuse(request, 421, "This host is not served here.")
        page = self._pages.get(request.path)
        if page is None:
            return _refuse(request, 404, "There is no such page.")
        if request.method not in {b"GET", b"HEAD"}:
            request.setHeader(b"Allow", b"GET, HEAD")
            return _refuse(request, 405, "Only GET and HEAD are allowed.")
        ask = self._asks.get(request.path)
        if ask is not None:
            return _later(page, request, ask())
        body: bytes | int = page.render(request)
        return body

    def _is_our_host(self, hosts: Sequence[bytes]) -> bool:
        """Whether no browser was led here by a name that somebody else can point at this machine (DNS rebinding).

        A listener that is bound beyond loopback is reached by names that are not known here.
        """
        if len(hosts) > 1:
            return False
        if not self._checks_host or not hosts:
            return True
        name = hosts[0].decode("latin-1").strip().lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        return name in {"localhost", self._admin_host} or _address(name) is not None


class _AdminRequest(Request):
    """A request whose body, of no use here, is thrown away rather than spooled to a file."""

    _body_bytes = 0

    def setHeader(self, name: bytes, value: bytes) -> None:
        if name.lower() != b"server":  # which process() sets before any resource is asked
            super().setHeader(name, value)

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        self._body_bytes += len(data)
        if self._body_bytes > MAX_BODY_BYTES:
            self.channel.loseConnection()


class _QuietSite(Site):
    """Keeps scrapes and probes out of the access log."""

    noisy = False

    def log(self, request: HTTPRequest) -> None:
        """Not a word."""


def _later(page: IResource, request: Request, asked: Deferred[Any]) -> int:
    """Make the page once ``asked`` has fired, if the client still waits for it."""
    gone: list[object] = []
    request.notifyFinish().addErrback(gone.append)

    def render(_: object) -> None:
        if gone:
            return
        body = page.render(request)
        if isinstance(body, bytes):
            request.write(body)
            request.finish()

    def failed(failure: Failure) -> None:
        _log.failure("page cannot be made", failure)
        if not gone:
            request.channel.loseConnection()

    asked.addCallback(render).addErrback(failed)
    return NOT_DONE_YET


def admin_site(
    *,
    admin_host: str,
    probes: Mapping[bytes, IResource],
    metrics: Metrics,
    status: Callable[[], Mapping[str, object]],
    history: Callable[[], Mapping[str, object]],
    config: Callable[[], Mapping[str, object]],
    asks: Asks = MappingProxyType({}),
    explain: Explain | None = None,
) -> Site:
    """The site for the admin listener.

    Args:
        admin_host: what the listener is bound to (``GATEWAY_ADMIN_HOST``). On loopback, only requests to an
            address, to ``localhost`` or to this name are answered.
        probes: the probe resources by path.
        metrics: makes ``/metrics``.
        status: the members of ``/status``, as plain data.
        history: the members of ``/status/history``, as plain data.
        config: the members of ``/config``, as plain data; a secret's value arrives masked.
        asks: by path, asks others for what the page is made of.
        explain: makes ``/explain``; None for no such page.
    """
    pages: dict[bytes, IResource] = {
        b"/metrics": MetricsPage(metrics),
        b"/status": _Page(lambda _: _json(status())),
        b"/status/history": _Page(lambda _: _json(history())),
        b"/config": _Page(lambda _: _json(config())),
        **probes,
    }
    pages |= dashboard_pages(pages)
    if explain is not None:  # no page to link to: it wants to be asked something
        pages[b"/explain"] = _ExplainPage(explain)
    return _QuietSite(
        AdminRoot(pages, admin_host, asks),
        requestFactory=_AdminRequest,
        parsePOSTFormSubmission=False,
        timeout=TIMEOUT_S,
    )


def _json(members: Mapping[str, object]) -> tuple[bytes, bytes]:
    return b"application/json", json_line(members)


def _refuse(request: Request, status: int, text: str) -> bytes:
    # twisted.web has no words for 421.
    request.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
    content_type, body = _json({"status": status, "detail": text})
    request.setHeader(b"Content-Type", content_type)
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return b"" if request.method == b"HEAD" else body


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_loopback(name: str) -> bool:
    address = _address(name)
    return address is not None and address.is_loopback
