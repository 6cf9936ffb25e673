"""The image: built in two stages, run by nobody in particular, and able to say whether it is well."""

from __future__ import annotations

import json
import re
import socketserver
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler

import pytest
from tests.unit.deployed import TOP, final_stage, health_command, instructions, judged

from txgateway.config.settings import DEFAULTS
from txgateway.health.probes import Readiness, probe_resources

LIVE, _ = sorted(path.decode() for path in probe_resources(DEFAULTS.probe_prefix, Readiness()))


def test_image_is_built_in_two_stages_from_one_pinned_image() -> None:
    bases = [arguments.split()[0] for name, arguments in instructions() if name == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", bases[0])
    assert not set(final_stage()) & {"RUN", "ADD"}
    assert [copied.split()[0] for copied in final_stage()["COPY"]] == ["--from=build"]


def test_what_the_image_is_built_from_is_there_and_sent_to_the_builder() -> None:
    ignored = (TOP / ".dockerignore").read_text("utf-8").splitlines()
    sources = [
        source
        for name, arguments in instructions()
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (TOP / source).exists()
        assert f"!{source}" in ignored
    assert "*" in ignored


def test_image_starts_the_gateway_as_nobody_in_particular() -> None:
    stage = final_stage()
    assert json.loads(stage["ENTRYPOINT"][0]) == ["twistd", "-n", "--pidfile=", "gateway"]
    assert "CMD" not in stage
    assert re.fullmatch(r"[1-9]\d{4}:[1-9]\d{4}", stage["USER"][0])
    assert stage["STOPSIGNAL"] == ["SIGTERM"]
    assert stage["EXPOSE"] == [f"{DEFAULTS.port} {DEFAULTS.admin_port}"]
    assert "PYTHONDONTWRITEBYTECODE=1" in stage["ENV"][0]


class Asked(BaseHTTPRequestHandler):
    status = 200
    paths: list[str]

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize(("status", "is_healthy"), [(200, True), (503, False), (421, False)])
def test_health_check_asks_the_admin_port(status: int, *, is_healthy: bool) -> None:
    handler = type("Handler", (Asked,), {"status": status, "paths": []})
    with socketserver.TCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert health({"GATEWAY_ADMIN_PORT": str(server.server_address[1])}) is is_healthy
        thread.join()
    assert handler.paths == [LIVE]  # type: ignore[attr-defined]


def test_health_check_finds_that_nobody_answers() -> None:
    assert not health({"GATEWAY_ADMIN_PORT": "1"})
    assert f"'GATEWAY_ADMIN_PORT', '{DEFAULTS.admin_port}'" in health_command()[2]


def health(environ: Mapping[str, str]) -> bool:
    program, *arguments = health_command()
    assert program == "python"
    ended = subprocess.run(
        [sys.executable, *arguments], env=environ, stderr=subprocess.DEVNULL, timeout=60, check=False
    )
    return ended.returncode == 0


def test_hadolint_finds_no_fault_with_the_dockerfile() -> None:
    judged("hadolint", "--no-color", TOP / "Dockerfile")
