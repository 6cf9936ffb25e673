"""What becomes of cases whose middlewares never come to an end, and of many requests at once."""

from __future__ import annotations

from pathlib import Path

from txgateway.policy import lines, read_files, run_file

MIDDLEWARE = """
from txgateway.middleware import Middleware
class Restless(Middleware):
    "Calls itself for ever."
    def render(self, request):
        self.again()
        return self.inner.render(request)
    def again(self):
        self.context.clock.callLater(0, self.again)
"""
CASES = """
[gateway]
environment = { GATEWAY_BACKEND_TARGET = "http://a", GATEWAY_MIDDLEWARES = "restless_policy:Restless" }
[[cases]]
name = "restless"
[[cases.steps]]
request = {}
[[cases]]
name = "unused"
[[cases.steps]]
advance = "1h"
"""


def test_busy_loop_of_a_middleware_ends_its_case(tmp_path: Path) -> None:
    (tmp_path / "restless_policy.py").write_text(MIDDLEWARE, encoding="utf-8")
    path = tmp_path / "cases.toml"
    path.write_text(CASES, encoding="utf-8")
    (file,) = read_files([str(path)])
    result = run_file(file, file.chosen(""))
    assert (result.failed, [case.failure is None for case in result.cases]) == (1, [False, True])
    told = list(lines([result]))
    assert told[2].strip() == "step 1 (cases[0].steps[0]): GET /"
    assert "is called again and again while no time passes" in told[4]
    assert told[-1] == "1 passed, 1 failed; 3600s of virtual time"
