"""The process under ``twistd``: start, refusal to start, log, admin port, the command line, and the reactors."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from tests.integration.backend import Exchange, ScriptedBackend
from tests.integration.harness import Gateway, free_port, routes, run, wait_until

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
ANSWERS_ITSELF = routes({"routes": [{"name": "all", "path": "/", "response": {"body": "hello"}}]})


def twistd(cwd: Path, env: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a gateway that is expected to end by itself."""
    return run("twistd", *options, "-n", "--pidfile=", "gateway", env=env, cwd=cwd)


# --- it does not start -------------------------------------------------------------------------------------------------------


def test_every_problem_is_told_on_a_line_of_its_own_and_nothing_listens(tmp_path: Path) -> None:
    port = free_port()
    document = {
        "backends": {"b": {"targets": ["ftp://x"], "pool": {"max_conections": 1}}},
        "routes": [{"name": "r", "path": "no-slash", "backend": "c"}],
    }
    environment = {
        "GATEWAY_PORT": str(port),
        "GATEWAY_MAX_BODY_BYTS": "1",
        "GATEWAY_TIMEOUT_TOTAL": "soon",
        "GATEWAY_JWT_SECRET": "hunter2-hunter2",
        **routes(document),
    }
    ended = twistd(tmp_path, environment)
    assert (ended.returncode, ended.stdout) == (78, "")
    lines = ended.stderr.splitlines()
    for start in (
        "GATEWAY_MAX_BODY_BYTS: there is no such variable; did you mean GATEWAY_MAX_BODY_BYTES?",
        "GATEWAY_TIMEOUT_TOTAL: 'soon' is not accepted",
        "backends.b.targets[0]: 'ftp://x' is not accepted",
        "backends.b.pool.max_conections: there is no such key; did you mean max_connections?",
        "routes[0].path: 'no-slash' is not accepted",
        "routes[0].backend: 'c' is not accepted",
        "GATEWAY_JWT_SECRET: ",
    ):
        assert any(line.startswith(start) for line in lines), (start, lines)
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr
    with closing(socket.socket()) as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "GATEWAY_BACKEND_TARGET"),
        ({"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_PORT": "tcp://10.0.0.1:80"}, "enableServiceLinks: false"),
        ({"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_ROUTES": "{}"}, "contradicts"),
        ({"GATEWAY_BACKEND_TARGET": ""}, "empty"),
        ({"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_TLS_MIN_VERSION": "1.3"}, "no TLS without a certificate"),
        ({"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_JWT_SECRET": "short"}, "shorter than its hash"),
        (routes({"routes": [{"name": "r", "path": "/", "resource": "nowhere.to.be:found"}]}), "nowhere.to.be:found"),
    ],
)
def test_problem_is_told_with_its_variable_and_status_78(
    tmp_path: Path, environment: dict[str, str], told: str
) -> None:
    ended = twistd(tmp_path, environment)
    assert (ended.returncode, ended.stdout) == (78, "")
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "GATEWAY_ADMIN_PORT"])
def test_listener_that_cannot_bind_ends_the_process_with_a_line_that_says_which(tmp_path: Path, variable: str) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = str(taken.getsockname()[1])
        ports = {"GATEWAY_HOST": "127.0.0.1", "GATEWAY_PORT": "0", "GATEWAY_ADMIN_PORT": str(free_port())}
        ended = twistd(tmp_path, {"GATEWAY_BACKEND_TARGET": "demo", **ports, variable: number})
    assert (ended.returncode, ended.stderr) == (1, "")
    (line,) = [line for line in map(json.loads, ended.stdout.splitlines()) if line["event"] == "cannot listen"]
    assert number in line["message"]
    assert "in use" in line["message"]


# --- the log -------------------------------------------------------------------------------------------------------------------


def test_log_is_json_from_the_first_line_on_whoever_writes(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "import sys, warnings\n"
        "from twisted.python import log\n"
        "from twisted.web.resource import Resource\n"
        "print('printed at import')\n"
        "class Loud(Resource):\n"
        "    isLeaf = True\n"
        "    def render_GET(self, request):\n"
        "        print('printed\\nin two lines')\n"
        "        log.msg('old log')\n"
        "        warnings.warn('a warning')\n"
        "        return b'ok'\n"
        "root = Loud()\n",
        encoding="utf-8",
    )
    environment = routes({"routes": [{"name": "loud", "path": "/", "resource": "loud:root"}]})
    with Gateway(tmp_path, {"PYTHONPATH": os.fspath(tmp_path), **environment}) as gateway:
        assert gateway.get("/").body == b"ok"
        gateway.wait_for_line(message="old log")
        lines = gateway.lines
    for line in lines:
        assert list(line)[:3] == ["ts", "level", "event"]
        assert line["level"] in {"DEBUG", "INFO", "WARN", "ERROR"}
        assert line["ts"].endswith("Z")
    told = [line.get("message") for line in lines]
    assert {"printed", "in two lines"} <= set(told)
    assert any("a warning" in str(message) for message in told)


def test_access_line_has_all_fields(tmp_path: Path) -> None:
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": "demo"}) as gateway:
        response = gateway.ask(
            b"POST /x?secret=1 HTTP/1.1\r\nHost: api.test\r\nUser-Agent: t\r\nContent-Length: 2\r\n\r\nhi"
        )
        line = gateway.access_line(response)
    assert list(line) == [
        "ts", "level", "event", "request_id", "trace_id", "span_id", "client_ip", "method", "host", "path", "protocol",
        "status", "reason", "route", "backend", "target", "attempts", "duration_ms", "upstream_ms", "bytes_in",
        "bytes_out", "user_agent", "subject",
    ]  # fmt: skip
    assert (line["method"], line["host"], line["path"], line["protocol"]) == ("POST", "api.test", "/x", "HTTP/1.1")
    assert (line["route"], line["backend"], line["target"], line["attempts"]) == ("default", "default", "demo", 1)
    assert (line["bytes_in"], line["bytes_out"], line["user_agent"]) == (2, len(response.body), "t")
    assert line["duration_ms"] >= line["upstream_ms"] > 0


def test_demo_is_warned_of_and_dangerous_settings_are_named(tmp_path: Path) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_TRUSTED_PROXIES": "0.0.0.0/0"}
    with Gateway(tmp_path, environment) as gateway:
        warnings = [line for line in gateway.lines if line["level"] == "WARN"]
    assert any(line["event"] == "demo backend" for line in warnings)
    (line,) = [line for line in warnings if line["event"] == "configuration"]
    assert "GATEWAY_TRUSTED_PROXIES" in line["message"]


def test_access_log_can_be_switched_off_and_level_does_not_silence_it(tmp_path: Path) -> None:
    with Gateway(tmp_path, {**ANSWERS_ITSELF, "GATEWAY_ACCESS_LOG": "false"}) as gateway:
        assert gateway.get("/").status == 200
    assert not [line for line in gateway.lines if line["event"] == "request"]
    port = free_port()
    environment = {**ANSWERS_ITSELF, "LOG_LEVEL": "ERROR", "GATEWAY_PORT": str(port)}
    with Gateway(tmp_path, environment, logs_json=False) as quiet:
        wait_for_port(port)
        quiet.port = port
        assert quiet.get("/").status == 200
    assert [line["event"] for line in quiet.lines] == ["request"]


def wait_for_port(port: int) -> None:
    def is_open() -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(is_open, f"port {port} is open")


def test_log_for_people(tmp_path: Path) -> None:
    environment = {**ANSWERS_ITSELF, "LOG_FORMAT": "text"}
    with Gateway(tmp_path, environment, logs_json=False) as gateway:
        wait_until(lambda: " ready" in gateway.output_text, "ready")
    assert all((line[10] == "T" and " INFO " in line) or " WARN " in line for line in gateway.output_text.splitlines())
    assert "listener=traffic" in gateway.output_text


def test_log_goes_to_the_file_that_is_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "gateway.log"
    port = free_port()
    environment = {**ANSWERS_ITSELF, "GATEWAY_PORT": str(port)}
    with Gateway(tmp_path, environment, options=[f"--logfile={file}"], logs_json=False) as gateway:
        wait_for_port(port)
        gateway.port = port
        request_id = gateway.get("/").header("X-Request-ID")
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [line["request_id"] for line in lines if line["event"] == "request"][-1] == request_id
    assert gateway.output_text == ""


def test_reader_of_the_log_that_goes_away_does_not_stop_the_gateway(tmp_path: Path) -> None:
    with Gateway(tmp_path, ANSWERS_ITSELF) as gateway:
        gateway.stop_reading()
        assert [gateway.get("/").status for _ in range(50)] == [200] * 50


# --- listeners -------------------------------------------------------------------------------------------------------------------


def test_listen_takes_several_endpoints(tmp_path: Path) -> None:
    path = tmp_path / "g.sock"
    environment = {**ANSWERS_ITSELF, "GATEWAY_LISTEN": f"unix:{path} tcp:0:interface=127.0.0.1"}
    with Gateway(tmp_path, environment) as gateway:
        ports = [line["port"] for line in gateway.lines if line.get("listener") == "traffic" and line["port"]]
        gateway.port = ports[0]
        assert gateway.get("/").body == b"hello"
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(10)
            client.connect(os.fspath(path))
            client.sendall(REQUEST)
            assert client.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    assert not path.exists()


# --- the command line --------------------------------------------------------------------------------------------------------------


def test_check_says_yes_no_or_beware(tmp_path: Path) -> None:
    good = run("txgateway", "check", env={"GATEWAY_BACKEND_TARGET": "demo"}, cwd=tmp_path)
    assert (good.returncode, good.stdout, good.stderr) == (0, "configuration ok\n", "")
    bad = run("txgateway", "check", env={"GATEWAY_PORT": "x"}, cwd=tmp_path)
    assert (bad.returncode, bad.stdout) == (78, "")
    assert len(bad.stderr.splitlines()) == 2
    risky = {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_TRUSTED_PROXIES": "0.0.0.0/0"}
    warned = run("txgateway", "check", env=risky, cwd=tmp_path)
    assert warned.returncode == 0
    assert "warning: GATEWAY_TRUSTED_PROXIES" in warned.stdout
    assert run("txgateway", "check", "--strict", env=risky, cwd=tmp_path).returncode == 78


def test_config_prints_what_is_in_force(tmp_path: Path) -> None:
    secret = tmp_path / "target"
    secret.write_text("http://127.0.0.1:9\n", encoding="utf-8")
    environment = {"GATEWAY_BACKEND_TARGET_FILE": os.fspath(secret), "LOG_LEVEL": "WARN"}
    shown = run("txgateway", "config", "--json", env=environment, cwd=tmp_path)
    assert shown.returncode == 0
    settings = json.loads(shown.stdout)["settings"]
    assert settings["LOG_LEVEL"] == {"value": "WARN", "source": "env LOG_LEVEL"}
    assert settings["GATEWAY_BACKEND_TARGET"]["source"] == f"file GATEWAY_BACKEND_TARGET_FILE {secret}"
    text = run("txgateway", "config", env=environment, cwd=tmp_path).stdout
    assert [line.split() for line in text.splitlines() if line.startswith("LOG_LEVEL")] == [
        ["LOG_LEVEL", "WARN", "env", "LOG_LEVEL"]
    ]


# --- stopping and the reactors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_it_with_open_connections(tmp_path: Path, number: signal.Signals) -> None:
    with Gateway(tmp_path, {"GATEWAY_BACKEND_TARGET": "demo"}) as gateway:
        with gateway.client() as idle, gateway.client() as busy:
            busy.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            busy.read_head()
            os.kill(gateway.pid, number)
            assert idle.is_gone()
            assert busy.is_gone()
        gateway.stop(is_checked=False)
    assert gateway.access_line_at("/events")["status"] == 200


@pytest.mark.parametrize("reactor", ["default", "epoll", "select", "asyncio"])
def test_the_same_things_work_on_every_reactor(tmp_path: Path, backend: ScriptedBackend, reactor: str) -> None:
    document = {
        "backends": {"main": {"targets": [backend.url]}, "demo": {"targets": ["demo"]}},
        "routes": [
            {"name": "demo", "path": "/", "backend": "demo", "upgrades": ["websocket"]},
            {"name": "main", "path": "/main", "backend": "main", "timeout": {"total": "300ms"}},
            {"name": "files", "path": "/files", "resource": "files:root"},
        ],
    }
    (tmp_path / "files.py").write_text(
        f"from twisted.web.static import File\nroot = File({str(tmp_path)!r})\n", encoding="utf-8"
    )
    (tmp_path / "large").write_bytes(b"large" * 100_000)
    options = [] if reactor == "default" else [f"--reactor={reactor}"]
    environment = {"PYTHONPATH": os.fspath(tmp_path), **routes(document)}
    with Gateway(tmp_path, environment, options=options) as gateway:
        (line,) = [line for line in gateway.lines if "reactor" in line]
        assert {"default": "GatewayReactor", "epoll": "EPollReactor", "select": "SelectReactor",
                "asyncio": "AsyncioSelectorReactor"}[reactor] == line["reactor"].rpartition(".")[2]  # fmt: skip
        with gateway.client() as client:
            client.send(REQUEST + REQUEST)
            assert [client.read_response().json()["path"] for _ in range(2)] == ["/", "/"]
            body = os.urandom(2**20)
            client.send(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            assert client.read_response().body == body
            client.send(b"GET /files/large HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.read_response().body == b"large" * 100_000
            client.send(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            client.read_head()
            assert client.read_chunk().startswith(b"event: tick\nid: 0\n")
        backend.script = Exchange.reset
        assert gateway.get("/main").status == 502
        backend.script = Exchange.wait_until_left
        assert gateway.get("/main").status == 504
        with gateway.client() as cut:
            backend.script = cut_in_the_middle
            cut.send(b"GET /main/cut HTTP/1.1\r\nHost: x\r\n\r\n")
            assert cut.read_head().status == 200
            assert cut.is_cut()
        gateway.wait_until_free()


def cut_in_the_middle(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")
    exchange.close()
