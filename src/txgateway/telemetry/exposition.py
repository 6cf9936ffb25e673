"""How metrics are written for a scraper: Prometheus text 0.0.4 and 1.0.0, OpenMetrics 0.0.1 and 1.0.0.

The client library takes 13 µs for a line, and all of its lines at once. Here a line takes less than one, and the text
comes in small pieces, between which the reactor may do other things. What is counted meanwhile may be in a later piece,
but what belongs together, such as a histogram's buckets and their count, is read in one go.

No ``_created`` series: they are optional, and would double the counters' lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, islice
from typing import Literal, Protocol, TypeAlias

from attrs import frozen

from txgateway.telemetry.cells import BUCKETS_S, Exemplar

#: Rows of a piece: a fraction of a millisecond.
ROWS_AT_ONCE = 16
#: Characters of an exemplar's label set, with its name (OpenMetrics 1.0.0, exemplars).
MAX_EXEMPLAR = 128

_BOUNDS = (*(repr(bound_s) for bound_s in BUCKETS_S), "+Inf")
#: Where the labels go.
_HERE = "\0"
_TEXT = "text/plain"
_OPENMETRICS = "application/openmetrics-text"
_VERSIONS = {_TEXT: ("0.0.4", "1.0.0"), _OPENMETRICS: ("1.0.0", "0.0.1")}
#: Ways to escape names (Prometheus 3) that leave ours as they are; ``dots`` would double their underscores.
_ESCAPING = frozenset({"allow-utf-8", "underscores", "values"})
_QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class Histogram(Protocol):
    """Counts of durations between :data:`BUCKETS_S`, not cumulative, with an example of each."""

    @property
    def buckets(self) -> list[int]: ...
    @property
    def sum_s(self) -> float: ...
    @property
    def exemplars(self) -> Sequence[Exemplar | None] | None: ...


#: Label values and what was counted; None is a moment at which others may have their turn.
Row: TypeAlias = tuple[tuple[str, ...], "float | Histogram"] | None


@frozen
class Family:
    """Metrics of one name.

    Attributes:
        name: without the ``_total`` of counters; one of a unit ends in it.
        labels: their names.
        rows: made while they are written; the values of one row are of one moment.
        merged: how the values of several processes become one; counters and histograms are always summed.
    """

    name: str
    type: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...]
    rows: Iterable[Row]
    unit: str = ""
    merged: Literal["sum", "max", "min"] = "sum"


def negotiate(accept: bytes) -> tuple[bytes, bool]:
    """Content type for an ``Accept`` header value, and whether that is OpenMetrics.

    Of what is known here, the one that is wanted most; of equals the first. Prometheus text for all others.
    """
    best, best_quality = (_TEXT, "0.0.4", ""), 0.0
    for element in accept.decode("latin-1").split(","):
        media_type, *parameters = element.lower().split(";")
        values = {name.strip(): value.strip().strip('"') for name, _, value in (p.partition("=") for p in parameters)}
        quality = values.get("q", "1")
        found = _known(media_type.strip(), values)
        if found is not None and _QUALITY.fullmatch(quality) and float(quality) > best_quality:
            best, best_quality = found, float(quality)
    media_type, version, escaping = best
    content_type = f"{media_type}; version={version}; charset=utf-8{escaping}"
    return content_type.encode("ascii"), media_type == _OPENMETRICS


def _known(media_type: str, parameters: dict[str, str]) -> tuple[str, str, str] | None:
    if media_type in {"*/*", "text/*"}:
        return _TEXT, "0.0.4", ""
    versions = _VERSIONS.get(media_type, ())
    version = parameters.get("version", versions[0] if versions else "")
    if version not in versions:
        return None
    escaping = parameters.get("escaping")
    is_told = version == "1.0.0" and escaping in _ESCAPING
    return media_type, version, f"; escaping={escaping}" if is_told else ""


def accepts_gzip(accept_encoding: bytes) -> bool:
    """Whether an ``Accept-Encoding`` header value asks for gzip, and for nothing rather than for that."""
    qualities: dict[str, float] = {}
    for element in accept_encoding.decode("latin-1").lower().split(","):
        coding, _, parameter = element.partition(";")
        quality = parameter.partition("=")[2].strip() if parameter.strip() else "1"
        qualities[coding.strip()] = float(quality) if _QUALITY.fullmatch(quality) else 0.0
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


def render(families: Iterable[Family], *, is_openmetrics: bool) -> Iterator[bytes]:
    """The lines of all families in pieces, some of them empty."""
    for family in families:
        yield _head(family, is_openmetrics)
        write = _Lines(family, is_openmetrics).write
        rows = iter(family.rows)
        while some := list(islice(rows, ROWS_AT_ONCE)):
            yield "".join([write(*row) for row in some if row is not None]).encode("utf-8", "replace")


def _head(family: Family, is_openmetrics: bool) -> bytes:
    name, text = family.name, family.help.replace("\\", r"\\").replace("\n", r"\n")
    unit = ""
    if is_openmetrics:
        text = text.replace('"', r"\"")
        unit = f"# UNIT {name} {family.unit}\n" if family.unit else ""
    elif family.type == "counter":
        name += "_total"
    return f"# TYPE {name} {family.type}\n{unit}# HELP {name} {text}\n".encode()


class _Lines:
    """Writes the rows of one family: what all rows have in common is put together once."""

    def __init__(self, family: Family, is_openmetrics: bool) -> None:
        self._labels = ",".join(f'{name}="%s"' for name in family.labels)
        self._has_exemplars = is_openmetrics
        self._sample = f"{family.name}_total" if family.type == "counter" else family.name
        more, whole = (f"{{{_HERE},", f"{{{_HERE}}}") if family.labels else ("{", "")
        buckets = (f'{family.name}_bucket{more}le="{bound}"}} %s\n' for bound in _BOUNDS)
        self._histogram = f"{''.join(buckets)}{family.name}_count{whole} %s\n{family.name}_sum{whole} %s\n"

    def write(self, values: tuple[str, ...], value: float | Histogram) -> str:
        """The lines of one row."""
        labels = self._labels % tuple(map(escaped, values))
        if isinstance(value, float | int):
            return f"{self._sample}{{{labels}}} {number(value)}\n" if labels else f"{self._sample} {number(value)}\n"
        counts = list(accumulate(value.buckets))
        shown: list[object] = [*counts]
        exemplars = value.exemplars if self._has_exemplars else None
        if exemplars is not None:
            shown = [f"{count}{_example(exemplar)}" for count, exemplar in zip(counts, exemplars, strict=True)]
        return self._histogram.replace(_HERE, labels.replace("%", "%%")) % (*shown, counts[-1], number(value.sum_s))


def _example(exemplar: Exemplar | None) -> str:
    if exemplar is None or len(exemplar[0]) + len("trace_id") > MAX_EXEMPLAR:
        return ""
    trace_id, seconds, at_s = exemplar
    moment = "" if at_s is None else f" {at_s:.3f}"
    return f' # {{trace_id="{escaped(trace_id)}"}} {number(seconds)}{moment}'


def escaped(value: str) -> str:
    """A label value as it stands between quotes."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def number(value: float) -> str:
    """A value as both formats write it."""
    if isinstance(value, int):
        return str(int(value))  # bool is an int
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
