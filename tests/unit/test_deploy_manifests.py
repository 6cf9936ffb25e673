"""The image and the manifests agree with the gateway's settings, and programs that know their formats find no fault."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner
from tests.unit.deployed import (
    COMPOSE,
    DEPLOY,
    KUBERNETES,
    SYSTEMD,
    TOP,
    compose,
    compose_environment,
    documents,
    final_stage,
    judged,
    kubernetes_environment,
    kubernetes_files,
    kustomization,
    objects,
    pod,
    seconds,
    systemd_environment,
    unit,
)

from txgateway import __version__
from txgateway.cli import main
from txgateway.config import load
from txgateway.config.settings import DEFAULTS, VARIABLES
from txgateway.config.tracing import ENDPOINT
from txgateway.health.probes import Readiness, probe_resources

#: What may come behind a drain: the last spans (5 s), the last lines of the log (2 s), and some air.
AFTER_DRAIN_S = 10.0
PROBES = {path.decode() for path in probe_resources(DEFAULTS.probe_prefix, Readiness())}
LIVE, READY = sorted(PROBES)
REDIS_URL = "redis://redis.example:6379/0"
IN_SYSTEMD = {"GATEWAY_ROUTES_FILE": str(TOP / "examples" / "routes.toml")}


def in_kubernetes(directory: Path) -> dict[str, str]:
    """Its environment, with the files of a pod where they are for a test."""
    environ = kubernetes_environment()
    secret = directory / "secret"
    secret.write_text(REDIS_URL, encoding="utf-8")
    for name, value in environ.items():
        if value in kubernetes_files():
            environ[name] = str(kubernetes_files()[value] or secret)
    return environ


ENVIRONMENTS = {
    "image": lambda _: {"GATEWAY_BACKEND_TARGET": "demo"},
    "compose": lambda _: compose_environment(),
    "kubernetes": in_kubernetes,
    "systemd": lambda _: systemd_environment() | IN_SYSTEMD,
}


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "LOG_", "OTEL_")):
            monkeypatch.delenv(name)


@pytest.fixture(params=list(ENVIRONMENTS))
def environ(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    return dict(ENVIRONMENTS[request.param](tmp_path))


# --- settings --------------------------------------------------------------------------------------------------------


def test_every_variable_exists(environ: Mapping[str, str]) -> None:
    known = {*VARIABLES, *(f"{name}_FILE" for name in VARIABLES), ENDPOINT, "PYTHONDONTWRITEBYTECODE"}
    assert set(environ) <= known


def test_the_whole_environment_passes_the_check(environ: Mapping[str, str]) -> None:
    result = CliRunner().invoke(main, ("check", "--json"), env=environ)
    said = json.loads(result.stdout)
    assert (result.exit_code, said["problems"]) == (0, []), result.stderr
    # That the admin port is open to a network is meant where policies or published ports decide who reaches it.
    assert not [warning for warning in said["warnings"] if "GATEWAY_ADMIN_HOST" not in warning]


def test_comments_name_variables_that_exist() -> None:
    files = [path for folder in (COMPOSE, KUBERNETES, SYSTEMD) for path in folder.iterdir()]
    for path in (TOP / "Dockerfile", *files):
        for name in re.findall(r"\b(?:GATEWAY|LOG)_[A-Z_]+", path.read_text("utf-8")):
            assert name in VARIABLES or name.removesuffix("_FILE") in VARIABLES, f"{path.name}: {name}"


def test_a_process_is_given_more_time_to_stop_than_it_takes(tmp_path: Path) -> None:
    gateway = compose()["services"]["gateway"]
    graces = {
        "compose": seconds(gateway["stop_grace_period"]),
        "kubernetes": float(pod()["terminationGracePeriodSeconds"]),
        "systemd": seconds(unit("txgateway.service")["TimeoutStopSec"][0]),
    }
    for name, grace_s in graces.items():
        settings = load(ENVIRONMENTS[name](tmp_path)).settings
        assert grace_s >= settings.drain_delay_s + settings.drain_timeout_s + AFTER_DRAIN_S, name
    # Others have to notice: no shorter than a round of their own checks.
    assert load(in_kubernetes(tmp_path)).settings.drain_delay_s >= 5


# --- Compose ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(compose()["services"]))
def test_every_service_has_only_what_it_needs(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"mem_limit", "pids_limit"} <= set(service)
    assert not {"privileged", "network_mode", "pid"} & set(service)
    assert re.fullmatch(r"[a-z/.-]+:v?\d+\.\d+\.\d+(-[a-z]+)?", service["image"])
    for volume in service.get("volumes", ()):
        source, target, *mode = volume.split(":")
        assert source in compose()["volumes"] or ((COMPOSE / source).is_file() and mode == ["ro"]), target


def test_compose_publishes_the_clients_port_and_the_rest_to_this_machine_only() -> None:
    services = compose()["services"]
    settings = load(compose_environment()).settings
    assert services["gateway"]["ports"] == [f"8000:{settings.port}", f"127.0.0.1:8001:{settings.admin_port}"]
    others = [port for name, service in services.items() if name != "gateway" for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in others)
    assert services["gateway"]["image"] == f"txgateway:{__version__}"
    assert (COMPOSE / services["gateway"]["build"]["context"]).resolve() == TOP


def test_compose_gives_the_gateway_names_that_it_can_reach() -> None:
    services = compose()["services"]
    configuration = load(compose_environment())
    assert configuration.settings.redis_url is not None
    assert configuration.tracing is not None
    redis = urlsplit(configuration.settings.redis_url)
    collector = urlsplit(compose_environment()[ENDPOINT])
    receiver = yaml.safe_load((COMPOSE / "collector.yaml").read_text("utf-8"))["receivers"]["otlp"]["protocols"]["http"]
    scrape = yaml.safe_load((COMPOSE / "prometheus.yml").read_text("utf-8"))["scrape_configs"][0]
    assert receiver["endpoint"] == f"0.0.0.0:{collector.port}"
    assert scrape["static_configs"] == [{"targets": [f"gateway:{configuration.settings.admin_port}"]}]
    assert configuration.settings.admin_host == "0.0.0.0"
    assert redis.port == 6379
    ours = set(services["gateway"]["networks"])
    for name in (redis.hostname, collector.hostname, "prometheus"):
        assert name is not None
        assert ours & set(services[name]["networks"]), name
    assert ours <= set(compose()["networks"])


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def test_kustomization_has_all_files_and_names_that_are_used() -> None:
    used = {*kustomization()["resources"], "kustomization.yaml"}
    generated = kustomization()["configMapGenerator"]
    used |= {name for one in generated for key in ("files", "envs") for name in one.get(key, ())}
    assert used == {path.name for path in KUBERNETES.iterdir()}
    assert {volume["configMap"]["name"] for volume in pod()["volumes"] if "configMap" in volume} == {"txgateway-routes"}
    assert kustomization()["namespace"] == "txgateway"
    assert ("Namespace", "txgateway") in objects()
    (image,) = kustomization()["images"]
    assert (image["name"], image["newTag"]) == (pod()["containers"][0]["image"], __version__)


def test_everything_is_about_the_same_pods() -> None:
    template = objects()["Deployment", "txgateway"]["spec"]["template"]["metadata"]["labels"]
    found = objects()
    selectors = [
        found["Deployment", "txgateway"]["spec"]["selector"]["matchLabels"],
        found["Service", "txgateway"]["spec"]["selector"],
        found["Service", "txgateway-admin"]["spec"]["selector"],
        found["PodDisruptionBudget", "txgateway"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy", "txgateway"]["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in pod()["topologySpreadConstraints"]),
    ]
    assert all(selector == template for selector in selectors)
    scaled = found["HorizontalPodAutoscaler", "txgateway"]["spec"]
    assert scaled["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "txgateway"}
    assert scaled["minReplicas"] >= 2
    assert "replicas" not in found["Deployment", "txgateway"]["spec"]


def test_only_the_clients_port_is_for_clients(tmp_path: Path) -> None:
    settings = load(in_kubernetes(tmp_path)).settings
    (container,) = pod()["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    assert [port["targetPort"] for port in objects()["Service", "txgateway"]["spec"]["ports"]] == ["http"]
    admin = objects()["Service", "txgateway-admin"]
    assert [(port["port"], port["targetPort"]) for port in admin["spec"]["ports"]] == [(settings.admin_port, "admin")]
    assert admin["spec"]["clusterIP"] == "None"
    assert admin["metadata"]["annotations"]["prometheus.io/port"] == str(settings.admin_port)
    policy = objects()["NetworkPolicy", "txgateway"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    to_all = [rule for rule in policy["ingress"] if not rule.get("from")]
    assert [port["port"] for rule in to_all for port in rule["ports"]] == ["http"]


def test_probes_ask_what_exists(tmp_path: Path) -> None:
    settings = load(in_kubernetes(tmp_path)).settings
    assert {path.decode() for path in probe_resources(settings.probe_prefix, Readiness())} == PROBES
    (container,) = pod()["containers"]
    asked = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked == {
        "startup": {"path": LIVE, "port": "http"},
        "liveness": {"path": LIVE, "port": "http"},
        "readiness": {"path": READY, "port": "http"},
    }


def test_pods_are_restricted() -> None:
    (container,) = pod()["containers"]
    user, group = map(int, final_stage()["USER"][0].split(":"))
    assert pod()["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": group,
        "fsGroup": group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod()["enableServiceLinks"] is False
    assert pod()["automountServiceAccountToken"] is False
    assert {"requests", "limits"} == set(container["resources"])
    assert all(mount["readOnly"] for mount in container["volumeMounts"])


def test_secrets_come_as_files_of_the_secret_that_is_told_to_be_made(tmp_path: Path) -> None:
    environ = kubernetes_environment()
    assert environ["GATEWAY_REDIS_URL_FILE"] in kubernetes_files()
    assert load(in_kubernetes(tmp_path)).settings.redis_url == REDIS_URL
    (secret,) = [volume["secret"] for volume in pod()["volumes"] if "secret" in volume]
    text = (KUBERNETES / "kustomization.yaml").read_text("utf-8")
    assert f"create secret generic {secret['secretName']} --from-literal=redis-url=" in text


# --- judges ----------------------------------------------------------------------------------------------------------


def test_the_compose_file_is_valid() -> None:
    judged("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE / "compose.yaml")


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_kubernetes_objects_are_valid(version: str) -> None:
    names = kustomization()["resources"]
    said = judged("kubernetes-validate", "--strict", "-k", version, *(KUBERNETES / name for name in names))
    assert said.count(" passed for resource ") == sum(len(documents(name)) for name in names)


@pytest.mark.promtool
def test_promtool_finds_no_fault_with_the_configuration(tmp_path: Path) -> None:
    for path in (COMPOSE / "prometheus.yml", DEPLOY / "prometheus" / "alerts.yml"):
        shutil.copy(path, tmp_path)
    assert "1 rule files found" in judged("promtool", "check", "config", tmp_path / "prometheus.yml")
