"""Command line options that several benchmarks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from bench.peers import PEERS

_F = TypeVar("_F", bound=Callable[..., Any])
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def _proxies(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in names:
        if name not in PEERS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(PEERS)}")
    return names


def _environment(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    environment = {}
    for value in values:
        name, equals, setting = value.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE")
        environment[name] = setting
    return environment


def _size(_context: click.Context, _parameter: click.Parameter, value: str) -> int:
    for unit, factor in _UNITS.items():
        if value.endswith(unit) and value.removesuffix(unit).isdecimal():
            return int(value.removesuffix(unit)) * factor
    if value.isdecimal():
        return int(value)
    raise click.BadParameter(f"{value!r} is not a size such as 64MiB")


def proxies_option(default: Sequence[str]) -> Callable[[_F], _F]:
    """``--proxies a,b,c``, as a tuple of known names without repetition."""
    return click.option(
        "--proxies",
        default=",".join(default),
        show_default=True,
        callback=_proxies,
        help="Comma separated; the others are compared with the first.",
    )


gateway_env_option = click.option(
    "--gateway-env", multiple=True, callback=_environment, metavar="NAME=VALUE", help="Setting of the gateway; repeat."
)
json_option = click.option(
    "--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file too."
)


def size_option_of(default: str) -> Callable[[_F], _F]:
    """``--size``, in bytes."""
    return click.option(
        "--size",
        "size_bytes",
        default=default,
        show_default=True,
        callback=_size,
        help="Body size: bytes, KiB, MiB, GiB.",
    )


size_option = size_option_of("1GiB")
