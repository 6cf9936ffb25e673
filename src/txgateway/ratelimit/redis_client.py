"""Calls of one script on Redis, all those of a reactor turn in one write, over links that mend themselves."""

from __future__ import annotations

from hashlib import sha1
from random import Random
from typing import Any, Final

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.logger import Logger

from txgateway.ratelimit.redis_link import ATTEMPT_TIMEOUT_S, Command, Link
from txgateway.ratelimit.redis_url import RedisAddress

__all__ = ["RedisClient", "ScriptCall"]

#: Connections; the second is there so that the loss of one is not an outage.
LINKS: Final = 2


class ScriptCall:
    """How a script is called with one key and always the same arguments.

    Args:
        script: Lua.
        arguments: ``ARGV``.
    """

    __slots__ = ("_by_digest", "_in_full", "_tail")

    def __init__(self, script: bytes, arguments: tuple[bytes, ...]) -> None:
        digest = sha1(script, usedforsecurity=False).hexdigest().encode("ascii")
        count = b"*%d\r\n" % (4 + len(arguments))
        self._by_digest = b"".join((count, _bulk(b"EVALSHA"), _bulk(digest), _bulk(b"1")))
        self._in_full = b"".join((count, _bulk(b"EVAL"), _bulk(script), _bulk(b"1")))
        self._tail = b"".join(_bulk(argument) for argument in arguments)

    def wire(self, key: bytes, *, in_full: bool) -> bytes:
        """The command; ``in_full`` with the script itself."""
        return b"%b$%d\r\n%b\r\n%b" % (self._in_full if in_full else self._by_digest, len(key), key, self._tail)


def _bulk(text: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(text), text)


class _Trial:
    """The call that a link must pass to be ready."""

    deadline_at = 0.0

    def __init__(self, call: ScriptCall, key: bytes, reply_length: int, *, in_full: bool) -> None:
        self._call = call
        self._key = key
        self.reply_length = reply_length
        self.in_full = in_full

    def wire(self) -> bytes:
        return self._call.wire(self._key, in_full=self.in_full)

    def succeed(self, reply: list[int]) -> None:
        """The link is ready, which it knows itself."""

    def fail(self) -> None:
        """The link tries again."""


class RedisClient:
    """A few links to one server.

    Args:
        reactor: what connects and keeps time.
        address: of the server.
        timeout_s: for a call.
        trial: a call that writes, its key, and the length of its reply: what shows that the server can be used.
        random: spreads the attempts to connect.
        endpoint: to connect to, instead of the address's own.

    Attributes:
        is_up: calls may be sent; otherwise nothing is tried but to get there again.
    """

    def __init__(
        self,
        reactor: Any,
        address: RedisAddress,
        timeout_s: float,
        trial: tuple[ScriptCall, bytes, int],
        random: Random,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        self.is_up = False
        self._address = address
        self._clock: IReactorTime = reactor
        self._trial = trial
        self._log = Logger()
        self._was_up: bool | None = None
        self._known: list[Deferred[None]] = []
        self._batch: list[Command] = []
        self._flushing: IDelayedCall | None = None
        self._turn = 0
        endpoint = endpoint or address.endpoint(reactor, ATTEMPT_TIMEOUT_S)
        self._links = [Link(self._clock, endpoint, timeout_s, self, random) for _ in range(LINKS)]
        self._ready: list[Link] = []

    def start(self) -> Deferred[None]:
        """Begin to connect.

        Returns:
            fires when the first attempt has succeeded or failed, whichever.
        """
        # It imports the global reactor, which must be installed by now.
        from txgateway.ratelimit.redis_protocol import RedisFactory  # noqa: PLC0415

        known: Deferred[None] = Deferred()
        self._known.append(known)
        for link in self._links:
            link.start(RedisFactory(self._address, link))
        return known

    def close(self) -> Deferred[None]:
        """Close all connections; calls under way fail.

        Returns:
            fires when they are gone.
        """
        self._was_up = None  # no more news
        gone = gatherResults([link.close() for link in self._links])
        self._flush()
        self._is_known()
        return gone.addCallback(lambda _: None)

    def call(self, command: Command) -> None:
        """Send a call, together with all others of this reactor turn."""
        if self._flushing is None:
            self._flushing = self._clock.callLater(0, self._flush)
        self._batch.append(command)

    def _flush(self) -> None:
        flushing, self._flushing = self._flushing, None
        if flushing is not None and flushing.active():
            flushing.cancel()
        batch, self._batch = self._batch, []
        if self._ready:
            self._turn += 1
            self._ready[self._turn % len(self._ready)].send(batch)
        else:
            for command in batch:
                command.fail()

    # --- what the links tell and ask ---

    def trial(self, *, in_full: bool) -> Command:
        """What a link must pass to be ready."""
        return _Trial(*self._trial, in_full=in_full)

    def link_changed(self, why: str | None) -> None:
        """A link has become ready, or has failed."""
        self._ready = [link for link in self._links if link.is_ready]
        self.is_up = bool(self._ready)
        if self.is_up is self._was_up or why == "closed":
            return
        self._was_up = self.is_up
        if self.is_up:
            self._log.info("rate limit store is up: {store}", store=str(self._address))
        else:
            self._log.warn("rate limit store is down: {store}: {why}", store=str(self._address), why=why)
        self._is_known()

    def _is_known(self) -> None:
        known, self._known = self._known, []
        for waiter in known:
            waiter.callback(None)
