"""Users' middlewares in the pipeline: where they stand, what they are given, and what a reload makes anew."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import attrs
import pytest
from tests.helpers import own
from tests.helpers.logs import logged_events
from tests.unit.support import StubChannel, stub_request
from tests.unit.test_tree import Reactor
from twisted.logger import LogLevel

from txgateway.config import Configuration, load
from txgateway.errors import NoRoute
from txgateway.middleware import Context, Middleware
from txgateway.middleware.guard import Guard, Onward
from txgateway.middleware.router import Router
from txgateway.telemetry.metrics import RequestMetrics
from txgateway.transport.wheel import TimerWheel
from txgateway.tree import Surroundings, Tree
from txgateway.user_decorators import MiddlewareFailed, UserParts

OWN = "tests.helpers.own"
STAMP, TENANCY, PLAIN = f"{OWN}:Stamp", f"{OWN}:Tenancy", f"{OWN}:Plain"
KEY = "0123456789abcdef" * 4


@pytest.fixture(autouse=True)
def nothing_made() -> None:
    own.MADE.clear()


def configured(*routes: dict[str, Any], environ: dict[str, str] | None = None, **tables: Any) -> Configuration:
    made = [{"path": f"/{route['name']}", "response": {"status": 204}, **route} for route in routes]
    return load({"GATEWAY_ROUTES": json.dumps({"routes": made, "middlewares": tables}), **(environ or {})})


def table(use: str = TENANCY, **settings: Any) -> dict[str, Any]:
    return {"use": use, "settings": settings}


class Case:
    """A process in which trees follow each other."""

    def __init__(self, access_log: Any = None) -> None:
        self.reactor = Reactor()
        self.metrics = RequestMetrics()
        self.around = Surroundings(
            reactor=self.reactor,
            epoch_s=lambda: 1000.0,
            wheel=TimerWheel(self.reactor),
            chance=Random(1),
            metrics=self.metrics,
            access_log=None,
            probes={},
            tracing=None,
            demo_port=0,
            https_port=int,
            user_parts=UserParts(self.metrics.middlewares, access_log),
        )

    def tree(self, configuration: Configuration, previous: Tree | None = None) -> Tree:
        return Tree(configuration, self.around, previous)

    def reload(self, configuration: Configuration, previous: Tree) -> Tree:
        tree = self.tree(configuration, previous)
        tree.replace(previous)
        for _ in previous.pipeline.routes.drop():
            pass
        return tree


def names(outermost: Any) -> list[str]:
    found = []
    node = outermost
    while isinstance(node, Middleware):
        found.append(node.name if isinstance(node, Guard) else type(node).__name__)
        node = node.inner
        if isinstance(node, Onward):
            assert isinstance(node.render.__self__, Router)  # type: ignore[attr-defined]
    return found


def route_of(tree: Tree, name: str = "a") -> Any:
    return tree.pipeline.routes.entries[name].resource


def status_of(tree: Tree, target: bytes, **fields: bytes) -> int:
    channel = StubChannel()
    headers = {b"Host": b"a", **{name.encode().replace(b"_", b"-"): value for name, value in fields.items()}}
    tree.pipeline.dispatch(stub_request(target=target, fields=headers, channel=channel))
    status: int = next(event[1] for event in channel.events if event[0] == "head")
    return status


# --- places -------------------------------------------------------------------------------------------------------


def test_on_a_route_they_stand_between_the_limit_by_subject_and_the_bulkhead_in_their_order() -> None:
    configuration = configured(
        {"name": "a", "middlewares": ["one", PLAIN, "two"], "rate_limit": {"rate": "1/s", "key": "subject"}},
        environ={"GATEWAY_JWT_SECRET": KEY},
        one=table(),
        two=table(),
    )
    assert names(route_of(Case().tree(configuration))) == [
        "SecurityHeaders", "Admission", "Authenticate", "RateLimit", "one", "plain", "two", "Bulkhead",
    ]  # fmt: skip


def test_at_the_edge_they_stand_directly_above_the_router_in_their_order() -> None:
    environ = {"GATEWAY_MIDDLEWARES": f"edge,{STAMP}"}
    tree = Case().tree(configured({"name": "a"}, environ=environ, edge={"use": TENANCY, "position": "edge"}))
    assert names(tree.pipeline.edge)[-3:] == ["ClientAddress", "edge", "stamp"]
    assert status_of(tree, b"/a") == 204


def test_without_any_there_is_nothing_in_between() -> None:
    tree = Case().tree(configured({"name": "a"}))
    assert names(tree.pipeline.edge)[-1] == "ClientAddress"
    assert tree.pipeline.user_edge is None


def test_refusal_of_one_is_the_answer() -> None:
    tree = Case().tree(configured({"name": "a", "middlewares": [TENANCY]}))
    assert status_of(tree, b"/a", x_tenant=b"nobody") == 403
    assert status_of(tree, b"/a", x_tenant=b"acme") == 204


# --- what they are given ------------------------------------------------------------------------------------------


def test_each_is_given_inner_settings_and_context() -> None:
    case = Case()
    environ = {"GATEWAY_MIDDLEWARES": STAMP}
    tree = case.tree(configured({"name": "a", "middlewares": ["t"]}, environ=environ, t=table(claim="team")))
    tenancy, stamp = own.MADE
    assert tenancy.settings == own.Tenancy.Settings(claim="team")
    assert tenancy.inner is names_after(route_of(tree), "t")
    context: Context = tenancy.context
    assert (context.name, context.route, context.clock, context.epoch_s()) == ("t", "a", case.reactor, 1000.0)
    assert context.log.namespace == "txgateway.middlewares.t"
    assert (stamp.settings, stamp.context.name, stamp.context.route) == (None, "stamp", None)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        context.route = "b"  # type: ignore[misc]


def names_after(node: Any, name: str) -> Any:
    while getattr(node, "name", None) != name:
        node = node.inner
    return node.inner


def test_metrics_are_named_after_it_and_outlive_a_reload() -> None:
    case = Case()
    first = case.tree(configured({"name": "a", "middlewares": ["my-t"]}, **{"my-t": table()}))
    counter = own.MADE[-1].context.metrics.counter("seen", "Seen.")
    counter.inc()
    case.reload(configured({"name": "a", "middlewares": ["my-t"]}, **{"my-t": table(limit=9)}), first)
    assert own.MADE[-1].context.metrics.counter("seen", "Seen.") is counter
    written = b"".join(case.metrics.exposition(b"")[1]).decode()
    assert "\ngateway_middleware_my_t_seen_total 1\n" in written
    assert '\ngateway_middleware_blocked_total{middleware="my-t"} 0\n' in written


class Announced:
    """An access log that is told of fields."""

    times = 0

    def announce_fields(self) -> None:
        self.times += 1


def test_log_field_sets_what_the_line_will_have_and_announces_it_once_somebody_wants_it() -> None:
    log = Announced()
    Case(log).tree(configured({"name": "a", "middlewares": [TENANCY]}))
    context: Context = own.MADE[-1].context
    assert log.times == 0
    set_org, set_seats = context.log_field("org"), context.log_field("seats")
    assert log.times > 0
    request = stub_request()
    set_org(request, b"acme\xff")
    set_seats(request, 3)
    assert request.log_fields == {"org": "acme\\xff", "seats": 3}
    set_org(request, "x" * 100_000)
    assert len(str(request.log_fields["org"])) < 10_000
    with pytest.raises(ValueError, match="already"):
        context.log_field("status")


def test_without_an_access_log_nothing_is_kept() -> None:
    Case().tree(configured({"name": "a", "middlewares": [TENANCY]}))
    request = stub_request()
    own.MADE[-1].context.log_field("org")(request, "acme")
    assert request.log_fields is None


def test_one_that_cannot_be_made_is_told_by_name_and_place() -> None:
    with pytest.raises(
        MiddlewareFailed, match="middleware broken on route a cannot be made: RuntimeError: out of order"
    ):
        Case().tree(configured({"name": "a", "middlewares": [f"{OWN}:Broken"]}))
    environ = {"GATEWAY_MIDDLEWARES": "x"}
    with pytest.raises(MiddlewareFailed, match="middleware x at the edge cannot be made"):
        Case().tree(configured({"name": "a"}, environ=environ, x={"use": f"{OWN}:Broken", "position": "edge"}))


def test_one_that_blocks_is_told_of_once_wherever_it_stands() -> None:
    case, use = Case(), f"{OWN}:Blocking"
    first = case.tree(
        configured({"name": "a", "middlewares": ["x"]}, {"name": "b", "middlewares": ["x"]}, x={"use": use})
    )
    with logged_events() as events:
        assert (status_of(first, b"/a"), status_of(first, b"/b")) == (204, 204)
        second = case.reload(configured({"name": "c", "middlewares": ["x"]}, x={"use": use}), first)
        assert status_of(second, b"/c") == 204
    assert [event["middleware"] for event in events if event["log_level"] is LogLevel.warn] == ["x"]
    assert case.metrics.middlewares.blocked.labels("x").value == 3


# --- reloads ------------------------------------------------------------------------------------------------------

ROUTES = (
    {"name": "a", "middlewares": ["x"]},
    {"name": "b", "middlewares": ["x", "y"]},
    {"name": "c", "middlewares": ["y"]},
    {"name": "d"},
)


def kept(before: Configuration, after: Configuration) -> set[str]:
    case = Case()
    first = case.tree(before)
    old = dict(first.pipeline.routes.entries)
    second = case.tree(after, first)
    return {name for name, entry in second.pipeline.routes.entries.items() if old.get(name) is entry}


def test_changed_settings_make_only_the_routes_anew_that_use_them() -> None:
    before = configured(*ROUTES, x=table(), y=table())
    assert kept(before, configured(*ROUTES, x=table(), y=table())) == {"a", "b", "c", "d"}
    assert kept(before, configured(*ROUTES, x=table(limit=9), y=table())) == {"c", "d"}
    assert kept(before, configured(*ROUTES, x=table(), y=table(PLAIN))) == {"a", "d"}
    environ = {"GATEWAY_MIDDLEWARE_Y_CLAIM": "team"}
    assert kept(before, configured(*ROUTES, x=table(), y=table(), environ=environ)) == {"a", "d"}


def test_changed_default_makes_only_the_routes_anew_that_inherit_it() -> None:
    before = configured(*ROUTES, x=table(), y=table())
    assert kept(before, configured(*ROUTES, x=table(), y=table(), environ={"GATEWAY_MIDDLEWARES": "x"})) == {
        "a",
        "b",
        "c",
    }


def edge_of(limit: int, name: str = "a") -> Configuration:
    return configured(
        {"name": name},
        environ={"GATEWAY_MIDDLEWARES": "x,y"},
        x={"use": TENANCY, "position": "edge", "settings": {"limit": limit}},
        y={"use": STAMP},
    )


def test_edge_that_needs_no_change_stays_and_leads_to_the_new_routes() -> None:
    case = Case()
    first = case.tree(edge_of(1))
    made = list(own.MADE)
    second = case.tree(edge_of(1, "b"), first)
    assert made == own.MADE
    assert (status_of(first, b"/a"), status_of(first, b"/b")) == (204, 404)  # until it takes over
    second.replace(first)
    assert (status_of(second, b"/a"), status_of(second, b"/b")) == (404, 204)


def test_edge_with_other_settings_is_made_anew() -> None:
    case = Case()
    first = case.tree(edge_of(1))
    second = case.reload(edge_of(2), first)
    assert [type(one).__name__ for one in own.MADE] == ["Stamp", "Tenancy", "Stamp", "Tenancy"]
    assert own.MADE[-1].settings.limit == 2
    assert status_of(second, b"/a") == 204


@pytest.mark.parametrize("is_edge_left", [True, False])
def test_request_that_waits_at_the_edge_of_before_goes_to_the_routes_of_now(is_edge_left: bool) -> None:
    case = Case()
    first = case.tree(edge_of(1))
    innermost = own.MADE[0]  # behind it is what is onward
    after = edge_of(2) if is_edge_left else configured({"name": "a"})
    case.reload(after, first)
    channel = StubChannel()
    request = stub_request(target=b"/a", channel=channel)
    request.host, request.path, request.canonical_path = b"a", b"/a", b"/a"
    innermost.inner.render(request)
    assert next(event[1] for event in channel.events if event[0] == "head") == 204
    other = stub_request(target=b"/x")
    other.host, other.path, other.canonical_path = b"a", b"/x", b"/x"
    with pytest.raises(NoRoute):
        innermost.inner.render(other)
