"""``python -m tests.load``: what becomes of a steady stream of requests while targets fail, or clients attack."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import FrameType

import click
from bench.options import gateway_env_option
from bench.report import print_table
from tests.load.floods import NAMES, floods
from tests.load.limits import budget, bulkhead, dead
from tests.load.outages import EVENTS, flap, outage
from tests.load.reloads import drain, hangups, reload
from tests.load.report import Report
from tests.load.steady import latency, ramp, soak
from tests.load.websockets import websockets
from tests.load.workers import workers

#: Of a soak.
SOAK_MINUTES = 10.0

_Scenario = Callable[[Path, Mapping[str, str]], Report]


def scenarios(rate: float) -> dict[str, _Scenario]:
    """All of them, in the order in which ``all`` runs them."""
    return {
        **{name: partial(outage, name, rate) for name in EVENTS},
        "flap": partial(flap, rate),
        "dead": dead,
        "budget": budget,
        "bulkhead": partial(bulkhead, rate),
        "floods": partial(floods, NAMES),
        "reload": partial(reload, rate),
        "hangups": partial(hangups, rate),
        "drain": partial(drain, rate),
        "workers": workers,
        "latency": latency,
        "ramp": ramp,
        "websockets": websockets,
        "soak": partial(soak, rate, SOAK_MINUTES),
    }


def single_floods() -> dict[str, _Scenario]:
    """Each flood by itself, for whoever looks into one."""
    return {f"flood-{name}": partial(floods, [name]) for name in NAMES}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="SCENARIO", type=click.Choice([*scenarios(0.0), *single_floods(), "all"]))
@click.option("--rate", type=click.IntRange(50, 5000), default=500, show_default=True, help="Requests per second.")
@gateway_env_option
def main(name: str, rate: int, gateway_env: Mapping[str, str]) -> None:
    """Run SCENARIO: kill, freeze, errors, flap, dead, budget, bulkhead, floods, workers,
    reload, hangups, drain, latency, ramp, websockets, soak (ten minutes), or all of these in turns.

    floods is every flood in turns; flood-ping and so on, one of them.

    The exit status is 1 if a request was lost or a bound missed.
    """
    signal.signal(signal.SIGTERM, _leave)
    known = scenarios(rate)
    chosen = known if name == "all" else {name: {**known, **single_floods()}[name]}
    reports = [_run(one, scenario, gateway_env) for one, scenario in chosen.items()]
    if len(reports) > 1:
        click.echo("## all\n")
        print_table(["scenario", "requests", "lost", "bounds", "missed"], [_summary(report) for report in reports])
    if any(report.missed for report in reports):
        sys.exit(1)


def _run(name: str, scenario: _Scenario, env: Mapping[str, str]) -> Report:
    click.echo(f"## {name}\n")
    with tempfile.TemporaryDirectory(prefix="load-") as directory:
        try:
            report = scenario(Path(directory), env)
        except AssertionError as exc:  # the gateway or a target did not start, or not stop, as it should
            report = Report(name)
            report.bound("the processes do what they are told", is_kept=False, seen=str(exc).partition("\n")[0])
            click.echo(f"{exc}\n", err=True)
    report.print()
    return report


def _summary(report: Report) -> list[str]:
    return [
        report.scenario,
        f"{report.requests:,}",
        "not counted" if report.lost is None else f"{report.lost.total():,}",
        f"{len(report.bounds)}",
        "; ".join(report.missed),
    ]


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(1)  # leaves through the context managers, which stop what was started


if __name__ == "__main__":
    main(prog_name="python -m tests.load")
