"""What authentication and rate limits share over all routes: keys, verified tokens, and the store of the limits."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.web.iweb import IAgent

from txgateway.auth.authenticator import Authenticator, KeySource, StaticKeys
from txgateway.auth.cache import TokenCache
from txgateway.auth.jwks import JwksSource
from txgateway.auth.token import TokenValidator
from txgateway.config import Settings, token_keys
from txgateway.ratelimit import Limiters
from txgateway.ratelimit.memory import MemoryLimiters
from txgateway.ratelimit.redis import RedisLimiters

#: Processes that share a limit while there is no store.
WORKERS = 1


class Security:
    """The shared parts, from the settings.

    Args:
        settings: of the process.
        reactor: what connects and keeps time; a clock is enough where keys and limits need no network.
        now: wall clock, in epoch seconds, which tokens are judged by.
        count_token: told of every token's result.
        random: spreads what many gateways would do at the same moment.
        agent: downloads keys.

    Attributes:
        authenticator: None without any key.
        limiters: makes rate limits.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        now: Callable[[], float],
        count_token: Callable[[str], None],
        random: Random,
        agent: IAgent | None = None,
    ) -> None:
        self._download: JwksSource | None = None
        self._redis: RedisLimiters | None = None
        self.limiters: Limiters
        if settings.redis_url is None:
            self.limiters = MemoryLimiters(reactor.seconds, WORKERS)
        else:
            self._redis = self.limiters = RedisLimiters(
                reactor, settings.redis_url, settings.redis_timeout_s, WORKERS, random
            )
        self.authenticator: Authenticator | None = None
        cache = TokenCache(settings.jwt_cache_size, now)
        source: KeySource | None = None
        if settings.jwt_jwks_url is not None and agent is not None:
            source = self._download = JwksSource(
                settings.jwt_jwks_url,
                agent,
                reactor,
                random,
                cache.clear,
                allowed=settings.jwt_algorithms,
                refresh_s=settings.jwt_jwks_refresh_s,
                cooldown_s=settings.jwt_jwks_cooldown_s,
            )
        elif (keys := token_keys(settings)) is not None:
            source = StaticKeys(keys)
        if source is not None:
            validator = TokenValidator(now, settings.jwt_issuer, settings.jwt_audience, settings.jwt_leeway_s)
            self.authenticator = Authenticator(source, validator, cache, count_token)

    def start(self) -> Deferred[None]:
        """Begin to download keys and to connect to the store.

        Returns:
            fires when the first download of keys has ended, well or not; the store is not waited for.
        """
        if self._redis is not None:
            self._redis.start()
        if self._download is None:
            return succeed(None)
        self._download.start()
        return self._download.first_tried

    def stop(self) -> Deferred[None]:
        """End it; fires when the connections to the store are closed."""
        if self._download is not None:
            self._download.stop()
        return succeed(None) if self._redis is None else self._redis.close()
