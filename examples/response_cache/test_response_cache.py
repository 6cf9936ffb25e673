"""``PYTHONPATH=. pytest``; needs ``pip install 'txgateway[testing]'``."""

from __future__ import annotations

import tomllib
from pathlib import Path

import jwt
import pytest

from cache_store import Store, Stored
from response_cache import ResponseCache
from txgateway.testing import Answer, GatewayHarness, Reset, Response, Stall
from txgateway.testing.laws import assert_middleware_laws
from txgateway.testing.plugin import MakeHarness

ROUTES = Path(__file__).parent / "routes.toml"
SECRET = "a secret of at least thirty-two bytes"


@pytest.mark.parametrize("settings", [{}, {"max_entries": 1, "max_entry_bytes": 100}])
def test_laws(settings: dict[str, int]) -> None:
    assert_middleware_laws(
        ResponseCache,
        settings=settings,
        may_answer=True,
        depends_on_others=True,
        response_headers=((b"Cache-Control", b"max-age=60"), (b"Content-Type", b"text/plain"), (b"Vary", b"X-A")),
        changes_response_headers=["X-Cache", "Age"],
    )


def test_laws_where_nothing_may_be_kept() -> None:
    assert_middleware_laws(ResponseCache, changes_response_headers=["X-Cache"])


class Site:
    """The gateway, and a backend that says the same until it is told otherwise."""

    def __init__(self, gateway: GatewayHarness) -> None:
        self.gateway = gateway
        self.backend = gateway.backends["pages"]
        self.say()

    def say(self, cache_control: str = "max-age=60", body: bytes = b"hello", **fields: str) -> None:
        headers = {"Cache-Control": cache_control} | {name.replace("_", "-"): value for name, value in fields.items()}
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.backend.script = Response(200, pairs, body)

    def ask(self, path: str = "/", method: str = "GET", **fields: str) -> Answer:
        return self.gateway.ask(method, path, {name.replace("_", "-"): value for name, value in fields.items()})

    def outcomes(self, *asks: dict[str, str]) -> list[bytes | None]:
        return [self.ask(**ask).header("X-Cache") for ask in asks]

    @property
    def asked(self) -> int:
        return len(self.backend.received)


@pytest.fixture
def site(gateway_harness: MakeHarness) -> Site:
    return Site(gateway_harness(routes_file=ROUTES))


PLAIN: dict[str, str] = {}


def test_fresh_answer_comes_from_memory(site: Site) -> None:
    site.say(ETag='"1"', X_A="1")
    first = site.ask()
    site.gateway.advance(30.0)
    second = site.ask()
    assert (first.header("X-Cache"), first.header("Age")) == (b"miss", None)
    assert (second.status, second.body, second.header("X-A")) == (200, b"hello", b"1")
    assert (second.header("X-Cache"), second.header("Age"), second.log["cache"]) == (b"hit", b"30", "hit")
    assert (site.asked, second.attempts) == (1, 0)
    assert site.gateway.metric("gateway_middleware_response_cache_requests_total", outcome="hit") == 1
    site.gateway.advance(30.0)
    assert site.ask().header("X-Cache") == b"miss"
    assert site.ask("/?x=1").header("X-Cache") == b"miss"


def test_bodies_in_pieces_and_empty_ones_are_kept(site: Site) -> None:
    site.backend.script = Response(200, [(b"Cache-Control", b"max-age=60")], chunks=[b"a", b"bc"])
    assert [site.ask().body for _ in range(2)] == [b"abc", b"abc"]
    site.say(body=b"")
    empty = [site.ask("/empty") for _ in range(2)]
    assert [(one.status, one.body, one.header("X-Cache")) for one in empty] == [(200, b"", b"miss"), (200, b"", b"hit")]


@pytest.mark.parametrize(
    "said",
    ["", "public", "no-store, max-age=60", "private, max-age=60", 'private="x", max-age=60', "no-cache, max-age=60",
     "max-age=0", "max-age=60, s-maxage=0", "max-age=x", "max-age=-1", "max-age=60, max-age=70", "x-max-age=60"],
)  # fmt: skip
def test_not_kept_unless_the_backend_says_so(site: Site, said: str) -> None:
    site.say(said)
    assert site.outcomes(PLAIN, PLAIN) == [b"miss", b"miss"]


@pytest.mark.parametrize(
    "said", ["max-age=60", "MAX-AGE=60", 's-maxage="60"', "max-age=0, s-maxage=60", "a, public, max-age=60"]
)
def test_kept_if_it_says_so(site: Site, said: str) -> None:
    site.say(said)
    assert site.outcomes(PLAIN, PLAIN) == [b"miss", b"hit"]


def test_age_before_it_came_counts(site: Site) -> None:
    site.say(Age="50")
    site.ask()
    site.gateway.advance(5.0)
    assert site.ask().values("Age") == [b"55"]
    site.gateway.advance(5.0)
    assert site.ask().header("X-Cache") == b"miss"
    site.say(Age="60")
    assert site.outcomes({"path": "/old"}, {"path": "/old"}) == [b"miss", b"miss"]


def test_only_200_is_kept_and_no_cookie(site: Site) -> None:
    site.say(Set_Cookie="session=1")
    assert site.outcomes(PLAIN, PLAIN) == [b"miss", b"miss"]
    for status in (203, 206, 301, 404):
        site.backend.script = Response(status, [(b"Cache-Control", b"max-age=60")], b"x")
        assert site.outcomes(PLAIN, PLAIN) == [b"miss", b"miss"]


@pytest.mark.parametrize("said", ["max-age=60", "public, max-age=60", "s-maxage=60"])
def test_answers_to_somebody_are_shared_only_if_the_backend_says_so(site: Site, said: str) -> None:
    site.say(said)
    alice, bob = ({"Authorization": f"Basic {name}"} for name in ("YTph", "Yjpi"))
    is_shared = said != "max-age=60"
    assert site.outcomes(alice, bob, PLAIN, alice) == [b"miss", *([b"hit" if is_shared else b"miss"] * 3)]


def test_token_that_was_taken_out_counts(gateway_harness: MakeHarness) -> None:
    document = tomllib.loads(ROUTES.read_text("utf-8"))
    document["routes"][0] |= {"auth": "jwt", "jwt": {"forward_token": False}}
    site = Site(gateway_harness(document, environment={"GATEWAY_JWT_SECRET": SECRET}))
    for name in ("alice", "bob"):
        token = jwt.encode({"sub": name, "exp": 4_000_000_000}, SECRET, "HS256")
        assert site.ask(Authorization=f"Bearer {token}").header("X-Cache") == b"miss"
    assert site.backend.received[-1].header(b"authorization") is None


def test_vary_is_honoured(site: Site) -> None:
    site.say(Vary="Accept-Language, X-B")
    de, en = ({"Accept-Language": language} for language in ("de", "en"))
    assert site.outcomes(de, en, de, en, PLAIN) == [b"miss", b"miss", b"hit", b"hit", b"miss"]
    site.say(Vary="*")
    assert site.outcomes({"path": "/star"}, {"path": "/star"}) == [b"miss", b"miss"]


@pytest.mark.parametrize("tag", ['"1"', 'W/"1"', '"0", W/"1"', "*"])
@pytest.mark.parametrize("own", ['"1"', 'W/"1"'])
def test_client_that_has_it_gets_304(site: Site, tag: str, own: str) -> None:
    site.say(ETag=own, Content_Type="text/plain")
    site.ask()
    answer = site.ask(If_None_Match=tag)
    assert (answer.status, answer.body, answer.header("ETag")) == (304, b"", own.encode())
    assert (answer.header("X-Cache"), answer.header("Content-Type"), site.asked) == (b"hit", None, 1)


def test_client_that_has_another_gets_it_whole(site: Site) -> None:
    site.say(ETag='"1"')
    site.ask()
    assert (site.ask(If_None_Match='"2"').status, site.ask(If_None_Match='W/"11"').status) == (200, 200)


def test_head_is_answered_from_a_get(site: Site) -> None:
    assert site.ask(method="HEAD").header("X-Cache") == b"miss"
    assert site.ask().header("X-Cache") == b"miss"
    head = site.ask(method="HEAD")
    assert (head.header("X-Cache"), head.body, head.header("Content-Length")) == (b"hit", b"", b"5")


def test_client_may_ask_for_the_backends_own(site: Site) -> None:
    site.ask()
    site.say(body=b"new")
    assert site.ask(Cache_Control="no-store").body == b"new"
    assert site.ask().body == b"hello"
    assert site.ask(Range="bytes=0-1").header("X-Cache") == b"miss"
    assert site.ask(Cache_Control="no-cache").body == b"new"
    assert site.ask().header("X-Cache") == b"hit"
    site.gateway.advance(10.0)
    assert site.ask(Cache_Control="max-age=11").header("X-Cache") == b"hit"
    assert site.ask(Cache_Control="max-age=10").header("X-Cache") == b"miss"
    assert site.ask(Pragma="no-cache").header("X-Cache") == b"miss"


def test_change_drops_what_is_kept(site: Site) -> None:
    site.ask()
    site.backend.script = Response(500)
    site.ask(method="POST")
    assert site.ask().header("X-Cache") == b"hit"
    site.say()
    site.ask(method="POST")
    assert site.ask().header("X-Cache") == b"miss"


def test_only_whole_answers_are_kept(site: Site) -> None:
    fresh = Response(200, [(b"Cache-Control", b"max-age=60")], b"hello")
    for half in (Reset(2, fresh), Stall(2, fresh)):
        site.backend.script = half
        call = site.gateway.start("GET", "/")
        site.gateway.advance(1.0)
        call.leave()
        site.gateway.advance(1.0)
    site.say()
    assert site.ask().header("X-Cache") == b"miss"


def test_bounds_hold(gateway_harness: MakeHarness) -> None:
    document = tomllib.loads(ROUTES.read_text("utf-8"))
    document["middlewares"]["response_cache"]["settings"] = {"max_entries": 2, "max_entry_bytes": 1000}
    site = Site(gateway_harness(document))
    paths = ["/1", "/2", "/1", "/3", "/1", "/2"]
    assert site.outcomes(*({"path": path} for path in paths)) == [b"miss", b"miss", b"hit", b"miss", b"hit", b"miss"]
    site.say(body=b"x" * 1000)
    assert site.outcomes({"path": "/large"}, {"path": "/large"}) == [b"miss", b"miss"]


def test_store_counts_what_it_keeps() -> None:
    store = Store(max_entries=10, max_bytes=3000)
    for number in range(20):
        selecting = ((b"x-a", (b"%d" % (number % 3),)),)
        store.keep(
            (b"h", b"/%d" % (number % 4)), Stored((), b"b" * 100 * (number % 5), selecting, 0.0, 1.0, is_shared=True)
        )
        assert store.bytes <= 3000
    assert 0 < len(store) <= 5
    store.keep((b"h", b"/3"), Stored((), b"", ((b"x-b", ()),), 0.0, 1.0, is_shared=True))
    for number in range(4):
        store.drop((b"h", b"/%d" % number))
    assert (len(store), store.bytes, store._variants) == (0, 0, {})
