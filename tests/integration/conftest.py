"""One scripted backend for each module, forgotten before each test; gateways are the modules' own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.backend import ScriptedBackend


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
