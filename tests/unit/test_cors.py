from __future__ import annotations

import pytest

from txgateway.cors import MAX_ORIGIN_BYTES, CorsPolicy, is_preflight, with_cors
from txgateway.transport.interfaces import HeaderList

APP = b"https://app.example.com"


def policy(*origins: str, allow_credentials: bool = False, max_age_s: float = 600.0) -> CorsPolicy:
    return CorsPolicy(
        origins,
        ("GET", "PUT"),
        ("Authorization", "X-A"),
        ("X-B", "X-C"),
        allow_credentials=allow_credentials,
        max_age_s=max_age_s,
    )


def pairs(headers: HeaderList | tuple[tuple[bytes, bytes, bytes], ...] | None) -> dict[bytes, bytes]:
    assert headers is not None
    assert len({name.lower() for _, name, _ in headers}) == len(headers)
    assert all(lowered == name.lower() for lowered, name, _ in headers)
    return {name: value for _, name, value in headers}


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("https://app.example.com", APP),
        ("https://App.Example.COM", APP),
        ("https://app.example.com", b"HTTPS://APP.example.com"),
        ("https://app.example.com:443", APP),
        ("https://app.example.com:0443", APP),
        ("http://app.example.com:80", b"http://app.example.com"),
        ("http://localhost:3000", b"http://localhost:3000"),
        ("http://app.example.com:443", b"http://app.example.com:443"),
        ("http://[0:0::1]:8080", b"http://[::1]:8080"),
        ("https://[::1]:443", b"https://[::1]"),
        ("https://*.example.com", APP),
        ("https://*.example.com", b"https://a.b.example.com"),
        ("https://*.example.com", b"https://A.Example.com"),
        ("https://*.example.com:443", APP),
        ("https://*.example.com:8443", b"https://a.example.com:8443"),
        ("null", b"null"),
    ],
)
def test_listed_origin_is_allowed_and_repeated_as_it_came(listed: str, origin: bytes) -> None:
    assert policy(listed).verdict(origin) == origin
    assert policy("https://other.example.org", listed).verdict(origin) == origin


@pytest.mark.parametrize(
    ("listed", "origin"),
    [
        ("https://app.example.com", b"http://app.example.com"),
        ("https://app.example.com", b"https://app.example.com:8443"),
        ("https://app.example.com", b"https://app.example.com:443"),
        ("https://app.example.com", b"https://app.example.com.evil.com"),
        ("https://app.example.com", b"https://app.example.com/"),
        ("https://app.example.com", b"https://app.example.com."),
        ("https://app.example.com", b"https://x.app.example.com"),
        ("https://app.example.com", b"https://app-example.com"),
        ("https://app.example.com", b"app.example.com"),
        ("https://app.example.com", b"null"),
        ("https://app.example.com", b""),
        ("https://app.example.com:8443", APP),
        ("https://*.example.com", b"https://example.com"),
        ("https://*.example.com", b"https://.example.com"),
        ("https://*.example.com", b"https://a..example.com"),
        ("https://*.example.com", b"https://evilexample.com"),
        ("https://*.example.com", b"https://a.example.com.evil.com"),
        ("https://*.example.com", b"https://a.exampleXcom"),
        ("https://*.example.com", b"https://evil.com/.example.com"),
        ("https://*.example.com", b"https://evil.com#.example.com"),
        ("https://*.example.com", b"https://evil.com:80.example.com"),
        ("https://*.example.com", b"https://evil.com@a.example.com"),
        ("https://*.example.com", b"https://a.example.com\n"),
        ("https://*.example.com", b"http://a.example.com"),
        ("https://*.example.com", b"https://a.example.com:8443"),
        ("https://*.example.com", b"null"),
        ("https://*.example.com", b"https://" + b"a." * MAX_ORIGIN_BYTES + b"example.com"),
        ("null", b"nul"),
    ],
)
def test_other_origin_is_not_allowed(listed: str, origin: bytes) -> None:
    assert policy(listed).verdict(origin) is None
    assert policy(listed).preflight(origin, b"GET", b"") is None


@pytest.mark.parametrize("origin", [APP, b"null", b"", b"file://", b"x" * 5000])
def test_asterisk_allows_all(origin: bytes) -> None:
    assert policy("*").verdict(origin) == b"*"
    assert policy("https://a.example", "*").verdict(origin) == b"*"


def test_asterisk_with_credentials_is_impossible() -> None:
    with pytest.raises(ValueError, match="credentials"):
        policy("https://a.example", "*", allow_credentials=True)


@pytest.mark.parametrize(
    "origin",
    [
        "", "example.com", "https://", "://example.com", "https://a b", "https://example.com/", "https://*", "https://*.",
        "https://a.*.example.com", "https://*.*.example.com", "https://*example.com", "*.example.com", "https://*.[::1]",
        "https://u@example.com", "https://exämple.com",
    ],
)  # fmt: skip
def test_malformed_origin_is_an_error(origin: str) -> None:
    with pytest.raises(ValueError, match="expected an origin"):
        policy(origin)


def test_ordinary_answer_to_an_allowed_origin() -> None:
    assert pairs(policy("https://*.example.com", allow_credentials=True).fields(APP).fields) == {
        b"Vary": b"Origin",
        b"Access-Control-Allow-Origin": APP,
        b"Access-Control-Allow-Credentials": b"true",
        b"Access-Control-Expose-Headers": b"X-B, X-C",
    }
    assert pairs(CorsPolicy(["https://app.example.com"]).fields(APP).fields) == {
        b"Vary": b"Origin",
        b"Access-Control-Allow-Origin": APP,
    }


@pytest.mark.parametrize("origin", [None, b"https://other.example", b"null"])
def test_ordinary_answer_to_others_says_only_that_it_depends(origin: bytes | None) -> None:
    assert pairs(policy("https://app.example.com", allow_credentials=True).fields(origin).fields) == {
        b"Vary": b"Origin"
    }


@pytest.mark.parametrize("origin", [None, APP])
def test_ordinary_answer_to_all_is_always_the_same(origin: bytes | None) -> None:
    assert pairs(policy("*").fields(origin).fields) == {
        b"Access-Control-Allow-Origin": b"*",
        b"Access-Control-Expose-Headers": b"X-B, X-C",
    }


def test_answers_remembered_are_bounded() -> None:
    allowing = policy("https://*.example.com")
    for number in range(2000):
        allowing.fields(b"https://%d.example.com" % number)
    assert allowing._cached_fields.cache_info().currsize <= 1024
    assert allowing.fields(b"https://" + b"x" * 9000) is allowing.fields(b"https://" + b"y" * 9000)


def test_preflight_that_asks_for_what_is_allowed() -> None:
    answer = policy("https://app.example.com", allow_credentials=True).preflight(APP, b"PUT", b"x-a,AUTHORIZATION")
    assert pairs(answer) == {
        b"Vary": b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        b"Access-Control-Allow-Origin": APP,
        b"Access-Control-Allow-Credentials": b"true",
        b"Access-Control-Max-Age": b"600",
        b"Access-Control-Allow-Methods": b"GET, PUT",
        b"Access-Control-Allow-Headers": b"Authorization, X-A",
    }


def test_preflight_where_all_origins_are_allowed_depends_on_what_it_asks_only() -> None:
    answer = pairs(policy("*").preflight(APP, b"PUT", b""))
    assert answer[b"Access-Control-Allow-Origin"] == b"*"
    assert answer[b"Vary"] == b"Access-Control-Request-Method, Access-Control-Request-Headers"
    assert b"Access-Control-Allow-Credentials" not in answer


@pytest.mark.parametrize("method", [b"DELETE", b"put", b"PUT ", b"", b"*"])
def test_preflight_for_another_method_is_answered_without_methods(method: bytes) -> None:
    answer = pairs(policy("https://app.example.com").preflight(APP, method, b"x-a"))
    assert b"Access-Control-Allow-Methods" not in answer
    assert answer[b"Access-Control-Allow-Headers"] == b"Authorization, X-A"
    assert answer[b"Access-Control-Allow-Origin"] == APP


@pytest.mark.parametrize("headers", [b"x-evil", b"x-a, x-evil", b"*", b'"x-a', b"x-a x-evil"])
def test_preflight_for_another_header_is_answered_without_headers(headers: bytes) -> None:
    answer = pairs(policy("https://app.example.com").preflight(APP, b"PUT", headers))
    assert b"Access-Control-Allow-Headers" not in answer
    assert answer[b"Access-Control-Allow-Methods"] == b"GET, PUT"


@pytest.mark.parametrize(
    ("asked", "allowed"), [(b"X-Any, authorization", b"x-any, authorization"), (b"", None), (b"a b", None)]
)
def test_asterisk_among_headers_allows_each_by_name(asked: bytes, allowed: bytes | None) -> None:
    anything = CorsPolicy(["https://app.example.com"], ["GET"], ["*"], allow_credentials=True)
    assert pairs(anything.preflight(APP, b"GET", asked)).get(b"Access-Control-Allow-Headers") == allowed


@pytest.mark.parametrize(("max_age_s", "told"), [(0.0, b"0"), (0.25, b"0"), (1.9, b"1"), (86400.0, b"86400")])
def test_age_is_told_in_whole_seconds(max_age_s: float, told: bytes) -> None:
    answer = policy("https://app.example.com", max_age_s=max_age_s).preflight(APP, b"GET", b"")
    assert pairs(answer)[b"Access-Control-Max-Age"] == told


def test_preflight_is_an_options_with_origin_and_asked_method() -> None:
    fields = {b"origin": APP, b"access-control-request-method": b"PUT"}
    assert is_preflight(b"OPTIONS", fields)
    assert not is_preflight(b"GET", fields)
    assert not is_preflight(b"options", fields)
    for name, value in fields.items():
        assert not is_preflight(b"OPTIONS", {name: value})


@pytest.mark.parametrize(
    ("vary", "merged"),
    [
        ([], [b"Origin"]),
        ([b"Accept-Encoding"], [b"Accept-Encoding, Origin"]),
        ([b"accept, origin"], [b"accept, origin"]),
        ([b"ORIGIN"], [b"ORIGIN"]),
        ([b"*"], [b"*"]),
        ([b""], [b"Origin"]),
        ([b"X-Origin"], [b"X-Origin, Origin"]),
        ([b"A", b"B"], [b"A, Origin", b"B"]),
        ([b"A", b"B, Origin"], [b"A", b"B, Origin"]),
        ([b"A", b"*"], [b"A", b"*"]),
    ],
)
def test_vary_is_merged(vary: list[bytes], merged: list[bytes]) -> None:
    headers = [(b"vary", b"VARY", value) for value in vary]
    result = with_cors(headers, policy("https://app.example.com").fields(None))
    assert [value for lowered, _, value in result if lowered == b"vary"] == merged


def test_fields_of_a_backend_open_nothing() -> None:
    headers = [
        (b"access-control-allow-origin", b"access-control-allow-origin", b"*"),
        (b"x-a", b"X-A", b"1"),
        (b"access-control-allow-origin", b"Access-Control-Allow-Origin", b"https://evil.example"),
        (b"access-control-allow-credentials", b"Access-Control-Allow-Credentials", b"true"),
        (b"access-control-expose-headers", b"Access-Control-Expose-Headers", b"*"),
        (b"access-control-allow-methods", b"Access-Control-Allow-Methods", b"*"),
        (b"access-control-allow-headers", b"Access-Control-Allow-Headers", b"*"),
        (b"access-control-max-age", b"Access-Control-Max-Age", b"9"),
        (b"access-control-allow-private-network", b"Access-Control-Allow-Private-Network", b"true"),
    ]
    closed = with_cors(list(headers), policy("https://app.example.com").fields(b"https://evil.example"))
    assert closed == [(b"x-a", b"X-A", b"1"), (b"vary", b"Vary", b"Origin")]
    opened = with_cors(list(headers), CorsPolicy(["https://app.example.com"]).fields(APP))
    assert opened == [
        (b"x-a", b"X-A", b"1"),
        (b"vary", b"Vary", b"Origin"),
        (b"access-control-allow-origin", b"Access-Control-Allow-Origin", APP),
    ]
