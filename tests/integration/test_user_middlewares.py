"""Middlewares and resources of users, in gateways that find them as users' gateways do: on the path, or installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.integration.backend import ScriptedBackend, answer
from tests.integration.client import Client, Response
from tests.integration.crew import Crew
from tests.integration.harness import Gateway, NotStarted, routes, run
from tests.integration.reloads import ReloadingGateway

SECRET = "hunter2-hunter2"

TENANCY = '''
"""As somebody would write it."""

from pydantic import BaseModel, SecretStr

from txgateway.middleware import GatewayError, Middleware


class TenantUnknown(GatewayError):
    status, reason, title = 403, "TENANT_UNKNOWN", "Forbidden"
    detail = "Nobody knows this tenant."


class Tenancy(Middleware):
    """Lets known tenants through."""

    class Settings(BaseModel, frozen=True):
        header: str = "x-org"
        known: tuple[str, ...] = ("acme",)
        key: SecretStr = SecretStr("")

    def __init__(self, inner, settings=None, context=None):
        super().__init__(inner, settings, context)
        self._header = settings.header.encode()
        self._set_org = context.log_field("org")
        self._seen = context.metrics.counter("seen", "Requests seen.", ("org",))
        self._children = {name: self._seen.labels(name) for name in settings.known}
        self._served = 0

    def render(self, request):
        org = (request.header(self._header) or b"").decode("latin-1")
        if org not in self._children:
            raise TenantUnknown(f"{org} is unknown")
        self._children[org].inc()
        self._set_org(request, org)
        self._served += 1
        request.before_head(self._tell)
        return self.inner.render(request)

    def _tell(self, request):
        name = ("X-" + self.context.name).encode()
        request.response_headers.append((name.lower(), name, b"%d" % self._served))

    def explain(self, request):
        return f"tenant {(request.header(self._header) or b'nobody').decode()}"


class Edge(Tenancy):
    position = "edge"
'''

FAULTY = '''
from twisted.internet.defer import Deferred, fail

from txgateway.middleware import Middleware


class Faulty(Middleware):
    """Fails where it is told to."""

    def render(self, request):
        where = (request.header(b"x-fault") or b"").decode()
        if where == "render":
            raise LookupError("x")
        if where == "head":
            request.before_head(self._fault)
        if where == "closure":
            request.before_head(lambda request: self._fault(request))
        if where == "finish":
            request.on_finish(self._fault)
        if where == "deferred":
            return fail(LookupError("x"))
        if where == "when":
            return self.when(self._soon(), request, self._fault_then)
        if where == "waits":
            return self.when(self._soon(), request, lambda _, request: self.inner.render(request))
        if where == "bytes":
            return b"by bytes"
        if where == "blocks":
            until = self.context.clock.seconds() + 0.06
            while self.context.clock.seconds() < until:
                pass
        return self.inner.render(request)

    def _soon(self):
        deferred = Deferred()
        self.context.clock.callLater(0, deferred.callback, None)
        return deferred

    def _fault(self, request):
        raise LookupError("x")

    def _fault_then(self, result, request):
        raise LookupError("x")


class Dead(Middleware):
    def __init__(self, inner, settings=None, context=None):
        raise LookupError("out of order")
'''


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A directory on the path, with the user's package and an installed distribution with entry points."""
    package = tmp_path / "code" / "mypkg"
    package.mkdir(parents=True)
    for name, text in (
        ("__init__", ""),
        ("tenancy", TENANCY),
        ("faulty", FAULTY),
        ("unwanted", "import no_such_module"),
    ):
        (package / f"{name}.py").write_text(text)
    info = tmp_path / "code" / "mypkg-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mypkg\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[txgateway.middlewares]\ntenants = mypkg.tenancy:Tenancy\nunwanted = mypkg.unwanted:Unwanted\n"
    )
    return tmp_path / "code"


def fixed(name: str, **keys: Any) -> dict[str, Any]:
    return {"name": name, "path": f"/{name}", "response": {"body": name}, **keys}


def document(*made: dict[str, Any], **tables: Any) -> dict[str, Any]:
    return {"routes": list(made), "middlewares": tables}


def own(use: str = "mypkg.tenancy:Tenancy", **settings: Any) -> dict[str, Any]:
    return {"use": use, "settings": settings}


def path(code: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(code)}


# --- in the way of requests ---------------------------------------------------------------------------------------


def test_without_a_document_it_is_named_and_set_by_variables(
    tmp_path: Path, code: Path, backend: ScriptedBackend
) -> None:
    backend.script = answer()
    (tmp_path / "key").write_text(SECRET)
    environment = {
        **path(code),
        "GATEWAY_BACKEND_TARGET": f"http://127.0.0.1:{backend.port}",
        "GATEWAY_MIDDLEWARES": "mypkg.tenancy:Tenancy",
        "GATEWAY_MIDDLEWARE_TENANCY_KNOWN": "acme,initech",
        "GATEWAY_MIDDLEWARE_TENANCY_KEY_FILE": str(tmp_path / "key"),
    }
    with Gateway(tmp_path, environment) as gateway:
        served = gateway.get("/", "X-Org: initech")
        assert (served.status, served.header("X-tenancy")) == (200, "1")
        assert gateway.access_line(served)["org"] == "initech"
        refused = gateway.get("/", "X-Org: umbrella")
        assert (refused.status, refused.json()["reason"]) == (403, "TENANT_UNKNOWN")
        line = gateway.access_line(refused)
        assert (line["route"], line["reason"], "org" in line) == ("default", "TENANT_UNKNOWN", False)
        assert gateway.metric("gateway_middleware_tenancy_seen_total", org="initech") == 1
        assert gateway.metric("gateway_errors_total", route="default", reason="TENANT_UNKNOWN") == 1
        config = gateway.admin("/config")
        assert config.json()["middlewares"]["mypkg.tenancy:Tenancy"]["settings.key"]["value"] == "***"
        assert gateway.status()["middlewares"] == [
            {"name": "mypkg.tenancy:Tenancy", "class": "mypkg.tenancy:Tenancy", "position": "route"}
        ]
        told = gateway.admin("/explain?url=/&header=X-Org:%20acme").json()
        step = next(one for one in told["decorators"] if one["decorator"] == "Tenancy")
        assert step["says"] == {"middleware": "tenancy", "tells": "tenant acme"}
        everything = b"".join(gateway.admin(page).body for page in ("/config", "/status", "/metrics", "/explain?url=/"))
        assert SECRET not in everything.decode() + gateway.output_text


def test_tables_entry_points_and_edges(tmp_path: Path, code: Path) -> None:
    made = document(
        fixed("open", middlewares=[]),
        fixed("inherits"),
        fixed("strict", middlewares=["strict", "tenants"]),
        strict=own(header="x-team", known=["a"]),
        door=own("mypkg.tenancy:Edge", header="x-door", known=["front"]),
    )
    environment = {**path(code), **routes(made), "GATEWAY_MIDDLEWARES": "door,strict"}
    with Gateway(tmp_path, environment) as gateway:
        assert gateway.get("/open").status == 403  # the edge is every request's
        assert gateway.get("/nowhere").status == 403
        assert gateway.get("/nowhere", "X-Door: front").status == 404
        opened = gateway.get("/open", "X-Door: front")
        assert (opened.status, opened.header("X-door"), opened.header("X-strict")) == (200, "2", None)
        assert gateway.get("/inherits", "X-Door: front").status == 403
        assert gateway.get("/inherits", "X-Door: front", "X-Team: a").header("X-strict") == "1"
        refused = gateway.get("/strict", "X-Door: front", "X-Team: a")
        assert refused.status == 403
        both = gateway.get("/strict", "X-Door: front", "X-Team: a", "X-Org: acme")
        assert (both.status, both.header("X-tenants")) == (200, "1")
        assert gateway.metric("gateway_middleware_strict_seen_total", org="a") == 3  # of all its places
        assert gateway.get("/health/live", "X-Door: back").status == 200  # probes are above the edge


@pytest.mark.parametrize("where", ["render", "head", "closure", "deferred", "when"])
def test_its_fault_is_a_500_and_the_log_says_whose(tmp_path: Path, code: Path, where: str) -> None:
    made = document(fixed("r", middlewares=["culprit"]), culprit={"use": "mypkg.faulty:Faulty"})
    with Gateway(tmp_path, {**path(code), **routes(made)}) as gateway, gateway.client() as client:
        for fault in (where, where, ""):  # on one connection, which it does not harm
            client.send(f"GET /r HTTP/1.1\r\nHost: a\r\nX-Fault: {fault}\r\n\r\n".encode())
            response = client.read_response()
            if not fault:
                assert (response.status, response.body) == (200, b"r")
                continue
            assert (response.status, response.json()["reason"]) == (500, "INTERNAL_ERROR")
            line = gateway.wait_for_line(
                level="ERROR", request_id=response.header("X-Request-ID"), middleware="culprit"
            )
            assert "LookupError" in line["traceback"]
        gateway.wait_until_free()


def test_what_else_it_may_do(tmp_path: Path, code: Path) -> None:
    made = document(fixed("r", middlewares=["culprit"]), culprit={"use": "mypkg.faulty:Faulty"})
    with Gateway(tmp_path, {**path(code), **routes(made)}) as gateway:
        finished = gateway.get("/r", "X-Fault: finish")
        assert finished.status == 200
        line = gateway.wait_for_line(event="on_finish hook failed", middleware="culprit")
        assert line["hook"] == "mypkg.faulty.Faulty._fault"
        assert gateway.get("/r", "X-Fault: waits").body == b"r"
        assert gateway.get("/r", "X-Fault: bytes").body == b"by bytes"
        gateway.wait_until_free()


def test_one_that_blocks_is_warned_of_by_name(tmp_path: Path, code: Path) -> None:
    made = document(
        fixed("r", middlewares=["outer", "culprit"]),
        outer=own(known=[""]),
        culprit={"use": "mypkg.faulty:Faulty"},
    )
    with Gateway(tmp_path, {**path(code), **routes(made)}) as gateway:
        assert gateway.get("/r", "X-Fault: blocks").status == 200
        line = gateway.wait_for_line(event="middleware blocks the reactor")
        assert (line["level"], line["middleware"]) == ("WARN", "culprit")
        assert line["seconds"] >= 0.06
        assert gateway.metric("gateway_middleware_blocked_total", middleware="culprit") == 1
        assert gateway.metric("gateway_middleware_blocked_total", middleware="outer") == 0


def test_numbers_of_workers_are_summed(tmp_path: Path, code: Path) -> None:
    made = document(fixed("r", middlewares=["t"]), t=own())
    with Crew(tmp_path, {**path(code), **routes(made)}, workers=2) as crew:
        clients = crew.clients(each=2)
        count = 0
        for client in (one for each in clients.values() for one in each):
            client.send(b"GET /r HTTP/1.1\r\nHost: a\r\nX-Org: acme\r\n\r\n")
            assert client.read_response().status == 200
            client.close()
            count += 1
        crew.wait_for_metric("gateway_middleware_t_seen_total", count, org="acme")


# --- what is refused ----------------------------------------------------------------------------------------------


def twistd(tmp_path: Path, environment: dict[str, str]) -> Any:
    return run("twistd", "-n", "--pidfile=", "gateway", env={"GATEWAY_PORT": "0", **environment}, cwd=tmp_path)


def test_all_mistakes_are_told_at_once_and_the_status_is_78(tmp_path: Path, code: Path) -> None:
    made = document(
        fixed("a", middlewares=["mypkg.nowhere:X"]),
        fixed("b", middlewares=["mypkg.tenancy:Edge"]),
        fixed("c", middlewares=["tenant"]),
        fixed("d", middlewares=["unwanted"]),
        t=own(knwon=[], key=SECRET, known=7),
        u=own(header=7),
    )
    environment = {**path(code), **routes(made), "GATEWAY_MIDDLEWARE_U_KNOWN": "a", "GATEWAY_MIDDLEWARE_U_KNWON": "a"}
    ended = twistd(tmp_path, environment)
    assert ended.returncode == 78
    lines = ended.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "middlewares.t.settings.knwon",
        "middlewares.t.settings.known",
        "middlewares.u.settings.header",
        "routes[0].middlewares",
        "routes[2].middlewares",
        "routes[3].middlewares",
        "routes[1].middlewares",
        "GATEWAY_MIDDLEWARE_U_KNWON",
    ]
    assert lines[0].endswith("did you mean known?")
    assert "did you mean tenants?" in lines[4]
    assert "no_such_module" in lines[5]
    assert lines[7].endswith("did you mean GATEWAY_MIDDLEWARE_U_KNOWN?")
    assert SECRET not in ended.stderr + ended.stdout
    checked = run("txgateway", "check", env=environment, cwd=tmp_path)
    assert (checked.returncode, checked.stderr) == (78, ended.stderr)


def test_one_that_cannot_be_made_ends_the_start_with_status_78(tmp_path: Path, code: Path) -> None:
    made = document(fixed("r", middlewares=["mypkg.faulty:Dead"]))
    ended = twistd(tmp_path, {**path(code), **routes(made), "GATEWAY_ADMIN_PORT": "0"})
    assert ended.returncode == 78
    assert "middleware dead on route r cannot be made: LookupError: out of order" in ended.stdout
    assert "Traceback" not in ended.stderr


def test_commands_know_them(tmp_path: Path, code: Path) -> None:
    made = document(fixed("r", middlewares=["t"]), t=own(key=SECRET, known=["a", "b"]), spare=own())
    environment = {**path(code), **routes(made), "GATEWAY_MIDDLEWARE_T_HEADER": "x-t"}
    checked = run("txgateway", "check", env=environment, cwd=tmp_path)
    assert checked.stdout.splitlines() == [
        "configuration ok", "warning: middlewares.spare: no list names it, so it has no effect",
    ]  # fmt: skip
    config = run("txgateway", "config", env=environment, cwd=tmp_path).stdout
    section = config[config.index("[middlewares.t]") : config.index("[middlewares.spare]")].splitlines()
    assert [line.split() for line in section[1:-1]] == [
        ["use", "mypkg.tenancy:Tenancy", "document", "middlewares.t.use"],
        ["position", "route", "class", "mypkg.tenancy:Tenancy"],
        ["settings.header", "x-t", "env", "GATEWAY_MIDDLEWARE_T_HEADER"],
        ["settings.known", "a,b", "document", "middlewares.t.settings.known"],
        ["settings.key", "***", "document", "middlewares.t.settings.key"],
    ]
    explained = run("txgateway", "explain", "GET", "/r", "-H", "X-T: b", env=environment, cwd=tmp_path)
    assert (explained.returncode, explained.stderr) == (0, "")
    assert "\nTenancy: depends\n" in explained.stdout
    assert "tenant b" in explained.stdout
    assert SECRET not in config + explained.stdout


def test_package_with_an_entry_point_is_not_imported_unless_it_is_named(tmp_path: Path, code: Path) -> None:
    made = document(fixed("r", middlewares=["tenants"]))
    with Gateway(tmp_path, {**path(code), **routes(made)}) as gateway:  # unwanted cannot be imported at all
        assert gateway.get("/r", "X-Org: acme").status == 200


# --- reloads ------------------------------------------------------------------------------------------------------


def served(gateway: Gateway, target: str) -> list[str | None]:
    """What each middleware has counted so far, this request included."""
    response: Response = gateway.get(target, "X-Org: acme", "X-Door: front")
    assert response.status == 200
    return [response.header(f"X-{name}") for name in ("door", "t", "u")]


def test_reload_makes_only_what_uses_what_has_changed(tmp_path: Path, code: Path) -> None:
    door = own("mypkg.tenancy:Edge", header="x-door", known=["front"])
    made = (fixed("a", middlewares=["t"]), fixed("b", middlewares=["u"]), fixed("c", middlewares=["t", "u"]))
    environment = {**path(code), "GATEWAY_MIDDLEWARES": "door"}
    with ReloadingGateway(tmp_path, document(*made, t=own(), u=own(), door=door), environment) as gateway:
        assert served(gateway, "/a") == ["1", "1", None]
        assert served(gateway, "/b") == ["2", None, "1"]
        assert served(gateway, "/c") == ["3", "1", "1"]
        gateway.reload(document(*made, t=own(known=["acme", "x"]), u=own(), door=door))
        assert served(gateway, "/a") == ["4", "1", None]
        assert served(gateway, "/b") == ["5", None, "2"]
        assert served(gateway, "/c") == ["6", "1", "1"]
        assert gateway.metric("gateway_middleware_t_seen_total", org="acme") == 4
        gateway.reload(document(*made, t=own(known=["acme", "x"]), u=own(), door=own(**door["settings"], key="k")))
        line = gateway.fail_to_reload(document(*made, t=own(), u=own(), door=door, x=own("mypkg.nowhere:X")))
        assert "mypkg.nowhere" in line["problem"]


def test_failed_reloads_leave_what_is_there(tmp_path: Path, code: Path) -> None:
    good = document(fixed("a", middlewares=["t"]), t=own())
    with ReloadingGateway(tmp_path, good, path(code)) as gateway:
        assert served(gateway, "/a")[1] == "1"
        line = gateway.fail_to_reload(document(fixed("a", middlewares=["t"]), t=own(known=7)))
        assert "middlewares.t.settings.known" in line["message"]
        line = gateway.fail_to_reload(document(fixed("a", middlewares=["t"]), t={"use": "mypkg.faulty:Dead"}))
        assert "middleware t on route a cannot be made: LookupError" in line["problem"]
        assert served(gateway, "/a")[1] == "2"
        gateway.reload(good)
        assert served(gateway, "/a")[1] == "3"


def test_module_that_was_imported_before_is_not_imported_again(tmp_path: Path, code: Path) -> None:
    before = document(fixed("a", middlewares=["t"]), t=own())
    with ReloadingGateway(tmp_path, before, path(code)) as gateway:
        module = code / "mypkg" / "tenancy.py"
        module.write_text(TENANCY.replace('header: str = "x-org"', 'header: str = "x-org"\n        more: int = 0'))
        line = gateway.fail_to_reload(document(fixed("a", middlewares=["t"]), t=own(more=1)))
        assert "middlewares.t.settings.more: there is no such setting" in line["message"]
        assert "traceback" not in line
        assert served(gateway, "/a")[1] == "1"
        (code / "mypkg" / "later.py").write_text(TENANCY)
        gateway.reload(document(fixed("a", middlewares=["t"]), t=own("mypkg.later:Tenancy")))
        assert served(gateway, "/a")[1] == "1"


# --- resources ----------------------------------------------------------------------------------------------------

KLEIN = """
from klein import Klein
from twisted.internet import reactor
from twisted.internet.defer import Deferred

app = Klein()


@app.route("/plain/<name>")
def plain(request, name):
    request.setHeader("X-Prefix", b"/".join(request.prepath))
    return f"hello {name}"


@app.route("/later")
def later(request):
    deferred = Deferred()
    reactor.callLater(0, deferred.callback, b"later")
    return deferred


@app.route("/echo", methods=["POST"])
async def echo(request):
    return request.content.read()


@app.route("/fault")
def fault(request):
    raise LookupError("x")


root = app.resource()
"""


def test_klein_app_is_a_route(tmp_path: Path, code: Path) -> None:
    pytest.importorskip("klein")
    (code / "mypkg" / "site.py").write_text(KLEIN)
    made = document({"name": "k", "path": "/k", "resource": "mypkg.site:root", "middlewares": ["t"]}, t=own())
    with Gateway(tmp_path, {**path(code), **routes(made)}) as gateway, Client(gateway.port) as client:

        def ask(target: str, method: str = "GET", body: str = "") -> Response:
            client.send(
                f"{method} {target} HTTP/1.1\r\nHost: a\r\nX-Org: acme\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            return client.read_response(method)

        plain = ask("/k/plain/ann")
        assert (plain.status, plain.body, plain.header("X-t")) == (200, b"hello ann", "1")
        assert (ask("/k/later").body, ask("/k/echo", "POST", "some body").body) == (b"later", b"some body")
        assert ask("/k/none").status == 404
        assert ask("/k/fault").status == 500
        assert gateway.get("/k/later").status == 403
        gateway.wait_until_free()


def test_gateway_does_not_start_without_the_module(tmp_path: Path) -> None:
    made = document(fixed("r", middlewares=["mypkg.tenancy:Tenancy"]))
    with pytest.raises(NotStarted, match="No module named 'mypkg'"), Gateway(tmp_path, routes(made)):
        pass
