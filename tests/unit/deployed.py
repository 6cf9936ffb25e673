"""What is in deploy/ and the Dockerfile, read for tests."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
COMPOSE = DEPLOY / "compose"
KUBERNETES = DEPLOY / "kubernetes"
SYSTEMD = DEPLOY / "systemd"

#: A place where a variable of the caller's environment goes, in Compose's manner, with its default.
_PLACE = re.compile(r"\$\{\w+:-([^}]*)\}")


def instructions() -> list[tuple[str, str]]:
    """Name and arguments of each instruction of the Dockerfile, in order, continued lines joined."""
    lines = [line for line in (TOP / "Dockerfile").read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name, " ".join(arguments.split())) for name, arguments in pairs]


def final_stage() -> dict[str, list[str]]:
    """The arguments of the instructions of the image itself, by their names."""
    everything = instructions()
    last = max(index for index, (name, _) in enumerate(everything) if name == "FROM")
    found: dict[str, list[str]] = {}
    for name, arguments in everything[last:]:
        found.setdefault(name, []).append(arguments)
    return found


def health_command() -> list[str]:
    """The image's health check."""
    (check,) = final_stage()["HEALTHCHECK"]
    command: list[str] = json.loads(check.partition(" CMD ")[2])
    return command


def compose() -> Any:
    """The Compose file, with the defaults of all variables in their places."""
    return yaml.safe_load(_PLACE.sub(r"\1", (COMPOSE / "compose.yaml").read_text("utf-8")))


def documents(name: str) -> list[Any]:
    """The documents of a file of Kubernetes."""
    return list(yaml.safe_load_all((KUBERNETES / name).read_text("utf-8")))


def kustomization() -> Any:
    """What holds the files of Kubernetes together."""
    (found,) = documents("kustomization.yaml")
    return found


def objects() -> dict[tuple[str, str], Any]:
    """Everything that is handed to Kubernetes, by kind and name."""
    everything = (document for name in kustomization()["resources"] for document in documents(name))
    return {(found["kind"], found["metadata"]["name"]): found for found in everything}


def pod() -> Any:
    """The specification of the gateway's pods."""
    return objects()["Deployment", "txgateway"]["spec"]["template"]["spec"]


def unit(name: str) -> dict[str, list[str]]:
    """All assignments of a unit, whatever their section; an empty one is an empty string."""
    found: dict[str, list[str]] = {}
    for line in (SYSTEMD / name).read_text("utf-8").splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    """A duration of one unit, or a bare number, as all of these write them."""
    return float(text.removesuffix("s"))


def judged(program: str, *arguments: object) -> str:
    """What a program says that finds no fault; skips the test where a program of the system is not installed."""
    beside = Path(sys.executable).with_name(program)
    found = str(beside) if beside.exists() else shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    ended = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


# --- environments ----------------------------------------------------------------------------------------------------


def compose_environment() -> dict[str, str]:
    """The gateway's in Compose."""
    return dict(compose()["services"]["gateway"]["environment"])


def kubernetes_environment() -> dict[str, str]:
    """The gateway's in Kubernetes, as its pods see it."""
    (container,) = pod()["containers"]
    generated = {one["name"]: one for one in kustomization()["configMapGenerator"]}
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        for name in generated[source["configMapRef"]["name"]]["envs"]:
            found |= dict(_assignments((KUBERNETES / name).read_text("utf-8")))
    return found | {variable["name"]: variable["value"] for variable in container["env"]}


def kubernetes_files() -> dict[str, Path | None]:
    """What is where in a pod's file system: a file of ours, or None for a secret's."""
    (container,) = pod()["containers"]
    generated = {one["name"]: one for one in kustomization()["configMapGenerator"]}
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    found: dict[str, Path | None] = {}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        if "configMap" in volume:
            for name in generated[volume["configMap"]["name"]]["files"]:
                found[f"{mount['mountPath']}/{name}"] = KUBERNETES / name
        else:
            found[f"{mount['mountPath']}/redis-url"] = None
    return found


def systemd_environment() -> dict[str, str]:
    """The service's."""
    pairs = (shlex.split(assignment) for assignment in unit("txgateway.service")["Environment"])
    return dict(_assignments("\n".join(pair for line in pairs for pair in line)))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name, value
