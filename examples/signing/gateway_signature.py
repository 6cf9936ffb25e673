"""The signature of a request: made by the gateway, verified by the backend. Needs nothing but Python; copy it there."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Text: TypeAlias = str | bytes
#: Names and values as they come, or as a mapping's ``items()``.
Fields: TypeAlias = Iterable[tuple[Text, Text]]

SIGNATURE, TIMESTAMP, REQUEST_ID = "X-Signature", "X-Signature-Timestamp", "X-Request-ID"
_VERSION = b"txgateway-hmac-sha256-1"


class NotSigned(Exception):
    """The request is not one that the gateway has sent, or not lately; what is wrong is for the log, not for the client."""


def sign(
    secret: bytes, method: Text, target: Text, timestamp: int, request_id: Text, headers: Fields, names: Sequence[str]
) -> str:
    """HMAC-SHA256, in hexadecimal, of one line for each thing that is signed; no line can hold the end of another.

    Args:
        target: path and query.
        headers: all; those called ``names`` count, in that order, and one that comes twice as its values joined by ``, ``.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(_bytes(name).lower(), []).append(_bytes(value))
    lines = [_VERSION, b"%d" % timestamp, _bytes(request_id), _bytes(method), _bytes(target)]
    wanted = [name.lower().encode("ascii") for name in names]
    # That there is none is signed too: it has no line.
    lines += [name + b":" + b", ".join(values[name]) for name in wanted if name in values]
    return hmac.new(secret, b"\n".join(lines), hashlib.sha256).hexdigest()


def verify(
    secrets: Sequence[bytes],
    method: Text,
    target: Text,
    headers: Fields,
    *,
    now_s: float,
    names: Sequence[str] = (),
    window_s: float = 300.0,
) -> None:
    """Make sure that the gateway has sent this request; in constant time for a given request.

    A request that is sent again within the window passes again: who has to know remembers the ``X-Request-ID``.

    Args:
        secrets: usually one; two while it is exchanged.
        target: path and query as the client sent them to the gateway; where the route strips a prefix, with it in front.
        now_s: ``time.time()``.
        names: of the headers that the gateway is told to sign.
        window_s: how far the clocks, and the time on the way, may be apart.

    Raises:
        NotSigned: it is not so.
    """
    pairs = [(_bytes(name).lower(), _bytes(value)) for name, value in headers]
    given = {}
    for wanted in (SIGNATURE, TIMESTAMP, REQUEST_ID):
        found = [value for name, value in pairs if name == wanted.lower().encode("ascii")]
        if len(found) != 1:
            raise NotSigned(f"{len(found)} headers {wanted}")
        given[wanted] = found[0]
    text = given[TIMESTAMP]
    if not text.isdigit() or len(text) > 12:
        raise NotSigned("the timestamp is no number")
    timestamp = int(text)
    due = [
        sign(secret, method, target, timestamp, given[REQUEST_ID], pairs, names).encode("ascii") for secret in secrets
    ]
    if True not in [hmac.compare_digest(one, given[SIGNATURE]) for one in due]:
        raise NotSigned("the signature is another")
    if abs(now_s - timestamp) > window_s:
        raise NotSigned("it was signed too long ago, or the clocks differ")


def _bytes(text: Text) -> bytes:
    """Text as WSGI has it: a character for each byte."""
    try:
        return text.encode("latin-1") if isinstance(text, str) else text
    except UnicodeEncodeError as exc:
        raise NotSigned("text that has been decoded otherwise than by latin-1") from exc
