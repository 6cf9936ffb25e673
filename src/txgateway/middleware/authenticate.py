"""Lets a request pass if its bearer token is good, and tells the backend what the token says."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, TypeAlias

from txgateway.auth.authenticator import Authenticator
from txgateway.auth.token import VerifiedToken
from txgateway.errors import ScopeMissing, TokenMalformed
from txgateway.headers import (
    HOP_BY_HOP,
    NEVER_NOMINATED,
    cgi_name,
    connection_tokens,
    field_values,
    has_odd_names,
    is_field_value,
)
from txgateway.middleware.base import Inner, Middleware
from txgateway.routing.path import behind_authority, canonical_path
from txgateway.transport.interfaces import NO_BODY

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

_AUTHORIZATION = b"authorization"
_ONLY_AUTHORIZATION = frozenset({_AUTHORIZATION})
#: Controls and line separators of Unicode.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
Fields: TypeAlias = tuple[tuple[bytes, bytes, bytes], ...]
NO_FIELDS: Fields = ()

_NONE: frozenset[bytes] = frozenset()


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
            self._headers.replace(request, NO_FIELDS)
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
        self._headers.replace(request, NO_FIELDS)
        return self.inner.render(request)


class ClaimHeaders:
    """The header fields that a backend learns claims by.

    A client's field counts as one of them in whatever way its name is spelled that a backend could take for the same:
    CGI (RFC 3875 section 4.1.18) and its likes make one variable of ``X-User-Id``, ``X_User_Id`` and ``X.User.Id``.

    Args:
        pairs: of claim and header.
    """

    def __init__(self, pairs: tuple[tuple[str, str], ...]) -> None:
        self._fields = [(claim, header.lower().encode("ascii"), header.encode("ascii")) for claim, header in pairs]
        self._name = f"claim headers: {pairs!r}"
        self._plain = frozenset(cgi_name(lowered) for _, lowered, _ in self._fields)

    def of(self, token: VerifiedToken) -> Fields:
        """The fields that say what the token does; worked out once for each token."""
        known: Fields | None = token.derived.get(self._name)
        if known is None:
            known = tuple(
                (lowered, name, value)
                for claim, lowered, name in self._fields
                if claim in token.claims and (value := claim_value(token.claims[claim])) is not None
            )
            token.derived[self._name] = known
        return known

    def replace(self, request: GatewayRequest, fields: Fields) -> None:
        """Drop the client's own copies, in the trailers too, and add ``fields``."""
        mine = self._among(request.fields)
        connection = request.fields.get(b"connection")
        if connection is not None and self._among(nominated := connection_tokens(connection)):
            # What the client's Connection names goes now: at the end, it would take what is set here as well.
            mine |= (nominated - NEVER_NOMINATED - HOP_BY_HOP) | {b"connection"}
        if mine:
            request.remove_headers(mine)
        if request.length != NO_BODY:
            request.drop_trailers(self._is_mine)
        if fields:
            request.headers = (*request.headers, *fields)
            request.fields = request.fields | {lowered: value for lowered, _, value in fields}

    def _among(self, names: Collection[bytes]) -> frozenset[bytes]:
        """Those of these lowered names that count as one of the headers."""
        if self._plain.isdisjoint(names) and not has_odd_names(names):
            return _NONE
        return frozenset(filter(self._is_mine, names))

    def _is_mine(self, lowered: bytes) -> bool:
        return cgi_name(lowered) in self._plain


def claim_value(claim: object) -> bytes | None:
    """A claim as a field value, or None if it has none and the field is left out.

    Strings are as they are, in UTF-8; numbers and booleans as in JSON; a list of these is joined by commas, as lists
    in fields are (RFC 9110 section 5.6.1); objects, and lists of them, are compact JSON in ASCII. Nothing is escaped
    or cut: a string that is empty, has a control character or white space at either end, or a comma where it is in a
    list, could be read as somebody else's.
    """
    value = _scalar(claim)
    if value is None and isinstance(claim, list) and not any(isinstance(item, dict | list) for item in claim):
        items = [_scalar(item) for item in claim]
        if None in items or any("," in item for item in items if item):
            return None
        value = ",".join(item for item in items if item)
    elif isinstance(claim, dict | list):
        value = json.dumps(claim, separators=(",", ":"))
    if not value:
        return None
    encoded = value.encode("utf-8")
    return encoded if is_field_value(encoded) else None


def _scalar(claim: object) -> str | None:
    if isinstance(claim, str):
        return claim if claim and claim == claim.strip() and _CONTROL.search(claim) is None else None
    return json.dumps(claim) if isinstance(claim, bool | int | float) else None
