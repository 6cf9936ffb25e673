"""A backend's pool as a Twisted ``IAgent``, for what is not the data path: active health checks, tests, tools.

``treq.client.HTTPClient(PoolAgent(pool))`` speaks to the pool's target, whatever host a URI names. Here are Deferreds,
``Headers`` and body producers; the data path drives the same connections without any of them.
"""

from __future__ import annotations

import math
from typing import Any, cast

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IConsumer, IProtocol, IPushProducer
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH as UNKNOWN_RESPONSE_LENGTH
from twisted.web.iweb import IAgent, IBodyProducer, IClientRequest, IResponse
from zope.interface import implementer

from txgateway.errors import GatewayError, UpstreamError, UpstreamTimeout
from txgateway.headers import HOP_BY_HOP, is_field_value, is_token
from txgateway.proxy.pool import ConnectionPool
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH, ClientConnection, HeaderList

#: Body bytes that are kept for a response whose ``deliverBody`` has not been called; then reading pauses.
MAX_UNREAD_BYTES = 64 * 1024
#: How long a response of more than that may stay unread before it is given up.
UNREAD_TIMEOUT_S = 30.0

_REPLAYABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


@implementer(IClientRequest)
@frozen
class _ClientRequest:
    method: bytes
    absoluteURI: bytes
    headers: Headers


@implementer(IAgent)
class PoolAgent:
    """Requests to the pool's target.

    A request that is cancelled, and one whose body producer fails, gives up its connection. A request without a body
    that found a reused connection dead is repeated once on a fresh one; nothing else is ever repeated.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        """Send a request; the Deferred fires with its response head, or fails.

        Args:
            uri: absolute; its path and query go out as they are, without a fragment.
            headers: framing and connection-level fields among them are left out.

        Fails with ValueError (method, URI or a field cannot be sent), with the GatewayError of the pool or the
        connection, or with RequestTransmissionFailed (the body producer failed).
        """
        exchange = _Exchange(self._pool, _ClientRequest(method, uri, headers or Headers()), bodyProducer)
        exchange.begin()
        return exchange.result


def _target_and_host(uri: bytes) -> tuple[bytes, bytes]:
    scheme, separator, rest = uri.partition(b"#")[0].partition(b"://")
    if not separator or not is_token(scheme) or any(byte <= 0x20 or byte >= 0x7F for byte in rest):
        raise ValueError(f"not an absolute URI of ASCII characters: {uri!r}")
    end = min(position for mark in b"/?" if (position := (rest + b"/").find(mark)) >= 0)
    host = rest[:end].rpartition(b"@")[2]
    if not host:
        raise ValueError(f"no host in URI: {uri!r}")
    target = rest[end:]
    return (target if target.startswith(b"/") else b"/" + target), host


def _header_list(headers: Headers, host: bytes) -> HeaderList:
    fields: HeaderList = [(b"host", b"Host", headers.getRawHeaders(b"host", [host])[0])]
    for name, values in headers.getAllRawHeaders():
        lowered = name.lower()
        if lowered != b"host" and lowered not in HOP_BY_HOP:
            fields += [(lowered, name, value) for value in values]
    for _, name, value in fields:
        if not is_token(name) or not is_field_value(value):
            raise ValueError(f"field {name!r} cannot be sent")
    return fields


@implementer(IConsumer)
class _Exchange:
    """One request: the pool's waiter, the connection's handler, the body producer's consumer, the wheel's item."""

    needs_http2 = False

    def __init__(self, pool: ConnectionPool, request: _ClientRequest, body: IBodyProducer | None) -> None:
        self.deadline = math.inf
        self.result: Deferred[IResponse] = Deferred(self._cancelled)
        self._pool = pool
        self._request = request
        self._body: IBodyProducer | None = body
        self._body_left: float = 0
        self._is_sending = False
        self._is_waiting = False
        self._connection: ClientConnection | None = None
        self._response: PoolResponse | None = None

    def begin(self) -> None:
        try:
            if not is_token(self._request.method):
                raise ValueError(f"not a method: {self._request.method!r}")
            self._target, host = _target_and_host(self._request.absoluteURI)
            self._fields = _header_list(self._request.headers, host)
        except ValueError:
            self.result.errback(Failure())
        else:
            self._acquire(fresh=False)

    def _acquire(self, *, fresh: bool) -> None:
        self._is_waiting = True
        try:
            connection = self._pool.acquire(self, fresh=fresh)
        except GatewayError as error:
            self.on_unavailable(error)
            return
        if connection is not None:
            self.on_connection(connection)

    # --- waiting for a connection --------------------------------------------------------------------------------

    def on_connection(self, connection: ClientConnection) -> None:
        self._is_waiting = False
        self._connection = connection
        body = self._body
        length = NO_BODY
        if body is not None:
            length = UNKNOWN_LENGTH if body.length == UNKNOWN_RESPONSE_LENGTH else body.length
        connection.start(self, self._request.method, self._target, self._fields, length, b"", body is None)
        if body is not None:
            self._is_sending = True
            self._body_left = math.inf if length == UNKNOWN_LENGTH else length
            maybeDeferred(body.startProducing, self).addCallback(self._body_sent).addErrback(self._body_failed)

    def on_unavailable(self, error: GatewayError) -> None:
        self._is_waiting = False
        self.result.errback(Failure(error))

    # --- the request body ----------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """The body producer: more of the body, held to the length it declared."""
        self._body_left -= len(data)
        if self._connection is not None and self._body_left >= 0:
            self._connection.send_body(data)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Nothing to do: the body producer itself is paused and resumed."""

    def unregisterProducer(self) -> None:
        """Nothing to do."""

    def _body_sent(self, _: object) -> None:
        if self._body_left not in {0, math.inf}:
            raise ValueError("the body producer did not keep to its length")
        self._is_sending = False
        if self._connection is not None:
            self._connection.send_end([])

    def _body_failed(self, failure: Failure) -> None:
        self._is_sending = False
        if self._connection is not None:
            self._drop()
            self._failed(RequestTransmissionFailed([failure]))

    def on_write_blocked(self) -> None:
        if self._is_sending and self._body is not None:
            self._body.pauseProducing()

    def on_write_drained(self) -> None:
        if self._is_sending and self._body is not None:
            self._body.resumeProducing()

    def _stop_sending(self) -> None:
        if self._is_sending and self._body is not None:
            self._is_sending = False
            self._body.stopProducing()

    # --- the response --------------------------------------------------------------------------------------------

    def on_informational(self, status: int, headers: HeaderList) -> None:
        pass  # IResponse has no place for it

    def on_upgraded(self, connection: ClientConnection, headers: HeaderList, early: bytes) -> None:
        connection.cancel()  # never asked for

    def on_head(self, status: int, reason: bytes, headers: HeaderList, length: int) -> None:
        fields = Headers()
        for _, name, value in headers:
            fields.addRawHeader(name, value)
        if self._request.method == b"HEAD" or status in {204, 304}:
            length = 0
        elif length == UNKNOWN_LENGTH:
            length = cast("int", UNKNOWN_RESPONSE_LENGTH)
        self._response = PoolResponse(self, self._request, status, reason, fields, length)
        self.result.callback(self._response)

    def on_body(self, data: bytes) -> None:
        if self._response is not None:
            self._response.receive(data)

    def on_end(self, trailers: HeaderList) -> None:
        self._over()
        if self._response is not None:
            self._response.finish(Failure(ResponseDone()))

    def on_failed(self, error: UpstreamError) -> None:
        self._over()
        is_replayable = self._body is None and self._request.method in _REPLAYABLE
        if error.on_reused_connection and not error.response_started and is_replayable:
            self._acquire(fresh=True)
        else:
            self._failed(error)

    def on_flush(self) -> None:
        pass

    def _failed(self, error: Exception) -> None:
        if self._response is not None:
            self._response.finish(Failure(ResponseFailed([Failure(error)], self._response)))
        else:
            self.result.errback(Failure(error))

    # --- the end -------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        if self._connection is not None:
            self._connection.pause_reading()

    def resume(self) -> None:
        if self._connection is not None:
            self._connection.resume_reading()

    def hold(self) -> None:
        """Nobody reads the body: stop reading it, for a limited time."""
        self.pause()
        self.deadline = self._pool.clock.seconds() + UNREAD_TIMEOUT_S
        self._pool.wheel.watch_coarse(self)

    def unhold(self) -> None:
        """Somebody reads it after all."""
        self._pool.wheel.forget_coarse(self)

    def on_deadline(self, now: float) -> None:
        self.give_up(UpstreamTimeout("response was not read"))

    def give_up(self, error: Exception) -> None:
        """Drop the connection in the middle of the response."""
        if self._connection is not None:
            self._drop()
            self._failed(error)

    def _over(self) -> None:
        self._connection = None
        self._pool.wheel.forget_coarse(self)
        self._stop_sending()

    def _drop(self) -> None:
        connection = self._connection
        self._over()
        if connection is not None:
            connection.cancel()

    def _cancelled(self, _: object) -> None:
        """The request's Deferred was cancelled before it fired; it fails with CancelledError by itself."""
        if self._is_waiting:
            self._is_waiting = False
            self._pool.cancel(self)
        self._drop()


@implementer(IPushProducer)
class _BodyTransport:
    """The transport of the protocol that a body is delivered to."""

    disconnecting = False

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange
        self.is_paused = False

    def pauseProducing(self) -> None:
        self.is_paused = True
        self._exchange.pause()

    def resumeProducing(self) -> None:
        self.is_paused = False
        self._exchange.resume()

    def stopProducing(self) -> None:
        self._exchange.give_up(ConnectionAborted("body not wanted"))

    loseConnection = abortConnection = stopProducing


@implementer(IResponse)
class PoolResponse:
    """A response head, and its body once :meth:`deliverBody` is called."""

    version = (b"HTTP", 1, 1)
    previousResponse: IResponse | None = None

    def __init__(
        self, exchange: _Exchange, request: _ClientRequest, code: int, phrase: bytes, headers: Headers, length: int
    ) -> None:
        self.request = request
        self.code = code
        self.phrase = phrase
        self.headers = headers
        self.length = length
        self._exchange = exchange
        self._protocol: IProtocol | None = None
        self._unread: list[bytes] = []
        self._unread_bytes = 0
        self._reason: Failure | None = None

    def setPreviousResponse(self, response: IResponse) -> None:
        self.previousResponse = response

    def deliverBody(self, protocol: IProtocol) -> None:
        """Deliver the body to ``protocol``, whose transport provides ``IPushProducer`` and ``abortConnection``.

        Raises:
            RuntimeError: called before.
        """
        if self._protocol is not None:
            raise RuntimeError("the body was delivered before")
        self._protocol = protocol
        reason = self._reason
        transport = _BodyTransport(self._exchange)
        self._exchange.unhold()
        protocol.makeConnection(cast("Any", transport))
        if self._unread:
            unread, self._unread = self._unread, []
            protocol.dataReceived(b"".join(unread))
        if reason is not None:
            protocol.connectionLost(reason)
        elif not transport.is_paused:
            self._exchange.resume()

    def receive(self, data: bytes) -> None:
        """Some of the body has come."""
        if self._protocol is not None:
            self._protocol.dataReceived(data)
            return
        self._unread.append(data)
        self._unread_bytes += len(data)
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self._exchange.hold()

    def finish(self, reason: Failure) -> None:
        """Nothing more will come."""
        self._reason = reason
        if self._protocol is not None:
            self._protocol.connectionLost(reason)
