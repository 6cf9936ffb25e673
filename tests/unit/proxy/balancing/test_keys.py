from __future__ import annotations

from typing import Any

import pytest
from attrs import define, field

from txgateway.proxy.balancing import keys


@define
class FakeRequest:
    """What keys are made of."""

    lines: list[tuple[bytes, bytes]] = field(factory=list)
    client_ip: str | None = "2001:db8:1:2:3:4:5:6"

    @property
    def headers(self) -> list[tuple[bytes, bytes, bytes]]:
        return [(name.lower(), name, value) for name, value in self.lines]

    @property
    def fields(self) -> dict[bytes, bytes]:
        return {name.lower(): value for name, value in self.lines}


def key(key_of: Any, *lines: tuple[bytes, bytes]) -> bytes:
    result: bytes = key_of(FakeRequest(list(lines)))
    return result


def test_address_is_whole_and_may_be_missing() -> None:
    assert key(keys.client_ip) == b"2001:db8:1:2:3:4:5:6"
    request: Any = FakeRequest(client_ip=None)
    assert keys.client_ip(request) == b""


def test_header_is_found_in_any_case() -> None:
    assert key(keys.header("X-User"), (b"x-USER", b"joe")) == b"joe"


@pytest.mark.parametrize("lines", [[], [(b"X-User", b"")], [(b"X-Users", b"joe")]])
def test_header_that_is_not_there_leaves_the_address(lines: list[tuple[bytes, bytes]]) -> None:
    assert key(keys.header("X-User"), *lines) == b"2001:db8:1:2:3:4:5:6"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"Sid=one"], b"one"),
        ([b"a=1; Sid=one; b=2"], b"one"),
        ([b"a=1;Sid = one ;b=2"], b"one"),
        ([b"a=1", b"Sid=one"], b"one"),  # several lines, as from HTTP/2
        ([b"Sid=one", b"a=1"], b"one"),
        ([b"Sid=one; Sid=two"], b"one"),
        ([b"Sid=; Sid=two"], b"two"),
        ([b"Sid=a=b"], b"a=b"),
        ([b"sid=one"], b"2001:db8:1:2:3:4:5:6"),
        ([b"xSid=one; Sidx=two"], b"2001:db8:1:2:3:4:5:6"),
        ([b"Sid="], b"2001:db8:1:2:3:4:5:6"),
        ([b"Sid"], b"2001:db8:1:2:3:4:5:6"),
        ([b"; ;=;"], b"2001:db8:1:2:3:4:5:6"),
        ([], b"2001:db8:1:2:3:4:5:6"),
    ],
)
def test_cookie_or_else_the_address(lines: list[bytes], expected: bytes) -> None:
    assert key(keys.cookie("Sid"), *((b"Cookie", line) for line in lines)) == expected
