"""Bearer tokens over sockets: who is let in, what the backend learns, and where the keys come from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import Exchange, ScriptedBackend, answer, answer_and_reset
from tests.integration.client import Client, Response
from tests.integration.harness import Gateway, routes, wait_until
from tests.integration.problems import assert_problem
from tests.integration.tokens import SECRET, Issuer, Key, bearer, epoch_s, http_answer, jwks, key

HS256 = key("HS256")
ISSUERS = "https://issuer.test, https://second.test"


def good(signer: Key = HS256, **claims: Any) -> str:
    """A token that the gateway with the secret lets in."""
    return signer.token(**{"iss": "https://issuer.test", "aud": "api", **claims})


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    def route(name: str, **keys: Any) -> dict[str, Any]:
        end = {} if {"response", "redirect"} & keys.keys() else {"backend": "main"}
        return {"name": name, "path": f"/{name}", **end, **keys}

    document = {
        "backends": {"main": {"targets": [module_backend.url]}},
        "routes": [
            route("everywhere", path="/"),
            route("free", auth="none"),
            route("scopes", jwt={"required_scopes": ["a:read", "a:write"]}),
            route("hidden", jwt={"forward_token": False}),
            route("hidden-public", jwt={"forward_token": False}, path="/public/hidden"),
            route("underscores", sanitize={"underscore_headers": "keep"}),
            route("free-underscores", auth="none", sanitize={"underscore_headers": "keep"}),
            route("changed", request_headers={"set": {"X-Email": "set"}, "remove": ["Authorization"]}),
            route("own-claims", jwt={"claim_headers": {"tenant": "X-Tenant"}}),
            route("fixed", response={"body": "fixed"}),
            route("moved", redirect={"to": "/here"}),
        ],
    }
    environment = {
        "GATEWAY_JWT_SECRET": SECRET,
        "GATEWAY_JWT_ALGORITHMS": "HS256,HS512",
        "GATEWAY_JWT_ISSUER": ISSUERS,
        "GATEWAY_JWT_AUDIENCE": "api, admin",
        "GATEWAY_JWT_LEEWAY": "100s",
        "GATEWAY_JWT_PUBLIC_PATHS": "/public, /docs/open",
        "GATEWAY_JWT_CLAIM_HEADERS": "sub=X-User-Id,email=X-Email,groups=X-Groups",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), {**environment, **routes(document)}) as running:
        yield running


def assert_challenged(gateway: Gateway, response: Response, reason: str, *, closes: bool = False) -> None:
    """A 401 as it has to be (RFC 6750 section 3)."""
    line = assert_problem(gateway, response, 401, reason, closes=closes)
    assert line["subject"] is None
    challenge = response.header("WWW-Authenticate") or ""
    assert challenge.startswith("Bearer ")
    assert ('error="invalid_token"' in challenge) is (reason != "TOKEN_MISSING")


# --- which tokens are refused, and how it is said ----------------------------------------------------------------------


def without_signature() -> str:
    return good().rpartition(".")[0] + "."


REFUSED: dict[str, tuple[str, Callable[[], str | None]]] = {
    "no field": ("TOKEN_MISSING", lambda: None),
    "empty field": ("TOKEN_MISSING", lambda: "Authorization:"),
    "another scheme": ("TOKEN_MISSING", lambda: "Authorization: Basic YTpi"),
    "a scheme that begins alike": ("TOKEN_MISSING", lambda: f"Authorization: BearerX {good()}"),
    "no scheme": ("TOKEN_MISSING", lambda: f"Authorization: {good()}"),
    "no token": ("TOKEN_MALFORMED", lambda: "Authorization: Bearer"),
    "not a token": ("TOKEN_MALFORMED", lambda: "Authorization: Bearer x"),
    "two tokens": ("TOKEN_MALFORMED", lambda: f"Authorization: Bearer {good()}, Bearer {good()}"),
    "padding": ("TOKEN_MALFORMED", lambda: bearer(good() + "=")),
    "crit": ("TOKEN_MALFORMED", lambda: bearer(HS256.token({"crit": ["exp"]}))),
    "another typ": ("TOKEN_MALFORMED", lambda: bearer(HS256.token({"typ": "logout+jwt"}))),
    "too long": ("TOKEN_MALFORMED", lambda: bearer(good(more="m" * 8192))),
    "no signature": ("TOKEN_MALFORMED", lambda: bearer(without_signature())),
    "algorithm none": (
        "TOKEN_BAD_SIGNATURE",
        lambda: bearer(HS256.token({"alg": "none"}, iss="https://issuer.test", aud="api")),
    ),
    "algorithm that is not listed": ("TOKEN_BAD_SIGNATURE", lambda: bearer(good(key("HS384")))),
    "algorithm of other keys": ("TOKEN_BAD_SIGNATURE", lambda: bearer(good(key("RS256")))),
    "another secret": ("TOKEN_BAD_SIGNATURE", lambda: bearer(good(Key("HS256", b"another secret" * 5)))),
    "claims of another token": (
        "TOKEN_BAD_SIGNATURE",
        lambda: bearer(".".join((*good(sub="root").split(".")[:2], good().split(".")[2]))),
    ),
    "expired": ("TOKEN_EXPIRED", lambda: bearer(good(exp=epoch_s() - 130))),
    "not yet valid": ("TOKEN_NOT_YET_VALID", lambda: bearer(good(nbf=epoch_s() + 130))),
    "issued in the future": ("TOKEN_NOT_YET_VALID", lambda: bearer(good(iat=epoch_s() + 130))),
    "no exp": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(exp=...))),
    "exp in words": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(exp="tomorrow"))),
    "subject that is a number": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(sub=7))),
    "another issuer": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(iss="https://issuer.test.evil.test"))),
    "no issuer": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(iss=...))),
    "another audience": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(aud=["web", "apis"]))),
    "no audience": ("TOKEN_BAD_CLAIMS", lambda: bearer(good(aud=...))),
}


@pytest.mark.parametrize("name", REFUSED)
def test_token_that_is_not_good_is_refused_with_its_reason(
    gateway: Gateway, backend: ScriptedBackend, name: str
) -> None:
    reason, make = REFUSED[name]
    field = make()
    before = gateway.metric("gateway_jwt_total", result=reason)
    assert_challenged(gateway, gateway.get("/", *([] if field is None else [field])), reason)
    assert gateway.metric("gateway_jwt_total", result=reason) == before + 1
    assert not backend.has_received()
    if field is not None and field.count(".") >= 2:
        assert field.split(".")[1] not in gateway.output_text


ACCEPTED: dict[str, Callable[[], str]] = {
    "plain": lambda: bearer(good()),
    "scheme in small letters": lambda: f"authorization: bearer {good()}",
    "scheme in capitals and more blanks": lambda: f"AUTHORIZATION: BEARER   {good()}",
    "another algorithm of the list": lambda: bearer(good(key("HS512"))),
    "second issuer": lambda: bearer(good(iss="https://second.test")),
    "one of several audiences": lambda: bearer(good(aud=["web", "admin"])),
    "kid, though no key has a name": lambda: bearer(HS256.token({"kid": "1"}, iss="https://issuer.test", aud="api")),
    "typ of an access token": lambda: bearer(HS256.token({"typ": "at+JWT"}, iss="https://issuer.test", aud="api")),
    "expired within the leeway": lambda: bearer(good(exp=epoch_s() - 70)),
    "not yet valid, within the leeway": lambda: bearer(good(nbf=epoch_s() + 70, iat=epoch_s() + 70)),
    "just under the size": lambda: bearer(good(more="m" * 5500)),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_good_token_passes_and_its_subject_is_logged(gateway: Gateway, backend: ScriptedBackend, name: str) -> None:
    field = ACCEPTED[name]()
    response = gateway.get("/x", field)
    assert (response.status, response.headers("WWW-Authenticate")) == (200, [])
    received = backend.received()
    assert received.header("Authorization") == field.partition(": ")[2]
    assert received.headers("X-User-Id") == ["alice"]
    assert gateway.access_line(response)["subject"] == "alice"
    assert field.split(".")[1] not in gateway.output_text


def test_token_without_subject_passes(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/", bearer(good(sub=...)), "X-User-Id: root")
    assert (response.status, backend.received().headers("X-User-Id")) == (200, [])
    assert gateway.access_line(response)["subject"] is None


def test_second_use_of_a_token_is_told_by_the_metric(gateway: Gateway, backend: ScriptedBackend) -> None:
    token = good(jti="second use")
    for result in ("ok", "cached", "cached"):
        before = gateway.metric("gateway_jwt_total", result=result)
        assert gateway.get("/", bearer(token)).status == 200
        assert gateway.metric("gateway_jwt_total", result=result) == before + 1


def test_token_that_was_used_before_dies_when_it_expires(gateway: Gateway, backend: ScriptedBackend) -> None:
    token = good(exp=epoch_s() - 100 + 2)
    assert gateway.get("/", bearer(token)).status == 200
    wait_until(lambda: gateway.get("/", bearer(token)).status == 401, "the token expires")
    assert_challenged(gateway, gateway.get("/", bearer(token)), "TOKEN_EXPIRED")


@pytest.mark.parametrize(
    ("claims", "status"),
    [({"scope": "a:read a:write b"}, 200), ({"scp": ["a:write", "a:read"]}, 200), ({"scope": "a:read"}, 403),
     ({"scope": "a:read,a:write"}, 403), ({"scope": "", "scp": ["a:read", "a:write"]}, 403), ({}, 403)],
)  # fmt: skip
def test_route_wants_all_of_its_scopes(
    gateway: Gateway, backend: ScriptedBackend, claims: dict[str, Any], status: int
) -> None:
    response = gateway.get("/scopes", bearer(good(**claims)))
    assert (response.status, backend.has_received()) == (status, status == 200)
    if status == 403:
        assert_problem(gateway, response, 403, "SCOPE_MISSING")
        challenge = response.header("WWW-Authenticate") or ""
        assert 'error="insufficient_scope"' in challenge
        assert 'scope="a:read a:write"' in challenge
    assert gateway.get("/scopes").status == 401


@pytest.mark.parametrize("path", ["/fixed", "/moved"])
def test_answers_of_the_gateways_own_need_a_token_too(gateway: Gateway, path: str) -> None:
    assert_challenged(gateway, gateway.get(path), "TOKEN_MISSING")
    assert gateway.get(path, bearer(good())).status in {200, 308}


@pytest.mark.parametrize("path", ["/", "/public", "/free"])
def test_two_authorization_lines_are_refused(gateway: Gateway, backend: ScriptedBackend, path: str) -> None:
    lines = [bearer(good()), bearer(good(sub="root"))]
    assert_problem(gateway, gateway.get(path, *lines), 400, "BAD_REQUEST", closes=True)
    assert_problem(gateway, gateway.get(path, lines[0], lines[0]), 400, "BAD_REQUEST", closes=True)
    assert not backend.has_received()


@pytest.mark.parametrize(("token", "status"), [(good(), 200), ("x.y.z", 401), ("", 401)])
def test_http_1_0_is_asked_for_a_token_too(gateway: Gateway, backend: ScriptedBackend, token: str, status: int) -> None:
    with gateway.client() as client:
        client.send(b"GET / HTTP/1.0\r\nAuthorization: Bearer %b\r\n\r\n" % token.encode())
        assert client.read_response().status == status
        assert client.is_at_end()
    assert backend.has_received() is (status == 200)


def test_grpc_call_without_token_is_unauthenticated(gateway: Gateway, backend: ScriptedBackend) -> None:
    response = gateway.get("/", "Content-Type: application/grpc", "TE: trailers", method="POST")
    assert (response.status, response.header("grpc-status")) == (200, "16")
    assert response.header("grpc-message") == "TOKEN_MISSING"
    response = gateway.get("/scopes", "Content-Type: application/grpc+proto", bearer(good()), method="POST")
    assert (response.header("grpc-status"), response.header("grpc-message")) == ("7", "SCOPE_MISSING")
    assert not backend.has_received()


@pytest.mark.parametrize("expectation", ["", "Expect: 100-continue\r\n"])
@pytest.mark.parametrize("length", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_upload_without_token_is_refused_before_its_body(
    gateway: Gateway, backend: ScriptedBackend, expectation: str, length: str
) -> None:
    with gateway.client() as client:
        client.send(
            f"POST /upload HTTP/1.1\r\nHost: x\r\n{expectation}{length}\r\nAuthorization: Bearer x.y.z\r\n\r\n".encode()
        )
        response = client.read_response()
        assert response.informational == []
        assert client.is_at_end()
    assert_challenged(gateway, response, "TOKEN_MALFORMED", closes=True)
    assert not backend.has_received()


def test_upload_with_token_is_invited(gateway: Gateway, backend: ScriptedBackend) -> None:
    with gateway.client() as client:
        client.send(
            f"POST /upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n{bearer(good())}\r\n\r\n"
            .encode()
        )  # fmt: skip
        assert client.read_head().status == 100
        client.send(b"abc")
        assert client.read_response().status == 200
    assert backend.received().body == b"abc"


# --- where no token is asked for --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/public", 200),
        ("/public/", 200),
        ("/public/a/b?c=/", 200),
        ("/public//x", 200),
        ("//public/public", 200),
        ("/publi%63", 200),
        ("/public%2Fx", 200),
        ("/public;v=1/x", 200),
        ("/docs/open/x", 200),
        ("/docs%2fopen", 200),
        ("http://gateway.test/public", 200),
        ("/free", 200),
        ("/publicx", 401),
        ("/public-x", 401),
        ("/public.html", 401),
        ("/publi", 401),
        ("/Public", 401),
        ("/x/public", 401),
        ("/x;/public", 401),
        ("//public", 401),  # "/" for a backend that takes "public" for an authority
        ("//public/x", 401),
        ("//x/public", 401),
        ("/x%2fpublic", 401),
        ("/x?/public", 401),
        ("/x?/../public", 401),
        ("/docs", 401),
        ("/docs/openx", 401),
        ("/docs;/open;x/..", 400),
        ("/public%252f..%252fx", 401),
        ("/public%252fx", 401),
        ("http://gateway.test/x", 401),
        ("http://gateway.test?/public", 401),
        ("/freex", 401),
        ("/public/../x", 400),
        ("/public/..", 400),
        ("/public%2f..", 400),
        ("/public/%2e%2e/x", 400),
        ("/public/.%2E/x", 400),
        ("/public/..;/x", 400),
        ("/public/..;v=1/x", 400),
        ("/public/..%2fx", 400),
        ("/public/..%5cx", 400),
        ("/public\\..\\x", 400),
        ("/public%00", 400),
        ("/public%c0%af../x", 400),
        ("/public/%c0%ae%c0%ae/x", 400),
        ("/x/../public", 400),
        ("/x/%2e%2e/public", 400),
        ("/x#/public", 400),
        ("/public;%2f../x", 400),
        ("/free/../x", 400),
        ("/free%2f..%2fx", 400),
    ],
)
def test_public_is_what_every_backend_takes_for_public(
    gateway: Gateway, backend: ScriptedBackend, target: str, status: int
) -> None:
    assert gateway.get(target).status == status
    assert backend.has_received() is (status == 200)


@pytest.mark.parametrize("path", ["/public", "/free"])
def test_bad_token_is_not_looked_at_where_none_is_asked_for(
    gateway: Gateway, backend: ScriptedBackend, path: str
) -> None:
    for value in ("Bearer x.y.z", "Basic YTpi", f"Bearer {good()}"):
        response = gateway.get(path, f"Authorization: {value}")
        assert (response.status, backend.received().header("Authorization")) == (200, value)
        assert gateway.access_line(response)["subject"] is None


# --- what the backend learns ------------------------------------------------------------------------------------------


def user_ids(fields: list[tuple[str, str]]) -> list[str]:
    """What any backend, one that takes ``_`` for ``-`` included, takes for the user's id."""
    return [value for name, value in fields if name.lower().replace("_", "-") == "x-user-id"]


SPELLINGS = ("X-User-Id: root", "x-user-id: root", "X_User_Id: root", "X-USER_ID: root", "x_user-id: root")
PLACES = ["/", "/underscores", "/public", "/free", "/free-underscores"]


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize(
    "fields",
    [SPELLINGS[:1], SPELLINGS, ("Connection: X-User-Id",), ("Connection: close, x-user-id", *SPELLINGS),
     ("Connection: X_User_Id", *SPELLINGS), ("Connection: keep-alive", "Connection: X-User-Id", *SPELLINGS)],
    ids=["one", "all spellings", "nominated", "nominated and sent", "underscores nominated", "two Connection lines"],
)  # fmt: skip
def test_only_the_gateway_says_who_the_user_is(
    gateway: Gateway, backend: ScriptedBackend, path: str, fields: tuple[str, ...]
) -> None:
    is_asked = path in {"/", "/underscores"}
    token = good(email="alice@example.com", groups=["a", "b"])
    response = gateway.get(path, *fields, bearer(token), "X-Groups: root", "X-Email: root@example.com")
    assert response.status == 200
    received = backend.received()
    assert user_ids(received.fields) == (["alice"] if is_asked else [])
    assert received.headers("X-Groups") == (["a,b"] if is_asked else [])
    assert received.headers("X-Email") == (["alice@example.com"] if is_asked else [])
    assert received.headers("Authorization") == [f"Bearer {token}"]


@pytest.mark.parametrize("path", PLACES)
@pytest.mark.parametrize("is_whole", [True, False], ids=["whole", "in pieces"])
def test_nor_does_a_trailer_say_it(gateway: Gateway, backend: ScriptedBackend, path: str, is_whole: bool) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-User-Id\r\n{bearer(good())}"
    end = "0\r\n" + "".join(f"{field}\r\n" for field in (*SPELLINGS, "X-Groups: root", "X-Sum: 1")) + "\r\n"
    parts = [f"{head}\r\n\r\n3\r\nabc\r\n", end]
    with gateway.client() as client:
        for part in ["".join(parts)] if is_whole else parts:
            client.send(part.encode())
            if not is_whole and part is parts[0]:
                received = backend.received()
        response = client.read_response()
    if is_whole:
        received = backend.received()
    assert (response.status, received.body) == (200, b"abc")
    assert user_ids(received.trailers) == []
    assert ("X-Sum", "1") in received.trailers
    assert ("X-Groups", "root") not in received.trailers


def test_one_connection_tells_its_users_apart(gateway: Gateway, backend: ScriptedBackend) -> None:
    users = ["alice", "bob", "alice", "carol"]
    with gateway.client() as client:
        for user in users:
            client.send(f"GET / HTTP/1.1\r\nHost: x\r\n{bearer(good(sub=user))}\r\n\r\n".encode())
            assert client.read_response().status == 200
    assert [backend.received().headers("X-User-Id") for _ in users] == [[user] for user in users]


@pytest.mark.parametrize("value", ["a\r\nX-Admin: 1", " root", "root ", "", None, {"a": 1}])
def test_claim_that_would_be_another_field_is_not_told(gateway: Gateway, backend: ScriptedBackend, value: Any) -> None:
    assert gateway.get("/", bearer(good(email=value)), "X-Email: root").status == 200
    received = backend.received()
    assert received.headers("X-Email") == (['{"a":1}'] if isinstance(value, dict) else [])
    assert received.headers("X-Admin") == []


def test_routes_own_claim_headers_go_before_the_environments(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert gateway.get("/own-claims", bearer(good(tenant="t1")), "X-Tenant: root").status == 200
    assert backend.received().headers("X-Tenant") == ["t1"]


def test_token_is_not_forwarded_where_it_is_to_stay(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert gateway.get("/hidden", bearer(good())).status == 200
    received = backend.received()
    assert (received.headers("Authorization"), received.headers("X-User-Id")) == ([], ["alice"])
    assert gateway.get("/public/hidden", bearer(good())).status == 200
    assert backend.received().headers("Authorization") == []
    assert gateway.get("/public/hidden", "Authorization: Basic YTpi").status == 200
    assert backend.received().headers("Authorization") == ["Basic YTpi"]


def test_route_changes_what_the_backend_gets_after_the_token_was_judged(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    response = gateway.get("/changed", bearer(good(email="alice@example.com")), "X-Email: root")
    received = backend.received()
    assert (response.status, received.headers("Authorization")) == (200, [])
    assert (received.headers("X-Email"), received.headers("X-User-Id")) == (["set"], ["alice"])


# --- fixed keys of other kinds ----------------------------------------------------------------------------------------


def test_public_key_takes_its_own_algorithms_only(tmp_path: Path, backend: ScriptedBackend) -> None:
    rs256 = key("RS256")
    environment = {
        "GATEWAY_BACKEND_TARGET": backend.url,
        "GATEWAY_JWT_PUBLIC_KEY": rs256.pem,
        "GATEWAY_JWT_REQUIRED_SCOPES": "read",
    }
    with Gateway(tmp_path, environment) as gateway:
        for algorithm in ("RS256", "PS512"):
            assert gateway.get("/", bearer(Key(algorithm, rs256.private).token(scope="read"))).status == 200
        assert gateway.get("/", bearer(rs256.token())).status == 403
        # The public key as if it were a secret: whoever knows it could sign with it.
        forged = Key("HS256", rs256.pem.encode()).token(scope="read")
        assert_challenged(gateway, gateway.get("/", bearer(forged)), "TOKEN_BAD_SIGNATURE")
        assert gateway.get("/", bearer(key("ES256").token(scope="read"))).status == 401
        # 60 s are the default leeway.
        assert gateway.get("/", bearer(rs256.token(scope="read", exp=epoch_s() - 30))).status == 200
        assert gateway.get("/", bearer(rs256.token(scope="read", exp=epoch_s() - 90))).status == 401


def test_document_of_keys_binds_each_to_its_algorithm(tmp_path: Path, backend: ScriptedBackend) -> None:
    one, two, three = key("ES256", "one"), key("EdDSA", "two"), key("RS256", "three")
    document = jwks(one.jwk(use="sig"), two.jwk(), three.jwk(alg="PS256"), key("ES384", "enc").jwk(use="enc"))
    (tmp_path / "keys.json").write_text(document, encoding="utf-8")
    environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_JWT_JWKS_FILE": str(tmp_path / "keys.json")}
    nameless = Key("EdDSA", two.private)
    with Gateway(tmp_path, environment) as gateway:
        for signer in (one, two, nameless, Key("PS256", three.private, "three")):
            assert gateway.get("/", bearer(signer.token())).status == 200
        for signer, reason in (
            (three, "TOKEN_BAD_SIGNATURE"),  # the key says PS256
            (Key("EdDSA", two.private, "one"), "TOKEN_BAD_SIGNATURE"),
            (key("ES384", "enc"), "TOKEN_UNKNOWN_KEY"),
            (key("ES256", "four"), "TOKEN_UNKNOWN_KEY"),
        ):
            assert_challenged(gateway, gateway.get("/", bearer(signer.token())), reason)


# --- keys that are downloaded -----------------------------------------------------------------------------------------

OLD, NEW, STRANGE = key("ES256", "old"), key("ES256", "new"), key("ES256", "strange")


@pytest.fixture(scope="module")
def module_issuer() -> Iterator[Issuer]:
    with Issuer() as issuer:
        issuer.publish(OLD.jwk())
        yield issuer


@pytest.fixture(scope="module")
def downloading(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, module_issuer: Issuer
) -> Iterator[Gateway]:
    environment = {
        "GATEWAY_BACKEND_TARGET": module_backend.url,
        "GATEWAY_JWT_JWKS_URL": module_issuer.jwks_url,
        "GATEWAY_JWT_JWKS_COOLDOWN": "0",
        "GATEWAY_JWT_PUBLIC_PATHS": "/public",
    }
    with Gateway(tmp_path_factory.mktemp("downloading"), environment) as running:
        yield running


@pytest.fixture
def issuer(module_issuer: Issuer, downloading: Gateway) -> Iterator[Issuer]:
    """The issuer, with the gateway knowing no key of it but the old one."""
    module_issuer.publish(OLD.jwk())
    assert downloading.get("/", bearer(STRANGE.token())).status == 401
    module_issuer.renew()
    module_issuer.publish(OLD.jwk())
    yield module_issuer
    assert not module_issuer.faults, module_issuer.faults


def asking(path: str, signer: Key) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{bearer(signer.token())}\r\n\r\n".encode()


def test_download_is_asked_for_as_a_key_set_and_its_query_is_not_logged(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    assert downloading.get("/", bearer(OLD.token())).status == 200
    assert_challenged(downloading, downloading.get("/", bearer(STRANGE.token())), "TOKEN_UNKNOWN_KEY")
    received = issuer.received()
    assert (received.method, received.target) == ("GET", b"/keys?secret=query")
    assert "json" in (received.header("Accept") or "")
    assert "secret=query" not in downloading.output_text


def test_new_key_works_with_the_first_token_that_it_signs(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    issuer.publish(OLD.jwk(), NEW.jwk())
    for signer in (NEW, OLD):
        response = downloading.get("/", bearer(signer.token()))
        assert (response.status, downloading.access_line(response)["subject"]) == (200, "alice")


def test_many_requests_with_a_new_key_wait_for_one_download(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    told = issuer.publish_when_told(OLD.jwk(), NEW.jwk())
    before = issuer.downloads
    clients = [downloading.client() for _ in range(20)]
    for client in clients:
        client.send(asking("/", NEW))
    wait_until(lambda: downloading.in_use()["in_flight"] == len(clients), "all wait")
    assert downloading.get("/", bearer(OLD.token())).status == 200  # nobody else does
    told.set()
    assert [client.read_response().status for client in clients] == [200] * len(clients)
    for client in clients:
        client.close()
    assert issuer.downloads == before + 1


def test_client_that_leaves_while_it_waits_for_keys_is_forgotten(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    told = issuer.publish_when_told(OLD.jwk(), NEW.jwk())
    with downloading.client() as client:
        client.send(asking("/left", NEW))
        issuer.received()
    line = downloading.access_line_at("/left")
    assert (line["status"], line["reason"]) == (499, "CLIENT_GONE")
    told.set()
    assert downloading.get("/", bearer(NEW.token())).status == 200
    assert backend.received().target == b"/"


def test_pipelined_requests_keep_their_order_while_one_waits_for_keys(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    def tell(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(http_answer(exchange.request.target))

    backend.script = tell
    told = issuer.publish_when_told(OLD.jwk(), NEW.jwk())
    with downloading.client() as client:
        client.send(asking("/1", OLD) + asking("/2", NEW) + asking("/public/3", STRANGE) + asking("/4", OLD))
        assert client.read_response().body == b"/1"
        issuer.received()
        told.set()
        assert [client.read_response().body for _ in range(3)] == [b"/2", b"/public/3", b"/4"]


def test_removed_key_stops_working_though_its_token_was_used_before(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    token = OLD.token()
    assert downloading.get("/", bearer(token)).status == 200
    issuer.publish(NEW.jwk())
    assert downloading.get("/", bearer(NEW.token())).status == 200
    assert_challenged(downloading, downloading.get("/", bearer(token)), "TOKEN_UNKNOWN_KEY")


def huge(*, is_declared: bool) -> bytes:
    document = jwks(OLD.jwk(), NEW.jwk()).encode().ljust(2**20 + 1)
    if is_declared:
        return http_answer(document)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(document), document)


TROUBLES = {
    "reset": answer_and_reset(),
    "500": answer(http_answer(b"{}", "500 Oh")),
    "half of it": answer(http_answer(jwks(NEW.jwk()).encode()[:-5])),
    "not JSON": answer(http_answer(b"<html>")),
    "not a set": answer(http_answer(b"[]")),
    "ambiguous": answer(http_answer(jwks(NEW.jwk(), NEW.jwk()).encode())),
    "too long": answer(huge(is_declared=True)),
    "too long, undeclared": answer(huge(is_declared=False)),
    "not HTTP": answer(b"\x00\x01\x02\r\n\r\n"),
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_issuer_in_trouble_takes_no_key_away(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer, trouble: str
) -> None:
    used = OLD.token()
    assert downloading.get("/", bearer(used)).status == 200
    issuer.script = TROUBLES[trouble]
    assert_challenged(downloading, downloading.get("/", bearer(NEW.token())), "TOKEN_UNKNOWN_KEY")
    issuer.received()
    for token in (used, OLD.token(jti="fresh")):
        assert downloading.get("/", bearer(token)).status == 200
    assert downloading.get("/health/ready").status == 200


def test_redirect_is_not_followed_to_keys_elsewhere(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    def lead_away(exchange: Exchange) -> None:
        if exchange.request.target.startswith(b"/keys"):
            exchange.send(http_answer(b"", f"302 Found\r\nLocation: {issuer.url}/elsewhere"))
        else:
            exchange.send(http_answer(jwks(NEW.jwk()).encode()))

    issuer.script = lead_away
    assert downloading.get("/", bearer(NEW.token())).status == 401
    assert downloading.get("/", bearer(OLD.token())).status == 200


def test_keys_that_are_not_for_signatures_are_skipped(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    secret = Key("HS256", SECRET.encode(), "secret")
    issuer.publish(STRANGE.jwk(use="enc"), {"kty": "MAGIC", "kid": "m"}, secret.jwk(), NEW.jwk(use="sig"))
    assert downloading.get("/", bearer(NEW.token())).status == 200
    for signer in (STRANGE, secret):  # a secret in a public place is none
        assert_challenged(downloading, downloading.get("/", bearer(signer.token())), "TOKEN_UNKNOWN_KEY")


def test_key_without_the_tokens_algorithm_is_no_reason_to_look_again(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    before = issuer.downloads
    for algorithm in ("HS256", "RS256"):
        forged = Key(algorithm, key(algorithm).private, "old")
        assert_challenged(downloading, downloading.get("/", bearer(forged.token())), "TOKEN_BAD_SIGNATURE")
    assert downloading.get("/", bearer("x.y.z")).status == 401
    assert issuer.downloads == before


def test_upload_with_a_new_key_is_invited_once_it_is_known(
    downloading: Gateway, backend: ScriptedBackend, issuer: Issuer
) -> None:
    told = issuer.publish_when_told(OLD.jwk(), NEW.jwk())
    with downloading.client() as client:
        client.send(
            f"POST /upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n{bearer(NEW.token())}\r\n\r\n"
            .encode()
        )  # fmt: skip
        issuer.received()
        told.set()
        assert client.read_head().status == 100
        client.send(b"abc")
        assert client.read_response().status == 200
    assert backend.received().body == b"abc"


def starting(gateway: Gateway) -> Gateway:
    """Wait until it listens, which is before it is ready."""
    gateway.port = gateway.wait_for_line(listener="traffic")["port"]
    return gateway


def wait_until_ready(gateway: Gateway) -> None:
    wait_until(lambda: gateway.get("/health/ready").status == 200, "it is ready")


def test_gateway_is_ready_when_the_first_download_is_over(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Issuer() as issuer:
        told = issuer.publish_when_told(OLD.jwk())
        environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_JWT_JWKS_URL": issuer.jwks_url}
        with Gateway(tmp_path, environment, logs_json=False) as gateway, Client(starting(gateway).port) as client:
            issuer.received()
            assert gateway.get("/health/ready").status == 503
            assert gateway.get("/health/live").status == 200
            client.send(asking("/early", OLD))  # waits for the keys as well
            wait_until(lambda: gateway.in_use()["in_flight"] == 1, "it waits")
            told.set()
            assert client.read_response().status == 200
            wait_until_ready(gateway)
            assert issuer.downloads == 1
            # Not more than one look in the cooldown of 30 s, which the early request has begun.
            for _ in range(3):
                assert gateway.get("/", bearer(NEW.token())).status == 401
            assert issuer.downloads <= 2


def test_gateway_that_never_got_keys_says_so_until_it_gets_some(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Issuer() as issuer:
        issuer.script = answer(http_answer(b"", "503 Down"))
        environment = {
            "GATEWAY_BACKEND_TARGET": backend.url,
            "GATEWAY_JWT_JWKS_URL": issuer.jwks_url,
            "GATEWAY_JWT_JWKS_REFRESH": "1s",
        }
        with Gateway(tmp_path, environment) as gateway:
            wait_until_ready(gateway)
            response = gateway.get("/", bearer(OLD.token()))
            assert_problem(gateway, response, 503, "JWKS_UNAVAILABLE", proxy_error="proxy_internal_error")
            assert gateway.metric("gateway_jwt_total", result="JWKS_UNAVAILABLE") == 1
            assert gateway.get("/").status == 401
            issuer.publish(OLD.jwk())
            token = OLD.token()
            wait_until(lambda: gateway.get("/", bearer(token)).status == 200, "the keys are there")
            # Nobody asks for an unknown key here: the refresh alone finds out.
            issuer.publish(NEW.jwk())
            wait_until(lambda: gateway.get("/", bearer(token)).status == 401, "the key is gone")
            assert gateway.get("/", bearer(NEW.token())).status == 200
            messages = [line["message"] for line in gateway.lines if "JWKS" in line.get("message", "")]
    assert any("download failed" in message for message in messages)
    assert "secret=query" not in json.dumps(messages)


def test_issuer_that_never_answers_does_not_keep_the_gateway_from_starting(
    tmp_path: Path, backend: ScriptedBackend
) -> None:
    with Issuer() as issuer:
        issuer.script = lambda exchange: exchange.wait_until_left()
        environment = {"GATEWAY_BACKEND_TARGET": backend.url, "GATEWAY_JWT_JWKS_URL": issuer.jwks_url}
        with Gateway(tmp_path, environment, logs_json=False) as gateway:
            assert starting(gateway).get("/health/ready").status == 503
            wait_until_ready(gateway)
        assert not issuer.faults
