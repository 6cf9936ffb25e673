"""For tests of middlewares and configurations: a gateway in memory, strategies, and laws for any middleware.

:class:`GatewayHarness` needs no more than the gateway does. :mod:`txgateway.testing.laws` and
:mod:`txgateway.testing.strategies` need Hypothesis, :mod:`txgateway.testing.plugin` is for pytest: the extra ``testing``
has both. Of the gateway, only the command ``txgateway test`` imports anything from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from txgateway.testing.backends import Received, Refuse, Reset, Response, Stall
    from txgateway.testing.calls import Answer, Call
    from txgateway.testing.clock import VirtualClock
    from txgateway.testing.harness import GatewayHarness

__all__ = ["Answer", "Call", "GatewayHarness", "Received", "Refuse", "Reset", "Response", "Stall", "VirtualClock"]

_PLACES: Final = {
    "Answer": "calls",
    "Call": "calls",
    "GatewayHarness": "harness",
    "Received": "backends",
    "Refuse": "backends",
    "Reset": "backends",
    "Response": "backends",
    "Stall": "backends",
    "VirtualClock": "clock",
}


def __getattr__(name: str) -> Any:
    """Imported when somebody asks: pytest loads the plugin of whoever has the gateway installed, in every run."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
