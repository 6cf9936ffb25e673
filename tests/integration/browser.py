"""The dashboard in a real browser: headless Chromium, and everything it complained of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from attrs import Factory, define
from playwright.sync_api import Browser, Page, expect, sync_playwright
from tests.integration.harness import PATIENCE_S, Gateway

PATIENCE_MS = PATIENCE_S * 1000
POLL_MS = 20
#: What Chromium itself writes to the console when a server is gone; no script can keep it from that.
UNREACHABLE = "net::ERR_"

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_TELL_VIOLATIONS = (
    "addEventListener('securitypolicyviolation', (event) => console.error('CSP', event.violatedDirective))"
)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Chromium, for a module; skips its tests where it is not installed."""
    program = next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.skip("chromium is not installed")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        # The sandbox needs rights that root in a container does not have; it shows our own page only.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@define
class Opened:
    """A page with what went wrong on it.

    Attributes:
        complaints: errors and warnings of the console, violations of the policy, exceptions.
        asked: every URL that was asked for.
    """

    page: Page
    complaints: list[str] = Factory(list)
    asked: list[str] = Factory(list)

    def hear(self, kind: str, text: str) -> None:
        """A line of the console."""
        if kind in {"error", "warning"}:
            self.complaints.append(f"{kind}: {text}")

    def text(self, selector: str) -> str:
        """What is written in the one element that matches."""
        return self.page.locator(selector).inner_text()

    def wait(self, expression: str, argument: Any = None) -> None:
        """Wait until an expression of JavaScript is true.

        Playwright's own way of waiting makes code of text within the page, which the page's policy forbids.

        Raises:
            AssertionError: it never was.
        """
        for _ in range(int(PATIENCE_MS / POLL_MS)):
            if self.page.evaluate(expression, argument):
                return
            self.page.wait_for_timeout(POLL_MS)
        raise AssertionError(f"never came true: {expression}")

    def number(self, selector: str) -> float:
        """A number that is written in an element."""
        return float(self.text(selector).replace(",", "").replace("<", ""))


@contextmanager
def dashboard(
    browser: Browser, gateway: Gateway, *, is_live: bool = True, may_be_gone: bool = False, **context: Any
) -> Iterator[Opened]:
    """The page, opened, in a context of its own; at the end there must be no complaint.

    Args:
        is_live: wait until it shows numbers.
        may_be_gone: the gateway stops meanwhile, which the browser tells in its own words.
        context: how the browser is, such as ``viewport`` and ``color_scheme``; ``before`` is called with the page
            before it is opened.
    """
    before = context.pop("before", None)
    made = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
    page = made.new_page()
    page.set_default_timeout(PATIENCE_MS)
    opened = Opened(page)
    page.on("console", lambda message: opened.hear(message.type, message.text))
    page.on("pageerror", lambda error: opened.complaints.append(f"exception: {error}"))
    page.on("request", lambda request: opened.asked.append(request.url))
    page.add_init_script(_TELL_VIOLATIONS)
    if before is not None:
        before(page)
    try:
        page.goto(f"http://127.0.0.1:{gateway.admin_port}/")
        if is_live:
            opened.wait("document.getElementById('version').textContent !== '–'")
        yield opened
        complaints = [text for text in opened.complaints if not (may_be_gone and UNREACHABLE in text)]
        assert not complaints
    finally:
        made.close()
