"""The page's files: what they may load, and that nothing in them can turn a name into HTML."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from twisted.web.test.requesthelper import DummyRequest

from txgateway.admin.dashboard import ASSETS, dashboard_pages

PAGES = files("txgateway.admin") / "pages"
TEXTS = {name: (PAGES / name).read_text("utf-8") for name in ("index.html", *ASSETS)}
SCRIPTS = [name for name in ASSETS if name.endswith(".js")]


def served(path: bytes, method: bytes = b"GET") -> tuple[bytes, dict[bytes, bytes]]:
    request = DummyRequest([b""])
    request.method = method
    body = dashboard_pages([b"/status", b"/health/ready"])[path].render(request)
    return body, {name.lower(): values[0] for name, values in request.responseHeaders.getAllRawHeaders()}


def test_every_file_of_the_page_is_served_and_no_other() -> None:
    assert {entry.name for entry in PAGES.iterdir()} == set(TEXTS)
    assert set(dashboard_pages([])) == {b"/", *(f"/dashboard/{name}".encode() for name in ASSETS)}


@pytest.mark.parametrize("name", ASSETS)
def test_assets_have_their_type_and_length(name: str) -> None:
    body, headers = served(f"/dashboard/{name}".encode())
    kind = {"js": b"text/javascript", "css": b"text/css", "svg": b"image/svg+xml"}[name.rpartition(".")[2]]
    assert headers[b"content-type"].partition(b";")[0] == kind
    assert headers[b"content-length"] == b"%d" % len(body)
    assert served(f"/dashboard/{name}".encode(), b"HEAD")[0] == b""


def test_policy_allows_this_origin_only_and_nothing_inline() -> None:
    _, headers = served(b"/")
    policy = {part.split()[0]: part.split()[1:] for part in headers[b"content-security-policy"].decode().split(";")}
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == policy.pop("base-uri") == ["'none'"]
    assert policy.pop("form-action") == policy.pop("trusted-types") == ["'none'"]
    assert policy.pop("require-trusted-types-for") == ["'script'"]
    assert all(sources == ["'self'"] for sources in policy.values())


def test_page_links_to_the_other_pages_escaped() -> None:
    body = dashboard_pages([b"/<b>", b"/status"])[b"/"]
    request = DummyRequest([b""])
    page = body.render(request)
    assert b'<a href="/status">/status</a>' in page
    assert b"<b>" not in page.partition(b"<footer>")[2]
    assert b"&lt;b&gt;" in page


def test_nothing_is_inline_and_nothing_is_loaded_from_elsewhere() -> None:
    page = TEXTS["index.html"]
    assert not re.search(r"\son[a-z]+\s*=|\sstyle\s*=|javascript:|<style", page)
    assert all(tag.endswith("></script>") for tag in re.findall(r"<script[^>]*>[^<]*</script>", page))
    for name, text in TEXTS.items():
        without_namespaces = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z0-9.]+\.[a-z]{2,}|@import|url\(", without_namespaces), name


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_html_and_run_no_text(name: str) -> None:
    dangers = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|\beval\b|new Function|createContextual"
    assert not re.search(dangers, TEXTS[name])


def test_what_the_scripts_look_for_is_on_the_page() -> None:
    page = TEXTS["index.html"]
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    wanted = {found for name in SCRIPTS for found in re.findall(r'\bat\("([a-z0-9-]+)"\)', TEXTS[name])}
    assert len(wanted) > 20
    assert wanted <= set(ids)


@pytest.mark.parametrize("name", [*ASSETS, "index.html"])
def test_files_are_of_a_readable_size(name: str) -> None:
    assert len(TEXTS[name].splitlines()) < 400
