"""One check of one target: a request or a connection, and what its end says.

Each check opens a connection of its own and closes it. A kept one would be cheaper, and would go on looking well when
the target accepts nobody any more, or when its name has moved to another address; and traffic must never wait for
checks, nor checks for traffic.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from txgateway.auth.jwks import PlainAgent
from txgateway.config.groups import HealthCheck, Pool
from txgateway.errors import (
    GatewayError,
    PoolExhausted,
    UpstreamConnectFailed,
    UpstreamError,
    UpstreamNameUnknown,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamTimeout,
    UpstreamTlsError,
)
from txgateway.proxy.agent import PoolAgent
from txgateway.proxy.lending import PooledConnection, TargetDialer
from txgateway.proxy.multiplexed_pool import MultiplexedPool, is_multiplexed
from txgateway.proxy.pool import ConnectionPool
from txgateway.proxy.target import Target
from txgateway.transport.dial import Dialing, DialReceiver
from txgateway.transport.wheel import TimerWheel

#: Body bytes that a check waits for; what comes behind them does not matter.
MAX_BODY_BYTES: Final = 64 * 1024

_USER_AGENT: Final = b"txgateway-health"
# The agent knows where to connect to; Host is given apart, since treq's URLs cannot hold every authority.
_BASE: Final = "http://target.invalid"

_WORDS: Final[dict[type[UpstreamError], str]] = {
    UpstreamNameUnknown: "name unknown",
    UpstreamConnectFailed: "connect failed",
    UpstreamTimeout: "connect timeout",
    UpstreamTlsError: "TLS handshake failed",
    UpstreamProtocolError: "invalid response",
    UpstreamReset: "connection closed before the response was complete",
}
_SYSTEM_ERROR: Final = re.compile(r"\b([0-9]{1,3}): ")
_OPENSSL_REASON: Final = re.compile(r", '([a-z0-9 ]+)'\)")

_log = Logger(__name__)


@frozen
class Verdict:
    """How a check ended.

    Attributes:
        is_well: None if it says nothing of the target, because this process had no descriptor for it.
        why: short: a status, or what went wrong, in our own or the system's fixed words.
    """

    is_well: bool | None
    why: str


class CheckFailed(Exception):
    """The target did not do what was expected; the text says what it did."""


class Check:
    """One check under way: it tells its end once, in time, whatever happens.

    Args:
        attempt: begins it; the Deferred fires with what went well, or fails, and is cancelled when time is over.
        timeout_s: for all of it.
        clock: measures that.
        on_end: told the verdict, possibly before :meth:`start` has returned; must not raise.
    """

    def __init__(
        self,
        attempt: Callable[[], Deferred[str]],
        timeout_s: float,
        clock: IReactorTime,
        on_end: Callable[[Verdict], None],
    ) -> None:
        self._attempt = attempt
        self._timeout_s = timeout_s
        self._clock = clock
        self._on_end: Callable[[Verdict], None] | None = on_end
        self._timer: IDelayedCall | None = None
        self._under_way: Deferred[str] | None = None

    def start(self) -> None:
        """Begin it."""
        try:
            self._timer = self._clock.callLater(self._timeout_s, self._too_slow)
            self._under_way = self._attempt()
            self._under_way.addCallbacks(self._succeeded, self._failed)
        except Exception:
            self._failed(Failure())

    def cancel(self) -> None:
        """Give it up; nobody is told."""
        self._on_end = None
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._under_way is not None:
            try:
                self._under_way.cancel()
            except Exception:
                _log.failure("health check could not be cancelled")

    def _succeeded(self, why: str) -> None:
        self._end(Verdict(True, why))

    def _failed(self, failure: Failure) -> None:
        if self._on_end is not None:
            self._end(verdict_of(failure))

    def _too_slow(self) -> None:
        self._end(Verdict(False, f"timeout after {self._timeout_s:g} s"))

    def _end(self, verdict: Verdict) -> None:
        tell = self._on_end
        self.cancel()
        if tell is not None:
            tell(verdict)


def verdict_of(failure: Failure) -> Verdict:
    """What a failed check says; what nobody expected is logged, and counts against the target as well."""
    error = failure.value
    if isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    if isinstance(error, CheckFailed):
        return Verdict(False, str(error))
    if isinstance(error, PoolExhausted):
        return Verdict(None, "no descriptor for a connection")
    if isinstance(error, UpstreamError):
        return Verdict(False, _described(error))
    _log.failure("health check raised an exception", failure=failure)
    return Verdict(False, "internal error")


def _described(error: UpstreamError) -> str:
    words = next((words for kind, words in _WORDS.items() if isinstance(error, kind)), "failed")
    detail = ""
    if isinstance(error, UpstreamConnectFailed):
        detail = _system_words(str(error))
        if detail == "connection refused":
            return "connect refused"
    elif isinstance(error, UpstreamTlsError):
        detail = _tls_words(str(error))
    return f"{words}: {detail}" if detail else words


def _system_words(text: str) -> str:
    """The system's words for the error number in Twisted's text."""
    found = _SYSTEM_ERROR.search(text)
    return os.strerror(int(found[1])).lower() if found else ""


def _tls_words(text: str) -> str:
    """OpenSSL's reason, or that service-identity did not accept the name."""
    if "VerificationError" in text:
        return "certificate of another name"
    found = _OPENSSL_REASON.search(text)
    return found[1] if found else ""


# --- a connection -------------------------------------------------------------------------------------------------


def connect(target: Target) -> Deferred[str]:
    """A connection is enough, with its TLS handshake if the target speaks TLS; it is closed at once.

    Fails with the dial's error.
    """
    return _Connect(target.dialer).over


class _Connect:
    """Receives the dial and owns what comes of it."""

    def __init__(self, dialer: TargetDialer) -> None:
        self.over: Deferred[str] = Deferred(lambda _: dialing.cancel())
        dialing = dialer.dial(self)

    def dialed(self, protocol: PooledConnection) -> None:
        protocol.owner = self
        protocol.close()
        self.over.callback("connected")

    def dial_failed(self, error: GatewayError) -> None:
        self.over.errback(error)

    def release(self, connection: object) -> None:
        """There is no exchange that could end."""

    def forget(self, connection: object) -> None:
        """It is closed, as it should be."""

    def forget_shared(self, connection: object, error: GatewayError) -> None:
        """The same, for one that speaks HTTP/2."""


# --- a request ----------------------------------------------------------------------------------------------------


def ask(
    target: Target, path: str, check: HealthCheck, pool: Pool, clock: IReactorTime, wheel: TimerWheel
) -> Deferred[str]:
    """A ``GET`` is answered with an expected status, and its body (or MAX_BODY_BYTES of it) comes whole.

    Redirects are not followed, cookies not kept, encodings not undone.

    Args:
        pool: limits of the connection.

    Fails with CheckFailed (status), the connection's GatewayError, or ResponseFailed (within the body).
    """
    return Deferred.fromCoroutine(_ask(target, path, check, pool, clock, wheel))


async def _ask(target: Target, path: str, check: HealthCheck, limits: Pool, clock: Any, wheel: TimerWheel) -> str:
    dialer = _KeepingDialer(target.dialer)
    pool = ConnectionPool(target.label, dialer, clock, wheel, limits)
    if is_multiplexed(target.scheme):
        pool = MultiplexedPool(target.label, dialer, clock, wheel, limits, http1=pool)
    try:
        client = HTTPClient(PlainAgent(PoolAgent(pool)))
        headers = Headers({b"Host": [target.authority], b"User-Agent": [_USER_AGENT]})
        # The clock keeps treq from the global reactor.
        get = partial(client.get, _BASE + path, headers=headers, allow_redirects=False, unbuffered=True, reactor=clock)
        try:
            response = await get()
        except UpstreamRefused:
            if not pool.wants_http1 or target.tunnel_dialer is None:
                raise
            dialer.dialer = target.tunnel_dialer
            response = await get()
        status = f"status {response.code}"
        if not any(low <= response.code <= high for low, high in check.expect):
            raise CheckFailed(status)
        body = _Body()
        response.deliverBody(body)
        await body.over
        return status
    finally:
        is_under_way = pool.active > 0
        pool.close()
        if is_under_way and dialer.connection is not None:  # in the middle of a response that nobody wants
            dialer.connection.cancel()


class _KeepingDialer:
    """Dials for a pool of one connection, and remembers that."""

    def __init__(self, dialer: TargetDialer) -> None:
        self.connection: PooledConnection | None = None
        self.dialer = dialer

    def dial(self, receiver: DialReceiver[PooledConnection]) -> Dialing:
        self._receiver = receiver
        return self.dialer.dial(self)

    def dialed(self, protocol: PooledConnection) -> None:
        self.connection = protocol
        self._receiver.dialed(protocol)

    def dial_failed(self, error: GatewayError) -> None:
        self._receiver.dial_failed(error)


class _Body(Protocol):
    """Counts a body and keeps none of it."""

    def __init__(self) -> None:
        self.over: Deferred[None] = Deferred()
        self._left = MAX_BODY_BYTES

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left <= 0 and not self.over.called:
            self.over.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.over.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.over.callback(None)
        else:
            self.over.errback(reason)
