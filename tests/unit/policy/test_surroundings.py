from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest

from txgateway.config import ConfigurationError
from txgateway.policy.surroundings import Gateways, at_home
from txgateway.policy.tables import GatewayTable


def gateways(directory: Path, **table: object) -> Gateways:
    return Gateways(GatewayTable.model_validate(table), directory)


@pytest.mark.parametrize(
    ("target", "host", "label"),
    [
        ("https://a", b"a", "a:80"),
        ("https://a:443/", b"a", "a:80"),
        ("HTTPS://a:8443", b"a:8443", "a:8443"),
        ("h2c://a:80", b"a", "a:80"),
        ("http://a:443", b"a:443", "a:443"),
        ("unix:/run/a", b"localhost", "unix:/run/a"),
        ("demo", None, "demo"),
    ],
)
def test_targets_keep_their_names_and_lose_tls(target: str, host: bytes | None, label: str, tmp_path: Path) -> None:
    with gateways(tmp_path, environment={"GATEWAY_BACKEND_TARGET": target}).new() as gateway:
        answer = gateway.ask()
        assert (answer.status, answer.log["target"]) == (200, label)
        if host is not None:
            assert gateway.backends["default"].received[0].header(b"host") == host


def test_several_targets_of_a_variable_are_targets(tmp_path: Path) -> None:
    made = gateways(tmp_path, environment={"GATEWAY_BACKEND_TARGET": "https://a, http://b"})
    with made.new() as gateway:
        assert list(gateway.backends["default"].targets) == ["a:80", "b:80"]


def test_document_in_json_with_weights_and_tls(tmp_path: Path) -> None:
    document = {
        "backends": {
            "a": {"targets": [{"url": "https://a", "weight": 3}, "https://b"], "tls": {"server_name": "c"}},
            "b": {"targets": ["http://d"]},
        },
        "routes": [{"name": "r", "path": "/", "backend": "a"}, {"name": "s", "path": "/s", "backend": "b"}],
    }
    (tmp_path / "routes.json").write_text(json.dumps(document), encoding="utf-8")
    made = gateways(tmp_path, routes_file="routes.json")
    assert made.configuration.backends["a"].targets[0].scheme == "https"
    with made.new() as gateway:
        assert [target.weight for target in gateway.configuration.backends["a"].targets] == [3, 1]
        assert gateway.ask().status == 200


def test_document_without_backends(tmp_path: Path) -> None:
    routes = {"routes": [{"name": "r", "path": "/", "response": {"status": 204}}]}
    with gateways(tmp_path, routes=routes).new() as gateway:
        assert gateway.ask().status == 204


@pytest.mark.parametrize("name", ["GATEWAY_JWT_SECRET_FILE", "GATEWAY_JWT_JWKS_URL", "GATEWAY_JWT_PUBLIC_KEY"])
def test_test_key_takes_the_place_of_any(name: str, tmp_path: Path) -> None:
    environment = {"GATEWAY_BACKEND_TARGET": "demo", name: "nonsense"}
    with gateways(tmp_path, tokens=True, environment=environment).new() as gateway:
        assert gateway.ask().reason == "TOKEN_MISSING"
    with pytest.raises(ConfigurationError):
        gateways(tmp_path, environment=environment)


def test_modules_beside_the_file_are_forgotten_and_installed_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / ".venv" / "site"
    for place in (installed / "installed_part.py", tmp_path / "own_part.py", tmp_path / "own_room" / "inner.py"):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("", encoding="utf-8")
    (tmp_path / "own_room" / "__init__.py").write_text("", encoding="utf-8")
    names = ("installed_part", "own_part", "own_room.inner")
    monkeypatch.syspath_prepend(str(installed))
    before = list(sys.path)
    with at_home(tmp_path):
        for name in names:
            import_module(name)
    assert [name in sys.modules for name in (*names, "own_room")] == [True, False, False, False]
    assert sys.path == before
    del sys.modules["installed_part"]


def test_packages_that_were_there_before_stay_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "known_room"
    room.mkdir()
    for name in ("__init__.py", "inner.py"):
        (room / name).write_text("", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("known_room")
    with at_home(tmp_path):
        inner = import_module("known_room.inner")
    assert sys.modules.pop("known_room.inner") is inner
    del sys.modules["known_room"]
