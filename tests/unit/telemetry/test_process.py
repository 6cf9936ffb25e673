"""The process's own metrics agree with those of the client library, and with a kernel that does not tell all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector

from txgateway.telemetry.exposition import Family, render
from txgateway.telemetry.process import process_families


def values(families: list[Family]) -> dict[str, object]:
    lines = b"".join(render(families, is_openmetrics=False)).decode("ascii").splitlines()
    return {name: float(value) for name, value in (line.split(" ") for line in lines if not line.startswith("#"))}


def test_names_types_and_values_are_the_librarys() -> None:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    theirs = {family.name: family for family in registry.collect()}
    ours = {family.name: family for family in process_families()}
    assert {name: family.type for name, family in ours.items()} == {name: one.type for name, one in theirs.items()}
    assert {name: family.help for name, family in ours.items()} == {
        name: one.documentation for name, one in theirs.items()
    }
    found = values(list(ours.values()))
    expected = {one.name: one.value for family in theirs.values() for one in family.samples}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        exact = name in {"process_start_time_seconds", "process_max_fds"}
        assert found[name] == pytest.approx(value, rel=1e-9 if exact else 0.3, abs=2.0), name


def fake_proc(directory: Path, descriptors: int) -> Path:
    (directory / "self/fd").mkdir(parents=True)
    fields = ["S", *(str(number) for number in range(4, 53))]
    (directory / "self/stat").write_text(f"17 (a) b) {' '.join(fields)}\n", "ascii")
    (directory / "stat").write_text("cpu 1 2\nbtime 1700000000\n", "ascii")
    for number in range(descriptors):
        (directory / f"self/fd/{number}").touch()
    return directory


def test_fields_are_counted_behind_a_name_with_brackets(tmp_path: Path) -> None:
    found = values(list(process_families(fake_proc(tmp_path, 3))))
    ticks = os.sysconf("SC_CLK_TCK")
    # Numbers of proc(5): 14 and 15 are times, 22 the start, 23 the virtual size, 24 the resident pages.
    assert found["process_cpu_seconds_total"] == pytest.approx((14 + 15) / ticks)
    assert found["process_start_time_seconds"] == pytest.approx(1700000000 + 22 / ticks)
    assert found["process_virtual_memory_bytes"] == 23
    assert found["process_resident_memory_bytes"] == 24 * os.sysconf("SC_PAGE_SIZE")


def test_without_the_kernels_count_descriptors_are_counted_a_few_at_a_time(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 0)
    (proc / "self/fd").rmdir()
    (proc / "self/fd").symlink_to("/proc/sys/kernel")  # of no size either, as descriptors before Linux 6.2
    (family,) = (one for one in process_families(proc) if one.name == "process_open_fds")
    rows: list[Any] = list(family.rows)
    count = len(list(Path("/proc/sys/kernel").iterdir()))
    assert rows[-1] == ((), count - 1)  # less the one that it takes to look
    assert rows[:-1] == [None] * (1 + (count - 1) // 256)


def test_without_proc_there_are_none(tmp_path: Path) -> None:
    assert list(process_families(tmp_path)) == []
