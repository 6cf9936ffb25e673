"""What the demo backend answers, path by path; :class:`Demo` is the table.

These are plain twisted.web resources, as a user's own would be. Nothing in them knows of the gateway.
"""

from __future__ import annotations

import base64
import codecs
import math
from typing import IO, cast

import orjson
from twisted.internet.interfaces import IReactorTime
from twisted.protocols.basic import FileSender
from twisted.web.http import NO_BODY_CODES
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from txgateway.demo.ticker import Events
from txgateway.demo.websocket import echo_socket

#: How much of a request body the echo repeats.
MAX_ECHO_BYTES = 64 * 1024
MAX_DELAY_S = 60.0

RESUMES: dict[str, dict[str, object]] = {
    "1": {"id": "1", "name": "Ada Lovelace", "title": "Analyst", "skills": ["mathematics", "analytical engines"]},
    "2": {"id": "2", "name": "Grace Hopper", "title": "Rear admiral", "skills": ["compilers", "nanoseconds"]},
    "3": {"id": "3", "name": "Alan Turing", "title": "Logician", "skills": ["computability", "running"]},
}


class Demo(Resource):
    """The root: a few paths that do something, and an echo of all others.

    Args:
        clock: source of time of ``/events`` and ``/delay``.
    """

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()
        self._echo = Echo()
        self.putChild(b"resumes", Resumes())
        self.putChild(b"upload", Upload())
        self.putChild(b"events", Events(clock))
        self.putChild(b"ws", echo_socket())
        self.putChild(b"status", Status())
        self.putChild(b"delay", Delay(clock))

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self._echo


class Echo(Resource):
    """Any method, any path: the request as JSON, its target and header names as received.

    Members: ``method``, ``path`` (with the query), ``headers`` (list of pairs), ``body`` (the first 64 KiB),
    ``body_encoding`` (``text``, or ``base64`` if it is not UTF-8) and ``body_bytes`` (its whole length).
    """

    isLeaf = True

    def render(self, request: Request) -> bytes:
        content = cast("IO[bytes]", request.content)
        start = content.read(MAX_ECHO_BYTES)
        length = content.seek(0, 2)
        body, encoding = _readable(start, is_whole=length == len(start))
        described = {
            "method": request.method.decode("latin-1"),
            "path": request.uri.decode("latin-1"),
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, values in request.requestHeaders.getAllRawHeaders()
                for value in values
            ],
            "body": body,
            "body_encoding": encoding,
            "body_bytes": length,
        }
        return _json(request, described)


class Resumes(Resource):
    """``GET /resumes``: all of them; ``GET /resumes/{id}``: one."""

    def getChild(self, path: bytes, request: Request) -> Resource:
        return self if path == b"" else Resume(path.decode("latin-1"))

    def render_GET(self, request: Request) -> bytes:
        return _json(request, list(RESUMES.values()))


class Resume(Resource):
    """One resume, or a 404 that says so."""

    isLeaf = True

    def __init__(self, resume_id: str) -> None:
        super().__init__()
        self._id = resume_id

    def render_GET(self, request: Request) -> bytes:
        resume = RESUMES.get(self._id)
        if resume is None or request.postpath:
            return _json(request, {"error": "no such resume"}, 404)
        return _json(request, resume)


class Upload(Resource):
    """``POST /upload``: the body's own bytes back, under its own type."""

    isLeaf = True

    def render_POST(self, request: Request) -> int:
        content = cast("IO[bytes]", request.content)
        length = content.seek(0, 2)
        content.seek(0)
        content_type = request.getHeader(b"content-type") or b"application/octet-stream"
        request.setHeader(b"content-type", content_type)
        request.setHeader(b"content-length", b"%d" % length)
        sent = FileSender().beginFileTransfer(content, request)
        sent.addCallback(lambda _: request.finish())
        sent.addErrback(lambda _: None)  # the client left: nobody is there to be told
        return NOT_DONE_YET


class Status(Resource):
    """``/status/{code}``: that status, 200 to 599."""

    isLeaf = True

    def render(self, request: Request) -> bytes | int:
        code = _number(request)
        if not (code.is_integer() and 200 <= code <= 599):
            return _json(request, {"error": "the status is a whole number from 200 to 599"}, 400)
        if code in NO_BODY_CODES:  # RFC 9110 section 8.6: not even a Content-Length
            request.setResponseCode(int(code))
            request.finish()
            return NOT_DONE_YET
        return _json(request, {"status": int(code)}, int(code))


class Delay(Resource):
    """``/delay/{seconds}``: an answer after that long, at most 60 s; fractions are fine.

    Args:
        clock: source of time.
    """

    isLeaf = True

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()
        self._clock = clock

    def render(self, request: Request) -> bytes | int:
        delay_s = _number(request)
        if not 0 <= delay_s <= MAX_DELAY_S:
            return _json(request, {"error": "the delay is a number of seconds from 0 to 60"}, 400)

        def answer() -> None:
            request.write(_json(request, {"delay": delay_s}))
            request.finish()

        call = self._clock.callLater(delay_s, answer)
        request.notifyFinish().addErrback(lambda _: call.cancel())
        return NOT_DONE_YET


def _number(request: Request) -> float:
    """The one path segment below this resource as a number; NaN, which is in no range, if it is not one."""
    try:
        return float(b"/".join(request.postpath or []))
    except ValueError:
        return math.nan


def _readable(data: bytes, *, is_whole: bool) -> tuple[str, str]:
    """A body as ``(text, "text")``, or ``(base64, "base64")``; a character cut at the end is left out."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=is_whole), "text"
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii"), "base64"


def _json(request: Request, value: object, status: int = 200) -> bytes:
    """Set the head for ``value`` and return what the resource has to write: nothing for HEAD."""
    body = orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n"
    request.setResponseCode(status)
    request.setHeader(b"content-type", b"application/json")
    if request.method == b"HEAD":
        request.setHeader(b"content-length", b"%d" % len(body))
        return b""
    return body
