"""Keys from a JWKS URL: downloaded before they are needed, kept while the issuer is down, never waited for twice."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit, urlunsplit

from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import UNKNOWN_LENGTH, IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from txgateway.auth.jwk import MAX_DOCUMENT_BYTES, read_jwks
from txgateway.auth.keys import KeySet
from txgateway.errors import UpstreamError

#: From the start of a download to its last byte.
DOWNLOAD_TIMEOUT_S: Final = 5.0
#: Requests that wait for one download.
MAX_WAITERS: Final = 256
#: After a failed download: the first wait and the longest, before jitter; never longer than the refresh.
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 60.0

_HEADERS: Final = {b"Accept": b"application/jwk-set+json, application/json", b"User-Agent": b"txgateway"}

_log = Logger(__name__)


class DownloadRefused(Exception):
    """The issuer's answer is not one to take keys from."""


class JwksSource:
    """The keys behind a URL. Refreshed in the background; an issuer that is down takes none away.

    A key that the issuer takes out of the set stops working with the next refresh, also if it was the last one.

    Args:
        url: ``http`` or ``https``; only the part without the query is ever logged.
        agent: makes the connections. No redirect is followed, no cookie kept, no encoding undone.
        clock: for timers.
        chance: spreads the refreshes of many gateways.
        on_change: called after :attr:`keys` has changed.
        allowed: algorithms; empty for all that each kind of key has.
        refresh_s: the longest time from one good download to the next.
        cooldown_s: the shortest time from one look for an unknown key to the next.

    Attributes:
        keys: those of the last good download; None before the first.
        first_tried: fires, once, when the first download has ended, well or not; at most
            :data:`DOWNLOAD_TIMEOUT_S` after the start.
    """

    def __init__(
        self,
        url: str,
        agent: IAgent,
        clock: IReactorTime,
        chance: Random,
        on_change: Callable[[], None],
        *,
        allowed: tuple[str, ...] = (),
        refresh_s: float = 600.0,
        cooldown_s: float = 30.0,
    ) -> None:
        self.keys: KeySet | None = None
        self.first_tried: Deferred[None] = Deferred()
        self._url = url
        self._shown_url = url.partition("?")[0]
        self._agent = PlainAgent(agent)
        self._clock = clock
        self._chance = chance
        self._on_change = on_change
        self._allowed = allowed
        self._refresh_s = refresh_s
        self._cooldown_s = cooldown_s
        self._document = b""
        self._problem = ""
        self._failures = 0
        self._stopped = False
        self._next_look_at = clock.seconds()
        self._timer: IDelayedCall | None = None
        self._download: Deferred[Any] | None = None
        self._waiters: dict[Deferred[None], None] = {}  # in order, and each is found at once when it is cancelled

    def __repr__(self) -> str:
        return f"<JwksSource {self._shown_url}: {'no' if self.keys is None else len(self.keys)} keys>"

    def start(self) -> None:
        """Begin the first download."""
        self._fetch()

    def stop(self) -> None:
        """Give up what is under way and let go of all who wait; the keys stay."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._download is not None:
            self._download.cancel()  # tells all who wait
        self._tell()

    def refetch(self) -> Deferred[None] | None:
        """Look for newer keys, for a token whose key is not known.

        Returns:
            a Deferred that fires when the download under way, which all share, has ended; it never fails. None if
            the last look was too short a time ago, or :data:`MAX_WAITERS` wait already.
        """
        if self._download is None:
            now = self._clock.seconds()
            if self._stopped or now < self._next_look_at:
                return None
            self._next_look_at = now + self._cooldown_s
        if len(self._waiters) >= MAX_WAITERS:
            return None
        waiter: Deferred[None] = Deferred(lambda gone: self._waiters.pop(gone, None))
        self._waiters[waiter] = None
        if self._download is None:
            self._fetch()
        return waiter

    def _fetch(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        self._download = download(self._url, self._agent, self._clock)
        self._download.addCallback(self._take).addErrback(self._failed).addCallback(self._ended)

    def _take(self, document: bytes) -> float:
        """Use what was downloaded; the result is when to look again, in seconds."""
        if document != self._document:
            found = read_jwks(document, self._allowed, has_secrets=False)
            self._document, self.keys = document, found.keys
            self._on_change()
            if found.skipped or not len(found.keys):
                _log.warn(
                    "JWKS has keys that cannot be used",
                    url=self._shown_url, usable=len(found.keys), unusable=len(found.skipped), why=found.skipped[:5],
                )  # fmt: skip
        if self._failures:
            _log.info("JWKS download works again", url=self._shown_url, failures=self._failures)
        self._failures, self._problem = 0, ""
        # Sooner than asked for, never later: a removed key is to stop working within the refresh.
        return self._refresh_s * self._chance.uniform(0.8, 0.95)

    def _failed(self, failure: Failure) -> float:
        if self._stopped:
            return 0.0
        problem = _described(failure)
        if problem != self._problem:
            _log.warn("JWKS download failed", url=self._shown_url, problem=problem, kept=len(self.keys or ()))
        longest = min(self._refresh_s, MAX_RETRY_S)
        delay_s = min(longest, RETRY_S * 2.0 ** min(self._failures, 16))
        self._failures, self._problem = self._failures + 1, problem
        return delay_s * self._chance.uniform(0.5, 1.0)

    def _ended(self, delay_s: float) -> None:
        self._download = None
        if not self._stopped:
            self._timer = self._clock.callLater(delay_s, self._fetch)
        self._tell()

    def _tell(self) -> None:
        waiters, self._waiters = self._waiters, {}  # first, for whoever is told may begin to wait for the next one
        if not self.first_tried.called:
            self.first_tried.callback(None)
        for waiter in waiters:
            if not waiter.called:  # one may have been cancelled by what another led to
                waiter.callback(None)


def download(url: str, agent: IAgent, clock: IReactorTime) -> Deferred[bytes]:
    """The body behind ``url``, whole and of status 200.

    Fails with:
        DownloadRefused: another status, more than :data:`MAX_DOCUMENT_BYTES`, or not over, all in all, after
            :data:`DOWNLOAD_TIMEOUT_S`.
        Exception: whatever the agent makes of network and TLS.
    """
    return Deferred.fromCoroutine(_download(url, agent, clock)).addTimeout(DOWNLOAD_TIMEOUT_S, clock, _too_slow)


def _too_slow(_: object, timeout_s: float) -> NoReturn:
    raise DownloadRefused(f"not over after {timeout_s:g} s")


async def _download(url: str, agent: IAgent, clock: Any) -> bytes:
    # A client of its own for each download, so that no cookie is kept. The clock keeps treq from the global reactor.
    client = HTTPClient(agent)
    url, host = _without_literal(url)
    headers = Headers({name: [value] for name, value in _HEADERS.items()})
    if host is not None:
        headers.addRawHeader(b"Host", host)
    response = await client.get(url, headers=headers, allow_redirects=False, unbuffered=True, reactor=clock)
    refusal = ""
    if response.code != 200:
        refusal = f"status {response.code}"
    elif response.length is not UNKNOWN_LENGTH and response.length > MAX_DOCUMENT_BYTES:
        refusal = "the document is too long"
    body = _Body(refusal)
    response.deliverBody(body)
    return await body.whole


def _without_literal(url: str) -> tuple[str, bytes | None]:
    """A URL that treq takes, and what ``Host`` has to say if that is not in it.

    treq's URL library takes an IPv6 address for a name that it cannot encode. The agent knows where to connect to.
    """
    parts = urlsplit(url)
    if not parts.netloc.startswith("["):
        return url, None
    return urlunsplit(parts._replace(netloc="issuer.invalid")), parts.netloc.encode("ascii")


class _Body(Protocol):
    """Collects a bounded body; one that is refused is not waited for."""

    def __init__(self, refusal: str) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: self._hang_up())
        self._refusal = refusal
        self._parts: list[bytes] = []
        self._size = 0

    def connectionMade(self) -> None:
        if self._refusal:
            self._refuse(self._refusal)

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_DOCUMENT_BYTES:
            self._refuse("the document is too long")
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # without length: half a document is not JSON
            self.whole.callback(b"".join(self._parts))
        else:
            self.whole.errback(reason)

    def _refuse(self, why: str) -> None:
        if not self.whole.called:
            self.whole.errback(DownloadRefused(why))
            self._hang_up()

    def _hang_up(self) -> None:
        self._parts.clear()
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IAgent)
class PlainAgent:
    """An agent for single questions to servers that need not be friendly.

    It neither asks for compressed bodies nor lets any be expanded, so that few bytes stay few. Its responses set no
    cookies: the next request must not send them, and treq fails at strange ones.
    """

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        plain = Headers() if headers is None else headers.copy()
        plain.removeHeader(b"accept-encoding")
        return self._agent.request(method, uri, plain, bodyProducer).addCallback(_plain)


def _plain(response: IResponse) -> IResponse:
    # Without an encoding treq leaves the body as it is, which is then not what was asked for.
    for name in (b"content-encoding", b"set-cookie", b"set-cookie2"):
        response.headers.removeHeader(name)
    return response


def _described(failure: Failure) -> str:
    """What went wrong, for the log: our own words, or the names of what was raised; never what the issuer sent."""
    if failure.check(DownloadRefused, ValueError):
        return failure.getErrorMessage()
    if failure.check(UpstreamError):  # the words are our own, or those of OpenSSL and the system
        return f"{type(failure.value).__name__}: {failure.getErrorMessage()}"
    reasons = getattr(failure.value, "reasons", None) or [failure]
    return ", ".join(type(reason.value).__name__ for reason in reasons)
