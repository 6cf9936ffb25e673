"""What an attacker writes to reach a protected path by a weaker route, and what Sanitize lets through at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.errors import BadPath, BadRequest
from txgateway.middleware.sanitize import Sanitize
from txgateway.request import GatewayRequest
from txgateway.routing.table import RouteRule, RouteTable
from txgateway.transport.interfaces import RequestHead

Segments = tuple[bytes, ...]

# --- how lenient backends read a path -----------------------------------------------------------------------------


def as_it_is(path: bytes) -> bytes:
    return path


def without_parameters(path: bytes) -> bytes:
    return re.sub(rb";[^/]*", b"", path)


def decoded(path: bytes) -> bytes:
    """Percent-decoded once, and overlong UTF-8 (two bytes for an ASCII character) taken for what it stands for."""
    return re.sub(
        rb"[\xc0\xc1][\x80-\xbf]",
        lambda found: bytes(((found[0][0] & 1) << 6 | found[0][1] & 0x3F,)),
        unquote_to_bytes(path),
    )


def backslash_is_slash(path: bytes) -> bytes:
    return path.replace(b"\\", b"/")


def up_to_nul(path: bytes) -> bytes:
    return path.partition(b"\0")[0]


def all_segments(path: bytes) -> Segments:
    return tuple(path.split(b"/")[1:])


def merged(path: bytes) -> Segments:
    return tuple(segment for segment in path.split(b"/") if segment)


def without_dots(path: bytes) -> Segments:
    """RFC 3986 section 5.2.4, empty segments merged."""
    kept: list[bytes] = []
    for segment in merged(path):
        if segment == b"..":
            kept[-1:] = []
        elif segment != b".":
            kept.append(segment)
    return tuple(kept)


ORDERS: tuple[tuple[Callable[[bytes], bytes], ...], ...] = (
    (as_it_is,),
    (without_parameters,),
    (decoded,),
    (decoded, without_parameters),
    (without_parameters, decoded),
    (without_parameters, decoded, without_parameters),
)


def readings(path: bytes) -> Iterator[Segments]:
    """The segments that one backend or another sees."""
    for order, slashes, ends, split in product(
        ORDERS, (as_it_is, backslash_is_slash), (as_it_is, up_to_nul), (all_segments, merged, without_dots)
    ):
        read = path
        for step in order:
            read = step(read)
        yield split(ends(slashes(read)))


# --- spellings ------------------------------------------------------------------------------------------------------

DIVIDERS = (
    b"/ / / // /// %2f %2F /%2f \\ %5c %5C /./ /%2e/ /x/../ /x/%2E%2e/ /x/..;/ /;/ /;a=b/ /%3b/ ;/ ;x/ %3Bx/ %3b%2f ;%2F "
    b"/.;/ /%252e/ %252f /%c0%ae/ %c0%af %c1%9c %e0%80%af /%00/ %00 /%20/ /x;/../ /x/.%2e/ ;%2fx/ ;%2Fx%2F %3b%2fx/"
).split()
ENDS = (
    b"|/|.|..|%2e|/.|/..|/x/..|%20|;|;a|;a/b|%3B|%3Ba|%3ba%2Fb|%00|%00.txt|\\|%5c|/;|//|?x=/|%3f|%23|%0a|%09|%25".split(
        b"|"
    )
)


def characters(character: int) -> st.SearchStrategy[bytes]:
    """One character of a segment, itself most of the time."""
    plain, lower, upper = bytes((character,)), b"%%%02x" % character, b"%%%02X" % character
    overlong = b"%%%02x%%%02x" % (0xC0 | character >> 6, 0x80 | character & 0x3F)
    return st.sampled_from([plain] * 6 + [lower, upper, lower, upper, b"%25" + lower[1:], overlong])


@st.composite
def spellings(draw: st.DrawFn, path: Segments) -> bytes:
    """``path``, written in a way that some backend might read as it."""
    spelled = b""
    for segment in path:
        divider = draw(st.sampled_from(DIVIDERS)) if draw(st.integers(0, 2)) == 0 else b"/"
        spelled += divider + b"".join(draw(characters(character)) for character in segment)
    if not spelled.startswith(b"/"):
        spelled = b"/" + spelled
    return spelled + (draw(st.sampled_from(ENDS)) if draw(st.booleans()) else b"")


# --- the protected path ---------------------------------------------------------------------------------------------

#: A protected route's path, and what a reading of a path must be to belong to it.
PROTECTED: dict[str, Callable[[Segments], bool]] = {
    "/admin": lambda read: read[:1] == (b"admin",),
    "/api/v1.0/admin": lambda read: read[:3] == (b"api", b"v1.0", b"admin"),
    "/users/{id}/keys": lambda read: len(read) == 3 and all(read) and (read[0], read[2]) == (b"users", b"keys"),
    "/ä b/x": lambda read: read[:2] == ("ä b".encode(), b"x"),
}
INSIDE: dict[str, list[Segments]] = {
    "/admin": [(b"admin",), (b"admin", b"users"), (b"admin", b"a", b"b")],
    "/api/v1.0/admin": [(b"api", b"v1.0", b"admin"), (b"api", b"v1.0", b"admin", b"x")],
    "/users/{id}/keys": [(b"users", b"7", b"keys"), (b"users", b"a.b", b"keys")],
    "/ä b/x": [("ä b".encode(), b"x"), ("ä b".encode(), b"x", b"y")],
}
attempts = st.sampled_from(sorted(PROTECTED)).flatmap(
    lambda rule: st.tuples(st.just(rule), st.sampled_from(INSIDE[rule]).flatmap(spellings))
)


def route_of(protected: str, target: bytes) -> str:
    """The route that a request for ``target`` takes: the protected one, or one for all that is left over.

    Raises:
        BadPath: the target is refused.
    """
    table = RouteTable([(RouteRule("public"), "public"), (RouteRule("protected", path=protected), "protected")])
    request = stub_request(target=target)
    Sanitize(Inner()).render(request)
    return table.match(b"", request.canonical_path, b"GET", {})[0]


@example(("/admin", b"/x/..;/admin"))
@example(("/admin", b"/%61dmin;x"))
@example(("/admin", b"/x%3b%2fadmin"))
@example(("/users/{id}/keys", b"/users/7%2Fkeys"))
@example(("/api/v1.0/admin", b"/api;%2Fx/v1.0/admin"))
@example(("/admin", b"/%c1%a1dmin"))
@given(attempts)
@settings(deadline=None, max_examples=1500)
def test_no_spelling_of_a_protected_path_reaches_a_weaker_route(attempt: tuple[str, bytes]) -> None:
    protected, target = attempt
    try:
        route = route_of(protected, target)
    except BadPath:
        return
    path = target.partition(b"?")[0]
    if any(PROTECTED[protected](reading) for reading in readings(path)):
        assert route == "protected"


@pytest.mark.parametrize("protected", sorted(PROTECTED))
def test_plain_spelling_is_not_refused(protected: str) -> None:
    for segments in INSIDE[protected]:
        target = b"".join(b"/" + b"".join(b"%%%02X" % code for code in segment) for segment in segments)
        assert route_of(protected, target) == "protected"
        assert route_of(protected, target.replace(b"/", b"//") + b"/;x") in {"protected", "public"}


# --- fields that have one value -------------------------------------------------------------------------------------

SINGLE = (
    b"authorization", b"content-type", b"origin", b"range", b"if-range", b"max-forwards", b"access-control-request-method",
)  # fmt: skip
SEVERAL = (b"accept", b"cookie", b"via", b"x-a", b"user-agent", b"traceparent")
lines = st.lists(
    st.tuples(st.sampled_from(SINGLE + SEVERAL), st.booleans(), st.sampled_from([b"", b"1", b"2"])), max_size=8
)


@given(lines)
@settings(deadline=None, max_examples=300)
def test_request_passes_unless_a_field_that_has_one_value_comes_twice(made: list[tuple[bytes, bool, bytes]]) -> None:
    headers = ((b"host", b"Host", b"a"), *((name, name.upper() if up else name, value) for name, up, value in made))
    names = [lowered for lowered, _, _ in headers]
    fields = {lowered: value for lowered, _, value in headers}
    inner = Inner()
    request = GatewayRequest(StubChannel(), RequestHead(b"GET", b"/", b"HTTP/1.1", headers, fields, -1, True, b""))
    if any(names.count(name) > 1 for name in SINGLE):
        with pytest.raises(BadRequest):
            Sanitize(inner).render(request)
        assert inner.requests == []
    else:
        Sanitize(inner).render(request)
        assert inner.requests == [request]
        assert request.headers == headers
