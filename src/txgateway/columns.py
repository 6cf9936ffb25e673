"""Values and columns as a command line prints them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson


def value_text(value: Any) -> str:
    """A value on one line, as a variable would have it; ``-`` for nothing."""
    if value is None or value in ("", []):
        return "-"
    if isinstance(value, list) and all(isinstance(element, str) for element in value):
        value = ",".join(value)
    return value if isinstance(value, str) and value.isprintable() else orjson.dumps(value).decode("utf-8")


def columns(rows: Iterable[Sequence[str]], indent: str = "") -> Iterator[str]:
    """Lines of rows of equally many cells; each column but the last is as wide as its widest cell."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row[:-1], widths[:-1], strict=True)]
        yield (indent + "  ".join((*cells, row[-1]))).rstrip()


def setting_rows(entries: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """Setting, value and source."""
    for key, entry in entries.items():
        yield key, value_text(entry["value"]), entry["source"]
