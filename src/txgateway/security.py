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


class Security:
    """The shared parts, from the settings.

    Args:
        settings: of the process.
        reactor: what connects and keeps time; a clock is enough where keys and limits need no network.
        now: wall clock, in epoch seconds, which tokens are judged by.
        count_token: told of every token's result.
        random: spreads what many gateways would do at the same moment.
        agent: downloads keys.
        previous: whose parts go on where the settings that they are made of are equal.
        workers: processes that share each limit while there is no store.

    Attributes:
        settings: they were made from.
        authenticator: None without any key.
        download: of keys, if they are downloaded.
        limiters: makes rate limits.
        redis: the same, if it is that which keeps them.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        now: Callable[[], float],
        count_token: Callable[[str], None],
        random: Random,
        agent: IAgent | None = None,
        previous: Security | None = None,
        workers: int = 1,
    ) -> None:
        self.settings = settings
        self.download: JwksSource | None = None
        self.redis: RedisLimiters | None = None
        self._is_new_download = self._is_new_redis = True
        self.limiters: Limiters
        if previous is not None and _store(settings) == _store(previous.settings):
            self.limiters, self.redis = previous.limiters, previous.redis
            self._is_new_redis = False
        elif settings.redis_url is None:
            self.limiters = MemoryLimiters(reactor.seconds, workers)
        else:
            self.redis = self.limiters = RedisLimiters(
                reactor, settings.redis_url, settings.redis_timeout_s, workers, random
            )
        self.authenticator: Authenticator | None = None
        if previous is not None and keys_of(settings) == keys_of(previous.settings):
            self.authenticator, self.download = previous.authenticator, previous.download
            self._is_new_download = False
            return
        cache = TokenCache(settings.jwt_cache_size, now)
        source: KeySource | None = None
        if settings.jwt_jwks_url is not None and agent is not None:
            source = self.download = JwksSource(
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
        if self.redis is not None and self._is_new_redis:
            self.redis.start()
        if self.download is None:
            return succeed(None)
        if self._is_new_download:
            self.download.start()
        return self.download.first_tried

    def stop(self, successor: Security | None = None) -> Deferred[None]:
        """End it, but for what goes on in a successor; fires when the connections to the store are closed."""
        if self.download is not None and (successor is None or successor.download is not self.download):
            self.download.stop()
        if self.redis is None or (successor is not None and successor.redis is self.redis):
            return succeed(None)
        return self.redis.close()


def _store(settings: Settings) -> tuple[object, ...]:
    return settings.redis_url, settings.redis_timeout_s


def keys_of(settings: Settings) -> dict[str, object]:
    """All that tokens are judged by, of the whole process."""
    return {name: getattr(settings, name) for name in type(settings).model_fields if name.startswith("jwt_")}
