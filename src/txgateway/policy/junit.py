"""Results as JUnit XML, as far as what reads it agrees on it: testsuites, testsuite, testcase, failure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from txgateway.policy.report import failure_lines
from txgateway.policy.run import CaseResult, FileResult

#: What XML 1.0 cannot hold, not even escaped (section 2.2).
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(results: Sequence[FileResult]) -> bytes:
    """A document with a suite for each file. Times are real seconds, for it is these that CI systems add up."""
    cases = [case for file in results for case in file.cases]
    root = Element("testsuites", {"name": "txgateway test", **_counts(cases)})
    for file in results:
        suite = SubElement(root, "testsuite", {"name": _clean(file.name), **_counts(file.cases), "skipped": "0"})
        for case in file.cases:
            _add_case(suite, file.name, case)
    indent(root)
    return bytes(tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _counts(cases: Sequence[CaseResult]) -> dict[str, str]:
    return {
        "tests": str(len(cases)),
        "failures": str(sum(case.failure is not None for case in cases)),
        "errors": "0",
        "time": _seconds(sum(case.real_s for case in cases)),
    }


def _add_case(suite: Element, file: str, case: CaseResult) -> None:
    names = {"name": _clean(case.name), "classname": _clean(file)}
    element = SubElement(suite, "testcase", {**names, "time": _seconds(case.real_s)})
    if case.failure is None:
        return
    first = case.failure.differences[0]
    message = f"{case.failure.place}: {first.field}: expected {first.expected}, got {first.got}"
    failure = SubElement(element, "failure", {"message": _clean(message), "type": "difference"})
    failure.text = _clean("\n".join(failure_lines(case.failure)))


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
