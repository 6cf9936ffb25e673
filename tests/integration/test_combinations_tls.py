"""HTTP/2 and HTTP/1.1 over TLS on both sides, as ALPN chooses; and tools of others as clients: curl, nghttp, Chromium."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme
from tests.integration.backend import ScriptedBackend
from tests.integration.combinations import COMBINATIONS, document
from tests.integration.combined_client import Caller, H1Caller, H2Caller
from tests.integration.combined_target import H1Target, H2Target, Served, Target
from tests.integration.h2_backend import H2Backend, server_context
from tests.integration.h2_frames import h2_context
from tests.integration.harness import Gateway, routes
from tests.integration.secure import HOST, TlsClient, certificate_variables

PAGE = b"""<!doctype html><title>page</title><link rel=icon href=data:,><link rel=stylesheet href=style.css>
<body><script type=module>
const answers = await Promise.all(Array.from({length: 20}, async (_, number) => {
  const answer = await fetch(`echo/${number}`, {method: 'POST', body: 'x'.repeat(1000 * number)})
  return (await answer.text()).length
}))
document.title = answers.join(' ')
</script>"""


class SecureWorld:
    """A gateway over TLS, with a backend of each version over TLS behind it."""

    def __init__(self, directory: Path, stack: ExitStack, authority: trustme.CA, **settings: str) -> None:
        ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        self.ca_file = str(ca_file)
        self.targets: dict[str, Target] = {
            "h1": H1Target(stack.enter_context(ScriptedBackend(tls=server_context(authority, "http/1.1")))),
            "h2": H2Target(stack.enter_context(H2Backend(tls=server_context(authority, "h2", "http/1.1")))),
        }
        urls = {version: target.backend.url for version, target in self.targets.items()}
        environment = {
            **routes(document(urls, tls={"ca_file": self.ca_file})),
            **certificate_variables(directory, authority, HOST),
            **settings,
        }
        self.gateway = stack.enter_context(Gateway(directory, environment))
        self.context = h2_context(authority, "h2", "http/1.1")

    def caller(self, front: str, authority: trustme.CA) -> Caller:
        """A client that offers what it speaks."""
        if front == "h1":
            return H1Caller(self.gateway.port, h2_context(authority, "http/1.1"))
        return H2Caller(self.gateway.port, self.context)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory, authority: trustme.CA) -> Iterator[SecureWorld]:
    with ExitStack() as stack:
        yield SecureWorld(tmp_path_factory.mktemp("secure"), stack, authority, GATEWAY_CSP="")


@pytest.fixture
def secure(shared_world: SecureWorld) -> Iterator[SecureWorld]:
    for target in shared_world.targets.values():
        target.renew()
    yield shared_world
    for target in shared_world.targets.values():
        assert not target.backend.faults, target.backend.faults
        target.renew()


@pytest.mark.parametrize("name", COMBINATIONS)
def test_exchange_over_tls(secure: SecureWorld, authority: trustme.CA, name: str) -> None:
    front, _, behind = name.partition("-")
    target, path = secure.targets[behind], f"/{behind}/plain/{name}"
    with secure.caller(front, authority) as caller:
        call = caller.open("POST", path, length=None)
        call.send(b"abc")
        served = target.next()
        assert served.read(3) == b"abc"
        assert served.request.headers("X-Forwarded-Proto") == ["https"]
        assert served.request.headers("Via") == [caller.via]
        served.inform(103, ("Link", "</a>"))
        assert call.inform().status == 103
        served.head(200)
        served.send(b"def")
        assert call.read(3) == b"def"
        call.end(("X-Sum", "1"))
        assert (served.rest(), len(served.trailers)) == (b"abc", 1)
        served.end(("X-Sum", "2"))
        response = call.response()
        assert (response.body, response.trailers[0][1]) == (b"def", "2")
        assert response.headers("Via") == [f"{target.version} txgateway"]
    with secure.caller(front, authority) as caller:
        target.handler = lambda served: served.answer(served.rest())
        large = bytes(range(256)) * 4096
        assert caller.ask("PUT", path + "/large", body=large).body == large
        assert target.next().request.body == large
        target.handler = None
        call = caller.open("GET", path + "/cut")
        served = target.next()
        served.head(200)
        assert call.head().status == 200
        served.cut()
        with pytest.raises((AssertionError, ssl.SSLError)):
            call.response()
    assert secure.gateway.access_line_at(path)["protocol"] == caller.version
    secure.gateway.wait_until_free()


def test_who_offers_nothing_is_spoken_http1_with(secure: SecureWorld, authority: trustme.CA) -> None:
    secure.targets["h2"].handler = Served.answer
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with TlsClient(secure.gateway.port, context) as client:
        client.send(b"GET /h2/plain HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        assert client.read_response().body == b"ok"
        assert client.tls.selected_alpn_protocol() is None


def test_alpn_picks_http1_where_http2_is_switched_off(tmp_path: Path, authority: trustme.CA) -> None:
    with ExitStack() as stack:
        world = SecureWorld(tmp_path, stack, authority, GATEWAY_HTTP2="false")
        world.targets["h2"].handler = Served.answer
        client = stack.enter_context(TlsClient(world.gateway.port, world.context))
        assert client.tls.selected_alpn_protocol() == "http/1.1"
        client.send(b"GET /h2/plain HTTP/1.1\r\nHost: gateway.test\r\n\r\n")
        assert client.read_response().body == b"ok"


# --- clients of others ---------------------------------------------------------------------------------------------------


def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=30, check=True)


def serve_page(served: Served) -> None:
    path = served.request.target.decode()
    if path.endswith("style.css"):
        served.answer(b"body { color: red }", 200, ("Content-Type", "text/css"))
    elif "/echo/" in path:
        served.answer(served.rest(), 200, ("Content-Type", "text/plain"))
    else:
        served.answer(PAGE, 200, ("Content-Type", "text/html"))


@pytest.mark.curl
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("behind", ["h1", "h2"])
@pytest.mark.parametrize(("option", "version"), [("--http2", b"2"), ("--http1.1", b"1.1")])
def test_curl(secure: SecureWorld, behind: str, option: str, version: bytes, tmp_path: Path) -> None:
    target = secure.targets[behind]
    target.handler = lambda served: served.answer(served.rest(), 201)
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(range(256)) * 8192)
    url = f"https://{HOST}:{secure.gateway.port}/{behind}/plain/curl"
    common = ("curl", "--silent", "--show-error", "--cacert", secure.ca_file, option, "--noproxy", "*",
              "--resolve", f"{HOST}:{secure.gateway.port}:127.0.0.1")  # fmt: skip
    out = tmp_path / "out"
    said = run(*common, "--data-binary", f"@{upload}", "--output", str(out), "--write-out",
               "%{http_version} %{http_code}", url)  # fmt: skip
    assert said.stdout == version + b" 201"
    assert out.read_bytes() == upload.read_bytes()
    received = target.next().request
    assert received.header("Content-Length") == str(upload.stat().st_size)
    # Several at once, over one connection if it is HTTP/2.
    urls = [f"{url}/{number}" for number in range(5)]
    assert run(*common, "--parallel", "--data", "abc", *urls).stdout == b"abc" * 5


@pytest.mark.nghttp
@pytest.mark.skipif(shutil.which("nghttp") is None, reason="nghttp is not installed (Debian package nghttp2-client)")
@pytest.mark.parametrize("behind", ["h1", "h2"])
def test_nghttp(secure: SecureWorld, behind: str, tmp_path: Path) -> None:
    target = secure.targets[behind]

    def answer(served: Served) -> None:
        body = served.rest()
        served.head(200)
        served.send(b"%d" % len(body) + bytes(200_000))
        served.end(("X-Sum", "1"))

    target.handler = answer
    upload = tmp_path / "upload"
    upload.write_bytes(bytes(300_000))
    url = f"https://127.0.0.1:{secure.gateway.port}/{behind}/plain/nghttp"
    # -m: the same ten times over one connection; small windows; padding; a trailer, and a length that is not said.
    said = run(
        "nghttp", "-n", "-v", "-m", "10", "-w", "14", "-W", "15", "--padding", "16", "-H", f":authority: {HOST}",
        "--trailer", "x-mine: 1", "--no-content-length", "-d", str(upload), url,
    ).stdout.decode()  # fmt: skip
    assert said.count(":status: 200") == 10
    assert said.count("x-sum: 1") == 10
    all_served = [target.next() for _ in range(10)]
    assert {len(served.request.body) for served in all_served} == {300_000}
    assert {value for served in all_served for _, value in served.trailers} == {"1"}
    secure.gateway.wait_until_free()


@pytest.mark.browser
@pytest.mark.parametrize("behind", ["h1", "h2"])
def test_chromium_loads_a_page_over_http2(secure: SecureWorld, behind: str) -> None:
    from tests.integration.browser import PATIENCE_MS, Opened, running_browser  # playwright

    secure.targets[behind].handler = serve_page
    with running_browser() as browser:
        context = browser.new_context(ignore_https_errors=True)
        page = context.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_default_timeout(PATIENCE_MS)
        page.goto(f"https://127.0.0.1:{secure.gateway.port}/{behind}/plain/page/")
        Opened(page).wait("document.title !== 'page'")
        assert page.title() == " ".join(str(1000 * number) for number in range(20))
        protocols = page.evaluate("performance.getEntriesByType('resource').map((entry) => entry.nextHopProtocol)")
        style = page.evaluate("getComputedStyle(document.body).color")
        context.close()
    assert set(protocols) == {"h2"}
    assert len(protocols) == 21
    assert style == "rgb(255, 0, 0)"
    assert not errors
    lines = [line for line in secure.gateway.lines if str(line.get("path")).startswith(f"/{behind}/plain/page")]
    assert {line["protocol"] for line in lines} == {"HTTP/2"}
    assert json.dumps(sorted(line["status"] for line in lines)) == json.dumps([200] * 22)
