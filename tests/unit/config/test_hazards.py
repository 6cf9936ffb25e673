from __future__ import annotations

import json

from txgateway.config import load


def test_default_configuration_has_no_hazards() -> None:
    assert load({"GATEWAY_BACKEND_TARGET": "demo"}).hazards == ()


def test_what_is_probably_not_wanted_is_a_hazard() -> None:
    document = {
        "backends": {"a": {"targets": ["https://a"], "tls": {"verify": False}}, "b": {"targets": ["http://b"]}},
        "routes": [{"name": "r", "path": "/", "backend": "a"}],
    }
    configuration = load({
        "GATEWAY_ROUTES": json.dumps(document),
        "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,::/0",
        "GATEWAY_ADMIN_HOST": "::",
    })  # fmt: skip
    assert [hazard.partition(": ")[0] for hazard in configuration.hazards] == [
        "GATEWAY_TRUSTED_PROXIES", "GATEWAY_ADMIN_HOST", "backends.a.tls.verify", "backends.b",
    ]  # fmt: skip


def test_admin_listener_that_is_off_or_on_the_loopback_is_no_hazard() -> None:
    for environ in ({"GATEWAY_ADMIN_HOST": "0.0.0.0", "GATEWAY_ADMIN_PORT": "0"}, {"GATEWAY_ADMIN_HOST": "localhost"}):
        assert load({"GATEWAY_BACKEND_TARGET": "demo", **environ}).hazards == ()
