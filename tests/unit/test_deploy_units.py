"""The units for systemd: they belong together, leave the service little, and systemd finds no fault with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.deployed import SYSTEMD, TOP, judged, systemd_environment, unit

from txgateway.config import load


def test_units_belong_together() -> None:
    service, sockets = unit("txgateway.service"), unit("txgateway.socket")
    assert service["Requires"] == ["txgateway.socket"]
    assert service["Type"] == ["notify"]
    assert service["ExecStart"] == ["/opt/txgateway/bin/twistd -n --pidfile= gateway"]
    assert service["ExecReload"] == ["kill -HUP $MAINPID"]
    assert service["RestartPreventExitStatus"] == ["78"]
    # Whoever does not give signs of life is started again.
    assert service["WatchdogSec"] == ["30s"]
    assert service["Restart"] == ["on-failure"]
    settings = load(systemd_environment() | {"GATEWAY_ROUTES_FILE": str(TOP / "examples" / "routes.toml")}).settings
    assert sockets["ListenStream"] == [str(settings.port)]
    assert settings.redirect_port is None


def test_service_has_only_what_it_needs() -> None:
    service = unit("txgateway.service")
    for key in ("CapabilityBoundingSet", "AmbientCapabilities"):
        assert service[key] == [""]
    for key in (
        "DynamicUser",
        "NoNewPrivileges",
        "PrivateTmp",
        "ProtectHome",
        "RestrictSUIDSGID",
        "RestrictNamespaces",
    ):
        assert service[key] == ["yes"]
    assert service["ProtectSystem"] == ["strict"]
    assert service["SystemCallFilter"] == ["@system-service", "~@privileged"]
    assert set(service["RestrictAddressFamilies"][0].split()) == {"AF_INET", "AF_INET6", "AF_UNIX"}
    # pyOpenSSL's callbacks are functions made at run time: with this no listener and no target could speak TLS.
    assert "MemoryDenyWriteExecute" not in service


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units, with a program that exists."""
    program = tmp_path / "twistd"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    found: list[Path] = []
    for name in ("txgateway.socket", "txgateway.service"):
        text = (SYSTEMD / name).read_text("utf-8").replace("/opt/txgateway/bin/twistd", str(program))
        found.append(tmp_path / name)
        found[-1].write_text(text, encoding="utf-8")
    return found


@pytest.mark.systemd
def test_systemd_finds_no_fault_with_the_units(units: list[Path]) -> None:
    assert not judged("systemd-analyze", "verify", "--man=no", *units)


@pytest.mark.systemd
def test_systemd_calls_the_service_well_confined(units: list[Path]) -> None:
    # In tenths; 0 is what cannot do anything at all.
    judged("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=15", units[1])
