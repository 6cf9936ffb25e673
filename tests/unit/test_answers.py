from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from tests.unit.support import MemoryClient, Response, Server, message, read_responses
from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface.verify import verifyObject

from txgateway import answers
from txgateway.answers import FixedResponse, Mounted, Redirect
from txgateway.forwarded import Forwarded
from txgateway.leaf import Leaf
from txgateway.middleware.recovery import Recovery

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # Twisted's own module uses what Twisted deprecates
    from twisted.web.static import File

pytestmark = pytest.mark.filterwarnings("ignore:twisted.web.resource._Unsafe:DeprecationWarning")


class Site:
    """A route's end behind a real transport.

    Args:
        root: what is mounted, or a finished end.
        prefix: number of path segments that the route has matched.
    """

    def __init__(self, root: Any, prefix: int = 0, body_timeout_s: float = 30.0) -> None:
        self.server = Server(self._dispatch)
        clock: IReactorTime = self.server.clock
        is_end = isinstance(root, Leaf)
        self.end = root if is_end else Mounted(root, prefix, body_timeout_s, self.server.wheel, clock)
        self.entry = Recovery(self.end)

    def _dispatch(self, request: Any) -> None:
        request.path, _, _ = request.uri.partition(b"?")
        request.canonical_path = request.path
        request.upstream_target = request.uri
        request.forwarded = Forwarded("192.0.2.1", b"http", [])
        self.entry.render(request)

    def connect(self) -> MemoryClient:
        return self.server.connect()

    def ask(self, path: bytes = b"/", *fields: bytes, method: bytes = b"GET", body: bytes = b"") -> Response:
        if body:
            fields = (*fields, b"Content-Length: %d" % len(body))
        client = self.connect().send(message(path, *fields, method=method, body=body))
        (response,) = read_responses(client.received(), [method])
        return response


# --- redirects and fixed answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "location"),
    [
        ("https://new.example.com", b"https://new.example.com/x?y=1"),
        ("https://new.example.com/", b"https://new.example.com/"),
        ("https://new.example.com/z", b"https://new.example.com/z"),
        ("/z", b"/z"),
    ],
)
def test_redirect_keeps_path_and_query_only_without_a_path_of_its_own(to: str, location: bytes) -> None:
    response = Site(Redirect(to, 308)).ask(b"/x?y=1")
    assert (response.status, response.get(b"location"), response.body) == (308, location, b"")


def test_fixed_response_is_the_same_every_time() -> None:
    site = Site(FixedResponse(410, "gone ✓", "text/plain"))
    for _ in range(2):
        response = site.ask()
        assert (response.status, response.body) == (410, "gone ✓".encode())
        assert response.get(b"content-type") == b"text/plain"
    assert site.ask(method=b"HEAD").get(b"content-length") == b"8"


def test_fixed_response_without_body_has_no_type() -> None:
    response = Site(FixedResponse(204, "", "text/plain")).ask()
    assert (response.status, response.get(b"content-type")) == (204, None)


@pytest.mark.parametrize("end", [Redirect("/", 302), FixedResponse(200, "", "text/plain")])
def test_ends_are_leaves(end: Any) -> None:
    verifyObject(IResource, end)
    assert end.getChildWithDefault(b"x", None) is end
    with pytest.raises(TypeError):
        end.putChild(b"x", end)


# --- files ------------------------------------------------------------------------------------------------------------

BIG = bytes(range(256)) * 1024


@pytest.fixture
def files(tmp_path: Path) -> Site:
    (tmp_path / "big.bin").write_bytes(BIG)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a b.txt").write_bytes(b"child")
    return Site(File(str(tmp_path)), prefix=1)


def test_file_is_served_whole(files: Site) -> None:
    response = files.ask(b"/static/big.bin")
    assert (response.status, response.body) == (200, BIG)
    assert response.get(b"content-length") == b"%d" % len(BIG)
    assert response.get(b"content-type") == b"application/octet-stream"
    assert response.get(b"accept-ranges") == b"bytes"
    assert response.get(b"last-modified") is not None


def test_file_is_served_in_part(files: Site) -> None:
    response = files.ask(b"/static/big.bin", b"Range: bytes=100-199")
    assert (response.status, response.body) == (206, BIG[100:200])
    assert response.get(b"content-range") == b"bytes 100-199/%d" % len(BIG)


def test_unchanged_file_is_not_served_again(files: Site) -> None:
    modified = files.ask(b"/static/big.bin").get(b"last-modified")
    assert modified is not None
    response = files.ask(b"/static/big.bin", b"If-Modified-Since: " + modified)
    assert (response.status, response.body) == (304, b"")


def test_head_of_a_file(files: Site) -> None:
    response = files.ask(b"/static/big.bin", method=b"HEAD")
    assert (response.status, response.get(b"content-length")) == (200, b"%d" % len(BIG))


def test_child_of_a_directory_is_found_unquoted(files: Site) -> None:
    assert files.ask(b"/static/sub/a%20b.txt").body == b"child"


@pytest.mark.parametrize("path", [b"/static/none", b"/static/sub/none", b"/static/..%2F..%2Fetc"])
def test_missing_file_is_404(files: Site, path: bytes) -> None:
    assert files.ask(path).status == 404


def test_slow_reader_of_a_file_holds_it_up(files: Site) -> None:
    client = files.connect()
    client.transport.takes = False
    client.send(message(b"/static/big.bin"))
    assert len(client.transport.unsent) < len(BIG)
    while client.transport.unsent:
        client.transport.take(100_000)
        files.server.clock.advance(0)
    assert client.response().body == BIG


def test_client_that_leaves_a_file_stops_it(files: Site) -> None:
    client = files.connect()
    client.transport.takes = False
    client.send(message(b"/static/big.bin"))
    client.leave()
    assert files.server.request.reason == "CLIENT_GONE"
    files.server.wait(0.2)
    assert files.server.clock.getDelayedCalls() == []


# --- resources that compute -------------------------------------------------------------------------------------------


class Told(Resource):
    """Tells what it was asked, and keeps the request."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Any] = []

    def render_GET(self, request: Any) -> bytes:
        self.requests.append(request)
        request.setHeader(b"X-Told", b"yes")
        return repr((request.args, request.prepath, request.postpath)).encode()

    def render_POST(self, request: Any) -> bytes:
        self.requests.append(request)
        return repr(sorted(request.args.items())).encode() + b"|%d" % len(request.content.read())


def test_path_behind_the_route_is_looked_up() -> None:
    response = Site(Told(), prefix=2).ask(b"/api/v1/a%2Fb/c?q=1")
    assert response.body == repr(({b"q": [b"1"]}, [b"api", b"v1"], [b"a/b", b"c"])).encode()
    assert (response.get(b"x-told"), response.get(b"content-type")) == (b"yes", b"text/html")


def test_children_are_found_and_prepath_grows() -> None:
    root, child = Resource(), Told()
    root.putChild(b"a", child)
    assert Site(root, prefix=1).ask(b"/route/a/b").body == repr(({}, [b"route", b"a"], [b"b"])).encode()
    assert Site(root, prefix=1).ask(b"/route/none").status == 404


def test_method_that_the_resource_has_not_is_405() -> None:
    response = Site(Later()).ask(method=b"POST", body=b"x")
    assert response.status == 405
    assert set((response.get(b"allow") or b"").split(b", ")) == {b"GET", b"HEAD"}


URLENCODED = b"Content-Type: application/x-www-form-urlencoded"


@pytest.mark.parametrize("content_type", [URLENCODED, URLENCODED + b"; charset=utf-8"])
def test_form_fields_join_the_query(content_type: bytes) -> None:
    response = Site(Told()).ask(b"/?a=1", content_type, method=b"POST", body=b"a=2&b=%20+&c=")
    assert response.body == repr([(b"a", [b"1", b"2"]), (b"b", [b"  "]), (b"c", [b""])]).encode() + b"|13"


def test_other_body_is_content_only() -> None:
    response = Site(Told()).ask(b"/", b"Content-Type: text/plain", method=b"POST", body=b"a=2")
    assert response.body == b"[]|3"


MULTIPART = b"Content-Type: multipart/form-data; boundary=sep"


def part(disposition: bytes, data: bytes) -> bytes:
    return b"--sep\r\nContent-Disposition: form-data; " + disposition + b"\r\n\r\n" + data + b"\r\n"


def test_multipart_fields_and_files() -> None:
    body = (
        part(b'name="a"', b"1")
        + part(b'name="f"; filename="x.bin"', b"\x00\xff")
        + part(b'name="a"', b"2")
        + b"--sep--\r\n"
    )
    response = Site(Told()).ask(b"/", MULTIPART, method=b"POST", body=body)
    assert response.body.startswith(repr([(b"a", [b"1", b"2"]), (b"f", [b"\x00\xff"])]).encode())


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (MULTIPART, b"nothing of the kind"),
        (MULTIPART, part(b'name="a"', b"1")),
        (b"Content-Type: multipart/form-data", part(b'name="a"', b"1") + b"--sep--\r\n"),
        (b'Content-Type: multipart/form-data; boundary=""', part(b'name="a"', b"1") + b"--sep--\r\n"),
        (b"Content-Type: multipart/form-data; boundary=" + b"x" * 300, b"--"),
        (MULTIPART, (part(b'name="a"', b"1") * 1001) + b"--sep--\r\n"),
        (MULTIPART, b'--sep\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n1\r\n--sep--\r\n'),
    ],
)
def test_malformed_form_is_refused(content_type: bytes, body: bytes) -> None:
    response = Site(Told()).ask(b"/", content_type, method=b"POST", body=body)
    assert response.problem["reason"] == "BAD_REQUEST"


@pytest.mark.parametrize("size", [10, answers.SPOOL_MEMORY_BYTES + 10])
def test_body_is_read_before_the_resource_is_asked(size: int) -> None:
    told = Told()
    site = Site(told)
    client = site.connect().send(message(b"/", b"Content-Length: %d" % size, b"Expect: 100-continue", method=b"POST"))
    assert client.received() == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send(b"x" * (size - 1))
    assert not told.requests
    client.send(b"x")
    assert client.response().body == b"[]|%d" % size
    assert told.requests[0].content.closed


def test_stalled_body_is_refused() -> None:
    told = Told()
    site = Site(told, body_timeout_s=5)
    client = site.connect().send(message(b"/", b"Content-Length: 10", method=b"POST"))
    for _ in range(3):
        site.server.wait(4)
        client.send(b"x")
    assert client.received() == b""
    site.server.wait(5.5)
    assert client.response().problem["reason"] == "REQUEST_TIMEOUT"
    assert not told.requests
    site.server.wait(10)
    assert site.server.clock.getDelayedCalls() == []


class Failing(Resource):
    isLeaf = True

    def render(self, request: Any) -> bytes:
        raise ValueError("secret")


@pytest.mark.parametrize("body", [b"", b"x"])
def test_failing_resource_is_500_without_a_word(body: bytes) -> None:
    response = Site(Failing()).ask(method=b"POST", body=body)
    assert response.status == 500
    assert response.problem["reason"] == "INTERNAL_ERROR"
    assert b"secret" not in response.body


class Later(Resource):
    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.ends: list[object] = []

    def render_GET(self, request: Any) -> int:
        self.request = request
        request.notifyFinish().addBoth(self.ends.append)
        return NOT_DONE_YET


def test_resource_may_write_later() -> None:
    later = Later()
    client = Site(later).connect().send(message(b"/"))
    assert client.received() == b""
    later.request.write(b"a")
    first = client.received()
    assert first.endswith(b"\r\n\r\n1\r\na\r\n")
    later.request.write(b"b")
    assert later.ends == []
    later.request.finish()
    assert read_responses(first + client.received())[0].body == b"ab"
    assert later.ends == [None]


def test_resource_is_told_when_the_client_leaves() -> None:
    later = Later()
    client = Site(later).connect().send(message(b"/"))
    client.leave()
    assert len(later.ends) == 1
    assert later.ends[0] is not None


def test_session_is_kept_by_cookie() -> None:
    class Counted(Resource):
        isLeaf = True

        def render_GET(self, request: Any) -> bytes:
            session = request.getSession()
            session.count = getattr(session, "count", 0) + 1
            return b"%d" % session.count

    site = Site(Counted())
    first = site.ask()
    cookie = first.get(b"set-cookie")
    assert cookie is not None
    assert site.ask(b"/", b"Cookie: " + cookie.partition(b";")[0]).body == b"2"
    assert site.ask().body == b"1"
    site.server.wait(1000)
    assert site.server.clock.getDelayedCalls() == []
