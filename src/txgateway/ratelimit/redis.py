"""Limits that all gateways on one Redis share, and what holds while it does not answer."""

from __future__ import annotations

from importlib.resources import files
from random import Random
from typing import Any, Final
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint

from txgateway.ratelimit.bucket import Decision, Limit
from txgateway.ratelimit.keys import plain_part
from txgateway.ratelimit.memory import MemoryLimiter, MemoryLimiters
from txgateway.ratelimit.redis_client import RedisClient, ScriptCall
from txgateway.ratelimit.redis_url import RedisAddress

__all__ = ["SCRIPT", "RedisLimiter", "RedisLimiters"]

SCRIPT: Final = files("txgateway.ratelimit").joinpath("take_tokens.lua").read_bytes()
#: Every key begins so.
PREFIX: Final = b"txgateway:limit:"
_TRIAL: Final = Limit.of(((1000, 1),))


class _Call:
    """A decision under way."""

    __slots__ = ("_key", "_limiter", "deadline_at", "decision", "in_full")

    def __init__(self, limiter: RedisLimiter, key: bytes) -> None:
        self._limiter = limiter
        self._key = key
        self.in_full = False
        self.deadline_at = 0.0
        self.decision: Deferred[Decision] = Deferred()

    @property
    def reply_length(self) -> int:
        return 1 + len(self._limiter.limit.buckets)

    def wire(self) -> bytes:
        return self._limiter.call.wire(self._limiter.prefix + self._key, in_full=self.in_full)

    def succeed(self, reply: list[int]) -> None:
        self.decision.callback(self._limiter.read(reply))

    def fail(self) -> None:
        self.decision.callback(self._limiter.without_store(self._key))


class RedisLimiter:
    """One limit, with its buckets in Redis.

    Args:
        client: the connections.
        prefix: of all its keys.
        limit: what to enforce.
        on_store_error: ``local``: this process enforces its share; ``open``: everything passes; ``closed``: nothing
            does. A decision of the last two has no levels.
        local: that share.
    """

    __slots__ = ("__weakref__", "_client", "_local", "_on_store_error", "call", "limit", "prefix")

    def __init__(
        self, client: RedisClient, prefix: bytes, limit: Limit, on_store_error: str, local: MemoryLimiter
    ) -> None:
        self.limit = limit
        self.prefix = prefix
        self.call = script_call(SCRIPT, limit)
        self._client = client
        self._on_store_error = on_store_error
        self._local = local

    def take(self, key: bytes) -> Decision | Deferred[Decision]:
        """Take a token of the buckets of ``key``, if each of them has one; decided at once while the store is down."""
        if not self._client.is_up:
            return self.without_store(key)
        call = _Call(self, key)
        self._client.call(call)
        return call.decision

    def read(self, reply: list[int]) -> Decision:
        """The decision in the script's reply."""
        # Whatever the server says, a level is one that the bucket can have.
        levels = [
            min(max(level, 0), capacity) for level, (_, _, capacity) in zip(reply[1:], self.limit.numbers, strict=True)
        ]
        return Decision(self.limit, reply[0] == 1, levels)

    def without_store(self, key: bytes) -> Decision:
        """The decision that the policy makes."""
        if self._on_store_error == "local":
            decision = self._local.take(key)
            decision.store_failed = True
            return decision
        return Decision(self.limit, self._on_store_error == "open", [], True)


class RedisLimiters:
    """Limits shared through one Redis.

    Args:
        reactor: what connects and keeps time.
        url: of the server, as :meth:`RedisAddress.parse` reads it.
        timeout_s: for a decision.
        workers: processes that share each limit while the store is down.
        random: spreads the attempts to connect.
        endpoint: to connect to, instead of the URL's.

    Raises:
        ValueError: the URL is none.
    """

    def __init__(
        self,
        reactor: Any,
        url: str,
        timeout_s: float,
        workers: int,
        random: Random,
        endpoint: IStreamClientEndpoint | None = None,
    ) -> None:
        trial = (script_call(SCRIPT, _TRIAL), PREFIX + b"trial", 2)
        self._client = RedisClient(reactor, RedisAddress.parse(url), timeout_s, trial, random, endpoint)
        self._local = MemoryLimiters(reactor.seconds, workers)
        self._limiters: WeakValueDictionary[tuple[str, Limit, str], RedisLimiter] = WeakValueDictionary()

    @property
    def degraded(self) -> bool:
        """Whether decisions are made without Redis."""
        return not self._client.is_up

    def start(self) -> Deferred[None]:
        """Begin to connect; fires when the first attempt has succeeded or failed. Needs the reactor to be installed."""
        return self._client.start()

    def close(self) -> Deferred[None]:
        """Close all connections; fires when they are gone."""
        return self._client.close()

    def limiter(self, place: str, limit: Limit, on_store_error: str = "local") -> RedisLimiter:
        """The limiter of a place; gateways with the same limit in a place of the same name share its buckets."""
        found = self._limiters.get((place, limit, on_store_error))
        if found is None:
            local = self._local.limiter(place, limit)
            found = RedisLimiter(self._client, _prefix(place, limit), limit, on_store_error, local)
            self._limiters[place, limit, on_store_error] = found
        return found


def script_call(script: bytes, limit: Limit) -> ScriptCall:
    """The call of ``script`` for a limit."""
    numbers = (limit.tick_us, *(number for bucket in limit.numbers for number in bucket))
    return ScriptCall(script, tuple(b"%d" % number for number in numbers))


def _prefix(place: str, limit: Limit) -> bytes:
    """What keys of a limit begin with; levels of another limit would be in other units, so its keys are others."""
    shape = ",".join(f"{b.count}/{b.period_s}s+{b.burst}" for b in limit.buckets)
    return b"%b%b|%b|" % (PREFIX, plain_part(place), shape.encode("ascii"))
