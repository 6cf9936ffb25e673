"""The build hook: what it would compile is there, and has nothing that compiled code lacks. That it works is CI's to show."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
SOURCE = (TOP / "implementation" / "compiled.py").read_text(encoding="utf-8")
PATTERNS = re.findall(
    r"[\w*/]+\.py(?=[ \"])", SOURCE[SOURCE.index("MODULES = (") : SOURCE.index("class CompiledBuildHook")]
)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_finds_modules(pattern: str) -> None:
    assert list((TOP / "src" / "txgateway").glob(pattern))


def test_patterns_were_found() -> None:
    assert "transport/http1_*.py" in PATTERNS
    assert "request.py" in PATTERNS


@pytest.mark.parametrize("path", sorted((TOP / "src" / "txgateway").rglob("*.py")), ids=str)
def test_loggers_are_told_their_names(path: Path) -> None:
    """A Logger without a name asks its caller's frame, and compiled code has none."""
    assert not re.search(r"^_?\w*log\w* = Logger\(\)", path.read_text(encoding="utf-8"), re.MULTILINE)


def test_hook_is_where_the_project_says_it_is() -> None:
    assert 'path = "implementation/compiled.py"' in (TOP / "pyproject.toml").read_text(encoding="utf-8")
    assert importlib.util.spec_from_file_location("compiled", TOP / "implementation" / "compiled.py") is not None
