"""The documents that users start from do what their comments say."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.backend import Received, ScriptedBackend, answer
from tests.integration.harness import Gateway

TOP = Path(__file__).parents[2]
URL = re.compile(r'"(http://127\.0\.0\.1:[0-9]+|unix:[^"]*)"')


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ScriptedBackend]]:
    path = os.fspath(tmp_path_factory.mktemp("socket") / "s.sock")
    with ScriptedBackend() as light, ScriptedBackend() as heavy, ScriptedBackend(path=path) as search:
        yield [light, heavy, search]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, backends: list[ScriptedBackend]) -> Iterator[Gateway]:
    urls = iter(backends)
    document = (TOP / "examples" / "routes.toml").read_text(encoding="utf-8")
    directory = tmp_path_factory.mktemp("gateway")
    file = directory / "routes.toml"
    file.write_text(URL.sub(lambda _: f'"{next(urls).url}"', document), encoding="utf-8")
    with Gateway(directory, {"GATEWAY_ROUTES_FILE": os.fspath(file)}) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(backends: list[ScriptedBackend]) -> None:
    for backend in backends:
        backend.renew()


def test_example_spreads_by_weight_and_strips_the_prefix(gateway: Gateway, backends: list[ScriptedBackend]) -> None:
    for _ in range(4):
        assert gateway.get("/api/v1/resumes/7?x=1", host="API.example.com").status == 200
    assert backends[0].received().target == b"/7?x=1"
    assert not backends[0].has_received()
    assert [backends[1].received().target for _ in range(3)] == [b"/7?x=1"] * 3
    assert gateway.get("/api/v1/resumes", host="eu.api.example.com").status == 200
    assert gateway.get("/api/v1/resumes-old", host="api.example.com").status == 404
    assert gateway.get("/api/v1/resumes/7", host="example.com").status == 404
    refused = gateway.get("/api/v1/resumes/7", host="api.example.com", method="DELETE")
    assert (refused.status, refused.header("Allow")) == (405, "GET, HEAD, POST")
    post = b"POST /api/v1/resumes HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\n"
    assert gateway.ask(post + b"Content-Length: 1048577\r\n\r\n").status == 413
    assert gateway.ask(post.replace(b"json", b"xml") + b"Content-Length: 1\r\n\r\nx").status == 415


def test_example_limits_its_rate_and_lets_its_pages_in(gateway: Gateway, backends: list[ScriptedBackend]) -> None:
    page = "Origin: https://app.example.com"
    answered = gateway.get("/api/v1/resumes/7", page, host="api.example.com")
    assert answered.header("RateLimit-Policy") == '"resumes";q=100;w=2'
    assert answered.header("Access-Control-Allow-Origin") == "https://app.example.com"
    asked = "Access-Control-Request-Method: POST"
    assert gateway.get("/api/v1/resumes", page, asked, host="api.example.com", method="OPTIONS").status == 204


def test_example_rewrites_exact_and_templated_paths(gateway: Gateway, backends: list[ScriptedBackend]) -> None:
    assert gateway.get("/api/v1/search?q=x").status == 200
    assert backends[2].received().target == b"/query?q=x"
    assert gateway.get("/api/v1/search/more").status == 404
    backends[0].script = backends[1].script = answer(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 0\r\n\r\n")
    response = gateway.get("/users/42/cv", "X-Debug: 1")
    backend = backends[0] if backends[0].has_received() else backends[1]
    received = backend.received()
    assert (response.status, response.headers("Server")) == (200, [])
    assert (received.target, received.header("X-Source"), received.headers("X-Debug")) == (b"/cv/42", "gateway", [])


def test_example_keeps_the_host_where_it_says_so(gateway: Gateway, backends: list[ScriptedBackend]) -> None:
    assert gateway.get("/live", host="Client.test").status == 200
    backend = backends[0] if backends[0].has_received() else backends[1]
    assert backend.received().header("Host") == "Client.test"


def test_example_answers_itself_where_it_says_so(gateway: Gateway) -> None:
    moved = gateway.get("/x", host="old.example.com")
    assert (moved.status, moved.header("Location")) == (308, "https://www.example.com/")
    gone = gateway.get("/api/v0/x")
    assert (gone.status, gone.body) == (410, b"This version is gone; use /api/v1.")
    assert gateway.get("/").json()["reason"] == "NO_ROUTE"


FULL_ROUTE = """
[backends.resumes]
targets = ["{light}", {{ url = "{heavy}", weight = 3 }}]
load_balancer = "least_request"
health_check.path = "/healthz"

[[routes]]
name = "resumes"
hosts = ["api.example.com"]
path = "/api/v1/resumes"
methods = ["GET", "POST"]
headers = {{ x-canary = "1" }}
backend = "resumes"
strip_prefix = false
rewrite = ""
preserve_host = false
upgrades = ["websocket"]
timeout.total = "5s"
retry.max_attempts = 2
bulkhead.max_concurrent = 64
request_headers = {{ set = {{ X-Env = "prod" }}, remove = ["X-Debug"] }}
response_headers = {{ remove = ["Server"] }}
middlewares = []
"""


def taken(backend: ScriptedBackend) -> list[Received]:
    """What has come so far."""
    received = []
    while backend.has_received():
        received.append(backend.received())
    return received


def test_route_with_every_key_works(tmp_path: Path, backends: list[ScriptedBackend]) -> None:
    file = tmp_path / "routes.toml"
    file.write_text(FULL_ROUTE.format(light=backends[0].url, heavy=backends[1].url), encoding="utf-8")
    for backend in backends:
        backend.script = answer(b"HTTP/1.1 200 OK\r\nServer: s\r\nContent-Length: 0\r\n\r\n")
    with Gateway(tmp_path, {"GATEWAY_ROUTES_FILE": os.fspath(file)}) as gateway:
        responses = [
            gateway.get("/api/v1/resumes/7", "X-Canary: 1", "X-Debug: 1", host="api.example.com") for _ in range(4)
        ]
        assert [(response.status, response.headers("Server")) for response in responses] == [(200, [])] * 4
        assert gateway.get("/api/v1/resumes/7", host="api.example.com").status == 404
        warned = {line["message"] for line in gateway.lines if line["event"] == "configuration"}
    # One after the other, they all find the heavy target as idle as the light one.
    assert {one.target for one in taken(backends[0])} == {b"/healthz"}
    received = [one for one in taken(backends[1]) if one.target != b"/healthz"]
    assert len(received) == 4
    assert {(one.target, one.header("X-Env"), one.header("X-Debug")) for one in received} == {
        (b"/api/v1/resumes/7", "prod", None)
    }
    assert not warned
