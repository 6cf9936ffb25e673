"""The middlewares in examples/, and the one on the how-to page, stand on their own: in a folder elsewhere, they do what is said."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.harness import Gateway, clean_environment

TOP = Path(__file__).parents[2]
PAGE = (TOP / "implementation" / "howto" / "middleware.md").read_text(encoding="utf-8")
#: Laws are judged on the usual exchanges and a few more: whoever changes an example tries it with all.
FEW = """
from hypothesis import settings

settings.register_profile("few", max_examples=5, deadline=None, derandomize=True, database=None)
settings.load_profile("few")
"""
EXAMPLES = {
    "tenancy": {"GATEWAY_JWT_SECRET": "a secret of at least thirty-two bytes", "GATEWAY_JWT_AUDIENCE": "resumes"},
    "response_cache": {},
    "signing": {"GATEWAY_MIDDLEWARE_SIGNING_SECRET": "0123456789abcdef0123456789abcdef"},
}


@pytest.fixture
def folder(tmp_path: Path, example: str) -> Path:
    """A copy, where pytest knows nothing of our settings."""
    if example == "page":
        directory = tmp_path / example
        directory.mkdir()
        for name, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
            (directory / name).write_text(text, encoding="utf-8")
    else:
        left_over = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
        directory = shutil.copytree(TOP / "examples" / example, tmp_path / example, ignore=left_over)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n", encoding="utf-8")
    (directory / "conftest.py").write_text(FEW, encoding="utf-8")
    return directory


def output(folder: Path, program: str, *arguments: str, **variables: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / program), *arguments],
        env=clean_environment({"PYTHONDONTWRITEBYTECODE": "1", **variables}),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("example", [*EXAMPLES, "page"])
def test_own_tests_pass(folder: Path) -> None:
    assert " passed" in output(folder, "pytest", "-q", "-p", "txgateway.testing.plugin", "-p", "no:cacheprovider")


@pytest.mark.parametrize("example", [*EXAMPLES, "page"])
def test_own_cases_pass(folder: Path) -> None:
    told = output(folder, "txgateway", "test", "cases.toml")
    if folder.name == "page":
        assert f"$ .venv/bin/txgateway test cases.toml\n{told}" in PAGE


@pytest.mark.parametrize("example", [*EXAMPLES, "page"])
def test_document_is_accepted(folder: Path) -> None:
    variables = {"PYTHONPATH": ".", "GATEWAY_ROUTES_FILE": "routes.toml", **EXAMPLES.get(folder.name, {})}
    told = output(folder, "txgateway", "check", **variables)
    assert f"$ .venv/bin/txgateway check\n{told.splitlines(keepends=True)[0]}" in PAGE
    assert folder.name == "tenancy" or "warning" not in told  # whose token's issuer is left to whoever uses it


@pytest.mark.parametrize("example", ["page"])
def test_page_tells_what_happens(folder: Path) -> None:
    variables = {"PYTHONPATH": str(folder), "GATEWAY_ROUTES_FILE": "routes.toml"}
    with Gateway(folder, variables) as gateway:
        refused = gateway.get("/", "X-App-Version: 2")
        assert re.sub('"request_id":"[^"]+"', '"request_id":"…"', refused.body.decode()) in PAGE
        line = gateway.access_line(refused)
        assert (line["reason"], line["app_version"]) == ("APP_TOO_OLD", 2)
        assert gateway.metric("gateway_errors_total", route="shop", reason="APP_TOO_OLD") == 1
        metrics = gateway.admin("/metrics").body.decode().splitlines()
        assert "\n".join(one for one in metrics if one.startswith("gateway_middleware_app_version")) + "\n" in PAGE
        document = folder / "routes.toml"
        document.write_text(document.read_text("utf-8").replace("oldest = 3", "oldest = 2"), encoding="utf-8")
        after = len(gateway.lines)
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_line(after, event="reloaded")
        assert gateway.get("/", "X-App-Version: 2").status == 200
