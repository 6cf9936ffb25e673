from __future__ import annotations

from ipaddress import ip_network

from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.forwarded import ForwardedPolicy
from txgateway.middleware.client_address import _MAX_CACHED_HOSTS, ClientAddress
from txgateway.request import GatewayRequest


def passed(
    trusted: str | None, channel: StubChannel, fields: dict[bytes, bytes], host: bytes | None = b"a"
) -> GatewayRequest:
    inner = Inner()
    request = stub_request(fields=fields, channel=channel)
    request.host = host
    ClientAddress(inner, ForwardedPolicy([ip_network(trusted)] if trusted else [])).render(request)
    assert inner.requests == [request]
    return request


CLAIM = {b"X-Forwarded-For": b"203.0.113.7", b"X-Forwarded-Proto": b"https"}


def test_claims_of_a_stranger_are_not_believed() -> None:
    request = passed(None, StubChannel(), CLAIM)
    assert (request.client_ip, request.forwarded.scheme) == ("192.0.2.1", b"http")


def test_claims_of_a_trusted_proxy_are() -> None:
    request = passed("192.0.2.0/24", StubChannel(), CLAIM)
    assert (request.client_ip, request.forwarded.scheme) == ("203.0.113.7", b"https")


def test_result_for_a_stranger_is_kept_with_the_connection_by_host() -> None:
    channel = StubChannel()
    first = passed(None, channel, {b"X": b"1"})
    assert passed(None, channel, CLAIM).forwarded is first.forwarded
    assert passed(None, channel, CLAIM, host=b"b").forwarded is not first.forwarded
    for number in range(20):
        passed(None, channel, CLAIM, host=b"h%d" % number)
    assert len(channel.forwarded) == _MAX_CACHED_HOSTS


def test_certificate_of_the_connection_is_told() -> None:
    channel = StubChannel()
    channel.client_certificate = b"Hash=ab"
    for _ in range(2):
        fields = passed(None, channel, {b"X-Forwarded-Client-Cert": b"Hash=ff"}).forwarded.fields
        assert [value for name, _, value in fields if name == b"x-forwarded-client-cert"] == [b"Hash=ab"]


def test_result_for_a_proxy_is_never_kept() -> None:
    channel = StubChannel()
    passed("192.0.2.0/24", channel, CLAIM)
    assert channel.forwarded == {}
    assert passed("192.0.2.0/24", channel, {b"X-Forwarded-For": b"203.0.113.8"}).client_ip == "203.0.113.8"


def test_unix_socket_has_no_address() -> None:
    channel = StubChannel()
    channel.peer_ip = ""
    assert passed(None, channel, {b"X": b"1"}, host=None).client_ip is None
