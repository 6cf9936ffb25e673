"""The gateway in front, as an operator would start it, and what its log tells of each request afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.integration.harness import Gateway, wait_until
from tests.load.report import Report

#: What the scenarios ask for, beyond the defaults.
SETTINGS = {"GATEWAY_TIMEOUT_PER_TRY": "300ms", "GATEWAY_HEALTH_CHECK_INTERVAL": "1s"}

#: Thousands of routes take their time on a machine that has other things to do.
START_PATIENCE_S = 60.0


@contextmanager
def gateway(directory: Path, *settings: Mapping[str, str], waits: bool = True) -> Iterator[Gateway]:
    """A running gateway.

    Args:
        settings: later ones win.
        waits: until it says that it is ready, which it may not be without a target.
    """
    environment = dict(SETTINGS)
    for some in settings:
        environment.update(some)
    made = Gateway(directory, environment)
    made.start_patience_s = START_PATIENCE_S
    with made as running:
        if waits:
            wait_until(lambda: running.get("/health/ready").status == 200, "the gateway is ready")
        yield running


def attempts_of(gateway: Gateway) -> dict[str, int]:
    """The attempts at each request, by its path, as the access log of a stopped gateway has them."""
    return {line["path"]: line["attempts"] for line in gateway.lines if line.get("event") == "request"}


def bound_log(report: Report, gateway: Gateway) -> None:
    """Add the bound that a stopped gateway has logged no traceback."""
    found = [line for line in gateway.lines if "traceback" in line]
    seen = f"{len(found)}" if not found else f"{len(found)}, the first: {found[0]['traceback'].splitlines()[-1]}"
    report.bound("tracebacks in the gateway's log: 0", not found, seen)
