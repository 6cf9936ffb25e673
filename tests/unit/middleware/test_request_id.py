from __future__ import annotations

import pytest
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.middleware.request_id import RequestId


def given(offered: bytes | None, *, is_trusted: bool) -> tuple[str, list[tuple[bytes, bytes]]]:
    """The id of a request, and the answer's fields after a backend said ``X-Request-ID`` as well."""
    channel = StubChannel()
    fields = {b"Host": b"a"} | ({} if offered is None else {b"X-Request-ID": offered})
    request = stub_request(fields=fields, channel=channel)
    asked: list[str] = []

    def is_proxy(peer: str) -> bool:
        asked.append(peer)
        return is_trusted

    inner = Inner()
    RequestId(inner, is_proxy, lambda: "new").render(request)
    assert inner.requests == [request]
    assert asked in ([], ["192.0.2.1"])
    request.answer(200, [(b"x-request-id", b"x-request-id", b"backend"), (b"x-a", b"X-A", b"1")], b"")
    return request.request_id, channel.events[0][3]


@pytest.mark.parametrize(
    ("offered", "is_trusted", "expected"),
    [
        (None, True, "new"),
        (b"abc-DEF_1.2", True, "abc-DEF_1.2"),
        (b"abc", False, "new"),
        (b"x" * 128, True, "x" * 128),
        (b"x" * 129, True, "new"),
        (b"", True, "new"),
        (b"a b", True, "new"),
        (b"a\n", True, "new"),
        (b"\xc3\xa9", True, "new"),
        (b"a/b", True, "new"),
    ],
)
def test_id_is_kept_only_if_a_trusted_proxy_gave_a_good_one(
    offered: bytes | None, is_trusted: bool, expected: str
) -> None:
    request_id, fields = given(offered, is_trusted=is_trusted)
    assert request_id == expected
    assert fields == [(b"X-A", b"1"), (b"X-Request-ID", expected.encode())]
