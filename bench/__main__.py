"""``python -m bench``: the comparison with the peers, and the special measurements as subcommands."""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

import click
from click.core import ParameterSource

from bench import report
from bench.bodies import bodies
from bench.compare import compare
from bench.driver import driver
from bench.http2 import http2
from bench.idle import idle
from bench.limits import limits
from bench.load import CONNECTIONS, SHAPES
from bench.observe import observe
from bench.options import gateway_env_option, json_option, proxies_option
from bench.outage import outage
from bench.peers import GATEWAY_REDIS, PEERS
from bench.processes import require_cores
from bench.routes import routes
from bench.scrape import scrape
from bench.stale import stale


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Turns of each proxy.")
@click.option("--seconds", type=click.IntRange(1, 600), default=5, show_default=True, help="Length of a run.")
@click.option("--shape", type=click.Choice(list(SHAPES)), default="small", show_default=True, help="The request.")
@click.option(
    "--case", type=click.Choice(["bare", "log", "secured"]), default="bare", show_default=True, help="What it does."
)
@proxies_option(tuple(name for name in PEERS if name != GATEWAY_REDIS))
@gateway_env_option
@json_option
@click.pass_context
def main(
    context: click.Context,
    /,
    rounds: int,
    seconds: int,
    shape: str,
    case: str,
    proxies: tuple[str, ...],
    gateway_env: Mapping[str, str],
    json_path: Path | None,
) -> None:
    """Compare the gateway with its peers: CPU per request, one core each, in turns."""
    signal.signal(signal.SIGTERM, _leave)
    require_cores()
    if context.invoked_subcommand is not None:
        if any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in context.params):
            raise click.UsageError(f"options of the comparison before {context.invoked_subcommand!r}")
        return
    results = compare(proxies, rounds=rounds, seconds=seconds, shape=shape, case=case, gateway_env=gateway_env)
    rows = report.summarize(results)
    settings = {
        "case": case,
        "shape": shape,
        "connections": CONNECTIONS,
        "seconds": seconds,
        "gateway_env": gateway_env,
    }
    click.echo(", ".join(f"{name} {value}" for name, value in settings.items() if value))
    report.print_comparison(rows)
    if json_path is not None:
        report.write_json(json_path, benchmark="compare", **settings, summary=rows, rounds=results)


def _leave(_signal: int, _frame: FrameType | None) -> None:
    sys.exit(1)  # leaves through the context managers, which stop what was started


for command in (bodies, driver, http2, idle, limits, observe, outage, routes, scrape, stale):
    main.add_command(command)

if __name__ == "__main__":
    main(prog_name="python -m bench")
