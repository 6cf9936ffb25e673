"""The header fields that go to a target: the client's own, without those of its hop, with what proxies add."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from txgateway.headers import FORWARDED_NAMES, end_to_end, field_values, split_list
from txgateway.transport.heads import write_fields
from txgateway.transport.interfaces import Header, HeaderList, SharedHeaders

if TYPE_CHECKING:
    from txgateway.proxy.target import Target
    from txgateway.request import GatewayRequest

EXPECTED_TIMEOUT = b"x-envoy-expected-rq-timeout-ms"

_REMADE = FORWARDED_NAMES | {b"host", b"expect", b"x-request-id"}
_REMADE_WITH_TIMEOUT = _REMADE | {EXPECTED_TIMEOUT}
#: By the version that a message came in, as ``Via`` says it (RFC 9110 section 7.6.3).
VIA: Final[dict[bytes, Header]] = {
    version: (b"via", b"Via", b"%b txgateway" % version) for version in (b"1.0", b"1.1", b"2")
}
_TE: Header = (b"te", b"TE", b"trailers")
# RFC 9110 section 10.1.4: TE is for one hop only, and says so.
_CONNECTION_TE: Header = (b"connection", b"Connection", b"TE")


class OutgoingFields:
    """Makes a route's request fields; one for all its requests.

    Args:
        preserve_host: targets see the client's ``Host`` instead of their own.
        propagates_timeout: targets are told how long the gateway will wait, in milliseconds, in the field that Envoy
            uses for it.
        trace_names: lowered names of the fields that a request's trace replaces.
    """

    __slots__ = ("_preserve_host", "_propagates_timeout", "_remade")

    def __init__(
        self, *, preserve_host: bool, propagates_timeout: bool, trace_names: frozenset[bytes] = frozenset()
    ) -> None:
        self._preserve_host = preserve_host
        self._propagates_timeout = propagates_timeout
        self._remade = (_REMADE_WITH_TIMEOUT if propagates_timeout else _REMADE) | trace_names

    def of(self, request: GatewayRequest, target: Target, upgrade: bytes, timeout_s: float) -> HeaderList:
        """The fields of one attempt: a client that repeats itself to the byte is not worked out again.

        Args:
            upgrade: the protocol that is asked for, or empty.
            timeout_s: until the gateway gives up on the attempt; infinite for never.
        """
        own = (b"x-request-id", b"X-Request-ID", request.request_id.encode("ascii"))
        host, line = target.host, target.host_line
        if self._preserve_host and request.host is not None:
            host, line = (b"host", b"Host", request.host), b"Host: %b\r\n" % request.host
        memo: _Memo | None = request.channel.memo
        headers: HeaderList
        if memo is None or not memo.is_for(request, self, upgrade):
            shared = self._shared(request, upgrade)
            request.channel.memo = _Memo(request, self, upgrade, shared)
            headers = [host, *shared, own]
        else:
            headers = SharedHeaders((host, *memo.headers, own))
            headers.wire = line + (memo.wire or memo.serialise())
            headers.shared = len(memo.headers) + 1
        if request.trace is not None:
            headers += request.trace.fields
        if self._propagates_timeout and timeout_s < _FOREVER_S:
            headers.append((EXPECTED_TIMEOUT, b"X-Envoy-Expected-Rq-Timeout-Ms", b"%d" % max(1, timeout_s * 1000)))
        return headers

    def _shared(self, request: GatewayRequest, upgrade: bytes) -> HeaderList:
        """All that does not depend on the attempt."""
        fields = request.fields
        headers = end_to_end(request.headers, fields.get(b"connection"), self._remade)
        headers += request.forwarded.fields
        headers.append(VIA[request.clientproto[5:]])
        if b"te" in fields and not upgrade and b"trailers" in _list(request, b"te"):
            headers += (_TE, _CONNECTION_TE)
        return headers


_FOREVER_S = 10.0**9


def _list(request: GatewayRequest, name: bytes) -> list[bytes]:
    return split_list(b",".join(field_values(request.headers, name)).lower())


class _Memo:
    """The fields last sent for a client's connection, and what they were made from."""

    __slots__ = ("_forwarded", "_maker", "_source", "_upgrade", "headers", "wire")

    def __init__(self, request: GatewayRequest, maker: OutgoingFields, upgrade: bytes, headers: HeaderList) -> None:
        self._source = request.headers
        self._forwarded = request.forwarded
        self._maker = maker
        self._upgrade = upgrade
        self.headers = headers
        self.wire = b""

    def is_for(self, request: GatewayRequest, maker: OutgoingFields, upgrade: bytes) -> bool:
        """Whether they would be made from the very same things."""
        return (
            request.headers is self._source
            and request.forwarded is self._forwarded
            and maker is self._maker
            and upgrade == self._upgrade
        )

    def serialise(self) -> bytes:
        """As field lines; made at the first repetition."""
        parts: list[bytes] = []
        write_fields(parts, self.headers)
        self.wire = b"".join(parts)
        return self.wire
