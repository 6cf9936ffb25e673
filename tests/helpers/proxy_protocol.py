"""Headers of the PROXY protocol, written from its specification and not from the gateway's code."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")
CRC32C = 3


def v1(client: str, server: str = "198.51.100.9", ports: tuple[int, int] = (50000, 443)) -> bytes:
    """``PROXY TCP4 client server 50000 443``, or TCP6 as the client's address has it."""
    return f"PROXY TCP{ip_address(client).version} {client} {server} {ports[0]} {ports[1]}\r\n".encode("ascii")


def block(client: str, server: str, ports: tuple[int, int] = (50000, 443)) -> bytes:
    """Addresses and ports of version 2."""
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    return socket.inet_pton(family, client) + socket.inet_pton(family, server) + struct.pack("!HH", *ports)


def tlv(kind: int, value: bytes) -> bytes:
    """One more thing that is said behind the addresses."""
    return struct.pack("!BH", kind, len(value)) + value


def v2_of(command: int, family: int, content: bytes = b"") -> bytes:
    """A header of version 2 from its bytes."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(content)) + content


def v2(client: str, server: str = "", ports: tuple[int, int] = (50000, 443), tlvs: bytes = b"") -> bytes:
    """What a balancer says of a connection over TCP."""
    is_6 = ":" in client
    server = server or ("2001:db8::9" if is_6 else "198.51.100.9")
    return v2_of(0x21, 0x21 if is_6 else 0x11, block(client, server, ports) + tlvs)


def v2_with_checksum(client: str, before: bytes = b"", behind: bytes = b"") -> bytes:
    """The same with the checksum of all, between other TLVs."""
    zeros = tlv(CRC32C, bytes(4))
    header = v2(client, tlvs=before + zeros + behind)
    at = len(header) - len(behind) - 4
    return header[:at] + struct.pack("!I", _crc32c(header)) + header[at + 4 :]


def _crc32c(data: bytes) -> int:
    """Bit by bit, as RFC 3720 appendix B.4 has it."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            is_odd = (crc ^ (byte >> bit)) & 1
            crc = (crc >> 1) ^ (0x82F63B78 if is_odd else 0)
    return crc ^ 0xFFFFFFFF


#: A health check, as HAProxy sends it.
LOCAL = v2_of(0x20, 0x00)
