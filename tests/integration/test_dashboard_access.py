"""The dashboard for everybody: with a keyboard, a screen reader, a telephone, in the dark and without motion."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Page, expect
from tests.integration.backend import ScriptedBackend
from tests.integration.browser import Opened, dashboard, running_browser
from tests.integration.harness import Gateway

pytestmark = pytest.mark.browser

#: Every control that a keyboard reaches.
CONTROLS = "a[href], button, input, summary, [tabindex='0']"
#: Texts with too little contrast to what is behind them: WCAG 2.2, 1.4.3, by its formulas of relative luminance.
LOW_CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b]
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, i) => sum + value * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 250) return colour;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  let seen = 0;
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const style = getComputedStyle(element);
    const colour = element instanceof SVGElement ? style.fill : style.color;
    const [light, dark] = [luminance(rgba(colour)), luminance(behind(element))].sort((a, b) => b - a);
    const ratio = (light + 0.05) / (dark + 0.05);
    seen += 1;
    if (ratio < 4.5) found.push(`${element.tagName}.${element.className} "${element.textContent.trim()}" ${ratio.toFixed(2)}`);
  }
  return { seen, found };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, module_backend: ScriptedBackend) -> Iterator[Gateway]:
    environment = {
        "GATEWAY_BACKEND_TARGET": f"{module_backend.url},http://127.0.0.1:1",
        "GATEWAY_HEALTH_CHECK_INTERVAL": "200ms",
        "GATEWAY_HEALTH_CHECK_TIMEOUT": "100ms",
    }
    with Gateway(tmp_path_factory.mktemp("gateway"), environment) as running:
        yield running


@pytest.fixture(autouse=True)
def _traffic(gateway: Gateway, backend: ScriptedBackend) -> None:
    """For something of everything on the page: reasons, numbers; and a target is sick."""
    for _ in range(6):
        gateway.get("/")
    gateway.get("/%00")


def is_full(opened: Opened) -> None:
    expect(opened.page.locator("#reasons .name")).to_contain_text(["BAD_PATH"])
    expect(opened.page.locator("#backends tr.bad .badge")).to_have_text(["unhealthy", "closed"])


# --- keyboard --------------------------------------------------------------------------------------------------------


def focused(page: Page) -> str:
    name: str = page.evaluate(
        "(({ id, tagName, textContent, ariaLabel }) => `${tagName} ${id || ariaLabel || textContent.trim()}`)"
        "(document.activeElement)"
    )
    return name


def test_everything_is_reached_in_order_by_keyboard_and_the_focus_is_seen(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway) as opened:
        is_full(opened)
        page = opened.page
        page.keyboard.press("Tab")
        assert focused(page) == "A Skip to the numbers"
        expect(page.locator(".skip")).to_be_in_viewport()
        page.keyboard.press("Enter")
        assert focused(page) == "MAIN main"
        page.reload()
        is_full(opened)
        visible = page.locator(CONTROLS).filter(visible=True)
        order = []
        for _ in range(visible.count()):
            page.keyboard.press("Tab")
            order.append(focused(page))
            style = page.evaluate("(({ outlineStyle, outlineWidth }) => [outlineStyle, outlineWidth])"
                                  "(getComputedStyle(document.activeElement))")  # fmt: skip
            assert style == ["solid", "2px"], order[-1]
        assert len(set(order)) == len(order) == visible.count()  # nothing holds it, nothing is left out
        assert order.index("BUTTON pause") < order.index("INPUT backends-filter") < order.index("BUTTON Route")
        assert order[-1] == "A /status/history"


def test_headings_sort_by_keyboard_and_say_so(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway) as opened:
        headings = opened.page.locator("#routes-table thead th")
        expect(opened.page.locator("#routes-table th[aria-sort]")).to_have_count(1)
        expect(headings.nth(1)).to_have_attribute("aria-sort", "descending")
        for number in range(headings.count()):
            headings.nth(number).locator("button").focus()
            opened.page.keyboard.press("Enter")
            first = headings.nth(number).get_attribute("aria-sort")
            opened.page.keyboard.press("Space")
            second = headings.nth(number).get_attribute("aria-sort")
            assert {first, second} == {"ascending", "descending"}
            expect(opened.page.locator("#routes-table th[aria-sort]")).to_have_count(1)


# --- screen readers ----------------------------------------------------------------------------------------------------


def test_tables_charts_and_controls_have_names(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway) as opened:
        is_full(opened)
        page = opened.page
        assert page.evaluate("document.documentElement.lang") == "en"
        assert page.locator("h1").count() == page.locator("main").count() == page.locator("[role=status]").count() == 1
        assert page.locator("[aria-live], output, marquee").count() == 0  # one polite place, and not one each number
        for table in page.locator("table").all():
            assert table.locator("caption").inner_text().strip()
            assert table.locator("th:not([scope])").count() == 0
        charts = page.locator("svg.chart")
        assert charts.count() == 5
        for chart in charts.all():
            assert chart.get_attribute("role") == "img"
            assert "last five minutes: " in (chart.get_attribute("aria-label") or "")
        for control in page.locator(CONTROLS).filter(visible=True).all():
            name = control.evaluate(
                "(it) => it.ariaLabel || document.getElementById(it.getAttribute('aria-labelledby'))?.textContent"
                " || it.textContent"
            )
            assert name.strip()
        assert page.locator("img:not([alt])").count() == 0
        levels = [
            int(level)
            for level in page.evaluate("[...document.querySelectorAll('h1,h2,h3')].map((it) => it.tagName[1])")
        ]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_numbers_that_change_are_not_read_out(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway) as opened:
        is_full(opened)
        for _ in range(3):
            gateway.get("/")
            rate = opened.text("#rate")
            opened.wait("(rate) => document.getElementById('rate').textContent !== rate", rate)
        assert opened.page.locator("#said").text_content() == ""


# --- looks ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("is_stale", [False, True])
def test_contrast_is_enough(browser: Browser, gateway: Gateway, scheme: str, is_stale: bool) -> None:
    with dashboard(browser, gateway, color_scheme=scheme, may_be_gone=True, reduced_motion="reduce") as opened:
        is_full(opened)
        if is_stale:
            opened.page.route("**/status", lambda route: route.abort())
            expect(opened.page.locator("#stale")).to_be_visible()
        opened.page.evaluate("for (const id of ['warnings', 'alarms']) document.getElementById(id).hidden = false")
        result = opened.page.evaluate(LOW_CONTRAST)
        assert result["seen"] > 60
        assert not result["found"]


@pytest.mark.parametrize("width", [320, 360, 768, 1920])
def test_page_never_scrolls_sideways(browser: Browser, gateway: Gateway, width: int) -> None:
    with dashboard(browser, gateway, viewport={"width": width, "height": 700}) as opened:
        is_full(opened)
        for text in ("document.documentElement.scrollWidth", "document.body.scrollWidth"):
            assert opened.page.evaluate(text) <= width
        for control in opened.page.locator("header button, label input").all():
            box = control.bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert box["height"] >= 24  # WCAG 2.2, 2.5.8


BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def test_theme_follows_the_system_until_somebody_chooses(browser: Browser, gateway: Gateway) -> None:
    with dashboard(browser, gateway, color_scheme="dark") as opened:
        page, button = opened.page, opened.page.locator("#theme")
        dark = page.evaluate(BACKGROUND)
        page.emulate_media(color_scheme="light")
        light = page.evaluate(BACKGROUND)
        assert dark != light
        for theme, background in (("light", light), ("dark", dark)):
            button.click()
            expect(button).to_have_text(f"Theme: {theme}")
            assert page.evaluate(BACKGROUND) == background
        page.reload()
        expect(button).to_have_text("Theme: dark")
        assert page.evaluate(BACKGROUND) == dark
        button.click()
        expect(button).to_have_text("Theme: auto")
        assert page.evaluate(BACKGROUND) == light


def test_theme_works_where_nothing_may_be_stored(browser: Browser, gateway: Gateway) -> None:
    deny = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('no', 'SecurityError'); } })"
    with dashboard(browser, gateway, before=lambda page: page.add_init_script(deny)) as opened:
        opened.page.locator("#theme").click()
        expect(opened.page.locator("#theme")).to_have_text("Theme: light")


def test_nothing_moves_where_motion_is_not_wanted(browser: Browser, gateway: Gateway) -> None:
    moving = (
        "[...document.querySelectorAll('*')].filter((it) => getComputedStyle(it).transitionDuration !== '0s'"
        " || getComputedStyle(it).animationName !== 'none').length"
    )
    with dashboard(browser, gateway, reduced_motion="reduce") as opened:
        assert opened.page.evaluate(moving) == 0
    with dashboard(browser, gateway) as opened:
        assert opened.page.evaluate(moving) > 0  # so that the line above says something
