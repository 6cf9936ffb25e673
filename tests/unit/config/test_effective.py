from __future__ import annotations

import json
from pathlib import Path

import orjson

from txgateway.config import load


def test_every_setting_has_its_value_and_its_source(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("8123\n")
    document = {
        "backends": {"a": {"targets": ["http://a:1"], "pool": {"max_age": 60}}},
        "routes": [{"name": "r", "path": "/", "backend": "a", "timeout": {"total": "5s"}}],
    }
    effective = load({
        "GATEWAY_ROUTES": json.dumps(document),
        "GATEWAY_PORT_FILE": str(tmp_path / "port"),
        "GATEWAY_TIMEOUT_IDLE": "90",
        "GATEWAY_MAX_BODY_BYTES": "2048",
    }).effective()  # fmt: skip
    settings, backend, route = effective["settings"], effective["backends"]["a"], effective["routes"]["r"]
    assert settings["GATEWAY_PORT"] == {"value": 8123, "source": f"file GATEWAY_PORT_FILE {tmp_path / 'port'}"}
    assert settings["GATEWAY_HOST"] == {"value": "0.0.0.0", "source": "default"}
    assert route["timeout.total"] == {"value": "5s", "source": "document routes[0].timeout.total"}
    assert route["timeout.idle"] == {"value": "90s", "source": "env GATEWAY_TIMEOUT_IDLE"}
    assert route["timeout.per_try"] == {"value": "0s", "source": "default"}
    assert route["max_body_bytes"] == {"value": "2KiB", "source": "env GATEWAY_MAX_BODY_BYTES"}
    assert route["backend"] == {"value": "a", "source": "document routes[0].backend"}
    assert backend["pool.max_age"] == {"value": "1m", "source": "document backends.a.pool.max_age"}
    assert backend["timeout.connect"] == {"value": "3s", "source": "default"}
    assert backend["targets"]["value"] == [{"url": "http://a:1", "weight": 1}]
    assert "redirect" not in route


def test_default_route_comes_from_its_variable() -> None:
    effective = load({"GATEWAY_BACKEND_TARGET": "http://a:1"}).effective()
    assert effective["backends"]["default"]["targets"]["source"] == "env GATEWAY_BACKEND_TARGET"
    assert effective["routes"]["default"]["path"] == {"value": "/", "source": "env GATEWAY_BACKEND_TARGET"}


def test_secrets_are_masked() -> None:
    document = {
        "routes": [
            {
                "name": "r",
                "path": "/",
                "resource": "a:b",
                "headers": {"X-Api-Key": "hunter2", "X-Env": "prod"},
                "request_headers": {"set": {"Authorization": "hunter2"}},
                "response_headers": {"set": {"Set-Cookie": "hunter2"}},
            }
        ]
    }
    effective = load({"GATEWAY_ROUTES": json.dumps(document)}).effective()
    assert b"hunter2" not in orjson.dumps(effective)
    assert effective["settings"]["GATEWAY_ROUTES"]["value"] == "***"
    assert effective["routes"]["r"]["headers"]["value"] == {"x-api-key": "***", "x-env": "prod"}
