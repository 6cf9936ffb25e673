"""The ``txgateway`` command: looks at a configuration without starting anything.

Problems go to standard error, one a line; what was asked for goes to standard output, as text or as one JSON object.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import orjson

from txgateway import __version__
from txgateway.columns import columns, setting_rows
from txgateway.config import EX_CONFIG, Configuration, ConfigurationError, Problem, load
from txgateway.config.syntax import is_ip_address
from txgateway.resources import check_resources

if TYPE_CHECKING:
    from txgateway.policy import WrongFiles

_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="txgateway")
def main() -> None:
    """Look at the gateway's configuration, which is taken from the environment, or test one."""


@main.command()
@click.option("--strict", is_flag=True, help="Treat warnings as errors.")
@_AS_JSON
def check(strict: bool, as_json: bool) -> None:
    """Judge the configuration: exit status 0 if it can be used, 78 if not."""
    problems, warnings = _judge()
    is_ok = not problems and not (strict and warnings)
    for problem in problems:
        click.echo(str(problem), err=True)
    if as_json:
        told = [{"where": problem.where, "value": problem.value, "message": problem.message} for problem in problems]
        _print_json({"ok": is_ok, "problems": told, "warnings": list(warnings)})
    elif not problems:
        click.echo("configuration ok" if is_ok else "configuration has warnings")
        for warning in warnings:
            click.echo(f"warning: {warning}")
    raise SystemExit(0 if is_ok else EX_CONFIG)


@main.command()
@_AS_JSON
def config(as_json: bool) -> None:
    """Print every setting with its value and where it came from; secrets are masked."""
    try:
        effective = _load().effective()
    except ConfigurationError as exc:
        _refuse(exc)
    if as_json:
        _print_json(effective)
    else:
        click.echo("\n".join(_lines(effective)))


@main.command()
@click.argument("method")
@click.argument("url")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header field; repeatable.")
@click.option("--client-ip", default="127.0.0.1", show_default=True, help="Address that the request comes from.")
@_AS_JSON
def explain(method: str, url: str, headers: tuple[str, ...], client_ip: str, as_json: bool) -> None:
    """Tell what would become of a request, and why; nothing is sent. Exit status 0 with a route, 1 without."""
    from txgateway import explain as explanation  # half of the gateway, which the other commands do without

    if not is_ip_address(client_ip):
        raise click.BadParameter("expected an IP address", param_hint="--client-ip")
    try:
        configuration = _load()
        check_resources(configuration)
    except ConfigurationError as exc:
        _refuse(exc)
    asked = explanation.Asked(method, url, headers, client_ip)
    told = explanation.explain(configuration, explanation.still_pipeline(configuration), asked)
    if as_json:
        _print_json(told)
    else:
        click.echo("\n".join(explanation.lines(told)))
    raise SystemExit(0 if told["route"] is not None else 1)


@main.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-k", "text", default="", metavar="TEXT", help="Only cases with TEXT in their names, in whatever case.")
@click.option(
    "--junit", type=click.Path(dir_okay=False, writable=True), metavar="FILE", help="Write JUnit XML as well."
)
@_AS_JSON
def test(files: tuple[str, ...], text: str, junit: str | None, as_json: bool) -> None:
    """Run files of cases: requests against a configuration in memory and in virtual time, and what they expect.

    Exit status 0 if all cases pass, 1 if some fail, 78 if a file or its configuration is wrong. Variables of this
    process count for nothing here: a file has its own.
    """
    from txgateway import policy  # the whole gateway, which the other commands do without

    try:
        found = policy.read_files(files)
    except policy.WrongFiles as exc:
        _refuse_files(exc, as_json)
    chosen = [(file, file.chosen(text)) for file in found]
    if not any(cases for _, cases in chosen):
        raise click.BadParameter(f"no case has {text!r} in its name", param_hint="-k")
    results = [policy.run_file(file, cases) for file, cases in chosen if cases]
    if as_json:
        _print_json(policy.as_tree(results))
    else:
        click.echo("\n".join(policy.lines(results)))
    if junit is not None:
        _write(junit, policy.junit_xml(results))
    raise SystemExit(1 if any(result.failed for result in results) else 0)


def _refuse_files(error: WrongFiles, as_json: bool) -> NoReturn:
    for one in error.problems:
        click.echo(str(one), err=True)
    if as_json:
        told = [
            {"file": one.file, "where": one.problem.where, "value": one.problem.value, "message": one.problem.message}
            for one in error.problems
        ]
        _print_json({"ok": False, "problems": told})
    raise SystemExit(EX_CONFIG)


def _write(path: str, content: bytes) -> None:
    try:
        Path(path).write_bytes(content)
    except OSError as exc:
        raise click.FileError(path, exc.strerror or "cannot be written") from exc


def _load() -> Configuration:
    return load(os.environ)


def _judge() -> tuple[tuple[Problem, ...], tuple[str, ...]]:
    try:
        configuration = _load()
        check_resources(configuration)
    except ConfigurationError as exc:
        return exc.problems, ()
    return (), configuration.cautions


def _refuse(error: ConfigurationError) -> NoReturn:
    for problem in error.problems:
        click.echo(str(problem), err=True)
    raise SystemExit(EX_CONFIG)


def _print_json(value: Mapping[str, Any]) -> None:
    click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2))


def _lines(effective: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The effective configuration as aligned columns: setting, value, source."""
    yield from _table("settings", effective["settings"])
    for kind in ("backends", "middlewares", "routes"):
        for name, entries in effective[kind].items():
            yield ""
            yield from _table(f"{kind}.{name}", entries)


def _table(title: str, entries: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield f"[{title}]"
    yield from columns(setting_rows(entries))
