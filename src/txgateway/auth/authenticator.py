"""From the value of ``Authorization`` to a verified token: cache, keys and validator put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import Deferred

from txgateway.auth.cache import TokenCache
from txgateway.auth.keys import KeySet
from txgateway.auth.token import Jws, TokenValidator, VerifiedToken, parse
from txgateway.errors import GatewayError, JwksUnavailable, TokenMalformed, TokenMissing, TokenUnknownKey

_BEARER = b"Bearer "


class KeySource(Protocol):
    """Where the keys come from.

    Attributes:
        keys: the set that counts now; None if there has never been one.
    """

    keys: KeySet | None

    def refetch(self) -> Deferred[None] | None:
        """Look for newer keys: fires, never fails, when that is over; None if it is not to be waited for."""


class StaticKeys:
    """Keys from the configuration, which never change."""

    def __init__(self, keys: KeySet) -> None:
        self.keys: KeySet | None = keys

    def refetch(self) -> Deferred[None] | None:
        return None


class Authenticator:
    """Says who a request comes from.

    Args:
        source: the keys. Whoever makes it has it call ``cache.clear`` when they change.
        validator: judges tokens that are not in the cache.
        cache: of verified tokens.
        count: told of every result: ``ok``, ``cached``, or the reason of the error.
    """

    def __init__(
        self, source: KeySource, validator: TokenValidator, cache: TokenCache, count: Callable[[str], None]
    ) -> None:
        self._source = source
        self._validator = validator
        self._cache = cache
        self._count = count

    def authenticate(self, authorization: bytes | None) -> VerifiedToken | Deferred[VerifiedToken]:
        """What the bearer token says: at once, but for the wait for newer keys when its own is not known.

        Args:
            authorization: the field's value (RFC 6750 section 2.1), None if there is none.

        Raises:
            TokenMissing: there is none, or it is of another scheme.
            TokenError: the token is refused; see :class:`TokenValidator`.
            JwksUnavailable: there has never been a key set. These come as failures too.
        """
        if authorization is not None and authorization[:7] == _BEARER:
            verified = self._cache.get(authorization[7:])
            if verified is not None:
                self._count("cached")
                return verified
        try:
            return self._authenticate(authorization)
        except GatewayError as exc:
            self._count(exc.reason)
            raise

    def _authenticate(self, authorization: bytes | None) -> VerifiedToken | Deferred[VerifiedToken]:
        token = bearer_token(authorization)
        verified = self._cache.get(token)  # again, for scheme and spaces may have been spelled in another way
        if verified is not None:
            self._count("cached")
            return verified
        jws = parse(token)
        try:
            return self._judge(token, jws)
        except (TokenUnknownKey, JwksUnavailable):
            waiting = self._source.refetch()
            if waiting is None:
                raise
        return waiting.addCallback(lambda _: self._judge_again(token, jws))

    def _judge(self, token: bytes, jws: Jws) -> VerifiedToken:
        keys = self._source.keys
        if keys is None:
            raise JwksUnavailable
        verified = self._validator.judge(jws, keys)
        self._cache.put(token, verified)
        self._count("ok")
        return verified

    def _judge_again(self, token: bytes, jws: Jws) -> VerifiedToken:
        try:
            return self._judge(token, jws)
        except GatewayError as exc:
            self._count(exc.reason)
            raise


def bearer_token(authorization: bytes | None) -> bytes:
    """The token in the value of ``Authorization``: scheme in any case, one space or more, token.

    Raises:
        TokenMissing: there is no value, or another scheme (RFC 9110 section 11.1).
        TokenMalformed: nothing follows the scheme.
    """
    scheme, _, rest = (authorization or b"").partition(b" ")
    if scheme.lower() != b"bearer":
        raise TokenMissing
    token = rest.lstrip(b" ")
    if not token:
        raise TokenMalformed("no token behind the scheme")
    return token
