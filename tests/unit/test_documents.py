"""The documents say what the code does: variables, their defaults, and the example."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from txgateway.config import load
from txgateway.config.not_yet import WITHOUT_EFFECT
from txgateway.config.settings import VARIABLES
from txgateway.config.values import duration, size
from txgateway.config.vocabulary import status_ranges

TOP = Path(__file__).parents[2]
SETUP = (TOP / "implementation" / "SETUP.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `((?:GATEWAY|LOG)_[A-Z0-9_]+)` \|(?: `[a-z_.]+` \|)?(?: `([^`]*)`)? +\|", re.MULTILINE)


def has_effect(key: str) -> bool:
    return not {key, key.partition(".")[0]} & WITHOUT_EFFECT


def test_setup_lists_exactly_the_variables_that_have_an_effect() -> None:
    documented = set(re.findall(r"^\| `((?:GATEWAY|LOG)_[A-Z0-9_]+)` \|", SETUP, re.MULTILINE))
    assert documented == {name for name, leaf in VARIABLES.items() if has_effect(leaf.key)}


@pytest.mark.parametrize(("name", "written"), [found for found in ROW.findall(SETUP) if found[1]])
def test_setup_gives_the_default_of_each_variable(name: str, written: str) -> None:
    leaf = VARIABLES[name]
    if leaf.name.endswith("_s"):
        assert duration(written) == leaf.value
    elif leaf.name.endswith("_bytes"):
        assert size()(written) == leaf.value
    elif leaf.key == "health_check.expect":
        assert status_ranges(written) == leaf.value
    elif isinstance(leaf.value, tuple):
        assert written == ",".join(leaf.value)
    else:
        assert written == (str(leaf.value).lower() if isinstance(leaf.value, bool) else str(leaf.value))


def test_example_is_a_document_without_mistakes() -> None:
    configuration = load({"GATEWAY_ROUTES_FILE": str(TOP / "examples" / "routes.toml")})
    assert {route.name for route in configuration.routes} >= {"resumes", "search", "cv", "live"}
