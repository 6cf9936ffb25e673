from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest
import trustme
from tests.helpers.logs import logged_events
from tests.helpers.proxy_protocol import LOCAL, SIGNATURE, block, tlv, v1, v2, v2_of, v2_with_checksum
from tests.helpers.tls import MemoryTlsClient, TlsServer, client_context, key_pair
from tests.unit.support import MemoryTransport, Server, address, message, read_responses

from txgateway.errors import Draining
from txgateway.forwarded import ForwardedPolicy
from txgateway.transport.http1_factory import Http1ServerFactory
from txgateway.transport.http2.frames import PREFACE
from txgateway.transport.http2.server import Http2ServerConnection
from txgateway.transport.interfaces import ServerLimits
from txgateway.transport.proxy_protocol import (
    MAX_V1_BYTES,
    MAX_V2_BLOCK_BYTES,
    ProxiedConnection,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderReader,
    ProxyProtocolFactory,
    crc32c,
)
from txgateway.transport.server_contexts import ServerContexts, TlsPolicy
from txgateway.transport.server_tls import HandshakeFailures, TlsServerFactory, TlsServerTransport

GET = message(b"/")
UNIX_BLOCK = b"/client".ljust(108, b"\0") + b"/server".ljust(108, b"\0")
LONGEST_IPV6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fff0"
LONGEST_V1 = v1(LONGEST_IPV6, LONGEST_IPV6, (65535, 65535))
INET = block("192.0.2.1", "198.51.100.9")
INET6 = block("2001:db8::1", "2001:db8::9")

VALID = [
    # --- version 1
    (v1("192.0.2.1"), "192.0.2.1", 443),
    (v1("0.0.0.0", "255.255.255.255", (0, 0)), "0.0.0.0", 0),
    (v1("255.255.255.255", "255.255.255.255", (65535, 65535)), "255.255.255.255", 65535),
    (v1("2001:db8::1", "2001:db8::9"), "2001:db8::1", 443),
    (v1("2001:DB8:0:0:0:0:0:1", "::"), "2001:db8::1", 443),
    (LONGEST_V1, LONGEST_IPV6, 65535),
    (v1("::ffff:192.0.2.1", "::ffff:198.51.100.9"), "192.0.2.1", 443),
    (v1("::ffff:c000:201", "::1"), "192.0.2.1", 443),
    (b"PROXY UNKNOWN\r\n", "", 0),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", 0),
    (b"PROXY UNKNOWN \xff\r\n\xfe"[:-1], "", 0),
    (b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 16) + b"\r\n", "", 0),
    # --- version 2
    (v2("192.0.2.1"), "192.0.2.1", 443),
    (v2("0.0.0.0", ports=(65535, 65535)), "0.0.0.0", 65535),
    (v2("2001:db8::1", ports=(1, 258)), "2001:db8::1", 258),
    (v2("::ffff:192.0.2.1"), "192.0.2.1", 443),
    (v2("::"), "::", 443),
    (v2("192.0.2.1", tlvs=tlv(0xEA, b"\x01vpce-1") + tlv(4, b"") + tlv(0x20, bytes(5))), "192.0.2.1", 443),
    (v2("192.0.2.1", tlvs=tlv(4, bytes(MAX_V2_BLOCK_BYTES - 15))), "192.0.2.1", 443),
    (v2_with_checksum("192.0.2.1"), "192.0.2.1", 443),
    (v2_with_checksum("2001:db8::1", tlv(0xEA, b"\x01x"), tlv(4, bytes(9))), "2001:db8::1", 443),
    (LOCAL, "", 0),
    (v2_of(0x20, 0x11, INET), "", 0),
    (v2_of(0x20, 0xFF, b"anything"), "", 0),
    (v2_of(0x21, 0x00), "", 0),
    (v2_of(0x21, 0x00, b"anything"), "", 0),
    (v2_of(0x21, 0x01), "", 0),
    (v2_of(0x21, 0x10, INET), "", 0),
    (v2_of(0x21, 0x31, UNIX_BLOCK), "", 0),
    (v2_of(0x21, 0x30, UNIX_BLOCK + b"\xff"), "", 0),
]  # fmt: skip

NOT_VALID = [
    # --- neither
    (GET, "no PROXY header"),
    (b"\x16\x03\x01\x02\x00\x01", "no PROXY header"),
    (b"P\r", "no PROXY header"),
    (b"proxy TCP4 192.0.2.1 198.51.100.9 50000 443\r\n", "no PROXY header"),
    (b" " + v1("192.0.2.1"), "no PROXY header"),
    (b"PROXY\tTCP4 192.0.2.1 198.51.100.9 50000 443\r\n", "no PROXY header"),
    (b"\r\n" + v2("192.0.2.1"), "no PROXY header"),
    (SIGNATURE[:11] + b"\r", "no PROXY header"),
    (b"\0", "no PROXY header"),
    # --- version 1
    (v1("192.0.2.1").replace(b" ", b"  ", 2), "malformed"),
    (v1("192.0.2.1").replace(b"TCP4", b"tcp4"), "malformed"),
    (v1("192.0.2.1").replace(b"TCP4", b"TCP6"), "malformed address"),
    (v1("192.0.2.1").replace(b"TCP4", b"TCP5"), "malformed"),
    (v1("192.0.2.1").replace(b"TCP4", b"UDP4"), "malformed"),
    (v1("192.0.2.1").replace(b"TCP4", b"UNKNOWNS"), "malformed"),
    (v1("2001:db8::1", "2001:db8::9").replace(b"TCP6", b"TCP4"), "malformed address"),
    (v1("192.0.2.1", "2001:db8::9"), "malformed address"),
    (v1("2001:db8::1", "192.0.2.1"), "malformed address"),
    (v1("192.0.2.1", "192.0.2"), "malformed address"),
    (v1("192.0.2.1", "192.0.2.256"), "malformed address"),
    (v1("192.0.2.1", "192.0.2.01"), "malformed address"),
    (v1("192.0.2.1").replace(b"192.0.2.1", b"192.0.02.1"), "malformed address"),
    (v1("2001:db8::1", "1::2::3"), "malformed address"),
    (v1("2001:db8::1", "fe80::1").replace(b"fe80::1", b"fe80::1%eth0"), "malformed"),
    (v1("192.0.2.1", ports=(65536, 443)), "malformed port"),
    (v1("192.0.2.1", ports=(50000, 65536)), "malformed port"),
    (v1("192.0.2.1").replace(b" 443", b" 0443"), "malformed"),
    (v1("192.0.2.1").replace(b" 443", b" +443"), "malformed"),
    (v1("192.0.2.1").replace(b" 443", b" -1"), "malformed"),
    (v1("192.0.2.1").replace(b" 443", b" 443 "), "malformed"),
    (v1("192.0.2.1").replace(b" 443", b""), "malformed"),
    (v1("192.0.2.1").replace(b" 443", "\u0664\u0664".join((" ", "")).encode()), "malformed"),
    (v1("192.0.2.1").replace(b"\r\n", b"\n") + GET, "malformed"),
    (v1("192.0.2.1").replace(b"\r\n", b"\r") + GET, "malformed"),
    (b"PROXY UNKNOWN\n" + GET, "malformed"),
    (b"PROXY \r\n", "malformed"),
    (b"PROXY UNKNOWN " + b"x" * (MAX_V1_BYTES - 15) + b"\r\n", "too long"),
    (b"PROXY " + b"x" * (MAX_V1_BYTES - 6), "too long"),
    # --- version 2
    (v2_of(0x11, 0x11, INET), "unknown version or command"),
    (v2_of(0x31, 0x11, INET), "unknown version or command"),
    (v2_of(0x22, 0x11, INET), "unknown version or command"),
    (v2_of(0x2F, 0x11, INET), "unknown version or command"),
    (v2_of(0x01, 0x11, INET), "unknown version or command"),
    (v2_of(0x21, 0x41, INET), "unknown family or protocol"),
    (v2_of(0x21, 0xF1, INET), "unknown family or protocol"),
    (v2_of(0x21, 0x13, INET), "unknown family or protocol"),
    (v2_of(0x21, 0x1F, INET), "unknown family or protocol"),
    (v2_of(0x21, 0x12, INET), "of datagrams"),
    (v2_of(0x21, 0x22, INET6), "of datagrams"),
    (v2_of(0x21, 0x32, UNIX_BLOCK), "of datagrams"),
    (v2_of(0x21, 0x02), "of datagrams"),
    (v2_of(0x21, 0x11), "too short"),
    (v2_of(0x21, 0x11, INET[:-1]), "too short"),
    (v2_of(0x21, 0x21, INET6[:-1]), "too short"),
    (v2_of(0x21, 0x21, INET), "too short"),
    (v2("192.0.2.1", tlvs=tlv(4, bytes(MAX_V2_BLOCK_BYTES - 14))), "too long"),
    (v2_of(0x20, 0x00, bytes(MAX_V2_BLOCK_BYTES + 1)), "too long"),
    (v2("192.0.2.1", tlvs=b"\4"), "malformed TLV"),
    (v2("192.0.2.1", tlvs=b"\4\0"), "malformed TLV"),
    (v2("192.0.2.1", tlvs=tlv(4, b"abc")[:-1]), "malformed TLV"),
    (v2("192.0.2.1", tlvs=tlv(4, b"") + b"\4\xff\xff"), "malformed TLV"),
    (v2("192.0.2.1", tlvs=tlv(3, bytes(4))), "wrong checksum"),
    (v2("192.0.2.1", tlvs=tlv(3, bytes(3))), "malformed checksum"),
    (v2("192.0.2.1", tlvs=tlv(3, bytes(5))), "malformed checksum"),
    (v2_with_checksum("192.0.2.1").replace(bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2))), "wrong checksum"),
    (v2_with_checksum("192.0.2.1", behind=tlv(4, b"a"))[:-1] + b"b", "wrong checksum"),
]  # fmt: skip

#: The shortest prefix of each header of version 2 that says all that is wrong with it.
SOON = [(v2_of(0x31, 0x11), 16), (v2_of(0x21, 0x12, INET), 16), (v2_of(0x20, 0, bytes(MAX_V2_BLOCK_BYTES + 1)), 16)]


def fed(data: bytes) -> ProxyHeader | None:
    return ProxyHeaderReader().feed(data)


# --- the header ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("data", "client_ip", "port"), VALID)
def test_header_is_read(data: bytes, client_ip: str, port: int) -> None:
    assert fed(data) == ProxyHeader(client_ip, port, b"")
    for rest in (b"\r\n", b"P", b"\0" * 70000, GET, v1("192.0.2.77")):
        assert fed(data + rest) == ProxyHeader(client_ip, port, rest)


@pytest.mark.parametrize(("data", "client_ip", "port"), VALID)
def test_header_is_read_in_two_pieces_wherever_it_is_cut(data: bytes, client_ip: str, port: int) -> None:
    for at in range(len(data)):
        reader = ProxyHeaderReader()
        assert not reader.has_begun
        assert reader.feed(data[:at]) is None
        assert reader.has_begun is (at > 0)
        assert reader.feed(data[at:] + GET) == ProxyHeader(client_ip, port, GET)


@pytest.mark.parametrize(("data", "client_ip", "port"), VALID)
def test_header_is_read_byte_by_byte(data: bytes, client_ip: str, port: int) -> None:
    reader = ProxyHeaderReader()
    *early, last = (data[at : at + 1] for at in range(len(data)))
    assert {reader.feed(byte) for byte in early} == {None}
    assert reader.feed(last) == ProxyHeader(client_ip, port, b"")


@pytest.mark.parametrize(("data", "problem"), NOT_VALID)
def test_what_is_no_header_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(ProxyHeaderError, match=f"(^|: ){problem}"):
        fed(data)


@pytest.mark.parametrize(("data", "problem"), NOT_VALID)
def test_what_is_no_header_is_refused_in_two_pieces_too(data: bytes, problem: str) -> None:
    for at in range(1, len(data)):
        reader = ProxyHeaderReader()
        with pytest.raises(ProxyHeaderError, match=f"(^|: ){problem}"):
            if reader.feed(data[:at]) is None:
                reader.feed(data[at:])


@pytest.mark.parametrize("data", [b"G", b"PA", b"PROXYX", b"\r\nX", SIGNATURE[:5] + b"X"])
def test_what_begins_otherwise_is_refused_at_once(data: bytes) -> None:
    assert fed(data[:-1]) is None
    with pytest.raises(ProxyHeaderError, match="no PROXY header"):
        fed(data)


@pytest.mark.parametrize(("data", "size"), SOON)
def test_fixed_part_of_version_2_is_judged_alone(data: bytes, size: int) -> None:
    assert fed(data[: size - 1]) is None
    with pytest.raises(ProxyHeaderError):
        fed(data[:size])


def test_line_without_end_is_refused_at_its_limit() -> None:
    line = b"PROXY UNKNOWN ".ljust(MAX_V1_BYTES, b"x")
    assert fed(line[:-1]) is None
    with pytest.raises(ProxyHeaderError, match="too long"):
        fed(line)
    assert len(LONGEST_V1) == 104
    assert fed(b"PROXY UNKNOWN ".ljust(105, b"x") + b"\r\n") == ProxyHeader("", 0, b"")  # section 2.1: 107 at most
    with pytest.raises(ProxyHeaderError, match="too long"):
        fed(b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n")


def test_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"") == 0


def test_one_of_several_checksums_is_a_checksum_of_all() -> None:
    wrong = v2_with_checksum("192.0.2.1", before=tlv(3, struct.pack("!I", 1)))
    assert fed(wrong) == ProxyHeader("192.0.2.1", 443, b"")  # the last one counts
    with pytest.raises(ProxyHeaderError, match="wrong checksum"):
        fed(v2_with_checksum("192.0.2.1", behind=tlv(3, struct.pack("!I", 1))))


# --- the connection behind it --------------------------------------------------------------------------------------------------


LIMITS = ServerLimits(header_timeout_s=10, keepalive_timeout_s=75)
TRUSTED = ForwardedPolicy([ip_network("10.0.0.0/8")])


class Proxied:
    """A listener that expects headers, over TCP or over TLS.

    Attributes:
        refused: how many connections were refused.
    """

    def __init__(self, server: Server, inner: Http1ServerFactory | TlsServerFactory) -> None:
        self.server = server
        self.refused = 0
        failures = HandshakeFailures(self._count, server.clock.seconds, "PROXY header refused")
        self.factory = ProxyProtocolFactory(inner, TRUSTED.is_trusted, failures)

    def _count(self) -> None:
        self.refused += 1

    def open(self, peer: str = "10.0.0.1") -> MemoryTransport:
        transport = MemoryTransport(self.server.clock, peer)
        protocol = self.factory.buildProtocol(address(peer, 50000))
        assert isinstance(protocol, ProxiedConnection)
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport


def answer(request: Any) -> None:
    request.answer(200, [], b"ok")


@pytest.fixture
def server() -> Server:
    return Server(answer, limits=LIMITS)


@pytest.fixture
def proxied(server: Server) -> Proxied:
    return Proxied(server, server.factory)


class ProxiedTlsServer(TlsServer):
    """Clients come with a header in front."""

    def __init__(self, contexts: ServerContexts, **options: Any) -> None:
        super().__init__(contexts, **options)
        self.proxied = Proxied(self, self.tls_factory)

    def open(self) -> tuple[TlsServerTransport, MemoryTransport]:
        transport = self.proxied.open()
        transport.send(v2("192.0.2.1", ports=(50000, 8443)))
        return transport.protocol, transport


@pytest.fixture(scope="module")
def contexts(authority: trustme.CA) -> ServerContexts:
    return ServerContexts([key_pair("a", authority.issue_cert("a.example"))], TlsPolicy())


@pytest.fixture
def tls_server(contexts: ServerContexts) -> ProxiedTlsServer:
    return ProxiedTlsServer(contexts, dispatch=answer, limits=LIMITS)


#: A listener of either kind, by the name of its fixture.
BOTH = pytest.mark.parametrize("kind", ["server", "tls_server"])


@pytest.fixture
def either(kind: str, request: pytest.FixtureRequest) -> Proxied:
    if kind == "server":
        return request.getfixturevalue("proxied")  # type: ignore[no-any-return]
    return request.getfixturevalue("tls_server").proxied  # type: ignore[no-any-return]


def statuses(transport: MemoryTransport, count: int = 1) -> list[int]:
    return [response.status for response in read_responses(transport.received(), [b"GET"] * count)]


@pytest.mark.parametrize(
    ("header", "peer_ip", "port"),
    [
        (v1("192.0.2.1"), "192.0.2.1", 443),
        (v2("2001:db8::1"), "2001:db8::1", 443),
        (v2("::ffff:192.0.2.1", ports=(1, 8443)), "192.0.2.1", 8443),
        (LOCAL, "10.0.0.1", 8000),
        (b"PROXY UNKNOWN\r\n", "10.0.0.1", 8000),
        (v2_of(0x21, 0x31, UNIX_BLOCK), "10.0.0.1", 8000),
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 14, None])
def test_connection_has_the_addresses_of_its_header(
    proxied: Proxied, header: bytes, peer_ip: str, port: int, cut: int | None
) -> None:
    transport = proxied.open()
    transport.send(header[:cut])
    transport.send(header[cut:] if cut is not None else GET)
    if cut is not None:
        transport.send(GET)
    proxied.server.clock.advance(0)
    assert statuses(transport) == [200]
    (connection,) = proxied.server.factory.connections
    assert (connection.peer_ip, connection.local_port) == (peer_ip, port)
    assert proxied.server.request.client_ip == peer_ip
    assert proxied.refused == 0


def test_header_and_requests_may_come_as_one(proxied: Proxied) -> None:
    transport = proxied.open()
    transport.send(v2("192.0.2.1") + GET + GET)
    proxied.server.clock.advance(0)
    assert statuses(transport, 2) == [200, 200]


def test_nothing_stands_in_front_of_a_connection_whose_header_has_come(proxied: Proxied) -> None:
    transport = proxied.open()
    front = transport.protocol
    transport.send(LOCAL)
    (connection,) = proxied.server.factory.connections
    assert transport.protocol is connection
    assert front not in proxied.server.wheel._fine
    transport.send(v1("192.0.2.1") + GET)  # a second header is no request
    assert statuses(transport) == [400]


def test_http_2_knows_the_addresses_as_well(proxied: Proxied) -> None:
    transport = proxied.open()
    transport.send(v2("192.0.2.1", ports=(50000, 8443)) + PREFACE)
    (connection,) = proxied.server.factory.connections
    assert isinstance(connection, Http2ServerConnection)
    assert transport.protocol is connection
    assert (connection.peer_ip, connection.local_port) == ("192.0.2.1", 8443)


def test_request_over_tls_has_the_addresses_of_the_header(tls_server: ProxiedTlsServer, authority: trustme.CA) -> None:
    client = MemoryTlsClient(tls_server, client_context(authority))
    client.send(GET)
    assert [response.status for response in read_responses(client.received())] == [200]
    (connection,) = tls_server.factory.connections
    assert (connection.peer_ip, connection.local_port, connection.scheme) == ("192.0.2.1", 8443, b"https")
    assert (tls_server.failed, tls_server.proxied.refused) == (0, 0)


def test_http_2_over_tls_does_too(tls_server: ProxiedTlsServer, authority: trustme.CA) -> None:
    context = client_context(authority)
    context.set_alpn_protocols(["h2"])
    MemoryTlsClient(tls_server, context)
    (connection,) = tls_server.factory.connections
    assert isinstance(connection, Http2ServerConnection)
    assert (connection.peer_ip, connection.local_port, connection.scheme) == ("192.0.2.1", 8443, b"https")


def test_failed_handshake_is_the_clients(tls_server: ProxiedTlsServer) -> None:
    with logged_events() as events:
        _, transport = tls_server.open()
        transport.send(GET)
        transport.end()
    (event,) = events
    assert (event["log_format"], event["client_ip"]) == ("TLS handshake failed", "192.0.2.1")
    assert (tls_server.failed, tls_server.proxied.refused) == (1, 0)


# --- times ---------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("begin", [b"", b"PROXY TCP4 ", SIGNATURE])
def test_slow_header_is_cut_after_the_time_of_a_head(either: Proxied, begin: bytes) -> None:
    server = either.server
    server.clock.advance(1000)  # the wheel has stood still
    transport = either.open()
    transport.send(begin)
    server.wait(9.9)
    assert not transport.aborted
    with logged_events() as events:
        server.wait(0.4)
    assert transport.aborted
    assert transport.closed
    (event,) = events
    assert (event["log_format"], event["problem"]) == ("PROXY header refused", "not complete in time")
    assert event["client_ip"] == "10.0.0.1"
    assert either.refused == 1
    assert not server.factory.connections
    assert not server.wheel._fine
    assert not server.wheel._coarse
    assert server.metrics.connections()["h1"] == 0


def test_bytes_do_not_prolong_the_time(proxied: Proxied) -> None:
    transport = proxied.open()
    for byte in v1("2001:db8::1", "2001:db8::9")[:30]:
        transport.send(bytes((byte,)))
        proxied.server.wait(0.4)
    assert transport.aborted


def test_idle_time_begins_behind_the_header(server: Server) -> None:
    server.factory.limits = ServerLimits(header_timeout_s=10, keepalive_timeout_s=2)
    proxied = Proxied(server, server.factory)
    transport = proxied.open()
    server.wait(5)
    assert not transport.closed
    transport.send(LOCAL)
    server.wait(1.9)
    assert not transport.closed
    server.wait(1.5)
    assert transport.closed
    assert not transport.aborted
    assert proxied.refused == 0


def test_time_of_the_handshake_begins_behind_the_header(tls_server: ProxiedTlsServer) -> None:
    transport = tls_server.proxied.open()
    tls_server.wait(9)
    transport.send(LOCAL)
    tls_server.wait(9.9)
    assert not transport.aborted
    tls_server.wait(0.4)
    assert transport.aborted
    assert (tls_server.failed, tls_server.proxied.refused) == (1, 0)


# --- what is not accepted ----------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("data", "problem"), [(GET, "no PROXY header"), (v2_of(0x21, 0x12, INET), "of datagrams")])
def test_malformed_header_is_cut_and_told(either: Proxied, data: bytes, problem: str) -> None:
    transport = either.open()
    with logged_events() as events:
        transport.send(data)
        transport.send(GET)
        either.server.clock.advance(0)
    assert transport.aborted
    assert transport.closed
    assert transport.received() == b""
    (event,) = events
    assert problem in event["problem"]
    assert either.refused == 1
    assert not either.server.requests
    assert not either.server.factory.connections
    assert not either.server.wheel._fine
    assert not either.server.wheel._coarse


@pytest.mark.parametrize("peer", ["192.0.2.1", "11.0.0.1", "2001:db8::1", "::ffff:192.0.2.1"])
def test_untrusted_peer_is_not_even_heard(proxied: Proxied, peer: str) -> None:
    with logged_events() as events:
        assert proxied.factory.buildProtocol(address(peer, 50000)) is None
    (event,) = events
    assert event["problem"] == "from an untrusted address"
    assert event["client_ip"] == peer.removeprefix("::ffff:")
    assert proxied.refused == 1
    assert not proxied.server.factory.connections
    assert proxied.server.metrics.connections_refused == 0


def test_peer_without_an_address_is_not_trusted(proxied: Proxied) -> None:
    assert proxied.factory.buildProtocol(None) is None
    assert proxied.refused == 1


def test_peer_that_is_trusted_may_come_over_ipv6(proxied: Proxied) -> None:
    transport = proxied.open("::ffff:10.0.0.1")
    transport.send(LOCAL + GET)
    assert statuses(transport) == [200]
    assert proxied.server.request.client_ip == "10.0.0.1"


# --- ends -----------------------------------------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    "leave", [lambda transport: transport.end(), lambda transport: transport.reset()], ids=["end", "reset"]
)
@pytest.mark.parametrize(("begin", "refused"), [(b"", 0), (b"PRO", 1), (SIGNATURE, 1)])
def test_peer_that_leaves_is_forgotten_and_told_if_it_had_begun(
    either: Proxied, leave: Callable[[MemoryTransport], None], begin: bytes, refused: int
) -> None:
    server = either.server
    transport = either.open()
    transport.send(begin)
    assert server.metrics.connections()["h1"] == 1
    leave(transport)
    assert either.refused == refused
    assert not server.factory.connections
    assert server.metrics.connections()["h1"] == 0
    assert not server.wheel._fine
    assert not server.wheel._coarse
    server.wait(100)


@BOTH
def test_limit_of_connections_counts_those_that_wait_for_their_header(either: Proxied) -> None:
    server = either.server
    server.factory.max_connections = 2
    either.open()
    either.open().send(LOCAL)
    assert either.factory.buildProtocol(address("10.0.0.1", 50000)) is None
    assert server.metrics.connections_refused == 1
    assert either.refused == 0


@BOTH
@pytest.mark.parametrize("begin", [b"", b"PRO", LOCAL])
@pytest.mark.parametrize("is_gentle", [True, False])
def test_shutdown_closes_what_waits_for_its_header(either: Proxied, begin: bytes, is_gentle: bool) -> None:
    server = either.server
    transport = either.open()
    transport.send(begin)
    for connection in list(server.factory.connections):
        assert not connection.in_progress
        if is_gentle:
            connection.close_when_idle()
        else:
            connection.shut_down(Draining())
    server.clock.advance(0)
    assert transport.closed
    assert not server.factory.connections
    assert not server.wheel._fine
