"""Hazards on the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from txgateway.cli import main

JWT = {"GATEWAY_JWT_SECRET": "x" * 32, "GATEWAY_JWT_AUDIENCE": "api", "GATEWAY_JWT_ISSUER": "idp"}
ANY_ORIGIN = {"cors": {"allow_origins": ["*"]}}


def environment(route: dict[str, Any], backend: dict[str, Any]) -> dict[str, str]:
    document = {
        "backends": {"a": {"targets": ["http://a"], **backend}},
        "routes": [{"name": "r", "path": "/", "backend": "a", **route}],
    }
    return {"GATEWAY_ROUTES": json.dumps(document)}


@pytest.mark.parametrize(
    ("environ", "where"),
    [
        (environment({"retry": {"methods": ["POST"]}}, {}), "routes[0].retry.methods"),
        (environment({"timeout": {"per_try": "1h"}}, {}), "routes[0].timeout.per_try"),
        (environment({}, {"pool": {"idle_timeout": "90s"}}), "backends.a.pool.idle_timeout"),
        (environment({}, {"health_check": {"timeout": "1m"}}), "backends.a.health_check.timeout"),
        ({**environment(ANY_ORIGIN, {}), **JWT}, "routes[0].cors.allow_origins"),
        ({**environment({}, {}), "GATEWAY_TRUSTED_PROXIES": "::/0"}, "GATEWAY_TRUSTED_PROXIES"),
        ({**environment({}, {}), **JWT, "GATEWAY_JWT_AUDIENCE": ""}, "GATEWAY_JWT_AUDIENCE"),
    ],
)
def test_hazard_is_a_warning_that_strict_does_not_forgive(environ: dict[str, str], where: str) -> None:
    result = CliRunner().invoke(main, ["check"], env=environ)
    first, second = result.stdout.splitlines()
    assert (result.exit_code, first) == (0, "configuration ok")
    assert second.startswith(f"warning: {where}: ")
    assert CliRunner().invoke(main, ["check", "--strict"], env=environ).exit_code == 78
    assert CliRunner().invoke(main, ["check", "--strict"], env=environment({}, {})).exit_code == 0
