"""Request headers that the gateway alone tells a backend, whatever a client says in them; and claims as their values."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from txgateway.headers import HOP_BY_HOP, NEVER_NOMINATED, cgi_name, connection_tokens, has_odd_names, is_field_value
from txgateway.transport.interfaces import NO_BODY, Headers

if TYPE_CHECKING:
    from txgateway.request import GatewayRequest

#: Controls and line separators of Unicode.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NONE: frozenset[bytes] = frozenset()


class OwnHeaders:
    """Header fields towards the backend that are ours alone.

    A client's field counts as one of them in whatever way its name is spelled that a backend could take for the same:
    CGI (RFC 3875 section 4.1.18) and its likes make one variable of ``X-User-Id``, ``X_User_Id`` and ``X.User.Id``.

    Args:
        names: of the fields.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower().encode("ascii") for name in names)
        self._plain = frozenset(map(cgi_name, self._names))

    def replace(self, request: GatewayRequest, fields: Headers = ()) -> None:
        """Drop the client's own copies, in the trailers too, and add ``fields``: ``(lowered, name, value)``."""
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
            request.removed_names |= self._names  # TRACE must not show the client what the backend is told

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
