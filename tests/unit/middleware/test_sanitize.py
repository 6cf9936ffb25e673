from __future__ import annotations

import pytest
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.errors import BadHost, BadPath, BadRequest, ExpectationFailed, GatewayError, MethodNotAllowed
from txgateway.middleware.sanitize import _MAX_CACHED_HOSTS, Sanitize
from txgateway.request import GatewayRequest
from txgateway.transport.interfaces import RequestHead


def passed(target: bytes = b"/", host: bytes | None = b"a", **given: object) -> GatewayRequest:
    """The request as those below see it."""
    inner = Inner()
    fields = {} if host is None else {b"Host": host}
    fields.update(given.pop("more", {}))  # type: ignore[call-overload]
    request = stub_request(target=target, fields=fields or {b"X": b"1"}, **given)  # type: ignore[arg-type]
    Sanitize(inner).render(request)
    assert inner.requests == [request]
    return request


def refused(target: bytes = b"/", host: bytes | None = b"a", **given: object) -> type[GatewayError]:
    with pytest.raises(GatewayError) as raised:
        passed(target, host, **given)
    return type(raised.value)


@pytest.mark.parametrize(
    ("target", "host", "path", "canonical", "upstream"),
    [
        (b"/", b"h:80", b"/", b"/", b"/"),
        (b"/a//b;x/c?y=//z", b"h:80", b"/a//b;x/c", b"/a/b/c", b"/a//b;x/c?y=//z"),
        (b"/%7Ea?", b"h:80", b"/%7Ea", b"/~a", b"/%7Ea?"),
        (b"http://h:80", b"h:80", b"/", b"/", b"/"),
        (b"HTTPS://h:80/a?b", b"h:80", b"/a", b"/a", b"/a?b"),
        (b"http://h:80?b", b"h:80", b"/", b"/", b"/?b"),
        (b"http://h:80/a", b"other", b"/a", b"/a", b"/a"),
        (b"http://h:80/?a=http://x/", b"h:80", b"/", b"/", b"/?a=http://x/"),
        (b"//evil/a", b"h:80", b"//evil/a", b"/evil/a", b"//evil/a"),
    ],
)
def test_target_is_read_one_way(target: bytes, host: bytes, path: bytes, canonical: bytes, upstream: bytes) -> None:
    request = passed(target, host)
    assert (request.host, request.path) == (b"h:80", path)
    assert (request.canonical_path, request.upstream_target) == (canonical, upstream)
    assert request.uri == target


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (b"/a/../b", BadPath),
        (b"/a/%2e%2E/b", BadPath),
        (b"/a#b", BadPath),
        (b"/a?b#c", BadPath),
        (b"/%00", BadPath),
        (b"/%zz", BadPath),
        (b"/\\", BadPath),
        (b"http://h/../x", BadPath),
        (b"x", BadRequest),
        (b"*", BadRequest),
        (b"ftp://h/", BadRequest),
        (b"javascript:x", BadRequest),
        (b"http:/x", BadRequest),
        (b"http://u@h/", BadHost),
        (b"http:///x", BadHost),
        (b"http://h:99999/", BadHost),
    ],
)
def test_target_that_two_could_read_differently_is_refused(target: bytes, error: type[GatewayError]) -> None:
    assert refused(target) is error


@pytest.mark.parametrize("target", [b"a:443", b"/", b"http://a/", b"*"])
def test_connect_is_not_allowed(target: bytes) -> None:
    assert refused(target, method=b"CONNECT") is MethodNotAllowed


@pytest.mark.parametrize(
    "host",
    [
        None, b"", b":80", b"a b", b"a/b", b"a\\b", b"a?b", b"a#b", b"u@a", b"u:p@a", b"@a", b"a:", b"a:b", b"a:+1",
        b"a:65536", b"a:000080", b"a:80:80", b"::1", b"[::1", b"[]", b"[::1%25eth0]", b"[::1%eth0]", b"[v1.x]", b"[::1]a",
        b"[1.2.3.4]", b"[::1]:", b"a%41", b"a\xe9", b'"a"', b"<a>", b"a\tb", b"x" * 261,
    ],
)  # fmt: skip
def test_bad_host_is_refused(host: bytes | None) -> None:
    assert refused(b"/", host) is BadHost
    assert refused(b"http://a/", host) is BadHost
    if host is not None and b"/" not in host and b"?" not in host:  # an authority ends there
        assert refused(b"http://" + host + b"/", b"a") in {BadHost, BadPath}


@pytest.mark.parametrize(
    "host", [b"a", b"A.Example.COM.", b"a_b.example", b"a:0", b"a:65535", b"1.2.3.4:80", b"[::1]", b"[2001:DB8::1]:443"]
)
def test_good_host_is_kept_as_it_came(host: bytes) -> None:
    assert passed(b"/", host).host == host
    assert passed(b"http://" + host + b"/x", b"other").host == host


def test_host_may_be_missing_on_1_0_only() -> None:
    assert passed(b"/", None, version=b"HTTP/1.0").host is None
    assert refused(b"/", b"a b", version=b"HTTP/1.0") is BadHost
    assert refused(b"http://a/", None) is BadHost


def test_hosts_remembered_are_bounded() -> None:
    sanitize = Sanitize(Inner())
    for number in range(2 * _MAX_CACHED_HOSTS):
        sanitize.render(stub_request(fields={b"Host": b"h%d" % number}))
    assert len(sanitize._valid_hosts) == _MAX_CACHED_HOSTS


def test_options_of_everything_is_answered_here() -> None:
    channel, inner = StubChannel(), Inner()
    request = stub_request(b"OPTIONS", b"*", channel=channel)
    Sanitize(inner).render(request)
    assert inner.requests == []
    assert channel.events[0][1] == 204


@pytest.mark.parametrize(
    ("expectation", "version", "is_refused"),
    [
        (b"100-continue", b"HTTP/1.1", False),
        (b"100-Continue", b"HTTP/1.1", False),
        (b"200-ok", b"HTTP/1.1", True),
        (b"", b"HTTP/1.1", True),
        (b"200-ok", b"HTTP/1.0", False),
    ],
)
def test_expectations(expectation: bytes, version: bytes, is_refused: bool) -> None:
    given = {"more": {b"Expect": expectation}, "version": version}
    if is_refused:
        assert refused(**given) is ExpectationFailed  # type: ignore[arg-type]
    else:
        passed(**given)  # type: ignore[arg-type]


def test_options_for_the_server_in_absolute_form_is_answered_like_the_asterisk() -> None:
    channel = StubChannel()
    request = stub_request(b"OPTIONS", b"http://h:80", {b"Host": b"a"}, channel=channel)
    inner = Inner()
    Sanitize(inner).render(request)
    assert not inner.requests
    assert (request.status, request.path, request.host) == (204, b"*", b"h:80")


def test_every_expectation_counts_not_the_last_one_only() -> None:
    head = RequestHead(
        b"POST",
        b"/",
        b"HTTP/1.1",
        (
            (b"host", b"Host", b"a"),
            (b"expect", b"Expect", b"miracles"),
            (b"expect", b"Expect", b"100-continue"),
        ),
        {b"host": b"a", b"expect": b"100-continue"},
        1,
        True,
        b"",
    )
    with pytest.raises(ExpectationFailed):
        Sanitize(Inner()).render(GatewayRequest(StubChannel(), head))


def with_lines(*lines: tuple[bytes, bytes]) -> GatewayRequest:
    headers = tuple((name.lower(), name, value) for name, value in ((b"Host", b"a"), *lines))
    fields = {lowered: value for lowered, _, value in headers}
    return GatewayRequest(StubChannel(), RequestHead(b"GET", b"/", b"HTTP/1.1", headers, fields, -1, True, b""))


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization", b"Proxy-Authorization", b"Content-Type", b"Origin", b"Access-Control-Request-Method", b"Range",
        b"If-Range", b"If-Modified-Since", b"If-Unmodified-Since", b"Max-Forwards", b"Content-Range", b"Content-Location",
    ],
)  # fmt: skip
def test_second_line_of_a_field_that_has_one_value_is_refused(name: bytes) -> None:
    Sanitize(Inner()).render(with_lines((name, b"1")))
    for second in (b"1", b"2"):
        with pytest.raises(BadRequest):
            Sanitize(Inner()).render(with_lines((name, b"1"), (b"X-A", b""), (name.upper(), second)))


@pytest.mark.parametrize(
    "name",
    [b"Accept", b"Cookie", b"Via", b"X-Forwarded-For", b"If-Match", b"traceparent", b"User-Agent", b"Referer", b"X-A"],
)
def test_second_line_of_another_field_passes(name: bytes) -> None:
    inner = Inner()
    request = with_lines((name, b"1"), (name, b"2"))
    Sanitize(inner).render(request)
    assert inner.requests == [request]
    assert len(request.headers) == 3
