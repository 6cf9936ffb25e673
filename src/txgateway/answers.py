"""Route ends that answer without a backend: redirects, fixed responses, and mounted twisted.web resources."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import multipart  # type: ignore[import-untyped]
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.http import parse_qs
from twisted.web.resource import IResource, getChildForRequest
from twisted.web.server import NOT_DONE_YET, Site

from txgateway.errors import BadHost, BadRequest, DeadlineExceeded, GatewayError, RequestTimeout
from txgateway.headers import normalize_host
from txgateway.leaf import Leaf
from txgateway.transport.interfaces import HeaderList
from txgateway.transport.wheel import TimerWheel

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

#: Bodies for mounted resources stay in memory up to this size; larger ones go to a temporary file.
SPOOL_MEMORY_BYTES = 256 * 1024
_HTTPS_PORT = 443
#: Most fields of a form.
MAX_FORM_PARTS = 1000


class Redirect(Leaf):
    """Sends the client elsewhere.

    Args:
        to: absolute URL or path. One without a path keeps the client's own path and query.
        status: a 3xx code.
    """

    def __init__(self, to: str, status: int) -> None:
        self._to = to.encode("ascii")
        self._keeps_path = b"/" not in self._to.partition(b"://")[2] and b"://" in self._to
        self._status = status

    def render(self, request: GatewayRequest) -> int:
        location = self._to + (request.upstream_target or b"/") if self._keeps_path else self._to
        request.answer(self._status, [(b"location", b"Location", location)], b"")
        return NOT_DONE_YET


class HttpsRedirect(Leaf):
    """Sends every client to the same target of the same host, over TLS (RFC 9110 section 15.4.9).

    A body is not read: the connection is closed after the answer.

    Refuses: BAD_HOST without a host to send the client to, which HTTP/1.0 allows.

    Args:
        port: of the listener that speaks TLS, asked for with each request; 0 if it has none.
    """

    def __init__(self, port: Callable[[], int]) -> None:
        self._port = port

    def render(self, request: GatewayRequest) -> int:
        host = normalize_host(request.host or b"")
        if not host:
            raise BadHost("no host to redirect to")
        port = self._port()
        authority = b"%b:%d" % (host, port) if port not in {0, _HTTPS_PORT} else host
        location = b"https://%b%b" % (authority, request.upstream_target or b"/")
        request.answer(308, [(b"location", b"Location", location)], b"")
        return NOT_DONE_YET


class FixedResponse(Leaf):
    """Always the same answer."""

    def __init__(self, status: int, body: str, content_type: str) -> None:
        self._status = status
        self._body = body.encode("utf-8")
        self._headers: HeaderList = (
            [(b"content-type", b"Content-Type", content_type.encode("ascii"))] if self._body else []
        )

    def render(self, request: GatewayRequest) -> int:
        request.answer(self._status, list(self._headers), self._body)
        return NOT_DONE_YET


class Mounted(Leaf):
    """A stock twisted.web resource tree as a route's end, with all that such resources expect.

    The body is read first (in memory up to SPOOL_MEMORY_BYTES, then on disk), form arguments are parsed, and child
    lookup begins behind the route's own path.

    Refuses: REQUEST_TIMEOUT when the body stalls, BAD_REQUEST when a form is malformed, DEADLINE_EXCEEDED when the
        resource does not begin to answer in time.
    On cancel: the resource is told through ``notifyFinish``.

    Args:
        root: the tree.
        prefix_segments: number of path segments that the route has matched.
        body_timeout_s: without progress.
        wheel: for that, and for the next two.
        clock: for the tree's sessions.
        total_s: until the resource begins to answer; 0 for none.
        idle_s: without a byte of the answer.
    """

    def __init__(
        self,
        root: IResource,
        prefix_segments: int,
        body_timeout_s: float,
        wheel: TimerWheel,
        clock: IReactorTime,
        total_s: float = 30.0,
        idle_s: float = 300.0,
    ) -> None:
        self._root = root
        self._prefix_segments = prefix_segments
        self._body_timeout_s = body_timeout_s
        self._wheel = wheel
        self._total_s = total_s or math.inf
        self._idle_s = idle_s
        self._site = Site(root, reactor=clock)

    def render(self, request: GatewayRequest) -> int:
        if request.body_complete and not request.bytes_in:
            self.serve(request)
        else:
            spool = _Spool(request, self, self._wheel, self._body_timeout_s)
            request.on_finish(spool.finished)
            request.want_body(spool)
        return NOT_DONE_YET

    def serve(self, request: GatewayRequest) -> None:
        """Find the resource and let it render."""
        request.site = self._site
        segments = [unquote_to_bytes(segment) for segment in request.canonical_path.split(b"/")[1:]]
        request.prepath = segments[: self._prefix_segments]
        request.postpath = segments[self._prefix_segments :]
        _Watch(request, self._wheel, self._total_s, self._idle_s)
        request.render(getChildForRequest(self._root, request))


class _Watch:
    """Ends a request whose resource does not begin to answer in time, or whose answer moves no more.

    Without it a client that stops reading would hold its connection, and what the resource has open, for ever.
    """

    __slots__ = ("_idle_s", "_request", "_seen", "_wheel", "deadline")

    def __init__(self, request: GatewayRequest, wheel: TimerWheel, total_s: float, idle_s: float) -> None:
        self._request = request
        self._wheel = wheel
        self._idle_s = idle_s
        self._seen = (-1, -1)
        wheel.watch(self)
        self.deadline = wheel.after(min(total_s, idle_s))
        request.on_finish(self.finished)

    def on_deadline(self, now: float) -> None:
        request = self._request
        if not request.responded:
            request.fail(DeadlineExceeded("the resource did not answer"))
            return
        seen = (request.bytes_out, request.channel.unsent_bytes())
        if seen != self._seen:
            self._seen = seen
            self.deadline = now + self._idle_s
        elif request.channel.write_blocked:
            request.fail(RequestTimeout("client stopped reading the response"))
        else:
            request.fail(DeadlineExceeded("the resource fell silent"))

    def finished(self, _: GatewayRequest) -> None:
        self._wheel.forget(self)


class _Spool:
    """Collects a request's body for a mounted resource."""

    def __init__(self, request: GatewayRequest, end: Mounted, wheel: TimerWheel, timeout_s: float) -> None:
        self._request = request
        self._end = end
        self._wheel = wheel
        self._timeout_s = timeout_s
        self._file = tempfile.SpooledTemporaryFile(max_size=SPOOL_MEMORY_BYTES)  # noqa: SIM115 -- closed when finished
        self.deadline = wheel.after(timeout_s)
        wheel.watch(self)

    def body_received(self, data: bytes) -> None:
        self.deadline = self._wheel.after(self._timeout_s)
        self._file.write(data)

    def body_ended(self, trailers: HeaderList) -> None:
        self._wheel.forget(self)
        request = self._request
        self._file.seek(0)
        request.content = self._file
        try:
            if request.method == b"POST":
                _parse_form(request)
            self._end.serve(request)
        except multipart.MultipartError as exc:
            request.fail(BadRequest(str(exc)))
        except GatewayError as error:
            request.fail(error)
        except Exception:  # noqa: BLE001 -- a resource's fault, outside Recovery's reach
            request.processingFailed(Failure())

    def on_deadline(self, now: float) -> None:
        self._request.fail(RequestTimeout("request body stalled"))

    def finished(self, _: GatewayRequest) -> None:
        self._wheel.forget(self)
        self._file.close()


def _parse_form(request: GatewayRequest) -> None:
    """Add a form's fields to ``args``, as twisted.web does."""
    kind, options = multipart.parse_options_header((request.header(b"content-type") or b"").decode("latin-1"))
    if kind == "application/x-www-form-urlencoded":
        body = request.content.read()
        if body.count(b"&") + body.count(b";") >= MAX_FORM_PARTS:  # each becomes several objects
            raise BadRequest("too many form fields")
        fields = parse_qs(body, 1)
    elif kind == "multipart/form-data":
        fields = {}
        parser = multipart.MultipartParser(
            request.content, options.get("boundary", ""), part_limit=MAX_FORM_PARTS, charset="utf-8"
        )
        for part in parser:
            fields.setdefault(part.name.encode("utf-8"), []).append(part.raw)
    else:
        return
    request.content.seek(0)
    for name, values in fields.items():
        request.args.setdefault(name, []).extend(values)
