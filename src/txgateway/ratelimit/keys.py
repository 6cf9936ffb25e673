"""Which requests share a bucket: the parts of a bucket's key.

A key is its parts joined by ``|``. What a client chooses is in it either verbatim, if it is short and plain, or as
``#`` and a digest. So keys are short, printable, and those of different clients are different; and no secret that
comes in a header gets into the store.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Address, ip_address
from typing import Final

__all__ = ["address_part", "header_part", "plain_part", "subject_part"]

_PLAIN: Final = re.compile(r"[A-Za-z0-9.:/@_-]{1,64}")
_MAX_CACHED: Final = 8192


@lru_cache(maxsize=_MAX_CACHED)
def address_part(ip: str | None) -> bytes:
    """An address: IPv4 (also when mapped into IPv6) as it is, IPv6 by its /64, what is neither as one."""
    try:
        address = ip_address((ip or "").partition("%")[0])
    except ValueError:
        return b"ip=unknown"
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return f"ip={IPv6Address(int(address) >> 64 << 64)}/64".encode("ascii")
        address = address.ipv4_mapped
    return f"ip={address}".encode("ascii")


@lru_cache(maxsize=_MAX_CACHED)
def subject_part(subject: str) -> bytes:
    """An authenticated caller."""
    return b"subject=" + plain_part(subject)


def header_part(name: bytes, value: bytes) -> bytes:
    """The value of a header, always as a digest: it may be an API key."""
    return b"header:%b=#%b" % (name, _digest(value))


def plain_part(text: str) -> bytes:
    """A text in a form that holds no separator and is another for every other text."""
    if _PLAIN.fullmatch(text):
        return text.encode("ascii")
    return b"#" + _digest(text.encode("utf-8", "surrogatepass"))


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).hexdigest().encode("ascii")
