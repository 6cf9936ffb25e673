"""The page for people: HTML, style and scripts as they are in ``pages/``, read once when the gateway starts.

The page asks ``/status`` and ``/status/history``, of this port and nobody else, and that is all its policy allows.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from importlib.resources import files
from typing import Final

from twisted.web.iweb import IRequest
from twisted.web.resource import Resource

_TYPES: Final = {
    "css": b"text/css; charset=utf-8",
    "html": b"text/html; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
#: What the page loads, all from here.
ASSETS: Final = ("app.js", "chart.js", "dashboard.css", "icon.svg", "numbers.js", "tables.js", "watch.js")

#: Names of routes and targets are put in as text; with Trusted Types a script that forgets that is stopped.
POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    b"form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)


class _Fixed(Resource):
    """The same body for everybody."""

    isLeaf = True

    def __init__(self, name: str, body: bytes) -> None:
        super().__init__()
        self._content_type = _TYPES[name.rpartition(".")[2]]
        self._body = body

    def render(self, request: IRequest) -> bytes:
        request.setHeader(b"Content-Type", self._content_type)
        request.setHeader(b"Content-Length", b"%d" % len(self._body))
        request.setHeader(b"Content-Security-Policy", POLICY)
        return b"" if request.method == b"HEAD" else self._body


def dashboard_pages(others: Iterable[bytes]) -> dict[bytes, Resource]:
    """The page ``/`` and what it loads, by path.

    Args:
        others: paths that the page links to.
    """
    directory = files(__package__) / "pages"
    links = (escape(path.decode("utf-8")) for path in sorted(others))
    items = "\n".join(f'<li><a href="{link}">{link}</a></li>' for link in links)
    page = (directory / "index.html").read_text("utf-8").replace("<!-- links -->", items)
    pages: dict[bytes, Resource] = {b"/": _Fixed("index.html", page.encode("utf-8"))}
    for name in ASSETS:
        pages[b"/dashboard/" + name.encode("ascii")] = _Fixed(name, (directory / name).read_bytes())
    return pages
