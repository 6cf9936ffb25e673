from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from txgateway.config import Configuration, ConfigurationError, load

PUBLISHED = """
[backends.resumes]
targets = ["http://10.0.0.1:9000", { url = "http://10.0.0.2:9000", weight = 3 }]
load_balancer = "least_request"
health_check.path = "/healthz"

[[routes]]
name = "resumes"
hosts = ["api.example.com"]
path = "/api/v1/resumes"
methods = ["GET", "POST"]
headers = { x-canary = "1" }
backend = "resumes"
strip_prefix = false
rewrite = ""
preserve_host = false
upgrades = ["websocket"]
timeout.total = "5s"
retry.max_attempts = 2
bulkhead.max_concurrent = 64
request_headers = { set = { X-Env = "prod" }, remove = ["X-Debug"] }
response_headers = { remove = ["Server"] }
middlewares = []
"""

PUBLISHED_SECURITY = """
auth = "jwt"
rate_limit = { rate = "50/s", burst = 100, key = "subject" }
jwt.required_scopes = ["resumes:read"]
cors.allow_origins = ["https://app.example.com"]
"""


def load_toml(tmp_path: Path, text: str, **environ: str) -> Configuration:
    (tmp_path / "routes.toml").write_text(text)
    return load({"GATEWAY_ROUTES_FILE": str(tmp_path / "routes.toml"), **environ})


def load_json(document: object, **environ: str) -> Configuration:
    return load({"GATEWAY_ROUTES": json.dumps(document), **environ})


def problems_of(document: object, **environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_json(document, **environ)
    return [str(problem) for problem in caught.value.problems]


def document_with(route: dict[str, Any] | None = None, backend: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "backends": {"a": {"targets": ["http://a:1"], **(backend or {})}},
        "routes": [{"name": "r", "path": "/", "backend": "a", **(route or {})}],
    }


def test_published_example_loads(tmp_path: Path) -> None:
    configuration = load_toml(tmp_path, PUBLISHED)
    (route,) = configuration.routes
    backend = configuration.backends["resumes"]
    assert [(target.label, target.weight) for target in backend.targets] == [("10.0.0.1:9000", 1), ("10.0.0.2:9000", 3)]
    assert (backend.load_balancer, backend.health_check.path) == ("least_request", "/healthz")
    assert (route.hosts, route.methods, route.headers) == (("api.example.com",), ("GET", "POST"), {"x-canary": "1"})
    assert [(weighted.name, weighted.weight) for weighted in route.backends] == [("resumes", 1)]
    assert (route.timeout.total_s, route.timeout.idle_s) == (5.0, 300.0)
    assert (route.retry.max_attempts, route.retry.backoff_s, route.rewrite) == (2, 0.025, None)
    assert (route.bulkhead.max_concurrent, route.bulkhead.max_queue, route.bulkhead.queue_timeout_s) == (64, 0, 1.0)
    assert (route.request_headers.set, route.request_headers.remove) == ({"X-Env": "prod"}, ("X-Debug",))
    assert (route.response_headers.set, route.response_headers.remove) == ({}, ("Server",))
    assert configuration.warnings == ()


def test_published_example_with_its_security_loads(tmp_path: Path) -> None:
    (route,) = load_toml(tmp_path, PUBLISHED + PUBLISHED_SECURITY, GATEWAY_JWT_SECRET="x" * 32).routes
    assert route.wants_token
    assert route.rate_limit is not None
    assert [str(rate) for rate in route.rate_limit.rate] == ["50/s"]
    assert (route.rate_limit.burst, route.rate_limit.key, route.has_own_rate_limit) == (100, ("subject",), True)
    assert route.jwt.required_scopes == ("resumes:read",)
    assert route.cors.allow_origins == ("https://app.example.com",)


def test_token_is_wanted_where_there_is_a_key_and_the_route_does_not_say_no() -> None:
    document = document_with()
    document["routes"] += [
        {"name": f"r-{auth}", "path": f"/{auth}", "backend": "a", "auth": auth} for auth in ("jwt", "none")
    ]
    wants = {route.name: route.wants_token for route in load_json(document, GATEWAY_JWT_SECRET="x" * 32).routes}
    assert wants == {"r": True, "r-jwt": True, "r-none": False}
    assert not load_json(document_with()).routes[0].wants_token


def test_rate_limit_belongs_to_the_place_where_the_rate_is_written() -> None:
    document = document_with({"rate_limit": {"key": "route"}})
    document["routes"].append({"name": "s", "path": "/s", "backend": "a", "rate_limit": {"rate": "1/s"}})
    document["routes"].append({"name": "t", "path": "/t", "backend": "a", "rate_limit": {"burst": 5}})
    routes = load_json(document, GATEWAY_RATE_LIMIT="9/s").routes
    assert [route.has_own_rate_limit for route in routes] == [False, True, True]


def test_document_goes_over_environment_goes_over_default() -> None:
    document = document_with(
        {"retry": {"max_attempts": 5}, "timeout": {"total": 0}, "max_body_bytes": "1KiB"},
        {"pool": {"max_pending": 7}, "timeout": {"connect": "9s"}},
    )
    document["backends"]["b"] = {"targets": ["http://b:1"]}
    document["routes"].append({"name": "s", "path": "/s", "backend": "b"})
    configuration = load_json(
        document,
        GATEWAY_RETRY_MAX_ATTEMPTS="4",
        GATEWAY_RETRY_BACKOFF="1ms",
        GATEWAY_TIMEOUT_TOTAL="8s",
        GATEWAY_TIMEOUT_IDLE="6s",
        GATEWAY_MAX_BODY_BYTES="2KiB",
        GATEWAY_POOL_MAX_PENDING="3",
        GATEWAY_POOL_MAX_CONNECTIONS="2",
        GATEWAY_TIMEOUT_CONNECT="7s",
    )
    own, inheriting = configuration.routes
    assert (own.retry.max_attempts, own.retry.backoff_s, own.retry.budget_min) == (5, 0.001, 3)
    assert (inheriting.retry.max_attempts, inheriting.retry.backoff_s) == (4, 0.001)
    assert (own.timeout.total_s, own.timeout.idle_s, own.max_body_bytes) == (0.0, 6.0, 1024)
    assert (inheriting.timeout.total_s, inheriting.timeout.idle_s, inheriting.max_body_bytes) == (8.0, 6.0, 2048)
    a, b = configuration.backends.values()
    assert (a.pool.max_pending, a.pool.max_connections, a.connect_timeout_s) == (7, 2, 9.0)
    assert (b.pool.max_pending, b.pool.max_connections, b.connect_timeout_s) == (3, 2, 7.0)


def test_group_that_a_route_does_not_touch_is_shared() -> None:
    configuration = load_json(document_with())
    assert configuration.routes[0].retry is configuration.settings.retry


def test_route_without_a_rate_has_no_rate_limit() -> None:
    assert load_json(document_with()).routes[0].rate_limit is None


def test_security_header_that_a_route_turns_off_is_off() -> None:
    (route,) = load_json(document_with({"csp": ""})).routes
    assert (route.security_headers.csp, route.security_headers.frame_options) == ("", "DENY")


@pytest.mark.parametrize(
    ("end", "attribute"),
    [
        ({"redirect": {"to": "https://new.example.com"}}, "redirect"),
        ({"response": {"status": 410, "body": "gone", "content_type": "text/plain"}}, "response"),
        ({"resource": "mypkg.site:root"}, "resource"),
    ],
)
def test_route_may_end_without_backend(end: dict[str, Any], attribute: str) -> None:
    (route,) = load_json({"routes": [{"name": "r", "path": "/", **end}]}).routes
    assert getattr(route, attribute)
    assert route.backends == ()


def test_redirect_is_308_unless_it_says_so() -> None:
    (route,) = load_json({"routes": [{"name": "r", "path": "/", "redirect": {"to": "/x"}}]}).routes
    assert route.redirect is not None
    assert (route.redirect.to, route.redirect.status) == ("/x", 308)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        (
            {"retry": {"max_atempts": 2}},
            "routes[0].retry.max_atempts: there is no such key; did you mean max_attempts?",
        ),
        ({"retry": {"max_attempts": 0}}, "routes[0].retry.max_attempts: '0' is not accepted: expected an integer"),
        ({"timeout": {"total": "5x"}}, "routes[0].timeout.total: '5x' is not accepted: expected a duration"),
        ({"timeout": {"total_s": 5}}, "routes[0].timeout.total_s: there is no such key; did you mean total?"),
        ({"timeout": {"connect": "1s"}}, "routes[0].timeout.connect: there is no such key"),
        ({"timeout": "5s"}, "routes[0].timeout: '5s' is not accepted: expected a table"),
        ({"pathh": "/"}, "routes[0].pathh: there is no such key; did you mean path?"),
        ({"path": "/a/../b"}, "routes[0].path: '/a/../b' is not accepted"),
        ({"path": None}, "routes[0].path: expected a string"),
        ({"methods": ["get"]}, "routes[0].methods: \"['get']\" is not accepted: expected a method in upper case"),
        ({"hosts": ["*.*.com"]}, "routes[0].hosts: \"['*.*.com']\" is not accepted: expected a host"),
        ({"headers": {"a b": "1"}}, "routes[0].headers: 'a b': expected a header name"),
        ({"request_headers": {"set": {"X": "a\nb"}}}, "routes[0].request_headers.set: 'X': expected a header value"),
        ({"request_headers": {"set": {"Host": "x"}}}, "routes[0].request_headers.set: 'Host': expected a header other"),
        ({"backend": "b"}, "routes[0].backend: 'b' is not accepted: there is no such backend"),
        ({"backend": None}, "routes[0]: expected exactly one of backend, backends, redirect, response or resource"),
        ({"resource": "a:b"}, "routes[0]: expected exactly one of backend, backends, redirect, response or resource"),
        ({"redirect": {"status": 302}}, "routes[0].redirect.to: required"),
        ({"strip_prefix": True, "path": "/u/{id}"}, "routes[0].strip_prefix: a path with placeholders"),
        ({"strip_prefix": True, "rewrite": "/x"}, "routes[0].strip_prefix: contradicts rewrite"),
        ({"rewrite": "/x/{id}"}, "routes[0].rewrite: '/x/{id}' is not accepted: {id} is no placeholder"),
        ({"auth": "jwt"}, "routes[0].auth: 'jwt' is not accepted: there is no JWT key"),
        ({"auth": "basic"}, "routes[0].auth: 'basic' is not accepted: expected jwt or none"),
        ({"jwt": {"required_scopes": ["a"]}}, "routes[0].jwt.required_scopes: there is no JWT key"),
        ({"auth": "none", "jwt": {"required_scopes": ["a"]}}, "routes[0].jwt.required_scopes: contradicts auth"),
        (
            {"cors": {"allow_origins": "*", "allow_credentials": True}},
            "routes[0].cors.allow_credentials: it would open",
        ),
        ({"retry": {"backoff": "1h"}}, "routes[0].retry.backoff: it is longer than backoff_max"),
        ({"name": ""}, "routes[0].name: '' is not accepted: expected 1 to 128"),
        ({"name": "none"}, "routes[0].name: 'none' is not accepted: it is the metric label"),
        ({"name": "a\nb"}, "routes[0].name: 'a\\nb' is not accepted"),
        ({"upgrades": "web socket"}, "routes[0].upgrades: 'web socket' is not accepted"),
    ],
)
def test_route_with_something_wrong_is_refused(route: dict[str, Any], expected: str) -> None:
    assert any(line.startswith(expected) for line in problems_of(document_with(route)))


@pytest.mark.parametrize(
    ("backend", "expected"),
    [
        ({"targets": []}, "backends.a.targets: expected at least one target"),
        ({"targets": "http://a"}, "backends.a.targets: 'http://a' is not accepted: expected a list"),
        ({"targets": ["http://a/path"]}, "backends.a.targets[0]: 'http://a/path' is not accepted"),
        ({"targets": [{"url": "x"}]}, "backends.a.targets[0].url: 'x' is not accepted"),
        ({"targets": [{"weight": 1}]}, "backends.a.targets[0].url: required"),
        ({"targets": [{"url": "http://a", "weight": 0}]}, "backends.a.targets[0].weight: '0' is not accepted"),
        (
            {"targets": [{"url": "http://a", "wieght": 1}]},
            "backends.a.targets[0].wieght: there is no such key; did you",
        ),
        ({"targets": ["http://a", "http://A:80"]}, "backends.a.targets: a:80 is given 2 times"),
        ({"targets": ["demo", "http://a"]}, "backends.a.targets: the demo backend is the only target"),
        (
            {"tls": {"ca_file": "/nowhere"}},
            "backends.a.tls.ca_file: '/nowhere' is not accepted: the file cannot be read",
        ),
        ({"timeout": {"connect": 0}}, "backends.a.timeout.connect: '0' is not accepted"),
        ({"timeout": {"total": 1}}, "backends.a.timeout.total: there is no such key"),
        ({"load_balancer": "fastest"}, "backends.a.load_balancer: 'fastest' is not accepted: expected round_robin"),
        ({"poool": {}}, "backends.a.poool: there is no such key; did you mean pool?"),
    ],
)
def test_backend_with_something_wrong_is_refused(backend: dict[str, Any], expected: str) -> None:
    assert any(line.startswith(expected) for line in problems_of(document_with(backend=backend)))


def test_everything_wrong_in_one_route_is_told_at_once() -> None:
    found = problems_of(
        document_with({"backend": "b", "timeout": {"total": "x", "idle": "y"}, "foo": 1, "rewrite": "/{a}"})
    )
    assert [line.partition(": ")[0] for line in found] == [
        "routes[0].timeout.total", "routes[0].timeout.idle", "routes[0].foo", "routes[0].backend", "routes[0].rewrite",
    ]  # fmt: skip


def test_refused_end_is_not_reported_as_missing() -> None:
    found = problems_of({"routes": [{"name": "r", "path": "/", "redirect": {"to": "ftp://x"}}]})
    assert [line.partition(": ")[0] for line in found] == ["routes[0].redirect.to"]


def test_duplicate_route_names_are_refused() -> None:
    routes = [{"name": "r", "path": path, "resource": "a:b"} for path in ("/a", "/b")]
    assert problems_of({"routes": routes}) == ["routes[1].name: 'r' is not accepted: routes[0] has this name already"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"path": "/a"}, {"path": "/a/"}),
        ({"path": "/a"}, {"path": "//%61"}),
        ({"path": "/u/{id}"}, {"path": "/u/{name}"}),
        ({"path": "/", "methods": ["GET"]}, {"path": "/", "methods": ["HEAD", "GET"]}),
        ({"path": "/", "hosts": ["A.com", "b.com"]}, {"path": "/", "hosts": ["b.com."]}),
        ({"path": "/", "headers": {"X-A": "1"}}, {"path": "/", "headers": {"x-a": "1"}}),
    ],
)
def test_routes_that_nothing_tells_apart_are_refused(first: dict[str, Any], second: dict[str, Any]) -> None:
    routes = [{"name": name, "resource": "a:b", **rule} for name, rule in (("r", first), ("s", second))]
    (problem,) = problems_of({"routes": routes})
    assert problem.startswith("routes[1].path: ")
    assert problem.endswith("routes[0] matches the very same requests")


def test_routes_that_differ_in_anything_are_accepted() -> None:
    rules: list[dict[str, Any]] = [
        {"path": "/a"},
        {"path": "=/a"},
        {"path": "/a", "hosts": ["a.com"]},
        {"path": "/a", "methods": ["GET"]},
        {"path": "/a", "headers": {"X-A": "1"}},
        {"path": "/{a}"},
    ]
    routes = [{"name": f"r{index}", "resource": "a:b", **rule} for index, rule in enumerate(rules)]
    assert len(load_json({"routes": routes}).routes) == 6


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([("a", 0)], "routes[0].backends: expected at least one weight above 0"),
        ([("a", 1), ("a", 1)], "routes[0].backends: expected each backend once"),
        ([("a", 1), ("c", 1)], "routes[0].backends[1].name: 'c' is not accepted: there is no such backend"),
    ],
)
def test_weighted_backends_with_something_wrong_are_refused(weights: list[tuple[str, int]], expected: str) -> None:
    document = document_with({"backend": None, "backends": [{"name": name, "weight": w} for name, w in weights]})
    document["backends"]["b"] = {"targets": ["http://b"]}
    assert any(line.startswith(expected) for line in problems_of(document))


def test_weighted_backends_are_accepted_in_their_order() -> None:
    document = document_with({"backend": None, "backends": [{"name": "a", "weight": 95}, {"name": "b", "weight": 5}]})
    document["backends"]["b"] = {"targets": ["http://b"]}
    configuration = load_json(document)
    assert configuration.warnings == ()
    assert [(weighted.name, weighted.weight) for weighted in configuration.routes[0].backends] == [("a", 95), ("b", 5)]


def test_single_weighted_backend_is_accepted() -> None:
    (route,) = load_json(document_with({"backend": None, "backends": [{"name": "a", "weight": 5}]})).routes
    assert [weighted.name for weighted in route.backends] == ["a"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "GATEWAY_ROUTES: the document is not JSON: unexpected end of data: line 1 column 2"),
        ("[]", "GATEWAY_ROUTES: expected a document with routes and backends"),
        ("{}", "routes: expected a list of at least one route"),
        ('{"routes": {}}', "routes: expected a list of at least one route"),
        ('{"routes": [1]}', "routes[0]: expected a table"),
        ('{"routes": [], "backend": {}}', "backend: there is no such key; did you mean backends?"),
        ('{"routes": [], "backends": []}', "backends: expected a table of backends by name"),
        ('{"routes": [], "backends": {"a": 1}}', "backends.a: expected a table"),
        ('{"routes": [], "backends": {"a b\\n": {}}}', 'backends."a b\\n": the name is not accepted'),
    ],
)
def test_document_that_is_none_is_refused(text: str, expected: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"GATEWAY_ROUTES": text})
    assert any(str(problem).startswith(expected) for problem in caught.value.problems)


def test_toml_error_has_its_position(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"GATEWAY_ROUTES_FILE: the document is not TOML: .*line 2"):
        load_toml(tmp_path, "a = 1\nb = = 2\n")


def test_deeply_nested_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="nested too deeply"):
        load_toml(tmp_path, "a = " + "[" * 5000 + "]" * 5000)


def test_file_that_ends_in_json_is_json(tmp_path: Path) -> None:
    (tmp_path / "routes.json").write_text(json.dumps(document_with()))
    assert load({"GATEWAY_ROUTES_FILE": str(tmp_path / "routes.json")}).routes[0].name == "r"


def test_missing_file_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"GATEWAY_ROUTES_FILE: '/nowhere' is not accepted: .*No such file"):
        load({"GATEWAY_ROUTES_FILE": "/nowhere"})


def test_ten_thousand_routes_load() -> None:
    routes = [{"name": f"r{n}", "path": f"/a/{n}", "backend": "a", "timeout": {"total": "5s"}} for n in range(10_000)]
    assert len(load_json({"backends": {"a": {"targets": ["http://a"]}}, "routes": routes}).routes) == 10_000
