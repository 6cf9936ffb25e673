"""A request as twisted.web's resources know it: the whole of ``IRequest``, made when somebody asks for it.

twisted.web's own class lends its methods (cookies, redirects, sessions, ``render``); its constructor is not run, what
it would have made for every request is made at the first access, and what resources write goes through the few
methods that :class:`txgateway.request.GatewayRequest` adds.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IAddress, IPullProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from zope.interface import implementer

from txgateway.errors import GatewayError, InternalError
from txgateway.forwarded import Forwarded
from txgateway.headers import HOP_BY_HOP
from txgateway.transport.framing import FramingError, parse_content_length
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, Header, HeaderList

_log = Logger(__name__)


class _PullPump:
    """Makes a pull producer look like a push producer: asks it for more, once a turn, while the client takes it."""

    def __init__(self, producer: IPullProducer, clock: Any, failed: Callable[[Failure], None]) -> None:
        self._producer = producer
        self._clock = clock
        self._failed = failed
        self._call: Any = None
        self._paused = False
        self._schedule()

    def _schedule(self) -> None:
        if self._call is None:
            self._call = self._clock.callLater(0, self._turn)

    def _turn(self) -> None:
        self._call = None
        try:
            self._producer.resumeProducing()
        except Exception:  # noqa: BLE001 -- a resource's fault, outside Recovery's reach
            self._failed(Failure())
            return
        if not self._paused:
            self._schedule()

    def pauseProducing(self) -> None:
        self._paused = True
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def resumeProducing(self) -> None:
        self._paused = False
        self._schedule()

    def stopProducing(self) -> None:
        self.pauseProducing()
        self._producer.stopProducing()


@implementer(IRequest)
class WebRequest(server.Request):
    """The face that resources see; the attributes and methods declared here are the subclass's."""

    channel: Any
    headers: tuple[Header, ...]
    fields: dict[bytes, bytes]
    forwarded: Forwarded
    client_ip: str | None
    request_id: str
    reason: str | None
    responded: bool
    ended: bool
    producer: Any

    def respond(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        raise NotImplementedError

    def send_body(self, data: bytes) -> None:
        raise NotImplementedError

    def end(self, trailers: HeaderList) -> None:
        raise NotImplementedError

    def flush(self) -> None:
        raise NotImplementedError

    def fail(self, error: GatewayError) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        raise NotImplementedError

    @cached_property
    def requestHeaders(self) -> Headers:  # type: ignore[override]
        headers = Headers()
        for _, name, value in self.headers:
            headers.addRawHeader(name, value)
        return headers

    @cached_property
    def responseHeaders(self) -> Headers:  # type: ignore[override]
        return Headers()

    @cached_property
    def args(self) -> dict[bytes, list[bytes]]:  # type: ignore[override]
        return http.parse_qs(self.uri.partition(b"?")[2], 1)  # type: ignore[no-any-return]

    @cached_property
    def content(self) -> Any:  # type: ignore[override]
        return BytesIO()

    @cached_property
    def cookies(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def received_cookies(self) -> dict[bytes, bytes]:  # type: ignore[override]
        pairs = (pair.partition(b"=") for pair in self.fields.get(b"cookie", b"").split(b";"))
        return {name.strip(): value.strip() for name, equals, value in pairs if equals}

    @cached_property
    def prepath(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def postpath(self) -> list[bytes]:  # type: ignore[override]
        return []

    @cached_property
    def sitepath(self) -> list[bytes]:
        return []

    @cached_property
    def notifications(self) -> list[Any]:  # type: ignore[override]
        return []

    @cached_property
    def _adapterCache(self) -> dict[str, Any]:  # type: ignore[override]
        return {}

    @cached_property
    def client(self) -> IAddress:
        return IPv4Address("TCP", self.client_ip or "", 0)

    def getClientAddress(self) -> IAddress:
        return self.client

    def getHost(self) -> IAddress:
        return self.channel.transport.getHost()  # type: ignore[no-any-return]

    def isSecure(self) -> bool:
        return self.forwarded.scheme == b"https"

    def getHeader(self, key: Any) -> Any:
        """One request field by name, bytes for bytes and str for str; builds no ``Headers``."""
        if isinstance(key, bytes):
            return self.fields.get(key.lower())
        value = self.fields.get(key.lower().encode("latin-1"))
        return None if value is None else value.decode("utf-8", "replace")

    def write(self, data: bytes) -> None:
        """A resource writes its answer; the first call sends the head made of ``code`` and ``responseHeaders``."""
        if self.finished:
            raise RuntimeError("Request.write called on a request after Request.finish was called.")
        if self.ended:
            return
        if not self.startedWriting:
            self.startedWriting = 1
            if self.responded:
                raise RuntimeError("the answer has been started already")
            self._respond_from_resource()
        if data:
            self.sentLength += len(data)
            self.send_body(data)
        self.flush()

    def _respond_from_resource(self) -> None:
        raw = self.responseHeaders
        if self.lastModified is not None and not raw.hasHeader(b"last-modified"):
            raw.setRawHeaders(b"Last-Modified", [http.datetimeToString(self.lastModified)])
        if self.etag is not None:
            raw.setRawHeaders(b"ETag", [self.etag])
        if "cookies" in self.__dict__:
            raw.setRawHeaders(b"Set-Cookie", self.cookies)
        if self.defaultContentType is not None and not raw.hasHeader(b"content-type") and self.code not in (204, 304):
            raw.setRawHeaders(b"Content-Type", [self.defaultContentType])
        length = NO_BODY if self.method == b"HEAD" else UNKNOWN_LENGTH
        headers: HeaderList = []
        for name, values in raw.getAllRawHeaders():
            lowered = name.lower()
            if lowered == b"content-length":
                try:
                    length = parse_content_length(values[-1])
                except FramingError as exc:
                    raise RuntimeError(f"bad Content-Length {values[-1]!r}") from exc
            elif lowered not in HOP_BY_HOP:
                headers += [(lowered, name, value) for value in values]
        self.respond(self.code, self.code_message or b"", headers, length)

    def finish(self) -> None:
        """A resource has written all of its answer."""
        if self.finished:
            return
        if self.ended:
            raise RuntimeError(
                "Request.finish called on a request after its connection was lost; "
                "use Request.notifyFinish to keep track of this."
            )
        if not self.startedWriting:
            if not self.responseHeaders.hasHeader(b"content-length"):
                self.responseHeaders.setRawHeaders(b"Content-Length", [b"0"])
            self.write(b"")
        self.finished = 1
        self.end([])

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Let ``producer`` write the answer at the client's pace."""
        if self.producer is not None:
            raise ValueError(f"registering producer {producer} before the previous one ({self.producer}) was done")
        if self.ended:
            producer.stopProducing()
            return
        if streaming:
            self.producer = producer
            if self.channel.write_blocked:
                producer.pauseProducing()
        else:
            self.producer = _PullPump(producer, self.channel.factory.clock, self.processingFailed)

    def unregisterProducer(self) -> None:
        if isinstance(self.producer, _PullPump):
            self.producer.pauseProducing()
        self.producer = None

    def processingFailed(self, reason: Failure) -> None:
        """A resource failed; the log has the traceback, the client a plain 500."""
        _log.failure("resource failed", failure=reason, request_id=self.request_id)
        self.fail(InternalError())

    def loseConnection(self) -> None:
        self.abort()

    def _notify(self) -> None:
        notifications, self.notifications = self.notifications, []
        if self.reason is None:
            for waiting in notifications:
                waiting.callback(None)
        else:
            failure = Failure(RuntimeError(self.reason))
            for waiting in notifications:
                waiting.errback(failure)
