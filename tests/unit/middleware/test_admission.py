from __future__ import annotations

import math
from ipaddress import ip_network
from typing import Any

import pytest
from tests.unit.support import Body, Inner, stub_request

from txgateway.errors import BadPath, BadRequest, BodyTooLarge, ContentTypeNotAllowed, IpDenied, MethodNotAllowed
from txgateway.middleware.admission import AddressList, Admission, Network
from txgateway.request import GatewayRequest
from txgateway.transport.interfaces import NO_BODY, UNKNOWN_LENGTH


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


def admitted(request: GatewayRequest, **lists: Any) -> bool:
    """Whether the route takes the request; an error other than the one in question fails the test."""
    inner = Inner()
    admission = Admission(inner, 0, "keep", rejects_encoded_slash=False, **lists)
    try:
        admission.render(request)
    except (IpDenied, MethodNotAllowed, ContentTypeNotAllowed):
        assert inner.requests == []
        return False
    assert inner.requests == [request]
    return True


def networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


def from_address(ip: str | None, allow: tuple[str, ...] = (), deny: tuple[str, ...] = ()) -> bool:
    request = stub_request()
    request.client_ip = ip
    return admitted(request, allow_ips=networks(*allow), deny_ips=networks(*deny))


@pytest.mark.parametrize(
    ("ip", "allow", "deny", "is_admitted"),
    [
        ("192.0.2.1", ("192.0.2.0/24",), (), True),
        ("192.0.3.1", ("192.0.2.0/24",), (), False),
        ("192.0.2.1", (), ("192.0.2.0/24",), False),
        ("192.0.3.1", (), ("192.0.2.0/24",), True),
        ("192.0.2.1", ("192.0.2.0/24",), ("192.0.2.1/32",), False),
        ("192.0.2.1", ("192.0.2.1/32",), ("192.0.2.0/24",), False),
        ("192.0.2.2", ("192.0.2.0/24",), ("192.0.2.1/32",), True),
        ("::ffff:192.0.2.1", ("192.0.2.0/24",), (), True),
        ("::ffff:192.0.2.1", (), ("192.0.2.0/24",), False),
        ("192.0.2.1", (), ("::ffff:192.0.2.0/120",), False),
        ("192.0.2.1", ("::ffff:192.0.2.0/120",), (), True),
        ("2001:db8::1", ("2001:db8::/32",), (), True),
        ("2001:db9::1", ("2001:db8::/32", "0.0.0.0/0"), (), False),
        ("fe80::1%eth0", (), ("fe80::/10",), False),
        ("192.0.2.1", ("198.51.100.0/24", "192.0.2.0/24"), (), True),
    ],
)
def test_addresses(ip: str, allow: tuple[str, ...], deny: tuple[str, ...], is_admitted: bool) -> None:
    assert from_address(ip, allow, deny) is is_admitted


@pytest.mark.parametrize("ip", [None, "", "unknown"])
def test_unknown_address_is_in_no_network(ip: str | None) -> None:
    assert not from_address(ip, allow=("0.0.0.0/0", "::/0"))
    assert from_address(ip, deny=("0.0.0.0/0", "::/0"))


def test_addresses_remembered_are_bounded() -> None:
    addresses = AddressList(networks("10.0.0.0/8"), ())
    for number in range(5000):
        addresses.admits(f"10.0.{number // 256}.{number % 256}")
    assert addresses.admits.cache_info().currsize <= 4096


@pytest.mark.parametrize(
    ("method", "is_admitted"), [(b"GET", True), (b"HEAD", True), (b"POST", True), (b"PUT", False), (b"get", False)]
)
def test_methods(method: bytes, is_admitted: bool) -> None:
    assert admitted(stub_request(method), allowed_methods=("POST", "GET")) is is_admitted


def test_refused_method_is_told_those_that_are_allowed() -> None:
    with pytest.raises(MethodNotAllowed) as raised:
        Admission(Inner(), 0, "keep", rejects_encoded_slash=False, allowed_methods=("POST", "GET")).render(
            stub_request(b"DELETE")
        )
    assert raised.value.headers() == [(b"Allow", b"GET, HEAD, POST")]
    assert not admitted(stub_request(b"HEAD"), allowed_methods=("POST",))


@pytest.mark.parametrize(
    ("content_type", "is_admitted"),
    [
        (b"application/json", True),
        (b"Application/JSON ; charset=utf-8", True),
        (b"application/json;", True),
        (b"image/png", True),
        (b"IMAGE/svg+xml", True),
        (b"image/", False),
        (b"image", False),
        (b"image/*, text/html", False),
        (b"image/png, text/html", False),
        (b"images/png", False),
        (b"text/html", False),
        (b"text/html; x=application/json", False),
        (b"application/json2", False),
        (b"", False),
        (b"; application/json", False),
        (None, False),
    ],
)
@pytest.mark.parametrize("length", [1, UNKNOWN_LENGTH])
def test_media_types_of_bodies(content_type: bytes | None, is_admitted: bool, length: int) -> None:
    fields = {b"Host": b"a"} if content_type is None else {b"Host": b"a", b"Content-Type": content_type}
    lists = {"allowed_content_types": ("application/json", "image/*")}
    assert admitted(stub_request(b"POST", fields=fields, length=length), **lists) is is_admitted
    assert admitted(stub_request(b"POST", fields=fields, length=0), **lists)
    assert admitted(stub_request(b"GET", fields=fields, length=NO_BODY), **lists)


def test_any_media_type_is_still_one() -> None:
    lists = {"allowed_content_types": ("*/*",)}
    assert admitted(stub_request(b"POST", fields={b"Content-Type": b"a/b"}, length=1), **lists)
    assert not admitted(stub_request(b"POST", length=1), **lists)


def test_refusals_come_in_the_order_of_the_list() -> None:
    refusing: dict[str, Any] = {
        "deny_ips": networks("0.0.0.0/0"),
        "allowed_methods": ("GET",),
        "allowed_content_types": ("a/b",),
        "max_body_bytes": 10,
        "rejects_encoded_slash": True,
        "underscore_headers": "reject",
    }
    passing: dict[str, Any] = {"max_body_bytes": 0, "rejects_encoded_slash": False, "underscore_headers": "keep"}
    errors = (IpDenied, MethodNotAllowed, ContentTypeNotAllowed, BodyTooLarge, BadPath, BadRequest)
    for error, name in zip(errors, tuple(refusing), strict=True):
        request = stub_request(b"POST", target=b"/%2F", fields={b"A_B": b"1"}, length=11)
        request.path = request.uri
        with pytest.raises(error):
            Admission(Inner(), **(passing | refusing)).render(request)
        del refusing[name]


class Trailers:
    """Keeps the trailers of a body."""

    names: Any = None

    def body_received(self, data: bytes) -> None: ...
    def body_ended(self, trailers: Any) -> None:
        self.names = [name for _, name, _ in trailers]


@pytest.mark.parametrize(
    ("setting", "kept"), [("drop", [b"X-Sum"]), ("reject", [b"X-Sum"]), ("keep", [b"X_User", b"X-Sum"])]
)
def test_underscores_in_trailers_are_dropped(setting: str, kept: list[bytes]) -> None:
    request = stub_request(b"POST", length=UNKNOWN_LENGTH)
    request.body_complete = False
    passed(request, underscore_headers=setting)
    consumer = Trailers()
    request.want_body(consumer)
    request.receive_body_end([(b"x_user", b"X_User", b"1"), (b"x-sum", b"X-Sum", b"2")])
    assert consumer.names == kept


def test_other_spellings_of_what_the_gateway_tells_are_dropped() -> None:
    spoofed = {b"X.Forwarded.For": b"6.6.6.6", b"X~Real-IP": b"6.6.6.6", b"x.request.id": b"1", b"X.Own": b"kept"}
    request = passed(stub_request(fields={b"Host": b"a", **spoofed}))
    assert [name for _, name, _ in request.headers] == [b"Host", b"X.Own"]
    assert len(passed(stub_request(fields=spoofed), underscore_headers="keep").headers) == 4
    assert len(passed(stub_request(fields=spoofed), underscore_headers="reject").headers) == 1


@pytest.mark.parametrize("setting", ["drop", "keep"])
def test_other_spelling_of_the_certificate_is_never_kept(setting: str) -> None:
    fields = {b"Host": b"a", b"X_Forwarded_Client_Cert": b"Hash=1", b"x-forwarded.client-cert": b"Hash=2"}
    request = stub_request(b"POST", fields=fields, length=UNKNOWN_LENGTH)
    assert [name for _, name, _ in passed(request, underscore_headers=setting).headers] == [b"Host"]
    body = Body()
    request.want_body(body)
    request.receive_body_end([(b"x_forwarded_client_cert", b"x_forwarded_client_cert", b"Hash=3")])
    assert body.trailers == []
