"""The how-to pages: their configurations load, their links lead somewhere, and no reason is missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from txgateway import errors
from txgateway.config import load

PAGES = sorted((Path(__file__).parents[2] / "implementation" / "howto").glob("*.md"))
BLOCK = re.compile(r"^```(toml|sh)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)#:]+)\)")
BLOCKS = [(page.name, kind, text) for page in PAGES for kind, text in BLOCK.findall(page.read_text(encoding="utf-8"))]


@pytest.mark.parametrize(("page", "kind", "text"), BLOCKS)
def test_configuration_of_a_page_is_accepted(page: str, kind: str, text: str, tmp_path: Path) -> None:
    if kind == "toml":
        file = tmp_path / "routes.toml"
        file.write_text(text, encoding="utf-8")
        environment = {"GATEWAY_ROUTES_FILE": str(file)}
        if 'auth = "jwt"' in text:
            environment |= {"GATEWAY_JWT_SECRET": "0123456789abcdef0123456789abcdef", "GATEWAY_JWT_AUDIENCE": "a"}
    else:
        environment = dict(line.split("=", 1) for line in text.splitlines())
    configuration = load(environment)
    assert configuration.routes, page
    assert not configuration.warnings


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link


def test_each_reason_is_explained_with_its_status() -> None:
    text = (PAGES[0].parent / "troubleshooting.md").read_text(encoding="utf-8")
    rows = set(re.findall(r"^\| ([A-Z_]+) \| ([0-9]{3}) \|", text, re.MULTILINE))
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.GatewayError)]
    known = {(kind.reason, str(kind.status)) for kind in kinds}
    assert rows == known | {(errors.CLIENT_GONE, str(errors.CLIENT_GONE_STATUS))}
