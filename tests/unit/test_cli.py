from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner, Result

from txgateway.cli import main


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "LOG_", "OTEL_")):
            monkeypatch.delenv(name)


def run(*arguments: str, **environ: str) -> Result:
    return CliRunner().invoke(main, arguments, env=environ)


def test_check_of_a_good_configuration_is_ok() -> None:
    result = run("check", GATEWAY_BACKEND_TARGET="demo")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "configuration ok\n", "")


def test_check_of_a_bad_configuration_prints_every_problem_and_exits_78() -> None:
    result = run("check", GATEWAY_BACKEND_TARGET="demo", GATEWAY_PORT="abc", GATEWAY_PROT="1")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.splitlines() == [
        "GATEWAY_PROT: there is no such variable; did you mean GATEWAY_PORT?",
        "GATEWAY_PORT: 'abc' is not accepted: expected an integer from 0 to 65535",
    ]


def test_check_prints_warnings_and_is_strict_about_them_only_if_asked() -> None:
    document = {
        "routes": [{"name": "r", "path": "/", "response": {"status": 204}}],
        "middlewares": {"unused": {"use": "tests.helpers.own:Tenancy"}},
    }
    environ = {"GATEWAY_ROUTES": json.dumps(document), "GATEWAY_TRUSTED_PROXIES": "0.0.0.0/0"}
    result = run("check", **environ)
    assert result.exit_code == 0
    first, *warnings = result.stdout.splitlines()
    assert first == "configuration ok"
    assert [line.split(":")[:2] for line in warnings] == [
        ["warning", " middlewares.unused"],
        ["warning", " GATEWAY_TRUSTED_PROXIES"],
    ]
    strict = run("check", "--strict", **environ)
    assert strict.exit_code == 78
    assert "configuration ok" not in strict.stdout
    assert run("check", "--strict", GATEWAY_BACKEND_TARGET="demo").exit_code == 0


def test_check_as_json_is_one_object() -> None:
    result = run("check", "--json", GATEWAY_BACKEND_TARGET="demo", GATEWAY_PORT="abc")
    assert result.exit_code == 78
    assert json.loads(result.stdout) == {
        "ok": False,
        "problems": [
            {"where": "GATEWAY_PORT", "value": "'abc'", "message": "expected an integer from 0 to 65535"},
        ],
        "warnings": [],
    }
    assert json.loads(run("check", "--json", GATEWAY_BACKEND_TARGET="demo").stdout)["ok"] is True


def test_config_prints_aligned_settings_with_their_sources() -> None:
    result = run("config", GATEWAY_BACKEND_TARGET="http://a:1", GATEWAY_PORT="8123")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "[settings]"
    rows = {line.split()[0]: line for line in lines if line.startswith("GATEWAY_")}
    assert rows["GATEWAY_PORT"].split() == ["GATEWAY_PORT", "8123", "env", "GATEWAY_PORT"]
    assert rows["GATEWAY_HOST"].split() == ["GATEWAY_HOST", "0.0.0.0", "default"]
    assert rows["GATEWAY_PORT"].index("8123") == rows["GATEWAY_HOST"].index("0.0.0.0")
    assert {"[backends.default]", "[routes.default]"} <= set(lines)


def test_config_as_json_is_one_object() -> None:
    result = run("config", "--json", GATEWAY_BACKEND_TARGET="http://a:1")
    assert json.loads(result.stdout)["settings"]["GATEWAY_PORT"] == {"value": 8000, "source": "default"}


def test_config_of_a_bad_configuration_prints_the_problems_and_exits_78() -> None:
    result = run("config", GATEWAY_PORT="abc")
    assert (result.exit_code, result.stdout) == (78, "")
    assert "GATEWAY_PORT: 'abc' is not accepted" in result.stderr
    assert "GATEWAY_BACKEND_TARGET: there is nothing to route" in result.stderr
