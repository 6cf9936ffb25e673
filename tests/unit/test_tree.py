"""Which routes, keys and limits a tree takes over from the one before it."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from tests.helpers.resolver import ManualResolver
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from twisted.internet.task import Clock
from zope.interface import implementer

from txgateway.config import Configuration, load
from txgateway.middleware.rate_limit import RateLimit
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.transport.wheel import TimerWheel
from txgateway.tree import Surroundings, Tree

SECRET, OTHER_SECRET = "0123456789abcdef" * 4, "fedcba9876543210" * 4
A, B = "http://10.0.0.1", "http://10.0.0.2"


@implementer(IReactorPluggableNameResolver)
class Reactor(Clock):
    """Time, and names; connections are refused by there being none."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = ManualResolver()

    def installNameResolver(self, resolver: IHostnameResolver) -> IHostnameResolver:
        raise NotImplementedError


def configured(routes: list[dict[str, Any]], environ: dict[str, str] | None = None, **backends: Any) -> Configuration:
    given = {name: {"targets": targets} for name, targets in (backends or {"one": [A], "two": [B]}).items()}
    return load({"GATEWAY_ROUTES": json.dumps({"backends": given, "routes": routes}), **(environ or {})})


def route(name: str, backend: str = "one", **others: Any) -> dict[str, Any]:
    return {"name": name, "path": f"/{name}", "backend": backend, **others}


ROUTES = [
    route("a"),
    route("b", "two", rate_limit={"rate": "5/s"}),
    {"name": "c", "path": "/c", "backends": [{"name": "one", "weight": 1}, {"name": "two", "weight": 2}]},
    {"name": "d", "path": "/d", "response": {"status": 204}},
]


class Case:
    """A process, in which trees follow each other."""

    def __init__(self) -> None:
        reactor = Reactor()
        self.around = Surroundings(
            reactor=reactor,
            epoch_s=lambda: 0.0,
            wheel=TimerWheel(reactor),
            chance=Random(1),
            metrics=RequestMetrics(),
            access_log=None,
            probes={},
            tracing=None,
            demo_port=0,
            https_port=int,
        )

    def tree(self, configuration: Configuration, previous: Tree | None = None) -> Tree:
        return Tree(configuration, self.around, previous)

    def kept(self, before: Configuration, after: Configuration) -> set[str]:
        """The routes of one that are those of the other; it has to know itself how many these are."""
        first = self.tree(before)
        old = dict(first.pipeline.routes.entries)
        second = self.tree(after, first)
        new = second.pipeline.routes.entries
        assert list(new) == [one.name for one in after.routes]
        found = {name for name, entry in new.items() if old.get(name) is entry}
        assert second.kept_routes == len(found)
        for one in after.routes:
            assert second.pipeline.routes.table.match(b"", one.path.encode(), b"GET", {})[0] is new[one.name]
        assert first.pipeline.routes.entries == old  # it is still in use
        return found


@pytest.fixture
def case() -> Case:
    return Case()


def test_equal_configuration_keeps_all_routes(case: Case) -> None:
    assert case.kept(configured(ROUTES), configured(ROUTES)) == {"a", "b", "c", "d"}


def test_only_changed_and_new_routes_are_made(case: Case) -> None:
    after = [route("a", timeout={"total": "1s"}), *ROUTES[1:], route("e")]
    assert case.kept(configured(ROUTES), configured(after)) == {"b", "c", "d"}


def test_route_that_has_taken_anothers_name_is_made(case: Case) -> None:
    after = [{**ROUTES[1], "name": "a"}, {**ROUTES[0], "name": "b"}]
    assert case.kept(configured(ROUTES), configured(after)) == set()


@pytest.mark.parametrize(
    ("backends", "kept"),
    [
        ({"one": [A, B], "two": [B]}, {"b", "d"}),
        ({"one": [A], "two": [A]}, {"a", "d"}),
        ({"one": [B], "two": [A]}, {"d"}),
        ({"two": [B], "one": [A], "three": [A]}, {"a", "b", "c", "d"}),
    ],
)
def test_routes_of_changed_backends_are_made(case: Case, backends: dict[str, Any], kept: set[str]) -> None:
    assert case.kept(configured(ROUTES), configured(ROUTES, **backends)) == kept


@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_JWT_SECRET": SECRET},
        {"GATEWAY_REDIS_URL": "redis://10.0.0.9"},
        {"GATEWAY_SERVER_TIMING": "all"},
    ],
)
def test_what_routes_are_made_with_makes_all_of_them_when_it_changes(case: Case, environ: dict[str, str]) -> None:
    assert case.kept(configured(ROUTES), configured(ROUTES, environ)) == set()
    assert case.kept(configured(ROUTES, environ), configured(ROUTES, environ)) == {"a", "b", "c", "d"}


@pytest.mark.parametrize("changed", [{"GATEWAY_JWT_SECRET": OTHER_SECRET}, {"GATEWAY_JWT_LEEWAY": "1s"}])
def test_other_keys_make_all_routes_that_ask_for_tokens(case: Case, changed: dict[str, str]) -> None:
    secret = {"GATEWAY_JWT_SECRET": SECRET}
    before, after = configured(ROUTES, secret), configured(ROUTES, {**secret, **changed})
    assert before.routes == after.routes
    assert case.kept(before, after) == set()


@pytest.mark.parametrize(
    "environ",
    [
        {"GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8"},
        {"GATEWAY_PROBE_PREFIX": "/x"},
        {"GATEWAY_CSP": "default-src 'self'"},
    ],
)
def test_what_only_the_edge_goes_by_leaves_routes_alone_or_is_seen_in_them(case: Case, environ: dict[str, str]) -> None:
    before, after = configured(ROUTES), configured(ROUTES, environ)
    same = {one.name for one, other in zip(before.routes, after.routes, strict=True) if one == other}
    assert case.kept(before, after) == same


def test_defaults_of_the_environment_are_part_of_routes(case: Case) -> None:
    assert case.kept(configured(ROUTES), configured(ROUTES, {"GATEWAY_TIMEOUT_TOTAL": "7s"})) == set()
    assert case.kept(configured(ROUTES), configured(ROUTES, {"GATEWAY_RATE_LIMIT": "7/s"})) == {"b"}


def test_edge_is_always_the_new_one(case: Case) -> None:
    first = case.tree(configured(ROUTES))
    assert case.tree(configured(ROUTES), first).pipeline is not first.pipeline


def test_built_in_slices_it_is_made_by_steps(case: Case) -> None:
    first = case.tree(configured(ROUTES))
    tree = Tree(configured(ROUTES), case.around, first, in_slices=True)
    assert not hasattr(tree, "pipeline")
    assert sum(1 for _ in tree.build()) >= 3 * len(ROUTES)  # compared, made and put into the table
    assert set(tree.pipeline.routes.entries) == {"a", "b", "c", "d"}


def test_previous_tree_is_let_go_once_it_is_built(case: Case) -> None:
    first = case.tree(configured(ROUTES))
    second = case.tree(configured(ROUTES), first)
    assert second._previous is None


# --- limits -------------------------------------------------------------------------------------------------------


def limiter_of(tree: Tree, name: str) -> Any:
    inner: Any = tree.pipeline.routes.entries[name].resource
    while not isinstance(inner, RateLimit):
        inner = inner.inner
    return inner._take.__self__  # type: ignore[attr-defined]


def test_buckets_of_a_changed_route_live_on_if_its_limit_does(case: Case) -> None:
    limit = {"rate": "5/s"}
    first = case.tree(configured([route("a", rate_limit=limit)]))
    limiter_of(first, "a").take(b"k")
    second = case.tree(configured([route("a", "two", rate_limit=limit)]), first)
    assert second.kept_routes == 0
    assert limiter_of(second, "a") is limiter_of(first, "a")
    third = case.tree(configured([route("a", rate_limit={"rate": "6/s"})]), second)
    assert limiter_of(third, "a") is not limiter_of(second, "a")


# --- keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [
        ({}, {}, True),
        ({"GATEWAY_JWT_SECRET": SECRET}, {"GATEWAY_JWT_SECRET": SECRET}, True),
        ({"GATEWAY_JWT_SECRET": SECRET}, {"GATEWAY_JWT_SECRET": OTHER_SECRET}, False),
        ({"GATEWAY_JWT_SECRET": SECRET}, {"GATEWAY_JWT_SECRET": SECRET, "GATEWAY_JWT_ISSUER": "i"}, False),
        ({"GATEWAY_JWT_SECRET": SECRET}, {"GATEWAY_JWT_SECRET": SECRET, "GATEWAY_JWT_LEEWAY": "1s"}, False),
        ({"GATEWAY_JWT_SECRET": SECRET}, {"GATEWAY_JWT_SECRET": SECRET, "GATEWAY_RATE_LIMIT": "1/s"}, True),
        ({"GATEWAY_JWT_JWKS_URL": "http://i.test/k"}, {"GATEWAY_JWT_JWKS_URL": "http://i.test/k"}, True),
        ({"GATEWAY_JWT_JWKS_URL": "http://i.test/k"}, {"GATEWAY_JWT_JWKS_URL": "http://i.test/l"}, False),
    ],
)
def test_authenticator_and_its_cache_live_on_while_keys_are_the_same(
    case: Case, before: dict[str, str], after: dict[str, str], is_kept: bool
) -> None:
    first = case.tree(configured(ROUTES, before))
    second = case.tree(configured(ROUTES, after), first)
    assert (second.security.authenticator is first.security.authenticator) is is_kept
    assert (second.security.download is first.security.download) is (is_kept or first.security.download is None)
    assert (second.issuer is first.issuer) is (is_kept or first.issuer is None)
    assert second.security.limiters is first.security.limiters


REDIS = {"GATEWAY_REDIS_URL": "redis://10.0.0.9"}


@pytest.mark.parametrize(
    ("before", "after", "is_kept"),
    [
        ({}, {}, True),
        (REDIS, REDIS, True),
        ({}, REDIS, False),
        (REDIS, {}, False),
        (REDIS, {**REDIS, "GATEWAY_REDIS_TIMEOUT": "1s"}, False),
        (REDIS, {"GATEWAY_REDIS_URL": "redis://10.0.0.8"}, False),
    ],
)
def test_limits_live_on_while_their_store_is_the_same(
    case: Case, before: dict[str, str], after: dict[str, str], is_kept: bool
) -> None:
    first = case.tree(configured(ROUTES, before))
    second = case.tree(configured(ROUTES, after), first)
    assert (second.security.limiters is first.security.limiters) is is_kept
    assert second.security.redis is (second.security.limiters if after else None)


# --- one after the other ------------------------------------------------------------------------------------------


def test_replaced_tree_closes_what_the_new_one_has_not(case: Case) -> None:
    jwks = {"GATEWAY_JWT_JWKS_URL": "http://i.test/k"}
    first = case.tree(configured(ROUTES, jwks))
    same = case.tree(configured(ROUTES, jwks), first)
    same.replace(first)
    issuer: Any = first.issuer
    assert not issuer.targets[0].pool._is_closed
    other = case.tree(configured(ROUTES), same)
    other.replace(same)
    assert issuer.targets[0].pool._is_closed
    assert other.issuer is None


def test_replaced_tree_has_a_download_stopped_only_if_it_does_not_go_on(case: Case) -> None:
    jwks = {"GATEWAY_JWT_JWKS_URL": "http://i.test/k"}
    first = case.tree(configured(ROUTES, jwks))
    download: Any = first.security.download
    stopped: list[int] = []
    download.stop = lambda: stopped.append(1)
    same = case.tree(configured(ROUTES, jwks), first)
    same.replace(first)
    assert stopped == []
    case.tree(configured(ROUTES), same).replace(same)
    assert stopped == [1]
