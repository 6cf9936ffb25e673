from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result
from tests.helpers.explained import DOCUMENT, ENVIRONMENT

from txgateway.cli import main

GIVEN = {**ENVIRONMENT, "GATEWAY_ROUTES": json.dumps(DOCUMENT)}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GATEWAY_BACKEND_TARGET", "GATEWAY_ROUTES_FILE"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, ["explain", *arguments], env=environ or GIVEN)


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("GET", "https://api.example.com/api/x"), 0, "route api (routes[0])"),
        (("GET", "/office", "--client-ip", "192.0.2.1"), 0, "route office (routes[3])"),
        (("GET", "/office"), 0, "refused 403 IP_DENIED by Admission: The client address is not allowed to use this resource."),
        (("GET", "/api", "-H", "Host: old.example.com"), 0, "route old (routes[6])"),
        (("GET", "/nowhere"), 1, "refused 404 NO_ROUTE by Router: No route matches the request."),
        (("GET", "/a/../b"), 1, "refused 400 BAD_PATH by Sanitize: The request path is not acceptable."),
        (("GET", "https://[::/"), 1, "refused 400 BAD_HOST by Sanitize: The Host header is missing, repeated or malformed."),
        (("GET", "/api/x", "-H", "X-Beta: 1", "-H", "X-B: 2"), 0, "answered by FixedResponse, 418"),
    ],
)  # fmt: skip
def test_exit_status_tells_whether_there_is_a_route(arguments: tuple[str, ...], status: int, line: str) -> None:
    result = run(*arguments)
    assert result.exit_code == status, result.output
    assert line in [" ".join(one.split()) for one in result.stdout.splitlines()]
    assert result.stderr == ""


def test_json_is_one_object() -> None:
    told = json.loads(run("GET", "/api/x", "-H", "X-Beta: 1", "--json").stdout)
    assert (told["route"]["name"], told["outcome"]["by"]) == ("beta", "FixedResponse")
    result = run("GET", "/nowhere", "--json")
    assert (result.exit_code, json.loads(result.stdout)["route"]) == (1, None)


def test_client_that_is_no_address_is_a_mistake() -> None:
    result = run("GET", "/", "--client-ip", "localhost")
    assert result.exit_code == 2
    assert "expected an IP address" in result.stderr


def test_bad_configuration_prints_the_problems_and_exits_78() -> None:
    result = run("GET", "/", GATEWAY_BACKEND_TARGET="demo", GATEWAY_PORT="abc")
    assert (result.exit_code, result.stdout) == (78, "")
    assert "GATEWAY_PORT: 'abc' is not accepted" in result.stderr
    missing = json.dumps({"routes": [{"name": "r", "path": "/", "resource": "no.such:thing"}]})
    result = run("GET", "/", GATEWAY_ROUTES=missing)
    assert result.exit_code == 78
    assert "routes[0].resource" in result.stderr
