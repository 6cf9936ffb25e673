"""The plugin in a pytest of its own, and the page that shows how to use it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[3] / "implementation" / "howto" / "testing.md"
TESTS = """
import pytest
from txgateway.testing import Stall


def test_quiet(gateway_harness):
    assert gateway_harness().ask().status == 200


def test_client_is_sent_home(gateway_harness):
    gateway = gateway_harness()
    gateway.backends["default"].script = Stall()
    gateway.start()


def leaves_a_timer(inner, context):
    context.clock.callLater(5.0, int)
    return inner


class Leaves:
    def __init__(self, inner, context):
        self.inner, self.clock = inner, context.clock

    def render(self, request):
        self.clock.callLater(5.0, print)
        return self.inner.render(request)


def test_noisy(gateway_harness):
    gateway_harness(middlewares={"leaves": Leaves}).ask()


def test_standing_timer_is_not_noise(gateway_harness):
    gateway_harness(middlewares={"stands": leaves_a_timer}).ask()


def test_clock(virtual_clock):
    seen = []
    virtual_clock.callLater(1.0, seen.append, 1)
    virtual_clock.let_pass(1.0)
    assert seen == [1]
"""


def pytest_over(directory: Path, text: str) -> tuple[int, str]:
    (directory / "test_it.py").write_text(text, encoding="utf-8")
    (directory / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "txgateway.testing.plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout


def test_fixtures_close_what_they_made_and_tell_what_is_left(tmp_path: Path) -> None:
    status, output = pytest_over(tmp_path, TESTS)
    assert status == 1, output
    assert "5 passed, 1 error" in output
    assert "timer: print (1)" in output


def test_page_is_right(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    status, output = pytest_over(tmp_path, "\n\n".join(blocks))
    assert status == 0, output
    assert "3 passed" in output


def test_page_tells_every_law() -> None:
    from txgateway.testing.laws import LAWS

    told = set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| `.*?\|", PAGE.read_text("utf-8"), re.MULTILINE))))
    assert told == {law.name for law in LAWS}


def test_gateway_needs_neither_pytest_nor_hypothesis() -> None:
    code = """
import sys
sys.modules["pytest"] = sys.modules["hypothesis"] = None
import txgateway.service
assert "txgateway.testing" not in sys.modules
from txgateway.testing import GatewayHarness
with GatewayHarness() as gateway:
    assert gateway.ask().status == 200
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_plugin_loads_nothing_of_the_gateway_before_it_is_asked_for() -> None:
    code = "import sys, txgateway.testing.plugin; assert not {'twisted.web.http', 'hypothesis'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
