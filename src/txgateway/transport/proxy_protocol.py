"""The PROXY protocol, versions 1 and 2: a balancer says first of all on a connection whose connection it is.

The specification is HAProxy's ``doc/proxy-protocol.txt``; sections are those of it. The header lies beneath TLS. Once
it has been read the connection goes on as if there had never been one, but for the addresses; so what comes later costs
nothing. A header is believed from whoever is trusted, and from nobody else: a listener takes connections either with a
header or without one, and never guesses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

from attrs import frozen
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from txgateway.headers import MAX_PORT
from txgateway.transport.http1_factory import Http1ServerFactory
from txgateway.transport.server_tls import HandshakeFailures, TlsServerFactory, TlsServerTransport

#: Longest header of version 1, its line end included (section 2.1).
MAX_V1_BYTES: Final = 107
#: Most bytes behind the fixed part of version 2: addresses take 216 at most, the rest is for TLVs.
MAX_V2_BLOCK_BYTES: Final = 4096

_V1_BEGIN: Final = b"PROXY "
_V1_UNKNOWN: Final = b"PROXY UNKNOWN"
_V1_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_V1_LINE: Final = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) %b %b" % (_V1_PORT, _V1_PORT))

_V2_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED_BYTES: Final = 16
_LOCAL, _PROXY = 0x20, 0x21
_INET, _INET6, _UNIX = 1, 2, 3
_UNSPEC, _DGRAM = 0, 2
_ADDRESS_BYTES: Final = {_INET: 4, _INET6: 16}
_TLV_HEAD_BYTES: Final = 3
_TLV_CRC32C: Final = 0x03
#: In front of an IPv4 address that is written as an IPv6 one (RFC 4291 section 2.5.5.2).
_MAPPED: Final = bytes(10) + b"\xff\xff"

_UNTRUSTED = "from an untrusted address"
_TOO_SLOW = "not complete in time"
_LEFT = "the other end left"


class ProxyHeaderError(ValueError):
    """What came is no header that is accepted. The text is fixed, and fit for a log."""


@frozen
class ProxyHeader:
    """What a header says.

    Attributes:
        client_ip: the client's address as text, IPv4 in its own form; empty if the connection is the sender's own, or
            has no address that could be told.
        port: that the client connected to; means nothing without ``client_ip``.
        rest: what came behind the header.
    """

    client_ip: str
    port: int
    rest: bytes


class ProxyHeaderReader:
    """Reads the header in front of all else, of either version, in whatever pieces it comes."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    @property
    def has_begun(self) -> bool:
        """Whether anything has come."""
        return bool(self._data)

    def feed(self, data: bytes) -> ProxyHeader | None:
        """More bytes; None as long as the header is not complete.

        Raises:
            ProxyHeaderError: this is none, or one of something that is no stream of TCP.
        """
        self._data = data = self._data + data
        if data.startswith(_V2_SIGNATURE):
            return _read_v2(data)
        if data.startswith(_V1_BEGIN):
            return _read_v1(data)
        if _V2_SIGNATURE.startswith(data) or _V1_BEGIN.startswith(data):
            return None
        raise ProxyHeaderError("no PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    """Section 2.1: ``PROXY TCP4 192.0.2.1 198.51.100.1 50000 443`` and CRLF."""
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise ProxyHeaderError("version 1: too long")
        return None
    line, rest = data[:end], data[end + 2 :]
    if line == _V1_UNKNOWN or line.startswith(_V1_UNKNOWN + b" "):
        return ProxyHeader("", 0, rest)
    found = _V1_LINE.fullmatch(line)
    if found is None:
        raise ProxyHeaderError("version 1: malformed")
    family = IPv4Address if found[1] == b"4" else IPv6Address
    try:
        client, _ = (family(address.decode("ascii")) for address in found.group(2, 3))
    except ValueError as exc:
        raise ProxyHeaderError("version 1: malformed address") from exc
    client_port, port = int(found[4]), int(found[5])
    if max(client_port, port) > MAX_PORT:
        raise ProxyHeaderError("version 1: malformed port")
    return ProxyHeader(_text(client.packed), port, rest)


def _read_v2(data: bytes) -> ProxyHeader | None:
    """Section 2.2: signature, version and command, family and protocol, length; then addresses, ports and TLVs.

    Of TLVs only the checksum is looked at; the block of a connection whose address is not taken is skipped as it is.
    """
    if len(data) < _V2_FIXED_BYTES:
        return None
    command = data[12]
    family, protocol = divmod(data[13], 16)
    size = int.from_bytes(data[14:16], "big")
    if command not in {_LOCAL, _PROXY}:
        raise ProxyHeaderError("version 2: unknown version or command")
    if size > MAX_V2_BLOCK_BYTES:
        raise ProxyHeaderError("version 2: too long")
    has_address = command == _PROXY and family in _ADDRESS_BYTES and protocol != _UNSPEC
    if command == _PROXY:
        if family > _UNIX or protocol > _DGRAM:
            raise ProxyHeaderError("version 2: unknown family or protocol")
        if protocol == _DGRAM:
            raise ProxyHeaderError("version 2: of datagrams")
        if has_address and size < 2 * _ADDRESS_BYTES[family] + 4:
            raise ProxyHeaderError("version 2: too short for its addresses")
    end = _V2_FIXED_BYTES + size
    if len(data) < end:
        return None
    if not has_address:
        return ProxyHeader("", 0, data[end:])
    client_end = _V2_FIXED_BYTES + _ADDRESS_BYTES[family]
    tlvs_at = client_end + _ADDRESS_BYTES[family] + 4
    _check_tlvs(data[:end], tlvs_at)
    port = int.from_bytes(data[tlvs_at - 2 : tlvs_at], "big")
    return ProxyHeader(_text(data[_V2_FIXED_BYTES:client_end]), port, data[end:])


def _check_tlvs(header: bytes, at: int) -> None:
    """Section 2.2.3: a checksum, where there is one, is that of the whole header with zeros in its own place.

    Raises:
        ProxyHeaderError: it is not, or what stands behind the addresses is no list of TLVs.
    """
    checksum_at = 0
    while at < len(header):
        value_at = at + _TLV_HEAD_BYTES
        end = value_at + int.from_bytes(header[at + 1 : value_at], "big")
        if max(value_at, end) > len(header):
            raise ProxyHeaderError("version 2: malformed TLV")
        if header[at] == _TLV_CRC32C:
            if end - value_at != 4:
                raise ProxyHeaderError("version 2: malformed checksum")
            checksum_at = value_at
        at = end
    if checksum_at:
        checksum = int.from_bytes(header[checksum_at : checksum_at + 4], "big")
        if crc32c(header[:checksum_at] + bytes(4) + header[checksum_at + 4 :]) != checksum:
            raise ProxyHeaderError("version 2: wrong checksum")


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC32C: Final = tuple(map(_crc32c_of, range(256)))


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli's polynomial (RFC 3720 appendix B.4), 0.1 µs a byte."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _text(packed: bytes) -> str:
    return str(ip_address(packed.removeprefix(_MAPPED)))


class ProxiedConnection(Protocol):
    """Stands in front of a connection, which is made but hears nothing, until the header has come; then it is gone.

    The inner protocol is there from the beginning, so that the connection is counted, drained and closed like any
    other. None of its time passes until it is its turn: the header has as long as a request's head.

    Args:
        factory: whom to tell of failures.
        inner: HTTP's protocol, or the one of TLS around it.

    Attributes:
        deadline: looked at by the wheel.
    """

    transport: Any
    deadline: float = math.inf
    _inner_time_s = math.inf
    _has_failed = False

    def __init__(self, factory: ProxyProtocolFactory, inner: Any) -> None:
        self.factory = factory
        self._inner = inner
        self._connection = inner.wrappedProtocol if isinstance(inner, TlsServerTransport) else inner
        self._reader = ProxyHeaderReader()

    def connectionMade(self) -> None:
        wheel, inner = self.factory.wheel, self._inner
        wheel.watch(self)
        self.deadline = wheel.after(self.factory.http.limits.header_timeout_s)
        inner.makeConnection(self.transport)
        self._inner_time_s = inner.deadline - wheel.now
        inner.deadline = math.inf

    def dataReceived(self, data: bytes) -> None:
        try:
            header = self._reader.feed(data)
        except ProxyHeaderError as exc:
            self._fail(str(exc))
            return
        if header is None:
            return
        wheel, inner = self.factory.wheel, self._inner
        wheel.forget(self)
        if header.client_ip:
            self._connection.peer_ip = header.client_ip
            self._connection.local_port = header.port
        inner.deadline = wheel.now + self._inner_time_s
        self.transport.protocol = inner
        if header.rest:
            inner.dataReceived(header.rest)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.factory.wheel.forget(self)
        if self._reader.has_begun and not self._has_failed:
            self._failed(_LEFT)
        self._inner.connectionLost(reason)

    def on_deadline(self, now: float) -> None:
        """The header takes too long."""
        self.deadline = math.inf
        self._fail(_TOO_SLOW)

    def _fail(self, problem: str) -> None:
        self._failed(problem)
        self.transport.abortConnection()

    def _failed(self, problem: str) -> None:
        self._has_failed = True
        self.factory.failures.failed(self._connection.peer_ip, problem)


class ProxyProtocolFactory(Factory):
    """Where the connections of a listener come from on which balancers say whose they are.

    Args:
        inner: makes what is above the header; the limits and the wheel of HTTP's factory are for the header as well.
        is_trusted: whether whoever has this address may say so; others' connections are closed at once.
        failures: told of headers that are not accepted.
    """

    noisy = False

    def __init__(
        self,
        inner: Http1ServerFactory | TlsServerFactory,
        is_trusted: Callable[[str], bool],
        failures: HandshakeFailures,
    ) -> None:
        self.inner = inner
        self.http = inner.inner if isinstance(inner, TlsServerFactory) else inner
        self.wheel = self.http.wheel
        self.failures = failures
        self._is_trusted = is_trusted

    def buildProtocol(self, addr: IAddress | None) -> ProxiedConnection | None:
        peer_ip = getattr(addr, "host", "")
        if not self._is_trusted(peer_ip):
            self.failures.failed(peer_ip.removeprefix("::ffff:"), _UNTRUSTED)
            return None
        inner = self.inner.buildProtocol(addr)
        return None if inner is None else ProxiedConnection(self, inner)
