from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network

import pytest

from txgateway.config import syntax, vocabulary
from txgateway.config.targets import target


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("API.Example.com", "api.example.com"),
        ("api.example.com.", "api.example.com"),
        ("api.example.com:8080", "api.example.com"),
        ("*.example.com", "*.example.com"),
        ("10.0.0.1", "10.0.0.1"),
        ("[2001:DB8::0]", "[2001:db8::]"),
        ("localhost", "localhost"),
    ],
)
def test_host_pattern_is_normalized(text: str, pattern: str) -> None:
    assert syntax.host_pattern(text) == pattern


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.*.example.com", "a.*.com", "*example.com", "*.10.0.0.1", "a..b", "-a.com", "a b", "münchen.de",
     "10.0.0.256", "a/b", "a@b", "a:99999", "x" * 64 + ".com", "*."],
)  # fmt: skip
def test_host_pattern_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a host like"):
        syntax.host_pattern(text)


@pytest.mark.parametrize("path", ["/", "/api/v1", "=/exact", "=/", "/users/{id}/cv", "/a%20b", "/münchen", "/a/"])
def test_route_path_that_a_request_can_match_is_accepted(path: str) -> None:
    assert syntax.route_path(path) == path


@pytest.mark.parametrize(
    "path",
    ["", "api", "=", "/a?b", "/a#b", "/a;b", "/a b", "/a\n", "/a/../b", "/./a", "/%2e%2e/a", "/%", "/%zz", "/%00",
     "/a\\b", "/{id", "/id}", "/{}", "/{1a}", "/a{id}", "/{a}{b}", "/{id}/{id}", "=/{id}", "/" + "a" * 3000],
)  # fmt: skip
def test_route_path_that_no_request_can_match_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        syntax.route_path(path)


def test_rewrite_uses_placeholders_anywhere() -> None:
    assert syntax.rewrite_placeholders(str(syntax.rewrite_path("/v2/cv-{id}/{part}"))) == ("id", "part")


@pytest.mark.parametrize("path", ["", "v2", "/{", "/}", "/{a", "/{a}}", "/{{a}}", "/{}", "/a?b", "/ü"])
def test_rewrite_that_cannot_be_sent_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        syntax.rewrite_path(path)


@pytest.mark.parametrize("name", ["", "a b", "a:", "ä", "Content-Length", "transfer-encoding", "HOST", "Connection"])
def test_header_name_that_may_not_be_set_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a header"):
        syntax.header_name(name)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\0", " a", "a ", "ü", "x" * 9000, None])
def test_header_value_with_line_ends_or_more_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        syntax.header_value(value)


def test_header_table_never_repeats_a_value() -> None:
    with pytest.raises(ValueError, match="X-Token") as caught:
        syntax.header_table({"X-Token": "s3cret\n"})
    assert "s3cret" not in str(caught.value)


def test_header_table_with_one_name_in_two_cases_is_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        syntax.header_table({"X-A": "1", "x-a": "2"})


@pytest.mark.parametrize("text", ["get", "CONNECT", "", "G T", "GET\n"])
def test_method_that_is_not_routed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a method in upper case"):
        syntax.method(text)


def test_network_of_a_bare_address_is_a_network_of_one() -> None:
    assert syntax.network("10.0.0.1") == ip_network("10.0.0.1/32")
    assert syntax.network("fd00::/8") == ip_network("fd00::/8")


@pytest.mark.parametrize("text", ["", "10.0.0.1/8", "10.0.0.0/33", "x", "10.0.0"])
def test_network_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a network"):
        syntax.network(text)


@pytest.mark.parametrize("text", ["*", "https://app.example.com", "https://*.example.com", "http://localhost:3000"])
def test_origin_is_accepted(text: str) -> None:
    assert syntax.origin(text) == text


@pytest.mark.parametrize(
    "text",
    ["app.example.com", "https://a/", "https://a?x", "https://u@a", "https://*", "ftp://a", "", "https://"],
)
def test_origin_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected an origin"):
        syntax.origin(text)


@pytest.mark.parametrize(
    "text",
    ["", "tcp:8000", "tcp:8000:interface=127.0.0.1 tcp6:8001", "tcp:port=0;plain", "unix:/run/gateway.sock",
     "systemd:domain=INET:index=0", "haproxy:tcp:8443 haproxy:tcp6:8080:interface=\\:\\:1;plain",
     "haproxy:systemd:domain=INET6:index=0"],
)  # fmt: skip
def test_endpoints_that_twisted_can_listen_on_are_accepted(text: str) -> None:
    assert syntax.endpoints(text) == tuple(text.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ssl:443:privateKey=a:certKey=b", "another endpoint than ssl:"),
        ("tcp:http", "tcp:8000"),
        ("tcp:70000", "from 0 to 65535"),
        ("tcp", "tcp:8000"),
        ("tcp:80:nonsense=1", "tcp:8000"),
        ("8000", "tcp:8000"),
        ("tcp:80;tls", "nothing but ;plain"),
        ("tcp:80 tcp:80", "once"),
        ("haproxy:tcp:80 haproxy:tcp:80", "once"),
        ("haproxy:ssl:443:privateKey=a:certKey=b", "another endpoint than ssl:"),
        ("haproxy:tcp:http", "tcp:8000"),
        ("haproxy:tcp:70000", "from 0 to 65535"),
        ("haproxy:tcp:80;tls", "nothing but ;plain"),
        ("haproxy:unix:/run/gateway.sock", "in front of an endpoint of tcp:, tcp6: or systemd:"),
        ("haproxy:haproxy:tcp:80", "in front of an endpoint"),
        ("haproxy:", "in front of an endpoint"),
        ("haproxy", "in front of an endpoint"),
        ("HAPROXY:tcp:80", "tcp:8000"),
    ],
)
def test_endpoint_that_twisted_cannot_listen_on_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        syntax.endpoints(text)


@pytest.mark.parametrize(
    ("url", "scheme", "host", "port", "path", "label"),
    [
        ("http://10.0.0.1:9000", "http", "10.0.0.1", 9000, "", "10.0.0.1:9000"),
        ("http://Example.com/", "http", "example.com", 80, "", "example.com:80"),
        ("https://example.com", "https", "example.com", 443, "", "example.com:443"),
        ("http://[::1]:81", "http", "::1", 81, "", "[::1]:81"),
        ("unix:/run/a.sock", "unix", "", 0, "/run/a.sock", "unix:/run/a.sock"),
    ],
)
def test_target_url_is_taken_apart(url: str, scheme: str, host: str, port: int, path: str, label: str) -> None:
    found = target(url)
    assert (found.scheme, found.host, found.port, found.path, found.label) == (scheme, host, port, path, label)
    assert found.weight == 1
    assert not found.is_demo


def test_target_demo_is_the_built_in_backend() -> None:
    assert target("demo").is_demo


@pytest.mark.parametrize(
    "url",
    ["", "10.0.0.1:9000", "ftp://a", "http://", "http://a/path", "http://a?q", "http://a/?", "http://a#", "http://u:p@a",
     "http://a:0", "http://a:70000", "http://a:", "http://a:x", "http://a b", "http://[::1", "http://[fe80::1%25eth0]",
     "http:a", "http:///a", "http://a\n", "http://-a", "unix:a", "unix:", "unix://a", "unix:/" + "x" * 200, "Demo"],
)  # fmt: skip
def test_target_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        target(url)


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (vocabulary.load_balancer, "hash:header:X-User"),
        (vocabulary.load_balancer, "hash:cookie:Session"),
        (vocabulary.load_balancer, "random"),
        (vocabulary.bucket_key, "header:x-user"),
        (vocabulary.retry_condition, "5xx"),
        (vocabulary.retry_condition, "429"),
        (vocabulary.workers, "auto"),
        (vocabulary.probe_prefix, ""),
        (vocabulary.redis_url, "redis://user:pass@host:6379/0"),
        (vocabulary.redis_url, "rediss://host"),
        (vocabulary.redis_url, "unix:///run/redis.sock"),
        (vocabulary.jwks_url, "https://idp.example.com/jwks?x=1"),
        (vocabulary.redirect_target, "https://new.example.com/a"),
        (vocabulary.redirect_target, "/elsewhere"),
    ],
)
def test_words_of_single_settings_are_accepted(parse: Callable[[object], object], value: str) -> None:
    assert parse(value) == value


@pytest.mark.parametrize(
    ("parse", "value"),
    [
        (vocabulary.load_balancer, "hash:header:"),
        (vocabulary.load_balancer, "hash:cookie:a b"),
        (vocabulary.load_balancer, "header:x"),
        (vocabulary.load_balancer, "fastest"),
        (vocabulary.bucket_key, "cookie"),
        (vocabulary.bucket_key, "header:"),
        (vocabulary.retry_condition, "600"),
        (vocabulary.retry_condition, "50"),
        (vocabulary.workers, "0"),
        (vocabulary.workers, "many"),
        (vocabulary.probe_prefix, "health"),
        (vocabulary.probe_prefix, "/"),
        (vocabulary.redis_url, "http://host"),
        (vocabulary.redis_url, "redis://host/x"),
        (vocabulary.redis_url, "unix://"),
        (vocabulary.redis_url, "unix://a/b"),
        (vocabulary.redis_url, "redis://host?db=1"),
        (vocabulary.redis_url, "redis://host:99999"),
        (vocabulary.jwks_url, "https://u:p@host/jwks"),
        (vocabulary.redirect_target, "//evil"),
        (vocabulary.redirect_target, "javascript:alert(1)"),
        (vocabulary.redirect_target, "/a\r\nSet-Cookie: b"),
        (vocabulary.redirect_status, 200),
        (vocabulary.status_ranges, ""),
        (vocabulary.status_ranges, "399-200"),
        (vocabulary.status_ranges, "2xx"),
        (vocabulary.status_ranges, "700"),
    ],
)
def test_words_of_single_settings_that_are_none_are_refused(parse: Callable[[object], object], value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(value)


def test_status_ranges_are_pairs() -> None:
    assert vocabulary.status_ranges("200,301-303") == ((200, 200), (301, 303))
    assert vocabulary.status_ranges([204, "300-399"]) == ((204, 204), (300, 399))
