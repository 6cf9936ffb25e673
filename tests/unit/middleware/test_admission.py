from __future__ import annotations

import math

import pytest
from tests.unit.support import Inner, stub_request

from txgateway.errors import BadPath, BadRequest, BodyTooLarge
from txgateway.middleware.admission import Admission
from txgateway.request import GatewayRequest
from txgateway.transport.interfaces import UNKNOWN_LENGTH


def passed(
    request: GatewayRequest, max_body_bytes: int = 10, underscore_headers: str = "drop", *, rejects: bool = False
) -> GatewayRequest:
    inner = Inner()
    request.path = request.uri
    Admission(inner, max_body_bytes, underscore_headers, rejects_encoded_slash=rejects).render(request)
    assert inner.requests == [request]
    return request


def test_declared_body_over_the_limit_is_refused_before_it_comes() -> None:
    passed(stub_request(b"POST", length=10))
    with pytest.raises(BodyTooLarge):
        passed(stub_request(b"POST", length=11))


def test_undeclared_body_is_limited_as_it_comes() -> None:
    assert passed(stub_request(b"POST", length=UNKNOWN_LENGTH)).max_body_bytes == 10
    request = stub_request(b"POST", length=UNKNOWN_LENGTH)
    request.receive_body(b"x" * 11)
    request.receive_body_end([])
    with pytest.raises(BodyTooLarge):
        passed(request)


def test_zero_is_no_limit() -> None:
    assert passed(stub_request(b"POST", length=2**50), 0).max_body_bytes == math.inf


FIELDS = {b"Host": b"a", b"X_User": b"evil", b"X-User": b"good", b"__": b"1"}


def test_underscores_are_dropped_kept_or_refused() -> None:
    request = passed(stub_request(fields=FIELDS), underscore_headers="drop")
    assert [name for _, name, _ in request.headers] == [b"Host", b"X-User"]
    assert request.fields == {b"host": b"a", b"x-user": b"good"}
    assert len(passed(stub_request(fields=FIELDS), underscore_headers="keep").headers) == 4
    with pytest.raises(BadRequest):
        passed(stub_request(fields=FIELDS), underscore_headers="reject")
    passed(stub_request(), underscore_headers="reject")


@pytest.mark.parametrize("target", [b"/a%2Fb", b"/a%2fb"])
def test_encoded_slash_is_kept_or_refused(target: bytes) -> None:
    passed(stub_request(target=target))
    with pytest.raises(BadPath):
        passed(stub_request(target=target), rejects=True)
    passed(stub_request(target=b"/a%252Fb"), rejects=True)
