"""A PROXY header means the same in any split, and what is none is refused in one way, whatever it is."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.proxy_protocol import SIGNATURE, tlv, v1, v2, v2_of, v2_with_checksum

from txgateway.testing.strategies import mutated, splits
from txgateway.transport.proxy_protocol import (
    MAX_V1_BYTES,
    MAX_V2_BLOCK_BYTES,
    ProxyHeader,
    ProxyHeaderError,
    ProxyHeaderReader,
)

PORTS = st.integers(0, 65535)
IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.one_of(
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=4).map("::ffff:{}".format),
    st.ip_addresses(v=6).map(lambda ip: ip.exploded.upper()),
)
PAIRS = st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6))
TLVS = st.lists(
    st.builds(tlv, st.sampled_from([0x01, 0x02, 0x04, 0x05, 0x20, 0x30, 0xE0, 0xEA, 0xFF]), st.binary(max_size=60)),
    max_size=5,
).map(b"".join)


def plain(ip: str) -> str:
    """An address as the gateway writes it."""
    if ":" not in ip:
        return str(IPv4Address(ip))
    address = IPv6Address(ip)
    return str(address.ipv4_mapped or address)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, str, int]:
    """``(header, client_ip, port)``"""
    client, server = draw(PAIRS)
    ports = draw(st.tuples(PORTS, PORTS))
    kind = draw(st.sampled_from(["v1", "unknown", "v2", "checksum", "local", "unix"]))
    if kind == "v1":
        return v1(client, server, ports), plain(client), ports[1]
    if kind == "unknown":
        said = draw(st.binary(max_size=MAX_V1_BYTES - 16)).replace(b"\r\n", b"\n\n")
        return b"PROXY UNKNOWN " + said.removesuffix(b"\r") + b"\r\n", "", 0
    if kind == "v2":
        return v2(client, server, ports, draw(TLVS)), plain(client), ports[1]
    if kind == "checksum":
        return v2_with_checksum(client, draw(TLVS), draw(TLVS)), plain(client), 443
    content = draw(st.binary(max_size=300))
    if kind == "local":
        return v2_of(0x20, draw(st.integers(0, 255)), content), "", 0
    return v2_of(0x21, draw(st.sampled_from([0x00, 0x01, 0x10, 0x20, 0x30, 0x31])), content), "", 0


def read(pieces: list[bytes]) -> tuple[ProxyHeader | None, list[bytes]]:
    """The header, and the pieces that came behind those it was in."""
    reader = ProxyHeaderReader()
    for number, piece in enumerate(pieces):
        header = reader.feed(piece)
        if header is not None:
            return header, pieces[number + 1 :]
    return None, []


@given(st.data(), headers(), st.binary(max_size=60))
def test_header_is_the_same_in_any_split(data: st.DataObject, sent: tuple[bytes, str, int], rest: bytes) -> None:
    header, client_ip, port = sent
    found, later = read(data.draw(splits(header + rest)))
    assert found is not None
    assert (found.client_ip, found.port) == (client_ip, port)
    assert found.rest + b"".join(later) == rest


@given(st.data(), headers())
def test_part_of_a_header_is_waited_for(data: st.DataObject, sent: tuple[bytes, str, int]) -> None:
    part = sent[0][: data.draw(st.integers(0, len(sent[0]) - 1))]
    assert read(data.draw(splits(part))) == (None, [])


def outcome(pieces: list[bytes]) -> tuple[str, int, bytes] | None:
    """What came of it; None where more is waited for. It raises nothing but its own error."""
    try:
        header, later = read(pieces)
    except ProxyHeaderError:
        return ("refused", 0, b"")
    return None if header is None else (header.client_ip, header.port, header.rest + b"".join(later))


@given(st.data(), st.one_of(st.binary(max_size=400), headers().flatmap(lambda sent: mutated(sent[0]))))
def test_whatever_comes_means_the_same_in_any_split(data: st.DataObject, wire: bytes) -> None:
    found = outcome([wire])
    assert outcome(data.draw(splits(wire))) == found
    if found is None:  # nothing can be waited for without end
        padded = outcome([wire + bytes(MAX_V2_BLOCK_BYTES + 16)])
        assert padded is not None


@given(
    st.builds(v2_of, st.integers(0, 255), st.integers(0, 255), st.binary(max_size=300)),
    st.binary(max_size=20),
)
@example(v2_of(0x21, 0x11, bytes(12)), b"")
@example(SIGNATURE + b"\x21\x11\xff\xff", b"")
def test_well_formed_version_2_is_taken_whole_or_refused(wire: bytes, rest: bytes) -> None:
    found = outcome([wire + rest])
    assert found is not None
    assert found[0] == "refused" or found[2] == rest


@given(st.text("0123456789abcdefABCDEF:.% gx", max_size=40), st.text("0123456789:.", max_size=16))
@example("::ffff:1.2.3.4", "::")
@example("1.2.3.4", "01.2.3.4")
@example("fe80::1%1", "::")
def test_addresses_of_version_1_are_those_of_the_standard_library(client: str, server: str) -> None:
    for version, kind in ((4, IPv4Address), (6, IPv6Address)):
        found = outcome([f"PROXY TCP{version} {client} {server} 1 2\r\n".encode("ascii")])
        try:
            kind(server)
            expected = plain(str(kind(client)))
            is_good = "%" not in client and " " not in client
        except ValueError:
            is_good = False
        assert found == ((expected, 2, b"") if is_good else ("refused", 0, b""))
