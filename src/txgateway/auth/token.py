"""From the bytes of a token to who it speaks for: JWS compact serialization (RFC 7515) and claims (RFC 7519, 8725).

Nothing in a token says how it is to be verified: the key does. Headers that bring or name keys (``jwk``, ``jku``,
``x5u``, ``x5c``) are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeGuard

from attrs import field, frozen

from txgateway.auth.encoding import base64url, json_object
from txgateway.auth.keys import KeySet
from txgateway.errors import TokenBadClaims, TokenBadSignature, TokenExpired, TokenMalformed, TokenNotYetValid

#: A longer token is refused before anything of it is decoded.
MAX_TOKEN_BYTES: Final = 8192

_COMPACT: Final = re.compile(rb"([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)\.([A-Za-z0-9_-]++)")
#: RFC 8725 section 3.11 and RFC 9068: a token that says it is something else (a logout token, a DPoP proof, a security
#: event) may carry all the right claims and was still not made to be an access token.
_TYPES: Final = frozenset({"jwt", "at+jwt"})


@frozen
class Jws:
    """A token taken apart, nothing of it believed yet.

    Attributes:
        signing_input: what the signature is over.
        payload: decoded from base64url, not yet from JSON.
    """

    kid: str | None
    algorithm: str
    signing_input: bytes
    payload: bytes
    signature: bytes


@frozen
class VerifiedToken:
    """What a good token says. It is kept and shared between requests, so nothing of it changes.

    Attributes:
        subject: ``sub``, or None if there is none or it is empty.
        scopes: see :meth:`TokenValidator.judge`.
        claims: all of them, read-only.
        expires_at: clock seconds from which on it is not accepted, leeway included.
        derived: what somebody works out of the claims for each request, kept here for the next one under a name of
            their own.
    """

    subject: str | None
    scopes: frozenset[str]
    claims: Mapping[str, Any]
    expires_at: float
    derived: dict[str, Any] = field(factory=dict, repr=False, eq=False)


def parse(token: bytes) -> Jws:
    """Take a token apart.

    Raises:
        TokenMalformed: over 8 KiB; not three segments of strict base64url; a header that is no strict JSON object in
            UTF-8, or without ``alg``; ``crit`` (no extension is understood here), another ``typ`` than ``JWT`` and
            ``at+jwt``, or a nested token (``cty``).
    """
    found = _COMPACT.fullmatch(token) if len(token) <= MAX_TOKEN_BYTES else None
    if found is None:
        raise TokenMalformed("too long, or not three segments")
    try:
        protected, payload, signature = (base64url(segment) for segment in found.groups())
        header = json_object(protected)
    except ValueError as exc:
        raise TokenMalformed("a segment is not base64url, or the header not a JSON object") from exc
    kid, algorithm = header.get("kid"), header.get("alg")
    if not isinstance(algorithm, str) or ("kid" in header and not isinstance(kid, str)) or "crit" in header:
        raise TokenMalformed("alg, kid or crit")
    if ("typ" in header and _media_type(header["typ"]) not in _TYPES) or _media_type(header.get("cty")) == "jwt":
        raise TokenMalformed("another kind of token")
    return Jws(kid, algorithm, token[: found.end(2)], payload, signature)


def _media_type(value: object) -> str | None:
    """``typ`` or ``cty`` without what RFC 7515 section 4.1.9 lets out, in small letters; None if it is no string."""
    return value.lower().removeprefix("application/") if isinstance(value, str) else None


class TokenValidator:
    """Judges tokens.

    Args:
        now: the wall clock, in seconds since the epoch.
        issuers: ``iss`` has to be one of these; empty for any or none.
        audiences: ``aud`` has to have one of these; empty for any or none.
        leeway_s: how far clocks may be apart.
    """

    def __init__(
        self,
        now: Callable[[], float],
        issuers: tuple[str, ...] = (),
        audiences: tuple[str, ...] = (),
        leeway_s: float = 60.0,
    ) -> None:
        self._now = now
        self._issuers = frozenset(issuers)
        self._audiences = frozenset(audiences)
        self._leeway_s = leeway_s

    def validate(self, token: bytes, keys: KeySet) -> VerifiedToken:
        """What the token says, if it is good.

        Raises:
            TokenError: as :func:`parse` and :meth:`judge`.
        """
        return self.judge(parse(token), keys)

    def judge(self, jws: Jws, keys: KeySet) -> VerifiedToken:
        """What the token says, if it is good: its signature first, its claims after that.

        Scopes are the ``scope`` string, separated by spaces (RFC 6749 section 3.3), or else ``scp``; either may be a
        list of strings as well. Anything else grants nothing.

        Raises:
            TokenUnknownKey: see :meth:`KeySet.find`.
            TokenBadSignature: it is not the key's.
            TokenMalformed: the payload is no strict JSON object in UTF-8.
            TokenExpired: ``exp`` has passed.
            TokenNotYetValid: ``nbf`` or ``iat`` is in the future.
            TokenBadClaims: no ``exp``; a time that is no number; a ``sub`` that is no string; another issuer or
                audience.
        """
        if not keys.find(jws.kid, jws.algorithm).verify(jws.signing_input, jws.signature, jws.algorithm):
            raise TokenBadSignature
        try:
            claims = json_object(jws.payload)
        except ValueError as exc:
            raise TokenMalformed("the payload is not a JSON object") from exc
        subject = claims.get("sub", "")
        if not isinstance(subject, str):
            raise TokenBadClaims("sub")
        self._check_parties(claims)
        expires_at = self._check_times(claims)
        scopes = _scopes(claims["scope"] if "scope" in claims else claims.get("scp"))
        return VerifiedToken(subject or None, scopes, MappingProxyType(claims), expires_at)

    def _check_parties(self, claims: dict[str, Any]) -> None:
        if self._issuers:
            issuer = claims.get("iss")
            if not isinstance(issuer, str) or issuer not in self._issuers:
                raise TokenBadClaims("iss")
        if self._audiences:
            audience = claims.get("aud")
            named = [audience] if isinstance(audience, str) else audience
            if not _are_strings(named) or self._audiences.isdisjoint(named):
                raise TokenBadClaims("aud")

    def _check_times(self, claims: dict[str, Any]) -> float:
        """The end of the token's life, leeway included."""
        expires_at = _time(claims, "exp")
        starts = [_time(claims, name) for name in ("nbf", "iat") if name in claims]
        now = self._now()
        if now >= expires_at + self._leeway_s:  # RFC 7519 section 4.1.4: on or after
            raise TokenExpired
        if any(now < start - self._leeway_s for start in starts):
            raise TokenNotYetValid
        return expires_at + self._leeway_s


def _time(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TokenBadClaims(name)
    try:
        return float(value)
    except OverflowError as exc:  # an integer of hundreds of digits
        raise TokenBadClaims(name) from exc


def _scopes(value: object) -> frozenset[str]:
    if isinstance(value, str):
        value = value.split(" ")
    return frozenset(value) - {""} if _are_strings(value) else frozenset()


def _are_strings(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
