"""CORS: who is allowed, against a reading that takes origins apart; what answers say; whose preflights are answered."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.config import SecurityHeaders
from txgateway.cors import CORS_FIELDS, CorsPolicy, with_cors
from txgateway.errors import MethodNotAllowed, NoRoute, OriginNotAllowed
from txgateway.fields import Fields, ReceivedHeaders
from txgateway.middleware.cors import Cors, EdgeCors, Preflights
from txgateway.middleware.router import RouteEntry, Router
from txgateway.middleware.security_headers import SecurityFields
from txgateway.routing.table import RouteRule, RouteTable
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.transport.interfaces import HeaderList

# --- origins --------------------------------------------------------------------------------------------------------

HOSTS = [
    "example.com",
    "a.example.com",
    "b.a.example.com",
    "evilexample.com",
    "example.com.evil.com",
    "localhost",
    "a-b.c",
]
SCHEMES = ["http", "https"]
PORTS = ["", ":80", ":443", ":8443"]

listed_origins = st.one_of(
    st.builds("{}://{}{}".format, st.sampled_from(SCHEMES), st.sampled_from(HOSTS), st.sampled_from(PORTS)),
    st.builds("{}://*.{}{}".format, st.sampled_from(SCHEMES), st.sampled_from(HOSTS), st.sampled_from(PORTS)),
    st.sampled_from(["null", "*"]),
)
sent_origins = st.one_of(
    st.builds(
        "{}://{}{}".format, st.sampled_from(SCHEMES), st.sampled_from(HOSTS), st.sampled_from(["", ":8443", ":80"])
    ),
    st.sampled_from(["null", "", "https://", "example.com", "https://.example.com", "https://a..example.com", "*"]),
    st.text("htps:/.-aexmplco@#?*1 ", max_size=25),
)


@st.composite
def changed_origins(draw: st.DrawFn) -> bytes:
    """An origin as sent, sometimes with a character put in or in another case."""
    origin = draw(sent_origins)
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(origin)))
        origin = origin[:at] + draw(st.sampled_from(list("./:@#?\\\n\0 xX-é"))) + origin[at:]
    if draw(st.integers(0, 3)) == 0:
        origin = origin.upper()
    return origin.encode("latin-1")


def parts(origin: str) -> tuple[str, list[str], int] | None:
    """Scheme, labels of the host, port; None if it is not written as browsers and configurations write it."""
    if (
        re.fullmatch(r"https?://[A-Za-z0-9*_-]+(\.[A-Za-z0-9*_-]+)*(:[0-9]+)?", origin, re.ASCII | re.IGNORECASE)
        is None
    ):
        return None
    split = urlsplit(origin.lower())
    return split.scheme, (split.hostname or "").split("."), split.port or {"http": 80, "https": 443}[split.scheme]


def is_allowed(listed: list[str], origin: bytes) -> bool:
    text = origin.decode("latin-1").lower()
    if "*" in listed:
        return True
    if text == "null":
        return "null" in listed
    sent = parts(text)
    # No browser names the scheme's default port.
    if sent is None or "*" in text or re.fullmatch(r"http:.*:80|https:.*:443", text) is not None:
        return False
    for entry in filter(None, map(parts, listed)):
        scheme, labels, port = entry
        is_same = labels == sent[1]
        is_below = labels[0] == "*" and len(sent[1]) >= len(labels) and sent[1][1 - len(labels) :] == labels[1:]
        if (scheme, port) == (sent[0], sent[2]) and (is_same or is_below):
            return True
    return False


@example(["https://*.example.com"], b"https://example.com")
@example(["https://*.example.com"], b"https://evilexample.com")
@example(["https://*.example.com"], b"https://a.example.com.evil.com")
@given(st.lists(listed_origins, min_size=1, max_size=3), changed_origins())
@settings(deadline=None, max_examples=1000)
def test_origin_is_allowed_exactly_if_it_is_listed(listed: list[str], origin: bytes) -> None:
    policy = CorsPolicy(listed)
    expected = is_allowed(listed, origin)
    assert policy.verdict(origin) == ((b"*" if "*" in listed else origin) if expected else None)
    for _ in range(2):  # once worked out, once remembered
        said = [value for name, _, value in policy.fields(origin).fields if name == b"access-control-allow-origin"]
        assert said == ([policy.verdict(origin)] if expected else [])


# --- answers --------------------------------------------------------------------------------------------------------

policies = st.builds(
    lambda listed, methods, headers, exposed, credentials: CorsPolicy(
        listed, methods, headers, exposed, allow_credentials=credentials and "*" not in listed
    ),
    st.lists(listed_origins, min_size=1, max_size=3),
    st.lists(st.sampled_from(["GET", "PUT", "DELETE"]), unique=True),
    st.lists(st.sampled_from(["X-A", "x-b", "Authorization"]), unique=True),
    st.lists(st.sampled_from(["X-C", "X-D"]), unique=True),
    st.booleans(),
)
backends = st.lists(
    st.builds(
        lambda name, up, value: (name, name.upper() if up else name.title(), value),
        st.sampled_from([*sorted(CORS_FIELDS), b"vary", b"vary", b"x-a", b"set-cookie"]),
        st.booleans(),
        st.sampled_from([b"", b"*", b"true", b"Origin", b"accept, ORIGIN", b"Accept", b"https://evil.example", b","]),
    ),
    max_size=6,
)


def values(headers: HeaderList, name: bytes) -> list[bytes]:
    return [value for lowered, _, value in headers if lowered == name]


def varies(headers: HeaderList) -> list[bytes]:
    return [item.strip().lower() for value in values(headers, b"vary") for item in value.split(b",") if item.strip()]


@given(policies, backends, st.one_of(st.none(), changed_origins()))
@settings(deadline=None, max_examples=500)
def test_answer_has_each_cors_field_at_most_once_and_only_ours(
    policy: CorsPolicy, backend: HeaderList, origin: bytes | None
) -> None:
    made = policy.fields(origin)
    fields = made.fields
    result = with_cors(list(backend), made)
    assert [field for field in result if field[0] in CORS_FIELDS] == [
        field for field in fields if field[0] in CORS_FIELDS
    ]
    assert len({field[0] for field in fields}) == len(fields)
    kept = [field for field in backend if field[0] not in CORS_FIELDS | {b"vary"}]
    assert [field for field in result if field[0] not in CORS_FIELDS | {b"vary"}] == kept
    before, after = varies(backend), varies(result)
    depends = values(list(fields), b"vary") == [b"Origin"]
    assert sorted(after) == sorted(before + [b"origin"] * (depends and not {b"*", b"origin"} & set(before)))
    assert with_cors(list(result), made) == result
    # Never the two that browsers refuse, and that would open the route if they did not.
    if values(result, b"access-control-allow-origin") == [b"*"]:
        assert not values(result, b"access-control-allow-credentials")


@given(policies, st.lists(st.one_of(st.none(), changed_origins()), min_size=2, max_size=4))
@settings(deadline=None, max_examples=300)
def test_answers_differ_by_origin_only_where_vary_says_so(policy: CorsPolicy, origins: list[bytes | None]) -> None:
    answers = [policy.fields(origin).fields for origin in origins]
    if len(set(answers)) > 1:
        assert all((b"vary", b"Vary", b"Origin") in answer for answer in answers)


@given(policies, changed_origins(), st.sampled_from([b"GET", b"PUT", b"put", b"PATCH", b""]), st.data())
@settings(deadline=None, max_examples=500)
def test_preflight_allows_what_the_policy_allows(
    policy: CorsPolicy, origin: bytes, method: bytes, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(["x-a", "X-B", "authorization", "x-evil", "a b"]), max_size=3))
    answer = policy.preflight(origin, method, ", ".join(names).encode())
    if policy.verdict(origin) is None:
        assert answer is None
        return
    assert answer is not None
    assert len({field[0] for field in answer}) == len(answer)
    assert values(answer, b"access-control-allow-origin") == [policy.verdict(origin)]
    methods = values(answer, b"access-control-allow-methods")
    assert bool(methods) is (method in policy._methods)
    assert not methods or method in methods[0].split(b", ")
    headers = values(answer, b"access-control-allow-headers")
    allowed = {name.lower() for value in headers for name in value.split(b", ")}
    asked = {name.lower().encode() for name in names}
    assert asked <= allowed if headers else not policy._header_names or asked - policy._header_names


# --- the decorators -------------------------------------------------------------------------------------------------


@given(policies, policies, backends, st.one_of(st.none(), changed_origins()), st.booleans())
@settings(deadline=None, max_examples=300)
def test_route_and_edge_never_both_speak(
    edge: CorsPolicy, route: CorsPolicy, backend: HeaderList, origin: bytes | None, is_routed: bool
) -> None:
    channel = StubChannel()
    request = stub_request(fields={b"Host": b"a"} if origin is None else {b"Origin": origin}, channel=channel)
    EdgeCors(Cors(Inner(), route) if is_routed else Inner(), edge).render(request)
    request.route_name = "r" if is_routed else None
    request.answer(200, list(backend), b"")
    expected = with_cors(list(backend), (route if is_routed else edge).fields(origin))
    assert channel.events[0][3] == [(name, value) for _, name, value in expected]


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[RouteRule, bool]]:
    """Rules, and whether each has CORS."""
    rule = st.builds(
        lambda path, methods: RouteRule("", path=path, methods=tuple(methods)),
        st.sampled_from(["/", "/a", "=/a", "/a/b"]),
        st.lists(st.sampled_from(["GET", "PUT", "OPTIONS"]), max_size=2, unique=True),
    )
    return draw(st.lists(st.tuples(rule, st.booleans()), min_size=1, max_size=5))


@given(
    tables(),
    st.sampled_from([b"/", b"/a", b"/a/b", b"/c"]),
    st.sampled_from([b"GET", b"PUT", b"HEAD", b"DELETE"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=500)
def test_preflight_is_answered_exactly_for_routes_with_cors(
    rules: list[tuple[RouteRule, bool]], path: bytes, asked: bytes, is_allowed: bool
) -> None:
    policy = CorsPolicy(["https://app.example.com"])
    ends: dict[int, Inner] = {}

    def entry(number: int, has_cors: bool) -> RouteEntry:
        ends[number] = Inner()
        preflights = Preflights(policy) if has_cors else None
        return RouteEntry(str(number), ends[number], RequestMetrics().route("r"), False, preflights)

    try:
        table = RouteTable((rule, entry(number, has_cors)) for number, (rule, has_cors) in enumerate(rules))
    except ValueError:
        assume(False)
    channel = StubChannel()
    origin = b"https://app.example.com" if is_allowed else b"https://evil.example"
    fields = {b"Origin": origin, b"Access-Control-Request-Method": asked}
    request = stub_request(b"OPTIONS", path, fields, channel=channel)
    request.path = request.canonical_path = path
    wanted, ordinary = found(table, path, asked), found(table, path, b"OPTIONS")
    try:
        Router(table).render(request)
    except OriginNotAllowed:
        assert wanted is not None
        assert wanted.preflights is not None
        assert not is_allowed
    except (NoRoute, MethodNotAllowed):
        assert ordinary is None
        assert wanted is None or wanted.preflights is None
        assert request.route_name is None
        return
    if wanted is not None and wanted.preflights is not None:
        assert request.route_name == wanted.name
        assert not any(end.requests for end in ends.values())
        assert not is_allowed or channel.events[0][1] == 204
    else:
        assert ordinary is not None
        assert request.route_name == ordinary.name
        assert ends[int(ordinary.name)].requests == [request]


def found(table: RouteTable[RouteEntry], path: bytes, method: bytes) -> Any:
    try:
        return table.match(b"", path, method, {})[0]
    except (NoRoute, MethodNotAllowed):
        return None


def rendered(fields: HeaderList) -> list[bytes]:
    """The lines that a response writer makes of a header list."""
    if isinstance(fields, ReceivedHeaders) and fields.names is not None:
        wire, rest = fields.wire, fields[fields.shared :]
    else:
        wire, rest = b"", fields
    return (wire + b"".join(b"%b: %b\r\n" % (name, value) for _, name, value in rest)).split(b"\r\n")


@given(policies, backends, st.one_of(st.none(), changed_origins()), st.booleans(), st.booleans())
@example(CorsPolicy(["https://a.test"]), [(b"vary", b"Vary", b"Origin")], b"https://a.test", True, True)
@settings(deadline=None, max_examples=500)
def test_head_that_comes_again_gets_the_fields_of_one_that_is_new(
    policy: CorsPolicy, backend: HeaderList, origin: bytes | None, has_lines: bool, via: bool
) -> None:
    wire = b"".join(b"%b: %b\r\n" % (name, value) for _, name, value in backend) if has_lines else b""
    known: HeaderList = ReceivedHeaders(backend, {lowered: value for lowered, _, value in backend}, wire)
    plain: HeaderList = list(backend)
    security = SecurityFields(SecurityHeaders())
    for step in (
        *([Fields([(b"via", b"Via", b"1.1 txgateway")]).added_to] if via else []),
        lambda headers: with_cors(headers, policy.fields(origin)),
        lambda headers: security.added_to(headers, is_secure=True),
    ):
        known, plain = step(known), step(plain)
    assert rendered(known) == rendered(plain)
