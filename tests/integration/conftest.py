"""One scripted backend for each module, forgotten before each test; gateways are the modules' own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import trustme
from tests.integration.backend import ScriptedBackend
from tests.integration.combinations import COMBINATIONS, Combination, World


@pytest.fixture(scope="module")
def module_backend() -> Iterator[ScriptedBackend]:
    with ScriptedBackend() as backend:
        yield backend


@pytest.fixture
def backend(module_backend: ScriptedBackend) -> Iterator[ScriptedBackend]:
    """The module's backend, which begins with answering every request with ``OK``."""
    module_backend.renew()
    yield module_backend
    assert not module_backend.faults, module_backend.faults


@pytest.fixture(scope="module")
def silent_port() -> Iterator[int]:
    """A port of which connections are never accepted: its backlog is full, so that the kernel drops further ones."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        yield port
        for filler in fillers:
            filler.close()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """The certificate of the module's authority, in a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway with a backend of each version of HTTP behind it."""
    with ExitStack() as stack:
        yield World(tmp_path_factory.mktemp("world"), stack)


@pytest.fixture(params=COMBINATIONS)
def combination(request: pytest.FixtureRequest, world: World) -> Iterator[Combination]:
    """A version in front of the module's gateway, and one behind it; no fault of the target's at the end."""
    made = Combination(world, request.param)
    yield made
    made.close()
