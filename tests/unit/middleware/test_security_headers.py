from __future__ import annotations

import pytest
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.config.groups import SecurityHeaders as Settings
from txgateway.errors import InternalError
from txgateway.forwarded import Forwarded, ForwardedPolicy
from txgateway.middleware.security_headers import EdgeSecurityHeaders, SecurityHeaders

CSP = (b"Content-Security-Policy", b"default-src 'none'; frame-ancestors 'none'")
NOSNIFF = (b"X-Content-Type-Options", b"nosniff")
FRAMES = (b"X-Frame-Options", b"DENY")
REFERRER = (b"Referrer-Policy", b"no-referrer")
HSTS = (b"Strict-Transport-Security", b"max-age=31536000; includeSubDomains")
OVER_HTTP = [CSP, NOSNIFF, FRAMES, REFERRER]
OFF = Settings(hsts="", csp="", frame_options="", referrer_policy="", permissions_policy="")


def answered(
    *backend: tuple[bytes, bytes], settings: Settings | None = None, scheme: bytes = b"http", said: bytes = b""
) -> list[tuple[bytes, bytes]]:
    """The fields of an answer.

    Args:
        scheme: of the connection.
        said: the scheme that the client used, as a trusted proxy has it.
    """
    channel, inner = StubChannel(), Inner()
    channel.scheme = scheme
    request = stub_request(channel=channel)
    if said:
        request.forwarded = Forwarded("192.0.2.7", said, [])
    SecurityHeaders(inner, settings or Settings()).render(request)
    assert inner.requests == [request]
    request.answer(200, [(name.lower(), name, value) for name, value in backend], b"")
    fields: list[tuple[bytes, bytes]] = channel.events[0][3]
    return fields


def test_answer_carries_the_fields() -> None:
    assert answered((b"X-A", b"1")) == [(b"X-A", b"1"), *OVER_HTTP]


def test_error_carries_them_too() -> None:
    channel = StubChannel()
    request = stub_request(channel=channel)
    SecurityHeaders(Inner(), Settings()).render(request)
    request.fail(InternalError())
    assert channel.events[0][3][-4:] == OVER_HTTP


@pytest.mark.parametrize(
    ("scheme", "said", "is_secure"),
    [
        (b"http", b"", False),
        (b"https", b"", True),
        (b"http", b"https", True),
        (b"https", b"http", False),
        (b"http", b"http", False),
    ],
)
def test_hsts_is_told_where_the_clients_own_connection_is_secure(scheme: bytes, said: bytes, is_secure: bool) -> None:
    assert answered(scheme=scheme, said=said) == [*OVER_HTTP, *([HSTS] if is_secure else [])]


def test_own_fields_of_a_backend_are_replaced() -> None:
    backend = [
        (b"x-frame-options", b"ALLOWALL"),
        (b"X-A", b"1"),
        (b"X-Frame-Options", b"SAMEORIGIN"),
        (b"referrer-policy", b"unsafe-url"),
        (b"X-CONTENT-TYPE-OPTIONS", b""),
        (b"Strict-Transport-Security", b"max-age=0"),
    ]
    assert answered(*backend) == [(b"X-A", b"1"), *OVER_HTTP]
    assert answered(*backend, scheme=b"https") == [(b"X-A", b"1"), *OVER_HTTP, HSTS]


def test_own_content_security_policy_of_a_backend_is_kept() -> None:
    own = [(b"content-security-policy", b"default-src 'self'"), (b"Content-Security-Policy", b"img-src *")]
    assert answered(*own) == [*own, *OVER_HTTP[1:]]
    report = (b"Content-Security-Policy-Report-Only", b"default-src 'self'")
    assert answered(report) == [report, *OVER_HTTP]


def test_empty_setting_turns_a_field_off_and_leaves_a_backends_own() -> None:
    assert answered(settings=OFF, scheme=b"https") == [NOSNIFF]
    own = [(b"X-Frame-Options", b"SAMEORIGIN"), HSTS, (b"Content-Security-Policy", b"default-src 'self'")]
    assert answered(*own, settings=OFF) == [*own, NOSNIFF]
    assert answered(*own, (b"X-Content-Type-Options", b"x"), settings=OFF) == [*own, NOSNIFF]


def test_permissions_policy_is_told_once_set() -> None:
    wanted = (b"Permissions-Policy", b"camera=()")
    settings = Settings(permissions_policy="camera=()")
    assert answered((b"permissions-policy", b"camera=*"), settings=settings) == [*OVER_HTTP, wanted]


def edge(route_name: str | None) -> list[tuple[bytes, bytes]]:
    channel = StubChannel()
    request = stub_request(channel=channel)
    route = SecurityHeaders(Inner(), Settings(frame_options="SAMEORIGIN"))
    EdgeSecurityHeaders(route if route_name else Inner(), Settings(), ForwardedPolicy(())).render(request)
    request.route_name = route_name
    request.answer(404, [], b"")
    fields: list[tuple[bytes, bytes]] = channel.events[0][3]
    return fields


def test_edge_speaks_only_where_no_route_does() -> None:
    assert edge(None) == OVER_HTTP
    assert edge("r") == [CSP, NOSNIFF, (b"X-Frame-Options", b"SAMEORIGIN"), REFERRER]
