"""The pytest plugin: fixtures for tests of middlewares and configurations. Installed with the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from txgateway.testing import GatewayHarness, VirtualClock


class MakeHarness(Protocol):
    """What ``gateway_harness`` is: takes what :class:`txgateway.testing.GatewayHarness` takes."""

    def __call__(self, routes: Any = None, **options: Any) -> GatewayHarness: ...


@pytest.fixture
def gateway_harness() -> Iterator[MakeHarness]:
    """Makes gateways in memory; at the end all clients leave, and nothing may be left over of any request."""
    from txgateway.testing import GatewayHarness  # noqa: PLC0415 -- only for tests that ask for it

    made: list[GatewayHarness] = []

    def make(routes: Any = None, **options: Any) -> GatewayHarness:
        made.append(GatewayHarness(routes, **options))
        return made[-1]

    yield make
    try:
        for harness in made:
            harness.send_clients_home()
            harness.assert_quiet()
    finally:
        for harness in made:
            harness.close()


@pytest.fixture
def virtual_clock() -> VirtualClock:
    """A ``task.Clock`` that cannot hang."""
    from txgateway.testing import VirtualClock  # noqa: PLC0415 -- only for tests that ask for it

    return VirtualClock()
