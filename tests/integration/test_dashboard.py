"""The dashboard under real traffic, as a person meets it: what it shows, and what it does when things go wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect
from tests.integration.backend import OK, Exchange, ScriptedBackend, answer
from tests.integration.browser import PATIENCE_MS, Opened, dashboard, running_browser
from tests.integration.harness import Gateway, free_port, routes, wait_until

pytestmark = pytest.mark.browser

#: Would give the page another title, if it were taken for HTML.
HOSTILE = "<img src=x onerror=document.title=1>"
FAULT = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("gateway"), {"GATEWAY_BACKEND_TARGET": module_backend.url}) as running:
        yield running


def row(opened: Opened, table: str, name: str) -> Any:
    """The row of a route or a target, by its name."""
    return opened.page.locator(f"#{table} tr:not(.group)").filter(has=opened.page.get_by_text(name, exact=True))


# --- what it shows ------------------------------------------------------------------------------------------------


def test_values_move_under_traffic_and_come_to_rest(
    browser: Browser, gateway: Gateway, backend: ScriptedBackend
) -> None:
    with dashboard(browser, gateway) as opened:
        opened.wait("document.getElementById('rate').textContent === '0'")
        backend.script = answer(FAULT)
        with gateway.client() as client:
            for number in range(60):
                if number == 30:
                    backend.script = answer()
                client.send(b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 0\r\n\r\n")
                client.read_response()
            assert gateway.get("/%00").status == 400
            opened.wait("parseFloat(document.getElementById('rate').textContent) > 1")
            for selector in ("#p50", "#p90", "#p99"):
                expect(opened.page.locator(selector)).to_contain_text("ms")
            opened.wait("parseFloat(document.getElementById('connections').textContent) >= 1")
            assert opened.text("#protocols").startswith("h1 ")
        route = row(opened, "routes", "default")
        assert float(route.locator("td").nth(0).inner_text()) > 1
        assert "ms" in route.locator("td").nth(2).inner_text()
        assert float(route.locator("td").nth(3).inner_text()) > 0.5
        assert opened.number("#server-errors") > 0.5
        assert opened.text("#error-share").endswith("%")
        target = row(opened, "backends", f"127.0.0.1:{backend.port}")
        assert float(target.locator("td").nth(2).inner_text()) > 0
        expect(opened.page.locator("#reasons tr")).to_contain_text(["BAD_PATH"])
        opened.wait("/rate now [1-9]/.test(document.getElementById('chart-rate').getAttribute('aria-label'))")
        opened.wait("document.getElementById('rate').textContent === '0'")  # what was, is over
        assert opened.text("#p99") == "–"


def test_in_flight_is_shown_while_it_is(browser: Browser, gateway: Gateway, backend: ScriptedBackend) -> None:
    def finish(exchange: Exchange) -> None:
        exchange.read_body()
        exchange.send(OK)

    backend.script = finish
    with dashboard(browser, gateway) as opened, gateway.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: gateway.test\r\nContent-Length: 5\r\n\r\n")
        expect(opened.page.locator("#in-flight")).to_have_text("1")
        expect(row(opened, "routes", "default").locator("td").nth(5)).to_have_text("1")
        client.send(b"hello")
        client.read_response()
        expect(opened.page.locator("#in-flight")).to_have_text("0")


def test_page_that_is_opened_later_shows_what_was_before(
    browser: Browser, gateway: Gateway, backend: ScriptedBackend
) -> None:
    before = len(gateway.admin("/status/history").json()["samples"])
    for _ in range(20):
        gateway.get("/")
    wait_until(lambda: len(gateway.admin("/status/history").json()["samples"]) >= before + 2, "two more samples")
    samples = gateway.admin("/status/history").json()["samples"]
    assert [sample["requests"] for sample in samples] == sorted(sample["requests"] for sample in samples)

    def refuse_later(page: Page) -> None:  # one look: all that is drawn is the history
        page.route("**/status", lambda route: route.continue_() if not asked else route.abort(), times=100)
        page.on("response", lambda response: asked.append(response.url) if response.url.endswith("/status") else None)

    asked: list[str] = []
    with dashboard(browser, gateway, before=refuse_later, may_be_gone=True) as opened:
        opened.wait("document.querySelector('#chart-rate .line').getAttribute('d').includes('L')")
        label = opened.page.locator("#chart-rate").get_attribute("aria-label") or ""
        assert not label.endswith("highest 0")
        assert label.startswith("Requests per second, last five minutes: rate now ")


def test_killed_target_turns_to_other_words_and_not_only_to_another_colour(browser: Browser, tmp_path: Path) -> None:
    with ScriptedBackend() as stays, ExitStack() as life:
        dies = life.enter_context(ScriptedBackend())
        document = {
            "backends": {
                "pair": {
                    "targets": [stays.url, dies.url],
                    "health_check": {"interval": "200ms", "timeout": "100ms", "fall": 2},
                    "breaker": {"failures": 1, "open_for": "60s"},
                }
            },
            "routes": [{"name": "r", "path": "/", "backend": "pair"}],
        }
        with Gateway(tmp_path, routes(document)) as gateway, dashboard(browser, gateway) as opened:
            target = row(opened, "backends", dies.url.removeprefix("http://"))
            group = opened.page.locator("#backends tr.group")
            expect(target.locator("td").nth(0)).to_have_text("healthy")
            expect(target.locator("td").nth(1)).to_have_text("closed")
            expect(group).to_contain_text("all 2 usable")
            life.close()
            for _ in range(4):
                gateway.get("/")
            expect(target.locator("td").nth(0)).to_have_text("unhealthy")
            expect(target.locator("td").nth(1)).to_have_text("open")
            expect(target.locator("td").nth(0).locator(".badge")).to_have_class("badge bad")
            expect(group).to_contain_text("1 of 2 usable")
            # It is told to those who do not see it, once, and nothing else is.
            expect(opened.page.locator("#said")).to_contain_text("is unhealthy")
            colours = opened.page.evaluate(
                "[...document.querySelectorAll('#backends td .badge')].map((mark) => getComputedStyle(mark).color)"
            )
            assert len(set(colours)) > 1


def test_settings_without_effect_are_shown(browser: Browser, gateway: Gateway, backend: ScriptedBackend) -> None:
    def with_more(route: Route) -> None:
        status = gateway.status() | {"warnings": ["X has no effect", HOSTILE], "rate_limit_degraded": True}
        route.fulfill(json=status | {"connections_refused": 1234, "state": "no healthy target"})

    with dashboard(browser, gateway, before=lambda page: page.route("**/status", with_more)) as opened:
        expect(opened.page.locator("#warnings-count")).to_have_text("2 configuration warnings")
        opened.page.locator("#warnings summary").click()
        expect(opened.page.locator("#warnings-list li")).to_have_text(["X has no effect", HOSTILE])
        expect(opened.page.locator("#alarms-list li")).to_have_count(2)
        expect(opened.page.locator("#alarms-list")).to_contain_text("1,234 connections refused")
        expect(opened.page.locator("#state")).to_have_text("no healthy target")
        assert "no healthy target" in opened.page.title()


# --- names ---------------------------------------------------------------------------------------------------------


def test_names_of_routes_are_text_whatever_they_hold(browser: Browser, tmp_path: Path) -> None:
    document = {"routes": [{"name": HOSTILE, "path": "/", "response": {"body": "x"}}]}
    with Gateway(tmp_path, routes(document)) as gateway, dashboard(browser, gateway) as opened:
        expect(opened.page.locator("#routes .name")).to_have_text(HOSTILE)
        assert opened.page.locator("main img").count() == 0
        assert opened.page.title() == "txgateway"


def test_everything_else_that_has_a_name_is_text_too(browser: Browser, gateway: Gateway) -> None:
    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: hostile(member) for key, member in value.items()}
        if isinstance(value, list):
            return [hostile(member) for member in value]
        return HOSTILE if isinstance(value, str) else value

    def with_hostile_names(route: Route) -> None:
        status = hostile(gateway.status())
        status["connections"] = {HOSTILE: 1}
        status["totals"]["errors"] = {HOSTILE: status["uptime_s"] * 1000}
        status["backends"][0]["targets"][0]["outcomes"] = {HOSTILE: 1}
        route.fulfill(json=status)

    with dashboard(browser, gateway, before=lambda page: page.route("**/status", with_hostile_names)) as opened:
        expect(opened.page.locator("#reasons .name")).to_have_text(HOSTILE)
        expect(opened.page.locator("#version")).to_have_text(HOSTILE)
        assert HOSTILE in opened.text("#protocols")
        assert opened.page.locator("main img, footer img").count() == 0
        assert opened.page.title() == f"{HOSTILE} – txgateway"


# --- many ---------------------------------------------------------------------------------------------------------------


def test_a_thousand_routes_are_fifty_rows_and_a_filter(browser: Browser, tmp_path: Path) -> None:
    made = [{"name": f"route-{number:04}", "path": f"/r{number}", "response": {"body": "x"}} for number in range(1000)]
    with Gateway(tmp_path, routes({"routes": made})) as gateway:
        for _ in range(3):
            gateway.get("/r777")
        with dashboard(browser, gateway) as opened:
            rows = opened.page.locator("#routes tr")
            expect(rows).to_have_count(50)
            expect(opened.page.locator("#routes-count")).to_have_text("50 of 1,000 routes")
            gateway.get("/r777")
            expect(rows.first.locator(".name")).to_have_text("route-0777")  # the busiest first, in due time
            opened.page.get_by_label("Filter routes").fill("ROUTE-099")
            expect(rows).to_have_count(10)
            expect(opened.page.locator("#routes-count")).to_have_text("10 of 10 found, 1,000 routes")
            opened.page.get_by_label("Filter routes").fill("no such route")
            expect(rows).to_have_count(0)
            opened.page.get_by_label("Filter routes").fill("")
            opened.page.get_by_role("button", name="Route", exact=True).click()
            expect(rows.first.locator(".name")).to_have_text("route-0000")
            opened.page.get_by_role("button", name="Route", exact=True).click()
            expect(rows.first.locator(".name")).to_have_text("route-0999")
            assert opened.page.evaluate("document.querySelectorAll('*').length") < 1500


# --- when it does not answer ---------------------------------------------------------------------------------------


def test_gateway_that_stops_is_told_and_one_that_comes_back_is_shown(browser: Browser, tmp_path: Path) -> None:
    document = {"routes": [{"name": "all", "path": "/", "response": {"body": "hello"}}]}
    gateway = Gateway(tmp_path, {**routes(document), "GATEWAY_ADMIN_PORT": str(free_port())})
    gateway.start()
    try:
        with dashboard(browser, gateway, may_be_gone=True) as opened:
            expect(opened.page.locator("#stale")).to_be_hidden()
            gateway.stop()
            expect(opened.page.locator("#stale")).to_be_visible()
            expect(opened.page.locator("#stale")).to_contain_text("Last answer")
            expect(opened.page.locator("#state")).to_have_text("no answer")
            expect(opened.page.locator("#said")).to_contain_text("does not answer")
            assert opened.page.title().startswith("stale")
            assert opened.text("#version") != "–"  # what was known stays
            gateway.start()
            opened.page.locator("#retry").dispatch_event("click")  # even if the page has found out by itself meanwhile
            expect(opened.page.locator("#stale")).to_be_hidden()
            expect(opened.page.locator("#state")).to_have_text("ready")
    finally:
        gateway.stop()


def test_answers_that_are_none_are_stale_too(browser: Browser, gateway: Gateway) -> None:
    answers: Any = {"status": 200, "body": "<html>", "content_type": "text/html"}
    with dashboard(browser, gateway, may_be_gone=True) as opened:
        opened.page.route("**/status", lambda route: route.fulfill(**answers))
        expect(opened.page.locator("#stale")).to_be_visible()
        answers = {"status": 200, "json": {}}
        opened.page.locator("#retry").dispatch_event("click")
        opened.page.unroute("**/status")
        opened.page.locator("#retry").dispatch_event("click")
        expect(opened.page.locator("#stale")).to_be_hidden()


def _set_hidden(page: Page, is_hidden: bool) -> None:
    page.evaluate(
        "(is_hidden) => { Object.defineProperty(document, 'hidden', { value: is_hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def _asked_for_status(opened: Opened) -> int:
    return sum(url.endswith("/status") for url in opened.asked)


def test_it_does_not_ask_while_nobody_looks(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway, before=lambda page: page.clock.install()) as opened:
        _set_hidden(opened.page, is_hidden=True)
        opened.page.clock.run_for(2000)
        before = _asked_for_status(opened)
        opened.page.clock.run_for(60_000)
        assert _asked_for_status(opened) == before
        _set_hidden(opened.page, is_hidden=False)
        wait_for_more(opened, before)
        opened.page.get_by_role("button", name="Pause").click()
        expect(opened.page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "true")
        expect(opened.page.locator("#updated")).to_contain_text("paused")
        opened.page.clock.run_for(2000)
        before = _asked_for_status(opened)
        opened.page.clock.run_for(60_000)
        assert _asked_for_status(opened) == before
        opened.page.get_by_role("button", name="Pause").click()
        wait_for_more(opened, before)


def test_it_asks_less_and_less_often_while_there_is_no_answer(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway, may_be_gone=True, before=lambda page: page.clock.install()) as opened:
        opened.page.route("**/status", lambda route: route.abort())
        opened.page.clock.run_for(1500)
        expect(opened.page.locator("#stale")).to_be_visible()
        before = _asked_for_status(opened)
        for _ in range(120):
            opened.page.clock.run_for(1000)
        asked = _asked_for_status(opened) - before
        assert 6 <= asked <= 16, asked  # after 1, 2, 4 and 8 s, and then every 15


def wait_for_more(opened: Opened, before: int) -> None:
    """Wait until it asked once more."""
    with opened.page.expect_request("**/status", timeout=PATIENCE_MS):
        opened.page.clock.run_for(1500)
    assert _asked_for_status(opened) > before


def test_it_asks_nobody_but_the_gateway(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway) as opened:
        opened.wait("document.getElementById('rate').textContent !== '–'")
        origin = f"http://127.0.0.1:{gateway.admin_port}/"
        assert len(opened.asked) > 8
        assert all(url.startswith(origin) for url in opened.asked)
        answer = gateway.admin("/")
    assert "script-src 'self'" in (answer.header("Content-Security-Policy") or "")
    assert json.loads(gateway.admin("/status/history").body)["interval_s"] == 2.0


# --- arithmetic --------------------------------------------------------------------------------------------------------

BOUNDS = [0.1, 0.5, 1.0]
#: q, counts between the bounds, and what Prometheus's histogram_quantile makes of them.
QUANTILES: list[tuple[float, list[int], float | str | None]] = [
    (0.5, [0, 0, 0, 0], None),
    (0.5, [10, 0, 0, 0], 0.05),
    (0.5, [10, 10, 0, 0], 0.1),
    (0.9, [10, 10, 0, 0], 0.42),
    (0.5, [0, 0, 4, 0], 0.75),
    (0.99, [99, 0, 0, 1], 0.1),
    (0.991, [99, 0, 0, 1], "Infinity"),
    (1.0, [0, 1, 0, 0], 0.5),
]
WRITTEN: list[tuple[str, list[Any], str]] = [
    ("latency", [None, 30], "–"),
    ("latency", [0.00042, 30], "0.42 ms"),
    ("latency", [0.0042, 30], "4.2 ms"),
    ("latency", [0.42, 30], "420 ms"),
    ("latency", [4.2, 30], "4.20 s"),
    ("rate", [0], "0"),
    ("rate", [0.04], "<0.1"),
    ("rate", [3.44], "3.4"),
    ("rate", [12345.6], "12,346"),
    ("percent", [None], "–"),
    ("percent", [0.0004], "<0.1%"),
    ("percent", [0.123], "12.3%"),
    ("age", [0], "0 s"),
    ("age", [61], "1 min 1 s"),
    ("age", [90061], "1 d 1 h"),
    ("age", [86405], "1 d 0 h"),
]


def test_arithmetic_is_that_of_prometheus_and_counters_that_fell_began_anew(browser: Browser, gateway: Gateway) -> None:
    def compute(name: str, *arguments: Any) -> Any:
        call = "async ([name, values]) => String((await import('/dashboard/numbers.js'))[name](...values))"
        return opened.page.evaluate(call, [name, arguments])

    with dashboard(browser, gateway) as opened:
        for q, counts, expected in QUANTILES:
            found = compute("quantile", q, counts, BOUNDS)
            if isinstance(expected, float):
                assert float(found) == pytest.approx(expected), (q, counts)
            else:
                assert found == ("null" if expected is None else expected), (q, counts)
        for name, arguments, text in WRITTEN:
            assert compute(name, *arguments) == text, (name, arguments)
        assert compute("grew", 5, 7) == "2"
        assert compute("grew", 7, 5) == "0"
