"""What is in deploy/ asks for metrics that the gateway exports, by labels that they have; and the alerts go off."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from txgateway.telemetry.metrics import RequestMetrics

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "txgateway.json").read_text("utf-8"))
#: Metrics with their selectors, which have no closing brace within.
USE = re.compile(r"\b((?:gateway|process)_[a-z_]+)\b(?:\{([^}]*)\})?")
GROUPED = re.compile(r"\b(?:by|on) \(([^)]*)\)")
#: Labels that Prometheus adds.
EVERYWHERE = {"instance", "job"}


def exported() -> dict[str, set[str]]:
    """The labels of all series that there can be, by their names."""
    found = {}
    for family in RequestMetrics().families():
        labels = EVERYWHERE | set(family.labels)
        if family.type == "counter":
            found[f"{family.name}_total"] = labels
        elif family.type == "histogram":
            found |= {
                f"{family.name}_bucket": labels | {"le"},
                f"{family.name}_sum": labels,
                f"{family.name}_count": labels,
            }
        else:
            found[family.name] = labels
    return found


def dashboard_expressions() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


EXPRESSIONS = [
    *dashboard_expressions(),
    *re.findall(r"expr: (?:\|\n)?(.*?)(?=\n +(?:for|labels):)", ALERTS.read_text("utf-8"), re.DOTALL),
]
ALERT_NAMES = re.findall(r"- alert: (\w+)", ALERTS.read_text("utf-8"))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_is_exported_with_these_labels(expression: str) -> None:
    known = exported()
    uses = USE.findall(expression)
    assert uses or expression.startswith("up{")
    for name, selector in uses:
        assert name in known, name
        assert set(re.findall(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"', selector)) <= known[name], expression
    labels = {label.strip() for group in GROUPED.findall(expression) for label in group.split(",")}
    assert labels <= set().union(EVERYWHERE, *(known[name] for name, _ in uses))


def test_other_texts_name_only_what_is_exported_too() -> None:
    known = exported()
    for path in (ALERTS, DEPLOY / "grafana" / "txgateway.json"):
        assert {name for name, _ in USE.findall(path.read_text("utf-8"))} <= set(known)


def test_every_alert_has_an_expression_here() -> None:
    assert len(EXPRESSIONS) == len(list(dashboard_expressions())) + len(ALERT_NAMES)
    assert len(set(ALERT_NAMES)) == len(ALERT_NAMES) >= 12


def test_dashboard_can_be_imported_and_asks_the_data_source_that_is_chosen() -> None:
    variables = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert variables == ["datasource", "instance", "route", "backend"]
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    text = json.dumps(DASHBOARD)
    assert set(re.findall(r'"type": "prometheus", "uid": "([^"]*)"', text)) == {"${datasource}"}
    assert set(re.findall(r"\$\{?([a-z]+)", text)) == set(variables)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


# --- promtool --------------------------------------------------------------------------------------------------------

GATEWAY = 'instance="g",job="gateway"'
ROUTE = f'{GATEWAY},route="r",method="GET"'
TARGET = f'{GATEWAY},backend="b",target="t"'
#: For each alert, series with which it goes off within 20 minutes, and series with which it does not.
FIRES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "GatewayDown": ({f"up{{{GATEWAY}}}": "0x30"}, {f"up{{{GATEWAY}}}": "1x30"}),
    "GatewayErrorShare": (
        {
            f'gateway_requests_total{{{ROUTE},status="200"}}': "0+600x30",
            f'gateway_requests_total{{{ROUTE},status="503"}}': "0+60x30",
        },
        {
            f'gateway_requests_total{{{ROUTE},status="200"}}': "0+600x30",
            f'gateway_requests_total{{{ROUTE},status="404"}}': "0+600x30",
            f'gateway_requests_total{{{ROUTE},status="503"}}': "0+6x30",
        },
    ),
    "GatewayLatency": (
        {
            f'gateway_requests_total{{{ROUTE},status="200"}}': "0+600x30",
            f'gateway_request_duration_seconds_bucket{{{ROUTE},le="2.5"}}': "0+500x30",
            f'gateway_request_duration_seconds_bucket{{{ROUTE},le="5.0"}}': "0+600x30",
            f'gateway_request_duration_seconds_bucket{{{ROUTE},le="+Inf"}}': "0+600x30",
        },
        {
            f'gateway_requests_total{{{ROUTE},status="200"}}': "0+600x30",
            f'gateway_request_duration_seconds_bucket{{{ROUTE},le="2.5"}}': "0+599x30",
            f'gateway_request_duration_seconds_bucket{{{ROUTE},le="+Inf"}}': "0+600x30",
        },
    ),
    "GatewayTargetUnhealthy": (
        {f"gateway_target_healthy{{{TARGET}}}": "0.5x30"},
        {f"gateway_target_healthy{{{TARGET}}}": "1x30"},
    ),
    "GatewayBackendWithoutTarget": (
        {f"gateway_target_healthy{{{TARGET}}}": "0x30"},
        {f"gateway_target_healthy{{{TARGET}}}": "0x30", f'gateway_target_healthy{{{GATEWAY},backend="b",target="u"}}': "1x30"},
    ),
    "GatewayBreakerOpen": ({f"gateway_breaker_state{{{TARGET}}}": "2x30"}, {f"gateway_breaker_state{{{TARGET}}}": "1x30"}),
    "GatewayPoolQueue": (
        {f'gateway_upstream_connections{{{TARGET},state="pending"}}': "3x30"},
        {f'gateway_upstream_connections{{{TARGET},state="pending"}}': "3 0x29", f'gateway_upstream_connections{{{TARGET},state="active"}}': "9x30"},
    ),
    "GatewayRetryBudgetSpent": (
        {f'gateway_upstream_retries_total{{{GATEWAY},backend="b",outcome="budget"}}': "0+6x30"},
        {f'gateway_upstream_retries_total{{{GATEWAY},backend="b",outcome="success"}}': "0+6x30"},
    ),
    "GatewayRateLimitDegraded": (
        {f"gateway_rate_limit_degraded{{{GATEWAY}}}": "1x30"},
        {f"gateway_rate_limit_degraded{{{GATEWAY}}}": "0x30"},
    ),
    "GatewayLogLinesDropped": (
        {f"gateway_log_lines_dropped_total{{{GATEWAY}}}": "0+9x30"},
        {f"gateway_log_lines_dropped_total{{{GATEWAY}}}": "9x30"},
    ),
    "GatewayConnectionsRefused": (
        {f"gateway_connections_refused_total{{{GATEWAY}}}": "0+9x30"},
        {f"gateway_connections_refused_total{{{GATEWAY}}}": "9x30"},
    ),
    "GatewaySeriesDropped": (
        {f"gateway_metric_series_dropped_total{{{GATEWAY}}}": "0+9x30"},
        {f"gateway_metric_series_dropped_total{{{GATEWAY}}}": "9x30"},
    ),
}  # fmt: skip


def promtool(*arguments: str) -> str:
    """Run it to its end; skips the test where it is not installed."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    ended = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.promtool
def test_promtool_finds_no_fault_with_the_rules() -> None:
    assert f"{len(ALERT_NAMES)} rules found" in promtool("check", "rules", str(ALERTS))


@pytest.mark.promtool
def test_each_alert_goes_off_when_it_should_and_only_then(tmp_path: Path) -> None:
    assert set(FIRES) == set(ALERT_NAMES)
    tests = []
    for alert, cases in FIRES.items():
        for is_on, series in zip((True, False), cases, strict=True):
            expected = f'count(ALERTS{{alertname="{alert}",alertstate="firing"}})'
            tests.append(
                {
                    "name": f"{alert} {'on' if is_on else 'off'}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in series.items()],
                    "promql_expr_test": [
                        {
                            "expr": expected,
                            "eval_time": "20m",
                            "exp_samples": [{"labels": "{}", "value": 1}] if is_on else [],
                        }
                    ],
                }
            )
    # JSON is YAML.
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": tests}), encoding="utf-8")
    promtool("test", "rules", str(tmp_path / "tests.yml"))
