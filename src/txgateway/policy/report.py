"""What came of the cases: for people, and as a tree of JSON values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from txgateway.columns import columns
from txgateway.policy.compare import Seen, seconds_text, shown
from txgateway.policy.run import CaseFailure, CaseResult, FileResult
from txgateway.telemetry.lines import text_line
from txgateway.testing.backends import Received

#: What differs from run to run, and tells nothing here.
_PASSING: Final = frozenset({"request_id"})
#: Requests at backends that are shown.
_MAX_RECEIVED: Final = 10


def lines(results: Sequence[FileResult]) -> Iterator[str]:
    """A line for each case that has passed, some for each that has not, and a summary."""
    for file in results:
        yield file.name
        for case in file.cases:
            yield f"  {'ok  ' if case.failure is None else 'FAIL'}  {case.name}  ({seconds_text(case.virtual_s)})"
            if case.failure is not None:
                yield from (f"        {line}" for line in failure_lines(case.failure))
    yield summary(results)


def summary(results: Sequence[FileResult]) -> str:
    """Counts, and the virtual time that passed."""
    cases = [case for file in results for case in file.cases]
    failed = sum(file.failed for file in results)
    passed = f"{len(cases) - failed} passed" + (f", {failed} failed" if failed else "")
    return f"{passed}; {seconds_text(sum(case.virtual_s for case in cases))} of virtual time"


def failure_lines(failure: CaseFailure) -> Iterator[str]:
    """Which request it was, what is not as expected, the line of the log, and what backends have received."""
    turn = f", request {failure.turn} of {failure.of}" if failure.of > 1 else ""
    yield f"step {failure.number} ({failure.place}){turn}: {failure.request}"
    rows = [(one.field, one.expected, one.got) for one in failure.differences]
    yield from columns([("", "expected", "got"), *rows], "  ")
    log = {name: value for name, value in failure.seen.log.items() if name not in _PASSING and value is not None}
    if log:
        yield f"log: {text_line(log).decode('utf-8').rstrip()}"
    yield from (f"logged: {shown(fault)}" for fault in failure.seen.faults)
    received = failure.seen.received
    if not received:
        yield "backends: nothing received"
    if len(received) > _MAX_RECEIVED:
        yield f"backends: {len(received)} requests, the last of which are"
    for name, request in received[-_MAX_RECEIVED:]:
        yield f"backend {name} at {request.place}: {_text(request.method)} {shown(_text(request.target))}"
        yield from (f"  {field}: {value}" for field, value in _fields(request, failure.seen))
        if request.body:
            yield f"  body: {shown(_text(request.body))}"


def as_tree(results: Sequence[FileResult]) -> dict[str, Any]:
    """The same as JSON values."""
    cases = [case for file in results for case in file.cases]
    failed = sum(file.failed for file in results)
    return {
        "ok": not failed,
        "passed": len(cases) - failed,
        "failed": failed,
        "virtual_s": round(sum(case.virtual_s for case in cases), 3),
        "files": [{"file": file.name, "cases": [_case(case) for case in file.cases]} for file in results],
    }


def _case(case: CaseResult) -> dict[str, Any]:
    failure = None if case.failure is None else _failure(case.failure)
    return {
        "name": case.name,
        "where": case.place,
        "ok": failure is None,
        "virtual_s": round(case.virtual_s, 3),
        "failure": failure,
    }


def _failure(failure: CaseFailure) -> dict[str, Any]:
    return {
        "where": failure.place,
        "step": failure.number,
        "request": failure.request,
        "turn": failure.turn,
        "of": failure.of,
        "differences": [{"field": one.field, "expected": one.expected, "got": one.got} for one in failure.differences],
        "log": dict(failure.seen.log),
        "faults": list(failure.seen.faults),
        "received": [_received(name, request, failure.seen) for name, request in failure.seen.received],
    }


def _received(name: str, request: Received, seen: Seen) -> Mapping[str, Any]:
    return {
        "backend": name,
        "target": request.place,
        "method": _text(request.method),
        "path": _text(request.target),
        "headers": [list(pair) for pair in _fields(request, seen)],
        "body": _text(request.body),
    }


def _fields(request: Received, seen: Seen) -> Iterator[tuple[str, str]]:
    """The header as text, without what differs from run to run."""
    for name, value in request.headers:
        is_id = bool(value) and _text(value) == seen.log.get("request_id")
        yield _text(name), "(id of the request)" if is_id else shown(_text(value))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
