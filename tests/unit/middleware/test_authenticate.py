from __future__ import annotations

from typing import Any

import pytest
from tests.unit.auth.tokens import NOW, SECRET, jwk, key_set, rsa_key, token
from tests.unit.support import Inner, StubChannel, stub_request
from twisted.internet.defer import Deferred
from twisted.web.server import NOT_DONE_YET

from txgateway.auth.authenticator import Authenticator
from txgateway.auth.cache import TokenCache
from txgateway.auth.keys import KeySet, keys_from_secret
from txgateway.auth.token import TokenValidator
from txgateway.errors import ScopeMissing, TokenExpired, TokenMalformed, TokenMissing
from txgateway.middleware.authenticate import Authenticate, DropClaimHeaders
from txgateway.own_headers import claim_value
from txgateway.request import GatewayRequest
from txgateway.routing.path import canonical_path

HEADERS = (("sub", "X-User-Id"), ("roles", "X-Roles"))


def bearer(**claims: Any) -> bytes:
    return b"Bearer " + token(claims, "HS256")


class Source:
    """Keys, and a look for newer ones that a test ends."""

    def __init__(self) -> None:
        self.keys: KeySet | None = keys_from_secret(SECRET)
        self.look: Deferred[None] | None = None

    def refetch(self) -> Deferred[None] | None:
        return self.look


class Bench:
    def __init__(self, **settings: Any) -> None:
        self.source = Source()
        self.inner = Inner()
        validator, cache = TokenValidator(lambda: NOW), TokenCache(10, lambda: NOW)
        authenticator = Authenticator(self.source, validator, cache, lambda _: None)
        self.middleware = Authenticate(self.inner, authenticator, **settings)

    def send(self, authorization: bytes | None, path: bytes = b"/", **more: Any) -> GatewayRequest:
        """A request that has to pass at once."""
        request = asking(authorization, path, **more)
        assert self.middleware.render(request) == 1
        assert self.inner.requests == [request]
        return request


def asking(
    authorization: bytes | None, path: bytes = b"/", fields: dict[bytes, bytes] | None = None, **more: Any
) -> GatewayRequest:
    fields = {b"Host": b"a", **(fields or {})}
    if authorization is not None:
        fields[b"Authorization"] = authorization
    request = stub_request(target=path, fields=fields, **more)
    request.path = request.canonical_path = path
    return request


def received(request: GatewayRequest, *names: bytes) -> dict[bytes, bytes]:
    """Fields for the backend but Host and those named; each is there once, and the dictionary agrees."""
    assert {lowered: value for lowered, _, value in request.headers} == request.fields
    assert len(request.fields) == len(request.headers)
    return {name: value for lowered, name, value in request.headers if lowered not in {b"host", *names}}


def test_good_token_passes_and_says_who_calls() -> None:
    request = asking(bearer(scope="a b", tenant=7))
    headers = request.headers
    bench = Bench(required_scopes=("b", "a"))
    assert bench.middleware.render(request) == 1
    assert request.subject == "alice"
    assert request.claims == {"sub": "alice", "exp": NOW + 600, "scope": "a b", "tenant": 7}
    assert request.headers is headers  # nothing to do, nothing done


@pytest.mark.parametrize(
    ("authorization", "error"),
    [(None, TokenMissing), (b"Basic YTpi", TokenMissing), (b"Bearer x", TokenMalformed), (bearer(exp=1), TokenExpired)],
)
def test_bad_token_is_refused(authorization: bytes | None, error: type[Exception]) -> None:
    bench = Bench(public_paths=("/public",))
    with pytest.raises(error):
        bench.middleware.render(asking(authorization))
    assert bench.inner.requests == []


@pytest.mark.parametrize("scope", ["", "a", "b", "a bc", "A B"])
def test_every_required_scope_has_to_be_there(scope: str) -> None:
    bench = Bench(required_scopes=("a", "b"))
    request = asking(bearer(scope=scope))
    with pytest.raises(ScopeMissing) as caught:
        bench.middleware.render(request)
    assert caught.value.required == ("a", "b")
    assert bench.inner.requests == []
    assert request.subject is None


def test_several_authorization_lines_are_refused_whatever_they_say() -> None:
    good = (b"authorization", b"Authorization", bearer())
    for other in (good, (b"authorization", b"AUTHORIZATION", b"Basic YTpi")):
        for headers in ((good, other), (other, good)):
            request = asking(bearer())
            request.headers = (request.headers[0], *headers)
            with pytest.raises(TokenMalformed):
                Bench().middleware.render(request)
    request = asking(bearer(), fields={b"Accept": b"b"})
    request.headers = (*request.headers, (b"accept", b"Accept", b"a"))
    assert Bench().middleware.render(request) == 1


# --- waiting ---------------------------------------------------------------------------------------------------------


def waiting_bench() -> tuple[Bench, Deferred[None]]:
    bench = Bench(claim_headers=HEADERS, required_scopes=("a",))
    bench.source.keys = key_set(jwk(rsa_key(), kid="a"))
    bench.source.look = Deferred()
    return bench, bench.source.look


def test_request_waits_for_newer_keys_and_goes_on() -> None:
    bench, look = waiting_bench()
    request = asking(b"Bearer " + token({"scope": "a"}, key=rsa_key(1), header={"kid": "b"}))
    assert bench.middleware.render(request) == NOT_DONE_YET
    assert bench.inner.requests == []
    bench.source.keys = key_set(jwk(rsa_key(1), kid="b"))
    look.callback(None)
    assert bench.inner.requests == [request]
    assert request.subject == "alice"
    assert request.fields[b"x-user-id"] == b"alice"


@pytest.mark.parametrize(("kid", "status"), [("c", 401), ("b", 403)])
def test_request_that_waited_may_be_refused(kid: str, status: int) -> None:
    bench, look = waiting_bench()
    channel = StubChannel()
    request = asking(b"Bearer " + token(key=rsa_key(1), header={"kid": kid}), channel=channel)
    assert bench.middleware.render(request) == NOT_DONE_YET
    bench.source.keys = key_set(jwk(rsa_key(1), kid="b"))
    look.callback(None)
    assert request.status == status
    assert bench.inner.requests == []
    assert any(name == b"WWW-Authenticate" for name, _ in channel.events[0][3])


def test_client_that_leaves_ends_the_wait() -> None:
    bench, look = waiting_bench()
    request = asking(b"Bearer " + token(key=rsa_key(1), header={"kid": "b"}))
    bench.middleware.render(request)
    request.client_gone()
    assert look.called
    assert bench.inner.requests == []


# --- public paths ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefixes", "path", "is_public"),
    [
        (("/public",), b"/public", True), (("/public",), b"/public/", True), (("/public",), b"/public/a/b", True),
        (("/public",), b"/publicity", False), (("/public",), b"/public-x", False), (("/public",), b"/Public", False),
        (("/public",), b"/", False), (("/public",), b"/a/public", False), (("/public/",), b"/public", True),
        (("/public/",), b"/publicity", False), (("/",), b"/anything", True), (("/",), b"/", True), ((), b"/public", False),
        (("/a", "/b/c"), b"/b/c/d", True), (("/a", "/b/c"), b"/b", False), (("//a%62;x",), b"/ab", True),
    ],
)  # fmt: skip
def test_public_paths_end_on_segment_borders(prefixes: tuple[str, ...], path: bytes, is_public: bool) -> None:
    bench = Bench(public_paths=prefixes)
    if is_public:
        assert bench.send(None, path).subject is None
    else:
        with pytest.raises(TokenMissing):
            bench.send(None, path)


def test_token_is_not_looked_at_on_a_public_path() -> None:
    for authorization in (b"Bearer broken", bearer(exp=1), bearer(), b"Basic YTpi"):
        request = Bench(public_paths=("/p",), claim_headers=HEADERS).send(authorization, b"/p")
        assert (request.subject, request.claims) == (None, {})
        assert received(request) == {b"Authorization": authorization}


# --- header fields for the backend -----------------------------------------------------------------------------------

SPOOFED = {b"X-User-Id": b"root", b"x-roles": b"admin", b"X-Other": b"1"}
UNDERSCORED = {b"X_User_Id": b"root", b"x-USER_id": b"root", b"X_ROLES": b"admin", b"X-Other": b"1"}


def test_claims_replace_what_the_client_says() -> None:
    request = Bench(claim_headers=HEADERS).send(bearer(roles=["a", "b"]), fields=SPOOFED)
    assert received(request, b"authorization") == {b"X-Other": b"1", b"X-User-Id": b"alice", b"X-Roles": b"a,b"}


def test_client_s_copy_of_a_claim_that_is_missing_is_dropped() -> None:
    request = Bench(claim_headers=HEADERS).send(bearer(sub=..., roles="a\r\nX-Admin: 1"), fields=SPOOFED)
    assert received(request, b"authorization") == {b"X-Other": b"1"}


@pytest.mark.parametrize("fields", [SPOOFED, UNDERSCORED, SPOOFED | UNDERSCORED])
def test_client_s_copies_are_dropped_where_nobody_authenticates(fields: dict[bytes, bytes]) -> None:
    public = Bench(claim_headers=HEADERS, public_paths=("/p",)).send(None, b"/p", fields=fields)
    assert received(public) == {b"X-Other": b"1"}
    inner = Inner()
    request = asking(None, fields=fields)
    assert DropClaimHeaders(inner, HEADERS).render(request) == 1
    assert received(request) == {b"X-Other": b"1"}


def test_every_spelling_that_cgi_takes_for_the_same_is_dropped() -> None:
    spellings = dict.fromkeys((b"X_User_Id", b"X.User.Id", b"x-user_id", b"X~User'Id", b"X-USER-ID"), b"root")
    dropped = Bench(claim_headers=HEADERS).send(bearer(), fields={**spellings, b"X-Other": b"1", b"X-UserId": b"2"})
    assert received(dropped, b"authorization") == {b"X-Other": b"1", b"X-UserId": b"2", b"X-User-Id": b"alice"}
    hyphens = Bench(claim_headers=(("sub", "X_User"),)).send(bearer(), fields={b"X-User": b"root"})
    assert received(hyphens, b"authorization") == {b"X_User": b"alice"}


class Trailers:
    """Keeps the trailers of a body."""

    trailers: Any = None

    def body_received(self, data: bytes) -> None:
        pass

    def body_ended(self, trailers: Any) -> None:
        self.trailers = trailers


@pytest.mark.parametrize("come_late", [True, False])
def test_client_s_copies_in_trailers_are_dropped(come_late: bool) -> None:
    trailers = [(b"x-user-id", b"X-User-Id", b"root"), (b"x_roles", b"X_Roles", b"admin"), (b"x-sum", b"X-Sum", b"1")]
    request = asking(bearer(), length=-2)
    request.body_complete = False
    if not come_late:
        request.receive_body_end(trailers)
    assert Bench(claim_headers=HEADERS).middleware.render(request) == 1
    consumer = Trailers()
    request.want_body(consumer)
    if come_late:
        request.receive_body_end(trailers)
    assert consumer.trailers == trailers[2:]


@pytest.mark.parametrize(
    "connection",
    [b"X-User-Id", b"close, x-user-id", b"x_user_id", b"TE, X-Hop,X-ROLES", b"keep-alive, X-User-Id, Authorization"],
)
def test_client_cannot_take_a_claim_away_by_connection(connection: bytes) -> None:
    fields = {b"Connection": connection, b"X-User-Id": b"root", b"X-Hop": b"1", b"X-Kept": b"1"}
    request = Bench(claim_headers=HEADERS).send(bearer(roles="r"), fields=fields)
    forwarded = received(request, b"authorization")
    assert b"Connection" not in forwarded
    assert (forwarded[b"X-User-Id"], forwarded[b"X-Roles"], forwarded[b"X-Kept"]) == (b"alice", b"r", b"1")
    assert (b"X-Hop" in forwarded) == (b"X-Hop" not in connection)
    assert b"authorization" in request.fields


def test_ordinary_connection_field_stays() -> None:
    request = Bench(claim_headers=HEADERS).send(bearer(), fields={b"Connection": b"keep-alive, X-Hop"})
    assert request.fields[b"connection"] == b"keep-alive, X-Hop"


def test_shared_fields_are_replaced_and_never_changed() -> None:
    request = asking(bearer(), fields={b"X-Other": b"1"})
    headers, fields = request.headers, request.fields
    before = dict(fields)
    Bench(claim_headers=HEADERS, forward_token=False).middleware.render(request)
    assert request.headers is not headers
    assert (len(headers), fields) == (3, before)


def test_token_is_forwarded_only_where_it_is_wanted() -> None:
    assert b"authorization" in Bench().send(bearer()).fields
    assert received(Bench(forward_token=False).send(bearer())) == {}
    for authorization, is_kept in ((bearer(), False), (b"bearer  x", False), (b"Basic YTpi", True)):
        request = Bench(forward_token=False, public_paths=("/p",)).send(authorization, b"/p")
        assert (b"authorization" in request.fields) == is_kept


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("alice", b"alice"), ("a b, c", b"a b, c"), ("Zoë", "Zoë".encode()), ("\u200c", "\u200c".encode()), ("a\tb", None),
        (7, b"7"), (-1.5, b"-1.5"), (True, b"true"), (False, b"false"), (0, b"0"), (10**30, b"1" + b"0" * 30),
        (["a", "b c"], b"a,b c"), (["a", 1, True], b"a,1,true"), (["a"], b"a"), ({"a": [1, "ä\n"]}, b'{"a":[1,"\\u00e4\\n"]}'),
        ([{"a": 1}], b'[{"a":1}]'), ([["a"]], b'[["a"]]'), ({}, b"{}"),
        (None, None), ("", None), ([], None), ([""], None), ([None], None), (["a", None], None), (["a,b"], None), (["a", " b"], None),
        (" a", None), ("a ", None), ("a\u00a0", None), ("a\r\nb", None), ("a\nb", None), ("a\rb", None), ("a\0", None), ("a\x7fb", None),
        ("a\x85b", None), ("a\u2028b", None), (["a\nb"], None), ("a\x1bb", None),
    ],
)  # fmt: skip
def test_claim_becomes_a_field_value_or_none(claim: object, value: bytes | None) -> None:
    assert claim_value(claim) == value


def test_claims_of_one_token_are_told_each_route_under_its_own_names() -> None:
    source, inner = Source(), Inner()
    cache = TokenCache(10, lambda: NOW)
    authenticator = Authenticator(source, TokenValidator(lambda: NOW), cache, lambda _: None)
    authorization = bearer(roles="r")
    for _ in range(2):
        for pairs, expected in (
            (HEADERS, {b"X-User-Id": b"alice", b"X-Roles": b"r"}),
            ((("roles", "X-User-Id"),), {b"X-User-Id": b"r"}),
            ((), {}),
        ):
            request = asking(authorization)
            Authenticate(inner, authenticator, claim_headers=pairs).render(request)
            assert received(request, b"authorization") == expected


@pytest.mark.parametrize(
    "path", [b"//p/admin", b"///p/admin", b"//p", b"//x/p", b"//p%2Fp/admin", b"/%2Fp/admin", b"/%2fp%2fp/admin"]
)
def test_path_that_is_public_in_one_reading_only_needs_a_token(path: bytes) -> None:
    request = asking(None, path)
    request.canonical_path = canonical_path(path)
    with pytest.raises(TokenMissing):
        Bench(public_paths=("/p",)).middleware.render(request)


def test_path_that_is_public_in_both_readings_needs_none() -> None:
    request = asking(None, b"//p/p/x")
    request.canonical_path = canonical_path(request.path)
    assert Bench(public_paths=("/p",)).middleware.render(request) == 1
