"""Which route wins, which is refused, and which tables cannot be made."""

from __future__ import annotations

import pytest

from txgateway.errors import MethodNotAllowed, NoRoute
from txgateway.routing.table import RouteRule, RouteTable


def table_of(*rules: RouteRule) -> RouteTable[str]:
    return RouteTable((rule, rule.name) for rule in rules)


def table_of_paths(*paths: str) -> RouteTable[str]:
    return table_of(*(RouteRule(name=path, path=path) for path in paths))


def winner(
    table: RouteTable[str],
    path: bytes,
    *,
    host: bytes = b"example.com",
    method: bytes = b"GET",
    headers: dict[bytes, bytes] | None = None,
) -> str | None:
    try:
        return table.match(host, path, method, headers or {})[0]
    except NoRoute:
        return None


@pytest.mark.parametrize(
    ("path", "route"),
    [
        (b"/api", "/api"),
        (b"/api/", "/api"),
        (b"/api/x", "/api"),
        (b"/apis", None),
        (b"/", None),
        (b"/api/v1", "/api/v1/"),
        (b"/api/v1/", "/api/v1/"),
        (b"/api/v1/x/y", "/api/v1/"),
        (b"/api/v10", "/api"),
    ],
)
def test_prefix_matches_on_segment_borders(path: bytes, route: str | None) -> None:
    assert winner(table_of_paths("/api", "/api/v1/"), path) == route


@pytest.mark.parametrize(
    ("path", "route"), [(b"/a", "=/a"), (b"/a/", "=/a"), (b"/a/b", None), (b"/", "=/"), (b"/b", None)]
)
def test_exact_path_matches_only_itself_with_or_without_trailing_slash(path: bytes, route: str | None) -> None:
    assert winner(table_of_paths("=/a", "=/"), path) == route


@pytest.mark.parametrize("path", [b"/users/7", b"/users", b"/users/7/cv/x", b"/x/7/cv", b"/users/cv"])
def test_template_does_not_match_other_shapes(path: bytes) -> None:
    assert winner(table_of_paths("/users/{id}/cv"), path) is None


def test_template_gives_its_segments_by_name() -> None:
    table = table_of_paths("/users/{id}/cv/{page}")
    assert table.match(b"", b"/users/7%20x/cv/2/", b"GET", {}) == (
        "/users/{id}/cv/{page}",
        {"id": b"7%20x", "page": b"2"},
    )


def test_routes_of_one_shape_keep_their_own_names() -> None:
    table = table_of(
        RouteRule(name="read", path="/users/{id}", methods=("GET",)),
        RouteRule(name="write", path="/users/{user}", methods=("PUT",)),
    )
    assert table.match(b"", b"/users/7", b"GET", {}) == ("read", {"id": b"7"})
    assert table.match(b"", b"/users/7", b"PUT", {}) == ("write", {"user": b"7"})


@pytest.mark.parametrize(
    ("paths", "path"),
    [
        (("=/a/b", "/a/b"), b"/a/b"),
        (("/a/b", "/a/{x}"), b"/a/b"),
        (("=/a/b", "/a/{x}"), b"/a/b"),
        (("/a/{x}", "/a"), b"/a/b"),
        (("/a/b", "/a", "/"), b"/a/b/c"),
        (("/a/{x}/{y}/{z}", "/a/b/c"), b"/a/b/c/d"),
        (("/a/{x}/c", "/{x}/b/c"), b"/a/b/c"),
        (("/a/b/{x}", "/a/{x}/c"), b"/a/b/c"),
        (("/a/{x}/c", "/a/{x}/{y}"), b"/a/b/c"),
        (("/{x}/b/{y}", "/{x}/{y}/c"), b"/a/b/c"),
    ],
)
def test_more_specific_path_wins_whatever_the_order(paths: tuple[str, ...], path: bytes) -> None:
    assert winner(table_of_paths(*paths), path) == paths[0]
    assert winner(table_of_paths(*reversed(paths)), path) == paths[0]


def test_path_much_deeper_than_any_route_is_below_the_deepest_prefix() -> None:
    table = table_of_paths("/", "/a/b", "=/a/b/c", "/a")
    assert winner(table, b"/a/b/c" + b"/d" * 4000) == "/a/b"
    assert winner(table, b"/a/x" + b"/d" * 4000) == "/a"


def test_template_is_found_where_its_literal_sibling_leads_nowhere() -> None:
    assert winner(table_of_paths("/a/b/{x}/z", "/a/{x}/c/d"), b"/a/b/c/d") == "/a/{x}/c/d"


@pytest.mark.parametrize(
    "host",
    [b"api.example.com", b"API.Example.COM", b"api.example.com.", b"api.example.com:8443", b"api.example.com.:1"],
)
def test_host_is_compared_without_case_port_and_final_dot(host: bytes) -> None:
    table = table_of(RouteRule(name="api", hosts=("Api.example.com.:80",)), RouteRule(name="rest"))
    assert winner(table, b"/", host=host) == "api"


@pytest.mark.parametrize("host", [b"[2001:db8::1]", b"[2001:DB8:0::1]:8000", b"[2001:0db8:0:0:0:0:0:1]"])
def test_spellings_of_an_ipv6_host_are_one(host: bytes) -> None:
    table = table_of(RouteRule(name="six", hosts=("[2001:db8::1]",)), RouteRule(name="rest"))
    assert winner(table, b"/", host=host) == "six"


@pytest.mark.parametrize(
    ("host", "route"),
    [
        (b"a.example.com", "exact"),
        (b"b.example.com", "wildcard"),
        (b"x.b.example.com", "none"),
        (b"example.com", "none"),
        (b".example.com", "none"),
        (b"", "none"),
    ],
)
def test_exact_host_goes_before_one_label_wildcard_before_none(host: bytes, route: str) -> None:
    table = table_of(
        RouteRule(name="none", path="/a/b"),
        RouteRule(name="wildcard", hosts=("*.example.com",), path="/a"),
        RouteRule(name="exact", hosts=("a.example.com",)),
    )
    assert winner(table, b"/a/b", host=host) == route


def test_host_whose_paths_do_not_match_leaves_the_request_to_less_specific_hosts() -> None:
    table = table_of(RouteRule(name="none"), RouteRule(name="exact", hosts=("a.com",), path="/x"))
    assert winner(table, b"/y", host=b"a.com") == "none"


def test_no_host_matches_raises_no_route() -> None:
    assert winner(table_of(RouteRule(name="a", hosts=("a.com",))), b"/", host=b"b.com") is None


@pytest.mark.parametrize(
    ("method", "headers", "route"),
    [
        (b"GET", {b"x-a": b"1", b"x-b": b"2"}, "get-ab"),
        (b"GET", {b"x-a": b"1", b"x-b": b"3"}, "get-a"),
        (b"GET", {}, "get"),
        (b"GET", {b"x-c": b"1"}, "get"),
        (b"HEAD", {}, "get"),
        (b"POST", {}, "post-or-get"),
        (b"PUT", {b"x-a": b"1"}, "any-a"),
        (b"PUT", {b"x-a": b"01"}, "any"),
    ],
)
def test_methods_go_before_headers_and_more_headers_before_fewer(
    method: bytes, headers: dict[bytes, bytes], route: str
) -> None:
    table = table_of(
        RouteRule(name="any"),
        RouteRule(name="any-a", headers={"X-A": "1"}),
        RouteRule(name="any-c", headers={"x-c": "1"}),
        RouteRule(name="post-or-get", methods=("POST", "GET")),
        RouteRule(name="get", methods=("GET",)),
        RouteRule(name="get-a", methods=("GET",), headers={"x-a": "1"}),
        RouteRule(name="get-ab", methods=("GET",), headers={"x-a": "1", "x-b": "2"}),
    )
    assert winner(table, b"/", method=method, headers=headers) == route


def test_equally_specific_routes_are_tried_in_the_order_given() -> None:
    table = table_of(RouteRule(name="a", headers={"x-a": "1"}), RouteRule(name="b", headers={"x-b": "1"}))
    assert winner(table, b"/", headers={b"x-a": b"1", b"x-b": b"1"}) == "a"


def test_method_that_does_not_match_leaves_the_request_to_a_shorter_path() -> None:
    table = table_of(RouteRule(name="get", path="/a", methods=("GET",)), RouteRule(name="rest"))
    assert winner(table, b"/a", method=b"POST") == "rest"


def test_no_method_matches_raises_the_union_of_allowed_methods() -> None:
    table = table_of(
        RouteRule(name="get", path="/a/b", methods=("GET",)),
        RouteRule(name="put", path="/a", methods=("PUT",)),
        RouteRule(name="template", path="/a/{x}", methods=("PATCH",)),
        RouteRule(name="wild", hosts=("*.example.com",), path="/a", methods=("DELETE",)),
        RouteRule(name="canary", path="/a", methods=("LOCK",), headers={"x-canary": "1"}),
        RouteRule(name="elsewhere", path="/b", methods=("TRACE",)),
        RouteRule(name="other-host", hosts=("b.com",), methods=("OPTIONS",)),
    )
    with pytest.raises(MethodNotAllowed) as caught:
        table.match(b"a.example.com", b"/a/b", b"POST", {})
    assert caught.value.allowed == ("DELETE", "GET", "HEAD", "PATCH", "PUT")


def test_only_headers_do_not_match_raises_no_route() -> None:
    table = table_of(RouteRule(name="canary", methods=("GET",), headers={"x-canary": "1"}))
    assert winner(table, b"/", method=b"POST", headers={b"x-canary": b"2"}) is None


@pytest.mark.parametrize(
    ("rule_path", "path"), [("/résumé", b"/r%C3%A9sum%C3%A9"), ("/%61//b%2Fc", b"/a/b/c"), ("/a b", b"/a%20b")]
)
def test_rule_path_is_canonicalized(rule_path: str, path: bytes) -> None:
    assert winner(table_of_paths(rule_path), path) == rule_path


@pytest.mark.parametrize(
    "rule",
    [
        RouteRule(name="bad-one", path="a"),
        RouteRule(name="bad-one", path=""),
        RouteRule(name="bad-one", path="=a"),
        RouteRule(name="bad-one", path="/a/../b"),
        RouteRule(name="bad-one", path="/a/%zz"),
        RouteRule(name="bad-one", path="/a;b"),
        RouteRule(name="bad-one", path="/a?b"),
        RouteRule(name="bad-one", path="/a\\b"),
        RouteRule(name="bad-one", path="/a/{id}.pdf"),
        RouteRule(name="bad-one", path="/a/{}"),
        RouteRule(name="bad-one", path="/a/{id}/{id}"),
        RouteRule(name="bad-one", path="=/a/{id}"),
        RouteRule(name="bad-one", hosts=("",)),
        RouteRule(name="bad-one", hosts=("*",)),
        RouteRule(name="bad-one", hosts=("a.*.com",)),
        RouteRule(name="bad-one", hosts=("*.*.com",)),
        RouteRule(name="bad-one", hosts=("http://a.com",)),
        RouteRule(name="bad-one", hosts=("bücher.example",)),
        RouteRule(name="bad-one", methods=("GET POST",)),
        RouteRule(name="bad-one", methods=("",)),
        RouteRule(name="bad-one", headers={"x a": "1"}),
        RouteRule(name="bad-one", headers={"x-a": "1\r\n"}),
        RouteRule(name="bad-one", headers={"x-a": "1", "X-A": "2"}),
    ],
    ids=repr,
)
def test_malformed_rule_is_refused_by_name(rule: RouteRule) -> None:
    with pytest.raises(ValueError, match="route 'bad-one'"):
        table_of(RouteRule(name="good"), rule)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (RouteRule(name="r1", path="/a"), RouteRule(name="r2", path="/a/")),
        (RouteRule(name="r1", path="=/a"), RouteRule(name="r2", path="=/%61")),
        (RouteRule(name="r1", path="/a/{x}"), RouteRule(name="r2", path="/a/{y}")),
        (RouteRule(name="r1", methods=("GET",)), RouteRule(name="r2", methods=("HEAD", "GET"))),
        (RouteRule(name="r1", headers={"a": "1"}), RouteRule(name="r2", headers={"A": "1"})),
        (RouteRule(name="r1", hosts=("a.com", "b.com")), RouteRule(name="r2", hosts=("c.com", "B.com:80"))),
    ],
)
def test_indistinguishable_rules_are_refused_by_both_names(first: RouteRule, second: RouteRule) -> None:
    with pytest.raises(ValueError, match="'r1' and 'r2'"):
        table_of(first, second)


def test_rule_may_name_a_host_twice() -> None:
    assert winner(table_of(RouteRule(name="a", hosts=("a.com", "A.com"))), b"/", host=b"a.com") == "a"
