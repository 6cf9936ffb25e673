"""SIGHUP: what changes, what is told, and what is kept when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration.backend import ScriptedBackend, answer
from tests.integration.harness import free_port, wait_until
from tests.integration.reloads import FAILED, ReloadingGateway, document, fixed, route
from tests.integration.tokens import Key, bearer
from tests.integration.wire import ConnectionEnded

UNAVAILABLE = b"HTTP/1.1 503 Unavailable\r\nContent-Length: 0\r\n\r\n"


def test_routes_that_were_changed_added_and_removed_are_in_effect_and_counted(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one"), fixed("b", "b"))) as gateway:
        assert gateway.get("/a").body == b"one"
        line = gateway.reload(document(fixed("a", "two"), fixed("c", "c")))
        assert (line["routes"], line["routes_added"], line["routes_removed"], line["backends"]) == (2, 1, 1, 0)
        assert line["seconds"] > 0
        assert gateway.get("/a").body == b"two"
        assert gateway.get("/b").status == 404
        assert gateway.get("/c").body == b"c"


def test_admin_port_tells_of_what_is_in_force(tmp_path: Path, backend: ScriptedBackend) -> None:
    before, after = document(route("a", "one"), one=[backend.url]), document(route("b", "two"), two=[backend.url])
    with ReloadingGateway(tmp_path, before) as gateway:
        gateway.reload(after)
        assert [one["name"] for one in gateway.status()["backends"]] == ["two"]
        configuration = gateway.admin("/config").body
        assert b'"two"' in configuration
        assert b'"one"' not in configuration


@pytest.mark.parametrize(
    ("broken", "problems"),
    [
        ("{", ["not JSON"]),
        (document(route("a", "none"), route("b", timeout={"total": "soon"})), ["none", "soon"]),
        (document(route("a", resource="no_such_module:site")), ["no_such_module"]),
        ("", ["not JSON"]),
    ],
)
def test_what_is_wrong_is_told_line_by_line_and_the_old_one_stays(
    tmp_path: Path, broken: str, problems: list[str]
) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one"))) as gateway:
        gateway.fail_to_reload(broken)
        gateway.wait_for_metric("gateway_config_reload_success", 0)
        told = [line["problem"] for line in gateway.lines if line["event"] == FAILED]
        for text in problems:
            assert any(text in line for line in told), told
        assert len(told) >= len(problems)
        assert gateway.get("/a").body == b"one"
        gateway.reload(document(fixed("a", "two")))
        assert gateway.get("/a").body == b"two"


def test_file_that_is_gone_fails(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one"))) as gateway:
        (tmp_path / "routes.json").unlink()
        assert "GATEWAY_ROUTES_FILE" in gateway.fail_to_reload()["problem"]
        assert gateway.get("/a").body == b"one"


def test_metrics_tell_whether_it_went_well_and_when_it_last_did(tmp_path: Path) -> None:
    success, moment = "gateway_config_reload_success", "gateway_config_reload_timestamp_seconds"
    good = document(fixed("a", "one"))
    with ReloadingGateway(tmp_path, good) as gateway:
        began = gateway.metric(moment)
        assert gateway.metric(success) == 1
        assert began > 1_700_000_000
        gateway.fail_to_reload("{")
        gateway.wait_for_metric(success, 0)
        assert gateway.metric(moment) == began
        gateway.reload(good)
        gateway.wait_for_metric(success, 1)
        assert gateway.metric(moment) > began


def test_warnings_are_told_again(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), {"GATEWAY_TRUSTED_PROXIES": "0.0.0.0/0"}) as gateway:
        after = len(gateway.lines)
        gateway.reload()
        gateway.wait_for_line(after, event="configuration")


# --- files that variables name ------------------------------------------------------------------------------------


def test_environment_stays_and_files_are_read_again(tmp_path: Path) -> None:
    rate = tmp_path / "rate"
    rate.write_text("1/h\n")
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), {"GATEWAY_RATE_LIMIT_FILE": str(rate)}) as gateway:
        assert [gateway.get("/a").status for _ in range(2)] == [200, 429]
        rate.write_text("3/h\n")
        gateway.reload()
        assert [gateway.get("/a").status for _ in range(4)] == [200, 200, 200, 429]


def test_port_cannot_change_and_the_rest_does(tmp_path: Path) -> None:
    port, other = tmp_path / "port", free_port()
    port.write_text("0")
    (tmp_path / "keepalive").write_text("60s")
    environment = {"GATEWAY_PORT_FILE": str(port), "GATEWAY_KEEPALIVE_TIMEOUT_FILE": str(tmp_path / "keepalive")}
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway:
        port.write_text(str(other))
        (tmp_path / "keepalive").write_text("61s")
        after = len(gateway.lines)
        gateway.reload(document(fixed("a", "two")))
        line = gateway.wait_for_line(after, event="not applied before a restart")
        assert line["settings"] == "GATEWAY_KEEPALIVE_TIMEOUT, GATEWAY_PORT"
        assert sum(one["event"] == "not applied before a restart" for one in gateway.lines) == 1
        assert gateway.get("/a").body == b"two"
        assert gateway.metric("gateway_config_reload_success") == 1
        assert [line["port"] for line in gateway.lines if line.get("listener") == "traffic"] == [gateway.port]


def test_other_secret_ends_old_tokens_also_those_that_were_verified(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("first secret of this test, which is long enough")
    environment = {"GATEWAY_JWT_SECRET_FILE": str(secret)}
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), environment) as gateway:
        old = bearer(signed_with(secret))
        assert [gateway.get("/a", old).status for _ in range(2)] == [200, 200]
        assert gateway.metric("gateway_jwt_total", result="cached") == 1
        gateway.reload()
        assert gateway.get("/a", old).status == 200
        assert gateway.metric("gateway_jwt_total", result="cached") == 2  # the cache lives on
        secret.write_text("second secret of this test, which is long enough")
        gateway.reload()
        assert gateway.get("/a", old).status == 401
        assert gateway.get("/a", bearer(signed_with(secret))).status == 200


def signed_with(secret: Path) -> str:
    return Key("HS256", secret.read_bytes()).token()


# --- what lives on ------------------------------------------------------------------------------------------------


def test_buckets_live_on(tmp_path: Path) -> None:
    limited = fixed("a", "one", rate_limit={"rate": "4/h"})
    with ReloadingGateway(tmp_path, document(limited)) as gateway:
        assert [gateway.get("/a").status for _ in range(2)] == [200, 200]
        gateway.reload()
        assert gateway.get("/a").header("X-RateLimit-Remaining") == "1"
        gateway.reload(document(fixed("a", "two", rate_limit={"rate": "4/h"})))
        assert gateway.get("/a").header("X-RateLimit-Remaining") == "0"
        assert gateway.get("/a").status == 429


def test_open_breaker_stays_open(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.script = answer(UNAVAILABLE)
    breaker = {"failures": 2, "open_for": "1h"}
    plain = route("a", "b", retry={"max_attempts": 1})
    before = document(plain, b={"targets": [backend.url], "breaker": breaker})
    with ReloadingGateway(tmp_path, before) as gateway:
        assert [gateway.get("/a").status for _ in range(2)] == [503, 503]
        for after in (
            before,
            document(plain, fixed("b", "b"), b={"targets": [backend.url], "breaker": breaker}),
            document(plain, b={"targets": [backend.url], "breaker": breaker, "panic_percent": 1}),
        ):
            gateway.reload(after)
            assert gateway.get("/a").json()["reason"] == "BREAKER_OPEN"
        gateway.reload(document(plain, b={"targets": [backend.url], "breaker": {**breaker, "failures": 3}}))
        assert (
            gateway.get("/a").header("Content-Type") != "application/problem+json"
        )  # another breaker, the target's own


def test_sick_target_is_not_tried_after_its_backend_has_changed(tmp_path: Path, backend: ScriptedBackend) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    checks = {"interval": "50ms", "fall": 1}
    before = document(route("a", "b"), b={"targets": [dead, backend.url], "health_check": checks})
    with ReloadingGateway(tmp_path, before) as gateway:
        gateway.wait_for_line(event="target health", state="unhealthy")
        after = len(gateway.lines)
        changed = {"targets": [dead, backend.url], "health_check": {**checks, "interval": "60ms"}, "slow_start": "1s"}
        gateway.reload(document(route("a", "b"), b=changed))
        assert all(gateway.access_line(gateway.get("/a"))["attempts"] == 1 for _ in range(4))
        states = {target["address"]: target["health"] for target in gateway.status()["backends"][0]["targets"]}
        assert states[dead.removeprefix("http://")] == "unhealthy"
        assert not any(line["event"] == "target health" for line in gateway.lines[after:])


def test_health_checks_of_a_removed_target_end(tmp_path: Path, backend: ScriptedBackend) -> None:
    checks = {"interval": "50ms"}
    with ScriptedBackend() as removed:
        before = document(route("a", "b"), b={"targets": [backend.url, removed.url], "health_check": checks})
        with ReloadingGateway(tmp_path, before) as gateway:
            wait_until(lambda: removed.connections > 3, "it is checked")
            gateway.reload(document(route("a", "b"), b={"targets": [backend.url], "health_check": checks}))
            seen, ours = removed.connections, backend.connections
            wait_until(lambda: backend.connections > ours + 5, "the other one is checked")
            assert removed.connections <= seen + 1


# --- what a document names for the first time ---------------------------------------------------------------------


RESOURCE = """
from twisted.web.resource import Resource

class Site(Resource):
    isLeaf = True

    def render_GET(self, request):
        return {text!r}

site = Site()
"""


def test_route_with_a_resource(tmp_path: Path) -> None:
    (tmp_path / "ours.py").write_text(RESOURCE.format(text=b"from a module"))
    with ReloadingGateway(tmp_path, document(fixed("a", "one")), {"PYTHONPATH": str(tmp_path)}) as gateway:
        gateway.reload(document(fixed("a", "one"), route("mine", resource="ours:site")))
        assert gateway.get("/mine").body == b"from a module"
        gateway.reload(document(fixed("a", "two"), route("mine", resource="ours:site")))
        assert gateway.get("/mine").body == b"from a module"


def test_resource_that_only_the_child_could_import_is_none(tmp_path: Path) -> None:
    """The child looks for modules where the gateway does, which is not where it runs."""
    (tmp_path / "ours.py").write_text(RESOURCE.format(text=b""))
    with ReloadingGateway(tmp_path, document(fixed("a", "one"))) as gateway:
        line = gateway.fail_to_reload(document(route("mine", resource="ours:site")))
        assert "No module named 'ours'" in line["problem"]
        assert "traceback" not in line


def test_demo_that_was_not_there_before(tmp_path: Path) -> None:
    with ReloadingGateway(tmp_path, document(fixed("a", "one"))) as gateway:
        gateway.reload(document(route("a", "demo"), demo=["demo"]))
        assert gateway.get("/a").status == 200
        gateway.reload(document(route("a", "demo"), route("b", "demo"), demo={"targets": ["demo"], "panic_percent": 1}))
        assert gateway.get("/b").status == 200
        assert sum(line["event"] == "demo backend" for line in gateway.lines) == 1


def test_first_check_of_a_new_target_is_waited_for(tmp_path: Path, backend: ScriptedBackend) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with ReloadingGateway(tmp_path, document(route("a", "b"), b=[backend.url])) as gateway:
        gateway.reload(document(route("a", "b"), b={"targets": [backend.url, dead], "health_check": {"fall": 1}}))
        assert all(gateway.access_line(gateway.get("/a"))["attempts"] == 1 for _ in range(4))


def test_connection_that_broke_off_is_no_answer(tmp_path: Path) -> None:
    """The gateway's own answer to a request that came in the middle of a reload is whole."""
    many = document(*(fixed(f"r{number}", "x" * 10) for number in range(300)))
    with ReloadingGateway(tmp_path, many) as gateway, gateway.client() as client:
        after = len(gateway.lines)
        gateway.write(document(*(fixed(f"r{number}", "y" * 10) for number in range(300))))
        gateway.hang_up()
        seen: set[bytes] = set()
        while not any(line["event"] == "reloaded" for line in gateway.lines[after:]):
            client.send(b"GET /r7 HTTP/1.1\r\nHost: a\r\n\r\nGET /r299 HTTP/1.1\r\nHost: a\r\n\r\n")
            try:
                seen.update(client.read_response().body[:1] for _ in range(2))
            except ConnectionEnded as exc:
                raise AssertionError("a kept connection ended") from exc
        client.send(b"GET /r7 HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.read_response().body[:1] == b"y"
        assert seen <= {b"x", b"y"}
        assert b"x" in seen
