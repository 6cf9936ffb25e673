"""Lets a request pass if its bearer token is good, and tells the backend what the token says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from txgateway.auth.authenticator import Authenticator
from txgateway.auth.token import VerifiedToken
from txgateway.errors import ScopeMissing, TokenMalformed
from txgateway.headers import field_values
from txgateway.middleware.base import Inner, Middleware
from txgateway.own_headers import OwnHeaders, claim_value
from txgateway.routing.path import behind_authority, canonical_path
from txgateway.transport.interfaces import Headers

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_AUTHORIZATION = b"authorization"
_ONLY_AUTHORIZATION = frozenset({_AUTHORIZATION})


class Authenticate(Middleware):
    """Asks for a bearer token and hands on its claims.

    Sets ``subject`` and ``claims``.

    Position: below the limits by address, so that failed attempts count; above limits by subject and whatever else
        asks who calls.
    Refuses: TOKEN_MISSING and the other TOKEN reasons, SCOPE_MISSING, JWKS_UNAVAILABLE.
    On cancel: leaves the wait for newer keys, if it is in it.

    Args:
        inner: what it wraps.
        authenticator: judges the token.
        required_scopes: the token has to carry all of them.
        claim_headers: pairs of claim and header for the backend; see :class:`ClaimHeaders`.
        forward_token: whether the backend gets the bearer token too.
        public_paths: prefixes on segment borders below which no token is looked at.
    """

    def __init__(
        self,
        inner: Inner,
        authenticator: Authenticator,
        required_scopes: tuple[str, ...] = (),
        claim_headers: tuple[tuple[str, str], ...] = (),
        *,
        forward_token: bool = True,
        public_paths: tuple[str, ...] = (),
    ) -> None:
        super().__init__(inner)
        self._authenticate = authenticator.authenticate
        self._required = required_scopes
        self._scopes = frozenset(required_scopes)
        self._headers = ClaimHeaders(claim_headers) if claim_headers else None
        self._forward_token = forward_token
        self._public = tuple(canonical_path(path.encode("ascii")).rstrip(b"/") + b"/" for path in public_paths)

    def render(self, request: GatewayRequest) -> Any:
        if self._public and self.is_public(request):
            return self._pass_unseen(request)
        fields = request.fields
        if len(fields) != len(request.headers) and len(field_values(request.headers, _AUTHORIZATION)) > 1:
            raise TokenMalformed("several Authorization lines")
        found = self._authenticate(fields.get(_AUTHORIZATION))
        if found.__class__ is VerifiedToken:
            return self._admit(found, request)
        return self.when(found, request, self._admit)  # type: ignore[arg-type]

    def is_public(self, request: GatewayRequest) -> bool:
        """Whether its path needs no token."""
        if not (request.canonical_path + b"/").startswith(self._public):
            return False
        return all((path + b"/").startswith(self._public) for path in behind_authority(request.path))

    def _admit(self, token: VerifiedToken, request: GatewayRequest) -> Any:
        if not self._scopes <= token.scopes:
            raise ScopeMissing(self._required)
        request.subject = token.subject
        request.claims = token.claims
        if self._headers is not None:
            self._headers.replace(request, self._headers.of(token))
        if not self._forward_token:
            request.remove_headers(_ONLY_AUTHORIZATION)
        return self.inner.render(request)

    def _pass_unseen(self, request: GatewayRequest) -> Any:
        if self._headers is not None:
            self._headers.replace(request, ())
        if not self._forward_token and any(
            value[:7].lower() == b"bearer " for value in field_values(request.headers, _AUTHORIZATION)
        ):
            request.remove_headers(_ONLY_AUTHORIZATION)
        return self.inner.render(request)


class DropClaimHeaders(Middleware):
    """Takes away what a client says of itself in the headers that elsewhere come from verified claims.

    Position: where Authenticate would stand, on a route without authentication.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    def __init__(self, inner: Inner, claim_headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__(inner)
        self._headers = ClaimHeaders(claim_headers)

    def render(self, request: GatewayRequest) -> Any:
        self._headers.replace(request, ())
        return self.inner.render(request)


class ClaimHeaders(OwnHeaders):
    """The header fields that a backend learns claims by.

    Args:
        pairs: of claim and header.
    """

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        super().__init__(header for _, header in pairs)
        self._fields = [(claim, header.lower().encode("ascii"), header.encode("ascii")) for claim, header in pairs]
        self._name = f"claim headers: {pairs!r}"

    def of(self, token: VerifiedToken) -> Headers:
        """The fields that say what the token does; worked out once for each token."""
        known: Headers | None = token.derived.get(self._name)
        if known is None:
            known = tuple(
                (lowered, name, value)
                for claim, lowered, name in self._fields
                if claim in token.claims and (value := claim_value(token.claims[claim])) is not None
            )
            token.derived[self._name] = known
        return known
