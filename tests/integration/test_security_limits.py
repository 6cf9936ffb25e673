"""Rate limits over sockets: who shares a bucket, what the client is told, and what becomes of it without Redis."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.helpers.redis_server import RedisServer
from tests.integration.backend import ScriptedBackend, answer
from tests.integration.client import Response
from tests.integration.harness import Gateway, routes, wait_until
from tests.integration.problems import assert_problem
from tests.integration.tokens import SECRET, bearer, key

HS256 = key("HS256")
FIELDS = ("RateLimit-Policy", "RateLimit", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
_FRESH = count(1)


def fresh_ip() -> str:
    """The field line by which the gateway takes a client for one that was never there."""
    number = next(_FRESH)
    return f"X-Forwarded-For: 10.1.{number // 250}.{number % 250 + 1}"


def fresh_user() -> str:
    return f"user-{next(_FRESH)}"


def document(backend: ScriptedBackend) -> dict[str, Any]:
    def route(name: str, rate: str = "", **keys: Any) -> dict[str, Any]:
        limit = {**({"rate": rate} if rate else {}), **keys.pop("limit", {})}
        own = {"rate_limit": limit} if limit else {}
        end = {} if "response" in keys else {"backend": "main"}
        return {"name": name, "path": f"/{name}", "auth": "none", **end, **own, **keys}

    return {
        "backends": {"main": {"targets": [backend.url]}},
        "routes": [
            route("one"),
            route("two"),
            route("closed", limit={"on_store_error": "closed"}),
            route("split", limit={"key": ["ip", "route"]}),
            route("split-too", limit={"key": ["ip", "route"]}),
            route("own", "3/h", limit={"burst": 5}),
            route("same", "3/h", limit={"burst": 5}),
            route("default", "4/h"),
            route("quick", "1/s"),
            route("several", "60/m,2/h", path="/several"),
            route("whole", "2/h", limit={"key": "route"}),
            route("by-header", "2/h", limit={"key": "header:X-Api-Key"}, request_headers={"remove": ["X-Api-Key"]}),
            route("by-subject", "2/h", limit={"key": "subject"}, auth="jwt"),
            route("by-subject-open", "2/h", limit={"key": "subject"}),
            route("by-both", "2/h", limit={"key": ["subject", "header:X-Api-Key"]}, auth="jwt"),
            route("login", "2/h", auth="jwt"),
            route("browsers", "1/h", auth="jwt", cors={"allow_origins": ["https://app.example.com"]}),
            route("100% odd; name=1", "9/h", path="/odd"),
            route("fixed", "1/h", response={"body": "fixed"}),
        ],
    }


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {
        "GATEWAY_JWT_SECRET": SECRET,
        "GATEWAY_RATE_LIMIT": "4/h",
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
        "GATEWAY_PROBE_PREFIX": "/health",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), {**environment, **routes(document(module_backend))}) as running:
        yield running


def statuses(gateway: Gateway, target: str, times: int, *fields: str) -> list[int]:
    return [gateway.get(target, *fields).status for _ in range(times)]


def told(response: Response) -> dict[str, str | None]:
    """What an answer tells about a limit."""
    return {name: response.header(name) for name in FIELDS}


# --- what is told --------------------------------------------------------------------------------------------------


def test_first_answer_tells_all_of_the_limit(gateway: Gateway, backend: ScriptedBackend) -> None:
    assert told(gateway.get("/own", fresh_ip())) == {
        "RateLimit-Policy": '"own";q=5;w=6000',  # 5 at once, of which one comes back in 1200 s
        "RateLimit": '"own";r=4;t=1200',
        "X-RateLimit-Limit": "5",
        "X-RateLimit-Remaining": "4",
        "X-RateLimit-Reset": "1200",
    }
    assert told(gateway.get("/one", fresh_ip()))["RateLimit-Policy"] == '"default";q=4;w=3600'
    assert told(gateway.get("/odd", fresh_ip()))["RateLimit"] == '"100% odd; name=1";r=8;t=400'


def test_tightest_of_several_rates_is_told_the_old_way(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert told(gateway.get("/several", ip)) == {
        "RateLimit-Policy": '"several";q=60;w=60, "several";q=2;w=3600',
        "RateLimit": '"several";r=59;t=1, "several";r=1;t=1800',
        "X-RateLimit-Limit": "2",
        "X-RateLimit-Remaining": "1",
        "X-RateLimit-Reset": "1800",
    }
    assert statuses(gateway, "/several", 2, ip) == [200, 429]


def test_refused_request_is_told_when_to_come_again(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/own", 5, ip) == [200] * 5
    response = gateway.get("/own", ip)
    line = assert_problem(gateway, response, 429, "RATE_LIMITED")
    assert line["route"] == "own"
    assert 1190 <= int(response.header("Retry-After") or 0) <= 1200
    assert (response.header("RateLimit") or "").startswith('"own";r=0;t=')
    assert response.header("X-RateLimit-Remaining") == "0"
    assert 5990 <= int(response.header("X-RateLimit-Reset") or 0) <= 6000


def test_retry_after_is_at_least_a_second_and_keeps_its_word(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    responses = [gateway.get("/quick", ip) for _ in range(3)]
    refused = [response for response in responses if response.status == 429]
    assert refused
    assert {response.header("Retry-After") for response in refused} == {"1"}
    wait_until(lambda: gateway.get("/quick", ip).status == 200, "a token is back")


def test_backends_own_fields_about_limits_are_replaced(gateway: Gateway, backend: ScriptedBackend) -> None:
    fields = "".join(f"{name.lower()}: theirs\r\n" for name in FIELDS)
    backend.script = answer(f"HTTP/1.1 200 OK\r\n{fields}Content-Length: 0\r\n\r\n".encode())
    response = gateway.get("/own", fresh_ip())
    assert (response.status, response.header("RateLimit")) == (200, '"own";r=4;t=1200')
    assert "theirs" not in told(response).values()


def test_grpc_call_over_the_limit_is_told_so(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/whole", 2, ip) == [200, 200]
    response = gateway.get("/whole", fresh_ip(), "Content-Type: application/grpc", method="POST")
    assert (response.header("grpc-status"), response.header("grpc-message")) == ("8", "RATE_LIMITED")


def test_decisions_are_counted_by_route(gateway: Gateway, backend: ScriptedBackend) -> None:
    def counted(decision: str) -> float:
        return gateway.metric("gateway_rate_limit_decisions_total", route="own", decision=decision)

    before, ip = (counted("allowed"), counted("limited")), fresh_ip()
    statuses(gateway, "/own", 7, ip)
    assert (counted("allowed"), counted("limited")) == (before[0] + 5, before[1] + 2)
    assert counted("store_error") == 0
    assert gateway.metric("gateway_rate_limit_degraded") == 0
    assert gateway.metric("gateway_errors_total", route="own", reason="RATE_LIMITED") == before[1] + 2


def test_upload_over_the_limit_is_not_invited(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    statuses(gateway, "/one", 4, ip)
    with gateway.client() as client:
        client.send(
            f"POST /one HTTP/1.1\r\nHost: x\r\n{ip}\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n".encode()
        )
        response = client.read_response()
        assert (response.status, response.informational) == (429, [])
        assert client.is_at_end()


# --- who shares a bucket -------------------------------------------------------------------------------------------


def test_environments_limit_is_shared_by_routes_that_inherit_it(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/one", 2, ip) == [200, 200]
    assert statuses(gateway, "/two", 1, ip) == [200]
    assert statuses(gateway, "/closed", 1, ip) == [200]  # what it says of Redis makes it no limit of its own
    assert statuses(gateway, "/one", 1, ip) == statuses(gateway, "/two", 1, ip) == [429]
    assert statuses(gateway, "/closed", 1, ip) == [429]
    assert statuses(gateway, "/own", 5, ip) == [200] * 5
    assert statuses(gateway, "/one", 1, fresh_ip()) == [200]


def test_route_in_the_key_splits_the_environments_limit(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/split", 5, ip) == [200] * 4 + [429]
    assert statuses(gateway, "/split-too", 5, ip) == [200] * 4 + [429]
    response = gateway.get("/one", ip)
    assert (response.status, response.header("X-RateLimit-Remaining")) == (200, "3")


def test_equal_limits_of_two_routes_are_two_limits(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/own", 6, ip) == [200] * 5 + [429]
    assert statuses(gateway, "/same", 6, ip) == [200] * 5 + [429]


def test_route_of_the_name_default_has_a_limit_of_its_own(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/default", 5, ip) == [200] * 4 + [429]
    assert statuses(gateway, "/one", 5, ip) == [200] * 4 + [429]


def test_header_tells_clients_apart_and_without_it_the_address_does(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    one, two = f"X-Api-Key: {fresh_user()}", f"x-api-key: {fresh_user()}"
    assert statuses(gateway, "/by-header", 3, one, ip) == [200, 200, 429]
    assert statuses(gateway, "/by-header", 1, one, fresh_ip()) == [429]
    assert statuses(gateway, "/by-header", 3, two, ip) == [200, 200, 429]
    assert statuses(gateway, "/by-header", 3, ip) == [200, 200, 429]
    assert statuses(gateway, "/by-header", 1, "X-Api-Key:", ip) == [429]
    assert statuses(gateway, "/by-header", 1, fresh_ip()) == [200]


def test_subject_tells_users_apart_wherever_they_are(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip, alice, bob = fresh_ip(), HS256.token(sub=fresh_user()), HS256.token(sub=fresh_user())
    assert statuses(gateway, "/by-subject", 2, bearer(alice), ip) == [200, 200]
    assert statuses(gateway, "/by-subject", 1, bearer(alice), fresh_ip()) == [429]
    assert statuses(gateway, "/by-subject", 3, bearer(bob), ip) == [200, 200, 429]
    nobody = HS256.token(sub=...)
    assert statuses(gateway, "/by-subject", 3, bearer(nobody), ip) == [200, 200, 429]
    assert statuses(gateway, "/by-subject", 1, bearer(nobody), fresh_ip()) == [200]


def test_subject_falls_back_to_the_address_where_no_token_is_looked_at(
    gateway: Gateway, backend: ScriptedBackend
) -> None:
    ip = fresh_ip()
    for user in ("a", "b"):
        assert statuses(gateway, "/by-subject-open", 1, bearer(HS256.token(sub=user)), ip) == [200]
    assert statuses(gateway, "/by-subject-open", 1, bearer(HS256.token(sub="c")), ip) == [429]


def test_keys_in_a_list_combine(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip, alice, bob = fresh_ip(), bearer(HS256.token(sub=fresh_user())), bearer(HS256.token(sub=fresh_user()))
    for who in (alice, bob):
        for api_key in ("X-Api-Key: 1", "X-Api-Key: 2"):
            assert statuses(gateway, "/by-both", 3, who, api_key, ip) == [200, 200, 429]


def test_user_cannot_pose_as_an_address(gateway: Gateway, backend: ScriptedBackend) -> None:
    address = fresh_ip()
    nobody = bearer(HS256.token(sub=...))
    assert statuses(gateway, "/by-subject", 3, nobody, address) == [200, 200, 429]
    claimed = "ip=" + address.partition(": ")[2]
    assert statuses(gateway, "/by-subject", 1, bearer(HS256.token(sub=claimed)), fresh_ip()) == [200]


def test_address_is_the_one_that_the_trusted_proxy_saw(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    seen = ip.partition(": ")[2]
    forged = [f"X-Forwarded-For: 6.6.6.{number}, {seen}" for number in range(1, 4)]
    assert [gateway.get("/login", field).status for field in forged] == [401, 401, 429]


@pytest.mark.parametrize(
    ("same", "other"),
    [(["2001:db8:1:2::1", "2001:db8:1:2:ffff::9", "[2001:DB8:1:2::5]:99", "2001:db8:1:2::1"], "2001:db8:1:3::1"),
     (["::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1:4711", "::FFFF:c000:201"], "::ffff:192.0.2.2")],
    ids=["by /64", "mapped"],
)  # fmt: skip
def test_ipv6_counts_by_its_network(gateway: Gateway, backend: ScriptedBackend, same: list[str], other: str) -> None:
    answers = [gateway.get("/one", f"X-Forwarded-For: {address}") for address in same]
    assert [response.header("X-RateLimit-Remaining") for response in answers] == ["3", "2", "1", "0"]
    assert gateway.get("/one", f"X-Forwarded-For: {same[1]}").status == 429
    assert gateway.get("/one", f"X-Forwarded-For: {other}").header("X-RateLimit-Remaining") == "3"


# --- where it stands -----------------------------------------------------------------------------------------------


def test_failed_logins_count_by_address(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    responses = [gateway.get("/login", ip, field) for field in (bearer("x.y.z"), "X-No: token")]
    assert [response.status for response in responses] == [401, 401]
    assert [response.header("X-RateLimit-Remaining") for response in responses] == ["1", "0"]
    assert_problem(gateway, gateway.get("/login", ip, bearer(HS256.token())), 429, "RATE_LIMITED")
    assert not backend.has_received()


def test_failed_logins_do_not_count_by_subject(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip, user = fresh_ip(), fresh_user()
    for _ in range(4):
        response = gateway.get("/by-subject", ip, bearer("x.y.z"))
        assert (response.status, response.header("RateLimit")) == (401, None)
    assert statuses(gateway, "/by-subject", 3, ip, bearer(HS256.token(sub=user))) == [200, 200, 429]
    assert statuses(gateway, "/by-subject", 1, ip, bearer(HS256.token(sub=...))) == [200]


def test_probes_never_count(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    for path in ("/health/live", "/health/ready") * 4:
        response = gateway.get(path, ip)
        assert (response.status, response.header("RateLimit")) == (200, None)
    assert gateway.get("/one", ip).header("X-RateLimit-Remaining") == "3"


def test_preflights_never_count_but_other_options_do(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip, asked = fresh_ip(), ["Origin: https://app.example.com", "Access-Control-Request-Method: GET"]
    for _ in range(3):
        response = gateway.get("/browsers", ip, *asked, method="OPTIONS")
        assert (response.status, response.header("RateLimit")) == (204, None)
    assert gateway.get("/browsers", ip, asked[0], method="OPTIONS").status == 401  # an ordinary request
    assert gateway.get("/browsers", ip, asked[0], bearer(HS256.token())).status == 429
    assert not backend.has_received()


def test_answers_of_the_gateways_own_are_limited_too(gateway: Gateway) -> None:
    assert statuses(gateway, "/fixed", 2, ip := fresh_ip()) == [200, 429]
    assert gateway.get("/nowhere", ip).headers("RateLimit") == []


def test_requests_that_no_route_takes_do_not_count(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    assert statuses(gateway, "/nowhere", 6, ip) == [404] * 6
    assert gateway.get("/one", ip).header("X-RateLimit-Remaining") == "3"


def test_pipelined_requests_count_one_by_one(gateway: Gateway, backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    with gateway.client() as client:
        client.send(f"GET /one HTTP/1.1\r\nHost: x\r\n{ip}\r\n\r\n".encode() * 6)
        assert [client.read_response().status for _ in range(6)] == [200] * 4 + [429] * 2


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis"), password="p@ss word") as server:
        yield server


def url_of(server: RedisServer, *, password: str = "p%40ss%20word", database: str = "") -> str:
    return f"redis://:{password}@127.0.0.1:{server.port}{database}"


def shared(backend: ScriptedBackend, url: str) -> dict[str, str]:
    made = {
        "backends": {"main": {"targets": [backend.url]}},
        "routes": [
            {"name": "local", "path": "/", "backend": "main"},
            {"name": "open", "path": "/open", "backend": "main", "rate_limit": {"on_store_error": "open"}},
            {"name": "closed", "path": "/closed", "backend": "main", "rate_limit": {"on_store_error": "closed"}},
        ],
    }
    return {
        "GATEWAY_REDIS_URL": url,
        "GATEWAY_REDIS_TIMEOUT": "200ms",
        "GATEWAY_RATE_LIMIT": "4/h",
        "GATEWAY_TRUSTED_PROXIES": "127.0.0.1",
        **routes(made),
    }


@pytest.fixture(scope="module")
def two_gateways(
    tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend, redis: RedisServer
) -> Iterator[list[Gateway]]:
    environment = shared(module_backend, url_of(redis))
    directory = tmp_path_factory.mktemp("shared")
    with Gateway(directory, environment) as one, Gateway(directory, environment) as two:
        yield [one, two]


@pytest.fixture
def connected(two_gateways: list[Gateway]) -> list[Gateway]:
    """Both, when they have the server."""
    for gateway in two_gateways:
        gateway.wait_for_metric("gateway_rate_limit_degraded", 0)
    return two_gateways


def test_two_gateways_share_their_buckets(connected: list[Gateway], backend: ScriptedBackend) -> None:
    ip = fresh_ip()
    one, two = connected
    assert [gateway.get("/", ip).header("X-RateLimit-Remaining") for gateway in (one, two, one, two)] == [
        "3", "2", "1", "0",
    ]  # fmt: skip
    for gateway in (one, two):
        assert_problem(gateway, gateway.get("/", ip), 429, "RATE_LIMITED")
    assert statuses(two, "/open", 1, ip) == statuses(one, "/closed", 1, ip) == [429]


def counted(gateway: Gateway, decision: str) -> float:
    return gateway.metric("gateway_rate_limit_decisions_total", route="local", decision=decision)


@contextmanager
def requests_all_the_time(gateway: Gateway) -> Iterator[list[int]]:
    """Requests one after the other over one connection, each of another client; yields their statuses as they come."""
    seen: list[int] = []
    enough = threading.Event()

    def ask() -> None:
        with gateway.client() as client:
            while not enough.is_set():
                client.send(f"GET / HTTP/1.1\r\nHost: x\r\n{fresh_ip()}\r\n\r\n".encode())
                seen.append(client.read_response().status)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        enough.set()
        thread.join()


def wait_for_more(seen: list[int], number: int = 20) -> None:
    goal = len(seen) + number
    wait_until(lambda: len(seen) >= goal, "more answers")


def test_restart_of_redis_under_requests_is_not_noticed_by_clients(
    connected: list[Gateway], backend: ScriptedBackend, redis: RedisServer
) -> None:
    gateway = connected[0]
    start, errors = len(gateway.lines), counted(gateway, "store_error")
    with requests_all_the_time(gateway) as seen:
        wait_for_more(seen)
        redis.kill()
        gateway.wait_for_metric("gateway_rate_limit_degraded", 1)
        wait_for_more(seen)
        assert gateway.get("/health/ready").status == 200
        redis.start()
        gateway.wait_for_metric("gateway_rate_limit_degraded", 0)
        wait_for_more(seen)
    assert set(seen) == {200}
    assert counted(gateway, "store_error") > errors
    said = [line["message"] for line in gateway.lines[start:] if "store" in line.get("message", "")]
    assert len(said) == 2, said
    assert "p@ss" not in gateway.output_text
    assert "p%40ss" not in gateway.output_text


def test_policies_decide_while_redis_is_down(
    connected: list[Gateway], backend: ScriptedBackend, redis: RedisServer
) -> None:
    gateway, ip = connected[0], fresh_ip()
    assert statuses(gateway, "/", 2, ip) == [200, 200]
    redis.kill()
    try:
        gateway.get("/", fresh_ip())
        gateway.wait_for_metric("gateway_rate_limit_degraded", 1)
        assert statuses(gateway, "/", 5, ip) == [200] * 4 + [429]  # counted in memory from here on
        opened = [gateway.get("/open", ip) for _ in range(6)]
        assert [(response.status, response.header("RateLimit")) for response in opened] == [(200, None)] * 6
        response = gateway.get("/closed", ip)
        assert_problem(gateway, response, 503, "RATE_LIMIT_STORE_DOWN", proxy_error="proxy_internal_error")
        refused = gateway.metric("gateway_rate_limit_decisions_total", route="closed", decision="store_error")
        assert refused == 1
    finally:
        redis.start()
    gateway.wait_for_metric("gateway_rate_limit_degraded", 0)
    assert gateway.get("/closed", ip).status == 200


def test_frozen_redis_does_not_hold_requests_up(
    connected: list[Gateway], backend: ScriptedBackend, redis: RedisServer
) -> None:
    gateway = connected[1]
    with requests_all_the_time(gateway) as seen:
        wait_for_more(seen)
        with redis.frozen():
            gateway.wait_for_metric("gateway_rate_limit_degraded", 1)
            wait_for_more(seen)
            assert gateway.get("/closed", fresh_ip()).status == 503
        gateway.wait_for_metric("gateway_rate_limit_degraded", 0)
        wait_for_more(seen)
    assert set(seen) == {200}


def test_client_that_leaves_while_redis_is_asked_is_forgotten(
    connected: list[Gateway], backend: ScriptedBackend, redis: RedisServer
) -> None:
    gateway = connected[0]
    with redis.frozen():
        with gateway.client() as client:
            client.send(f"GET /left HTTP/1.1\r\nHost: x\r\n{fresh_ip()}\r\n\r\n".encode())
        gateway.access_line_at("/left")
    gateway.wait_until_free()
    gateway.wait_for_metric("gateway_rate_limit_degraded", 0)
    assert gateway.get("/", fresh_ip()).status == 200


def test_redis_that_is_flushed_begins_anew(
    connected: list[Gateway], backend: ScriptedBackend, redis: RedisServer
) -> None:
    gateway, ip = connected[0], fresh_ip()
    assert statuses(gateway, "/", 5, ip) == [200] * 4 + [429]
    redis.command("FLUSHALL")
    redis.command("SCRIPT", "FLUSH")
    assert statuses(gateway, "/", 5, ip) == [200] * 4 + [429]


def test_buckets_are_in_the_database_that_the_url_names(
    tmp_path: Path, backend: ScriptedBackend, redis: RedisServer, connected: list[Gateway]
) -> None:
    ip = fresh_ip()
    with Gateway(tmp_path, shared(backend, url_of(redis, database="/3"))) as gateway:
        gateway.wait_for_metric("gateway_rate_limit_degraded", 0)
        assert statuses(gateway, "/", 5, ip) == [200] * 4 + [429]
        assert statuses(connected[0], "/", 1, ip) == [200]
    found = re.search(rb"db3:keys=(\d+)", redis.command("INFO", "keyspace"))
    assert found is not None


def test_wrong_password_is_told_and_requests_go_on(
    tmp_path: Path, backend: ScriptedBackend, redis: RedisServer
) -> None:
    with Gateway(tmp_path, shared(backend, url_of(redis, password="s3cr3t"))) as gateway:
        assert gateway.metric("gateway_rate_limit_degraded") == 1
        assert gateway.get("/health/ready").status == 200
        assert statuses(gateway, "/", 5, fresh_ip()) == [200] * 4 + [429]
        assert gateway.get("/closed", fresh_ip()).status == 503
        config = gateway.admin("/config").body
        wait_until(lambda: "WRONGPASS" in gateway.output_text, "the log says why")
        assert "s3cr3t" not in gateway.output_text
        assert b"s3cr3t" not in config
