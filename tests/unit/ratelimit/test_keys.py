from __future__ import annotations

import pytest

from txgateway.ratelimit.keys import address_part, header_part, plain_part, subject_part


@pytest.mark.parametrize(
    ("ip", "part"),
    [
        ("192.0.2.1", b"ip=192.0.2.1"),
        ("::ffff:192.0.2.1", b"ip=192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", b"ip=2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", b"ip=2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", b"ip=2001:db8:1:3::/64"),
        ("fe80::1%eth0", b"ip=fe80::/64"),
        ("", b"ip=unknown"),
        (None, b"ip=unknown"),
        ("unix:/x", b"ip=unknown"),
    ],
)
def test_address_is_ipv4_or_the_64_of_ipv6(ip: str | None, part: bytes) -> None:
    assert address_part(ip) == part


def test_short_plain_text_is_kept_and_other_text_digested() -> None:
    assert subject_part("user-1@example.com") == b"subject=user-1@example.com"
    for text in ("", "a|ip=1", "ä", "x" * 65, "#abc", "{tag}", "\udc80"):
        part = plain_part(text)
        assert part.startswith(b"#")
        assert len(part) == 33
    assert plain_part("#abc") != plain_part("abc")


def test_header_value_is_never_in_the_key() -> None:
    part = header_part(b"x-api-key", b"secret")
    assert b"secret" not in part
    assert part == header_part(b"x-api-key", b"secret")
    assert part != header_part(b"x-api-key", b"Secret")
    assert len(header_part(b"x-api-key", b"s" * 10_000)) == len(part)
