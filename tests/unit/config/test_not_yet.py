from __future__ import annotations

import json

import pytest

from txgateway.config import load, not_yet
from txgateway.config.document import BackendTable, RouteTable
from txgateway.config.groups import leaves
from txgateway.config.settings import DEFAULTS

DEMO = {"GATEWAY_BACKEND_TARGET": "demo"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_MIDDLEWARES", "a:b"),
    ],
)
def test_setting_without_effect_is_a_warning(name: str, value: str) -> None:
    (warning,) = load({**DEMO, name: value}).warnings
    assert warning == f"{name}: this version does not implement it yet; it has no effect"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_WORKERS", "1"),
        ("GATEWAY_WORKERS", "auto"),
        ("GATEWAY_HTTP2", "true"),
        ("GATEWAY_BACKEND_TARGET", "h2c://backend"),
        ("GATEWAY_LOAD_BALANCER", "hash:cookie:Session"),
        ("GATEWAY_TIMEOUT_PER_TRY", "1s"),
        ("GATEWAY_RETRY_ON", "connect"),
        ("GATEWAY_BREAKER_FAILURES", "7"),
        ("GATEWAY_HEALTH_CHECK_PATH", "/x"),
        ("GATEWAY_CSP", ""),
        ("GATEWAY_RATE_LIMIT", ""),
        ("GATEWAY_REDIS_URL", ""),
        ("GATEWAY_TIMEOUT_TOTAL", "1s"),
        ("GATEWAY_POOL_MAX_AGE", "1s"),
        ("GATEWAY_BULKHEAD_MAX_QUEUE", "1"),
        ("GATEWAY_SANITIZE_ENCODED_SLASH", "reject"),
        ("OTEL_SERVICE_NAME", "x"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://otel:4318"),
    ],
)
def test_setting_that_asks_for_what_happens_anyway_is_no_warning(name: str, value: str) -> None:
    assert load({**DEMO, name: value}).warnings == ()


def test_warning_about_many_routes_is_one_line() -> None:
    routes = [{"name": f"r{n}", "path": f"/{n}", "resource": "a:b", "middlewares": ["a:b"]} for n in range(3)]
    (warning,) = load({"GATEWAY_ROUTES": json.dumps({"routes": routes})}).warnings
    assert warning.startswith("routes[0].middlewares (and 2 more like it): ")


def test_every_name_in_the_table_is_a_key_or_a_group() -> None:
    tables = (DEFAULTS, RouteTable(), BackendTable())
    keys = {leaf.key for table in tables for leaf in leaves(table)}
    assert keys | {key.partition(".")[0] for key in keys} >= not_yet.WITHOUT_EFFECT
