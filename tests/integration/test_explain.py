"""``/explain`` of running gateways, ``txgateway explain`` beside them, and what both must not do."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tests.integration.backend import ScriptedBackend, answer
from tests.integration.client import Response
from tests.integration.crew import Crew
from tests.integration.harness import Gateway, run

SECRET = "0123456789abcdef0123456789abcdef"


def document(port: int, *more: dict[str, Any]) -> str:
    return json.dumps({
        "backends": {"a": {"targets": [f"http://127.0.0.1:{port}"]}},
        "routes": [
            {
                "name": "resumes",
                "hosts": ["api.example.com"],
                "path": "/resumes/{id}",
                "backend": "a",
                "rewrite": "/r/{id}",
                "auth": "none",
                "rate_limit": {"rate": "1/h", "key": "header:X-Api-Key"},
            },
            {"name": "private", "path": "/private", "backend": "a"},
            *more,
        ],
    })  # fmt: skip


def environment(tmp_path: Path, port: int) -> dict[str, str]:
    (tmp_path / "routes.json").write_text(document(port))
    return {
        "GATEWAY_ROUTES_FILE": str(tmp_path / "routes.json"),
        "GATEWAY_JWT_SECRET": SECRET,
        "GATEWAY_POOL_IDLE_TIMEOUT": "2m",
    }


def asked(gateway: Gateway, url: str, *header_lines: str, method: str = "GET") -> Response:
    headers = "".join(f"&header={quote(line, safe='')}" for line in header_lines)
    return gateway.admin(f"/explain?method={method}&url={quote(url, safe='')}{headers}")


def test_explanation_is_what_then_happens(tmp_path: Path, backend: ScriptedBackend) -> None:
    backend.script = answer()
    with Gateway(tmp_path, environment(tmp_path, backend.port)) as gateway:
        before = gateway.metric("gateway_requests_total", route="resumes", method="GET", status="200")
        told: Any = None
        for _ in range(3):  # which takes nothing from the bucket of one
            response = asked(gateway, "http://api.example.com/resumes/7?x=1", "X-Api-Key: hunter2")
            assert (response.status, response.header("Content-Type")) == (200, "application/json")
            assert b"hunter2" not in response.body
            told = response.json()
        assert told["route"]["captures"] == {"id": "7"}
        assert told["end"]["target"] == "/r/7?x=1"
        (target,) = told["end"]["backends"][0]["targets"]
        assert (target["health"], target["breaker"], target["in_flight"]) == ("healthy", "closed", 0)
        assert target["host"] == f"127.0.0.1:{backend.port}"
        assert not [line for line in gateway.lines if line["event"] == "request"]

        assert gateway.get("/resumes/7?x=1", "X-Api-Key: hunter2", host="api.example.com").status == 200
        received = backend.received()
        assert received.target == b"/r/7?x=1"
        assert gateway.get("/resumes/7", "X-Api-Key: hunter2", host="api.example.com").status == 429
        assert gateway.metric("gateway_requests_total", route="resumes", method="GET", status="200") == before + 1
        assert gateway.in_use() == {"in_flight": 0, "active": 0, "pending": 0}


def test_refusals_and_mistakes(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Gateway(tmp_path, environment(tmp_path, backend.port)) as gateway:
        for path, host in (("/private/x", "a"), ("/nowhere", "a"), ("/a/../b", "a")):
            outcome = asked(gateway, f"http://{host}{path}").json()["outcome"]
            response = gateway.get(path, host=host)
            assert (outcome["is"], outcome["status"], outcome["reason"]) == (
                "refused", response.status, response.json()["reason"],
            )  # fmt: skip
        assert gateway.admin("/explain").status == 400
        assert gateway.admin("/explain?url=/&client_ip=x").status == 400
        assert gateway.get("/explain?url=/").status == 404  # not on the traffic port


def test_configuration_that_is_in_force_is_explained(tmp_path: Path, backend: ScriptedBackend) -> None:
    new = {"name": "new", "path": "/new", "auth": "none", "response": {"body": "new"}}
    with Gateway(tmp_path, environment(tmp_path, backend.port)) as gateway:
        assert asked(gateway, "/new").json()["route"] is None
        (tmp_path / "routes.json").write_text(document(backend.port, new))
        os.kill(gateway.pid, signal.SIGHUP)
        gateway.wait_for_line(event="reloaded")
        told = asked(gateway, "/new").json()
        assert (told["route"]["name"], told["route"]["where"]) == ("new", "routes[2]")
        assert "new" in gateway.admin("/config").json()["routes"]


def test_hazards_are_warnings_in_the_log(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Gateway(tmp_path, environment(tmp_path, backend.port)) as gateway:
        told = [line for line in gateway.lines if line["event"] == "configuration"]
        assert {line["level"] for line in told} == {"WARN"}
        places = [line["warning"].partition(":")[0] for line in told]
        assert places == ["GATEWAY_JWT_AUDIENCE", "GATEWAY_JWT_ISSUER", "GATEWAY_POOL_IDLE_TIMEOUT"]
        assert SECRET not in gateway.output_text


def test_a_worker_explains(tmp_path: Path, backend: ScriptedBackend) -> None:
    with Crew(tmp_path, environment(tmp_path, backend.port)) as gateway:
        told = asked(gateway, "http://api.example.com/resumes/7", "X-Api-Key: k|e y").json()
        assert told["end"]["backends"][0]["targets"][0]["health"] in {"healthy", "unknown"}
        assert told["request"]["headers"] == [["X-Api-Key", "***"]]
        assert asked(gateway, "/nowhere").json()["outcome"]["reason"] == "NO_ROUTE"
        assert gateway.admin("/explain").status == 400
        assert len([line for line in gateway.lines if line["event"] == "configuration"]) == 3  # the supervisor's


def test_command_explains_without_a_gateway(tmp_path: Path, backend: ScriptedBackend) -> None:
    env, before = environment(tmp_path, backend.port), backend.connections
    arguments = ("explain", "GET", "https://api.example.com/resumes/7?x=1", "-H", "X-Api-Key: hunter2")
    result = run("txgateway", *arguments, env=env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert "forwarded  to backend a\nas         GET /r/7?x=1\n" in result.stdout
    assert "hunter2" not in result.stdout
    told = json.loads(run("txgateway", *arguments, "--json", env=env, cwd=tmp_path).stdout)
    assert told["route"]["captures"] == {"id": "7"}
    result = run("txgateway", "explain", "GET", "/nowhere", env=env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (1, "")
    assert "NO_ROUTE" in result.stdout
    assert backend.connections == before
